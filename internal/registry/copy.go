package registry

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// CopyImage copies what from names, all platforms of an index, to another
// repository, and gives its descriptor. Blobs are mounted where both are on
// one registry; elsewhere they are streamed, unless they are there already.
// The tag moves last.
func (c *Client) CopyImage(ctx context.Context, from, to Ref) (ocispec.Descriptor, error) {
	a := c.Lookup(ctx, from)
	if a.Err != nil {
		return a.Desc, a.Err
	}
	if err := c.copyChildren(ctx, a.Source, to, a.Desc.MediaType, a.Body); err != nil {
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

func (c *Client) copyChildren(ctx context.Context, from, to Ref, mediaType string, body []byte) error {
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return invalid("copying", from, "%v", err)
	}
	if IsIndex(mediaType) {
		for _, child := range m.Manifests {
			if _, err := c.CopyImage(ctx, from.WithDigest(child.Digest), to.WithDigest(child.Digest)); err != nil {
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
	for _, digest := range slices.Sorted(maps.Keys(blobs)) {
		g.Go(func() error { return c.copyBlob(gctx, from, to, blobs[digest]) })
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
