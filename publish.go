package strata

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/times"
)

// Media types of what is attached to an image.
const (
	unitArtifact = "application/vnd.strata.unit.v1"
	recipeType   = "application/vnd.strata.recipe.v1+zstd"
)

// publication is an image whose layers are in the repository, about to be
// published under its key.
type publication struct {
	recipe    key.Recipe
	manifest  ocispec.Manifest
	config    []byte
	inventory *inventory.Inventory // nil when it follows from the trunk's
	trace     *inventory.Trace     // of the layers above the base; nil when it is not known
	tables    times.Tables         // of the times of its own layers; nil when they are not known
	times     []byte               // the same, coded
	trunk     *picture             // what a tail was put on; nil without one
	base      *picture             // what the image was rebased onto; nil otherwise
	whole     bool                 // the image is the unit, not only its trunk
	layer     []byte               // the tail's blob where it is still to be sent
	layerType string
	tail      tailFacts            // of the tail's blob; zero without one
	tailFiles *inventory.Inventory // of the tail's blob alone; nil without one
}

// publish puts config, recipe and inventory beside the layers, then the
// manifest under its key and the tags that help to find it again.
func (r *runner) publish(ctx context.Context, u *graph.Unit, m *Made, pub publication) (*picture, error) {
	repo := r.repo(u)
	config := pub.config
	if pub.whole && pub.trunk == nil { // an append has seen to it
		var err error
		if config, err = withLabels(config, u.Labels); err != nil {
			return nil, err
		}
	}
	if len(pub.tables) > 0 {
		var err error
		if pub.times, err = pub.tables.Encode(); err != nil {
			return nil, err
		}
	}
	blobs, err := pub.attachments()
	if err != nil {
		return nil, err
	}
	pub.manifest.Config = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
	}
	pub.manifest.MediaType = ocispec.MediaTypeImageManifest
	pub.manifest.Annotations = r.annotations(u, pub, blobs)
	body, err := json.Marshal(pub.manifest)
	if err != nil {
		return nil, fmt.Errorf("writing the manifest of %s: %w", u.ID, err)
	}
	// First writer wins: what another run has published meanwhile may have tags
	// and children by now. An engine's build has looked before.
	var there *picture
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.sendBlobs(gctx, u, pub, config, blobs) })
	if pub.whole && pub.trunk != nil && !m.built {
		g.Go(func() (err error) {
			there, err = r.builtMeanwhile(gctx, u, m, pub.recipe)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", u.ID, err)
	}
	if there != nil {
		return there, nil
	}
	img := &picture{ref: repo, body: body, manifest: pub.manifest, config: config}
	img.desc = ocispec.Descriptor{MediaType: pub.manifest.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	return img, r.sendManifests(ctx, u, pub, img, blobs)
}

// sendBlobs sends everything that the manifests will name, at once.
func (r *runner) sendBlobs(ctx context.Context, u *graph.Unit, pub publication, config []byte, blobs []registry.Blob) error {
	repo, c := r.repo(u), r.pass.Config.Client
	g, ctx := errgroup.WithContext(ctx)
	send := func(mediaType string, data []byte) {
		g.Go(func() error {
			_, err := c.PushBytes(ctx, repo, mediaType, data)
			return err
		})
	}
	send(ocispec.MediaTypeImageConfig, config)
	for _, b := range blobs {
		send(b.MediaType, b.Data)
	}
	if pub.layer != nil {
		send(pub.layerType, pub.layer)
	}
	g.Go(func() error { return c.EnsureEmpty(ctx, repo) })
	g.Go(func() error { return r.bringLayers(ctx, u, pub.trunk) })
	g.Go(func() error { return r.bringLayers(ctx, u, pub.base) })
	return g.Wait()
}

// sendManifests puts the manifest under its tags, and beside it the artifact
// that holds on to recipe and inventory, so that a registry's garbage
// collection leaves them. All blobs are there, so each tag is whole by itself.
func (r *runner) sendManifests(ctx context.Context, u *graph.Unit, pub publication, img *picture, blobs []registry.Blob) error {
	tags := []string{pub.recipe.ID().Tag()}
	if pub.whole {
		tags = append(tags, lastTag(u))
		if len(u.Parents) > 0 {
			tags = append(tags, r.contentID(u).Tag())
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.pointTo(ctx, u, img, tags...) })
	g.Go(func() error {
		descs := make([]ocispec.Descriptor, len(blobs))
		for i, b := range blobs {
			descs[i] = ocispec.Descriptor{MediaType: b.MediaType, Digest: digest.FromBytes(b.Data), Size: int64(len(b.Data))}
		}
		_, err := r.pass.Config.Client.PutArtifact(ctx, r.repo(u).WithTag(artifactTag(pub.recipe.ID())), manifestOf(img.desc), unitArtifact, descs, pub.onArtifact())
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("publishing %s: %w", u.ID, err)
	}
	return nil
}

// published says on an artifact when it was put there. An image can't say so of
// itself: it would never come out the same. Pruning tells its age by this.
func published() map[string]string {
	return map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339)}
}

// smallTimes is how many bytes of coded times stand in the artifact itself, which
// spares a change of code one of the blobs that it sends.
const smallTimes = 12 << 10

// onArtifact are the annotations of the artifact that goes with an image.
func (pub publication) onArtifact() map[string]string {
	a := published()
	if n := len(pub.times); n > 0 && n <= smallTimes {
		a[annotationTimes] = base64.StdEncoding.EncodeToString(pub.times)
	}
	return a
}

// artifactTag is the tag of the artifact that goes with the image under a key.
func artifactTag(id key.ID) string { return "strata-a-" + string(id) }

// contentArtifactTag is the tag of the same for an image that is found under a
// content key which it does not name itself.
func contentArtifactTag(id key.ContentID) string { return "strata-a-" + string(id) }

// attachments are the blobs that go with an image.
func (pub publication) attachments() ([]registry.Blob, error) {
	recipe, err := compress(pub.recipe.Text())
	if err != nil {
		return nil, err
	}
	blobs := []registry.Blob{{MediaType: recipeType, Data: recipe}}
	if len(pub.times) > smallTimes {
		blobs = append(blobs, registry.Blob{MediaType: times.MediaType, Data: pub.times})
	}
	if pub.tailFiles != nil {
		var b bytes.Buffer
		if err := pub.tailFiles.Encode(&b); err != nil {
			return nil, err
		}
		blobs = append(blobs, registry.Blob{MediaType: inventory.MediaTypeTail, Data: b.Bytes()})
	}
	if pub.inventory == nil {
		return blobs, nil
	}
	for _, part := range []struct {
		mediaType string
		encode    func(io.Writer) error
	}{{inventory.MediaTypeSmall, pub.inventory.EncodeSmall}, {inventory.MediaTypeFull, pub.inventory.Encode}} {
		var b bytes.Buffer
		if err := part.encode(&b); err != nil {
			return nil, err
		}
		blobs = append(blobs, registry.Blob{MediaType: part.mediaType, Data: b.Bytes()})
	}
	if pub.trace != nil {
		var b bytes.Buffer
		if err := pub.trace.Encode(&b); err != nil {
			return nil, err
		}
		blobs = append(blobs, registry.Blob{MediaType: inventory.MediaTypeTrace, Data: b.Bytes()})
	}
	return blobs, nil
}

func compress(data []byte) ([]byte, error) {
	w, err := recipeEncoder()
	if err != nil {
		return nil, fmt.Errorf("compressing a recipe: %w", err)
	}
	return w.EncodeAll(data, nil), nil
}

// recipeEncoder is made once: that takes longer than compressing a recipe.
var recipeEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
})

// annotations are the manifest's: OCI's own, and Strata's.
func (r *runner) annotations(u *graph.Unit, pub publication, blobs []registry.Blob) map[string]string {
	a := map[string]string{
		annotationKey:                 string(pub.recipe.ID()),
		annotationUnit:                r.canonical(u),
		ocispec.AnnotationCreated:     createdAt(pub.config).Format(time.RFC3339),
		ocispec.AnnotationTitle:       r.canonical(u),
		ocispec.AnnotationDescription: "",
	}
	delete(a, ocispec.AnnotationDescription)
	if pub.whole && len(u.Parents) > 0 {
		a[annotationContent] = string(r.contentID(u))
	}
	v := r.pass.Config.Version
	setIf(a, ocispec.AnnotationRevision, v.state())
	setIf(a, ocispec.AnnotationVersion, v.Name)
	setIf(a, ocispec.AnnotationSource, v.Source)
	if name, d := r.baseName(u); d != "" {
		a[ocispec.AnnotationBaseImageName], a[ocispec.AnnotationBaseImageDigest] = name, d.String()
	}
	setIf(a, annotationBases, r.baseFacts(u))
	if pub.tail.Fingerprint != "" {
		facts, err := json.Marshal(pub.tail)
		if err != nil {
			panic("internal error: " + err.Error())
		}
		a[annotationTail] = string(facts)
	}
	for _, b := range blobs {
		if name := annotationFor[b.MediaType]; name != "" {
			a[name] = annotateBlob(b.Data)
		}
	}
	if pub.trunk != nil && pub.trunk.desc.Digest != "" {
		a[annotationTrunk] = pub.trunk.desc.Digest.String()
		r.listed(a, pub.trunk.desc.Digest)
	}
	return a
}

// canonical names what a unit's image is called: the first unit that has its key,
// whichever of them is made first.
func (r *runner) canonical(u *graph.Unit) string {
	name, id := u.ID, r.pass.Keys[u.ID].Unit.ID()
	for _, other := range r.pass.Units {
		if other.ID < name && r.repo(other) == r.repo(u) && r.pass.Keys[other.ID].Unit.ID() == id {
			name = other.ID
		}
	}
	return name
}

// listed notes where the inventory of a trunk lies that has none of its own, so
// that the next append need not look for it.
func (r *runner) listed(a map[string]string, trunk digest.Digest) {
	small, full := r.pass.known.inventoryBlobs(trunk)
	if small == "" {
		return
	}
	for _, x := range r.pass.externals {
		if x.digest == trunk { // baseFacts has it
			return
		}
	}
	data, err := json.Marshal(trunkFacts{trunk, small, full, checkedDiffIDs})
	if err != nil {
		panic("internal error: " + err.Error())
	}
	a[annotationListed] = string(data)
}

// baseFacts is what a unit's image remembers of the external images in it.
func (r *runner) baseFacts(u *graph.Unit) string {
	var facts []baseFacts
	for _, f := range u.Build.Froms {
		e, ok := externalOf(r.pass.Graph, u, f)
		x, there := r.pass.externals[e]
		if !ok || !there || slices.ContainsFunc(facts, func(b baseFacts) bool { return b.Image == e.image && b.Platform == e.platform }) {
			continue
		}
		b := baseFacts{Image: e.image, Platform: e.platform, Index: x.index, Digest: x.digest, Config: x.base}
		b.Small, b.Full = r.pass.known.inventoryBlobs(x.digest)
		if b.Small == "" && x.facts.Digest == x.digest {
			b.Small, b.Full, b.Checked = x.facts.Small, x.facts.Full, x.facts.Checked
		} else if b.Small != "" {
			b.Checked = checkedDiffIDs
		}
		facts = append(facts, b)
	}
	if facts == nil {
		return ""
	}
	data, err := json.Marshal(facts)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return string(data)
}

var annotationFor = map[string]string{
	recipeType:               annotationRecipe,
	inventory.MediaTypeSmall: annotationSmall,
	inventory.MediaTypeFull:  annotationFull,
	inventory.MediaTypeTrace: annotationTrace,
	inventory.MediaTypeTail:  annotationTailFiles,
}

func setIf(m map[string]string, name, value string) {
	if value != "" {
		m[name] = value
	}
}

// baseName gives the name and platform digest of the image that a unit's
// Dockerfile starts from.
func (r *runner) baseName(u *graph.Unit) (string, digest.Digest) {
	f := u.Build.Trunk.From
	if up := r.pass.Graph.Parent(u, f); up != nil {
		if img := r.image(up.ID); img != nil {
			return r.repo(up).FamiliarString(), img.desc.Digest
		}
		return "", ""
	}
	if e, ok := externalOf(r.pass.Graph, u, f); ok {
		x := r.pass.externals[e]
		return x.ref.String(), x.digest
	}
	return "", ""
}

// contentID gives a unit's content key; its parents have been made. A parent
// counts by the digest of its config, which names its layers' content and all
// that a child takes over. Its manifest's digest would never come out the same:
// the key and the version stand in the manifest.
func (r *runner) contentID(u *graph.Unit) key.ContentID {
	in := r.pass.inputs[u.ID]
	parent := in.Parent
	in.Parent = func(f dockerfile.From) (key.Parent, bool) {
		p, ok := parent(f)
		img := r.image(p.Unit)
		if ok && img == nil {
			img, _ = parsePicture(r.pass.answers.units[p.Unit])
		}
		if img != nil {
			p.Digest = img.manifest.Config.Digest
		}
		return p, ok
	}
	return key.Content(in)
}

// withLabels adds labels to an image's config.
func withLabels(config []byte, labels map[string]string) ([]byte, error) {
	if len(labels) == 0 {
		return config, nil
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(config, &top); err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	inner := map[string]json.RawMessage{}
	if raw, ok := top["config"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &inner); err != nil {
			return nil, fmt.Errorf("reading the config: %w", err)
		}
	}
	all := map[string]string{}
	if raw, ok := inner["Labels"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, fmt.Errorf("reading the labels: %w", err)
		}
	}
	maps.Copy(all, labels)
	for _, step := range []func() error{
		func() (err error) { inner["Labels"], err = json.Marshal(all); return },
		func() (err error) { top["config"], err = json.Marshal(inner); return },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("writing the labels: %w", err)
		}
	}
	return json.Marshal(top)
}
