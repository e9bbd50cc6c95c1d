package strata

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/slot"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/spec"
)

// A Replay goes over trees of a project, one after the other, as passes would
// that each built everything: the graph, the recipes, the choice of slots and
// the plan are those of [Prepare]. The registry is a memory of the keys that were
// made so far, which loses nothing. No registry is asked, nothing is built and
// nothing is written.
//
// A Replay is for one goroutine.
type Replay struct {
	// Base gives the config of an external image where it is known; nil knows
	// none.
	Base func(image, platform string) dockerfile.Config
	// Else pins what a tree's own lock does not; nil pins nothing.
	Else *lock.File

	platform string
	held     map[registry.Ref]registry.Answer
	last     map[string]plan.Last
	trunks   map[string]lastTrunk // of what may be rebased
	free     map[string]bool      // external images that no lock pinned
	before   *Sketch              // what ran last, and the slots that it stood in
	slots    string
	idle     *Pass // the plan of a further run of before: everything is reused
}

// lastTrunk is the trunk of a unit's newest image or, of a unit without a tail,
// that image.
type lastTrunk struct {
	plan.Last
	tail bool
}

// NewReplay starts a replay with an empty registry. Platform is the machine's:
// "linux/amd64".
func NewReplay(platform string) *Replay {
	return &Replay{platform: platform, held: map[registry.Ref]registry.Answer{}, last: map[string]plan.Last{}, trunks: map[string]lastTrunk{}, free: map[string]bool{}}
}

// Sketch is a project as one tree holds it: its graph, and everything that goes
// into each unit but the time. It is immutable.
type Sketch struct {
	pass  *Pass
	lock  *lock.File
	lines map[string]*fileSet // by what is taken
}

// fileSet is what a unit's instructions take, with the lines of a recipe that
// follow from it. Units that take the same share it.
type fileSet struct {
	files [][]source.Entry
	lines *key.FileLines
}

// Graph gives the units and their order.
func (s *Sketch) Graph() *graph.Graph { return s.pass.Graph }

// Files gives what each of a unit's Build.Inputs takes.
func (s *Sketch) Files(unit string) [][]source.Entry { return s.pass.inputs[unit].Files }

// Dockerfile gives the text of a Dockerfile of the project.
func (s *Sketch) Dockerfile(name string) []byte { return s.pass.sources[name] }

// External gives the digest of the external image behind a From.
func (s *Sketch) External(u *graph.Unit, f dockerfile.From) digest.Digest {
	return s.pass.externals.digest(u, f)
}

// Read takes a project as a tree holds it. Before is what was read of an earlier
// tree, or nil; what did not change since is taken from it. The error is what
// planning would say.
func (r *Replay) Read(ctx context.Context, project *spec.Project, pins *lock.File, files Files, before *Sketch) (*Sketch, error) {
	p := &Pass{Config: Config{Project: project, Lock: pins, Files: files, Platform: r.platform}, known: newShared()}
	s := &Sketch{pass: p, lock: pins, lines: map[string]*fileSet{}}
	if before.sameGraph(project, pins, files) {
		old := before.pass
		p.Graph, p.Units, p.Wanted, p.asked = old.Graph, old.Units, old.Wanted, old.asked
		p.repos, p.externals, p.sources = old.repos, old.externals, old.sources
	} else if err := r.order(p); err != nil {
		return nil, err
	}
	if err := p.readContexts(ctx); err != nil {
		return nil, err
	}
	same := before != nil && before.pass.Graph == p.Graph
	for _, u := range p.Units {
		same = s.share(u, before) && same
	}
	if same {
		return before, nil
	}
	return s, nil
}

// sameGraph says whether a project with its lock and Dockerfiles is as it was.
func (s *Sketch) sameGraph(project *spec.Project, pins *lock.File, files Files) bool {
	if s == nil || s.lock != pins || s.pass.Config.Project != project {
		return false
	}
	for _, u := range project.Units() {
		if u.Inline != nil {
			continue // the project has it
		}
		if text, err := files.ReadFile(u.Dockerfile); err != nil || !bytes.Equal(text, s.pass.sources[u.Dockerfile]) {
			return false
		}
	}
	return true
}

// order is readGraph, with external images that no registry was asked for: one
// that no lock pins never moves.
func (r *Replay) order(p *Pass) error {
	parsed, err := p.readDockerfiles()
	if err != nil {
		return err
	}
	asked := p.Config.Project.Units()
	if err := p.order(parsed, asked, nil); err != nil {
		return err
	}
	if err := p.nameRepositories(); err != nil {
		return err
	}
	p.externals = externals{}
	for e := range p.wantedExternals() {
		ref, err := registry.ParseRef(e.image)
		if err != nil {
			return err
		}
		x, ok := p.Config.pinned(e, ref)
		if !ok {
			r.free[e.image] = true
			x, ok = Config{Lock: r.Else}.pinned(e, ref)
		}
		if !ok {
			x = resolved{ref: ref, digest: digest.FromString("the image " + e.image + " for " + e.platform)}
			if r.Base != nil {
				x.base = r.Base(e.image, e.platform)
			}
		}
		p.externals[e] = x
	}
	if p.externals.matter() {
		return p.order(parsed, asked, p.externals.base(p.Graph))
	}
	return nil
}

// share gives a unit the file set of another one, of this tree or the one
// before, that takes the same. It says whether it is one of the tree before.
func (s *Sketch) share(u *graph.Unit, before *Sketch) bool {
	in := s.pass.inputs[u.ID]
	var id strings.Builder
	for _, input := range in.Build.Inputs {
		fmt.Fprintf(&id, "%q %q %q %q %q %t %q %t\n", u.Context, u.Dockerfile, u.Contexts[input.Context],
			input.Patterns, input.Excludes, input.Parents, input.Context, input.Tail)
	}
	name, old := id.String(), false
	set := s.lines[name]
	if set == nil && before != nil {
		set = before.lines[name]
	}
	if set == nil || !slices.EqualFunc(set.files, in.Files, sameEntries) {
		set = &fileSet{files: in.Files, lines: in.Lines}
	} else if before != nil && before.lines[name] == set {
		old = true
	}
	s.lines[name] = set
	in.Files, in.Lines = set.files, set.lines
	s.pass.inputs[u.ID] = in
	return old
}

// sameEntries says whether two lists are the same one: what did not change is
// handed on, not made again.
func sameEntries(a, b []source.Entry) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Run plans what a build at some time would do, and remembers it as done. With
// refresh it is a scheduled build, for which every slot that has turned counts.
func (r *Replay) Run(s *Sketch, now time.Time, refresh bool) (*Pass, error) {
	of := s.pass
	p := &Pass{
		Config: of.Config, Graph: of.Graph, Units: of.Units, Wanted: of.Wanted, asked: of.asked,
		repos: of.repos, externals: of.externals, sources: of.sources, inputs: maps.Clone(of.inputs), known: of.known,
		slots: map[string]slot.Slot{}, due: map[string]string{}, Keys: map[string]key.Keys{},
	}
	p.Config.Now, p.Config.Refresh = now, refresh
	slots := p.slotNames()
	if r.before == s && r.slots == slots && r.idle != nil {
		return r.idle, nil
	}
	p.answers = answers{
		hits: map[string]plan.Hit{}, last: r.last, lastTrunks: map[string]plan.Last{},
		units: map[string]registry.Answer{}, trunks: map[string]registry.Answer{},
	}
	for _, units := range p.groups() {
		p.take(units, r.choose(p, units), r.held)
	}
	for _, u := range p.Units {
		// A trunk is not put on another parent where the cut behind it has moved.
		if t, ok := r.trunks[u.ID]; ok && plan.Rebases(u) && t.tail == !p.Keys[u.ID].Trunk.IsZero() {
			p.answers.lastTrunks[u.ID] = t.Last
		}
	}
	if err := p.decide(); err != nil {
		return nil, err
	}
	r.before, r.slots, r.idle = s, slots, nil
	if p.Plan.Work() == 0 && len(p.due) == 0 {
		r.idle = p
	}
	r.remember(p)
	return p, nil
}

// choose is what the pass chooses from the same candidates; the keys of those
// that can't win are not made.
func (r *Replay) choose(p *Pass, units []*graph.Unit) candidate {
	var best candidate
	least := -1
	for _, c := range p.slotChoices(units) {
		c.keys = p.keysFor(units, c.slots)
		if n := p.builds(units, c, r.held); least < 0 || n < least {
			best, least = c, n
		}
		if least == 0 {
			break
		}
	}
	return best
}

// slotNames gives the current slots of the units, in one text.
func (p *Pass) slotNames() string {
	var b strings.Builder
	for _, u := range p.Units {
		if u.Refresh != nil {
			b.WriteString(slot.At(*u.Refresh, p.Config.Now).Name + " ")
		}
	}
	return b.String()
}

// remember notes what a run has made. As in a registry, the newest image of a
// unit is the one that was made last, not the one that was found again.
func (r *Replay) remember(p *Pass) {
	last := maps.Clone(r.last)
	for _, s := range p.Plan.Steps {
		if s.Action == plan.Skip || s.Action == plan.Reuse {
			continue
		}
		u, k := p.Graph.Unit(s.Unit), p.Keys[s.Unit]
		c := candidate{keys: p.Keys}
		r.held[p.unitRef(u, c)] = hitOf(s.Key)
		if ref, ok := p.trunkRef(u, c); ok {
			r.held[ref] = hitOf(s.TrunkKey)
		}
		last[s.Unit] = plan.Last{Known: true, Key: s.Key, Recipe: k.Unit}
		t := lastTrunk{last[s.Unit], false}
		if !k.Trunk.IsZero() {
			t = lastTrunk{plan.Last{Known: true, Key: s.TrunkKey, Recipe: k.Trunk}, true}
		}
		r.trunks[s.Unit] = t
	}
	r.last = last
}

func hitOf(id key.ID) registry.Answer {
	return registry.Answer{State: registry.Hit, Desc: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.NewDigestFromEncoded(digest.SHA256, string(id)),
	}}
}

// Unpinned names the external images that some tree did not pin, sorted.
func (r *Replay) Unpinned() []string { return slices.Sorted(maps.Keys(r.free)) }

// NextRefresh gives the first moment after some time at which the slot of any
// unit turns: when a scheduled build runs. It is zero where no unit has slots.
func (s *Sketch) NextRefresh(after time.Time) time.Time {
	var next time.Time
	for _, u := range s.pass.Units {
		if u.Refresh == nil {
			continue
		}
		if end := slot.At(*u.Refresh, after).End; next.IsZero() || end.Before(next) {
			next = end
		}
	}
	return next
}

// Slot gives the name of the slot that a unit was taken from, "" without one.
func (p *Pass) Slot(unit string) string { return p.slots[unit].Name }
