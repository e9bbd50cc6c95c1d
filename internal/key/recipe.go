// Package key turns everything that goes into a unit into a recipe (a text of
// labelled lines) and a key (the hash of that text), and tells two recipes
// apart in a user's words.
//
// It takes the analysed Dockerfile, the files that it reads, the parents' keys
// or digests, and gives values; it has no I/O. Two unlike inputs never give the
// same text: every field is written so that it can be read back in one way only.
package key

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Version is the first line of every recipe. It changes whenever a recipe means
// something else than before, so that no image built under the old meaning is
// taken for one built under the new.
const Version = "strata recipe 2"

// ID is the hash of a recipe: 64 hexadecimal digits of SHA-256. It is not the
// digest of any content.
type ID string

// Tag gives the tag under which an image with this key is published.
func (id ID) Tag() string { return "strata-" + string(id) }

// Short gives the first 12 digits, for people.
func (id ID) Short() string {
	if len(id) < 12 {
		return string(id)
	}
	return string(id[:12])
}

// ContentID is the hash of a recipe that names its parents by digest in place
// of key. It finds an image again when a parent was rebuilt and came out the
// same.
type ContentID string

// Tag gives the tag under which an image with this content key is published.
func (id ContentID) Tag() string { return "strata-c-" + string(id) }

// Recipe is everything that goes into a unit, one labelled line each. It is
// immutable; the zero value is no recipe.
type Recipe struct {
	lines []Line
	id    string // hash of the text; "" while lines are still added
}

// Line is one line of a recipe: a label that says what kind of input it is, and
// its fields in fixed order.
type Line struct {
	Label  string
	Fields []string
}

// String gives the line as it stands in the text.
func (l Line) String() string {
	n := len(l.Label)
	for _, f := range l.Fields {
		n += 1 + len(f)
	}
	return string(l.appendTo(make([]byte, 0, n)))
}

func (l Line) appendTo(b []byte) []byte {
	b = append(b, l.Label...)
	for _, f := range l.Fields {
		b = append(append(b, ' '), quote(f)...)
	}
	return b
}

// IsZero says whether r is no recipe at all.
func (r Recipe) IsZero() bool { return len(r.lines) == 0 }

// Lines gives the lines in order. The caller must not change them.
func (r Recipe) Lines() []Line { return r.lines }

// Slot gives the refresh slot that the recipe was made in, "" without one.
func (r Recipe) Slot() string {
	for _, l := range r.lines {
		if l.Label == labelEpoch && len(l.Fields) == 1 {
			return l.Fields[0]
		}
	}
	return ""
}

// Text gives the recipe as text, each line ended by a newline.
func (r Recipe) Text() []byte {
	return append([]byte(Version+"\n"), linesText(r.lines)...)
}

func linesText(lines []Line) []byte {
	b := make([]byte, 0, 128*len(lines)) // of a file: path and digest
	for _, l := range lines {
		b = append(l.appendTo(b), '\n')
	}
	return b
}

// ID gives the recipe's key.
func (r Recipe) ID() ID { return ID(r.sum()) }

func (r Recipe) sum() string {
	if r.id != "" {
		return r.id
	}
	return hash(r.Text())
}

func hash(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// ParseRecipe reads a recipe's text back. It refuses a text that no recipe
// gives.
func ParseRecipe(text []byte) (Recipe, error) {
	rest, ok := strings.CutPrefix(string(text), Version+"\n")
	if !ok {
		return Recipe{}, fmt.Errorf("parsing a recipe: the first line is not %q", Version)
	}
	var r Recipe
	for n := 2; rest != ""; n++ {
		raw, tail, ok := strings.Cut(rest, "\n")
		if !ok {
			return Recipe{}, fmt.Errorf("parsing a recipe: line %d is cut short", n)
		}
		l, err := parseLine(raw)
		if err != nil {
			return Recipe{}, fmt.Errorf("parsing a recipe: line %d: %w", n, err)
		}
		r.lines = append(r.lines, l)
		rest = tail
	}
	r.id = hash(text) // what it gives back, since each line is in normal form
	return r, nil
}

func parseLine(raw string) (Line, error) {
	label, rest, _ := strings.Cut(raw, " ")
	if label == "" || !plain(label) {
		return Line{}, fmt.Errorf("%q is no label", label)
	}
	l := Line{Label: label}
	for rest != "" {
		field := rest
		if rest[0] == '"' {
			q, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return Line{}, fmt.Errorf("unquoting %q: %w", rest, err)
			}
			field = q
		} else if i := strings.IndexByte(rest, ' '); i >= 0 {
			field = rest[:i]
		}
		if field == "" {
			return Line{}, fmt.Errorf("%q has an empty field", raw)
		}
		rest = strings.TrimPrefix(rest[len(field):], " ")
		if field[0] == '"' {
			u, err := strconv.Unquote(field)
			if err != nil {
				return Line{}, fmt.Errorf("unquoting %s: %w", field, err)
			}
			field = u
		}
		l.Fields = append(l.Fields, field)
	}
	if l.String() != raw {
		return Line{}, fmt.Errorf("%q is not in normal form", raw)
	}
	return l, nil
}

// quote writes a field so that it can be read back in one way only: as it is
// when it has nothing but harmless ASCII, else as a Go string, which always
// starts with a quotation mark.
func quote(s string) string {
	if plain(s) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

func plain(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if !harmless[s[i]] {
			return false
		}
	}
	return true
}

var harmless = func() (is [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@=+,-*") {
		is[c] = true
	}
	return is
}()
