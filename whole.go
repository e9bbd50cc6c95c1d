package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
)

// manifest is one that a tag is to point to.
type manifest struct {
	name   string       // for messages: "ghcr.io/user/app:1.4.0-cpu"
	repo   registry.Ref // that has to hold it and all that it names
	answer registry.Answer
}

// missing looks whether manifests are whole: the manifest, its config and every
// blob, and so with the children of indexes. It gives a line for each thing that
// is not there, and asks by HEAD where there is nothing to read.
func missing(ctx context.Context, c *registry.Client, of []manifest) ([]string, error) {
	var gone []string
	blobs := map[registry.Ref]blobOf{}
	seen, asked := map[registry.Ref]bool{}, map[registry.Ref]bool{}
	for depth := 0; len(of) > 0; depth++ {
		var next []manifest
		for _, m := range of {
			switch m.answer.State {
			case registry.Failed:
				if why, is := damaged(m.answer.Err); is {
					gone = append(gone, m.name+" "+why)
					continue
				}
				return nil, fmt.Errorf("looking up %s: %w", m.name, m.answer.Err)
			case registry.Miss:
				gone = append(gone, m.name+": it is not there")
				continue
			}
			at := m.repo.WithDigest(m.answer.Desc.Digest)
			if seen[at] {
				continue
			}
			seen[at] = true
			children, err := m.parts(blobs)
			if err != nil {
				gone = append(gone, fmt.Sprintf("%s: %v", m.name, err))
			}
			if depth == mostNested && len(children) > 0 {
				gone = append(gone, fmt.Sprintf("%s: indexes are nested more than %d deep", m.name, mostNested))
				continue
			}
			for _, child := range children { // several indexes may name one
				if at := child.repo.WithDigest(child.answer.Desc.Digest); !asked[at] {
					asked[at] = true
					next = append(next, child)
				}
			}
		}
		if len(next) > 0 {
			refs := make([]registry.Ref, len(next))
			for i, m := range next {
				refs[i] = m.repo.WithDigest(m.answer.Desc.Digest)
			}
			for i, a := range c.Probe(ctx, refs) {
				next[i].answer = a
			}
		}
		of = next
	}
	without, err := missingBlobs(ctx, c, blobs)
	return append(gone, without...), err
}

// mostNested is how deep indexes may be nested; nobody nests them deeper than two.
const mostNested = 4

// blobOf is a blob and the name of an image that needs it.
type blobOf struct {
	desc ocispec.Descriptor
	name string
}

// parts gives the children of an index, which are still to be looked up, and
// notes the blobs of an image.
func (m manifest) parts(blobs map[registry.Ref]blobOf) ([]manifest, error) {
	if registry.IsIndex(m.answer.Desc.MediaType) {
		var idx ocispec.Index
		if err := json.Unmarshal(m.answer.Body, &idx); err != nil {
			return nil, fmt.Errorf("reading the index: %w", err)
		}
		var out []manifest
		for _, d := range idx.Manifests {
			name := m.name + " (" + shortOf(d) + ")"
			out = append(out, manifest{name, m.repo, registry.Answer{Desc: d}})
		}
		return out, nil
	}
	var img ocispec.Manifest
	if err := json.Unmarshal(m.answer.Body, &img); err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	for _, d := range append([]ocispec.Descriptor{img.Config}, img.Layers...) {
		if d.Digest != "" && len(d.URLs) == 0 { // what has URLs may be elsewhere (image specification, foreign layers)
			blobs[m.repo.WithDigest(d.Digest)] = blobOf{d, m.name}
		}
	}
	return nil, nil
}

// shortOf names the child of an index.
func shortOf(d ocispec.Descriptor) string {
	if d.Platform != nil {
		return d.Platform.OS + "/" + d.Platform.Architecture
	}
	return d.Digest.String()
}

func missingBlobs(ctx context.Context, c *registry.Client, blobs map[registry.Ref]blobOf) ([]string, error) {
	var mu sync.Mutex
	var gone []string
	err := each(ctx, blobs, 16, func(ctx context.Context, at registry.Ref, b blobOf) error {
		there, err := c.HasBlob(ctx, at.Repository(), b.desc)
		why := "is not there"
		if text, is := damaged(err); is {
			there, err, why = false, nil, text
		}
		if err != nil {
			return err
		}
		if !there {
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, fmt.Sprintf("%s: its blob %s %s", b.name, b.desc.Digest, why))
		}
		return nil
	})
	slices.Sort(gone)
	return gone, err
}

// damaged says whether an error means that what is there is not what it should be.
func damaged(err error) (string, bool) {
	var e *registry.Error
	if errors.As(err, &e) && e.Kind == registry.Invalid {
		return "is damaged: " + e.Error(), true
	}
	return "", false
}
