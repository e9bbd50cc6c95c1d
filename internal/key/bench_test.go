package key

import (
	"fmt"
	"testing"
)

// manyFiles is a recipe as a unit has it that takes 6,600 files.
func manyFiles(edition int) Recipe {
	r := Recipe{}
	r.add(labelPlatform, "linux/amd64")
	for i := range 6600 {
		r.add(labelFile, "", fmt.Sprintf("src/data/d%02d/f%04d", i/100, i), "file", "0644",
			fmt.Sprintf("sha256:%064x", i*7919+edition))
	}
	return r.sealed()
}

func BenchmarkDiff(b *testing.B) {
	was, is := manyFiles(1), manyFiles(2)
	for b.Loop() {
		if len(Diff(was, is)) != 6600 {
			b.Fatal("a file is missing")
		}
	}
}

func BenchmarkParseRecipe(b *testing.B) {
	text := manyFiles(1).Text()
	for b.Loop() {
		if _, err := ParseRecipe(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkID(b *testing.B) {
	r := manyFiles(1)
	for b.Loop() {
		if r.ID() == "" {
			b.Fatal("no key")
		}
	}
}

// sealed gives the recipe with its hash, which is asked for often. No line is
// added any more.
func (r Recipe) sealed() Recipe {
	r.id = hash(r.Text())
	return r
}

// One file of many changed, as it is with most commits.
func BenchmarkDiffOneFile(b *testing.B) {
	was, is := manyFiles(1), manyFiles(1)
	is.lines[3000] = Line{Label: labelFile, Fields: append([]string{}, is.lines[3000].Fields[:4]...)}
	is.lines[3000].Fields = append(is.lines[3000].Fields, "sha256:other")
	is = is.sealed()
	for b.Loop() {
		if len(Diff(was, is)) != 1 {
			b.Fatal("the file is missing")
		}
	}
}
