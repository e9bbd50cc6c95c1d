package dockerfile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/strata-build/strata/internal/diag"
)

// analysis is one run of Analyze.
type analysis struct {
	file     *File
	opts     Options
	platform string
	errs     diag.List
	globals  *globals
	lex      *shell.Lex
	raw      *shell.Lex // for heredocs, where quotes mean nothing
	stages   []*node
	byName   map[string]*node
	refs     map[*instr][]ref
	keys     int
	ops      []*op // of every reachable stage, in order
	open     []Unresolved
	engine   string // why everything needs the engine; "" normally
	noEpoch  bool   // SOURCE_DATE_EPOCH is given as ""
	room     int    // see maxExpanded
}

// op is an instruction in its place: expanded, with what it reads.
type op struct {
	*evaluated
	in   *instr
	node *node
	key  int // order among all lines
	tail bool
}

func (a *analysis) errorf(line int, hint, format string, args ...any) {
	a.errs.Errorf(a.file.pos(line), hint, format, args...)
}

func (a *analysis) nextKey() int {
	a.keys++
	return a.keys
}

// Analyze says what the target of the Dockerfile is made of. Stages that the
// target does not reach, and args that nothing uses, leave no trace in it.
func (f *File) Analyze(o Options) (*Build, error) {
	a := f.newAnalysis(o)
	final, err := a.reachTarget()
	if err != nil {
		return nil, err
	}
	a.engine = a.everything(final)
	a.epochStage(final)
	start := a.keys
	a.eval(nil)
	c := a.cut(final)
	if o.TrunkConfig != nil {
		a.keys = start
		a.eval(c.last)
		c = c.again(a)
	}
	if err := a.errs.Err(); err != nil {
		return nil, err
	}
	return a.build(final, c), nil
}

// reachTarget finds the stage to build and all that it needs.
func (a *analysis) reachTarget() (*node, error) {
	final := a.target()
	if err := a.errs.Err(); err != nil {
		return nil, err
	}
	if final.replaced {
		a.errorf(final.from.line, "leave the named context out, or build another target",
			"the target %q is replaced by the named context %q", final.label(), final.name)
		return nil, a.errs.Err()
	}
	a.reach(final)
	if err := a.errs.Err(); err != nil {
		return nil, err
	}
	a.count()
	return final, nil
}

func (f *File) newAnalysis(o Options) *analysis {
	a := &analysis{file: f, opts: o, refs: map[*instr][]ref{}, room: maxExpanded}
	a.withoutEmptyEpoch()
	a.platform = cmp.Or(o.Platform, "linux/amd64")
	a.lex, a.raw = shell.NewLex(f.escape), shell.NewLex('\\')
	a.raw.SkipProcessQuotes = true
	a.globals = a.globalScope()
	a.resolve()
	return a
}

// everything says why no part of the target can do without the engine.
func (a *analysis) everything(final *node) string {
	switch {
	case !knownSyntax(a.syntax()):
		return "its syntax is defined by the frontend " + a.syntax()
	case strings.HasPrefix(final.platform, "windows"):
		return "its platform is " + final.platform
	}
	return a.oddEpoch()
}

// syntax gives the frontend in force: a build arg may name another one than the
// file.
func (a *analysis) syntax() string {
	return cmp.Or(a.opts.Args["BUILDKIT_SYNTAX"], a.file.Syntax)
}

// knownSyntax says whether a frontend is Docker's own, of which this package
// knows what it does.
func knownSyntax(image string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(image, "docker.io/"), "@")
	name, _, _ = strings.Cut(name, ":")
	return name == "" || name == "docker/dockerfile" || name == "docker/dockerfile-upstream"
}

// platformArgs gives the args that BuildKit sets before the first line.
func (a *analysis) platformArgs() [][2]string {
	build := cmp.Or(a.opts.BuildPlatform, a.platform)
	b, t := splitPlatform(build), splitPlatform(a.platform)
	stage := a.opts.Target
	if stage == "" {
		stage = cmp.Or(a.file.last().name, "default")
	}
	return [][2]string{
		{"BUILDPLATFORM", b.String()}, {"BUILDOS", b[0]}, {"BUILDOSVERSION", ""}, {"BUILDARCH", b[1]}, {"BUILDVARIANT", b[2]},
		{"TARGETPLATFORM", t.String()}, {"TARGETOS", t[0]}, {"TARGETOSVERSION", ""}, {"TARGETARCH", t[1]}, {"TARGETVARIANT", t[2]},
		{"TARGETSTAGE", stage},
	}
}

// platformParts are os, architecture and variant.
type platformParts [3]string

// splitPlatform reads "os/arch[/variant]" with the variants that are the same
// as none left out.
func splitPlatform(s string) platformParts {
	var p platformParts
	copy(p[:], strings.SplitN(s, "/", 3))
	switch p[1] + "/" + p[2] {
	case "arm64/v8", "amd64/v1":
		p[2] = ""
	case "arm/":
		p[2] = "v7"
	}
	return p
}

func (p platformParts) String() string {
	return strings.TrimSuffix(strings.Join(p[:], "/"), "/")
}

// build puts together what was found.
func (a *analysis) build(final *node, c *cut) *Build {
	b := &Build{Syntax: a.syntax(), FinalStage: final.index, Trunk: c.trunk(a), Unresolved: a.open, Epoch: a.epoch()}
	for _, n := range a.stages {
		if n.reached {
			b.StageNames = append(b.StageNames, n.name)
		}
	}
	a.markTail(c)
	for _, o := range a.ops {
		o.addTo(b)
	}
	b.Lines = a.lines()
	for _, l := range b.Lines {
		if !l.Tail {
			b.Trunk.Lines++
		}
	}
	b.Args = a.args()
	for _, list := range []*[]string{&b.Secrets, &b.SSH, &b.CacheMounts} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	b.Needs = a.needs(c)
	return b
}

// markTail says of every instruction whether only the tail needs it, and marks
// the args that are used.
func (a *analysis) markTail(c *cut) {
	inTrunk := map[*node]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if n == nil || inTrunk[n] {
			return
		}
		inTrunk[n] = true
		walk(n.base.stage)
		for _, d := range n.deps {
			walk(d)
		}
	}
	for _, o := range c.head {
		for _, r := range a.refs[o.in] {
			walk(r.stage)
		}
	}
	chain := map[*instr]bool{}
	for _, o := range c.head {
		chain[o.in] = true
	}
	for _, o := range a.ops {
		o.tail = !inTrunk[o.node] && !chain[o.in]
		for _, u := range o.args {
			u.mark(o.tail)
		}
	}
}

// lines gives the normal form of what is reachable: the trunk's first.
func (a *analysis) lines() []Line {
	type keyed struct {
		Line
		key int
	}
	var all []keyed
	for i, l := range a.file.directives(a.syntax()) {
		all = append(all, keyed{l, i - 10})
	}
	arg := func(u *argUse, name string) {
		if u.used && u.text != "" {
			all = append(all, keyed{Line{Stage: u.stage, StageName: name, Text: u.text, Line: u.line, Tail: !u.inTrunk}, u.key})
		}
	}
	for _, u := range a.globals.uses {
		arg(u, "")
	}
	for _, o := range a.ops {
		for _, u := range o.declares {
			arg(u, o.node.name)
		}
		if !o.isArg {
			l := Line{Stage: o.node.ordinal, StageName: o.node.name, Text: a.text(o.in), Line: o.in.line, Tail: o.tail}
			all = append(all, keyed{l, o.key})
		}
	}
	slices.SortStableFunc(all, func(x, y keyed) int {
		if x.Tail != y.Tail {
			return map[bool]int{false: -1, true: 1}[x.Tail]
		}
		return cmp.Compare(x.key, y.key)
	})
	out := make([]Line, len(all))
	for i, k := range all {
		out[i] = k.Line
	}
	return out
}

// args gives the args that are used, one entry for each value that they have.
func (a *analysis) args() []Arg {
	uses := slices.Clone(a.globals.uses)
	for _, o := range a.ops {
		uses = append(uses, o.declares...)
	}
	at := map[Arg]int{}
	var out []Arg
	for _, u := range uses {
		if !u.used || isProxy(u.name) {
			continue
		}
		k := Arg{Name: u.name, Value: u.value, Default: u.def, Parent: u.parent}
		if i, ok := at[k]; ok {
			out[i].Tail = out[i].Tail && !u.inTrunk
			continue
		}
		at[k] = len(out)
		k.Tail = !u.inTrunk
		out = append(out, k)
	}
	slices.SortFunc(out, func(x, y Arg) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
	})
	return out
}

// addTo puts what the instruction reads into b.
func (o *op) addTo(b *Build) {
	for _, f := range o.froms {
		f.Tail = o.tail
		b.Froms = append(b.Froms, f)
	}
	for _, in := range o.inputs {
		in.Tail = o.tail
		b.Inputs = append(b.Inputs, in)
	}
	for _, r := range o.remotes {
		r.Tail = o.tail
		b.Remotes = append(b.Remotes, r)
	}
	b.Secrets = append(b.Secrets, o.secrets...)
	b.SSH = append(b.SSH, o.ssh...)
	b.CacheMounts = append(b.CacheMounts, o.caches...)
}
