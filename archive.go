package strata

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
)

// Image gives the image that the registry holds under a unit's key.
func (p *Pass) Image(unit string) (registry.Ref, error) {
	d := p.answers.hits[unit].Unit
	if d == "" {
		return registry.Ref{}, diag.Hint(fmt.Errorf("the registry has no image of %s as it is now", unit),
			"build it first: strata build %s", unit)
	}
	return p.repos[unit].WithDigest(d), nil
}

// WriteArchive writes an image as an OCI image layout in a tar archive (OCI
// image specification, image-layout.md), under the given name.
func WriteArchive(ctx context.Context, c *registry.Client, w io.Writer, ref registry.Ref, name, platform string) error {
	img, err := loadPicture(ctx, c, ref)
	if err != nil {
		return fmt.Errorf("writing the archive of %s: %w", ref.FamiliarString(), err)
	}
	t := tar.NewWriter(w)
	d := manifestOf(img.desc)
	d.Platform = platformOf(platform)
	d.Annotations = map[string]string{ocispec.AnnotationRefName: name, "io.containerd.image.name": name}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
	})
	if err != nil {
		return err
	}
	small := []struct {
		name string
		data []byte
	}{
		{ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)},
		{ocispec.ImageIndexFile, index},
		{blobPath(img.desc.Digest), img.body},
		{blobPath(img.manifest.Config.Digest), img.config},
	}
	for _, f := range small {
		if err := writeTar(t, f.name, int64(len(f.data)), func(w io.Writer) error { _, err := w.Write(f.data); return err }); err != nil {
			return err
		}
	}
	written := map[digest.Digest]bool{}
	for _, l := range img.manifest.Layers {
		if written[l.Digest] {
			continue
		}
		written[l.Digest] = true
		err := writeTar(t, blobPath(l.Digest), l.Size, func(w io.Writer) error {
			b, err := c.Blob(ctx, ref, l)
			if err != nil {
				return err
			}
			defer b.Close()
			_, err = io.Copy(w, b)
			return err
		})
		if err != nil {
			return fmt.Errorf("writing the archive of %s: %w", ref.FamiliarString(), err)
		}
	}
	return t.Close()
}

func blobPath(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func writeTar(t *tar.Writer, name string, size int64, content func(io.Writer) error) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	return content(t)
}
