package source

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// TestRandomSelectionsAsBuildKit tries combinations that nobody thought of.
// The seed is fixed: a failure can be repeated.
func TestRandomSelectionsAsBuildKit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string, most int) []string {
		out := []string{}
		for range r.IntN(most + 1) {
			out = append(out, from[r.IntN(len(from))])
		}
		return out
	}
	files := []string{
		"a/a/a.x", "a/a/b.y", "a/b.x", "a/b/c.x", "b/a.x", "b/b/a/c.y", "c.x", "ab/a.x", "ab/c/", "b/e/", "a/d/e/f.x",
		"a/l -> b", "l -> a", "b/m -> ../a/b", "m -> l/b", "n -> none", "b/o -> /ab", "a/h = c.x", "a/a/h = c.x", "b/h = c.x",
	}
	rules := []string{
		"a", "*", "**", "*.x", "**/*.x", "a/b", "a/*", "*/b", "**/b", "l", "a/**", "b/?/a", "ab", "**/c.*", "[ab]",
		"!a", "!*.x", "!**/*.x", "!a/b", "!a/*/a.x", "!**/c", "!b/**", "!*/b", "!a?", "!a/a/b.y", "# no", "",
	}
	sources := []string{
		".", "a", "*", "*.x", "*/b", "*/*/*", "l", "l/b", "l/*", "m", "b/m", "b/o", "n", "a/l", "a*", "?", "a/a/b.y", "c.x", "b/./b", "a/./*/c.x",
	}
	for range 60 {
		tree := slices.Clone(files)
		r.Shuffle(len(tree), func(i, j int) { tree[i], tree[j] = tree[j], tree[i] })
		tree = append([]string{"c.x"}, slices.DeleteFunc(tree[:len(tree)-r.IntN(6)], func(l string) bool { return l == "c.x" })...)
		ignore := pick(rules, 5)
		dir := write(t, append(tree, ".dockerignore\t#\n"+strings.Join(ignore, "\n"))...)
		received := transfer(t, dir, ignore)
		for range 4 {
			excludes := slices.DeleteFunc(pick(rules, 2), func(p string) bool { return p == "" })
			s := Selection{Patterns: append(pick(sources, 2), sources[r.IntN(len(sources))]), Excludes: excludes, Parents: r.IntN(3) == 0}
			if s.Parents && slices.ContainsFunc(s.Patterns, onlyRequired) {
				continue
			}
			same(t, dir, received, ignore, s)
		}
	}
}

// onlyRequired tells sources of --parents whose absence BuildKit's solver
// notices before it copies, which the copy alone does not.
func onlyRequired(p string) bool { return p == "." || !hasWildcard(p) }

// FuzzIgnored compares what a walk with pruning finds ignored with moby's own
// answer for a whole path. They differ by design where an exception follows a
// match of a folder above, so only lists without exceptions are compared.
func FuzzIgnored(f *testing.F) {
	f.Add("docs\n*.md\n", "docs/a/b.txt")
	f.Add("**/node_modules\n#x\n/a/../b", "x/node_modules/y")
	f.Add("\xef\xbb\xbfa\n\xef\xbb\xbfb\r\n c ", "b")
	f.Add("[a-c]?/**/x*\n", "bb/x/y/xz")
	f.Fuzz(func(t *testing.T, text, p string) {
		p = cleanPath(p)
		if p == "." || strings.Contains(text, "!") || !utf8.ValidString(text) {
			return
		}
		patterns, err := ignorefile.ReadAll(strings.NewReader(text))
		if err != nil {
			return
		}
		m, wantErr := patternmatcher.New(patterns)
		file, gotErr := parseIgnoreFile(".dockerignore", []byte(text))
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("parsing %q: got %v, moby %v", text, gotErr, wantErr)
		}
		if gotErr != nil {
			return
		}
		if !slices.Equal(file.patterns, patterns) {
			t.Fatalf("parsing %q: got %q, moby %q", text, file.patterns, patterns)
		}
		want, err := m.MatchesOrParentMatches(p)
		if err != nil {
			return
		}
		if _, got := file.rules().chain(p); got != want {
			t.Fatalf("patterns %q, path %q: ignored %v, moby says %v", patterns, p, got, want)
		}
		if pattern, pos := file.reason(p); want && (pattern == "" || pos.Line == 0) {
			t.Fatalf("patterns %q ignore %q without a reason", patterns, p)
		}
	})
}

// FuzzReopens holds that pruning loses nothing: a path that is let in below an
// ignored folder is below a folder that reopens.
func FuzzReopens(f *testing.F) {
	f.Add("*\n!src/**/*.go", "src/a/b.go")
	f.Add("a\n!a/b/c", "a/b/c")
	f.Add("**\n!**/x\nb\n!b/[a]/c", "b/a/c")
	f.Add("*\n!s|/*", "other/0000") // moby's "|" is that of regular expressions
	f.Add("*\n!s/x{0}y*", "s/y")
	f.Fuzz(func(t *testing.T, text, p string) {
		p = cleanPath(p)
		file, err := parseIgnoreFile(".dockerignore", []byte(text))
		if err != nil || p == "." {
			return
		}
		r := file.rules()
		if _, ignored := r.chain(p); ignored {
			return
		}
		for i := range len(p) {
			if p[i] != '/' {
				continue
			}
			if _, ignored := r.chain(p[:i]); ignored && !r.reopens(p[:i]) {
				t.Fatalf("%q lets %q in, but %q would not be searched", text, p, p[:i])
			}
		}
	})
}
