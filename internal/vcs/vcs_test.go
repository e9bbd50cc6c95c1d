package vcs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// run runs git in dir with a fixed identity and time, away from the user's
// own settings.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@d",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T04:04:05+01:00")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// clean keeps the user's and the system's git settings out of a test.
func clean(t *testing.T) {
	t.Helper()
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("GIT_CEILING_DIRECTORIES", os.TempDir())
}

func newRepo(t *testing.T) string {
	t.Helper()
	clean(t)
	dir := t.TempDir()
	run(t, dir, "init", "-q", "-b", "main")
	commit(t, dir, "one")
	return dir
}

func commit(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "add", "file")
	run(t, dir, "commit", "-q", "-m", text)
}

func describe(t *testing.T, dir string) Info {
	t.Helper()
	info, err := Describe(t.Context(), git.Machine{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestDescribe(t *testing.T) {
	dir := newRepo(t)
	head := run(t, dir, "rev-parse", "HEAD")
	want := Info{
		Commit: head, Describe: run(t, dir, "rev-parse", "--short", "HEAD"), Branch: "main",
		CommitTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if diff := cmp.Diff(want, describe(t, dir)); diff != "" {
		t.Errorf("without a tag (-want +got):\n%s", diff)
	}

	run(t, dir, "tag", "v1.0-dirty")
	want.Describe = "v1.0-dirty"
	if diff := cmp.Diff(want, describe(t, dir)); diff != "" {
		t.Errorf("with a light tag (-want +got):\n%s", diff)
	}

	commit(t, dir, "two")
	run(t, dir, "checkout", "-q", "--detach")
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	got := describe(t, sub)
	if wantText := "v1.0-dirty-1-g" + run(t, dir, "rev-parse", "--short", "HEAD"); got.Describe != wantText || got.Branch != "" {
		t.Errorf("detached, one commit later: %+v, want %s", got, wantText)
	}
}

func TestDirtyWithoutWritingTheIndex(t *testing.T) {
	dir := newRepo(t)
	if err := os.WriteFile(filepath.Join(dir, "untracked"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "file"), old, old); err != nil { // the index would like to note this
		t.Fatal(err)
	}
	index := filepath.Join(dir, ".git", "index")
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if describe(t, dir).Dirty {
		t.Error("an untracked file or an mtime makes it dirty")
	}
	after, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the index was written")
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, dir); !got.Dirty || strings.Contains(got.Describe, "dirty") {
		t.Errorf("a changed file: %+v", got)
	}
}

func TestShallow(t *testing.T) {
	dir := newRepo(t)
	commit(t, dir, "two")
	clone := filepath.Join(t.TempDir(), "clone")
	run(t, dir, "clone", "-q", "--depth=1", "file://"+dir, clone)
	if got := describe(t, clone); !got.Shallow || got.RemoteURL != "file://"+dir {
		t.Errorf("got %+v", got)
	}
}

func TestRemotes(t *testing.T) {
	dir := newRepo(t)
	run(t, dir, "remote", "add", "fork", "https://user:t0ken@example.org/fork.git")
	if got := describe(t, dir).RemoteURL; got != "https://example.org/fork.git" {
		t.Errorf("the only remote: %q", got)
	}
	run(t, dir, "remote", "add", "other", "https://example.org/other.git")
	if got := describe(t, dir).RemoteURL; got != "" {
		t.Errorf("two remotes, none of them origin: %q", got)
	}
	run(t, dir, "remote", "add", "origin", "git@example.org:own.git")
	if got := describe(t, dir).RemoteURL; got != "git@example.org:own.git" {
		t.Errorf("origin: %q", got)
	}
}

func TestStripCredentials(t *testing.T) {
	tests := map[string]string{
		"https://example.org/a.git":                "https://example.org/a.git",
		"https://t0ken@example.org/a.git":          "https://example.org/a.git",
		"https://u:t0ken@example.org:8443/a.git":   "https://example.org:8443/a.git",
		"https://example.org/a?private_token=t0#x": "https://example.org/a",
		"ssh://git:secret@example.org/a.git":       "ssh://git@example.org/a.git",
		"ssh://git@example.org:22/a.git":           "ssh://git@example.org:22/a.git",
		"git@example.org:a.git":                    "git@example.org:a.git",
		"../other":                                 "../other",
		"https://u:%zz@example.org/a":              "",
		"":                                         "",
	}
	for in, want := range tests {
		if got := stripCredentials(in); got != want {
			t.Errorf("stripCredentials(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNoGit(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	check := func(what, text string) {
		t.Helper()
		want := `describing git working tree "` + dir + `": no git commit to describe: ` + text
		if _, err := Describe(t.Context(), git.Machine{}, dir); !errors.Is(err, ErrNoGit) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
	}
	check("no repository", "not in a git repository")
	run(t, dir, "init", "-q")
	check("no commit", "the repository has no commit yet")
	t.Setenv("PATH", t.TempDir())
	_, err := Describe(t.Context(), git.Machine{}, dir)
	if !errors.Is(err, git.ErrMissing) || errors.Is(err, ErrNoGit) || diag.HintOf(err) != "install git" {
		t.Errorf("a repository and no git: %v", err)
	}
	dir = t.TempDir()
	check("neither", "not in a git repository")
}

func TestCancelled(t *testing.T) {
	dir := newRepo(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Describe(ctx, git.Machine{}, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCompareTellsTheOrderOfCommits(t *testing.T) {
	dir := newRepo(t)
	one := run(t, dir, "rev-parse", "HEAD")
	commit(t, dir, "two")
	two := run(t, dir, "rev-parse", "HEAD")
	run(t, dir, "checkout", "-q", "-b", "side", one)
	commit(t, dir, "side")
	side := run(t, dir, "rev-parse", "HEAD")
	absent := strings.Repeat("ab", 20)
	for _, c := range []struct {
		name, a, b string
		want       Order
	}{
		{"the same", one, one, Ancestor},
		{"older", one, two, Ancestor},
		{"newer", two, one, Descendant},
		{"another branch", two, side, Unrelated},
		{"not in this clone", two, absent, Unrelated},
	} {
		got, err := Compare(t.Context(), git.Machine{}, dir, c.a, c.b)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	if _, err := Compare(t.Context(), git.Machine{}, t.TempDir(), one, two); !errors.Is(err, ErrNoGit) {
		t.Errorf("without a repository: %v", err)
	}
}
