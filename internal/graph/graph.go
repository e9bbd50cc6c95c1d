// Package graph holds the units of a project and their order.
//
// It takes a project and its parsed Dockerfiles and gives every unit with what
// its Dockerfile says, its parents, and how each parent is handed over. It has
// no I/O; a graph is immutable.
package graph

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/spec"
)

// Unit is one layer for one variant and platform.
type Unit struct {
	spec.Unit
	ID      string // "ml/cpu/linux/amd64"
	File    *dockerfile.File
	Build   *dockerfile.Build
	Options dockerfile.Options // what Build was made with
	Parents []Parent           // each unit once, in the order of the Dockerfile
	// Ambient says that SOURCE_DATE_EPOCH among its Args is that of
	// [Options.SourceDateEpoch].
	Ambient bool
}

// Parent is a unit that another one starts from or copies from.
type Parent struct {
	ID      string
	Arg     string // the build argument that hands it over, or ""
	Context string // the named context that hands it over, or ""
}

// Graph is every unit of a project, parents before children.
type Graph struct {
	Project *spec.Project
	Units   []*Unit
	byID    map[string]*Unit
}

// Unit gives the unit with the ID, or nil.
func (g *Graph) Unit(id string) *Unit { return g.byID[id] }

// Base gives the config of the external image that a unit starts from, where it
// is known.
type Base func(u *Unit, f dockerfile.From) (dockerfile.Config, bool)

// Options is what New needs beyond the project. The zero value works.
type Options struct {
	BuildPlatform string // of the machine, "linux/amd64"; default: each unit's own
	Base          Base   // nil knows nothing
	// SourceDateEpoch is the build argument of that name of units that are given
	// none; "" leaves them without.
	SourceDateEpoch string
}

// New makes the graph from the project and its Dockerfiles by path. All that is
// wrong is told at once.
func New(p *spec.Project, files map[string]*dockerfile.File, o Options) (*Graph, error) {
	b := &builder{project: p, files: files, options: o, stages: map[place]map[string][]string{}, twice: map[string]map[string][]string{}, units: map[string]*Unit{}, onBuild: map[string]map[string][]string{}}
	for _, u := range p.Units() {
		b.declare(u)
	}
	if err := b.checkSize(); err != nil {
		return nil, err
	}
	for _, id := range b.order {
		b.analyse(b.units[id])
	}
	// A parent's ONBUILD triggers are instructions of its children: these are
	// read once more with them.
	for _, id := range b.order {
		if u := b.units[id]; b.inherits(u) {
			u.Parents = nil
			b.analyse(u)
		}
	}
	if err := b.problems.Err(); err != nil {
		return nil, err
	}
	return b.sorted()
}

// inherits notes the triggers that a unit's parents leave to it, by the name of
// the From that takes the parent, and says whether there are any.
func (b *builder) inherits(u *Unit) bool {
	for _, p := range u.Parents {
		name := p.Context
		if p.Arg != "" {
			name = "arg:" + p.Arg
		}
		if t := b.units[p.ID].triggers(); t != nil {
			if b.onBuild[u.ID] == nil {
				b.onBuild[u.ID] = map[string][]string{}
			}
			b.onBuild[u.ID][name] = t
		}
	}
	return b.onBuild[u.ID] != nil
}

// triggers gives what the ONBUILD instructions of a unit's last stage say; those
// of the stages below are used up there.
func (u *Unit) triggers() []string {
	if u.Build == nil {
		return nil
	}
	var out []string
	for _, l := range u.Build.Lines {
		if text, ok := strings.CutPrefix(l.Text, "ONBUILD "); ok && l.Stage == len(u.Build.StageNames)-1 {
			out = append(out, text)
		}
	}
	return out
}

// place is where stages are looked for that a stage may take something from.
type place struct{ dockerfile, variant, platform string }

// maxInstructions bounds the instructions of the Dockerfiles of all units
// together, each unit's counted: so many take about a gigabyte of memory.
const maxInstructions = 200_000

// checkSize reports a project whose units are too large to be read, before they are.
func (b *builder) checkSize() error {
	n := 0
	for _, id := range b.order {
		if f := b.units[id].File; f != nil {
			n += f.Instructions()
		}
	}
	if n <= maxInstructions {
		return nil
	}
	return diag.Hint(fmt.Errorf("the Dockerfiles of %d units have %d instructions, each unit's counted; at most %d can be planned", len(b.order), n, maxInstructions),
		"split the project into several")
}

type builder struct {
	project  *spec.Project
	files    map[string]*dockerfile.File
	options  Options
	order    []string
	units    map[string]*Unit
	stages   map[place]map[string][]string  // stage layers by stage
	twice    map[string]map[string][]string // by unit and stage: layers that build it differently
	onBuild  map[string]map[string][]string // by unit and From: triggers of parents
	problems diag.List
}

func (b *builder) declare(u spec.Unit) {
	n := &Unit{Unit: u, ID: u.ID(), File: b.files[u.Dockerfile]}
	if _, given := u.Args[dockerfile.EpochArg]; !given && b.options.SourceDateEpoch != "" {
		n.Args = map[string]string{dockerfile.EpochArg: b.options.SourceDateEpoch}
		maps.Copy(n.Args, u.Args)
		n.Ambient = true
	}
	b.order = append(b.order, n.ID)
	b.units[n.ID] = n
	if u.Stage {
		k := place{u.Dockerfile, u.Variant, u.Platform}
		if b.stages[k] == nil {
			b.stages[k] = map[string][]string{}
		}
		b.stages[k][u.Target] = append(b.stages[k][u.Target], n.ID)
	}
}

// parents gives what may be handed over to u: units by named context and by
// build argument.
func (b *builder) parents(u *Unit) (contexts, args map[string]string) {
	contexts, args = map[string]string{}, map[string]string{}
	if u.Stage {
		b.twice[u.ID] = map[string][]string{}
		for stage, ids := range b.stages[place{u.Dockerfile, u.Variant, u.Platform}] {
			if slices.Contains(ids, u.ID) {
				continue
			}
			contexts[stage] = ids[0]
			if slices.ContainsFunc(ids, func(id string) bool { return !b.sameStage(ids[0], id) }) {
				b.twice[u.ID][stage] = ids
			}
		}
	}
	for _, h := range u.Unit.Parents() {
		id := b.sibling(u, h.Layer)
		if h.Context != "" {
			contexts[h.Context] = id
			delete(b.twice[u.ID], h.Context)
		} else if arg := parentArg(u); arg != "" {
			args[arg] = id
		} else {
			contexts[h.Layer] = id
		}
	}
	return contexts, args
}

// sameStage says whether two layers of one stage make the same of it.
func (b *builder) sameStage(id, other string) bool {
	u, v := b.units[id], b.units[other]
	return maps.Equal(u.Args, v.Args) && maps.Equal(u.Contexts, v.Contexts) && u.Context == v.Context && u.Network == v.Network
}

// parentArg names the build argument that hands a unit its parent: the one that
// the base of its target, or of what the target stands on, consists of. It is
// "" for a Dockerfile that names its parent otherwise.
func parentArg(u *Unit) string {
	bases := u.File.Bases(u.Args)
	at := len(bases) - 1
	for i, b := range bases {
		if u.Target != "" && (strings.EqualFold(b.Name, u.Target) || strconv.Itoa(i) == u.Target) {
			at = i
		}
	}
	for at >= 0 && bases[at].Base >= 0 {
		at = bases[at].Base
	}
	if at < 0 {
		return ""
	}
	return bases[at].Arg
}

// sibling is the unit of another layer with u's variant and platform.
func (b *builder) sibling(u *Unit, layer string) string {
	s := u.Unit
	s.Layer = layer
	return s.ID()
}

func (b *builder) analyse(u *Unit) {
	if u.File == nil {
		b.problems.Errorf(u.Pos, "", "%s: there is no Dockerfile %q", u.ID, u.Dockerfile)
		return
	}
	contexts, args := b.parents(u)
	o := dockerfile.Options{
		Target: u.Target, Args: u.Args, Platform: u.Platform, BuildPlatform: b.options.BuildPlatform,
		Contexts: map[string]bool{}, Folders: map[string]bool{}, ParentArgs: map[string]bool{},
		OnBuild: b.onBuild[u.ID],
	}
	if o.BuildPlatform == "" {
		o.BuildPlatform = u.Platform
	}
	if b.options.Base != nil {
		o.Base = func(f dockerfile.From) (dockerfile.Config, bool) { return b.options.Base(u, f) }
	}
	for name, value := range u.Contexts {
		if strings.Contains(value, "://") {
			o.Contexts[name] = true
		} else {
			o.Folders[name] = true
		}
	}
	for name := range contexts {
		o.Contexts[name] = true
		delete(o.Folders, name)
	}
	for name := range args {
		o.ParentArgs[name] = true
	}
	o.CopyFrom = func(c dockerfile.CopySource) bool { return c.Stage < 0 && isImage(u, c.From, contexts) }
	build, err := u.File.Analyze(o)
	if err != nil {
		b.add(u, err)
		return
	}
	u.Build, u.Options = build, o
	for _, f := range build.Froms {
		b.link(u, f, contexts, args)
	}
	if u.Parent != "" && !slices.ContainsFunc(u.Parents, func(p Parent) bool { return p.ID == b.sibling(u, u.Parent) }) {
		b.problems.Errorf(diag.Pos{File: u.Dockerfile, Line: 1},
			fmt.Sprintf("start it with `ARG BASE_IMAGE` and `FROM ${BASE_IMAGE}`, or with `FROM %s`", u.Parent),
			"layer %q has the parent %q, but this Dockerfile does not start from it", u.Layer, u.Parent)
	}
}

// isImage says whether a COPY --from takes from an image that a registry holds:
// one of a unit, or one from elsewhere.
func isImage(u *Unit, f dockerfile.From, contexts map[string]string) bool {
	if f.Context != "" {
		return contexts[f.Context] != "" || strings.HasPrefix(u.Contexts[f.Context], "docker-image://")
	}
	return f.Image != ""
}

func (b *builder) add(u *Unit, err error) {
	if es, ok := err.(*diag.Errors); ok {
		for _, f := range es.Findings {
			b.problems.Add(f)
		}
		return
	}
	b.problems.Errorf(diag.Pos{File: u.Dockerfile}, "", "%s: %v", u.ID, err)
}

// link notes the unit behind a From, where there is one.
func (b *builder) link(u *Unit, f dockerfile.From, contexts, args map[string]string) {
	p := Parent{}
	if arg, ok := strings.CutPrefix(f.Context, "arg:"); ok {
		p = Parent{ID: args[arg], Arg: arg}
	} else if f.Context != "" {
		p = Parent{ID: contexts[f.Context], Context: f.Context}
	}
	if ids := b.twice[u.ID][f.Context]; f.Context != "" && len(ids) > 1 {
		var layers []string
		for _, id := range ids {
			layers = append(layers, fmt.Sprintf("%q (%s)", b.units[id].Layer, b.units[id].Pos))
		}
		b.problems.Errorf(diag.Pos{File: u.Dockerfile, Line: f.Line},
			fmt.Sprintf("say which one layer %q takes: contexts: {%s: layer:%s}", u.Layer, f.Context, b.units[ids[0]].Layer),
			"%s takes the stage %q, which several layers build differently: %s", u.ID, f.Context, strings.Join(layers, ", "))
		return
	}
	if p.ID == "" || slices.Contains(u.Parents, p) {
		return
	}
	if b.units[p.ID] == nil {
		b.problems.Errorf(u.Pos, "give both layers the same platforms and variants",
			"%s needs %s, which this project does not build", u.ID, p.ID)
		return
	}
	u.Parents = append(u.Parents, p)
}

// sorted puts parents before children, keeping the declared order otherwise.
func (b *builder) sorted() (*Graph, error) {
	g := &Graph{Project: b.project, byID: b.units}
	state := map[string]int{} // 1 on the way, 2 done
	var visit func(id string, trail []string) error
	visit = func(id string, trail []string) error {
		trail = append(trail, id)
		switch state[id] {
		case 1:
			return fmt.Errorf("units need each other: %s", strings.Join(trail[slices.Index(trail, id):], " -> "))
		case 2:
			return nil
		}
		state[id] = 1
		for _, p := range b.units[id].Parents {
			if err := visit(p.ID, trail); err != nil {
				return err
			}
		}
		state[id] = 2
		g.Units = append(g.Units, b.units[id])
		return nil
	}
	for _, id := range b.order {
		if err := visit(id, nil); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Parent gives the unit that is handed over under the From, or nil when it is
// an external image.
func (g *Graph) Parent(u *Unit, f dockerfile.From) *Unit {
	for _, p := range u.Parents {
		if p.Arg != "" && f.Context == "arg:"+p.Arg || p.Context != "" && f.Context == p.Context {
			return g.byID[p.ID]
		}
	}
	return nil
}

// Leaf says whether no unit stands on u.
func (g *Graph) Leaf(u *Unit) bool {
	for _, other := range g.Units {
		if slices.ContainsFunc(other.Parents, func(p Parent) bool { return p.ID == u.ID }) {
			return false
		}
	}
	return true
}

// Closure gives the units with the given IDs and everything that they stand
// on, in the graph's order. IDs that the graph does not have are ignored.
func (g *Graph) Closure(ids []string) []*Unit {
	want := map[string]bool{}
	for _, id := range ids {
		if u := g.byID[id]; u != nil {
			g.mark(u, want)
		}
	}
	var out []*Unit
	for _, u := range g.Units {
		if want[u.ID] {
			out = append(out, u)
		}
	}
	return out
}

// On gives the IDs and those of all units that stand on them, in the graph's
// order.
func (g *Graph) On(ids []string) []string {
	on := map[string]bool{}
	for _, id := range ids {
		on[id] = true
	}
	var out []string
	for _, u := range g.Units {
		if on[u.ID] || slices.ContainsFunc(u.Parents, func(p Parent) bool { return on[p.ID] }) {
			on[u.ID] = true
			out = append(out, u.ID)
		}
	}
	return out
}

func (g *Graph) mark(u *Unit, want map[string]bool) {
	if want[u.ID] {
		return
	}
	want[u.ID] = true
	for _, p := range u.Parents {
		g.mark(g.byID[p.ID], want)
	}
}
