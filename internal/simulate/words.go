package simulate

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// kind of work that a RUN does, as far as its text tells.
type work int

const (
	other    work = iota
	installs      // packages are fetched and installed
	compiles
)

// commands gives the words of every command in a shell text, the command first;
// assignments and what only prepares (sudo, env) are left out. A text that is no
// shell gives none.
func commands(text string) [][]string {
	for strings.HasPrefix(text, "--") { // RUN's own flags
		_, rest, _ := strings.Cut(text, " ")
		text = strings.TrimLeft(rest, " ")
	}
	if strings.HasPrefix(text, "[") {
		text = strings.NewReplacer(`["`, "", `"]`, "", `", "`, " ", `","`, " ").Replace(text)
	}
	f, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil
	}
	var out [][]string
	syntax.Walk(f, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok {
			return true
		}
		var words []string
		for _, a := range call.Args {
			words = append(words, literal(a))
		}
		for len(words) > 0 && slices.Contains([]string{"sudo", "env", "exec", "time", "command"}, words[0]) {
			words = words[1:]
		}
		if len(words) > 0 {
			words[0] = path.Base(words[0])
			out = append(out, words)
		}
		return true
	})
	return out
}

// literal gives a word as far as it is one; "$" stands for what only a shell can
// tell.
func literal(w *syntax.Word) string {
	var b strings.Builder
	for _, p := range w.Parts {
		switch p := p.(type) {
		case *syntax.Lit:
			b.WriteString(p.Value)
		case *syntax.SglQuoted:
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			for _, q := range p.Parts {
				if l, ok := q.(*syntax.Lit); ok {
					b.WriteString(l.Value)
				} else {
					b.WriteByte('$')
				}
			}
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// verbs are what the commands of package managers and compilers are called with,
// by command; "" means whatever they are called with.
var verbs = []struct {
	work     work
	commands []string
	with     []string
}{
	{installs, []string{"apt-get", "apt", "dnf", "microdnf", "yum", "zypper", "tdnf", "conda", "mamba", "micromamba", "gem", "apk", "pacman"}, []string{"install", "add", "upgrade", "dist-upgrade", "update", "-S"}},
	{installs, []string{"pip", "pip3", "pipx", "poetry", "pipenv", "uv", "bundle", "composer", "npm", "pnpm", "yarn", "bun"}, []string{"install", "ci", "sync", "add", "i"}},
	{installs, []string{"yarn"}, nil},
	{installs, []string{"go"}, []string{"download", "mod"}},
	{installs, []string{"cargo"}, []string{"fetch", "install"}},
	{compiles, []string{"npm", "pnpm", "yarn", "bun"}, []string{"run", "build"}},
	{compiles, []string{"go", "cargo", "dotnet", "swift", "ng"}, []string{"build", "install", "publish", "generate", "test"}},
	{compiles, []string{"make", "ninja", "cmake", "tsc", "mvn", "mvnw", "gradle", "gradlew", "bazel", "webpack", "vite", "esbuild", "gcc", "g++", "cc", "clang", "sbt"}, nil},
}

// classify tells what kind of work the text of a RUN does: the dearest that any
// of its commands does.
func classify(text string) work {
	best := other
	for _, words := range commands(text) {
		words = module(words)
		for _, v := range verbs {
			if !slices.Contains(v.commands, words[0]) || best == installs {
				continue
			}
			if v.with == nil && (len(words) == 1 || v.work == compiles) || slices.ContainsFunc(words[1:], func(w string) bool { return slices.Contains(v.with, w) }) {
				if v.work == installs || best == other {
					best = v.work
				}
			}
		}
	}
	return best
}

// module turns "python -m pip" into "pip".
func module(words []string) []string {
	if strings.HasPrefix(words[0], "python") && len(words) > 2 && words[1] == "-m" {
		return words[2:]
	}
	return words
}
