// Package ci says what a project's pipelines look like: which workflow files it
// needs, and which jobs a plan takes on how many runners.
//
// It takes a project's graph or a plan, as values, and gives files and jobs. It
// is pure: whoever calls it reads and writes the files.
package ci

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// File is one file of a pipeline.
type File struct {
	Path string // relative to the repository, slashes
	Data []byte
}

// Mark is the first line of a generated file: the command that writes it.
func Mark(command string) string {
	return "# Written by `" + command + "`. Don't edit it: run that again, or `strata ci --check`."
}

// mark finds it again. A file without it is somebody's own.
var mark = regexp.MustCompile("(?m)\\A# Written by `(strata ci [^`\n]+)`\\.")

// Command gives the command that wrote a file; ok is false for a file that no
// such command wrote.
func Command(data []byte) (command string, ok bool) {
	m := mark.FindSubmatch(data)
	if m == nil {
		return "", false
	}
	return string(m[1]), true
}

// Drift is one file that is not as it should be.
type Drift struct {
	Path string `json:"path"`
	What string `json:"what"` // "missing", "differs", "not needed"
	Line int    `json:"line,omitempty"`
	Have string `json:"have,omitempty"` // the first line that differs, as it is
	Want string `json:"want,omitempty"` // and as it should be
}

// String says it in a line.
func (d Drift) String() string {
	if d.What != Differs {
		return d.Path + ": " + d.What
	}
	return fmt.Sprintf("%s:%d: has %q, should have %q", d.Path, d.Line, d.Have, d.Want)
}

// What a [Drift] can be.
const (
	Missing   = "missing"
	Differs   = "differs"
	NotNeeded = "not needed any more"
)

// Compare tells how the generated files that are there differ from those that
// there should be, sorted by path. have maps the paths of files to what they
// hold; files that were not generated are left out of it.
func Compare(want []File, have map[string][]byte) []Drift {
	var out []Drift
	known := map[string]bool{}
	for _, f := range want {
		known[f.Path] = true
		data, ok := have[f.Path]
		switch {
		case !ok:
			out = append(out, Drift{Path: f.Path, What: Missing})
		case !bytes.Equal(data, f.Data):
			out = append(out, firstDifference(f, data))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(have)) {
		if !known[path] {
			out = append(out, Drift{Path: path, What: NotNeeded})
		}
	}
	slices.SortStableFunc(out, func(a, b Drift) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func firstDifference(want File, have []byte) Drift {
	w, h := strings.Split(string(want.Data), "\n"), strings.Split(string(have), "\n")
	line := func(lines []string, i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	i := 0
	for i < len(w) && i < len(h) && w[i] == h[i] {
		i++
	}
	return Drift{Path: want.Path, What: Differs, Line: i + 1, Have: line(h, i), Want: line(w, i)}
}
