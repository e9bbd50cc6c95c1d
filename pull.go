package strata

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// Pulled is what a pull did with one unit.
type Pulled struct {
	Unit    string
	Found   bool // the registry has the unit, or at least its trunk, as it is now
	Here    bool // it was on this machine already
	Size    int64
	Seconds float64
}

// Pull copies what the image's own registry holds of the units, as they are now,
// into the registry on this machine: a build without Push finds it there. The
// pass must have been prepared with Push. Trunks come along: the next change needs
// no engine then.
//
// With needed, only what making the missing units starts from is copied: their
// trunks and parents. Where nothing is missing that is nothing.
func (p *Pass) Pull(ctx context.Context, needed bool) ([]Pulled, error) {
	var out []Pulled
	for _, u := range p.Units {
		if needed && !p.needed(u) {
			continue
		}
		start := time.Now()
		p.emit(event.Event{Type: event.UnitStarted, Unit: u.ID, Action: "pull"})
		got, err := p.pull(ctx, u)
		got.Unit, got.Seconds = u.ID, time.Since(start).Seconds()
		done := event.Event{Type: event.UnitFinished, Unit: u.ID, Action: "pull", Seconds: got.Seconds, Size: got.Size, Text: "it is not there"}
		switch {
		case err != nil:
			done.Error = err.Error()
		case got.Here:
			done.Text = "it is here already"
		case got.Found:
			done.Text = "copied"
		}
		p.emit(done)
		if err != nil {
			return out, fmt.Errorf("pulling %s: %w", u.ID, err)
		}
		out = append(out, got)
	}
	return out, nil
}

// needed says whether a unit is to be made, or whether one that is to be made
// stands on it.
func (p *Pass) needed(u *graph.Unit) bool {
	for _, s := range p.Plan.Steps {
		if s.Action == plan.Reuse || s.Action == plan.Skip {
			continue
		}
		if s.Unit == u.ID || slices.Contains(parentIDs(p.Graph.Unit(s.Unit)), u.ID) {
			return true
		}
	}
	return false
}

func (p *Pass) pull(ctx context.Context, u *graph.Unit) (Pulled, error) {
	var got Pulled
	for _, there := range []struct {
		answer registry.Answer
		recipe key.Recipe
	}{{p.answers.trunks[u.ID], p.Keys[u.ID].Trunk}, {p.answers.units[u.ID], p.Keys[u.ID].Unit}} {
		if hitDigest(there.answer) == "" {
			continue
		}
		img, err := parsePicture(there.answer)
		if err != nil {
			return got, err
		}
		if !got.Found {
			got.Found, got.Here = true, true
		}
		got.Size, _ = img.size()
		w := p.keyed(u, p.repos[u.ID].Local(), there.recipe.ID())
		here, err := p.admit(ctx, []registry.Answer{p.Config.Client.Direct().Lookup(ctx, w.ref)}, []wanted{w})
		if err != nil {
			return got, err
		}
		at := here[0]
		switch {
		case at.State == registry.Hit:
			continue
		case at.State == registry.Failed:
			return got, at.Err
		}
		got.Here = false
		if err := p.copyHere(ctx, u, img, there.recipe); err != nil {
			return got, err
		}
	}
	return got, nil
}

// copyHere copies the artifact that goes with an image, then the image under its
// key, so that who finds the image finds the rest.
func (p *Pass) copyHere(ctx context.Context, u *graph.Unit, img *picture, recipe key.Recipe) error {
	from, c := p.repos[u.ID], p.Config.Client.Direct()
	if _, err := img.diffIDs(ctx, c); err != nil {
		return err
	}
	to := from.Local()
	tag := artifactTag(recipe.ID())
	if _, err := c.CopyImage(ctx, from.WithTag(tag), to.WithTag(tag)); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	_, err := c.CopyImage(ctx, from.WithDigest(img.desc.Digest), to.WithTag(recipe.ID().Tag()))
	return err
}
