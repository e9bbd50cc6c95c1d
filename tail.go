package strata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/origin"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/times"
)

// appendTail puts a unit's tail on its trunk and publishes the result. An error
// that is a [*image.NotExact] means that only an engine can.
func (r *runner) appendTail(ctx context.Context, u *graph.Unit, trunk *picture, m *Made) (*picture, error) {
	if len(u.Build.Trunk.Tail) == 0 && trunk.desc.Digest == "" {
		return nil, &image.NotExact{Reason: "there is nothing to append to nothing"}
	}
	var inv *inventory.Inventory
	var dates *tailTimes
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return trunk.loadConfig(gctx, r.pass.Config.Client) })
	g.Go(func() (err error) {
		dates, err = r.pass.tailTimes(gctx, u)
		return err
	})
	g.Go(func() (err error) {
		inv, err = r.pass.inventoryOf(gctx, u, trunk, false)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("reading what %s stands on: %w", u.ID, err)
	}
	if t := u.Build.Trunk; !t.Empty || r.pass.Graph.Parent(u, t.From) != nil { // what a FROM names may be for any platform
		if err := trunk.madeFor(u); err != nil {
			return nil, err
		}
	}
	parent, err := trunk.parent(u.Platform)
	if err != nil {
		return nil, err
	}
	from := origin.NewSet(r.pass.Config.Cache)
	defer from.Close()
	tail, err := r.tail(ctx, u, trunk, from, dates)
	if err != nil {
		return nil, err
	}
	if dates.twice && !inv.Full() {
		if inv, err = r.pass.inventoryOf(ctx, u, trunk, true); err != nil {
			return nil, fmt.Errorf("reading what %s stands on: %w", u.ID, err)
		}
	}
	dates.on(inv)
	o := r.appendOptions(u, trunk)
	o.Made, o.Published = dates.made, dates.date
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

// madeFor makes sure that an image of ours is for a unit's platform, now that its
// config is here anyway.
func (p *picture) madeFor(u *graph.Unit) error {
	var config ocispec.Platform
	if err := json.Unmarshal(p.config, &config); err != nil {
		return fmt.Errorf("reading the config of %s: %w", p.desc.Digest, err)
	}
	if !samePlatform(config, u.Platform) {
		return diag.Hint(fmt.Errorf("%s is for %s/%s in place of %s, and so not what its key says", p.name(), config.OS, config.Architecture, u.Platform),
			"make it again, and what it stands on: strata build --rebuild %s", u.ID)
	}
	return nil
}

// parent gives the picture in the form that an append takes.
func (p *picture) parent(platform string) (*image.Image, error) {
	if p.desc.Digest == "" {
		return image.Scratch(*platformOf(platform)), nil
	}
	return image.Parse(p.body, p.config)
}

func (r *runner) appendOptions(u *graph.Unit, trunk *picture) image.Options {
	o := image.Options{
		Created: r.pass.created(u, trunk).Unix(), Compression: r.pass.Config.Project.Compression,
		Labels: u.Labels, DropOnBuild: u.Build.Trunk.DropOnBuild,
	}
	if u.Build.Trunk.Empty {
		o.Platform = platformOf(u.Platform)
	}
	return o
}

// tail gives the instructions of a unit's tail with the files that they take,
// variables expanded by what the trunk's config says. Files of other images are
// fetched into from.
func (r *runner) tail(ctx context.Context, u *graph.Unit, trunk *picture, from *origin.Set, dates *tailTimes) ([]image.Instruction, error) {
	o := u.Options
	if trunk.desc.Digest != "" {
		c, err := trunk.dockerfileConfig()
		if err != nil {
			return nil, err
		}
		o.TrunkConfig = &c
	}
	b, err := u.File.Analyze(o)
	if err != nil {
		return nil, err
	}
	var out []image.Instruction
	for _, t := range b.Trunk.Tail {
		in := image.Instruction{Line: t.Line, Command: t.Command, History: t.History, CmdSet: t.CmdSet, From: true}
		for _, c := range t.Chmod {
			in.Chmod = append(in.Chmod, image.Chmod{Mode: c.Mode, Owner: c.Owner, Recursive: c.Recursive, Paths: c.Paths})
		}
		if t.Copy != nil {
			in.Files, err = r.imageFiles(ctx, u, t, from)
		} else {
			in.Files, err = r.contextFiles(ctx, u, t, dates)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, in)
	}
	return out, from.Fetch(ctx)
}

// imageFiles gives what a COPY --from takes from an image.
func (r *runner) imageFiles(ctx context.Context, u *graph.Unit, t dockerfile.TailCommand, from *origin.Set) ([]image.File, error) {
	img, err := r.base(ctx, u, t.Copy.From)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, &image.NotExact{Line: t.Line, Reason: t.Copy.Name + " is no image"}
	}
	inv, err := r.pass.inventoryOf(ctx, u, img, true)
	if err != nil {
		return nil, fmt.Errorf("reading what %s copies from: %w", u.ID, err)
	}
	o := origin.Image{Name: t.Copy.Name, Digest: img.desc.Digest, Files: inv}
	for _, l := range img.manifest.Layers {
		o.Layers = append(o.Layers, inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, Open: func() (io.ReadCloser, error) {
			return r.pass.Config.Client.Blob(ctx, img.ref, l)
		}})
	}
	out, err := from.Take(ctx, o, t.Command)
	if inexact := (*image.NotExact)(nil); errors.As(err, &inexact) {
		return nil, &image.NotExact{Line: t.Line, Reason: inexact.Reason}
	}
	return out, err
}

// contextFiles gives what an instruction takes from build contexts.
func (r *runner) contextFiles(ctx context.Context, u *graph.Unit, t dockerfile.TailCommand, dates *tailTimes) ([]image.File, error) {
	var out []image.File
	for _, input := range t.Inputs {
		tree, err := r.pass.open(r.pass.contextOf(u, input.Context))
		if err != nil {
			return nil, err
		}
		entries, err := r.entries(ctx, u, input, tree)
		if err != nil {
			return nil, err
		}
		published := dates.contexts[input.Context].published
		for i, f := range origin.Files(entries) {
			f.Open, f.Modified = tree.Open, entries[i].Modified
			at, ok := published[realPath(entries[i])]
			if !ok { // found only now that the trunk's config is known
				at = r.pass.publishedTime(times.ContextFile{Disk: f.Modified})
			}
			f.Time = at
			out = append(out, f)
		}
	}
	return out, nil
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
	print := done.Fingerprint()
	blob := r.knownTail(u, print)
	known := blob != nil
	var err error
	switch {
	case !done.HasBlob() || known:
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
	switch {
	case m.built:
		m.Action = plan.Build
	case m.rebased:
		m.Action = plan.Rebase
	default:
		m.Action = plan.Append
	}
	if last := r.pass.lastImage(u); last.sameContent(img.Manifest) {
		m.Reason += "; it came out the same as before, so that stays"
		return last, r.adopt(ctx, u, last, pub.recipe, true)
	}
	if blob != nil {
		pub.tail = tailFacts{print, blob.Descriptor, blob.DiffID}
		pub.tables = times.Tables{blob.Descriptor.Digest: tailTable(done, time.Now())}
		if pub.tailFiles, err = done.Tail(blob); err != nil {
			return nil, err
		}
	}
	if blob != nil && !known {
		pub.layerType = blob.Descriptor.MediaType
		m.NewBlobs++
		m.Pushed += blob.Descriptor.Size
	}
	return r.publish(ctx, u, m, pub)
}

// tailFacts is what an image remembers of its tail's blob, so that the next one
// with the same files need not read, compress and send them again.
type tailFacts struct {
	Fingerprint string             `json:"fingerprint"`
	Blob        ocispec.Descriptor `json:"blob"`
	DiffID      digest.Digest      `json:"diffID"`
}

// knownTail gives the blob of the unit's newest image if it has the fingerprint.
func (r *runner) knownTail(u *graph.Unit, fingerprint string) *image.Blob {
	last := r.pass.lastImage(u)
	if last == nil || fingerprint == "" {
		return nil
	}
	var f tailFacts
	if json.Unmarshal([]byte(last.manifest.Annotations[annotationTail]), &f) != nil || f.Fingerprint != fingerprint {
		return nil
	}
	if n := len(last.manifest.Layers); n == 0 || last.manifest.Layers[n-1].Digest != f.Blob.Digest || f.DiffID.Validate() != nil {
		return nil
	}
	return &image.Blob{Descriptor: f.Blob, DiffID: f.DiffID}
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
	return bringLayers(ctx, r.pass.Config.Client, r.repo(u), trunk)
}

func bringLayers(ctx context.Context, c *registry.Client, repo registry.Ref, trunk *picture) error {
	if trunk == nil || trunk.ref.Repo == "" || trunk.ref.Repository() == repo {
		return nil
	}
	layers := map[string]ocispec.Descriptor{}
	for _, l := range trunk.manifest.Layers {
		layers[l.Digest.String()] = l
	}
	return each(ctx, layers, 4, func(ctx context.Context, _ string, l ocispec.Descriptor) error {
		return c.MountOrPush(ctx, trunk.ref, repo, l, func() (io.ReadCloser, error) { return c.Blob(ctx, trunk.ref, l) })
	})
}
