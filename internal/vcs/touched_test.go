package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/strata-build/strata/internal/git"
)

// at runs git with a committer time in seconds; the author's is always another.
func at(t *testing.T, dir string, seconds int64, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = append(cmd.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=c",
		"GIT_COMMITTER_EMAIL=c@d", "GIT_AUTHOR_DATE=@7 +0000", fmt.Sprintf("GIT_COMMITTER_DATE=@%d +0100", seconds))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// write writes files, given as "path", "content", ...
func write(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// commitAt writes files and commits all that changed.
func commitAt(t *testing.T, dir string, seconds int64, files ...string) {
	t.Helper()
	write(t, dir, files...)
	at(t, dir, seconds, "add", "-A")
	at(t, dir, seconds, "commit", "-q", "--allow-empty", "-m", "m")
}

func empty(t *testing.T) string {
	t.Helper()
	clean(t)
	dir := t.TempDir()
	at(t, dir, 1, "init", "-q", "-b", "main")
	return dir
}

// touched asks in both ways, with the paths named and without.
func touched(t *testing.T, dir string, paths ...string) map[string]int64 {
	t.Helper()
	got, err := LastTouched(t.Context(), git.Machine{}, dir, paths)
	if err != nil {
		t.Fatal(err)
	}
	all, err := lastTouched(t.Context(), git.Machine{}, dir, paths, bounds{commits: 50_000})
	if diff := cmp.Diff(got, all, cmpopts.EquateEmpty()); err != nil && !errors.Is(none(err), ErrNoGit) && !errors.Is(err, git.ErrMissing) || diff != "" {
		t.Errorf("with and without the paths named (-with +without): %v\n%s", err, diff)
	}
	return got
}

func wantTimes(t *testing.T, what string, want, got map[string]int64) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestLastTouched(t *testing.T) {
	dir := empty(t)
	commitAt(t, dir, 100, "a", "1", "sub/b", "1", "sub/c d", "1", "kind", "target", "mode", "1", "old", "1\n2\n3\n4\n", "\nodd", "1")
	commitAt(t, dir, 200, "a", "2")
	commitAt(t, dir, 300, "sub/b", "2")
	if err := os.Chmod(filepath.Join(dir, "mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	commitAt(t, dir, 400)
	os.Remove(filepath.Join(dir, "kind"))
	if err := os.Symlink("target", filepath.Join(dir, "kind")); err != nil {
		t.Fatal(err)
	}
	commitAt(t, dir, 500)
	at(t, dir, 600, "mv", "old", "new")
	commitAt(t, dir, 600)
	commitAt(t, dir, 50) // a clock that goes backwards; nothing changes
	commitAt(t, dir, 99_999_999_999, "future", "1")
	commitAt(t, dir, 20, "past", "1")
	want := map[string]int64{
		"a": 200, "sub/b": 300, "sub/c d": 100, "mode": 400, "kind": 500, "new": 600, "future": 99_999_999_999, "past": 20, "\nodd": 100,
	}
	paths := append(slices.Collect(maps.Keys(want)), "old", "never", "sub", ".", "..", "../x", "/a", "sub//b", ":/a", "*", "")
	wantTimes(t, "the whole", want, touched(t, dir, paths...))
	wantTimes(t, "a folder", map[string]int64{"b": 300, "c d": 100}, touched(t, filepath.Join(dir, "sub"), "b", "c d", "a"))
	wantTimes(t, "none", map[string]int64{}, touched(t, dir))
}

func TestLastTouchedLeavesOutWhatIsNotWhatHeadSays(t *testing.T) {
	dir := empty(t)
	commitAt(t, dir, 100, "clean", "1", "unstaged", "1", "staged", "1", "both", "1", "assumed", "1", "skipped", "1", "gone", "1",
		"untracked", "1", "retyped", "1", "with space", "1", "moved", "1", ".gitignore", "ignored\n", "link", "1", "samesize", "1", "touched", "1")
	at(t, dir, 100, "rm", "-q", "--cached", "untracked")
	at(t, dir, 100, "commit", "-q", "-m", "m")
	at(t, dir, 100, "update-index", "--assume-unchanged", "assumed")
	at(t, dir, 100, "update-index", "--skip-worktree", "skipped")
	write(t, dir, "staged", "2", "both", "2", "added", "1")
	at(t, dir, 100, "add", "staged", "both", "added")
	write(t, dir, "both", "1", "unstaged", "2", "with space", "2", "assumed", "2", "skipped", "2", "ignored", "1")
	at(t, dir, 100, "mv", "moved", "moved2")
	os.Remove(filepath.Join(dir, "gone"))
	os.Remove(filepath.Join(dir, "retyped"))
	if err := os.Symlink("clean", filepath.Join(dir, "retyped")); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "samesize"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "samesize", "2", "touched", "1")
	for _, p := range []string{"samesize", "touched"} {
		if err := os.Chtimes(filepath.Join(dir, p), fi.ModTime(), fi.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	paths := []string{"clean", "unstaged", "staged", "both", "assumed", "skipped", "gone", "untracked", "retyped", "with space",
		"moved", "moved2", ".gitignore", "ignored", "added", "samesize", "touched"}
	want := map[string]int64{"clean": 100, ".gitignore": 100, "touched": 100}
	wantTimes(t, "the whole", want, touched(t, dir, paths...))
	for _, p := range paths { // and each alone
		if _, ok := touched(t, dir, p)[p]; ok != (want[p] != 0) {
			t.Errorf("%s alone: %v", p, ok)
		}
	}
	write(t, dir, "sub/x", "1")
	commitAt(t, dir, 200)
	write(t, dir, "sub/x", "2")
	wantTimes(t, "changed in a folder", map[string]int64{}, touched(t, filepath.Join(dir, "sub"), "x"))
	dir2 := empty(t)
	commitAt(t, dir2, 100, "a", "1")
	index, err := os.ReadFile(filepath.Join(dir2, ".git", "index"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir2, "a"), fi.ModTime(), fi.ModTime().Add(-1e9)); err != nil {
		t.Fatal(err)
	}
	wantTimes(t, "another mtime", map[string]int64{"a": 100}, touched(t, dir2, "a"))
	if after, _ := os.ReadFile(filepath.Join(dir2, ".git", "index")); !bytes.Equal(index, after) {
		t.Error("the index was written")
	}
}

func TestLastTouchedAtMerges(t *testing.T) {
	dir := empty(t)
	text := "1\n2\n3\n4\n5\n6\n7\n8\n9\n"
	commitAt(t, dir, 100, "taken", "1", "mixed", text, "evil", "1", "ours", "1", "still", "1", "sub/evil", "1")
	at(t, dir, 100, "checkout", "-q", "-b", "side")
	commitAt(t, dir, 200, "taken", "2", "mixed", "side\n"+text, "onside", "1", "ours", "2")
	at(t, dir, 100, "checkout", "-q", "main")
	commitAt(t, dir, 300, "mixed", text+"main\n")
	at(t, dir, 400, "merge", "-q", "--no-commit", "side")
	write(t, dir, "evil", "neither", "ours", "1", "born", "1", "sub/evil", "neither")
	commitAt(t, dir, 400)
	commitAt(t, dir, 500, "other", "1")
	if n := len(strings.Fields(at(t, dir, 1, "log", "-1", "--format=%P", "HEAD^"))); n != 2 {
		t.Fatalf("the merge has %d parents", n)
	}
	wantTimes(t, "a merge", map[string]int64{
		"taken": 200, "onside": 200, // as one parent has it
		"mixed": 400, "evil": 400, "born": 400, "sub/evil": 400, // as neither has it
		"ours":  200, // given up by the merge, but changed by a commit: rather too new
		"still": 100, "other": 500,
	}, touched(t, dir, "taken", "onside", "mixed", "evil", "born", "sub/evil", "ours", "still", "other"))
	wantTimes(t, "in a folder", map[string]int64{"evil": 400}, touched(t, filepath.Join(dir, "sub"), "evil"))
}

func TestLastTouchedInAShallowClone(t *testing.T) {
	dir := empty(t)
	commitAt(t, dir, 100, "a", "1", "b", "1")
	commitAt(t, dir, 200, "a", "2")
	commitAt(t, dir, 300, "c", "1")
	clone := filepath.Join(t.TempDir(), "clone")
	at(t, dir, 1, "clone", "-q", "--depth=2", "file://"+dir, clone)
	wantTimes(t, "two commits", map[string]int64{"a": 200, "b": 200, "c": 300}, touched(t, clone, "a", "b", "c"))
}

func TestLastTouchedInAPartialCloneFetchesNothing(t *testing.T) {
	dir := empty(t)
	commitAt(t, dir, 100, "a", "1", "d/b", "1")
	commitAt(t, dir, 200, "a", "2")
	commitAt(t, dir, 300, "c", "1")
	at(t, dir, 1, "config", "uploadpack.allowFilter", "true")
	blobless := filepath.Join(t.TempDir(), "clone")
	at(t, dir, 1, "clone", "-q", "--filter=blob:none", "file://"+dir, blobless)
	wantTimes(t, "without old contents", map[string]int64{"a": 200, "d/b": 100, "c": 300}, touched(t, blobless, "a", "d/b", "c"))
	treeless := filepath.Join(t.TempDir(), "clone")
	at(t, dir, 1, "clone", "-q", "--filter=tree:0", "file://"+dir, treeless)
	before := at(t, treeless, 1, "count-objects", "-v")
	if got, err := LastTouched(t.Context(), git.Machine{}, treeless, []string{"a", "d/b", "c"}); err == nil {
		t.Errorf("without old folders: %v", got)
	}
	if after := at(t, treeless, 1, "count-objects", "-v"); before != after {
		t.Errorf("it has fetched: %s, was %s", after, before)
	}
}

func TestLastTouchedInSubmodules(t *testing.T) {
	lib := empty(t)
	commitAt(t, lib, 100, "x", "1", "d/y", "1")
	commitAt(t, lib, 150, "x", "2")
	dir := empty(t)
	commitAt(t, dir, 200, "a", "1")
	at(t, dir, 300, "submodule", "--quiet", "add", lib, "deps/lib")
	commitAt(t, dir, 300)
	foreign := filepath.Join(dir, "foreign") // a repository that is no submodule
	write(t, foreign, "z", "1")
	at(t, foreign, 400, "init", "-q")
	commitAt(t, foreign, 400)
	write(t, dir, "deps/lib/new", "1")
	paths := []string{"a", "deps/lib/x", "deps/lib/d/y", "deps/lib/new", "deps/lib", "foreign/z"}
	wantTimes(t, "clean", map[string]int64{"a": 200, "deps/lib/x": 150, "deps/lib/d/y": 100}, touched(t, dir, paths...))
	wantTimes(t, "the submodule alone", map[string]int64{"deps/lib/x": 150}, touched(t, dir, "deps/lib/x"))
	wantTimes(t, "from inside", map[string]int64{"y": 100}, touched(t, filepath.Join(dir, "deps/lib/d"), "y"))
	write(t, dir, "deps/lib/x", "3")
	wantTimes(t, "changed", map[string]int64{"a": 200, "deps/lib/d/y": 100}, touched(t, dir, paths...))
}

func TestLastTouchedWithoutHistory(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	write(t, dir, "a", "1")
	wantTimes(t, "no repository", map[string]int64{}, touched(t, dir, "a"))
	at(t, dir, 1, "init", "-q")
	wantTimes(t, "no commit", map[string]int64{}, touched(t, dir, "a"))
	commitAt(t, dir, 100)
	objects := filepath.Join(dir, ".git", "objects")
	if err := os.Rename(objects, objects+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(objects, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := LastTouched(t.Context(), git.Machine{}, dir, []string{"a"}); err == nil || !strings.Contains(err.Error(), strconv.Quote(dir)) {
		t.Errorf("a broken repository: %v, %v", got, err)
	}
	t.Setenv("PATH", t.TempDir())
	wantTimes(t, "no git", map[string]int64{}, touched(t, dir, "a"))
	dir = t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := LastTouched(ctx, git.Machine{}, dir, []string{"a"}); err == nil && len(got) > 0 {
		t.Errorf("cancelled: %v, %v", got, err)
	}
}

func TestLastTouchedIsNotLedAstray(t *testing.T) {
	dir, other := empty(t), ""
	commitAt(t, dir, 100, "a", "1", "b", "1")
	commitAt(t, dir, 200, "a", "2")
	want := map[string]int64{"a": 200, "b": 100}
	for _, c := range [][2]string{
		{"diff.relative", "true"}, {"diff.orderFile", "/not/there"}, {"log.showSignature", "true"}, {"log.showRoot", "false"},
		{"log.follow", "true"}, {"log.diffMerges", "off"}, {"color.ui", "always"}, {"diff.noprefix", "true"}, {"diff.renames", "copies"},
		{"status.renames", "copies"}, {"status.branch", "true"}, {"status.showStash", "true"}, {"diff.external", "false"},
		{"format.pretty", "full"}, {"log.decorate", "full"}, {"status.short", "true"}, {"core.pager", "false"}, {"log.date", "iso"},
		{"core.checkStat", "minimal"}, {"core.trustctime", "false"}, {"status.aheadBehind", "true"},
		{"core.fsmonitor", "touch " + filepath.Join(dir, "ran") + ";"},
	} {
		at(t, dir, 1, "config", c[0], c[1])
	}
	wantTimes(t, "settings", want, touched(t, dir, "a", "b"))
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("a command of the repository was run")
	}
	other = t.TempDir()
	at(t, other, 1, "init", "-q")
	commitAt(t, other, 300, "a", "2", "b", "1")
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	t.Setenv("GIT_WORK_TREE", other)
	t.Setenv("GIT_INDEX_FILE", filepath.Join(other, ".git", "index"))
	wantTimes(t, "as in a hook of another repository", want, touched(t, dir, "a", "b"))
	os.Unsetenv("GIT_DIR")
	os.Unsetenv("GIT_WORK_TREE")
	os.Unsetenv("GIT_INDEX_FILE")
	at(t, dir, 1, "config", "--unset", "diff.orderFile")
	at(t, dir, 1, "config", "--unset", "core.fsmonitor")
	head := at(t, dir, 1, "rev-parse", "HEAD")
	at(t, dir, 400, "commit", "-q", "--amend", "-m", "another")
	amended := at(t, dir, 1, "rev-parse", "HEAD")
	at(t, dir, 1, "reset", "-q", "--hard", head)
	at(t, dir, 1, "replace", head, amended)
	wantTimes(t, "a replaced commit", want, touched(t, dir, "a", "b"))
}

// past is a random history, and what its files are in every commit.
type past struct {
	dir   string
	trees map[string]map[string]string // commit -> path -> mode and content
	date  map[string]int64
}

// randomPast makes a history with branches, merges of two and three, and clocks
// that go wrong.
func randomPast(t *testing.T, rnd *rand.Rand, commits int) past {
	t.Helper()
	type made struct {
		tree    map[string]string
		date    int64
		parents []int
	}
	var all []made
	names := []string{"a", "b", "c", "d/a", "d/b", "d/e/f", "g/h"}
	value := func() string {
		return []string{"100644", "100755", "120000"}[rnd.IntN(3)] + " " + strconv.Itoa(rnd.IntN(3))
	}
	var stream bytes.Buffer
	for i := range commits {
		m := made{tree: map[string]string{}, date: int64(1000 + 10*i)}
		switch rnd.IntN(8) {
		case 0:
			m.date = int64(rnd.IntN(20*commits) + 1)
		case 1:
			m.date -= 10 // as its parent's
		}
		if i > 0 {
			m.parents = []int{max(0, i-1-rnd.IntN(4))}
			for range []int{0, 0, 0, 1, 1, 2}[rnd.IntN(6)] {
				if p := rnd.IntN(i); !slices.Contains(m.parents, p) {
					m.parents = append(m.parents, p)
				}
			}
			maps.Copy(m.tree, all[m.parents[0]].tree)
		}
		for _, n := range names {
			if len(m.parents) > 1 { // take one of the parents' versions
				delete(m.tree, n)
				if v, ok := all[m.parents[rnd.IntN(len(m.parents))]].tree[n]; ok {
					m.tree[n] = v
				}
			}
			switch r := rnd.IntN(12); {
			case r == 0 || i == 0:
				m.tree[n] = value()
			case r == 1:
				delete(m.tree, n)
			}
		}
		all = append(all, m)
		fmt.Fprintf(&stream, "commit refs/heads/main\nmark :%d\ncommitter c <c@d> %d +0000\ndata 0\n", i+1, m.date)
		for k, p := range m.parents {
			fmt.Fprintf(&stream, "%s :%d\n", []string{"from", "merge"}[min(k, 1)], p+1)
		}
		stream.WriteString("deleteall\n")
		for n, v := range m.tree {
			mode, text, _ := strings.Cut(v, " ")
			fmt.Fprintf(&stream, "M %s inline %s\ndata %d\n%s\n", mode, n, len(text), text)
		}
	}
	dir := t.TempDir()
	at(t, dir, 1, "init", "-q", "-b", "main")
	marks := filepath.Join(t.TempDir(), "marks")
	cmd := exec.Command("git", "-C", dir, "fast-import", "--quiet", "--force", "--export-marks="+marks)
	cmd.Stdin = &stream
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at(t, dir, 1, "reset", "-q", "--hard", "main")
	p := past{dir: dir, trees: map[string]map[string]string{}, date: map[string]int64{}}
	text, err := os.ReadFile(marks)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		mark, hash, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(mark[1:])
		if err != nil {
			t.Fatal(err)
		}
		p.trees[hash], p.date[hash] = all[n-1].tree, all[n-1].date
	}
	return p
}

// lastTouched is the definition: commit by commit in git's order, against every
// parent.
func (p past) lastTouched(t *testing.T, bound int) map[string]int64 {
	t.Helper()
	want := map[string]int64{}
	lines := strings.Split(at(t, p.dir, 1, "rev-list", "--parents", "HEAD"), "\n")
	lines = lines[:min(bound, len(lines))]
	head := p.trees[strings.Fields(lines[0])[0]]
	var last int64
	for _, line := range lines {
		hashes := strings.Fields(line)
		last = p.date[hashes[0]]
		for path := range head {
			v, there := p.trees[hashes[0]][path]
			same := slices.ContainsFunc(hashes[1:], func(parent string) bool {
				w, ok := p.trees[parent][path]
				return ok == there && v == w
			})
			if _, found := want[path]; !found && !same && (there || len(hashes) > 1) {
				want[path] = last
			}
		}
	}
	for path := range head {
		if _, ok := want[path]; !ok && len(lines) == bound {
			want[path] = last
		}
	}
	return want
}

func TestLastTouchedOverRandomHistories(t *testing.T) {
	clean(t)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	merges := 0
	for i := range 30 {
		p := randomPast(t, rnd, 2+rnd.IntN(40))
		count, err := strconv.Atoi(at(t, p.dir, 1, "rev-list", "--count", "HEAD"))
		if err != nil {
			t.Fatal(err)
		}
		merges += len(strings.Fields(at(t, p.dir, 1, "rev-list", "--merges", "HEAD")))
		for _, bound := range []int{50_000, max(1, count/2), 1 + rnd.IntN(count)} {
			want := p.lastTouched(t, bound)
			paths := slices.Collect(maps.Keys(want))
			for _, named := range []int{0, 100} {
				got, err := lastTouched(t.Context(), git.Machine{}, p.dir, paths, bounds{walk: named, files: named, commits: bound})
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Fatalf("seed %d, history %d, bound %d of %d, named %d (-want +got): %v\n%s\n%s", seed, i, bound, count, named, err, diff,
						at(t, p.dir, 1, "log", "--format=%h %ct", "--raw", "-c", "--full-history", "--sparse", "--no-renames"))
				}
				for path, want := range want { // one alone, and from its folder
					got, err := lastTouched(t.Context(), git.Machine{}, filepath.Join(p.dir, filepath.Dir(path)), []string{filepath.Base(path)},
						bounds{walk: named, files: named, commits: bound})
					if err != nil || got[filepath.Base(path)] != want {
						t.Fatalf("seed %d, history %d: %s alone: %v, %v, want %d", seed, i, path, got, err, want)
					}
					break
				}
			}
		}
	}
	if merges < 40 {
		t.Errorf("only %d merges", merges)
	}
}

// A git that is a script around the program is ended without waiting for what it
// has started.
func TestAScriptAroundGitIsNotWaitedFor(t *testing.T) {
	clean(t)
	dir := newRepo(t)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "add", "f")
	run(t, dir, "commit", "-q", "-m", "f")
	program, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in *' log '*) { " + program + " \"$@\"; yes '' | head -c 4000000; } & wait ;; *) exec " + program + " \"$@\" ;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := LastTouched(ctx, git.Machine{}, dir, []string{"f"})
	if err != nil || got["f"] == 0 {
		t.Errorf("%v, %v", got, err)
	}
}
