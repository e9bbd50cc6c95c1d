package view

import (
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/text/width"

	"github.com/strata-build/strata/internal/printable"
)

// span is text in one style; line is what fits one row of a terminal.
type (
	span struct {
		style Style
		text  string
	}
	line []span
)

// runeWidth gives the columns that a terminal uses for r: UAX #11 for wide
// ones, 0 for what combines with the rune before it.
func runeWidth(r rune) int {
	switch {
	case r < 0x20 || r >= 0x7f && r < 0xa0:
		return 0
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1160 && r <= 0x11ff: // Hangul vowels and finals join the initial
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// textWidth gives the columns of s.
func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// cut gives s in at most n columns, with an ellipsis where something is lost.
func cut(s string, n int) string {
	if textWidth(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		w := runeWidth(r)
		if used+w > n-1 {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

// pad gives s with spaces up to n columns.
func pad(s string, n int) string {
	if w := textWidth(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}

func (l line) width() int {
	n := 0
	for _, s := range l {
		n += textWidth(s.text)
	}
	return n
}

// cut gives l in at most n columns.
func (l line) cut(n int) line {
	if l.width() <= n {
		return l
	}
	var out line
	for _, s := range l {
		w := textWidth(s.text)
		if w >= n { // the first span that does not fit, or leaves no room for the next
			if c := cut(s.text+" ", n); c != "" {
				out = append(out, span{s.style, c})
			}
			return out
		}
		out = append(out, s)
		n -= w
	}
	return out
}

// paint gives l with the escapes of its styles.
func (l line) paint(p Palette) string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(string(p.Paint(s.style, s.text)))
	}
	return b.String()
}

// escape matches what programs send to terminals: CSI, OSC and two-byte
// sequences (ECMA-48, 5.3 and 5.4).
var escape = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|$)|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])`)

// clean gives one line of a program's output as text alone: no escapes, no
// control characters, tabs as blanks, and of what overwrote itself by carriage
// returns the last state. What would reorder or hide the rest is written as an
// escape. For a name or a reason there is field.
func clean(s string) string {
	s = strings.TrimRight(s, "\r\n")
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	s = strings.ToValidUTF8(s, "�")
	if strings.IndexByte(s, 0x1b) >= 0 {
		s = escape.ReplaceAllString(s, "")
	}
	if strings.IndexByte(s, '\t') >= 0 {
		s = expandTabs(s)
	}
	return field(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s))
}

// field gives a name, a reason or another text of others as one line.
func field(s string) string { return printable.Line(s) }

func expandTabs(s string) string {
	var b strings.Builder
	col := 0
	for _, r := range s {
		if r == '\t' {
			n := 8 - col%8
			b.WriteString("        "[:n])
			col += n
			continue
		}
		b.WriteRune(r)
		col += runeWidth(r)
	}
	return b.String()
}
