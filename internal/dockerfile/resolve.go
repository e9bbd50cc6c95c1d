package dockerfile

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// ref is what a name in FROM, --from or from= stands for: a stage, an image or
// named context, a folder, or nothing.
type ref struct {
	stage   *node
	image   From // when stage is nil
	folder  string
	scratch bool
}

// node is a stage with what it depends on resolved.
type node struct {
	*stage
	base     ref
	baseArgs []*argUse // args in FROM
	platform string
	replaced bool // a named context takes its place
	ops      []*instr
	deps     []*node // stages that its instructions read
	reached  bool
	ordinal  int    // among the reached stages
	end      *scope // its scope after the last instruction
}

// resolve expands every FROM and finds what each one stands on.
func (a *analysis) resolve() {
	byName := map[string]*node{}
	for _, st := range a.file.stages {
		n := &node{stage: st, ops: st.cmds}
		a.stages = append(a.stages, n)
		n.replaced = st.name != "" && (a.opts.Contexts[st.name] || a.opts.Folders[st.name])
		a.resolveFrom(n, byName)
		if st.name != "" {
			byName[st.name] = n
		}
	}
	a.byName = byName
}

func (a *analysis) resolveFrom(n *node, earlier map[string]*node) {
	var x expansion
	n.platform = a.platform
	if p := n.def.Platform; p != "" {
		v, err := x.word(a.globals.lex, a.globals.scope, p)
		switch {
		case err != nil:
			a.errorf(n.from.line, "", "%s", reason(err))
		case v == "":
			a.errorf(n.from.line, "give the args in it a value", "the platform %q is empty", p)
		default:
			n.platform = v
		}
	}
	if name, ok := a.parentArg(n.def.BaseName); ok {
		n.baseArgs = x.args
		n.base = ref{image: From{Context: "arg:" + name, Platform: n.platform, Stage: n.index, Line: n.from.line, Kind: KindFrom}}
		return
	}
	name, err := x.word(a.globals.lex, a.globals.scope, n.def.BaseName)
	if err != nil {
		a.errorf(n.from.line, "", "%s", reason(err))
		return
	}
	if name == "" {
		a.errorf(n.from.line, a.baseHint(n.def.BaseName), "the base %q is empty", n.def.BaseName)
		return
	}
	n.baseArgs = x.args
	if st := earlier[name]; st != nil {
		n.platform = st.platform
		n.base = a.stageRef(st, n.index, n.from.line, KindFrom)
		return
	}
	n.base = a.outside(name, n.index, n.from.line, KindFrom, n.platform)
}

// baseHint says what to do about a base that has no value.
func (a *analysis) baseHint(text string) string {
	m := oneArg.FindStringSubmatch(text)
	if m == nil {
		return "give the args in it a value"
	}
	return "give the arg a value, or a default: ARG " + m[1] + m[2] + "=debian:bookworm-slim"
}

// oneArg matches a word that is one variable and nothing else, with or without
// a default.
var oneArg = regexp.MustCompile(`^\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?[-?][^{}]*)?\})$`)

// parentArg says which arg a base consists of, if that arg names a parent.
func (a *analysis) parentArg(text string) (string, bool) {
	m := oneArg.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	name := m[1] + m[2]
	return name, a.opts.ParentArgs[name]
}

// stageRef is a reference to a stage of the file, or to the named context that
// takes its place.
func (a *analysis) stageRef(st *node, user, line int, kind string) ref {
	if !st.replaced {
		return ref{stage: st}
	}
	if a.opts.Folders[st.name] {
		return ref{folder: st.name}
	}
	return ref{image: From{Context: st.name, Platform: st.platform, Stage: user, Line: line, Kind: kind}}
}

// outside is a reference to something that is not in the file.
func (a *analysis) outside(name string, user, line int, kind, platform string) ref {
	if name == Scratch {
		return ref{scratch: true}
	}
	if key := ContextName(name); !strings.EqualFold(key, "context") {
		switch {
		case a.opts.Folders[key]:
			return ref{folder: key}
		case a.opts.Contexts[key]:
			return ref{image: From{Context: key, Platform: platform, Stage: user, Line: line, Kind: kind}}
		}
	}
	return ref{image: From{Image: name, Platform: platform, Stage: user, Line: line, Kind: kind}}
}

// ContextName gives the name under which BuildKit looks for a named context
// that takes the place of an image: its short form, without ":latest".
func ContextName(image string) string {
	for _, p := range []string{"docker.io/", "index.docker.io/"} {
		image = strings.TrimPrefix(image, p)
	}
	return strings.TrimSuffix(strings.TrimPrefix(image, "library/"), ":latest")
}

// copyRef resolves the name in COPY --from: a stage by name or index, or an
// image.
func (a *analysis) copyRef(n *node, name string, line int) (ref, bool) {
	st := a.byName[strings.ToLower(name)]
	if i, err := strconv.Atoi(name); err == nil {
		if i < 0 || i >= len(a.stages) {
			a.errorf(line, "", "COPY --from=%s: the Dockerfile has no stage %d", name, i)
			return ref{}, false
		}
		st = a.stages[i]
	}
	return a.useRef(n, st, "COPY --from="+name, name, line, KindCopy)
}

// mountRef resolves the name in RUN --mount=from: a stage by name, or an image.
func (a *analysis) mountRef(n *node, name string, line int) (ref, bool) {
	return a.useRef(n, a.byName[strings.ToLower(name)], "RUN --mount from="+name, name, line, KindMount)
}

func (a *analysis) useRef(n *node, st *node, what, name string, line int, kind string) (ref, bool) {
	if st == nil {
		return a.outside(name, n.index, line, kind, a.platform), true
	}
	switch {
	case st == n:
		a.errorf(line, "", "%s: stage %q reads itself", what, st.label())
		return ref{}, false
	case st.index > n.index:
		a.errorf(line, "move the stage up", "%s: stage %q stands behind stage %q", what, st.label(), n.label())
		return ref{}, false
	}
	return a.stageRef(st, n.index, line, kind), true
}

// triggers gives the ONBUILD triggers that a stage starts with: those of its
// image, or those written in the stage that it starts from.
func (a *analysis) triggers(n *node) []*instr {
	var texts []string
	switch base := n.base.stage; {
	case base != nil:
		for _, in := range base.ops {
			if c, ok := in.cmd.(*instructions.OnbuildCommand); ok {
				texts = append(texts, c.Expression)
			}
		}
	case n.base.image != From{}:
		texts = a.opts.OnBuild[n.base.image.Name()]
		if c, ok := a.config(n.base.image); ok && texts == nil {
			texts = c.OnBuild
		}
	}
	var out []*instr
	for _, text := range texts {
		in, err := trigger(text, n.from)
		if err != nil {
			a.errorf(n.from.line, "", "reading the ONBUILD trigger %q of the base: %s", text, reason(err))
			continue
		}
		out = append(out, in)
	}
	return out
}

// trigger reads one ONBUILD trigger. It stands on the line of FROM.
func trigger(text string, from *instr) (*instr, error) {
	res, err := parser.Parse(bytes.NewReader([]byte(text)))
	if err != nil {
		return nil, err
	}
	if len(res.AST.Children) != 1 {
		return nil, errors.New("it is not one instruction")
	}
	n := res.AST.Children[0]
	n.StartLine, n.EndLine = from.line, from.end
	in := &instr{node: n, kind: strings.ToLower(n.Value), line: from.line, end: from.end, trigger: true}
	if in.cmd, err = instructions.ParseCommand(n); err != nil {
		return nil, err
	}
	in.text = renderer{escape: parser.DefaultEscapeToken}.checked(n)
	return in, nil
}

// config gives the config of a base, where the caller knows it.
func (a *analysis) config(from From) (Config, bool) {
	if a.opts.Base == nil {
		return Config{}, false
	}
	return a.opts.Base(from)
}

// reach finds the stages that n needs, n included, and what each of their
// instructions reads.
func (a *analysis) reach(n *node) {
	if n.reached {
		return
	}
	n.reached = true
	if n.base.stage != nil {
		a.reach(n.base.stage)
	}
	n.ops = append(a.triggers(n), n.ops...)
	for _, in := range n.ops {
		for _, r := range a.sources(n, in) {
			if r.stage != nil {
				n.deps = append(n.deps, r.stage)
				a.reach(r.stage)
			}
		}
	}
}

// count numbers the reached stages, so that stages which are not reached do not
// show in the numbers of those that are.
func (a *analysis) count() {
	next := 0
	for _, n := range a.stages {
		if !n.reached {
			continue
		}
		n.ordinal = next
		next++
		if n.base.image != (From{}) {
			n.base.image.Stage = n.ordinal
		}
		for _, in := range n.ops {
			for i, r := range a.refs[in] {
				if r.image != (From{}) {
					a.refs[in][i].image.Stage = n.ordinal
				}
			}
		}
	}
}

// text gives the normal form of a stage's instruction. A stage that --from names
// by its number in the file is named by its name, or by its number among the
// reached ones: "#1".
func (a *analysis) text(in *instr) string {
	c, ok := in.cmd.(*instructions.CopyCommand)
	if !ok {
		return in.text
	}
	if _, err := strconv.Atoi(c.From); err != nil || len(a.refs[in]) == 0 {
		return in.text
	}
	name := ""
	switch r := a.refs[in][0]; {
	case r.stage == nil: // a named context takes its place
		name = r.folder + r.image.Context
	case r.stage.name != "" && a.byName[r.stage.name] == r.stage:
		name = r.stage.name
	default:
		name = "#" + strconv.Itoa(r.stage.ordinal)
	}
	return strings.Replace(in.text, "--from="+c.From, "--from="+name, 1)
}

// sources gives what an instruction reads from stages and images.
func (a *analysis) sources(n *node, in *instr) []ref {
	if refs, ok := a.refs[in]; ok {
		return refs
	}
	var refs []ref
	switch c := in.cmd.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			refs = a.copySource(n, in, c.From)
		}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			r := ref{scratch: true}
			if m.From != "" {
				r, _ = a.mountRef(n, m.From, in.line)
			}
			refs = append(refs, r)
		}
	}
	a.refs[in] = refs
	return refs
}

func (a *analysis) copySource(n *node, in *instr, from string) []ref {
	plain, _, err := a.globals.lex.ProcessWord(valid(from), noVars{})
	if err != nil || plain != valid(from) {
		a.errorf(in.line, "name a stage for it: FROM "+from+" AS name, and copy from that",
			"COPY --from=%s: BuildKit expands no variables here", from)
		return nil
	}
	r, ok := a.copyRef(n, from, in.line)
	if !ok {
		return nil
	}
	return []ref{r}
}

// noVars is an environment without variables.
type noVars struct{}

func (noVars) Get(string) (string, bool) { return "", false }
func (noVars) Keys() []string            { return nil }

// target finds the stage to build.
func (a *analysis) target() *node {
	t := a.opts.Target
	if t == "" {
		return a.stages[len(a.stages)-1]
	}
	if n := a.byName[strings.ToLower(t)]; n != nil {
		return n
	}
	if i, err := strconv.Atoi(t); err == nil && i >= 0 && i < len(a.stages) {
		return a.stages[i]
	}
	hint := "the Dockerfile names no stage"
	if names := slices.DeleteFunc(a.file.Stages(), func(s string) bool { return s == "" }); len(names) > 0 {
		hint = "its stages are " + strings.Join(names, ", ")
	}
	a.errorf(0, hint, "there is no stage %q", t)
	return nil
}
