package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// move is one user-facing tag and what it will point to.
type move struct {
	ref       registry.Ref
	mediaType string
	body      []byte
}

// release moves the user-facing tags: those of manifests first, then, once all
// of them stand, those of indexes. It is called only when every unit of the run
// is in the registry, so a tag never points at half a release.
func (r *runner) release(ctx context.Context, res Result) (Result, error) {
	r.inBackground.Wait()
	if r.pass.Config.NoTags {
		return res, r.keepRecord(ctx, res)
	}
	manifests, indexes, err := r.moves()
	if err != nil {
		return res, err
	}
	for _, moves := range []*[]move{&manifests, &indexes} {
		rest, held, err := r.hold(ctx, *moves)
		if err != nil {
			return res, err
		}
		*moves, res.Held = rest, append(res.Held, held...)
	}
	all := append(slices.Clone(manifests), indexes...)
	if err := r.protected(all); err != nil {
		return res, err
	}
	for _, m := range all {
		res.Tags = append(res.Tags, Moved{m.target(), r.tagBefore(m.ref)})
	}
	var beside errgroup.Group // what is written while the tags move
	mine := orders{}
	if r.ordered() {
		mine = r.mine(all)
		beside.Go(func() error { return r.claim(ctx, r.orders, mine) })
	}
	planned := res
	beside.Go(func() error { return r.keepRecord(ctx, planned) })
	var done []Moved
	for _, moves := range [][]move{manifests, indexes} {
		moved, e := r.set(ctx, moves)
		done = append(done, moved...)
		if err = e; err != nil {
			break
		}
	}
	res.Tags = done
	err = errors.Join(err, beside.Wait())
	if err == nil && !r.settled(done, mine) {
		err = r.settle(ctx, all, mine)
	}
	return res, err
}

// Moves says which tags [Pass.Execute] would set now, of the units that the
// registry has. It moves none.
func (p *Pass) Moves(ctx context.Context) (Result, error) {
	var res Result
	r := p.newRunner()
	for _, s := range p.Plan.Steps {
		if s.Action != plan.Reuse {
			continue
		}
		img, err := p.hit(s.Unit)
		if err != nil {
			return res, err
		}
		r.images[s.Unit] = img
	}
	r.lookAtTags(ctx)
	r.inBackground.Wait()
	manifests, indexes, err := r.moves()
	if err != nil {
		return res, err
	}
	all, held, err := r.hold(ctx, append(manifests, indexes...))
	if err != nil {
		return res, err
	}
	for _, m := range all {
		res.Tags = append(res.Tags, Moved{m.target(), r.tagBefore(m.ref)})
	}
	res.Held = held
	return res, r.protected(all)
}

// settled says whether this run has changed nothing that another one could have
// changed at the same time.
func (r *runner) settled(done []Moved, mine orders) bool {
	for repo, set := range mine {
		for tag, s := range set {
			if r.orders[repo][tag] != s {
				return false
			}
		}
	}
	return !slices.ContainsFunc(done, func(m Moved) bool { return m.Previous != m.Ref.Digest.String() })
}

// protected refuses to move a tag that the project protects and that points
// elsewhere.
func (r *runner) protected(moves []move) error {
	if r.pass.Config.Force {
		return nil
	}
	var taken []string
	for _, m := range moves {
		if !slices.ContainsFunc(r.pass.Config.Project.Protect, func(pattern string) bool {
			ok, _ := path.Match(pattern, m.ref.Tag)
			return ok
		}) {
			continue
		}
		if err := r.unknown[m.ref]; err != nil {
			return fmt.Errorf("looking up the protected tag %s: %w", m.ref.Tag, err)
		}
		if before := r.tagBefore(m.ref); before != "" && before != digest.FromBytes(m.body).String() {
			taken = append(taken, m.ref.Tag)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	return diag.Hint(fmt.Errorf("moving tags: %s would be overwritten, and the project protects that", strings.Join(taken, ", ")),
		"the images are there under their keys; give the release another version, or use --force")
}

// target is where the tag will point.
func (m move) target() registry.Ref {
	return registry.Ref{Host: m.ref.Host, Repo: m.ref.Repo, Tag: m.ref.Tag, Digest: digest.FromBytes(m.body)}
}

// recordArtifact is the artifact type of a run's record.
const recordArtifact = "application/vnd.strata.record.v1"

// keepRecord keeps the record of a run that made something or moves a tag beside
// the last image that it made, or else reused, under a tag of its own. The record
// stands in an annotation, so that one request keeps it. It has no subject: some
// registries delete with an image what is attached to it, and a record tells of
// more than one.
func (r *runner) keepRecord(ctx context.Context, res Result) error {
	last, reused := -1, -1
	for i, m := range res.Units {
		switch {
		case m.Ref.Digest == "":
		case m.Action != plan.Reuse:
			last = i
		default:
			reused = i
		}
	}
	if last < 0 && slices.ContainsFunc(res.Tags, func(t Moved) bool { return t.Previous != t.Ref.Digest.String() }) {
		last = reused
	}
	if last < 0 || r.pass.Config.Record == nil {
		return nil
	}
	id, data, err := r.pass.Config.Record(res)
	if err != nil {
		return fmt.Errorf("writing the record of the run: %w", err)
	}
	m := res.Units[last]
	c, repo := r.pass.Config.Client, r.pass.repos[m.Unit]
	if err := c.EnsureEmpty(ctx, repo); err != nil {
		return fmt.Errorf("keeping the record of the run: %w", err)
	}
	_, err = c.PutArtifact(ctx, repo.WithTag(recordPrefix+id), ocispec.Descriptor{}, recordArtifact, nil,
		map[string]string{annotationRun: id, annotationRecord: string(data)})
	if err != nil {
		return fmt.Errorf("keeping the record of the run: %w", err)
	}
	return nil
}

// moves gives the tags of the units' manifests, and those of indexes whose
// platforms are all in this run.
func (r *runner) moves() (manifests, indexes []move, err error) {
	rel := r.pass.Config.Version.Release()
	project := r.pass.Config.Project
	groups := map[string][]*graph.Unit{}
	var order []string
	for _, u := range r.pass.Units {
		img := r.image(u.ID)
		if img == nil {
			continue
		}
		for _, tag := range project.TagsFor(u.Unit, rel) {
			manifests = append(manifests, move{r.repo(u).WithTag(tag), img.desc.MediaType, img.body})
		}
		group := u.Layer + "/" + u.Variant
		if groups[group] == nil {
			order = append(order, group)
		}
		groups[group] = append(groups[group], u)
	}
	for _, name := range order {
		units := groups[name]
		tags := project.IndexTags(units[0].Layer, units[0].Variant, rel)
		if len(tags) == 0 || len(units) < r.platforms(units[0]) {
			continue
		}
		body, err := r.index(units)
		if err != nil {
			return nil, nil, err
		}
		for _, tag := range tags {
			indexes = append(indexes, move{r.repo(units[0]).WithTag(tag), ocispec.MediaTypeImageIndex, body})
		}
	}
	return manifests, indexes, nil
}

// platforms counts the units of a layer in a variant.
func (r *runner) platforms(u *graph.Unit) int {
	n := 0
	for _, other := range r.pass.Graph.Units {
		if other.Layer == u.Layer && other.Variant == u.Variant {
			n++
		}
	}
	return n
}

// index writes the index over the platforms of one layer and variant.
func (r *runner) index(units []*graph.Unit) ([]byte, error) {
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{},
	}
	v := r.pass.Config.Version
	setIf(idx.Annotations, ocispec.AnnotationRevision, v.state())
	setIf(idx.Annotations, ocispec.AnnotationVersion, v.Name)
	setIf(idx.Annotations, ocispec.AnnotationSource, v.Source)
	created := oldest
	for _, u := range units {
		img := r.image(u.ID)
		d := manifestOf(img.desc)
		d.Platform = platformOf(u.Platform)
		d.Annotations = map[string]string{annotationKey: img.manifest.Annotations[annotationKey]}
		idx.Manifests = append(idx.Manifests, d)
		for _, a := range []string{ocispec.AnnotationBaseImageName, ocispec.AnnotationBaseImageDigest} {
			setIf(d.Annotations, a, img.manifest.Annotations[a])
		}
		// Images that were made before they told their time count as the oldest.
		if t, err := time.Parse(time.RFC3339, img.manifest.Annotations[ocispec.AnnotationCreated]); err == nil && t.After(created) {
			created = t
		}
	}
	idx.Annotations[ocispec.AnnotationCreated] = created.UTC().Format(time.RFC3339)
	body, err := json.Marshal(idx)
	if err != nil {
		return nil, fmt.Errorf("writing an index: %w", err)
	}
	return body, nil
}

func platformOf(s string) *ocispec.Platform {
	parts := strings.SplitN(s, "/", 3)
	p := &ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p
}

// Release is what tag templates are filled from.
func (v Version) Release() spec.Release {
	sha := v.Revision
	if len(sha) > 12 {
		sha = sha[:12]
	}
	return spec.Release{Version: v.Name, Branch: v.Branch, Sha: sha}
}

// state is the commit as an image names it: files that differ from it are no
// part of any commit.
func (v Version) state() string {
	if v.Dirty && v.Revision != "" {
		return v.Revision + "-dirty"
	}
	return v.Revision
}

// set moves tags, a few at a time. A tag that points to the right place already
// is left alone.
func (r *runner) set(ctx context.Context, moves []move) ([]Moved, error) {
	byRef := map[registry.Ref]move{}
	for _, m := range moves {
		byRef[m.ref] = m
	}
	var mu sync.Mutex
	set := map[registry.Ref]Moved{}
	err := each(ctx, byRef, 8, func(ctx context.Context, ref registry.Ref, m move) error {
		d := digest.FromBytes(m.body)
		before := r.tagBefore(ref)
		if before != d.String() {
			if _, err := r.pass.Config.Client.PutManifest(ctx, ref, m.mediaType, m.body); err != nil {
				return fmt.Errorf("moving the tag %s: %w", ref.FamiliarString(), err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		set[ref] = Moved{Ref: m.target(), Previous: before}
		return nil
	})
	var out []Moved
	for _, m := range moves {
		if s, ok := set[m.ref]; ok {
			out = append(out, s)
			delete(set, m.ref)
		}
	}
	return out, err
}

// lookAtTags finds out, beside the run, where the tags point before it moves
// them.
func (r *runner) lookAtTags(ctx context.Context) {
	rel := r.pass.Config.Version.Release()
	project := r.pass.Config.Project
	var refs []registry.Ref
	for _, u := range r.pass.Units {
		for _, tag := range append(project.TagsFor(u.Unit, rel), project.IndexTags(u.Layer, u.Variant, rel)...) {
			refs = append(refs, r.repo(u).WithTag(tag))
		}
	}
	if r.ordered() {
		r.inBackground.Go(func() { r.orders, r.ordersErr = r.readOrders(ctx, repositories(refs)) })
	}
	r.inBackground.Go(func() {
		for i, a := range r.pass.Config.Client.Probe(ctx, refs) {
			r.mu.Lock()
			switch a.State {
			case registry.Hit:
				r.before[refs[i]] = a.Desc.Digest.String()
			case registry.Failed:
				r.unknown[refs[i]] = a.Err
			}
			r.mu.Unlock()
		}
	})
}

func (r *runner) tagBefore(ref registry.Ref) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.before[ref]
}
