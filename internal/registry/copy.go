package registry

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// CopyImage copies what from names, all platforms of an index, to another
// repository, and gives its descriptor. Blobs are mounted where both are on
// one registry; elsewhere they are streamed, unless they are there already.
// The tag moves last.
func (c *Client) CopyImage(ctx context.Context, from, to Ref) (ocispec.Descriptor, error) {
	return c.copyImage(ctx, from, to, map[digest.Digest]bool{}, 0)
}

// copyImage is CopyImage of what is depth indexes deep. What was copied is not
// copied again: a few indexes can name each other's children without number.
func (c *Client) copyImage(ctx context.Context, from, to Ref, done map[digest.Digest]bool, depth int) (ocispec.Descriptor, error) {
	a := c.Lookup(ctx, from)
	switch {
	case a.Err != nil:
		return a.Desc, a.Err
	case depth >= maxDepth && IsIndex(a.Desc.MediaType):
		return a.Desc, invalid("copying", from, "indexes are nested more than %d deep", maxDepth)
	}
	if err := c.copyChildren(ctx, a.Source, to, a.Desc.MediaType, a.Body, done, depth); err != nil {
		return a.Desc, err
	}
	if to.Digest == "" && to.Tag == "" {
		to.Tag = from.Tag
	}
	return c.PutManifest(ctx, to, a.Desc.MediaType, a.Body)
}

// maxCopies bounds the blobs that are copied at once; more only compete for
// the same line.
const maxCopies = 4

func (c *Client) copyChildren(ctx context.Context, from, to Ref, mediaType string, body []byte, done map[digest.Digest]bool, depth int) error {
	var m described
	if err := json.Unmarshal(body, &m); err != nil {
		return invalid("copying", from, "%v", err)
	}
	if IsIndex(mediaType) {
		for _, child := range m.Manifests {
			if done[child.Digest] {
				continue
			}
			if done[child.Digest] = true; len(done) > maxPlatforms {
				return invalid("copying", from, "it has more than %d images", maxPlatforms)
			}
			if _, err := c.copyImage(ctx, from.WithDigest(child.Digest), to.WithDigest(child.Digest), done, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	blobs := map[string]ocispec.Descriptor{}
	for _, d := range m.Layers {
		if len(d.URLs) == 0 { // with URLs it is kept elsewhere
			blobs[d.Digest.String()] = d
		}
	}
	if m.Config != nil {
		blobs[m.Config.Digest.String()] = *m.Config
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxCopies)
	for _, blob := range slices.Sorted(maps.Keys(blobs)) {
		g.Go(func() error { return c.copyBlob(gctx, from, to, blobs[blob]) })
	}
	return g.Wait()
}

func (c *Client) copyBlob(ctx context.Context, from, to Ref, d ocispec.Descriptor) error {
	if from.Name() == to.Name() {
		return nil
	}
	if from.Host != to.Host {
		if has, err := c.HasBlob(ctx, to, d); has || err != nil {
			return err
		}
	}
	return c.MountOrPush(ctx, from, to, d, func() (io.ReadCloser, error) { return c.Direct().Blob(ctx, from, d) })
}
