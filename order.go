package strata

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/registry"
)

// A tag such as `latest` says "the newest". When the pipelines of two commits end
// in the other order, or an old one is run again, the older commit must not set
// it. Registries have no compare-and-swap, so the order is kept beside the tags:
// an artifact in each repository says which commit has set each moving tag.
//
// A run reads it before it moves tags and leaves alone what a newer commit has
// set. It writes its own entries while it moves its tags, and then reads once
// more: what a newer commit has claimed meanwhile is given back to it, and an
// entry that a concurrent writer has lost is written again. So whoever comes last
// finds out, in any interleaving in which each of the two reads after its write.

// orderArtifact is the artifact type of the order of moving tags.
const orderArtifact = "application/vnd.strata.order.v1"

// annotationOrder holds the order: JSON of [setter] by tag.
const annotationOrder = "build.strata.order"

// orderTag is where it lies in each repository.
const orderTag = "strata-order"

// setter is the commit that has set a moving tag.
type setter struct {
	Digest   digest.Digest `json:"digest"` // what the tag was pointed to
	Revision string        `json:"revision"`
	Time     time.Time     `json:"time"` // the commit's
}

// orders are the setters of the moving tags, by repository and tag.
type orders map[registry.Ref]map[string]setter

// Held is a tag that was left where it is.
type Held struct {
	Ref      registry.Ref
	Revision string // of the newer commit that has set it
}

// ordered says whether the run keeps the order of commits: it publishes for
// others, and there is a commit.
func (r *runner) ordered() bool {
	v := r.pass.Config.Version
	return r.pass.Config.Push && v.Revision != "" && !v.Time.IsZero()
}

// movingTags gives the tags that each commit sets anew: those that name neither
// version nor commit.
func (r *runner) movingTags() map[registry.Ref]bool {
	project, rel := r.pass.Config.Project, r.pass.Config.Version.Release()
	other := rel
	other.Version, other.Sha = rel.Version+".other", "other"
	out := map[registry.Ref]bool{}
	note := func(repo registry.Ref, now, then []string) {
		for _, tag := range now {
			if slices.Contains(then, tag) {
				out[repo.WithTag(tag)] = true
			}
		}
	}
	for _, u := range r.pass.Units {
		note(r.repo(u), project.TagsFor(u.Unit, rel), project.TagsFor(u.Unit, other))
		note(r.repo(u), project.IndexTags(u.Layer, u.Variant, rel), project.IndexTags(u.Layer, u.Variant, other))
	}
	return out
}

// readOrders reads what the repositories say. A repository without it has no
// order yet; one that can't be read ends the run, since it may hold a newer one.
func (r *runner) readOrders(ctx context.Context, repos []registry.Ref) (orders, error) {
	refs := make([]registry.Ref, len(repos))
	for i, repo := range repos {
		refs[i] = repo.WithTag(orderTag)
	}
	out := orders{}
	for i, a := range r.pass.Config.Client.Probe(ctx, refs) {
		out[repos[i]] = map[string]setter{}
		switch a.State {
		case registry.Failed:
			return nil, fmt.Errorf("looking up which commit has set the tags of %s: %w", repos[i].FamiliarString(), a.Err)
		case registry.Hit:
			var m ocispec.Manifest
			var set map[string]setter
			if json.Unmarshal(a.Body, &m) == nil && json.Unmarshal([]byte(m.Annotations[annotationOrder]), &set) == nil {
				out[repos[i]] = set
			} // what is not ours is written over
		}
	}
	return out, nil
}

func (r *runner) writeOrder(ctx context.Context, repo registry.Ref, set map[string]setter) error {
	data, err := json.Marshal(set)
	if err != nil {
		return err
	}
	c := r.pass.Config.Client
	if err := c.EnsureEmpty(ctx, repo); err != nil {
		return fmt.Errorf("noting which commit sets the tags of %s: %w", repo.FamiliarString(), err)
	}
	_, err = c.PutArtifact(ctx, repo.WithTag(orderTag), ocispec.Descriptor{}, orderArtifact, nil, map[string]string{annotationOrder: string(data)})
	if err != nil {
		return fmt.Errorf("noting which commit sets the tags of %s: %w", repo.FamiliarString(), err)
	}
	return nil
}

// newer says whether a tag was set by a newer commit than this run's. Where the
// repository's history tells, that counts; else the commits' times do.
func (r *runner) newer(ctx context.Context, s setter) (bool, error) {
	v := r.pass.Config.Version
	if s.Revision == "" || s.Revision == v.Revision {
		return false, nil
	}
	if compare := r.pass.Config.Compare; compare != nil {
		switch n, err := compare(ctx, s.Revision, v.Revision); {
		case err != nil:
			return false, err
		case n != 0:
			return n > 0, nil
		}
	}
	return s.Time.After(v.Time), nil
}

// hold takes the moves out that a newer commit stands against.
func (r *runner) hold(ctx context.Context, moves []move) (rest []move, held []Held, err error) {
	if !r.ordered() || r.pass.Config.Force {
		return moves, nil, nil
	}
	if r.ordersErr != nil {
		return nil, nil, r.ordersErr
	}
	moving := r.movingTags()
	for _, m := range moves {
		s, ok := r.orders[m.ref.Repository()][m.ref.Tag]
		if !ok || !moving[m.ref] {
			rest = append(rest, m)
			continue
		}
		newer, err := r.newer(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		if newer {
			held = append(held, Held{m.ref, s.Revision})
			continue
		}
		rest = append(rest, m)
	}
	if len(held) > 0 {
		r.pass.emit(event.Event{Type: event.Message, Text: fmt.Sprintf(
			"%d tags stay where they are, %s and others: the newer commit %.12s has set them", len(held), held[0].Ref.Tag, held[0].Revision)})
	}
	return rest, held, nil
}

// mine gives the entries that this run writes, by repository.
func (r *runner) mine(moves []move) orders {
	v, moving, out := r.pass.Config.Version, r.movingTags(), orders{}
	for _, m := range moves {
		if !moving[m.ref] {
			continue
		}
		repo := m.ref.Repository()
		if out[repo] == nil {
			out[repo] = map[string]setter{}
		}
		out[repo][m.ref.Tag] = setter{digest.FromBytes(m.body), v.Revision, v.Time.UTC()}
	}
	return out
}

// claim notes that this run sets its moving tags. A repository in which nothing
// changes by that is left alone.
func (r *runner) claim(ctx context.Context, known, mine orders) error {
	return each(ctx, mine, 4, func(ctx context.Context, repo registry.Ref, set map[string]setter) error {
		all := maps.Clone(known[repo])
		if all == nil {
			all = map[string]setter{}
		}
		maps.Copy(all, set)
		if maps.Equal(all, known[repo]) {
			return nil
		}
		return r.writeOrder(ctx, repo, all)
	})
}

// orderRounds bounds how often a run looks again after somebody else has written
// the order at the same time.
const orderRounds = 4

// settle reads the order again once the tags stand, and puts right what another
// run did at the same time: tags that a newer commit has claimed go back to it,
// tags and entries of this run that an older one has written over are set again.
func (r *runner) settle(ctx context.Context, moves []move, mine orders) error {
	if len(mine) == 0 {
		return nil
	}
	byRef := map[registry.Ref]move{}
	for _, m := range moves {
		byRef[m.ref] = m
	}
	for range orderRounds {
		now, err := r.readOrders(ctx, slices.Collect(maps.Keys(mine)))
		if err != nil {
			return err
		}
		lost := false
		for repo, set := range mine {
			for tag, s := range set {
				there := now[repo][tag]
				if there == s {
					continue
				}
				newer, err := r.newer(ctx, there)
				switch {
				case err != nil:
					return err
				case newer && !r.pass.Config.Force:
					delete(set, tag)
					if err := r.giveBack(ctx, repo.WithTag(tag), there.Digest); err != nil {
						return err
					}
				case there.Revision == s.Revision: // another run of this very commit
					delete(set, tag)
				default:
					lost = true
					m := byRef[repo.WithTag(tag)]
					if _, err := r.pass.Config.Client.PutManifest(ctx, m.ref, m.mediaType, m.body); err != nil {
						return fmt.Errorf("moving the tag %s: %w", m.ref.FamiliarString(), err)
					}
				}
			}
			if len(set) == 0 {
				delete(mine, repo)
			}
		}
		if !lost {
			return nil
		}
		if err := r.claim(ctx, now, mine); err != nil {
			return err
		}
	}
	return nil
}

// giveBack points a tag to what a newer commit has claimed it for. An index that
// is not there yet is about to be set by that commit's own run.
func (r *runner) giveBack(ctx context.Context, ref registry.Ref, d digest.Digest) error {
	c := r.pass.Config.Client
	a := c.Direct().Lookup(ctx, ref.Repository().WithDigest(d))
	switch a.State {
	case registry.Failed:
		return fmt.Errorf("giving the tag %s back to a newer commit: %w", ref.FamiliarString(), a.Err)
	case registry.Miss:
		return nil
	}
	if _, err := c.PutManifest(ctx, ref, a.Desc.MediaType, a.Body); err != nil {
		return fmt.Errorf("giving the tag %s back to a newer commit: %w", ref.FamiliarString(), err)
	}
	r.pass.emit(event.Event{Type: event.Message, Text: fmt.Sprintf("the tag %s went back to a newer commit, which was published at the same time", ref.Tag)})
	return nil
}

// repositories gives the repositories of references, each once.
func repositories(refs []registry.Ref) []registry.Ref {
	var out []registry.Ref
	for _, ref := range refs {
		if !slices.Contains(out, ref.Repository()) {
			out = append(out, ref.Repository())
		}
	}
	return out
}
