package image

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/packages"
)

// A merger merges a file that a child and its new parent have both changed; nil
// is a file that is not there. What it can't merge with certainty it gives as
// sentences.
type merger func(old, new, child []byte) (merged []byte, conflicts []string)

// companions are the files that can be merged by what they hold: package
// databases, and what package managers keep along with them. Every other file
// that both sides changed is a conflict.
var companions = []struct {
	paths []string
	merge merger
	why   string
}{
	{[]string{"var/lib/dpkg/status"}, mergePackages(packages.Dpkg),
		"a stanza a package; dpkg reads it by name"},
	{[]string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}, mergePackages(packages.Apk),
		"a stanza a package; apk reads it by name"},
	{[]string{"var/lib/apt/extended_states"}, mergeStanzas("Package", "Architecture"),
		"which packages were installed as dependencies: a stanza a package, in any order"},
	{[]string{"var/cache/debconf/config.dat", "var/cache/debconf/templates.dat"}, mergeStanzas("Name"),
		"debconf's questions: a stanza a question, sorted by name"},
	{[]string{"etc/apk/world", "usr/lib/apk/db/triggers", "lib/apk/db/triggers"}, mergeLines,
		"a set of lines"},
	{[]string{"var/lib/dpkg/triggers/*"}, mergeLines,
		"which package waits for which path: a set of lines"},
	{[]string{"etc/ld.so.cache"}, mergeLoaderCache,
		"where the loader finds libraries: an entry a library, sorted; written back as ldconfig does"},
}

// mergerOf gives what merges a path; nil for nothing.
func mergerOf(p string) merger {
	for _, c := range companions {
		if slices.ContainsFunc(c.paths, func(pattern string) bool { ok, _ := path.Match(pattern, p); return ok }) {
			return c.merge
		}
	}
	return nil
}

// stale says whether a volatile path is a cache that programs check against what
// it was made from by time or size, which layers with fixed times defeat. Where
// both sides wrote one it is taken away; the program makes it again.
func stale(p string) bool {
	switch p {
	case "var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin", "var/cache/ldconfig/aux-cache":
		return true
	}
	return compiled(p) != ""
}

// compiled gives the folder and name without an ending of the source of a file
// that Python has compiled; "" for other files.
func compiled(p string) string {
	dir, name := path.Split(p)
	dir, ok := strings.CutSuffix(strings.TrimSuffix(dir, "/"), "__pycache__")
	if !ok || !strings.HasSuffix(name, ".pyc") {
		return ""
	}
	module, _, _ := strings.Cut(name, ".")
	return dir + module
}

// isDatabase says whether a path is (part of) a package database.
func isDatabase(p string) bool {
	_, ok := packages.Recognise(p)
	return ok || inventory.Kept(p) && p != "etc/ld.so.cache" || strings.HasPrefix(p, "var/lib/dpkg/info/")
}

// mergePackages merges databases of a kind.
func mergePackages(kind packages.Kind) merger {
	return func(old, new, child []byte) ([]byte, []string) {
		var dbs [3]*packages.DB
		for i, data := range [][]byte{old, new, child} {
			if data == nil {
				continue
			}
			var err error
			if dbs[i], err = packages.Parse(kind, data); err != nil {
				return nil, []string{err.Error()}
			}
		}
		merged, conflicts := packages.Merge(dbs[0], dbs[1], dbs[2])
		if len(conflicts) == 0 {
			return merged.Encode(), nil
		}
		var out []string
		for _, c := range conflicts {
			out = append(out, c.String())
		}
		return nil, out
	}
}

// stanza is a paragraph of "Field: value" lines.
type stanza struct{ key, text string }

// mergeStanzas merges files of paragraphs that are named by the given fields. The
// child's order stays, and what the new parent adds is put where the names'
// order wants it, or at the end.
func mergeStanzas(names ...string) merger {
	return func(old, new, child []byte) ([]byte, []string) {
		var sides [3][]stanza
		var by [3]map[string]string
		for i, data := range [][]byte{old, new, child} {
			var err error
			if sides[i], by[i], err = readStanzas(data, names); err != nil {
				return nil, []string{err.Error()}
			}
		}
		merged, conflicts := merge3(keysOf(sides[2]), keysOf(sides[1]), by[0], by[1], by[2])
		var b bytes.Buffer
		for _, text := range merged {
			b.WriteString(text + "\n\n")
		}
		return b.Bytes(), conflicts
	}
}

func keysOf(list []stanza) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.key
	}
	return out
}

func readStanzas(data []byte, names []string) ([]stanza, map[string]string, error) {
	var list []stanza
	by := map[string]string{}
	for text := range strings.SplitSeq(string(data), "\n\n") {
		text = strings.Trim(text, "\n")
		if text == "" {
			continue
		}
		var key []string
		for _, name := range names {
			i := strings.Index("\n"+text, "\n"+name+": ")
			if i < 0 {
				return nil, nil, fmt.Errorf("a paragraph has no %s", name)
			}
			value, _, _ := strings.Cut(text[i+len(name)+2:], "\n")
			key = append(key, value)
		}
		k := strings.Join(key, " ")
		if _, twice := by[k]; twice {
			return nil, nil, fmt.Errorf("%s stands there twice", k)
		}
		by[k] = text
		list = append(list, stanza{k, text})
	}
	return list, by, nil
}

// mergeLines merges sets of lines.
func mergeLines(old, new, child []byte) ([]byte, []string) {
	var order [3][]string
	var by [3]map[string]string
	for i, data := range [][]byte{old, new, child} {
		by[i] = map[string]string{}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSuffix(line, "\n")
			if _, twice := by[i][line]; !twice {
				order[i] = append(order[i], line)
			}
			by[i][line] = line
		}
	}
	merged, conflicts := merge3(order[2], order[1], by[0], by[1], by[2])
	var b bytes.Buffer
	for _, line := range merged {
		b.WriteString(line + "\n")
	}
	return b.Bytes(), conflicts
}

// merge3 merges named texts: in the child's order, what the new parent adds where
// the names are sorted in its place, and otherwise at the end.
func merge3(child, new []string, old, theirs, mine map[string]string) (merged, conflicts []string) {
	names := slices.Clone(child)
	for _, k := range new {
		if _, ok := mine[k]; !ok {
			names = append(names, k)
		}
	}
	if slices.IsSorted(child) {
		slices.Sort(names)
	}
	for k := range old {
		_, a := mine[k]
		if _, b := theirs[k]; !a && !b {
			names = append(names, k) // removed by both: nothing to say
		}
	}
	for _, k := range names {
		o, wasThere := old[k]
		n, isThere := theirs[k]
		c, isMine := mine[k]
		text, there := c, isMine
		switch {
		case isMine == wasThere && c == o:
			text, there = n, isThere
		case isThere == wasThere && n == o, isThere == isMine && n == c:
		default:
			conflicts = append(conflicts, k+" was changed by both")
		}
		if there {
			merged = append(merged, text)
		}
	}
	slices.Sort(conflicts)
	return merged, conflicts
}
