package spec

import (
	"path"
	"slices"
	"strings"
)

// The variables that templates know, by where they may stand. A path can't
// hang on the version, or a file would be missing after every release.
var (
	pathVars  = []string{"variant", "layer", "platform", "os", "arch"}
	valueVars = append(slices.Clone(pathVars), "version")
	tagVars   = append(slices.Clone(valueVars), "branch", "sha")
)

// piece is a literal or a variable of a template.
type piece struct {
	text  string
	isVar bool
}

// pieces splits a template. A variable is a lower-case word in braces;
// everything else in braces, and ${word}, is literal text, since build
// arguments hold JSON and shell.
func pieces(s string) []piece {
	var out []piece
	start := 0
	for i := 0; i < len(s); i++ {
		if s[i] != '{' || i > 0 && s[i-1] == '$' {
			continue
		}
		n := strings.IndexFunc(s[i+1:], func(r rune) bool { return r < 'a' || r > 'z' })
		if n <= 0 || s[i+1+n] != '}' {
			continue
		}
		if i > start {
			out = append(out, piece{text: s[start:i]})
		}
		out = append(out, piece{text: s[i+1 : i+1+n], isVar: true})
		start = i + n + 2
		i = start - 1
	}
	if start < len(s) {
		out = append(out, piece{text: s[start:]})
	}
	return out
}

// expand puts values for variables; an unknown one stays as it is written.
func expand(s string, vars map[string]string) string {
	if !strings.Contains(s, "{") {
		return s
	}
	var b strings.Builder
	for _, p := range pieces(s) {
		value, ok := vars[p.text]
		switch {
		case !p.isVar:
			b.WriteString(p.text)
		case ok:
			b.WriteString(value)
		default:
			b.WriteString("{" + p.text + "}")
		}
	}
	return b.String()
}

func expandAll(in, vars map[string]string) map[string]string {
	if in == nil {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = expand(v, vars)
	}
	return out
}

// unknownVars gives the variables of a template that known does not have.
func unknownVars(s string, known []string) []string {
	var out []string
	for _, p := range pieces(s) {
		if p.isVar && !slices.Contains(known, p.text) {
			out = append(out, p.text)
		}
	}
	return out
}

// vars are the values of a unit's variables.
func (r *resolver) vars(u Unit) map[string]string {
	return map[string]string{
		"variant": u.Variant, "layer": u.Layer, "platform": u.Platform,
		"os": osOf(u.Platform), "arch": archOf(u.Platform), "version": r.p.Version,
	}
}

// clean gives a path without needless parts; an empty one and a URL stay as
// they are.
func clean(p string) string {
	if p == "" || remote(p) != "" {
		return p
	}
	return path.Clean(strings.ReplaceAll(p, `\`, "/"))
}
