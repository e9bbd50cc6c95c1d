package view

import (
	"io"
	"regexp"
	"strings"
)

// Markdown writes t as a table of GitHub's Markdown, which GitLab's shares.
func (t *Table) Markdown(w io.Writer) error {
	var b strings.Builder
	row := func(texts []string) { b.WriteString("| " + strings.Join(texts, " | ") + " |\n") }
	titles, rules := make([]string, len(t.Columns)), make([]string, len(t.Columns))
	for i, c := range t.Columns {
		titles[i], rules[i] = MarkdownText(c.Title), "---"
		if c.Right {
			rules[i] = "--:"
		}
	}
	row(titles)
	row(rules)
	for _, r := range t.Rows {
		texts := make([]string, len(t.Columns))
		for i := range texts {
			if i < len(r) {
				texts[i] = MarkdownText(r[i].plain())
			}
		}
		row(texts)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bare begins what GitHub makes a link of though nobody has marked it as one.
var bare = regexp.MustCompile(`(?i)(://|www\.)`)

// MarkdownCode gives a text as Markdown's code, in which nothing has a meaning.
func MarkdownCode(s string) string {
	return "`" + strings.ReplaceAll(field(s), "`", "'") + "`"
}

// MarkdownText gives a text that Markdown shows as it is, on one line: names of
// files and images come from others.
func MarkdownText(s string) string {
	s = field(s)
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '$': // formulas
			b.WriteString("&#36;")
		case strings.ContainsRune("\\`*_{}[]|~#@!", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return bare.ReplaceAllStringFunc(b.String(), func(s string) string {
		return strings.NewReplacer(":", "&#58;", ".", "&#46;").Replace(s)
	})
}
