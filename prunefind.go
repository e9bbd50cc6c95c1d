package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
)

// findings are what was found in repositories: manifests are immutable, so that
// each is read once.
type findings struct {
	client *registry.Client

	mu        sync.Mutex
	tags      map[registry.Ref]prune.Tag // by reference with tag
	manifests map[prune.ID]prune.Manifest
	order     []prune.ID
	refs      map[string]registry.Ref // repositories by name
	gone      map[prune.ID]bool       // named, and not there
	asked     map[prune.ID]bool       // for attachments
	runs      map[prune.ID]record.Record
	journal   map[prune.ID]journal.Record
}

func newFindings(c *registry.Client) *findings {
	return &findings{
		client: c, tags: map[registry.Ref]prune.Tag{}, manifests: map[prune.ID]prune.Manifest{}, refs: map[string]registry.Ref{},
		gone: map[prune.ID]bool{}, asked: map[prune.ID]bool{}, runs: map[prune.ID]record.Record{}, journal: map[prune.ID]journal.Record{},
	}
}

// atOnce bounds the requests under way to one registry.
const atOnce = 16

// look reads a repository: one list of tags, a request for each tag, and one for
// each manifest that several tags or an index point to.
func (f *findings) look(ctx context.Context, repo registry.Ref) error {
	return f.lookAt(ctx, repo, func(registry.TagInfo) bool { return true })
}

// lookLogs reads the records of a repository alone.
func (f *findings) lookLogs(ctx context.Context, repo registry.Ref) error {
	return f.lookAt(ctx, repo, func(t registry.TagInfo) bool {
		return strings.HasPrefix(t.Ref.Tag, recordPrefix) || strings.HasPrefix(t.Ref.Tag, journal.Tag(""))
	})
}

// lookAt reads the tags of a repository for which want says yes, and what they
// lead to.
func (f *findings) lookAt(ctx context.Context, repo registry.Ref, want func(registry.TagInfo) bool) error {
	f.refs[repo.String()] = repo
	tags, err := f.client.ListTags(ctx, repo)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	tags = slices.DeleteFunc(tags, func(t registry.TagInfo) bool { return !want(t) })
	if err := f.readTags(ctx, repo, tags); err != nil {
		return err
	}
	found := map[prune.ID]bool{}
	for _, t := range f.tags {
		if t.Repo == repo.String() {
			found[prune.ID{Repo: t.Repo, Digest: t.Digest}] = true
		}
	}
	return f.read(ctx, found)
}

// readTags finds out what tags point to. Those that most likely share a manifest
// are asked for its digest alone, which moves no body.
func (f *findings) readTags(ctx context.Context, repo registry.Ref, tags []registry.TagInfo) error {
	want := map[registry.Ref]registry.TagInfo{}
	for _, t := range tags {
		want[t.Ref] = t
	}
	return each(ctx, want, atOnce, func(ctx context.Context, ref registry.Ref, t registry.TagInfo) error {
		out := prune.Tag{Repo: repo.String(), Name: ref.Tag, Digest: t.Digest, Set: t.Updated}
		switch {
		case out.Digest != "":
		case prune.Pointer(ref.Tag):
			d, err := f.client.Resolve(ctx, ref)
			if errors.Is(err, registry.ErrNotFound) {
				return nil // gone meanwhile
			} else if err != nil {
				return err // it names the tag
			}
			out.Digest = d.Digest
		default:
			a := f.client.Lookup(ctx, ref)
			if a.State == registry.Miss {
				return nil
			} else if a.Err != nil {
				return a.Err
			}
			out.Digest = a.Desc.Digest
			if err := f.note(repo, a); err != nil {
				return err
			}
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tags[ref] = out
		return nil
	})
}

// read fetches manifests by digest, and those that they lead to: images of
// indexes, and the images that artifacts of ours are about, which an image
// without a tag is found by.
func (f *findings) read(ctx context.Context, want map[prune.ID]bool) error {
	for len(want) > 0 {
		fetch := map[prune.ID]bool{}
		for id := range want {
			if _, known := f.manifests[id]; !known && !f.gone[id] {
				fetch[id] = true
			}
		}
		err := each(ctx, fetch, atOnce, func(ctx context.Context, id prune.ID, _ bool) error {
			repo := f.refs[id.Repo]
			a := f.client.Lookup(ctx, repo.WithDigest(id.Digest))
			if a.State == registry.Miss {
				f.mu.Lock()
				f.gone[id] = true
				f.mu.Unlock()
				return nil
			}
			if a.Err != nil {
				return a.Err
			}
			return f.note(repo, a)
		})
		if err != nil {
			return err
		}
		next := map[prune.ID]bool{}
		for id := range want {
			m, ok := f.manifests[id]
			if !ok {
				continue
			}
			for _, d := range f.leads(m) {
				to := prune.ID{Repo: id.Repo, Digest: d}
				if _, known := f.manifests[to]; !known && !f.gone[to] {
					next[to] = true
				}
			}
		}
		want = next
	}
	return nil
}

func (f *findings) leads(m prune.Manifest) []digest.Digest {
	if m.Subject != "" && m.Ours {
		return append(slices.Clone(m.Children), m.Subject)
	}
	return m.Children
}

// note takes a manifest down.
func (f *findings) note(repo registry.Ref, a registry.Answer) error {
	m, annotations, err := readManifest(repo, a)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.manifests[m.ID]; known {
		return nil
	}
	f.manifests[m.ID] = m
	f.order = append(f.order, m.ID)
	// A record that can't be read is left alone, as nobody knows what it holds.
	if r, err := record.Decode([]byte(annotations[annotationRecord])); err == nil {
		f.runs[m.ID] = r
	}
	if r, err := journal.Decode([]byte(annotations[journal.Annotation])); err == nil {
		f.journal[m.ID] = r
	}
	return nil
}

// readManifest gives what pruning wants to know of a manifest.
func readManifest(repo registry.Ref, a registry.Answer) (prune.Manifest, map[string]string, error) {
	m := prune.Manifest{ID: prune.ID{Repo: repo.String(), Digest: a.Desc.Digest}, Size: a.Desc.Size, Index: registry.IsIndex(a.Desc.MediaType)}
	var body struct {
		ArtifactType string
		Config       *ocispec.Descriptor
		Layers       []ocispec.Descriptor
		Manifests    []ocispec.Descriptor
		Subject      *ocispec.Descriptor
		Annotations  map[string]string
	}
	if err := json.Unmarshal(a.Body, &body); err != nil {
		return m, nil, fmt.Errorf("reading the manifest %s of %s: %w", a.Desc.Digest, repo.FamiliarString(), err)
	}
	if body.Config != nil {
		m.Blobs = append(m.Blobs, prune.Blob{Digest: body.Config.Digest, Size: body.Config.Size})
	}
	for _, l := range body.Layers {
		if len(l.URLs) == 0 { // with URLs it is kept elsewhere
			m.Blobs = append(m.Blobs, prune.Blob{Digest: l.Digest, Size: l.Size})
		}
	}
	for _, c := range body.Manifests {
		if registry.IsManifest(c.MediaType) {
			m.Children = append(m.Children, c.Digest)
		} else { // of an engine's cache
			m.Blobs = append(m.Blobs, prune.Blob{Digest: c.Digest, Size: c.Size})
		}
	}
	if body.Subject != nil {
		m.Subject = body.Subject.Digest
	}
	of := body.Annotations
	if body.ArtifactType == unitArtifact || body.ArtifactType == inventory.ArtifactType {
		m.Ours = true
		m.Made, _ = time.Parse(time.RFC3339, of[ocispec.AnnotationCreated])
	}
	m.Unit, m.Trunk = of[annotationUnit], digest.Digest(of[annotationTrunk])
	if m.Unit != "" {
		for _, need := range []string{of[annotationTrunk], of[ocispec.AnnotationBaseImageDigest]} {
			if d := digest.Digest(need); d.Validate() == nil {
				m.Needs = append(m.Needs, d)
			}
		}
	}
	var bases []baseFacts
	if json.Unmarshal([]byte(of[annotationBases]), &bases) == nil {
		for _, b := range bases {
			m.Bases = append(m.Bases, b.Digest)
		}
	}
	return m, of, nil
}

// readLogged fetches what records name that no tag leads to: of those that keep
// it, and of those that are about to go, as nobody would find it again without
// them.
func (f *findings) readLogged(ctx context.Context, repos []registry.Ref, before time.Time) error {
	want := map[prune.ID]bool{}
	for _, l := range f.allLogs() {
		if !l.At.Before(before) && !l.Hold && !l.Promotion {
			continue
		}
		named := slices.Clone(l.Units)
		for _, m := range l.Moves {
			named = append(named, m.Digest, m.Previous)
		}
		for _, d := range named {
			for _, repo := range repos {
				if d.Validate() == nil {
					want[prune.ID{Repo: repo.String(), Digest: d}] = true
				}
			}
		}
	}
	return f.read(ctx, want)
}

// readAttached asks what others have attached to images that go, where only the
// registry knows it, and says whether there is more than was known.
func (f *findings) readAttached(ctx context.Context, p prune.Plan) (more bool, err error) {
	ask := map[prune.ID]bool{}
	for _, i := range p.Items {
		if i.Goes && f.refs[i.Repo].Host != registry.EmbeddedHost && !f.asked[i.ID] {
			ask[i.ID], f.asked[i.ID] = true, true
		}
	}
	want := map[prune.ID]bool{}
	err = each(ctx, ask, atOnce, func(ctx context.Context, id prune.ID, _ bool) error {
		list, err := f.client.Attached(ctx, f.refs[id.Repo].WithDigest(id.Digest))
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, d := range list {
			want[prune.ID{Repo: id.Repo, Digest: d.Digest}] = true
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	before := len(f.order)
	err = f.read(ctx, want)
	return len(f.order) > before, err
}

// tagList gives the tags in order.
func (f *findings) tagList() []prune.Tag {
	var out []prune.Tag
	for _, t := range f.tags {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b prune.Tag) int {
		return strings.Compare(a.Repo+" "+a.Name, b.Repo+" "+b.Name)
	})
	return out
}
