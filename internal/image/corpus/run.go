package corpus

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/origin"
	"github.com/strata-build/strata/internal/source"
)

// Base is a case's base image with the content of its blobs.
type Base struct {
	Image     *image.Image
	Inventory *inventory.Inventory
	Blobs     map[digest.Digest][]byte // layers and config
}

// Base makes the base image for linux on the given architecture. A case without
// base files stands on scratch.
func (c *Case) Base(ctx context.Context, arch string) (*Base, error) {
	if len(c.base) == 0 {
		img := image.Scratch(ocispec.Platform{OS: "linux", Architecture: arch})
		return &Base{Image: img, Inventory: inventory.Empty()}, nil
	}
	b, err := makeImage(ctx, arch, c.BaseConfig, baseTime, c.base)
	if err != nil {
		return nil, fmt.Errorf("making the base of %s: %w", c.Name, err)
	}
	return b, nil
}

// Images makes the images that the case may copy from, by name.
func (c *Case) Images(ctx context.Context, arch string) (map[string]*Base, error) {
	out := map[string]*Base{}
	for name, layers := range c.images {
		var err error
		if out[name], err = makeImage(ctx, arch, "{}", imageTime, layers...); err != nil {
			return nil, fmt.Errorf("making the image %s of %s: %w", name, c.Name, err)
		}
	}
	return out, nil
}

func makeImage(ctx context.Context, arch, config string, first int64, layers ...[]item) (*Base, error) {
	b := &Base{Blobs: map[digest.Digest][]byte{}}
	add := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		b.Blobs[d] = data
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var ids []digest.Digest
	var history []map[string]any
	for n, items := range layers {
		var plain, packed bytes.Buffer
		if err := writeTar(&plain, linked(items), first+int64(n)*1000000); err != nil {
			return nil, err
		}
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(plain.Bytes()); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, add(ocispec.MediaTypeImageLayerGzip, packed.Bytes()))
		ids = append(ids, digest.FromBytes(plain.Bytes()))
		history = append(history, map[string]any{"created": "2020-01-01T00:00:00Z", "created_by": "corpus"})
	}
	text, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": json.RawMessage(config), "created": "2020-01-01T00:00:00Z",
		"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: ids}, "history": history,
	})
	if err != nil {
		return nil, err
	}
	m.Config = add(ocispec.MediaTypeImageConfig, text)
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if b.Image, err = image.Parse(body, text); err != nil {
		return nil, err
	}
	b.Inventory, err = Unpack(ctx, b.Image, func(d digest.Digest) []byte { return b.Blobs[d] })
	return b, err
}

// Unpack gives the tree that an image's layers make, from the blobs.
func Unpack(ctx context.Context, img *image.Image, blob func(digest.Digest) []byte) (*inventory.Inventory, error) {
	var layers []inventory.Layer
	for _, l := range img.Manifest.Layers {
		layers = append(layers, inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(blob(l.Digest))), nil
		}})
	}
	return inventory.FromLayers(ctx, nil, layers)
}

// Entries tells of every entry of a gzip-compressed layer.
func Entries(layer []byte, tell func(*tar.Header)) error {
	z, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return err
	}
	tr := tar.NewReader(z)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		tell(hdr)
	}
}

// Tail reads the case's Dockerfile over its base and gives the instructions of
// its tail with the files that they take from the context in dir and from
// images. A case whose Dockerfile has a trunk gives none.
func (c *Case) Tail(ctx context.Context, b *Base, images map[string]*Base, dir string) (*dockerfile.Trunk, []image.Instruction, error) {
	file, err := dockerfile.Parse("Dockerfile", []byte(c.Dockerfile))
	if err != nil {
		return nil, nil, err
	}
	var cfg struct {
		Config dockerfile.Config `json:"config"`
	}
	if err := json.Unmarshal(b.Image.Config, &cfg); err != nil {
		return nil, nil, err
	}
	p, err := b.Image.Platform()
	if err != nil {
		return nil, nil, err
	}
	build, err := file.Analyze(dockerfile.Options{
		Platform: p.OS + "/" + p.Architecture, TrunkConfig: &cfg.Config,
		CopyFrom: func(c dockerfile.CopySource) bool { return images[c.From.Image] != nil },
	})
	if err != nil {
		return nil, nil, err
	}
	if !build.Trunk.Empty {
		return build.Trunk, nil, nil
	}
	tree, err := source.Open(dir, source.Options{})
	if err != nil {
		return nil, nil, err
	}
	set := origin.NewSet(dir) // a corpus is small: there is never a file to close
	var out []image.Instruction
	for _, t := range build.Trunk.Tail {
		in, err := instruction(ctx, t, tree, dir, set, images)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, in)
	}
	return build.Trunk, out, set.Fetch(ctx)
}

func instruction(ctx context.Context, t dockerfile.TailCommand, tree *source.Tree, dir string, set *origin.Set, images map[string]*Base) (image.Instruction, error) {
	in := image.Instruction{Line: t.Line, Command: t.Command, History: t.History, CmdSet: t.CmdSet, From: t.Copy != nil}
	for _, c := range t.Chmod {
		in.Chmod = append(in.Chmod, image.Chmod(c))
	}
	if t.Copy != nil {
		files, err := set.Take(ctx, images[t.Copy.From.Image].origin(t.Copy.Name), t.Command)
		in.Files = files
		return in, err
	}
	for _, i := range t.Inputs {
		entries, err := tree.Select(ctx, source.Selection{Patterns: i.Patterns, Excludes: i.Excludes, Parents: i.Parents})
		if err != nil {
			return in, err
		}
		files := origin.Files(entries)
		if err := timesIn(dir, files); err != nil {
			return in, err
		}
		for _, f := range files {
			f.Open = tree.Open
			in.Files = append(in.Files, f)
		}
	}
	return in, nil
}

func (b *Base) origin(name string) origin.Image {
	o := origin.Image{Name: name, Digest: b.Image.Descriptor.Digest, Files: b.Inventory}
	for _, l := range b.Image.Manifest.Layers {
		o.Layers = append(o.Layers, inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b.Blobs[l.Digest])), nil
		}})
	}
	return o
}
