package simulate

import (
	"context"
	"testing"

	"github.com/strata-build/strata/internal/git"
	"github.com/strata-build/strata/internal/githistory"
)

// BenchmarkSimulate is what the page about simulations promises: 1,000 commits
// of a repository with 2,000 files.
func BenchmarkSimulate(b *testing.B) {
	r := newRepo(b)
	r.history(ragex, 2000, 1000)
	r.write()
	b.ReportAllocs()
	for b.Loop() {
		h, err := githistory.Read(context.Background(), git.Machine{}, r.dir, githistory.Range{})
		if err != nil {
			b.Fatal(err)
		}
		got, err := Run(context.Background(), h, Options{Dir: r.dir, File: "strata.yaml", Platform: "linux/amd64"})
		if err != nil {
			b.Fatal(err)
		}
		if got.Planned() != 1000 {
			b.Fatalf("%d of 1000 commits are planned: %v", got.Planned(), got.Skipped)
		}
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
