package strata

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/slot"
)

// When a slot turns, an ordinary build does not wait for the refresh: it takes
// the images of earlier slots as long as the policy lets it. A candidate is one
// way to choose the slots of the refreshed units of a variant and platform; the
// keys of all candidates are asked for in the one round of look-ups, and the
// candidate that leaves the least to an engine is taken, of those the freshest.

// candidate is one choice of slots for a group of units.
type candidate struct {
	slots map[string]slot.Slot // by unit
	turns map[string]int       // by unit: how many slots ago; 0 is the current one
	keys  map[string]key.Keys
}

const (
	// earlierSlots is how far back a candidate goes without a max-age: a refresh
	// that failed once must not make everyone wait.
	earlierSlots = 2
	// maxCandidates bounds the candidates of a group, so that a long chain of
	// refreshed layers stays one round of look-ups.
	maxCandidates = 27
)

// group gives the units of one variant and platform, parents first; parents
// and children share both.
func (p *Pass) groups() [][]*graph.Unit {
	at := map[[2]string]int{}
	var out [][]*graph.Unit
	for _, u := range p.Units {
		k := [2]string{u.Variant, u.Platform}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], u)
	}
	return out
}

// candidates gives the choices for a group, the freshest first; the first is the
// current slot of every unit.
func (p *Pass) candidates(units []*graph.Unit) []candidate {
	out := p.slotChoices(units)
	for i := range out {
		out[i].keys = p.keysFor(units, out[i].slots)
	}
	return out
}

// slotChoices gives the candidates without their keys.
func (p *Pass) slotChoices(units []*graph.Unit) []candidate {
	out := []candidate{{slots: map[string]slot.Slot{}, turns: map[string]int{}}}
	for _, u := range units {
		if u.Refresh == nil {
			continue
		}
		slots := p.slotsOf(u)
		slots = slots[:min(len(slots), max(1, maxCandidates/len(out)))]
		var next []candidate
		for turn, s := range slots {
			for _, c := range out {
				d := candidate{slots: map[string]slot.Slot{u.ID: s}, turns: map[string]int{u.ID: turn}}
				for id := range c.slots {
					d.slots[id], d.turns[id] = c.slots[id], c.turns[id]
				}
				next = append(next, d)
			}
		}
		out = next
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(a.age(), b.age()) })
	return out
}

func (c candidate) age() int {
	n := 0
	for _, t := range c.turns {
		n += t
	}
	return n
}

// slotsOf gives the slots whose images a unit may take, the current one first.
func (p *Pass) slotsOf(u *graph.Unit) []slot.Slot {
	now := slot.At(*u.Refresh, p.Config.Now)
	out := []slot.Slot{now}
	if p.Config.Refresh || u.Stale == "deny" {
		return out
	}
	for s := now; len(out) <= earlierSlots; {
		s = slot.Previous(*u.Refresh, s)
		if u.MaxAge > 0 && p.Config.Now.Sub(s.End) > u.MaxAge {
			break
		}
		out = append(out, s)
	}
	return out
}

// keysFor gives the units' recipes with the given slots.
func (p *Pass) keysFor(units []*graph.Unit, slots map[string]slot.Slot) map[string]key.Keys {
	keys := map[string]key.Keys{}
	for _, u := range units {
		in := p.inputs[u.ID]
		in.Slot = slots[u.ID].Name
		in.Parent = func(f dockerfile.From) (key.Parent, bool) {
			up := p.Graph.Parent(u, f)
			if up == nil {
				return key.Parent{}, false
			}
			return key.Parent{Unit: up.ID, Key: keys[up.ID].Unit.ID()}, true
		}
		keys[u.ID] = key.Compute(in)
	}
	return keys
}

// probe asks for every key of every candidate in one round of parallel look-ups
// and chooses. An answer that is neither hit nor miss ends the pass.
func (p *Pass) probe(ctx context.Context) error {
	groups := p.groups()
	all := make([][]candidate, len(groups))
	var refs []registry.Ref
	var by []wanted
	asked := map[registry.Ref]bool{}
	ask := func(w wanted) {
		if !asked[w.ref] {
			asked[w.ref] = true
			refs, by = append(refs, w.ref), append(by, w)
		}
	}
	for i, units := range groups {
		all[i] = p.candidates(units)
		for _, c := range all[i] {
			for _, u := range units {
				ask(p.keyed(u, p.repos[u.ID], c.keys[u.ID].Unit.ID()))
				if k := c.keys[u.ID].Trunk; !k.IsZero() {
					ask(p.keyed(u, p.repos[u.ID], k.ID()))
				}
			}
		}
	}
	answers := map[registry.Ref]registry.Answer{}
	found := p.Config.Client.Probe(ctx, refs)
	for _, a := range found {
		if a.State == registry.Failed && !errors.Is(a.Err, registry.ErrCorrupt) {
			return a.Err // it names the image
		}
	}
	found, err := p.admit(ctx, found, by)
	if err != nil {
		return err
	}
	for i, a := range found {
		if m := refusal(a); m != nil {
			p.Warnings = append(p.Warnings, m.finding())
		}
		answers[refs[i]] = a
	}
	p.Keys = map[string]key.Keys{}
	for i, units := range groups {
		p.take(units, p.choose(units, all[i], answers), answers)
	}
	p.fetchAhead(ctx)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { // beside the rest, so that it takes no time of its own
		found, err := p.verify(gctx)
		p.damaged = found
		return err
	})
	g.Go(func() error {
		if err := p.readLast(gctx); err != nil {
			return err
		}
		return p.readTrunks(gctx)
	})
	if err := g.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return p.verifyTrunks(ctx)
}

func (p *Pass) unitRef(u *graph.Unit, c candidate) registry.Ref {
	return p.repos[u.ID].WithTag(c.keys[u.ID].Unit.ID().Tag())
}

func (p *Pass) trunkRef(u *graph.Unit, c candidate) (registry.Ref, bool) {
	k := c.keys[u.ID].Trunk
	return p.repos[u.ID].WithTag(k.ID().Tag()), !k.IsZero()
}

// choose gives the candidate that leaves the least to an engine.
func (p *Pass) choose(units []*graph.Unit, all []candidate, answers map[registry.Ref]registry.Answer) candidate {
	best, least := 0, -1
	for i, c := range all {
		// What is built again whatever there is, is built for the slot that it is.
		if slices.ContainsFunc(units, func(u *graph.Unit) bool { return p.fresh(u) && c.turns[u.ID] > 0 }) {
			continue
		}
		builds := p.builds(units, c, answers)
		if least < 0 || builds < least {
			best, least = i, builds
		}
	}
	return all[best]
}

// builds counts the units that a candidate leaves to an engine.
func (p *Pass) builds(units []*graph.Unit, c candidate, answers map[registry.Ref]registry.Answer) int {
	n := 0
	for _, u := range units {
		if hitDigest(answers[p.unitRef(u, c)]) != "" || u.Build.Trunk.Empty {
			continue
		}
		if ref, ok := p.trunkRef(u, c); ok && hitDigest(answers[ref]) != "" {
			continue
		}
		n++
	}
	return n
}

// take makes a candidate the pass's own.
func (p *Pass) take(units []*graph.Unit, c candidate, answers map[registry.Ref]registry.Answer) {
	for _, u := range units {
		p.Keys[u.ID] = c.keys[u.ID]
		p.answers.units[u.ID] = answers[p.unitRef(u, c)]
		if ref, ok := p.trunkRef(u, c); ok {
			p.answers.trunks[u.ID] = answers[ref]
		}
		p.answers.hits[u.ID] = plan.Hit{
			Unit: hitDigest(p.answers.units[u.ID]), Trunk: hitDigest(p.answers.trunks[u.ID]),
		}
		in := p.inputs[u.ID]
		in.Slot = c.slots[u.ID].Name
		in.Parent = func(f dockerfile.From) (key.Parent, bool) {
			up := p.Graph.Parent(u, f)
			if up == nil {
				return key.Parent{}, false
			}
			return key.Parent{Unit: up.ID, Key: p.Keys[up.ID].Unit.ID()}, true
		}
		p.inputs[u.ID] = in
		if s, ok := c.slots[u.ID]; ok {
			p.slots[u.ID] = s
			if c.turns[u.ID] > 0 {
				p.due[u.ID] = slot.At(*u.Refresh, p.Config.Now).Name
			}
		}
	}
}
