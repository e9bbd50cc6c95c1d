package githistory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
	"github.com/strata-build/strata/internal/source"
)

// clone is a repository that a test works in, with git's own commands.
type clone struct {
	t   *testing.T
	dir string
	at  time.Time
}

func newClone(t *testing.T) *clone {
	c := &clone{t: t, dir: t.TempDir(), at: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)}
	c.git("init", "-q", "-b", "main", ".")
	return c
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", c.dir, "-c", "protocol.file.allow=always"}, args...)...)
	date := fmt.Sprintf("%d +0000", c.at.Unix())
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Someone", "GIT_AUTHOR_EMAIL=someone@example.com", "GIT_AUTHOR_DATE="+date,
		"GIT_COMMITTER_NAME=Someone", "GIT_COMMITTER_EMAIL=someone@example.com", "GIT_COMMITTER_DATE="+date)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and commits all; a content of "-" removes the file.
func (c *clone) commit(subject string, files map[string]string) {
	c.t.Helper()
	for name, text := range files {
		p := filepath.Join(c.dir, name)
		if text == "-" {
			if err := os.RemoveAll(p); err != nil {
				c.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	c.at = c.at.Add(time.Hour)
	c.git("add", "-A")
	c.git("commit", "-q", "--allow-empty", "-m", subject)
}

func (c *clone) read(dir string, r Range) (*History, error) {
	h, err := Read(context.Background(), git.Machine{}, dir, r)
	if err == nil {
		c.t.Cleanup(func() {
			if err := h.Close(); err != nil {
				c.t.Error(err)
			}
		})
	}
	return h, err
}

// files gives every file of a tree and its content, links as "-> TARGET".
func files(t *testing.T, tree *Tree) map[string]string {
	t.Helper()
	out := map[string]string{}
	d, err := tree.Dir(".")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(dir string)
	walk = func(dir string) {
		nodes, err := d.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			p := strings.TrimPrefix(dir+"/"+n.Name, "./")
			switch n.Kind {
			case source.Dir:
				walk(p)
			case source.Symlink:
				target, err := d.Readlink(p)
				if err != nil {
					t.Fatal(err)
				}
				out[p] = "-> " + target
			default:
				data, err := d.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				out[p] = string(data)
			}
		}
	}
	walk(".")
	return out
}

// onDisk is the same for a checkout.
func onDisk(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			out[rel] = "-> " + target
			return err
		case !d.IsDir():
			data, err := os.ReadFile(p)
			out[rel] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTreesAreCheckouts holds every tree against what git checks out.
func TestTreesAreCheckouts(t *testing.T) {
	c := newClone(t)
	c.commit("first", map[string]string{"a": "1\n", "b/c/d": "2\n", "b/e": "3\n", "thing": "file\n", "b-": "x\n", "empty": ""})
	c.commit("a change", map[string]string{"b/c/d": "two\n"})
	c.git("mv", "b/e", "moved")
	c.commit("a rename", nil)
	if err := os.Symlink("b/c", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	c.commit("a link, a file that becomes a folder", map[string]string{"thing": "-"})
	c.commit("the folder", map[string]string{"thing/x": "x\n", "thing-y": "y\n"})
	c.commit("and back in one", map[string]string{"thing/x": "-", "thing-y": "-", "thing": "-"})
	c.commit("with odd names", map[string]string{"naïve \"name\"\n": "odd\n", "b/c/d": "-"})
	c.git("checkout", "-q", "-b", "side", "HEAD~2")
	c.commit("on the side", map[string]string{"side": "s\n"})
	c.git("checkout", "-q", "main")
	c.at = c.at.Add(time.Hour)
	c.git("merge", "-q", "--no-ff", "-m", "merged", "side")
	c.commit("nothing", nil)

	h, err := c.read(c.dir, Range{})
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for _, commit := range h.Commits {
		subjects = append(subjects, commit.Subject)
		c.git("checkout", "-q", "-f", commit.ID)
		if diff := cmp.Diff(onDisk(t, c.dir), files(t, commit.Tree)); diff != "" {
			t.Errorf("%s (-checkout +tree):\n%s", commit.Subject, diff)
		}
	}
	want := []string{"first", "a change", "a rename", "a link, a file that becomes a folder", "the folder", "and back in one", "with odd names", "merged", "nothing"}
	if diff := cmp.Diff(want, subjects); diff != "" {
		t.Errorf("the first-parent line (-want +got):\n%s", diff)
	}
	if m := h.Commits[7]; !m.Merge || len(m.Changes) != 1 || m.Changes[0].Path != "side" {
		t.Errorf("the merge is %+v", m)
	}
}

func TestRanges(t *testing.T) {
	c := newClone(t)
	for i := range 6 {
		c.commit(fmt.Sprintf("%d", i), map[string]string{"a": fmt.Sprint(i)})
	}
	c.git("tag", "v1", "HEAD~3")
	tests := []struct {
		name  string
		r     Range
		want  string
		older int
		err   string
	}{
		{"all", Range{}, "012345", 0, ""},
		{"so many", Range{Commits: 2}, "45", 4, ""},
		{"so long", Range{Within: 2 * time.Hour}, "345", 3, ""},
		{"a tag", Range{Rev: "v1"}, "012", 0, ""},
		{"from a tag", Range{Rev: "v1.."}, "345", 0, ""},
		{"between", Range{Rev: "main~5..v1"}, "12", 0, ""},
		{"no such revision", Range{Rev: "nope"}, "", 0, `there is no commit "nope" in this clone`},
		{"no option either", Range{Rev: "--all"}, "", 0, `there is no commit "--all" in this clone`},
		{"nothing in it", Range{Rev: "main..main"}, "", 0, `the range "main..main" has no commit`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := c.read(c.dir, tt.r)
			if err != nil || tt.err != "" {
				if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) || diag.HintOf(err) == "" {
					t.Errorf("the error is %v, with the hint %q; want %q", err, diag.HintOf(err), tt.err)
				}
				return
			}
			got := ""
			for _, c := range h.Commits {
				got += c.Subject
			}
			if got != tt.want || h.Older != tt.older {
				t.Errorf("got %s and %d older, want %s and %d", got, h.Older, tt.want, tt.older)
			}
			text, err := h.Commits[0].Tree.ReadFile("a")
			if err != nil || string(text) != tt.want[:1] {
				t.Errorf("the first tree has %q, %v", text, err)
			}
		})
	}
}

func TestNoHistory(t *testing.T) {
	if _, err := Read(t.Context(), git.Machine{}, t.TempDir(), Range{}); !errors.Is(err, ErrNoGit) || diag.HintOf(err) == "" {
		t.Errorf("outside of a repository: %v, hint %q", err, diag.HintOf(err))
	}
	c := newClone(t)
	if _, err := Read(t.Context(), git.Machine{}, c.dir, Range{}); !errors.Is(err, ErrNoGit) || diag.HintOf(err) == "" {
		t.Errorf("without a commit: %v, hint %q", err, diag.HintOf(err))
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Read(t.Context(), git.Machine{}, c.dir, Range{}); !errors.Is(err, git.ErrMissing) || diag.HintOf(err) == "" {
		t.Errorf("without git: %v, hint %q", err, diag.HintOf(err))
	}
}

func TestOddClones(t *testing.T) {
	c := newClone(t)
	for i := range 5 {
		c.commit(fmt.Sprint(i), map[string]string{"sub/dir/a": fmt.Sprint(i), "b": "b"})
	}
	t.Run("shallow", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "shallow")
		c.git("clone", "-q", "--depth=2", "file://"+c.dir, dir)
		h, err := c.read(dir, Range{})
		if err != nil {
			t.Fatal(err)
		}
		if !h.Shallow || len(h.Commits) != 2 {
			t.Errorf("shallow %t, %d commits", h.Shallow, len(h.Commits))
		}
		if got := files(t, h.Commits[0].Tree); got["sub/dir/a"] != "3" {
			t.Errorf("the first tree is %v", got)
		}
	})
	t.Run("partial", func(t *testing.T) {
		c.git("config", "uploadpack.allowFilter", "true")
		dir := filepath.Join(t.TempDir(), "partial")
		c.git("clone", "-q", "--no-checkout", "--filter=blob:none", "file://"+c.dir, dir)
		h, err := c.read(dir, Range{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // an answer stays, and the process with it
			if _, err := h.Commits[0].Tree.ReadFile("b"); err == nil || diag.HintOf(err) != "git fetch --refetch --no-filter" {
				t.Errorf("reading what is not there: %v, hint %q", err, diag.HintOf(err))
			}
		}
	})
	t.Run("detached, in a folder", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "detached")
		c.git("clone", "-q", c.dir, dir)
		d := clone{t: t, dir: dir, at: c.at}
		d.git("checkout", "-q", "--detach", "HEAD~1")
		h, err := c.read(filepath.Join(dir, "sub"), Range{})
		if err != nil {
			t.Fatal(err)
		}
		if h.Line != "" || h.Prefix != "sub" || len(h.Commits) != 4 {
			t.Errorf("line %q, prefix %q, %d commits", h.Line, h.Prefix, len(h.Commits))
		}
		if text, err := fs.ReadFile(h.Commits[3].Tree.FS(h.Prefix), "dir/../../b"); err != nil || string(text) != "b" {
			t.Errorf("above the folder: %q, %v", text, err)
		}
	})
}

func TestContents(t *testing.T) {
	c := newClone(t)
	content := "what a large file holds"
	sum := digest.FromString(content)
	c.commit("large", map[string]string{
		"large":          "version https://git-lfs.github.com/spec/v1\noid " + sum.String() + "\nsize " + fmt.Sprint(len(content)) + "\n",
		".gitattributes": "large filter=lfs diff=lfs merge=lfs -text\n*.txt eol=crlf\n*.c ident\n# *.d ident\n",
		"plain":          "version 1\n",
	})
	other := newClone(t)
	other.commit("other", map[string]string{"x": "x"})
	c.git("submodule", "--quiet", "add", other.dir, "vendor/other")
	c.commit("a submodule", nil)
	other.commit("other again", map[string]string{"x": "y"})
	c.git("submodule", "--quiet", "update", "--remote")
	c.commit("the submodule moves", nil)

	h, err := c.read(c.dir, Range{})
	if err != nil {
		t.Fatal(err)
	}
	var sums [3][]source.Sum
	for i, commit := range h.Commits {
		d, err := commit.Tree.Dir(".")
		if err != nil {
			t.Fatal(err)
		}
		paths := []string{"large", "plain"}
		if i > 0 {
			paths = append(paths, "vendor/other/"+submoduleFile)
		}
		if sums[i], err = d.Sums(paths); err != nil {
			t.Fatal(err)
		}
	}
	if got := sums[0][0]; got.Digest != sum || got.Size != int64(len(content)) {
		t.Errorf("the large file is %v, want %s with %d bytes", got, sum, len(content))
	}
	if got := sums[0][1]; got.Digest != digest.FromString("version 1\n") {
		t.Errorf("the plain file is %v", got)
	}
	if sums[1][2].Digest == sums[2][2].Digest {
		t.Error("a submodule that moves is the same")
	}
	if h.Pointers() != 1 || h.Submodules != 1 || h.Attributes != 2 {
		t.Errorf("%d pointers, %d submodules, %d rules; want 1, 1, 2", h.Pointers(), h.Submodules, h.Attributes)
	}
	gone := strings.Repeat("0", 39) + "1"
	there, err := h.Holds([]string{h.Commits[0].ID, gone, "no commit\n"})
	if err != nil || !there[h.Commits[0].ID] || there[gone] {
		t.Errorf("held: %v, %v", there, err)
	}
}

// TestCancel ends a history in the middle of its work.
func TestCancel(t *testing.T) {
	c := newClone(t)
	c.commit("one", map[string]string{"a": "1"})
	ctx, cancel := context.WithCancel(context.Background())
	h, err := Read(ctx, git.Machine{}, c.dir, Range{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := h.Commits[0].Tree.ReadFile("a"); !errors.Is(err, context.Canceled) {
		t.Errorf("reading after the end: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Read(ctx, git.Machine{}, c.dir, Range{}); !errors.Is(err, context.Canceled) {
		t.Errorf("reading a history after the end: %v", err)
	}
}
