package source

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// large makes a context of 100,000 small files in 1,000 folders.
func large(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for i := range 1000 {
		d := filepath.Join(dir, fmt.Sprintf("pkg%02d/sub%03d", i%50, i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file%03d.go", j)), fmt.Appendf(nil, "package p%d // %d\n", i, j), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte(".git\n**/*.pyc\nnode_modules\n*.md\n!README.md\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

func BenchmarkSelect100000(b *testing.B) {
	dir, file := large(b), filepath.Join(b.TempDir(), "stat")
	run := func(b *testing.B, o Options, s Selection, want int) []Entry {
		b.Helper()
		tree := open(b, dir, o)
		entries, err := tree.Select(b.Context(), s)
		if err != nil || len(entries) < want {
			b.Fatal(len(entries), err)
		}
		return entries
	}
	all := Selection{Patterns: []string{"."}}
	b.Run("no cache", func(b *testing.B) {
		for b.Loop() {
			run(b, Options{}, all, 100_000)
		}
	})
	cache := aged(file)
	entries := run(b, Options{Cache: cache}, all, 100_000)
	if err := cache.Save(); err != nil {
		b.Fatal(err)
	}
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run(b, Options{Cache: aged(file)}, all, 100_000)
		}
	})
	b.Run("one folder of it", func(b *testing.B) {
		c := aged(file)
		for b.Loop() {
			run(b, Options{Cache: c}, Selection{Patterns: []string{"pkg01/sub001"}}, 100)
		}
	})
	b.Run("load cache", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if len(OpenStatCache(file).records) < 100_000 {
				b.Fatal("records are missing")
			}
		}
	})
	b.Run("digest", func(b *testing.B) {
		for b.Loop() {
			TreeDigest(entries)
		}
	})
}
