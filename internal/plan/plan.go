// Package plan decides what to do with each unit, and says why.
//
// It takes the graph, the keys, what the registry answered, and policy, all as
// values, and gives one step a unit. It has no I/O, and the same input always
// gives the same plan.
package plan

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
)

// Action is what a step does with its unit.
type Action string

// The actions, from the cheapest to the dearest.
const (
	Reuse  Action = "reuse"  // the registry has it: tags are moved
	Append Action = "append" // the tail's files go on the trunk, without an engine
	Rebase Action = "rebase" // the trunk's own blobs go on the new parent, then the tail is appended
	Build  Action = "build"  // an engine builds the trunk, then the tail is appended
	Skip   Action = "skip"   // missing, but nothing that was asked for needs it
)

// Step is what the plan does with one unit.
type Step struct {
	Unit     string        `json:"unit"`
	Layer    string        `json:"layer"`
	Variant  string        `json:"variant,omitempty"`
	Platform string        `json:"platform"`
	Action   Action        `json:"action"`
	Reasons  []string      `json:"reasons"`
	Needs    []string      `json:"needs,omitempty"` // parents that this run makes first
	Key      key.ID        `json:"key"`
	TrunkKey key.ID        `json:"trunkKey,omitempty"` // "" when the trunk is the parent itself
	Digest   digest.Digest `json:"digest,omitempty"`   // of the image that is reused
	Trunk    digest.Digest `json:"trunk,omitempty"`    // of the trunk that is appended to, where it is known
	Unless   bool          `json:"unlessUnchanged,omitempty"`
	Due      string        `json:"refreshDue,omitempty"` // slot that has begun since the image was made
	Emulated bool          `json:"emulated,omitempty"`   // the engine needs an emulator on this machine
	Estimate *Estimate     `json:"estimate,omitempty"`
	Changes  []key.Change  `json:"changes,omitempty"` // against the last image of the unit
}

// Estimate is how long a step should take, from earlier records.
type Estimate struct {
	Seconds float64 `json:"seconds"`
	Basis   string  `json:"basis"` // "5 records", "same layer, other platform"
}

// Plan is one step for each unit, parents before children. It is immutable.
type Plan struct {
	Steps []Step `json:"steps"`
}

// Hit is what the registry holds for a unit; an empty digest is a miss.
type Hit struct {
	Unit  digest.Digest // the image under the unit's key
	Trunk digest.Digest // the image under the trunk's key
}

// Last is the newest image of a unit that the registry knows of.
type Last struct {
	Known  bool
	Key    key.ID
	Recipe key.Recipe // zero when it could not be read
}

// Input is everything that Make decides from.
type Input struct {
	Graph    *graph.Graph
	Wanted   []*graph.Unit // asked for by the user; their parents come along when needed
	Units    []*graph.Unit // the wanted ones and all that they stand on, parents first
	Keys     map[string]key.Keys
	Hits     map[string]Hit
	Last     map[string]Last
	Trunks   map[string]Last   // the newest trunk of units that may be rebased; of one without a tail, its newest image
	Due      map[string]string // units taken from an earlier slot -> the slot that has begun since
	Broken   map[string]string // units whose image or trunk is in the registry, but not whole, and what is wrong with it
	Rebuild  map[string]bool   // units that are built whatever the registry holds (--no-cache)
	Emulated map[string]bool   // platforms that this machine's engine emulates
	Inexact  map[string]string // units whose tail only an engine can make, and why
	Estimate func(layer, variant, platform string, a Action) *Estimate
}

// Make gives the plan.
func Make(in Input) Plan {
	m := maker{in: in, steps: map[string]*Step{}, needed: map[string]bool{}}
	for _, u := range in.Wanted {
		m.needed[u.ID] = true
	}
	for _, u := range slices.Backward(in.Units) {
		m.need(u)
	}
	var p Plan
	for _, u := range in.Units {
		p.Steps = append(p.Steps, m.step(u))
	}
	return p
}

type maker struct {
	in     Input
	steps  map[string]*Step
	needed map[string]bool
}

// need marks the parents of a unit that must be made.
func (m *maker) need(u *graph.Unit) {
	if !m.needed[u.ID] || m.hit(u) {
		return
	}
	for _, p := range u.Parents {
		m.needed[p.ID] = true
	}
}

func (m *maker) hit(u *graph.Unit) bool {
	return m.in.Hits[u.ID].Unit != "" && !m.in.Rebuild[u.ID]
}

func (m *maker) step(u *graph.Unit) Step {
	k, hit := m.in.Keys[u.ID], m.in.Hits[u.ID]
	s := &Step{
		Unit: u.ID, Layer: u.Layer, Variant: u.Variant, Platform: u.Platform,
		Key: k.Unit.ID(), Trunk: hit.Trunk,
	}
	if !k.Trunk.IsZero() {
		s.TrunkKey = k.Trunk.ID()
	}
	m.steps[u.ID] = s
	switch {
	case m.hit(u):
		s.Action, s.Digest, s.Reasons = Reuse, hit.Unit, []string{"nothing changed"}
		if due := m.in.Due[u.ID]; due != "" {
			s.Due, s.Reasons = due, []string{"nothing changed; its refresh for slot " + due + " is due"}
		}
		return *s
	case !m.needed[u.ID]:
		s.Action, s.Reasons = Skip, []string{"nothing that was asked for needs it"}
		return *s
	}
	s.Action = m.action(u)
	m.explain(u, s)
	for _, p := range u.Parents {
		if up := m.steps[p.ID]; up != nil && up.Action != Reuse && !slices.Contains(s.Needs, p.ID) {
			s.Needs = append(s.Needs, p.ID)
		}
	}
	s.Emulated = s.Action == Build && m.in.Emulated[u.Platform]
	if m.in.Estimate != nil {
		s.Estimate = m.in.Estimate(u.Layer, u.Variant, u.Platform, s.Action)
	}
	return *s
}

func (m *maker) action(u *graph.Unit) Action {
	if m.in.Rebuild[u.ID] || m.in.Inexact[u.ID] != "" {
		return Build
	}
	if u.Build.Trunk.Empty || m.in.Hits[u.ID].Trunk != "" {
		return Append
	}
	if m.rebases(u) {
		return Rebase
	}
	return Build
}

// explain gives the reasons in a user's words.
func (m *maker) explain(u *graph.Unit, s *Step) {
	last := m.in.Last[u.ID]
	switch {
	case m.in.Rebuild[u.ID]:
		s.Reasons = append(s.Reasons, m.again(u))
		return
	case m.in.Broken[u.ID] != "":
		s.Reasons = append(s.Reasons, m.in.Broken[u.ID])
		if !last.Recipe.IsZero() && last.Key != s.Key {
			s.Changes = m.changes(u, last.Recipe)
			s.Reasons = append(s.Reasons, words(s.Changes)...)
		}
	case !last.Known:
		s.Reasons = append(s.Reasons, "never built")
	case last.Key == s.Key:
		s.Reasons = append(s.Reasons, "its image is gone from the registry")
	case last.Recipe.IsZero():
		s.Reasons = append(s.Reasons, "its inputs changed")
	default:
		s.Changes = m.changes(u, last.Recipe)
		s.Unless = onlyParents(s.Changes)
		s.Reasons = append(s.Reasons, words(s.Changes)...)
	}
	if s.Action == Rebase {
		s.Reasons = append(s.Reasons, rebaseReason(u))
	}
	if why := m.in.Inexact[u.ID]; why != "" {
		s.Reasons = append(s.Reasons, "the engine makes its last files: "+why)
	}
}

// again says why a unit is built whatever the registry holds.
func (m *maker) again(u *graph.Unit) string {
	for _, p := range u.Parents {
		if m.in.Rebuild[p.ID] {
			return "parent " + p.ID + " is built again"
		}
	}
	return "asked to build it again"
}

func (m *maker) changes(u *graph.Unit, last key.Recipe) []key.Change {
	return key.Diff(last, m.in.Keys[u.ID].Unit)
}

// onlyParents says whether nothing but parents changed, so that the unit stays
// as it is when they come out the same.
func onlyParents(changes []key.Change) bool {
	for _, c := range changes {
		if !c.Parent() {
			return false
		}
	}
	return len(changes) > 0
}

// mostReasons bounds the reasons of one step; the rest is counted. Five lines
// are what a person reads; `strata explain` gives all.
const mostReasons = 5

func words(changes []key.Change) []string {
	var out []string
	seen := map[string]bool{}
	for _, c := range changes {
		w := c.String()
		if !seen[w] && len(out) < mostReasons {
			out = append(out, w)
		}
		seen[w] = true
	}
	if len(seen) > mostReasons {
		more := len(seen) - mostReasons + 1
		out = append(out[:mostReasons-1], plural(more, "more change", "more changes"))
	}
	return out
}

// Work says how many steps are not reuse.
func (p Plan) Work() int {
	n := 0
	for _, s := range p.Steps {
		if s.Action != Reuse && s.Action != Skip {
			n++
		}
	}
	return n
}

// Due says how many units stand on an earlier refresh slot.
func (p Plan) Due() int {
	n := 0
	for _, s := range p.Steps {
		if s.Due != "" {
			n++
		}
	}
	return n
}

// Step gives the step of a unit.
func (p Plan) Step(unit string) (Step, bool) {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Unit == unit })
	if i < 0 {
		return Step{}, false
	}
	return p.Steps[i], true
}
