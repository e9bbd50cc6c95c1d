package dockerfile

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Graft says how the stages of a target are written so that they can stand in
// one file with the stages of other targets. Stage, Image and Folder must be
// set.
type Graft struct {
	// Stage gives a stage its new name. It is called once for each reachable
	// stage, in order; the target is the final one.
	Stage func(name string, final bool) string
	// Image gives what stands for an image, a named context or a parent: a
	// reference, or the name of a stage that stands before this one.
	Image func(From) string
	// Folder gives the named context in which a folder is handed over. It is
	// asked for "", too: the main context, which stays what it is if the answer
	// is "".
	Folder func(context string) string
	// Inherited gives the args that are in force at the end of the stage which
	// takes a parent's place, [Grafted.Visible]; nil knows none.
	Inherited func(From) []string
	Network   string            // for every RUN that names none; "" leaves it out
	Labels    map[string]string // added to the target
}

// Grafted is a target's reachable stages as they are written for another file.
type Grafted struct {
	// Text has no directives and no ARG before the first FROM: values are
	// written where they are used. Comments and heredocs are as they were.
	Text    []byte
	Visible []string // args in force at the end of the target, sorted
	Seen    []Seen
	Parents []ParentValue
}

// Seen is an arg of a parent that an instruction sees only because the parent is
// a stage of the same file: an image would not have handed it on.
type Seen struct {
	Name  string
	Line  int
	Named bool // the instruction's text has the name
}

// ParentValue is an ARG in a stage that gives the name of a parent's image,
// which is the name of a stage then.
type ParentValue struct {
	Name string
	Line int
}

// Graft writes the target's stages so that they can stand in another file. What
// can't be written so that it means the same is an error with its line.
func (f *File) Graft(o Options, g Graft) (Grafted, error) {
	a := f.newAnalysis(o)
	final, err := a.reachTarget()
	if err != nil {
		return Grafted{}, err
	}
	a.eval(nil)
	w := &grafter{analysis: a, graft: g, lines: bytes.SplitAfter(trimBOM(f.data), []byte("\n")),
		names: map[*node]string{}, left: map[*node]map[string]bool{}, ops: map[*instr]*op{}}
	for _, o := range a.ops {
		w.ops[o.in] = o
		if o.in.trigger && len(o.inputs) > 0 && g.Folder("") != "" {
			a.errorf(o.in.line, "", "the base's ONBUILD trigger %s takes files from another build context than the last layer's", o.in.text)
		}
	}
	for _, n := range a.stages {
		if n.reached {
			w.names[n] = g.Stage(n.name, n == final)
			w.stage(n)
		}
	}
	w.labels()
	if err := a.errs.Err(); err != nil {
		return Grafted{}, err
	}
	w.done.Text = w.text.Bytes()
	w.done.Visible = slices.Sorted(maps.Keys(w.left[final]))
	return w.done, nil
}

func trimBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) }

type grafter struct {
	*analysis
	graft Graft
	lines [][]byte
	text  bytes.Buffer
	names map[*node]string
	left  map[*node]map[string]bool // args of parents that are in force at a stage's end
	ops   map[*instr]*op
	done  Grafted
}

// stage writes one stage with the comments before its instructions.
func (w *grafter) stage(n *node) {
	w.inherit(n)
	at := w.start(n)
	own := append([]*instr{n.from}, n.stage.cmds...)
	for _, in := range own {
		for _, l := range w.lines[at : in.line-1] {
			if in != n.from || n.index > 0 || w.kept(l) {
				w.text.Write(l)
			}
		}
		text := w.raw(in)
		if in == n.from {
			text = w.from(n)
		} else {
			text = w.rewrite(w.ops[in], text)
			w.see(n, w.ops[in], text)
		}
		w.text.WriteString(text)
		at = in.end
	}
	for name, b := range n.end.vars {
		if b.arg != nil && !isProxy(name) {
			w.left[n][name] = true
		}
	}
}

// start gives the index of the first line that belongs to a stage.
func (w *grafter) start(n *node) int {
	if n.index == 0 {
		return 0
	}
	before := w.file.stages[n.index-1]
	if len(before.cmds) > 0 {
		return before.cmds[len(before.cmds)-1].end
	}
	return before.from.end
}

var directive = regexp.MustCompile(`(?i)^\s*#\s*(syntax|escape|check)\s*=`)

// kept says whether a line before the first FROM is written: it may be a
// directive or an ARG.
func (w *grafter) kept(line []byte) bool {
	t := bytes.TrimSpace(line)
	if len(t) == 0 {
		return w.text.Len() > 0
	}
	return t[0] == '#' && !directive.Match(line)
}

// raw gives an instruction's text as it stands in the file, with the end of its
// last line.
func (w *grafter) raw(in *instr) string {
	lines := w.lines[in.line-1 : in.end]
	last := in.end == len(w.lines) || len(bytes.TrimSpace(bytes.Join(w.lines[in.end:], nil))) == 0
	if last && len(in.node.Heredocs) == 0 {
		return uncontinued(lines, string(w.file.escape))
	}
	text := string(bytes.Join(lines, nil))
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// uncontinued gives the last instruction of a file without what continues it:
// there nothing follows, but here another one does.
func uncontinued(lines [][]byte, escape string) string {
	for {
		for len(lines) > 1 && isFiller(lines[len(lines)-1]) {
			lines = lines[:len(lines)-1]
		}
		text := strings.TrimRight(string(lines[len(lines)-1]), "\r\n")
		short, ok := strings.CutSuffix(strings.TrimRight(text, " \t"), escape)
		switch {
		case !ok || strings.HasSuffix(short, escape): // two of them continue nothing
		case len(lines) > 1 && strings.TrimSpace(short) == "":
			lines = lines[:len(lines)-1]
			continue
		default:
			text = short
		}
		return string(bytes.Join(lines[:len(lines)-1], nil)) + text + "\n"
	}
}

func isFiller(line []byte) bool {
	t := bytes.TrimSpace(line)
	return len(t) == 0 || t[0] == '#'
}

// from writes a FROM line.
func (w *grafter) from(n *node) string {
	text := "FROM "
	if n.def.Platform != "" && n.base.stage == nil && !strings.HasPrefix(n.base.image.Context, "arg:") {
		text += "--platform=" + w.platformOf(n) + " "
	}
	return text + w.refName(n.base) + " AS " + w.names[n] + "\n"
}

var automatic = regexp.MustCompile(`^\$\{?(BUILDPLATFORM|TARGETPLATFORM)\}?$`)

// platformOf gives the platform in FROM: $BUILDPLATFORM as written, which is
// another one on each machine, anything else by its value.
func (w *grafter) platformOf(n *node) string {
	m := automatic.FindStringSubmatch(n.def.Platform)
	if m != nil && w.globals.vars[m[1]].arg.line == 0 && w.globals.vars[m[1]].arg.def {
		return n.def.Platform
	}
	return n.platform
}

// refName gives what stands for something that a stage or image is taken from.
func (w *grafter) refName(r ref) string {
	switch {
	case r.stage != nil:
		return w.names[r.stage]
	case r.folder != "":
		return w.graft.Folder(r.folder)
	case r.scratch:
		return Scratch
	}
	return w.graft.Image(r.image)
}

// rewrite gives an instruction's text with what it names by its new name.
func (w *grafter) rewrite(o *op, text string) string {
	switch c := o.in.cmd.(type) {
	case *instructions.ArgCommand:
		return w.arg(o, c, text)
	case *instructions.CopyCommand:
		return w.copy(o, c, text)
	case *instructions.AddCommand:
		if len(o.inputs) > 0 && w.graft.Folder("") != "" {
			w.errorf(o.in.line, "write COPY, or give all layers the same context and ignore file",
				"ADD takes files from another build context than the last layer's, which only COPY can name")
		}
	case *instructions.RunCommand:
		return w.run(o, c, text)
	case *instructions.OnbuildCommand:
		if strings.Contains(c.Expression, "from=") || w.graft.Folder("") != "" {
			w.errorf(o.in.line, "", "ONBUILD %s: what it takes would be something else in one file", c.Expression)
		}
	}
	return text
}

func (w *grafter) copy(o *op, c *instructions.CopyCommand, text string) string {
	if c.From != "" {
		if refs := w.refs[o.in]; len(refs) > 0 {
			return w.replace(o, text, "--from="+c.From, "--from="+w.refName(refs[0]))
		}
		return text
	}
	main := w.graft.Folder("")
	if main == "" || len(o.inputs) == 0 {
		return text
	}
	return afterKeyword(text, "--from="+main)
}

func (w *grafter) run(o *op, c *instructions.RunCommand, text string) string {
	mounts := instructions.GetMounts(c)
	at, network := 0, false
	for _, flag := range o.in.node.Flags {
		network = network || strings.HasPrefix(flag, "--network=")
		if !strings.HasPrefix(flag, "--mount=") || at >= len(mounts) {
			continue
		}
		m, r := mounts[at], w.refs[o.in][at]
		at++
		switch {
		case m.From != "":
			text = w.replace(o, text, flag, strings.Replace(flag, "from="+m.From, "from="+w.refName(r), 1))
		case m.Type == instructions.MountTypeBind && w.graft.Folder("") != "":
			text = w.replace(o, text, flag, flag+",from="+w.graft.Folder(""))
		}
	}
	if w.graft.Network != "" && !network {
		text = afterKeyword(text, "--network="+w.graft.Network)
	}
	return text
}

// replace puts another flag in place of one. A flag that the file writes with
// quotes or over two lines is an error: it can't be found.
func (w *grafter) replace(o *op, text, old, with string) string {
	if old == with {
		return text
	}
	for from := 0; ; {
		i := strings.Index(text[from:], old)
		if i < 0 {
			w.errorf(o.in.line, "write it on one line and without quotes", "the flag %s can't be given another name", old)
			return text
		}
		i += from
		end := i + len(old)
		if end == len(text) || strings.ContainsAny(text[end:end+1], " \t\r\n") {
			return text[:i] + with + text[end:]
		}
		from = end
	}
}

// afterKeyword puts a flag behind the first word.
func afterKeyword(text, flag string) string {
	start := len(text) - len(strings.TrimLeft(text, " \t"))
	end := start
	for end < len(text) && (text[end] >= 'a' && text[end] <= 'z' || text[end] >= 'A' && text[end] <= 'Z') {
		end++
	}
	return text[:end] + " " + flag + text[end:]
}

// arg gives an ARG line the values that the project, or the lines before the
// first FROM, give its args.
func (w *grafter) arg(o *op, c *instructions.ArgCommand, text string) string {
	words := []string{"ARG"}
	changed := false
	for _, kv := range c.Args {
		value, ok := w.argValue(o, kv)
		changed = changed || ok
		switch {
		case ok:
			words = append(words, kv.Key+"="+w.quote(o.in.line, value))
		case kv.Value != nil:
			words = append(words, kv.Key+"="+*kv.Value)
		default:
			words = append(words, kv.Key)
		}
	}
	if !changed {
		return text
	}
	return strings.Join(words, " ") + "\n"
}

// argValue gives the value to write for an arg; false leaves it as it is.
func (w *grafter) argValue(o *op, kv instructions.KeyValuePairOptional) (string, bool) {
	given, isGiven := w.opts.Args[kv.Key]
	global, isGlobal := w.globals.vars[kv.Key]
	switch {
	case w.opts.ParentArgs[kv.Key]:
		w.done.Parents = append(w.done.Parents, ParentValue{kv.Key, o.in.line})
		return w.graft.Image(From{Context: "arg:" + kv.Key, Platform: w.platform}), true
	case isProxy(kv.Key):
		return "", false
	case isGiven:
		return given, true
	case kv.Value == nil && isGlobal && (global.arg.line > 0 || kv.Key == "TARGETSTAGE"):
		return global.value, true
	}
	return "", false
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._/:@+,=-]+$`)

// quote writes a value so that it is read as it is.
func (w *grafter) quote(line int, s string) string {
	esc := string(w.file.escape)
	switch {
	case strings.ContainsAny(s, "\r\n"):
		w.errorf(line, "", "a value with a line break can't be written into a Dockerfile")
	case plainWord.MatchString(s):
		return s
	case !strings.Contains(s, "'"):
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(esc, esc+esc, `"`, esc+`"`, "$", esc+"$").Replace(s) + `"`
}

// labels adds the labels to the target, which was written last.
func (w *grafter) labels() {
	for _, name := range slices.Sorted(maps.Keys(w.graft.Labels)) {
		w.text.WriteString("LABEL " + w.quote(0, name) + "=" + w.quote(0, w.graft.Labels[name]) + "\n")
	}
}

// inherit notes the args of a parent that a stage starts with.
func (w *grafter) inherit(n *node) {
	w.left[n] = map[string]bool{}
	switch {
	case n.base.stage != nil:
		for name := range w.left[n.base.stage] {
			if _, known := n.base.stage.end.vars[name]; !known {
				w.left[n][name] = true
			}
		}
	case n.base.image != From{} && w.graft.Inherited != nil:
		for _, name := range w.graft.Inherited(n.base.image) {
			w.left[n][name] = true
		}
	}
}

// see notes which args of a parent an instruction sees.
func (w *grafter) see(n *node, o *op, text string) {
	left := w.left[n]
	_, isRun := o.in.cmd.(*instructions.RunCommand)
	for _, name := range slices.Sorted(maps.Keys(left)) {
		pattern := `\$\{?` + regexp.QuoteMeta(name) + `\b`
		if isRun {
			pattern = `\b` + regexp.QuoteMeta(name) + `\b`
		}
		named := regexp.MustCompile(pattern).MatchString(text)
		if arg, ok := o.in.cmd.(*instructions.ArgCommand); ok {
			named = named || slices.ContainsFunc(arg.Args, func(kv instructions.KeyValuePairOptional) bool {
				return kv.Key == name && kv.Value == nil && !slices.ContainsFunc(o.declares, func(u *argUse) bool { return u.name == name })
			})
		}
		if isRun || named {
			w.done.Seen = append(w.done.Seen, Seen{name, o.in.line, named})
		}
	}
	for _, u := range o.declares {
		delete(left, u.name)
	}
	if env, ok := o.in.cmd.(*instructions.EnvCommand); ok {
		for _, kv := range env.Env {
			delete(left, kv.Key)
		}
	}
}

// Directives gives the directives of the file that change what it means: the
// frontend, and the escape character where it is not a backslash.
func (f *File) Directives() (syntax string, escape string) {
	if f.escape != parser.DefaultEscapeToken {
		escape = string(f.escape)
	}
	return f.Syntax, escape
}
