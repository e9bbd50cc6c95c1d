package key

import (
	"fmt"
	"slices"
	"strings"
)

// Change is one difference between two recipes.
type Change struct {
	Kind  ChangeKind `json:"kind"`
	What  string     `json:"what"`          // the input that changed, as a user calls it: "requirements/app.txt"
	Label string     `json:"label"`         // of the recipe's line: file, do, arg, parent, ...
	Old   string     `json:"old,omitempty"` // the old line, "" when added
	New   string     `json:"new,omitempty"` // the new line, "" when removed
}

// ChangeKind says what happened to an input.
type ChangeKind string

// The kinds of change.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Parent says whether the change is that a parent has another key.
func (c Change) Parent() bool { return c.Label == labelParent }

// External says whether the change is that an external image has another digest.
func (c Change) External() bool { return c.Label == labelExternal }

// Own says whether the change is in what the unit itself is told to do, and not
// in what it stands on or when.
func (c Change) Own() bool {
	return c.Label != labelParent && c.Label != labelExternal && c.Label != labelEpoch
}

// Setting says whether the change is in what Strata itself was told: the
// compression, SOURCE_DATE_EPOCH.
func (c Change) Setting() bool { return c.Label == labelOption }

// String says the change in a user's words.
func (c Change) String() string {
	switch c.Label {
	case labelParent:
		return fmt.Sprintf("parent %s is rebuilt", c.What)
	case labelEpoch:
		return fmt.Sprintf("refresh: slot %s began", c.What)
	case labelExternal:
		return fmt.Sprintf("base image %s moved", c.What)
	case labelDo:
		return fmt.Sprintf("instruction %s: %s", c.Kind, c.What)
	case labelFile:
		return fmt.Sprintf("%s %s", c.What, c.Kind)
	}
	return fmt.Sprintf("%s %s %s", c.Label, c.What, c.Kind)
}

// Diff gives the differences from old to new: line by line for what has a name
// (a file, an argument, a parent), in order for instructions.
func Diff(old, new Recipe) []Change { return diff(withoutSameFiles(old, new)) }

func diff(old, new Recipe) []Change {
	was, oldIDs := index(old)
	is, newIDs := index(new)
	var out []Change
	seen := make(map[string]bool, len(is))
	for i, l := range new.lines {
		id := newIDs[i]
		if seen[id] {
			continue
		}
		seen[id] = true
		if !slices.Equal(was[id], is[id]) {
			kind := Changed
			if was[id] == nil {
				kind = Added
			}
			out = append(out, change(kind, l, was[id], is[id]))
		}
	}
	for i, l := range old.lines {
		if id := oldIDs[i]; !seen[id] {
			seen[id] = true
			out = append(out, change(Removed, l, was[id], nil))
		}
	}
	if len(out) == 0 && old.ID() != new.ID() {
		out = append(out, Change{Kind: Changed, Label: labelDo, What: "the order of instructions or files"})
	}
	return pairInstructions(out)
}

// withoutSameFiles leaves out the files that are the same: of the thousands that
// a unit may take, a commit changes a few. Files stand at the end of a recipe in
// the order of what names them; where they don't, the recipes stay whole.
func withoutSameFiles(old, new Recipe) (Recipe, Recipe) {
	a, b := files(old.lines), files(new.lines)
	if a == nil || b == nil {
		return old, new
	}
	was := Recipe{lines: slices.Clone(old.lines[:len(old.lines)-len(a)]), id: string(old.ID())}
	is := Recipe{lines: slices.Clone(new.lines[:len(new.lines)-len(b)]), id: string(new.ID())}
	for len(a) > 0 || len(b) > 0 {
		n, m := sameName(a), sameName(b)
		switch c := compareNames(a, b); {
		case c < 0:
			m = 0
		case c > 0:
			n = 0
		}
		if !slices.EqualFunc(a[:n], b[:m], func(x, y Line) bool { return slices.Equal(x.Fields, y.Fields) }) {
			was.lines, is.lines = append(was.lines, a[:n]...), append(is.lines, b[:m]...)
		}
		a, b = a[n:], b[m:]
	}
	return was, is
}

// sameName counts the lines at the start that are about one file.
func sameName(lines []Line) int {
	n := 0
	for n < len(lines) && slices.Equal(lines[n].Fields[:2], lines[0].Fields[:2]) {
		n++
	}
	return n
}

// compareNames says which of two lists begins with the earlier file; none comes
// last.
func compareNames(a, b []Line) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return slices.Compare(a[0].Fields[:2], b[0].Fields[:2])
}

// files gives the lines of files at the end of a recipe, if each has a name and
// they are in order.
func files(lines []Line) []Line {
	n := len(lines)
	for n > 0 && lines[n-1].Label == labelFile && len(lines[n-1].Fields) >= 2 {
		n--
	}
	for _, l := range lines[:n] {
		if l.Label == labelFile {
			return nil
		}
	}
	if !slices.IsSortedFunc(lines[n:], func(a, b Line) int { return slices.Compare(a.Fields[:2], b.Fields[:2]) }) {
		return nil
	}
	return lines[n:]
}

func change(kind ChangeKind, l Line, was, is []string) Change {
	return Change{
		Kind: kind, What: what(l), Label: l.Label,
		Old: strings.Join(was, "\n"), New: strings.Join(is, "\n"),
	}
}

// pairInstructions turns an instruction that went and one that came in its
// stead into one change.
func pairInstructions(changes []Change) []Change {
	var out, gone []Change
	for _, c := range changes {
		if c.Label == labelDo && c.Kind == Removed {
			gone = append(gone, c)
		}
	}
	for _, c := range changes {
		switch {
		case c.Label == labelDo && c.Kind == Added && len(gone) > 0:
			out = append(out, Change{Kind: Changed, What: c.What, Label: labelDo, Old: gone[0].Old, New: c.New})
			gone = gone[1:]
		case c.Label == labelDo && c.Kind == Removed:
		default:
			out = append(out, c)
		}
	}
	return append(out, gone...)
}

// index groups the lines by what they are about, and gives that for each line.
func index(r Recipe) (lines map[string][]string, ids []string) {
	lines, ids = make(map[string][]string, len(r.lines)), make([]string, len(r.lines))
	for i, l := range r.lines {
		text := l.String()
		id := identity(l, text)
		ids[i], lines[id] = id, append(lines[id], text)
	}
	return lines, ids
}

// identity names what a line is about: the part of its text without its value.
func identity(l Line, text string) string {
	k, ok := namedBy[l.Label]
	if !ok || k >= len(l.Fields) {
		return text
	}
	return text[:len(Line{Label: l.Label, Fields: l.Fields[:k]}.String())]
}

// what gives the name of a line's input as a user calls it.
func what(l Line) string {
	if len(l.Fields) == 0 {
		return l.Label
	}
	switch l.Label {
	case labelFile:
		if len(l.Fields) < 2 {
			break // no line of ours, but it may have been read from a registry
		}
		if l.Fields[0] != "" {
			return l.Fields[0] + ":" + l.Fields[1]
		}
		return l.Fields[1]
	case labelDo:
		text := strings.Join(l.Fields[1:], " ")
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			text = text[:i] + " ..."
		}
		return text
	case labelEpoch:
		return l.Fields[len(l.Fields)-1]
	}
	return l.Fields[0]
}
