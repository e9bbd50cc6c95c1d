package vcs

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// stale makes git read a file again.
func stale(t *testing.T, path string) {
	t.Helper()
	at := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// A checkout by the large file storage has the content where its commit has a
// pointer, and git has no filter here to tell that by.
func TestALargeFileIsNoChange(t *testing.T) {
	dir := empty(t)
	pointer := func(text string) string {
		return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", sha256.Sum256([]byte(text)), len(text))
	}
	at(t, dir, 1, "config", "filter.lfs.clean", "cat >/dev/null; cat "+filepath.Join(dir, ".git/pointer"))
	at(t, dir, 1, "config", "filter.lfs.required", "true")
	write(t, dir, ".git/pointer", pointer("large"), ".gitattributes", "big filter=lfs\n", "big", "large", "plain", "plain")
	commitAt(t, dir, 100)
	if got := at(t, dir, 1, "show", "HEAD:big"); got+"\n" != pointer("large") {
		t.Fatalf("the commit has %q", got)
	}
	big := filepath.Join(dir, "big")
	stale(t, big)
	if describe(t, dir).Dirty {
		t.Error("the content of a pointer makes it dirty")
	}
	wantTimes(t, "as the pointer says", map[string]int64{"big": 100, "plain": 100}, touched(t, dir, "big", "plain"))
	write(t, dir, "big", "lArge") // of the same size
	stale(t, big)
	if !describe(t, dir).Dirty {
		t.Error("another content does not")
	}
	wantTimes(t, "another content", map[string]int64{"plain": 100}, touched(t, dir, "big", "plain"))
	write(t, dir, "big", "large", "plain", "pLain")
	stale(t, big)
	stale(t, filepath.Join(dir, "plain"))
	if !describe(t, dir).Dirty {
		t.Error("another file does not")
	}
}

// What changed in a submodule, and in one below it, is a change.
func TestDirtyInSubmodules(t *testing.T) {
	lib := empty(t)
	commitAt(t, lib, 100, "x", "1")
	mid := empty(t)
	at(t, mid, 100, "submodule", "--quiet", "add", lib, "lib")
	commitAt(t, mid, 100)
	dir := empty(t)
	commitAt(t, dir, 100, "p/a", "1")
	at(t, dir, 100, "submodule", "--quiet", "add", mid, "deps/mid")
	at(t, dir, 100, "submodule", "--quiet", "update", "--init", "--recursive")
	commitAt(t, dir, 100)
	project := filepath.Join(dir, "p")
	check := func(what string, want bool) {
		t.Helper()
		if got := describe(t, project).Dirty; got != want {
			t.Errorf("%s: dirty is %v", what, got)
		}
	}
	check("all as committed", false)
	write(t, dir, "deps/mid/lib/new", "1")
	check("an untracked file", false)
	write(t, dir, "deps/mid/lib/x", "2")
	check("a change two submodules below", true)
	at(t, dir, 1, "config", "-f", ".gitmodules", "submodule.deps/mid.ignore", "dirty")
	commitAt(t, dir, 200)
	check("one that .gitmodules does not want to know of", false)
	at(t, filepath.Join(dir, "deps/mid/lib"), 300, "commit", "-q", "-a", "-m", "m")
	at(t, filepath.Join(dir, "deps/mid"), 300, "commit", "-q", "-a", "-m", "m")
	check("another commit in the submodule", true)
	at(t, dir, 1, "config", "-f", ".gitmodules", "submodule.deps/mid.ignore", "all")
	at(t, dir, 400, "commit", "-q", "-m", "m", "--", ".gitmodules")
	check("nor of another commit", false)
	if err := os.RemoveAll(filepath.Join(dir, "deps/mid")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "deps/mid"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("one that is not checked out", false)
}

// A file that is called as what git is asked about.
func TestAFileNamedHead(t *testing.T) {
	dir := empty(t)
	commitAt(t, dir, 100, "HEAD", "1", "main", "1")
	if got := describe(t, dir); got.Branch != "main" || got.CommitTime.Unix() != 100 {
		t.Errorf("got %+v", got)
	}
}
