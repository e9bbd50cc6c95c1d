package strata

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// PruneOptions say what may go. The zero value is the project's own policy.
type PruneOptions struct {
	Older   time.Duration // in place of every layer's keep.age
	Count   int           // in place of every layer's keep.count
	Layers  []string      // only images of these layers, and what is attached to them
	Tags    []string      // patterns of the user's tags that may go
	After   time.Duration // when these were set longer ago than this
	History time.Duration // how long records and promotions stay; 0: [prune.DefaultHistory]
	Grace   time.Duration // 0: [prune.DefaultGrace], negative: none
}

// Pruning is what the project's repositories hold and what of it may go.
type Pruning struct {
	Plan prune.Plan
	Tags int // that were looked at

	pass    *Pass
	options PruneOptions
	found   *findings
	repos   []registry.Ref
}

// Prune looks through the repositories of the project and decides what may go. It
// writes nothing.
func (p *Pass) Prune(ctx context.Context, o PruneOptions) (*Pruning, error) {
	x := &Pruning{pass: p, options: o, found: newFindings(p.Config.Client.Direct())}
	for _, u := range p.Graph.Units {
		repo, err := repository(u.Image, p.Config.Push)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(x.repos, repo) {
			x.repos = append(x.repos, repo)
		}
	}
	for _, repo := range x.repos {
		if err := x.found.look(ctx, repo); err != nil {
			return nil, err
		}
	}
	x.Tags = len(x.found.tags)
	if err := x.decide(ctx); err != nil {
		return nil, err
	}
	return x, nil
}

// decide makes the plan. What turns out to go may hold on to more that only the
// registry knows of: what others have attached, and what old records name.
func (x *Pruning) decide(ctx context.Context) error {
	if err := x.found.readLogged(ctx, x.repos, x.pass.Config.Now.Add(-x.history())); err != nil {
		return err
	}
	for {
		x.Plan = prune.Decide(x.input())
		more, err := x.found.readAttached(ctx, x.Plan)
		if err != nil || !more {
			return err
		}
	}
}

func (x *Pruning) history() time.Duration {
	if x.options.History == 0 {
		return prune.DefaultHistory
	}
	return x.options.History
}

func (x *Pruning) input() prune.Input {
	f, p := x.found, x.pass
	in := prune.Input{
		Now: p.Config.Now, Keys: p.liveKeys(), Units: map[string]bool{}, Policy: x.policy(),
		Logs: f.allLogs(),
	}
	for _, u := range p.Graph.Units {
		in.Units[strings.TrimPrefix(lastTag(u), lastPrefix)] = true
	}
	in.Tags = f.tagList()
	for _, id := range f.order {
		in.Manifests = append(in.Manifests, f.manifests[id])
	}
	return in
}

// lastPrefix begins the tag of a unit's newest image.
const lastPrefix = "strata-last-"

// liveKeys are the tags under which a build of the project as it is would find
// its images: with the current refresh slots, and with the earlier ones that it
// may take.
func (p *Pass) liveKeys() map[string]bool {
	keys := map[string]bool{}
	for _, units := range p.groups() {
		for _, c := range p.candidates(units) {
			for _, u := range units {
				keys[c.keys[u.ID].Unit.ID().Tag()] = true
				if trunk := c.keys[u.ID].Trunk; !trunk.IsZero() {
					keys[trunk.ID().Tag()] = true
				}
			}
		}
	}
	return keys
}

// standing are tags that no pattern lets go: those that a build of the project
// moves or sets now, and those of channels.
func (p *Pass) standing() []string {
	project, rel := p.Config.Project, p.Config.Version.Release()
	var out []string
	add := func(project *spec.Project, rel spec.Release) {
		for _, u := range p.Graph.Units {
			out = append(out, project.TagsFor(u.Unit, rel)...)
			out = append(out, project.IndexTags(u.Layer, u.Variant, rel)...)
		}
	}
	add(project, rel)
	for _, channel := range project.Channels { // whose name stands for the version
		as := *project
		as.Version = channel
		add(&as, spec.Release{Version: channel})
	}
	return out
}

func (x *Pruning) policy() prune.Policy {
	o, project := x.options, x.pass.Config.Project
	policy := prune.Policy{
		Keep: map[string]prune.Keep{}, Other: o.keep(project.Keep), Layers: o.Layers, History: x.history(), Grace: o.Grace,
		Expire: o.Tags, After: o.After, Protect: append(slices.Clone(project.Protect), x.pass.standing()...),
	}
	if policy.Grace == 0 {
		policy.Grace = prune.DefaultGrace
	}
	for _, l := range project.Layers {
		keep := l.Keep
		if keep == (spec.Keep{}) {
			keep = project.Keep
		}
		policy.Keep[l.Name] = o.keep(keep)
	}
	return policy
}

// keep gives a layer's policy: as the options say, else as the project does, else
// the default.
func (o PruneOptions) keep(k spec.Keep) prune.Keep {
	out := prune.Keep{Age: k.Age, Count: k.Count}
	if out == (prune.Keep{}) {
		out = prune.Default
	}
	if o.Older > 0 {
		out.Age = o.Older
	}
	if o.Count > 0 {
		out.Count = o.Count
	}
	return out
}

// KeptByHistory gives what a garbage collection of the embedded registry has to leave
// although no tag leads to it: what promotions name that can still be taken back.
func KeptByHistory(ctx context.Context, c *registry.Client, e *registry.Embedded, now time.Time) (map[digest.Digest]bool, error) {
	names, err := e.Repositories()
	if err != nil {
		return nil, err
	}
	f := newFindings(c.Direct())
	for _, name := range names {
		if err := f.lookLogs(ctx, registry.Ref{Host: registry.EmbeddedHost, Repo: name}); err != nil {
			return nil, err
		}
	}
	held := map[digest.Digest]bool{}
	for _, l := range f.allLogs() {
		if !l.Hold && (!l.Promotion || now.Sub(l.At) >= prune.DefaultHistory) {
			continue
		}
		for _, m := range l.Moves {
			held[m.Digest], held[m.Previous] = true, true
		}
	}
	return held, nil
}
