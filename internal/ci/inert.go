package ci

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/export"
	"github.com/strata-build/strata/internal/printable"
)

// Nothing of a project may mean anything to the language of a pipeline: its
// files are written by whoever opens a pull request. Names of layers, variants,
// images and runners have forms of their own, which the loader holds them to.
// What is left are names of files and folders, and of variables.

// special are the characters that a shell, YAML or a host's expressions give a
// meaning even between quotation marks.
const special = "$`\"'\\"

// inert refuses names that can't be written into a pipeline as text alone.
func (m *Model) inert() error {
	for _, n := range []struct{ what, name string }{{"the project's folder", m.Folder}, {"the project's file", m.File}} {
		switch {
		case strings.ContainsAny(n.name, special), strings.Contains(n.name, ": "), strings.Contains(n.name, " #"), !printable.Clean(n.name):
			return diag.Hint(fmt.Errorf("writing pipelines: %s is called %q, which a pipeline would read as more than a name", n.what, n.name),
				"rename it: without control characters, quotation marks, backslashes, $, and ` #` and `: `")
		}
	}
	for _, name := range m.Secrets {
		if !isVariable(name) {
			return diag.Hint(fmt.Errorf("writing pipelines: the environment variable %q of a secret can't be one of a pipeline", name),
				"its name may have letters, digits and underscores, no digit first")
		}
	}
	return nil
}

func isVariable(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// flags names the project's file to a command, where it has to be named.
func (m *Model) flags(usual string) string {
	if m.File == "" || m.File == usual {
		return ""
	}
	return " -f " + export.ShellWord(m.File)
}

// githubPath takes the start of an expression from a pattern, and what is no
// text: a star in its place takes more, never less.
func githubPath(pattern string) string { return strings.ReplaceAll(textOf(pattern), "${{", "*{{") }

// gitlabPath does so with GitLab's variables.
func gitlabPath(pattern string) string { return strings.ReplaceAll(textOf(pattern), "$", "*") }

func textOf(pattern string) string {
	if utf8.ValidString(pattern) {
		return pattern
	}
	return strings.ToValidUTF8(pattern, "*")
}
