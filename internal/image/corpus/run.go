package corpus

import (
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
	layer, err := c.BaseLayer()
	if err != nil {
		return nil, err
	}
	if layer == nil {
		img := image.Scratch(ocispec.Platform{OS: "linux", Architecture: arch})
		return &Base{Image: img, Inventory: inventory.Empty()}, nil
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(layer); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": json.RawMessage(c.BaseConfig), "created": "2020-01-01T00:00:00Z",
		"rootfs":  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
		"history": []map[string]any{{"created": "2020-01-01T00:00:00Z", "created_by": "corpus"}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the base of %s: %w", c.Name, err)
	}
	b := &Base{Blobs: map[digest.Digest][]byte{}}
	add := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		b.Blobs[d] = data
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: add(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{add(ocispec.MediaTypeImageLayerGzip, packed.Bytes())},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the base of %s: %w", c.Name, err)
	}
	if b.Image, err = image.Parse(manifest, config); err != nil {
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

// Tail reads the case's Dockerfile over its base and gives the instructions of
// its tail with the files that they take from the context in dir, and what
// opens those files. A case whose Dockerfile has a trunk gives none.
func (c *Case) Tail(ctx context.Context, b *Base, dir string) (*dockerfile.Trunk, []image.Instruction, image.Opener, error) {
	file, err := dockerfile.Parse("Dockerfile", []byte(c.Dockerfile))
	if err != nil {
		return nil, nil, nil, err
	}
	var cfg struct {
		Config dockerfile.Config `json:"config"`
	}
	if err := json.Unmarshal(b.Image.Config, &cfg); err != nil {
		return nil, nil, nil, err
	}
	p, err := b.Image.Platform()
	if err != nil {
		return nil, nil, nil, err
	}
	build, err := file.Analyze(dockerfile.Options{Platform: p.OS + "/" + p.Architecture, TrunkConfig: &cfg.Config})
	if err != nil {
		return nil, nil, nil, err
	}
	tree, err := source.Open(dir, source.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	if !build.Trunk.Empty {
		return build.Trunk, nil, tree.Open, nil
	}
	var out []image.Instruction
	for _, t := range build.Trunk.Tail {
		in, err := instruction(ctx, t, tree)
		if err != nil {
			return nil, nil, nil, err
		}
		out = append(out, in)
	}
	return build.Trunk, out, tree.Open, nil
}

func instruction(ctx context.Context, t dockerfile.TailCommand, tree *source.Tree) (image.Instruction, error) {
	in := image.Instruction{Line: t.Line, Command: t.Command, History: t.History, CmdSet: t.CmdSet}
	for _, c := range t.Chmod {
		in.Chmod = append(in.Chmod, image.Chmod(c))
	}
	for _, i := range t.Inputs {
		entries, err := tree.Select(ctx, source.Selection{Patterns: i.Patterns, Excludes: i.Excludes, Parents: i.Parents})
		if err != nil {
			return in, err
		}
		for _, e := range entries {
			in.Files = append(in.Files, fileOf(e))
		}
	}
	return in, nil
}

var kinds = map[source.Kind]inventory.Kind{
	source.File: inventory.File, source.Dir: inventory.Dir, source.Symlink: inventory.Symlink,
	source.FIFO: inventory.Fifo, source.CharDevice: inventory.Char, source.BlockDevice: inventory.Block,
}

func fileOf(e source.Entry) image.File {
	return image.File{
		Path: e.Path, Kind: kinds[e.Kind], Mode: e.Mode, Size: e.Size, Digest: e.Digest, Link: e.Link,
		Major: int64(e.Major), Minor: int64(e.Minor), HardlinkOf: e.HardlinkOf,
		Match: e.Match, Rel: e.Rel, MatchDir: e.MatchDir, Index: e.Index, Implied: e.Implied,
	}
}
