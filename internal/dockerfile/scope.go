package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// argUse is one declaration of an ARG with the value that it got.
type argUse struct {
	name    string
	value   string
	def     bool   // value from the Dockerfile or the platform
	parent  bool   // value names a parent
	text    string // line in normal form; "" for platform args
	line    int
	stage   int
	key     int       // order of the line among all instructions
	deps    []*argUse // args that its default was made of
	used    bool
	inTrunk bool
}

// mark notes that u's value is used, by the trunk or by the tail.
func (u *argUse) mark(tail bool) {
	if u.used && (u.inTrunk || tail) {
		return
	}
	u.used = true
	u.inTrunk = u.inTrunk || !tail
	for _, d := range u.deps {
		d.mark(tail)
	}
}

// binding is a variable of a stage: an ARG's, or an ENV's.
type binding struct {
	value string
	arg   *argUse  // nil for ENV
	open  []string // base variables that the value depends on and that are unknown
	base  bool     // the value depends on the base's config, known or not
}

// scope is the environment of a stage at one point, as BuildKit's converter
// keeps it: ARG and ENV share it, the later one wins, and a stage that starts
// from another stage of the file goes on with its scope.
type scope struct {
	vars   map[string]binding
	config map[string]string // Env of the base's config
	known  bool              // config is known
	from   From              // the base, for messages

	args []declared // every ARG declared, for a RUN's history

	dir       string // working directory
	dirKnown  bool
	dirHere   string // the same as far as this file alone says; "" when it does not
	shell     []string
	shellHere []string // set in this file; nil when not
	user      string   // set in this file; "" when not
	cmdSet    bool

	room *int // bytes that words may still expand to
}

// declared is one ARG as a RUN's history lists it.
type declared struct{ name, value string }

const unknownUser = "$"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func newScope(from From, room *int) *scope {
	return &scope{vars: map[string]binding{}, from: from, room: room}
}

// seed sets what the config of the base says. Bindings made by ENV lines so far
// stand in that config; those made by ARG lines stand above it.
func (s *scope) seed(c Config) {
	s.config = map[string]string{}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.config[k] = v
	}
	if _, ok := s.config["PATH"]; !ok {
		s.config["PATH"] = defaultPath
	}
	maps.DeleteFunc(s.vars, func(_ string, b binding) bool { return b.arg == nil })
	s.known = true
	s.dir, s.dirKnown = c.WorkingDir, true
	if s.dir == "" {
		s.dir = "/"
	}
	s.shell = c.Shell
}

func (s *scope) clone() *scope {
	c := *s
	c.vars = maps.Clone(s.vars)
	c.args = slices.Clone(s.args)
	c.cmdSet = false
	return &c
}

// Get and Keys make a scope the environment of BuildKit's lexer.
func (s *scope) Get(name string) (string, bool) {
	if b, ok := s.vars[name]; ok {
		return b.value, true
	}
	v, ok := s.config[name]
	return v, ok
}

func (s *scope) Keys() []string {
	return slices.Sorted(maps.Keys(s.vars))
}

// expansion collects what an instruction's words were made of.
type expansion struct {
	args []*argUse
	open []string
	base bool // depends on the base's config, known or not
}

// word expands one word. An error that an unknown variable of the base may have
// caused is none: the word stays as it is and the variable is in open.
func (x *expansion) word(lex *shell.Lex, s *scope, word string) (string, error) {
	word = valid(word)
	if tooDeep(word) {
		return "", errDeep
	}
	if *s.room -= s.expanded(word); *s.room < 0 {
		return "", errTooMuch
	}
	res, err := lex.ProcessWordWithMatches(word, s)
	before := len(x.open)
	x.note(s, res)
	if err != nil && len(x.open) > before {
		return word, nil
	}
	return res.Result, err
}

// maxExpanded bounds what the variables of a Dockerfile expand to, all together:
// forty lines that each name the one before twice would come to terabytes. A
// process of Linux gets at most 2 MB of environment and arguments.
const maxExpanded = 16 << 20

var errTooMuch = fmt.Errorf("the variables of the Dockerfile expand to more than %d MiB", maxExpanded>>20)

// expanded gives at least the length that a word expands to, without expanding
// it. What stands in ${NAME/PATTERN/HERE} counts once for each byte of the
// variable.
func (s *scope) expanded(word string) int {
	if !strings.Contains(word, "$") {
		return 0
	}
	total, times := 0, 1
	var open []int // times, outside of each open brace
	for i := 0; i < len(word) && total <= maxExpanded; i++ {
		switch word[i] {
		case '}':
			if n := len(open); n > 0 {
				times, open = open[n-1], open[:n-1]
			}
		case '$':
			brace := i+1 < len(word) && word[i+1] == '{'
			if brace {
				i++
			}
			start := i + 1
			for i+1 < len(word) && (word[i+1] == '_' || word[i+1] >= '0' && word[i+1] <= '9' || word[i+1]|0x20 >= 'a' && word[i+1]|0x20 <= 'z') {
				i++
			}
			value, _ := s.Get(word[start : i+1])
			total += times * len(value)
			if brace {
				open = append(open, times)
				if i+1 < len(word) && word[i+1] == '/' {
					times = min(times*(len(value)+1), maxExpanded)
				}
			}
			continue
		}
		total += times
	}
	return total
}

// split expands a word that may become several.
func (x *expansion) split(lex *shell.Lex, s *scope, word string) ([]string, error) {
	if _, err := x.word(lex, s, word); err != nil {
		return nil, err
	}
	return lex.ProcessWords(valid(word), s)
}

// maxNesting bounds ${a:-${b:-...}}, which the lexer reads by calling itself.
const maxNesting = 100

var errDeep = fmt.Errorf("its variables are nested more than %d deep", maxNesting)

func tooDeep(word string) bool {
	depth := 0
	for i := range len(word) {
		switch {
		case word[i] == '{' && i > 0 && word[i-1] == '$':
			depth++
		case word[i] == '}' && depth > 0:
			depth--
		}
		if depth > maxNesting {
			return true
		}
	}
	return false
}

// valid turns bytes that are no UTF-8 into what the lexer makes of them, which
// else would complain on standard error.
func valid(word string) string { return string([]rune(word)) }

func (x *expansion) note(s *scope, res shell.ProcessWordResult) {
	for _, name := range slices.Sorted(maps.Keys(res.Matched)) {
		b, here := s.vars[name]
		if b.arg != nil {
			x.args = append(x.args, b.arg)
		}
		x.open = append(x.open, b.open...)
		x.base = x.base || b.base || !here
	}
	x.base = x.base || len(res.Unmatched) > 0
	if s.known {
		return
	}
	x.open = append(x.open, slices.Sorted(maps.Keys(res.Unmatched))...)
}

// visible gives the args that a RUN sees in its environment.
func (s *scope) visible() []*argUse {
	var out []*argUse
	for _, name := range s.Keys() {
		if b := s.vars[name]; b.arg != nil {
			out = append(out, b.arg)
		}
	}
	return out
}

// hidden says whether only the machine gives u a value: it leaves no trace in a
// recipe.
func (u *argUse) hidden() bool { return u.text == "" && isProxy(u.name) }

// isProxy says whether name is one of the predefined proxy args, whose values
// belong to the machine and are never keyed.
func isProxy(name string) bool {
	switch strings.ToLower(name) {
	case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy":
		return true
	}
	return false
}

// noEnv says whether an arg speaks to BuildKit alone and is not in the
// environment of a RUN.
func noEnv(name string) bool {
	return name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE"
}

// globals is the scope of FROM lines: the platform args, then the ARGs before
// the first FROM.
type globals struct {
	*scope
	lex  *shell.Lex
	uses []*argUse
}

// globalScope evaluates the ARGs before the first FROM.
func (a *analysis) globalScope() *globals {
	g := &globals{scope: newScope(From{}, &a.room), lex: shell.NewLex(a.file.escape)}
	g.known = true
	for _, kv := range a.platformArgs() {
		use := &argUse{name: kv[0], value: kv[1], def: true, stage: -1}
		if v, ok := a.opts.Args[kv[0]]; ok {
			use.value, use.def = v, false
		}
		g.vars[use.name] = binding{value: use.value, arg: use}
		g.uses = append(g.uses, use)
	}
	for _, in := range a.file.meta {
		c, err := in.fresh()
		if err != nil {
			panic("internal error: " + err.Error()) // it was parsed before
		}
		for _, kv := range c.(*instructions.ArgCommand).Args {
			a.globalArg(g, in, kv)
		}
	}
	return g
}

func (a *analysis) globalArg(g *globals, in *instr, kv instructions.KeyValuePairOptional) {
	if kv.Key == EpochArg && a.noEpoch {
		return
	}
	use := &argUse{name: kv.Key, line: in.line, stage: -1, text: "ARG " + kv.Key, parent: a.opts.ParentArgs[kv.Key]}
	given, ok := a.opts.Args[kv.Key]
	switch {
	case ok && !isProxy(kv.Key):
	case kv.Value != nil:
		var x expansion
		v, err := x.word(g.lex, g.scope, *kv.Value)
		if err != nil {
			a.errorf(in.line, "", "%s", reason(err))
			return
		}
		use.value, use.def, use.deps = v, true, x.args
		use.text += "=" + *kv.Value
	case ok:
		use.text = ""
	default:
		return // it has no value and changes none
	}
	if ok {
		use.value = given
	}
	use.key = a.nextKey()
	g.vars[kv.Key] = binding{value: use.value, arg: use}
	g.uses = append(g.uses, use)
}
