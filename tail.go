package strata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/source"
)

// appendTail puts a unit's tail on its trunk and publishes the result. An error
// that is a [*image.NotExact] means that only an engine can.
func (r *runner) appendTail(ctx context.Context, u *graph.Unit, trunk *picture, m *Made) (*picture, error) {
	if len(u.Build.Trunk.Tail) == 0 && trunk.desc.Digest == "" {
		return nil, &image.NotExact{Reason: "there is nothing to append to nothing"}
	}
	var inv *inventory.Inventory
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return trunk.loadConfig(gctx, r.pass.Config.Client) })
	g.Go(func() (err error) {
		inv, err = r.pass.inventoryOf(gctx, u, trunk, false)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("reading what %s stands on: %w", u.ID, err)
	}
	parent, err := trunk.parent(u.Platform)
	if err != nil {
		return nil, err
	}
	tail, tree, err := r.tail(ctx, u, trunk)
	if err != nil {
		return nil, err
	}
	o := r.appendOptions(u, tree)
	done, err := image.Append(parent, inv, tail, o)
	if errors.Is(err, inventory.ErrNeedFull) {
		if inv, err = r.pass.inventoryOf(ctx, u, trunk, true); err != nil {
			return nil, fmt.Errorf("reading what %s stands on: %w", u.ID, err)
		}
		done, err = image.Append(parent, inv, tail, o)
	}
	if err != nil {
		return nil, err
	}
	return r.writeTail(ctx, u, trunk, done, inputSize(tail), m)
}

// parent gives the picture in the form that an append takes.
func (p *picture) parent(platform string) (*image.Image, error) {
	if p.desc.Digest == "" {
		return image.Scratch(*platformOf(platform)), nil
	}
	return image.Parse(p.body, p.config)
}

func (r *runner) appendOptions(u *graph.Unit, tree *source.Tree) image.Options {
	o := image.Options{
		SourceDateEpoch: r.pass.epoch(u).Unix(), Compression: r.pass.Config.Project.Compression,
		Labels: u.Labels, DropOnBuild: u.Build.Trunk.DropOnBuild,
	}
	if tree != nil {
		o.Open = tree.Open
	}
	if u.Build.Trunk.Empty {
		o.Platform = platformOf(u.Platform)
	}
	return o
}

// tail gives the instructions of a unit's tail with the files that they take,
// variables expanded by what the trunk's config says.
func (r *runner) tail(ctx context.Context, u *graph.Unit, trunk *picture) ([]image.Instruction, *source.Tree, error) {
	o := u.Options
	if trunk.desc.Digest != "" {
		c, err := trunk.dockerfileConfig()
		if err != nil {
			return nil, nil, err
		}
		o.TrunkConfig = &c
	}
	b, err := u.File.Analyze(o)
	if err != nil {
		return nil, nil, err
	}
	var out []image.Instruction
	var tree *source.Tree
	for _, t := range b.Trunk.Tail {
		if t.Copy != nil {
			return nil, nil, &image.NotExact{Line: t.Line, Reason: "it copies from a stage"}
		}
		in := image.Instruction{Line: t.Line, Command: t.Command, History: t.History, CmdSet: t.CmdSet}
		for _, c := range t.Chmod {
			in.Chmod = append(in.Chmod, image.Chmod{Mode: c.Mode, Owner: c.Owner, Recursive: c.Recursive, Paths: c.Paths})
		}
		for _, input := range t.Inputs {
			from, err := r.pass.open(r.pass.contextOf(u, input.Context))
			if err != nil {
				return nil, nil, err
			}
			if tree != nil && tree != from {
				return nil, nil, &image.NotExact{Line: t.Line, Reason: "the last instructions take files from two build contexts"}
			}
			tree = from
			entries, err := r.entries(ctx, u, input, from)
			if err != nil {
				return nil, nil, err
			}
			in.Files = append(in.Files, files(entries)...)
		}
		out = append(out, in)
	}
	return out, tree, nil
}

// entries gives what an input takes: as it was found when the keys were made,
// or, where the trunk's config has changed what it means, found now.
func (r *runner) entries(ctx context.Context, u *graph.Unit, input dockerfile.Input, tree *source.Tree) ([]source.Entry, error) {
	for i, known := range u.Build.Inputs {
		if reflect.DeepEqual(known, input) {
			return r.pass.inputs[u.ID].Files[i], nil
		}
	}
	return tree.Select(ctx, selection(input))
}

var kinds = map[source.Kind]inventory.Kind{
	source.File: inventory.File, source.Dir: inventory.Dir, source.Symlink: inventory.Symlink,
	source.FIFO: inventory.Fifo, source.CharDevice: inventory.Char, source.BlockDevice: inventory.Block,
}

func files(entries []source.Entry) []image.File {
	out := make([]image.File, len(entries))
	for i, e := range entries {
		out[i] = image.File{
			Path: e.Path, Kind: kinds[e.Kind], Mode: e.Mode, Size: e.Size, Digest: e.Digest, Link: e.Link,
			Major: int64(e.Major), Minor: int64(e.Minor), HardlinkOf: e.HardlinkOf, Match: e.Match, Rel: e.Rel,
			MatchDir: e.MatchDir, Index: e.Index, Implied: e.Implied,
		}
	}
	return out
}

func inputSize(tail []image.Instruction) int64 {
	var n int64
	for _, in := range tail {
		for _, f := range in.Files {
			n += f.Size
		}
	}
	return n
}

// smallTail is how much content is compressed in memory, so that layer, config
// and recipe go to the registry at once instead of one after the other. What is
// larger is streamed while it is read.
const smallTail = 8 << 20

// writeTail makes and sends the tail's blob, and publishes the image.
func (r *runner) writeTail(ctx context.Context, u *graph.Unit, trunk *picture, done *image.Appended, size int64, m *Made) (*picture, error) {
	pub := publication{recipe: r.pass.Keys[u.ID].Unit, trunk: trunk, whole: true}
	var blob *image.Blob
	var err error
	switch {
	case !done.HasBlob():
	case size <= smallTail:
		var buf bytes.Buffer
		blob, err = done.WriteBlob(&buf)
		pub.layer = buf.Bytes()
	default:
		blob, err = r.streamTail(ctx, u, done)
	}
	if err != nil {
		return nil, err
	}
	img, err := done.Image(blob)
	if err != nil {
		return nil, err
	}
	pub.manifest, pub.config = img.Manifest, img.Config
	m.Action = plan.Append
	if m.built {
		m.Action = plan.Build
	}
	if last := r.pass.answers.lastImages[u.ID]; last.sameContent(img.Manifest) {
		m.Reason += "; it came out the same as before, so that stays"
		return last, r.adopt(ctx, u, last, pub.recipe, true)
	}
	if blob != nil {
		pub.layerType = blob.Descriptor.MediaType
		m.NewBlobs++
		m.Pushed += blob.Descriptor.Size
	}
	return r.publish(ctx, u, m, pub)
}

// sameContent says whether the picture has the config and layers of a manifest.
// There may be no picture.
func (p *picture) sameContent(m ocispec.Manifest) bool {
	return p != nil && p.manifest.Config.Digest == m.Config.Digest &&
		len(p.manifest.Layers) == len(m.Layers) && startsWith(p.manifest.Layers, m.Layers)
}

// streamTail sends the tail's blob while it is made.
func (r *runner) streamTail(ctx context.Context, u *graph.Unit, done *image.Appended) (*image.Blob, error) {
	pr, pw := io.Pipe()
	var blob *image.Blob
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		blob, err = done.WriteBlob(pw)
		pw.CloseWithError(err)
		return err
	})
	g.Go(func() error {
		_, err := r.pass.Config.Client.PushStream(gctx, r.repo(u), done.MediaType(), pr)
		pr.CloseWithError(errors.New("the upload has ended"))
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return blob, nil
}

// bringLayers makes the layers of the trunk part of the unit's repository where
// they are not: by mounting them, or, from another registry, by copying them.
func (r *runner) bringLayers(ctx context.Context, u *graph.Unit, trunk *picture) error {
	repo := r.repo(u)
	if trunk == nil || trunk.ref.Repo == "" || trunk.ref.Repository() == repo {
		return nil
	}
	layers := map[string]ocispec.Descriptor{}
	for _, l := range trunk.manifest.Layers {
		layers[l.Digest.String()] = l
	}
	c := r.pass.Config.Client
	return each(ctx, layers, 4, func(ctx context.Context, _ string, l ocispec.Descriptor) error {
		return c.MountOrPush(ctx, trunk.ref, repo, l, func() (io.ReadCloser, error) { return c.Blob(ctx, trunk.ref, l) })
	})
}
