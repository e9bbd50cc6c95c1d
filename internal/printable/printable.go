// Package printable makes text that others wrote fit to be shown: names of
// files, errors of registries, output of programs, texts of commits.
//
// It takes such a text and gives one that neither moves a terminal's cursor, nor
// reorders or hides what stands beside it, nor holds a password. What is hidden
// is escaped and not dropped, so that a reader can still tell which file is
// meant. It is pure.
package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line gives s as one line: every control and format character, line breaks
// and tabs included, as the escape that Go and JSON have for it, and without
// credentials.
func Line(s string) string { return escape(Redact(s), "") }

// Text is [Line] for several lines: line breaks and tabs stay.
func Text(s string) string { return escape(Redact(s), "\n\t") }

// Hidden says whether r is not to be written to a terminal as it is: control
// characters (C0, DEL, C1), format characters, among them bidirectional controls
// and what has no width, line and paragraph separators, and letters that show
// nothing. Selectors of variants stay: emoji need them, and they hide nothing.
func Hidden(r rune) bool {
	switch {
	case r < ' ' || r == 0x7f:
		return true
	case r < 0x7f:
		return false
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point)
}

// Clean says whether nothing of s is hidden.
func Clean(s string) bool {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if Hidden(r) || r == utf8.RuneError && n == 1 {
			return false
		}
		i += n
	}
	return true
}

// escape writes what is hidden, but for the bytes in keep, as an escape.
func escape(s, keep string) string {
	if Clean(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + hex(uint32(s[i]), 2))
		case !Hidden(r) || r < utf8.RuneSelf && strings.IndexByte(keep, byte(r)) >= 0:
			b.WriteString(s[i : i+n])
		default:
			b.WriteString(Escape(r))
		}
		i += n
	}
	return b.String()
}

// Escape gives the escape of a rune: \n, \x1b, \u202e, \U000e0001.
func Escape(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r == '\r':
		return `\r`
	case r < utf8.RuneSelf:
		return `\x` + hex(uint32(r), 2)
	case r <= 0xffff:
		return `\u` + hex(uint32(r), 4)
	}
	return `\U` + hex(uint32(r), 8)
}

// hex gives n with at least the given number of digits.
func hex(n uint32, digits int) string {
	s := strconv.FormatUint(uint64(n), 16)
	return strings.Repeat("0", max(0, digits-len(s))) + s
}
