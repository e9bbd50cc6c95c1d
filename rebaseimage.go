package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// Conflict is one thing that an image and its new parent changed differently.
type Conflict = image.Conflict

// RebaseRequest asks to put an image, whoever made it, on another parent.
type RebaseRequest struct {
	Image registry.Ref
	Onto  registry.Ref
	From  registry.Ref // its parent so far; zero: what its annotations say
	// To is what the result is called. With a tag alone, or zero, it stays in the
	// repository where the image was found; zero keeps the tag, too.
	To registry.Ref
	// DryRun finds out whether it can be done and writes nothing.
	DryRun bool
	// Check may refuse to let the target point to something else, before anything
	// is written; it may be nil. before is "" for a tag that is new.
	Check func(target registry.Ref, before, after digest.Digest) error
}

// RebaseResult is what came of a rebase of all platforms of an image.
type RebaseResult struct {
	Target    registry.Ref
	Digest    digest.Digest // of the new index or, of an image for one platform, of its manifest; "" with conflicts
	Previous  digest.Digest // what the target's tag pointed to; "" for nothing
	Platforms []RebasedPlatform
	Already   bool // it stands on that parent, and nothing was to be done
}

// Conflicts counts the conflicts of all platforms.
func (r RebaseResult) Conflicts() int {
	n := 0
	for _, p := range r.Platforms {
		n += len(p.Conflicts)
	}
	return n
}

// RebasedPlatform is one platform of it.
type RebasedPlatform struct {
	Platform  string
	Old, New  digest.Digest // of the image; New is "" with conflicts
	From      digest.Digest // of the old parent
	Onto      digest.Digest // of the new parent
	Own       int           // blobs of the image's own that are kept
	Merged    []string      // paths that were merged by content
	Added     int64         // bytes of the blob with what was merged
	Conflicts []Conflict
}

// rebasePart is one platform's part of a rebase.
type rebasePart struct {
	RebasedPlatform
	desc             ocispec.Descriptor // as the index has it
	child, old, next *picture
	name             string // of the new parent
	done             *image.Rebased
}

// RebaseImage puts an image on another parent: every platform of it, or none.
// Blobs and manifests are pushed by digest first, the tag is set last. Where the
// parent and the image are in each other's way, the conflicts stand in the
// result and nothing is written.
func RebaseImage(ctx context.Context, c *registry.Client, req RebaseRequest) (RebaseResult, error) {
	res := RebaseResult{Target: req.To}
	if res.Target.Tag == "" {
		res.Target.Tag = req.Image.Tag
	}
	if res.Target.Tag == "" && !req.DryRun {
		return res, diag.Hint(fmt.Errorf("rebasing %s: the result has no name", req.Image.FamiliarString()), "name it with --tag")
	}
	found, index, parts, err := readParts(ctx, c, req)
	if err != nil {
		return res, fmt.Errorf("rebasing %s: %w", req.Image.FamiliarString(), err)
	}
	if res.Target.Repo == "" {
		res.Target = found.WithTag(res.Target.Tag)
	}
	known := newShared()
	known.keepsIn(req.Image.Repository())
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, m := range parts {
		g.Go(func() error { return m.rebase(gctx, c, known, req) })
	}
	if err := g.Wait(); err != nil {
		return res, fmt.Errorf("rebasing %s: %w", req.Image.FamiliarString(), err)
	}
	for _, m := range parts {
		res.Platforms = append(res.Platforms, m.RebasedPlatform)
	}
	if res.Conflicts() > 0 {
		return res, nil
	}
	if !slices.ContainsFunc(parts, func(m *rebasePart) bool { return m.From != m.Onto }) {
		res.Already = true
		return res, nil
	}
	return res.publish(ctx, c, req, index, parts)
}

// readParts reads the image and its platforms, and says which repository has it.
// The index is nil for an image for one platform.
func readParts(ctx context.Context, c *registry.Client, req RebaseRequest) (registry.Ref, *ocispec.Index, []*rebasePart, error) {
	a := c.Lookup(ctx, req.Image)
	if a.Err != nil {
		return a.Source, nil, nil, a.Err
	}
	idx, parts, err := partsOf(ctx, c, a)
	return a.Source.Repository(), idx, parts, err
}

func partsOf(ctx context.Context, c *registry.Client, a registry.Answer) (*ocispec.Index, []*rebasePart, error) {
	if !registry.IsIndex(a.Desc.MediaType) {
		img, err := parsePicture(a)
		return nil, []*rebasePart{{desc: manifestOf(a.Desc), child: img}}, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(a.Body, &idx); err != nil {
		return nil, nil, fmt.Errorf("reading the index: %w", err)
	}
	var out []*rebasePart
	for _, d := range idx.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue // an attestation: it is about the image as it was
		}
		b := c.Lookup(ctx, a.Source.WithDigest(d.Digest))
		if b.Err != nil {
			return nil, nil, b.Err
		}
		img, err := parsePicture(b)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, &rebasePart{desc: d, child: img})
	}
	if len(out) == 0 {
		return nil, nil, errors.New("the index has no image for any platform")
	}
	return &idx, out, nil
}

// rebase finds the parents of one platform and does what can be done without
// writing.
func (m *rebasePart) rebase(ctx context.Context, c *registry.Client, known *shared, req RebaseRequest) error {
	if err := m.child.loadConfig(ctx, c); err != nil {
		return err
	}
	img, err := image.Parse(m.child.body, m.child.config)
	if err != nil {
		return err
	}
	p, err := img.Platform()
	if err != nil {
		return err
	}
	m.Platform = strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
	m.RebasedPlatform.Old = m.child.desc.Digest
	if m.old, err = m.oldParent(ctx, c, req); err != nil {
		return fmt.Errorf("finding the parent of %s: %w", m.Platform, err)
	}
	if m.next, err = loadPlatform(ctx, c, req.Onto, m.Platform); err != nil {
		return err
	}
	m.name, m.From, m.Onto = req.Onto.FamiliarString(), m.old.desc.Digest, m.next.desc.Digest
	if m.Onto == m.child.desc.Digest {
		return diag.Hint(fmt.Errorf("%s: it can't stand on itself", m.Platform), "--onto names the parent that it gets")
	}
	if m.done, err = m.decide(ctx, c, known, img); err == nil {
		m.Own, m.Merged = len(m.child.manifest.Layers)-len(m.old.manifest.Layers), m.done.Merged
		if m.done.Layer != nil {
			m.Added = m.done.Layer.Descriptor.Size
		}
		return nil
	}
	var conflict *image.ConflictError
	var inexact *image.NotExact
	switch {
	case errors.As(err, &conflict):
		m.Conflicts = conflict.Conflicts
		return nil
	case errors.As(err, &inexact):
		return diag.Hint(fmt.Errorf("%s: %w", m.Platform, err), "build the image on %s instead", m.name)
	}
	return fmt.Errorf("%s: %w", m.Platform, err)
}

// oldParent gives the image that one platform stands on: the one that was named,
// which must be the one that the image notes if it notes any, or that one.
func (m *rebasePart) oldParent(ctx context.Context, c *registry.Client, req RebaseRequest) (*picture, error) {
	noted := func(name string) string {
		if v := m.child.manifest.Annotations[name]; v != "" {
			return v
		}
		return m.desc.Annotations[name]
	}
	d := digest.Digest(noted(ocispec.AnnotationBaseImageDigest))
	if req.From.Repo != "" {
		a := c.Lookup(ctx, req.From)
		if a.Err != nil {
			return nil, a.Err
		}
		old, err := loadPlatform(ctx, c, req.From, m.Platform)
		if err != nil {
			return nil, err
		}
		if d != "" && d != old.desc.Digest && d != a.Desc.Digest {
			return nil, diag.Hint(fmt.Errorf("it notes %s, and %s is %s", d, req.From.FamiliarString(), old.desc.Digest),
				"name the parent by its digest, or leave out --from")
		}
		return old, nil
	}
	name := noted(ocispec.AnnotationBaseImageName)
	if d.Validate() != nil || name == "" {
		return nil, diag.Hint(errors.New("the image does not note what it stands on"), "name its parent so far with --from")
	}
	ref, err := registry.ParseRef(name)
	if err != nil {
		return nil, err
	}
	refs := []registry.Ref{ref.Repository().WithDigest(d)}
	if !hasHost(name) { // an image of this machine alone, whose name has no host
		own := registry.Ref{Host: registry.EmbeddedHost, Repo: strings.TrimPrefix(ref.Repo, "library/")}
		refs = append([]registry.Ref{own.WithDigest(d)}, refs...)
	}
	for _, ref := range append(refs, m.child.ref.WithDigest(d)) {
		old, e := loadPlatform(ctx, c, ref, m.Platform)
		if e == nil {
			return old, nil
		}
		if err = e; !errors.Is(e, registry.ErrNotFound) {
			break
		}
	}
	return nil, diag.Hint(err, "name its parent so far with --from, if it is elsewhere")
}

// loadPlatform fetches one platform of an image.
func loadPlatform(ctx context.Context, c *registry.Client, ref registry.Ref, platform string) (*picture, error) {
	d, _, err := c.Platform(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	return loadPicture(ctx, c, ref.Repository().WithDigest(d.Digest))
}

// decide reads what a rebase is decided from.
func (m *rebasePart) decide(ctx context.Context, c *registry.Client, known *shared, img *image.Image) (*image.Rebased, error) {
	if !startsWith(m.child.manifest.Layers, m.old.manifest.Layers) {
		return nil, &image.NotExact{Reason: "it does not stand on its old parent's layers"}
	}
	sides := []image.Side{{Image: img}, {}, {}}
	for i, p := range []*picture{m.old, m.next} {
		var err error
		if sides[i+1].Image, err = image.Parse(p.body, p.config); err != nil {
			return nil, err
		}
		if sides[i+1].Inventory, err = tracedInventory(ctx, c, known, p); err != nil {
			return nil, err
		}
	}
	n := len(m.old.manifest.Layers)
	trace, err := m.own(ctx, c, known, &sides[0], sides[1].Inventory, n)
	if err != nil {
		return nil, err
	}
	plan, err := image.Rebase(sides[0], sides[1], sides[2], trace, image.RebaseOptions{
		Created: max(createdAt(m.child.config).Unix(), oldest.Unix()), Compression: compressionOf(m.child.manifest.Layers[n:]),
	})
	if err != nil {
		return nil, err
	}
	return finishRebase(ctx, plan, c, known, []*picture{m.child, m.old, m.next}, sides)
}

// own gives the trace of the image's own layers, and its inventory on the way,
// so that layers are read once at most.
func (m *rebasePart) own(ctx context.Context, c *registry.Client, known *shared, side *image.Side, base *inventory.Inventory, n int) (*inventory.Trace, error) {
	if side.Inventory = ownInventory(ctx, c, m.child, true); side.Inventory != nil {
		return traceOf(ctx, c, m.child, n, base, known)
	}
	if trunk, err := trunkInventory(ctx, c, m.child); err == nil && trunk != nil {
		if side.Inventory, err = readInventory(ctx, c, m.child); err != nil {
			return nil, err
		}
		return traceOf(ctx, c, m.child, n, base, known)
	}
	own, err := openLayers(ctx, c, m.child, n)
	if err != nil {
		return nil, err
	}
	inv, trace, err := inventory.FromLayersTraced(ctx, base, own)
	side.Inventory = inv
	known.keep(trace)
	return trace, forgedLayer(m.child, err)
}

// tracedInventory is readInventory that remembers the files that a trace holds.
func tracedInventory(ctx context.Context, c *registry.Client, known *shared, img *picture) (*inventory.Inventory, error) {
	if inv := ownInventory(ctx, c, img, true); inv != nil {
		return inv, nil
	}
	if inv, _, err := keptInventory(ctx, c, img.ref.WithTag(inventoryTag(img.desc.Digest)), img, true); inv != nil && err == nil {
		return inv, nil
	}
	inv, trace, err := listLayers(ctx, c, img, func(l ocispec.Descriptor) (io.ReadCloser, error) { return c.Blob(ctx, img.ref, l) })
	known.keep(trace)
	return inv, err
}

func compressionOf(layers []ocispec.Descriptor) string {
	if len(layers) > 0 && strings.HasSuffix(layers[0].MediaType, "zstd") {
		return "zstd"
	}
	return "gzip"
}

// annotated gives the manifest with what is true of it now. What Strata noted of
// the image as it was is left out: the image stands under no key.
func (m *rebasePart) annotated() (*image.Image, error) {
	change := map[string]string{
		ocispec.AnnotationBaseImageName: m.name, ocispec.AnnotationBaseImageDigest: m.next.desc.Digest.String(),
	}
	for k := range m.done.Image.Manifest.Annotations {
		if strings.HasPrefix(k, "build.strata.") && k != annotationUnit {
			change[k] = ""
		}
	}
	return image.Annotate(m.done.Image, change)
}

// publish writes the images, by digest, and then the name.
func (res RebaseResult) publish(ctx context.Context, c *registry.Client, req RebaseRequest, index *ocispec.Index, parts []*rebasePart) (RebaseResult, error) {
	images := make([]*image.Image, len(parts))
	for i, m := range parts {
		var err error
		if images[i], err = m.annotated(); err != nil {
			return res, err
		}
		res.Platforms[i].New = images[i].Descriptor.Digest
	}
	body, mediaType := images[0].Body, images[0].Descriptor.MediaType
	if index != nil {
		var err error
		if body, err = newIndex(index, parts, images); err != nil {
			return res, err
		}
		mediaType = ocispec.MediaTypeImageIndex
	}
	res.Digest = digest.FromBytes(body)
	if a := c.Direct().Lookup(ctx, res.Target); a.State == registry.Hit {
		res.Previous = a.Desc.Digest
	}
	if req.Check != nil {
		if err := req.Check(res.Target, res.Previous, res.Digest); err != nil {
			return res, fmt.Errorf("rebasing %s: %w", req.Image.FamiliarString(), err)
		}
	}
	if req.DryRun {
		return res, nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, m := range parts {
		g.Go(func() error { return m.push(gctx, c, res.Target.Repository(), images[i]) })
	}
	if err := g.Wait(); err != nil {
		return res, fmt.Errorf("rebasing %s: %w", req.Image.FamiliarString(), err)
	}
	if _, err := c.PutManifest(ctx, res.Target.Repository().WithTag(res.Target.Tag), mediaType, body); err != nil {
		return res, fmt.Errorf("setting the tag %s: %w", res.Target.FamiliarString(), err)
	}
	return res, nil
}

// push brings one platform into a repository, under its digest.
func (m *rebasePart) push(ctx context.Context, c *registry.Client, repo registry.Ref, img *image.Image) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bringLayers(gctx, c, repo, m.next) })
	g.Go(func() error { // the own ones
		own := &picture{ref: m.child.ref, manifest: ocispec.Manifest{Layers: m.child.manifest.Layers[len(m.old.manifest.Layers):]}}
		return bringLayers(gctx, c, repo, own)
	})
	g.Go(func() error {
		_, err := c.PushBytes(gctx, repo, ocispec.MediaTypeImageConfig, img.Config)
		return err
	})
	if m.done.Layer != nil {
		g.Go(func() error {
			_, err := c.PushBytes(gctx, repo, m.done.Layer.Descriptor.MediaType, m.done.Data)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if _, err := c.PutManifest(ctx, repo.WithDigest(img.Descriptor.Digest), img.Descriptor.MediaType, img.Body); err != nil {
		return err
	}
	if m.child.manifest.Annotations[annotationUnit] == "" && repo.Host != registry.EmbeddedHost {
		return nil // no tags of ours beside an image that is not
	}
	_, err := keepTraced(ctx, c, repo.WithTag(inventoryTag(img.Descriptor.Digest)), m.done.Inventory, m.done.Trace)
	return err
}

// newIndex is the index with the new images in the places of the old ones.
// Attestations are about the old ones, and left out.
func newIndex(old *ocispec.Index, parts []*rebasePart, images []*image.Image) ([]byte, error) {
	idx := *old
	idx.MediaType, idx.Manifests = ocispec.MediaTypeImageIndex, nil
	for i, m := range parts {
		d := m.desc
		d.MediaType, d.Digest, d.Size = images[i].Descriptor.MediaType, images[i].Descriptor.Digest, images[i].Descriptor.Size
		d.Annotations = maps.Clone(d.Annotations)
		if d.Annotations[ocispec.AnnotationBaseImageDigest] != "" {
			d.Annotations[ocispec.AnnotationBaseImageName] = m.name
			d.Annotations[ocispec.AnnotationBaseImageDigest] = m.next.desc.Digest.String()
		}
		delete(d.Annotations, annotationKey)
		idx.Manifests = append(idx.Manifests, d)
	}
	if slices.ContainsFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return d.Platform == nil }) {
		return nil, errors.New("writing the index: internal error: a platform is not known")
	}
	body, err := json.Marshal(idx)
	if err != nil {
		return nil, fmt.Errorf("writing the index: %w", err)
	}
	return body, nil
}
