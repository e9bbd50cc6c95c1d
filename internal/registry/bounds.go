package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a registry may answer with. A manifest has 4 MiB at most ([maxManifest]);
// these bound what could be made to follow from it.
const (
	// maxLayers is far above what runs: Docker stacks 127 layers, and overlayfs,
	// which containerd and BuildKit use, takes 500.
	maxLayers = 1000
	// maxConfig bounds a config: that of an image with 500 layers and long labels
	// has 200 KB.
	maxConfig = 8 << 20
	// maxPlatforms bounds the images of an index; official ones have about 20.
	maxPlatforms = 1000
	// maxDepth is how deep indexes may be nested, and maxNested how many are looked
	// into for one platform.
	maxDepth  = 4
	maxNested = 64
	// maxTags bounds a list of tags, and maxReferrers one of what is attached to a
	// manifest.
	maxTags      = 1_000_000
	maxReferrers = 100_000
	// maxIdlePages is how many pages of a list may bring nothing new; some
	// registries end a list with an empty page.
	maxIdlePages = 3
)

// described is what a manifest says of its parts.
type described struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// checkParts refuses a manifest that asks for more than any image needs.
func checkParts(mediaType string, body []byte) error {
	var d described
	if err := json.Unmarshal(body, &d); err != nil {
		return fmt.Errorf("the manifest is not JSON as it should be: %w", err)
	}
	if IsIndex(mediaType) {
		images := 0
		for _, m := range d.Manifests {
			if m.Platform != nil && isManifestType(m.MediaType) {
				images++
			}
		}
		if images > maxPlatforms {
			return fmt.Errorf("the index has %d images, more than %d", images, maxPlatforms)
		}
		return nil
	}
	if d.Config == nil || d.Config.MediaType != ocispec.MediaTypeImageConfig && d.Config.MediaType != mediaTypeDockerConfig {
		return nil // an artifact
	}
	switch {
	case len(d.Layers) > maxLayers:
		return fmt.Errorf("the image has %d layers, more than %d; none that runs has", len(d.Layers), maxLayers)
	case d.Config.Size > maxConfig:
		return fmt.Errorf("the image's config has %d bytes, more than %d", d.Config.Size, maxConfig)
	case d.Config.Size < 0:
		return errors.New("the image's config has a negative size")
	}
	for i, l := range d.Layers {
		if l.Size < 0 || l.Size == 0 && l.Digest != digest.Canonical.FromString("") {
			return fmt.Errorf("layer %d of the image has a size of %d bytes", i+1, l.Size)
		}
	}
	return nil
}

const mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"

// Choose picks the manifest of one platform out of an index that is at at; where
// indexes stand in it, out of these.
func (c *Client) Choose(ctx context.Context, at Ref, index []byte, platform string) (ocispec.Descriptor, error) {
	s := &choice{client: c, at: at, platform: platform, seen: map[digest.Digest]bool{}}
	return s.in(ctx, index, 1)
}

// choice is the search for one platform.
type choice struct {
	client   *Client
	at       Ref
	platform string
	seen     map[digest.Digest]bool
}

func (s *choice) in(ctx context.Context, index []byte, depth int) (ocispec.Descriptor, error) {
	child, missing := PlatformOf(index, s.platform)
	if missing == nil && !IsIndex(child.MediaType) {
		return child, nil
	}
	inner := []ocispec.Descriptor{child}
	if missing != nil {
		var d described
		if err := json.Unmarshal(index, &d); err != nil {
			return child, fmt.Errorf("reading the index: %w", err)
		}
		inner = nil
		for _, m := range d.Manifests {
			if m.Platform == nil && IsIndex(m.MediaType) {
				inner = append(inner, m)
			}
		}
	}
	for _, m := range inner {
		if s.seen[m.Digest] {
			continue
		}
		s.seen[m.Digest] = true
		switch {
		case depth == maxDepth:
			return child, fmt.Errorf("indexes are nested more than %d deep", maxDepth)
		case len(s.seen) > maxNested:
			return child, fmt.Errorf("more than %d indexes are nested in it", maxNested)
		}
		a := s.client.Lookup(ctx, s.at.WithDigest(m.Digest))
		if a.Err != nil {
			return child, a.Err
		}
		if !IsIndex(a.Desc.MediaType) {
			if missing == nil {
				return a.Desc, nil
			}
			continue
		}
		found, err := s.in(ctx, a.Body, depth+1)
		if err == nil || !errors.Is(err, errNoPlatform) {
			return found, err
		}
	}
	if missing == nil {
		missing = fmt.Errorf("%w for %s", errNoPlatform, s.platform)
	}
	return child, missing
}

// errNoPlatform says that an index has no image for a platform.
var errNoPlatform = errors.New("there is no image")

// progressing counts the pages of a list that bring nothing new.
type progressing struct {
	idle int
	most int // entries
}

// page notes a page with so many new entries, of which there are total now, and
// says what is wrong with going on.
func (p *progressing) page(fresh, total int) error {
	if p.idle++; fresh > 0 {
		p.idle = 0
	}
	switch {
	case total > p.most:
		return fmt.Errorf("the list has more than %d entries", p.most)
	case p.idle >= maxIdlePages:
		return errors.New("the list has no end: its pages bring nothing new")
	}
	return nil
}
