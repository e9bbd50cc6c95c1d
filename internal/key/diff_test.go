package key

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOwn(t *testing.T) {
	recipe := func(label string, fields ...string) Recipe {
		return Recipe{lines: []Line{{Label: label, Fields: fields}}}
	}
	tests := []struct {
		name     string
		old, new Recipe
		want     bool
	}{
		{"a parent", recipe(labelParent, "base", "1"), recipe(labelParent, "base", "2"), false},
		{"a base image", recipe(labelExternal, "debian", "linux/amd64", "1"), recipe(labelExternal, "debian", "linux/amd64", "2"), false},
		{"a slot", recipe(labelEpoch, "2026-W47"), recipe(labelEpoch, "2026-W48"), false},
		{"an instruction", recipe(labelDo, "0", "RUN a"), recipe(labelDo, "0", "RUN b"), true},
		{"a file", recipe(labelFile, "", "a", "file", "644", "1"), recipe(labelFile, "", "a", "file", "600", "1"), true},
		{"an argument", recipe(labelArg, "A", "1"), recipe(labelArg, "A", "2"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changes := Diff(tt.old, tt.new)
			if len(changes) == 0 {
				t.Fatal("there is no change")
			}
			for _, c := range changes {
				if c.Own() != tt.want {
					t.Errorf("%s: %t, want %t", c, c.Own(), tt.want)
				}
			}
		})
	}
}

// TestSameFilesDoNotMatter holds the short way of comparing many files against
// the long one. The seed is fixed: a failure can be repeated.
func TestSameFilesDoNotMatter(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	recipe := func(like []Line) Recipe {
		lines := slices.Clone(like)
		for i := range lines {
			if r.IntN(4) == 0 {
				lines[i].Fields = append(slices.Clone(lines[i].Fields[:2]), fmt.Sprint(r.IntN(3)))
			}
		}
		for range r.IntN(4) {
			lines = append(lines, Line{Label: labelFile, Fields: []string{"", fmt.Sprintf("f%d", r.IntN(8)), fmt.Sprint(r.IntN(3))}})
		}
		slices.SortFunc(lines, func(a, b Line) int { return slices.Compare(a.Fields, b.Fields) })
		out := Recipe{lines: []Line{{Label: labelDo, Fields: []string{"0", "RUN a"}}}}
		if r.IntN(3) == 0 {
			out.lines = append(out.lines, Line{Label: labelDo, Fields: []string{"0", "RUN b"}})
		}
		out.lines = append(out.lines, lines...)
		if r.IntN(10) == 0 {
			slices.Reverse(out.lines) // no recipe of ours
		}
		return out.sealed()
	}
	for i := range 2000 {
		old := recipe(nil)
		new := recipe(old.lines[1:])
		if r.IntN(2) == 0 {
			new = recipe(slices.DeleteFunc(slices.Clone(old.lines), func(l Line) bool { return l.Label != labelFile }))
		}
		if d := cmp.Diff(diff(old, new), Diff(old, new)); d != "" {
			t.Fatalf("case %d, of\n%s\nand\n%s\n(-all lines +without the same files)\n%s", i, old.Text(), new.Text(), d)
		}
	}
}
