package dockerfile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Normal gives the file in normal form: its directives and one instruction a
// line, heredocs below theirs. Comments, blank lines, line breaks, the case of
// keywords, the order of flags and the number of blanks between words are gone.
// The normal form of a normal form is itself.
func (f *File) Normal() []byte {
	var b bytes.Buffer
	for _, l := range f.directives(f.Syntax) {
		b.WriteString(l.Text + "\n")
	}
	for _, in := range f.instrs() {
		b.WriteString(in.text + "\n")
	}
	return b.Bytes()
}

// directives gives the directives that change what a file means, with the given
// frontend.
func (f *File) directives(syntax string) []Line {
	var out []Line
	if syntax != "" {
		out = append(out, Line{Stage: -1, Text: "# syntax=" + syntax, Line: f.syntaxLine})
	}
	if f.escape != parser.DefaultEscapeToken {
		out = append(out, Line{Stage: -1, Text: "# escape=" + string(f.escape), Line: f.escapeLine})
	}
	return out
}

func (f *File) instrs() []*instr {
	out := slices.Clone(f.meta)
	for _, s := range f.stages {
		out = append(append(out, s.from), s.cmds...)
	}
	return out
}

// normalise sets the normal form of every instruction. Each one is read back;
// one that would not mean the same is kept as it was written.
func (f *File) normalise() {
	all := f.instrs()
	r := renderer{escape: f.escape, squeeze: !slices.ContainsFunc(all, func(in *instr) bool { return oddShell(in.node) })}
	for _, in := range all {
		in.text = r.instruction(in.node)
	}
	back := r.readBack(f.Normal())
	if len(back) == len(all) {
		ok := true
		for i, in := range all {
			ok = ok && r.same(in.node, back[i], in.text)
		}
		if ok {
			return
		}
	}
	for _, in := range all {
		in.text = r.checked(in.node)
	}
}

// oddShell says whether n sets a shell that may not split words as sh does.
func oddShell(n *parser.Node) bool {
	if strings.EqualFold(n.Value, command.Onbuild) && n.Next != nil && len(n.Next.Children) == 1 {
		return oddShell(n.Next.Children[0])
	}
	return strings.EqualFold(n.Value, command.Shell) && n.Next != nil && !isShell(words(n))
}

// isShell says whether argv is a shell of the Bourne family that takes its
// command by -c.
func isShell(argv []string) bool {
	if len(argv) < 2 {
		return false
	}
	switch path.Base(argv[0]) {
	case "sh", "bash", "ash", "dash", "ksh", "zsh":
	default:
		return false
	}
	last := argv[len(argv)-1]
	return strings.HasPrefix(last, "-") && strings.HasSuffix(last, "c")
}

// renderer writes nodes in normal form.
type renderer struct {
	escape  rune
	squeeze bool
}

// checked gives the normal form of n, or its text as written where the normal
// form would not mean the same. A text that ends in the escape character would
// go on in the next line; a vertical tab ends it and means nothing.
func (r renderer) checked(n *parser.Node) string {
	plain := r.instruction(n)
	for _, text := range []string{plain, n.Original + heredocs(n), n.Original + "\v" + heredocs(n)} {
		back := r.readBack(r.alone(text))
		if len(back) == 1 && r.meaning(n) == r.meaning(back[0]) && (text != plain || r.instruction(back[0]) == text) {
			return text
		}
	}
	return n.Original + heredocs(n)
}

// alone gives text as a file of its own.
func (r renderer) alone(text string) []byte {
	if r.escape != parser.DefaultEscapeToken {
		text = "# escape=" + string(r.escape) + "\n" + text
	}
	return []byte(text + "\n")
}

func (r renderer) readBack(text []byte) []*parser.Node {
	res, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	return res.AST.Children
}

// same says whether b, read from text, means what a means and is written again
// as the same text.
func (r renderer) same(a, b *parser.Node, text string) bool {
	return r.meaning(a) == r.meaning(b) && r.instruction(b) == text
}

// meaning gives what must not differ between a node and its normal form.
func (r renderer) meaning(n *parser.Node) string {
	args := words(n)
	switch kind := strings.ToLower(n.Value); {
	case shellForm(n):
		for i, a := range args {
			args[i] = r.shell(a)
		}
	case kind == command.Expose:
		slices.Sort(args)
	case kind == command.From && len(args) == 3:
		args[1], args[2] = strings.ToUpper(args[1]), strings.ToLower(args[2])
	}
	if strings.EqualFold(n.Value, command.Healthcheck) && len(args) > 0 {
		args[0] = strings.ToUpper(args[0])
	}
	if n.Next != nil && len(n.Next.Children) == 1 {
		args = []string{r.meaning(n.Next.Children[0])}
	}
	dt, err := json.Marshal([]any{strings.ToLower(n.Value), r.flags(n), args, n.Attributes["json"], n.Heredocs})
	if err != nil {
		panic("internal error: " + err.Error()) // strings and numbers only
	}
	return string(dt)
}

// words gives the arguments of n, sub-instructions left out.
func words(n *parser.Node) []string {
	var out []string
	for a := n.Next; a != nil; a = a.Next {
		out = append(out, a.Value)
	}
	return out
}

// shellForm says whether n's text goes to a shell.
func shellForm(n *parser.Node) bool {
	switch strings.ToLower(n.Value) {
	case command.Run, command.Cmd, command.Entrypoint, command.Healthcheck:
		return !n.Attributes["json"]
	}
	return false
}

// instruction gives n's normal form.
func (r renderer) instruction(n *parser.Node) string {
	head := strings.ToUpper(n.Value) + r.flags(n)
	args := words(n)
	switch kind := strings.ToLower(n.Value); kind {
	case command.Onbuild:
		if n.Next != nil && len(n.Next.Children) == 1 {
			return head + " " + r.instruction(n.Next.Children[0]) + heredocs(n)
		}
	case command.Healthcheck:
		if len(args) > 0 {
			head, args = head+" "+strings.ToUpper(args[0]), args[1:]
		}
	case command.Env, command.Label:
		return head + pairs(n)
	case command.Expose:
		slices.Sort(args)
	case command.From:
		if len(args) == 3 {
			args[1], args[2] = "AS", strings.ToLower(args[2])
		}
	}
	switch {
	case n.Attributes["json"]:
		return head + " " + jsonWords(args) + heredocs(n)
	case shellForm(n):
		for i, a := range args {
			args[i] = r.shell(a)
		}
	}
	if len(args) == 0 {
		return head + heredocs(n)
	}
	if strings.HasPrefix(args[0], "--") {
		head += " --"
	}
	return head + " " + strings.Join(args, " ") + heredocs(n)
}

func (r renderer) shell(s string) string {
	if !r.squeeze {
		return s
	}
	return squeeze(s)
}

// pairs writes the names and values of ENV and LABEL in the form in which they
// stand: the old one ("ENV NAME value") takes its value to the end of the line.
func pairs(n *parser.Node) string {
	var b strings.Builder
	args := words(n)
	for i := 0; i+2 < len(args); i += 3 {
		sep := args[i+2]
		if sep == "" {
			sep = " "
		}
		b.WriteString(" " + args[i] + sep + args[i+1])
	}
	return b.String()
}

func jsonWords(args []string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if args == nil {
		args = []string{}
	}
	if err := enc.Encode(args); err != nil {
		panic("internal error: " + err.Error()) // strings only
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func heredocs(n *parser.Node) string {
	var b strings.Builder
	for _, h := range n.Heredocs {
		b.WriteString("\n" + h.Content + h.Name)
	}
	return b.String()
}

// flags writes the flags of n by name. Flags of one name keep their order,
// since patterns of --exclude and mounts may build on each other.
func (r renderer) flags(n *parser.Node) string {
	type flag struct{ name, text string }
	var out []flag
	for _, f := range n.Flags {
		name, value, has := strings.Cut(bytesOf(f), "=")
		switch name {
		case "--link", "--parents", "--keep-git-dir", "--unpack":
			switch {
			case !has || strings.EqualFold(value, "true"):
				value, has = "", false
			case strings.EqualFold(value, "false") && (name == "--link" || name == "--parents"):
				continue
			default:
				value = strings.ToLower(value)
			}
		}
		text := r.quote(name)
		if has {
			text += "=" + r.quote(value)
		}
		out = append(out, flag{name, text})
	}
	slices.SortStableFunc(out, func(a, b flag) int { return cmp.Compare(a.name, b.name) })
	var b strings.Builder
	for _, f := range out {
		b.WriteString(" " + f.text)
	}
	return b.String()
}

// bytesOf undoes what BuildKit's parser does to a flag: it takes each byte for
// a character.
func bytesOf(flag string) string {
	out := make([]byte, 0, len(flag))
	for _, c := range flag {
		if c > 0xff {
			return flag
		}
		out = append(out, byte(c))
	}
	return string(out)
}

// quote escapes what would end a flag or be taken out of it.
func (r renderer) quote(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r' || c == 0x85 || c == 0xa0,
			c == '\'' || c == '"' || rune(c) == r.escape:
			b.WriteByte(byte(r.escape))
		}
		b.WriteByte(c)
	}
	return b.String()
}

// squeeze writes a shell command with one blank between words where the shell
// reads any number of them alike. A command in which that can't be told without
// a shell's full grammar is given back as it is.
func squeeze(s string) string {
	if strings.Contains(s, "<<") || strings.Contains(s, "$'") || strings.Contains(s, "`") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case ' ', '\t':
			for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
				i++
			}
			b.WriteByte(' ')
			continue
		case '\\', '\'', '"':
			n := quoted(s[i:])
			if n == 0 {
				return s
			}
			b.WriteString(s[i : i+n])
			i += n
			continue
		default:
			b.WriteByte(c)
			i++
		}
	}
	return b.String()
}

// quoted gives the length of the quoted text that s starts with, or 0 when it
// has no end or holds an expansion with quotes of its own.
func quoted(s string) int {
	switch s[0] {
	case '\\':
		return min(2, len(s))
	case '\'':
		end := strings.IndexByte(s[1:], '\'')
		if end < 0 {
			return 0
		}
		return end + 2
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"':
			return i + 1
		case strings.HasPrefix(s[i:], "$("):
			return 0
		case strings.HasPrefix(s[i:], "${"):
			end := strings.IndexByte(s[i:], '}')
			if end < 0 || strings.ContainsAny(s[i:i+end], `"'\`) {
				return 0
			}
		}
	}
	return 0
}
