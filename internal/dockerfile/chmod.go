package dockerfile

import (
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"mvdan.cc/sh/v3/syntax"
)

var (
	octalMode    = regexp.MustCompile(`^[0-7]{3,4}$`)
	symbolicMode = regexp.MustCompile(`^[ugoa]*(?:[-+=][rwxXst]*)+(?:,[ugoa]*(?:[-+=][rwxXst]*)+)*$`)
	ownerName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
)

// chmods reads a RUN that does nothing but change modes and owners of paths
// that are written out: chmod and chown, joined by &&. It gives nil for any
// other RUN, and where more than this file decides what the paths are.
func chmods(c *instructions.RunCommand, s *scope) []Chmod {
	if len(c.FlagsUsed) > 0 || len(c.Files) > 0 || !s.rootHere() {
		return nil
	}
	var calls [][]string
	switch {
	case !c.PrependShell:
		calls = [][]string{c.CmdLine}
	case s.shellHere == nil || isShell(s.shellHere):
		calls = plainCalls(strings.Join(c.CmdLine, " "))
	}
	var out []Chmod
	for _, argv := range calls {
		m, ok := chmod(argv, s.dirHere)
		if !ok {
			return nil
		}
		out = append(out, m)
	}
	return out
}

// rootHere says whether this file leaves the user at what the base says, or
// sets root.
func (s *scope) rootHere() bool {
	switch s.user {
	case "", "root", "0", "root:root", "0:0", "root:0", "0:root":
		return true
	}
	return false
}

// chmod reads one chmod or chown.
func chmod(argv []string, dir string) (Chmod, bool) {
	if len(argv) < 3 || argv[0] != "chmod" && argv[0] != "chown" {
		return Chmod{}, false
	}
	m, rest := Chmod{}, argv[1:]
	if rest[0] == "-R" || rest[0] == "--recursive" {
		m.Recursive, rest = true, rest[1:]
	}
	switch {
	case len(rest) < 2:
		return Chmod{}, false
	case argv[0] == "chmod" && (octalMode.MatchString(rest[0]) || symbolicMode.MatchString(rest[0])) && rest[0][0] != '-':
		m.Mode = rest[0]
	case argv[0] == "chown" && ownerName.MatchString(rest[0]):
		m.Owner = rest[0]
	default:
		return Chmod{}, false
	}
	for _, p := range rest[1:] {
		if strings.HasPrefix(p, "-") || p == "" || !path.IsAbs(p) && dir == "" {
			return Chmod{}, false
		}
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		m.Paths = append(m.Paths, path.Clean(p))
	}
	return m, true
}

// plainCalls reads a shell command that is one or more calls with literal
// words, joined by &&. It gives nil for any other.
func plainCalls(text string) [][]string {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), "")
	if err != nil || len(f.Stmts) != 1 {
		return nil
	}
	return stmtCalls(f.Stmts[0])
}

func stmtCalls(s *syntax.Stmt) [][]string {
	if s.Negated || s.Background || s.Coprocess || len(s.Redirs) > 0 {
		return nil
	}
	switch c := s.Cmd.(type) {
	case *syntax.BinaryCmd:
		left, right := stmtCalls(c.X), stmtCalls(c.Y)
		if c.Op != syntax.AndStmt || left == nil || right == nil {
			return nil
		}
		return append(left, right...)
	case *syntax.CallExpr:
		if len(c.Assigns) > 0 {
			return nil
		}
		argv := make([]string, len(c.Args))
		for i, w := range c.Args {
			lit, ok := literal(w)
			if !ok {
				return nil
			}
			argv[i] = lit
		}
		return [][]string{argv}
	}
	return nil
}

// literal gives the text of a word in which the shell replaces nothing.
func literal(w *syntax.Word) (string, bool) {
	var b strings.Builder
	for i, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			if strings.ContainsAny(p.Value, "*?[{\\") || i == 0 && strings.HasPrefix(p.Value, "~") {
				return "", false
			}
			b.WriteString(p.Value)
		case *syntax.SglQuoted:
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			for _, q := range p.Parts {
				lit, ok := q.(*syntax.Lit)
				if !ok || strings.Contains(lit.Value, "\\") {
					return "", false
				}
				b.WriteString(lit.Value)
			}
		default:
			return "", false
		}
	}
	return b.String(), true
}
