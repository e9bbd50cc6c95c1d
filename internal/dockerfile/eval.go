package dockerfile

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// evaluated is an instruction with its variables expanded.
type evaluated struct {
	expansion
	cmd      instructions.Command // nil for FROM
	isArg    bool
	declares []*argUse // by ARG

	froms   []From
	inputs  []Input
	remotes []Remote
	secrets []string
	ssh     []string
	caches  []string

	copy    *CopySource
	dest    string // absolute; "" when this file alone does not say
	chmod   []Chmod
	why     string // why it needs the engine; "" when it may stand in the tail
	history string
	layer   bool
	cmdSet  bool
}

// eval evaluates every reachable stage in order. After the instruction last the
// environment is the trunk's config.
func (a *analysis) eval(last *instr) {
	a.ops, a.open = nil, nil
	for _, n := range a.stages {
		if n.reached {
			a.evalStage(n, last)
		}
	}
}

func (a *analysis) evalStage(n *node, last *instr) {
	s := a.stageScope(n)
	from := &op{in: n.from, node: n, key: a.nextKey(), evaluated: &evaluated{}}
	from.args = n.baseArgs
	a.evalFrom(from, n)
	a.ops = append(a.ops, from)
	if n.from == last {
		s.seed(*a.opts.TrunkConfig)
	}
	for _, in := range n.ops {
		o := &op{in: in, node: n, key: a.nextKey(), evaluated: &evaluated{}}
		a.evalCommand(o, s)
		a.ops = append(a.ops, o)
		if in == last {
			s.seed(*a.opts.TrunkConfig)
		}
	}
	n.end = s
}

// stageScope gives the environment that a stage starts with.
func (a *analysis) stageScope(n *node) *scope {
	if n.base.stage != nil {
		return n.base.stage.end.clone()
	}
	s := newScope(n.base.image, &a.room)
	if n.base.scratch || n.base.folder != "" {
		s.seed(Config{})
		return s
	}
	if c, ok := a.config(n.base.image); ok {
		s.seed(c)
	}
	return s
}

func (a *analysis) evalFrom(o *op, n *node) {
	switch {
	case n.base.folder != "":
		o.why = "its base is the folder " + n.base.folder
		o.inputs = []Input{{Context: n.base.folder, Patterns: []string{"."}, Line: o.in.line, Kind: InputFrom, Stage: n.ordinal}}
	case n.base.image != From{}:
		o.froms = []From{n.base.image}
	}
}

// evalCommand expands one instruction and notes what it reads and what it does
// to the environment.
func (a *analysis) evalCommand(o *op, s *scope) {
	cmd, err := o.in.fresh()
	if err != nil {
		a.errorf(o.in.line, "", "%s", reason(err))
		return
	}
	o.cmd, o.why = cmd, a.engine
	reads := map[string]bool{} // words that name what is read
	inputOpen := a.expand(o, s, cmd, reads)
	switch c := cmd.(type) {
	case *instructions.ArgCommand:
		a.evalArg(o, s, c)
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			s.vars[e.Key] = binding{value: e.Value, open: o.open, base: o.base}
		}
	case *instructions.WorkdirCommand:
		a.evalWorkdir(o, s, c)
	case *instructions.UserCommand:
		if s.user = c.User; o.base {
			s.user = unknownUser
		}
	case *instructions.ShellCommand:
		s.shell, s.shellHere = c.Shell, c.Shell
	case *instructions.CopyCommand:
		o.dest = s.dest(o, c.DestPath)
		a.evalCopy(o, c)
	case *instructions.AddCommand:
		o.dest = s.dest(o, c.DestPath)
		a.evalAdd(o, c)
	case *instructions.RunCommand:
		inputOpen = inputOpen || len(o.open) > 0
		a.evalRun(o, s, c)
	case *instructions.CmdCommand:
		s.cmdSet = true
	case *instructions.EntrypointCommand:
		o.cmdSet = s.cmdSet
	}
	a.record(o, s)
	slices.Sort(o.open)
	for _, name := range slices.Compact(o.open) {
		a.open = append(a.open, Unresolved{Name: name, Line: o.in.line, Stage: o.node.ordinal, From: s.from, Input: inputOpen})
	}
}

// expand expands the words of cmd in place. It says whether a word that names
// something to read depends on a variable that is unknown.
func (a *analysis) expand(o *op, s *scope, cmd instructions.Command, reads map[string]bool) bool {
	switch c := cmd.(type) {
	case *instructions.ArgCommand:
		return false // word by word, see evalArg
	case *instructions.ExposeCommand:
		a.expandPorts(o, s, c)
		return false
	case *instructions.CopyCommand:
		note(reads, c.SourcePaths...)
	case *instructions.AddCommand:
		note(reads, append(slices.Clone(c.SourcePaths), c.Checksum)...)
	}
	inputOpen := false
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		err := ex.Expand(func(word string) (string, error) {
			before := len(o.open)
			v, err := o.word(a.lex, s, word)
			inputOpen = inputOpen || reads[word] && len(o.open) > before
			return v, err
		})
		if err != nil && len(o.open) == 0 {
			a.errorf(o.in.line, "", "%s", reason(err))
		}
	}
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansionRaw); ok {
		err := ex.ExpandRaw(func(word string) (string, error) {
			before := len(o.open)
			v, err := o.word(a.raw, s, word)
			inputOpen = inputOpen || len(o.open) > before
			return v, err
		})
		if err != nil {
			a.errorf(o.in.line, "", "%s", reason(err))
		}
	}
	return inputOpen
}

func note(set map[string]bool, words ...string) {
	for _, w := range words {
		set[w] = true
	}
}

// evalArg gives the args of one ARG line their values: the build arg, else the
// default, else the value from before the first FROM.
func (a *analysis) evalArg(o *op, s *scope, c *instructions.ArgCommand) {
	o.isArg = true
	for i, kv := range c.Args {
		use := &argUse{name: kv.Key, line: o.in.line, stage: o.node.ordinal, key: o.key,
			text: "ARG " + kv.Key, parent: a.opts.ParentArgs[kv.Key]}
		var x expansion
		given, isGiven := a.opts.Args[kv.Key]
		global, isGlobal := a.globals.vars[kv.Key]
		switch {
		case isGiven && !isProxy(kv.Key):
			use.value = given
		case kv.Value != nil:
			v, err := x.word(a.lex, s, *kv.Value)
			if err != nil {
				a.errorf(o.in.line, "", "%s", reason(err))
				return
			}
			use.value, use.def, use.deps = v, true, x.args
			use.text += "=" + *kv.Value
		case isGlobal && !global.arg.hidden():
			use.value, use.def, use.deps = global.value, global.arg.def, []*argUse{global.arg}
		case isGiven:
			use.text = ""
		default:
			s.args = append(s.args, declared{name: kv.Key})
			continue
		}
		if isGiven {
			use.value = given
		}
		c.Args[i].Value = &use.value
		s.args = append(s.args, declared{kv.Key, use.value})
		o.declares = append(o.declares, use)
		if !noEnv(kv.Key) {
			s.vars[kv.Key] = binding{value: use.value, arg: use, open: x.open, base: x.base}
		}
	}
}

func (a *analysis) evalWorkdir(o *op, s *scope, c *instructions.WorkdirCommand) {
	join := func(dir string) string {
		switch {
		case path.IsAbs(c.Path):
			return c.Path
		case c.Path == "":
			return dir
		}
		return path.Join("/", dir, c.Path)
	}
	s.dirKnown = len(o.open) == 0 && (s.dirKnown || path.IsAbs(c.Path))
	s.dir = join(s.dir)
	if o.base || s.dirHere == "" && !path.IsAbs(c.Path) {
		s.dirHere = ""
	} else {
		s.dirHere = join(s.dirHere)
	}
	o.layer = s.dir != "/"
}

func (a *analysis) evalCopy(o *op, c *instructions.CopyCommand) {
	o.layer = true
	for _, src := range c.SourcePaths {
		if _, remote := a.remote(o, src, ""); remote {
			a.errorf(o.in.line, "use ADD", "COPY takes no URL: %q", src)
		}
	}
	in := Input{Patterns: local(c.SourcePaths), Excludes: c.ExcludePatterns, Parents: c.Parents,
		Line: o.in.line, Kind: InputCopy, Stage: o.node.ordinal}
	if c.From == "" {
		if len(in.Patterns) > 0 {
			o.inputs = []Input{in}
		}
		return
	}
	for _, r := range a.sources(o.node, o.in) {
		a.copyFrom(o, c, r, in)
	}
}

// copyFrom notes what COPY --from reads.
func (a *analysis) copyFrom(o *op, c *instructions.CopyCommand, r ref, in Input) {
	if r.folder != "" {
		in.Context = r.folder
		o.inputs = []Input{in}
		return
	}
	o.copy = &CopySource{Stage: -1, Name: c.From, From: r.image, Paths: c.SourcePaths, Dest: c.DestPath, Line: o.in.line}
	what := "image " + r.image.Name()
	switch {
	case r.stage != nil:
		o.copy.Stage = r.stage.index
		what = "stage " + r.stage.label()
	case r.image != From{}:
		o.froms = []From{r.image}
	}
	if o.why == "" && (a.opts.CopyFrom == nil || !a.opts.CopyFrom(*o.copy)) {
		o.why = "it copies from the " + what
	}
}

func (a *analysis) evalAdd(o *op, c *instructions.AddCommand) {
	o.layer = true
	in := Input{Excludes: c.ExcludePatterns, Line: o.in.line, Kind: InputAdd, Stage: o.node.ordinal}
	for _, src := range c.SourcePaths {
		if r, ok := a.remote(o, src, c.Checksum); ok {
			o.remotes = append(o.remotes, r)
			if o.why == "" {
				o.why = "it fetches " + src
			}
			continue
		}
		in.Patterns = append(in.Patterns, src)
	}
	if in.Patterns = local(in.Patterns); len(in.Patterns) > 0 {
		o.inputs = []Input{in}
	}
}

// local gives sources as patterns: an empty one is the whole context.
func local(srcs []string) []string {
	out := slices.Clone(srcs)
	for i, s := range out {
		if s == "" {
			out[i] = "."
		}
	}
	return out
}

// commit matches a full git commit.
var commit = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// remote reads a source that is a URL or a git repository.
func (a *analysis) remote(o *op, src, checksum string) (Remote, bool) {
	git, isGit, err := dfgitutil.ParseGitRef(src)
	r := Remote{URL: src, Checksum: checksum, Line: o.in.line}
	switch {
	case err != nil && isGit:
		a.errorf(o.in.line, "", "%q: %s", src, err)
		return r, true
	case err == nil && !git.IndistinguishableFromLocal:
		if git.Checksum != "" {
			r.Checksum = git.Checksum
		}
		if r.Checksum == "" && commit.MatchString(git.Ref) {
			r.Checksum = git.Ref
		}
	case !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://"):
		return r, false
	}
	r.Keyed = r.Checksum != ""
	return r, true
}

// evalRun notes the mounts of a RUN. Every ARG in scope is in its environment.
func (a *analysis) evalRun(o *op, s *scope, c *instructions.RunCommand) {
	o.layer = true
	o.args = append(o.args, s.visible()...)
	mounts := instructions.GetMounts(c)
	refs := a.sources(o.node, o.in)
	for i, m := range mounts {
		if i < len(refs) {
			a.evalMount(o, m, refs[i])
		}
	}
	if o.why != "" {
		return
	}
	o.chmod = chmods(c, s)
	if o.chmod == nil {
		o.why = "it runs a program"
	}
}

func (a *analysis) evalMount(o *op, m *instructions.Mount, r ref) {
	switch m.Type {
	case instructions.MountTypeSecret:
		id := m.CacheID
		if m.Source != "" {
			id = m.Source
		}
		if id == "" {
			id = path.Base(m.Target)
		}
		o.secrets = append(o.secrets, id)
		return
	case instructions.MountTypeSSH:
		id := m.CacheID
		if id == "" {
			id = "default"
		}
		o.ssh = append(o.ssh, id)
		return
	case instructions.MountTypeTmpfs:
		return
	case instructions.MountTypeCache:
		id := m.CacheID
		if id == "" {
			id = path.Clean(m.Target)
		}
		o.caches = append(o.caches, id)
		if m.From == "" {
			return
		}
	}
	in := Input{Line: o.in.line, Kind: InputBind, Stage: o.node.ordinal, Context: r.folder}
	in.Patterns = []string{strings.TrimPrefix(path.Join("/", m.Source), "/")}
	switch {
	case m.From == "" || r.folder != "":
		in.Patterns = local(in.Patterns)
		o.inputs = append(o.inputs, in)
	case r.image != From{}:
		o.froms = append(o.froms, r.image)
	}
}
