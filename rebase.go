package strata

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// A unit whose parent has changed, and nothing else below its tail, may be
// rebased: its trunk's own blobs go on the new parent by reference, the tail is
// appended as ever. Whether that gives what a rebuild would is decided from three
// inventories and, for package databases, from what these files hold; see
// [image.Rebase].

// readTrunks fetches the newest trunks of the units that an engine would have
// to build and whose layers may be rebased.
func (p *Pass) readTrunks(ctx context.Context) error {
	want := map[string]*graph.Unit{}
	for _, u := range p.Units {
		h := p.answers.hits[u.ID]
		if plan.Rebases(u) && h.Unit == "" && h.Trunk == "" && p.answers.lastImages[u.ID] != nil {
			want[u.ID] = u
		}
	}
	for _, u := range p.Units {
		p.known.keepsIn(p.repos[u.ID])
	}
	var mu sync.Mutex
	return each(ctx, want, 8, func(ctx context.Context, id string, u *graph.Unit) error {
		img, err := p.newestTrunk(ctx, u)
		if img == nil || err != nil {
			return err
		}
		l := p.knownOf(ctx, p.repos[id], img)
		mu.Lock()
		defer mu.Unlock()
		p.answers.trunksOf[id], p.answers.lastTrunks[id] = img, l
		return ctx.Err()
	})
}

// newestTrunk gives the trunk of a unit's newest image: what its tail was put on
// or, of a unit without a tail, the image itself. Nil when it is not there.
func (p *Pass) newestTrunk(ctx context.Context, u *graph.Unit) (*picture, error) {
	last := p.answers.lastImages[u.ID]
	d := digest.Digest(last.manifest.Annotations[annotationTrunk])
	if (d != "") != !p.Keys[u.ID].Trunk.IsZero() {
		return nil, nil // the cut between trunk and tail has moved
	}
	if d == "" {
		return last, nil
	}
	a := p.Config.Client.Lookup(ctx, last.ref.WithDigest(d))
	switch a.State {
	case registry.Failed:
		return nil, fmt.Errorf("looking up the trunk of %s: %w", u.ID, a.Err)
	case registry.Hit:
		w := p.newest(u)
		w.ref = last.ref.WithDigest(d)
		if w.check(a) != nil {
			return nil, nil
		}
		return p.known.picture(a)
	}
	return nil, nil
}

// rebase puts a unit's newest trunk on the parent as it is now, and publishes it.
// It gives nothing where that would not be right and the policy is to build
// instead. whole says that the image is the unit itself.
func (r *runner) rebase(ctx context.Context, u *graph.Unit, m *Made) (img *picture, whole bool, err error) {
	recipe := r.pass.Keys[u.ID].Trunk
	if whole = recipe.IsZero(); whole {
		recipe = r.pass.Keys[u.ID].Unit
	}
	img, err = r.rebaseTrunk(ctx, u, m, recipe, whole)
	var forged *inventory.DiffIDError
	if _, is := damaged(err); is || errors.Is(err, registry.ErrNotFound) || errors.As(err, &forged) {
		err = &image.NotExact{Reason: err.Error()}
	}
	var conflict *image.ConflictError
	var inexact *image.NotExact
	switch {
	case err == nil:
		m.rebased = m.Action == plan.Rebase
		return img, whole, nil
	case !errors.As(err, &conflict) && !errors.As(err, &inexact):
		return nil, whole, err
	case u.OnParentChange == plan.PolicyRebaseOrRebuild:
		m.Action = plan.Build
		m.Reason += "; it could not be rebased: " + err.Error()
		r.pass.emit(event.Event{Type: event.Message, Unit: u.ID, Text: m.Reason})
		return nil, whole, nil
	}
	return nil, whole, rebaseError(u, err)
}

// rebaseError lists every conflict, a line each.
func rebaseError(u *graph.Unit, err error) error {
	var conflict *image.ConflictError
	if errors.As(err, &conflict) {
		lines := []string{"it and its new parent changed the same:"}
		for _, c := range conflict.Conflicts {
			lines = append(lines, "  "+c.String())
		}
		err = errors.New(strings.Join(lines, "\n"))
	}
	return diag.Hint(fmt.Errorf("it can't be rebased: %w", err),
		"`strata build --rebuild %s` builds it; `on-parent-change: rebase-or-rebuild` does so by itself", u.ID)
}

func (r *runner) rebaseTrunk(ctx context.Context, u *graph.Unit, m *Made, recipe key.Recipe, whole bool) (*picture, error) {
	if img, err := r.builtMeanwhile(ctx, u, m, recipe); img != nil || err != nil {
		return img, err
	}
	child := r.pass.answers.trunksOf[u.ID]
	next, err := r.base(ctx, u, u.Build.Trunk.From)
	if err != nil {
		return nil, err
	}
	if next == nil || next.desc.Digest == "" {
		return nil, &image.NotExact{Reason: "its parent is no image"}
	}
	old, err := r.oldParent(ctx, u, child)
	if err != nil {
		return nil, err
	}
	if old.desc.Digest == next.desc.Digest {
		m.Reason += "; its parent came out the same"
		return child, r.adopt(ctx, u, child, recipe, whole)
	}
	done, err := r.pass.rebased(ctx, u, child, old, next)
	if err != nil {
		return nil, err
	}
	config, err := r.pass.retime(u, done.Image.Config, next)
	if err != nil {
		return nil, err
	}
	if img, err := r.builtMeanwhile(ctx, u, m, recipe); img != nil || err != nil {
		return img, err
	}
	pub := publication{
		recipe: recipe, manifest: done.Image.Manifest, config: config, inventory: done.Inventory,
		trace: done.Trace, base: next, whole: whole,
	}
	if done.Layer != nil {
		pub.layer, pub.layerType = done.Data, done.Layer.Descriptor.MediaType
		m.NewBlobs++
		m.Pushed += done.Layer.Descriptor.Size
	}
	if len(done.Merged) > 0 {
		m.Reason += "; merged " + strings.Join(done.Merged, ", ")
	}
	return r.publish(ctx, u, m, pub)
}

// oldParent gives the image that a trunk was built or rebased on, as it noted.
func (r *runner) oldParent(ctx context.Context, u *graph.Unit, child *picture) (*picture, error) {
	d := digest.Digest(child.manifest.Annotations[ocispec.AnnotationBaseImageDigest])
	if d.Validate() != nil {
		return nil, &image.NotExact{Reason: "what it stands on was not noted"}
	}
	repo := r.pass.externals[mustExternal(r.pass.Graph, u)].ref.Repository()
	if up := r.pass.Graph.Parent(u, u.Build.Trunk.From); up != nil {
		repo = r.repo(up)
	}
	a := r.pass.Config.Client.Lookup(ctx, repo.WithDigest(d))
	switch {
	case a.State == registry.Failed:
		return nil, fmt.Errorf("looking up the old parent of %s: %w", u.ID, a.Err)
	case hitDigest(a) == "":
		return nil, &image.NotExact{Reason: fmt.Sprintf("its old parent %s is gone from the registry", d)}
	}
	return r.pass.known.picture(a)
}

// mustExternal gives the external image that a unit starts from; zero when it
// starts from another unit.
func mustExternal(g *graph.Graph, u *graph.Unit) external {
	e, _ := externalOf(g, u, u.Build.Trunk.From)
	return e
}

// rebased gathers what a rebase is decided from, and does it.
func (p *Pass) rebased(ctx context.Context, u *graph.Unit, child, old, next *picture) (*image.Rebased, error) {
	g, gctx := errgroup.WithContext(ctx)
	images := []*picture{child, old, next}
	sides := make([]image.Side, len(images))
	for i, img := range images {
		g.Go(func() error { return img.loadConfig(gctx, p.Config.Client) })
		g.Go(func() (err error) {
			sides[i].Inventory, err = p.inventoryOf(gctx, u, img, true)
			return err
		})
	}
	var gone []string
	g.Go(func() (err error) { // whatever stands on the image needs all of it
		gone, err = missingOwn(gctx, p.Config.Client, child, len(old.manifest.Layers))
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("reading what %s stands on: %w", u.ID, err)
	}
	if len(gone) > 0 {
		return nil, &image.NotExact{Reason: gone[0]}
	}
	for i, img := range images {
		var err error
		if sides[i].Image, err = image.Parse(img.body, img.config); err != nil {
			return nil, err
		}
	}
	n := len(old.manifest.Layers)
	if !startsWith(child.manifest.Layers, old.manifest.Layers) {
		return nil, &image.NotExact{Reason: "it does not stand on its old parent's layers"}
	}
	trace, err := traceOf(ctx, p.Config.Client, child, n, sides[1].Inventory, p.known)
	if err != nil {
		return nil, fmt.Errorf("reading the layers of %s: %w", u.ID, err)
	}
	plan, err := image.Rebase(sides[0], sides[1], sides[2], trace, image.RebaseOptions{
		Created: p.created(u, images[2]).Unix(), Compression: p.Config.Project.Compression,
	})
	if err != nil {
		return nil, err
	}
	return finishRebase(ctx, plan, p.Config.Client, p.known, images, sides)
}

// missingOwn looks whether an image's blobs from number n on are there.
func missingOwn(ctx context.Context, c *registry.Client, img *picture, n int) ([]string, error) {
	blobs := map[registry.Ref]blobOf{}
	for _, l := range img.manifest.Layers[min(n, len(img.manifest.Layers)):] {
		blobs[img.ref.WithDigest(l.Digest)] = blobOf{l, "its last image"}
	}
	return missingBlobs(ctx, c, blobs)
}

// finishRebase reads the files that have to be merged, and makes the image.
func finishRebase(ctx context.Context, plan *image.Rebasing, c *registry.Client, known *shared, images []*picture, sides []image.Side) (*image.Rebased, error) {
	if cs := plan.Conflicts(); len(cs) > 0 && !slices.ContainsFunc(cs, func(c image.Conflict) bool { return c.Kind == image.PackagesTouched }) {
		return plan.Finish(nil, nil, nil) // reading files would not change that
	}
	var names [3][]string
	names[0], names[1], names[2] = plan.Wants()
	var files [3]map[string][]byte
	g, gctx := errgroup.WithContext(ctx)
	for i, img := range images {
		g.Go(func() (err error) {
			files[i], err = keptContents(gctx, c, known, img, sides[i].Inventory, names[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return plan.Finish(files[0], files[1], files[2])
}

// traceOf gives the trace of an image's layers from number n on: the one that is
// kept with it and with the image that its tail was put on, or one that is made
// now by reading the layers.
func traceOf(ctx context.Context, c *registry.Client, img *picture, n int, base *inventory.Inventory, known *shared) (*inventory.Trace, error) {
	layers := img.layerDigests()[n:]
	for _, t := range keptTraces(ctx, c, known, img) {
		if slices.Equal(t.Blobs, layers) {
			return t, nil
		}
		if len(t.Blobs) > 0 && hasPrefix(layers, t.Blobs) { // a tail stands on them
			at := n + len(t.Blobs)
			below, err := trunkInventory(ctx, c, img)
			if err != nil || below == nil || len(below.Blobs()) != at {
				continue
			}
			own, err := openLayers(ctx, c, img, at)
			if err != nil {
				return nil, err
			}
			_, upper, err := inventory.FromLayersTraced(ctx, below, own)
			if err != nil {
				return nil, forgedLayer(img, err)
			}
			return t.Join(upper), nil
		}
	}
	own, err := openLayers(ctx, c, img, n)
	if err != nil {
		return nil, err
	}
	_, t, err := inventory.FromLayersTraced(ctx, base, own)
	return t, forgedLayer(img, err)
}

func openLayers(ctx context.Context, c *registry.Client, img *picture, from int) ([]inventory.Layer, error) {
	return img.layersFrom(ctx, c, from, func(l ocispec.Descriptor) (io.ReadCloser, error) { return c.Blob(ctx, img.ref, l) })
}

// keptTraces gives the traces that are kept with an image, with its trunk, and
// with an inventory that was made of it. One that can't be read counts as none.
func keptTraces(ctx context.Context, c *registry.Client, known *shared, img *picture) []*inventory.Trace {
	var out []*inventory.Trace
	add := func(holder *picture) {
		d, ok := attachment(holder.manifest.Annotations, annotationTrace)
		if !ok {
			return
		}
		if t := fetchTrace(ctx, c, holder.ref, d); t != nil {
			out = append(out, t)
		}
	}
	add(img)
	if d := digest.Digest(img.manifest.Annotations[annotationTrunk]); d.Validate() == nil {
		if a := c.Lookup(ctx, img.ref.WithDigest(d)); a.State == registry.Hit {
			if trunk, err := parsePicture(a); err == nil {
				add(trunk)
			}
		}
	}
	for _, repo := range append(known.repositories(), img.ref.Repository()) {
		held, err := keptParts(ctx, c, repo.WithTag(inventoryTag(img.desc.Digest)))
		if err == nil && held != nil && len(held.manifest.Layers) > 2 {
			if t := fetchTrace(ctx, c, held.ref, held.manifest.Layers[2]); t != nil {
				out = append(out, t)
				break
			}
		}
	}
	for _, t := range out {
		known.keep(t)
	}
	return out
}

func fetchTrace(ctx context.Context, c *registry.Client, repo registry.Ref, d ocispec.Descriptor) *inventory.Trace {
	b, err := c.Blob(ctx, repo, d)
	if err != nil {
		return nil
	}
	defer b.Close()
	t, err := inventory.DecodeTrace(b)
	if err != nil {
		return nil
	}
	return t
}

// keptContents gives the contents of regular files of an image: from traces, as
// far as they have them, else from its layers. What it gives is what the
// inventory says.
func keptContents(ctx context.Context, c *registry.Client, known *shared, img *picture, inv *inventory.Inventory, names []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	take := func() (missing []string) {
		for _, name := range names {
			e := inv.Lookup(name)
			if data, ok := known.content(e.Content); ok && int64(len(data)) == e.Size {
				out[name] = data
			} else if _, have := out[name]; !have {
				missing = append(missing, name)
			}
		}
		return missing
	}
	missing := take()
	if len(missing) == 0 {
		return out, nil
	}
	keptTraces(ctx, c, known, img)
	if missing = take(); len(missing) == 0 {
		return out, nil
	}
	read, err := contentsOf(ctx, c, img, inv, missing)
	for name, data := range read {
		out[name] = data
	}
	return out, err
}

// keepsIn notes a repository in which inventories of other images are kept.
func (s *shared) keepsIn(repo registry.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.beside, repo) {
		s.beside = append(s.beside, repo)
	}
}

func (s *shared) repositories() []registry.Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.beside)
}

// keep remembers the contents that a trace holds, by what they are.
func (s *shared) keep(t *inventory.Trace) {
	if t == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, data := range t.Files {
		s.files[sha256.Sum256(data)] = data
	}
}

func (s *shared) content(sum [32]byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.files[sum]
	return data, ok
}
