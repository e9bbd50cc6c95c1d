//go:build unix

package hostfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/diag"
)

// tree makes files below a new folder: a name that ends with / is a folder, a
// content that begins with -> a link, "fifo" a FIFO.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		at := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(content, "-> ")
		var err error
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(at, 0o755)
		case link:
			err = os.Symlink(strings.ReplaceAll(target, "TOP", top), at)
		case content == "fifo":
			err = syscall.Mkfifo(at, 0o644)
		default:
			err = os.WriteFile(at, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

var clone = map[string]string{
	"repo/.git/HEAD": "ref: refs/heads/main\n", "repo/.git/config": "token", "repo/f": "own", "repo/sub/g": "own",
	"key": "secret", "folder/key": "secret", "repo/sub/fifo": "fifo",
	"repo/absolute": "-> TOP/key", "repo/relative": "-> ../key", "repo/within": "-> TOP/repo/f", "repo/sub/up": "-> ../f",
	"repo/dir": "-> ../folder", "repo/far": "-> dir/../key", "repo/gone": "-> ../nothing", "repo/denied": "-> ../key/x",
	"repo/again": "-> absolute", "repo/around": "-> ../repo/f", "repo/loop": "-> loop", "repo/dangling": "-> nowhere",
	"repo/tokens": "-> .git/config", "repo-2/f": "of another", "repo/next": "-> ../repo-2/f",
}

func TestWhatAProjectMayRead(t *testing.T) {
	top := tree(t, clone)
	const out = "outside"
	for _, c := range []struct{ path, want string }{
		{"g", "own"}, {"../f", "own"}, {"up", "own"}, {"../within", "own"}, {"../around", "own"}, {"TOP/repo/f", "own"},
		{"../../repo/f", "own"},
		{"../../key", out}, {"TOP/key", out}, {"../absolute", out}, {"../relative", out}, {"../again", out}, {"../dir/key", out},
		{"../far", out}, {"../next", out}, {"/etc/passwd", out}, {"/dev/zero", out}, {"../../../../../../../../etc/passwd", out},
		// Whether there is something outside is not told.
		{"../gone", out}, {"../denied", out}, {"../../nothing", out}, {"/nothing/at/all", out},
		{"fifo", "it is not a regular file"}, {"../sub", "it is a folder"}, {"nothing", "no such file or directory"},
		{"../loop", "too many levels of symbolic links"}, {"../dangling", "no such file or directory"},
		{"../.git/config", "what lies in .git is no file of a project"}, {"../tokens", "what lies in .git is no file of a project"},
	} {
		a, err := New(Options{Dir: filepath.Join(top, "repo/sub")})
		if err != nil {
			t.Fatal(err)
		}
		data, err := a.ReadFile(strings.ReplaceAll(c.path, "TOP", top), 100)
		var outsideErr *OutsideError
		switch {
		case errors.As(err, &outsideErr):
			if c.want != out {
				t.Errorf("%s: %v", c.path, err)
			} else if want := "--allow fs.read=" + outsideErr.Path; !strings.HasSuffix(diag.HintOf(err), want) {
				t.Errorf("%s: the hint is %q, not %q", c.path, diag.HintOf(err), want)
			}
		case err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, not %s", c.path, err, c.want)
		case err == nil && string(data) != c.want:
			t.Errorf("%s: %q, not %s", c.path, data, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the content: %v", c.path, err)
		}
	}
}

// What the hint says to allow is what has to be allowed.
func TestHintsAllow(t *testing.T) {
	top := tree(t, clone)
	dir := filepath.Join(top, "repo")
	for _, path := range []string{"../key", "absolute", "again", "far", "dir/key", "dir", "next"} {
		a, err := New(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Path(path)
		_, flag, ok := strings.Cut(diag.HintOf(err), "--allow ")
		if !ok {
			t.Fatalf("%s: %v has the hint %q", path, err, diag.HintOf(err))
		}
		if a, err = New(Options{Dir: dir, Allow: []string{flag}}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Path(path); err != nil {
			t.Errorf("%s with --allow %s: %v", path, flag, err)
		}
	}
}

func TestAllow(t *testing.T) {
	top := tree(t, clone)
	for _, c := range []struct {
		allow       string
		read, write bool
		bad         string
	}{
		{allow: "fs.read=TOP/folder", read: true},
		{allow: "fs.read=TOP/folder/key", read: true},
		{allow: "fs.read=TOP/repo/dir", read: true}, // a link
		{allow: "fs.read=*", read: true},
		{allow: "fs=TOP/folder", read: true, write: true},
		{allow: "fs=*", read: true, write: true},
		{allow: "fs.read=TOP/fold"},
		{allow: "fs.read=TOP/folder/other"},
		{allow: "fs.read=", bad: "names no path"},
		{allow: "fs.write=TOP/folder", bad: "nothing that can be allowed"},
		{allow: "network.host", bad: "nothing that can be allowed"},
		{allow: "TOP/folder", bad: "nothing that can be allowed"},
	} {
		a, err := New(Options{Dir: filepath.Join(top, "repo"), Allow: []string{strings.ReplaceAll(c.allow, "TOP", top)}})
		if c.bad != "" || err != nil {
			if err == nil || !strings.Contains(err.Error(), c.bad) || diag.HintOf(err) == "" {
				t.Errorf("%s: %v with the hint %q", c.allow, err, diag.HintOf(err))
			}
			continue
		}
		if _, err := a.Path("../folder/key"); (err == nil) != c.read {
			t.Errorf("%s: reading: %v", c.allow, err)
		}
		if _, err := a.ForWriting("../folder/key"); (err == nil) != c.write {
			t.Errorf("%s: writing: %v", c.allow, err)
		}
		if _, err := a.ForWriting("new/file"); err != nil {
			t.Errorf("%s: writing in the repository: %v", c.allow, err)
		}
	}
}

func TestNilAccessAllowsNothing(t *testing.T) {
	var a *Access
	if _, err := a.ReadFile("/etc/passwd", 1<<20); err == nil {
		t.Error("it reads")
	}
	if _, err := a.ForWriting("/tmp/x"); err == nil {
		t.Error("it writes")
	}
}

func TestRepository(t *testing.T) {
	top := tree(t, map[string]string{
		"home/.git/HEAD": "x", "home/project/sub/": "", "home/clone/.git/HEAD": "x", "home/clone/sub/": "",
		"linked/.git": "gitdir: /elsewhere/.git/worktrees/linked\n", "linked/sub/": "",
		"empty/.git/": "", "empty/sub/": "", "text/.git": "nothing of git's", "text/sub/": "", "pipe/.git": "fifo", "pipe/sub/": "",
		"bare/HEAD": "x", "bare/objects/": "", "bare/refs/": "", "bare/config": "", "bare/sub/": "",
		"common/.git/HEAD": "x", "common/sub/": "", "link/.git": "-> ../home/.git", "link/sub/": "",
	})
	if err := os.Chmod(filepath.Join(top, "common"), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		"home/project/sub": "home/project/sub", "home/clone/sub": "home/clone", "home/clone": "home/clone", "home": "home",
		"linked/sub": "linked", "empty/sub": "empty/sub", "text/sub": "text/sub", "pipe/sub": "pipe/sub", "bare/sub": "bare/sub",
		"common/sub": "common/sub", "common": "common", "link/sub": "link/sub",
	} {
		if got := Repository(filepath.Join(top, dir), []string{"", filepath.Join(top, "home"), top}); got != filepath.Join(top, want) {
			t.Errorf("of %s: %s, not %s", dir, got, want)
		}
	}
}

// What a user types may be anywhere; what a repository's link says may not.
func TestWhatTheUserNames(t *testing.T) {
	top := tree(t, clone)
	if err := os.Symlink("repo", filepath.Join(top, "mine")); err != nil {
		t.Fatal(err)
	}
	at := func(p string) string { return filepath.Join(top, p) }
	for _, c := range []struct {
		dir, file, read string
		ok              bool
	}{
		{"folder", "../repo/f", "../repo/sub/g", true}, // brings its repository along
		{"folder", "../repo/f", "../key", false},
		{"folder", "../repo/sub/up", "../repo/f", true},
		{"folder", "../repo/absolute", "", false},
		{"repo-2", "../repo/dir/key", "", false},
		{"folder", "../repo/dir/key", "", true},        // it leads to the project itself
		{"folder", "../mine/f", "../repo/sub/g", true}, // the user's own link
		{"folder", "../nothing", "key", true},          // whoever reads it says so
		{"folder", "", "../repo/f", false},
		{"repo/sub", "../f", "../../repo-2/f", false},
		{"mine", "", "sub/g", true},
		{"repo/dir", "", "", false}, // a folder, too
		{"repo", "", "../folder/key", false},
	} {
		a, err := New(Options{Dir: at(c.dir), File: c.file})
		if err == nil && c.read != "" {
			_, err = a.ReadFile(c.read, 100)
		}
		if (err == nil) != c.ok {
			t.Errorf("in %s with -f %q, reading %q: %v", c.dir, c.file, c.read, err)
		}
	}
	a, err := New(Options{Dir: at("repo-2")})
	if err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{
		"new": true, "../new": true, "../repo/new": true, "../repo/absolute": false, "../repo/dir/new": false, "../mine/new": true,
	} {
		if _, err := a.TypedForWriting(path); (err == nil) != ok {
			t.Errorf("writing %s: %v", path, err)
		}
	}
}

// Nothing is waited for, and nothing is read that has no end.
func TestRead(t *testing.T) {
	top := tree(t, map[string]string{"fifo": "fifo", "five": "12345", "six": "123456", "dir/": ""})
	at := func(p string) string { return filepath.Join(top, p) }
	for _, c := range []struct{ path, want string }{
		{at("five"), ""}, {at("six"), "larger than"}, {at("fifo"), "not a regular file"}, {at("dir"), "a folder"},
		{"/dev/zero", "not a regular file"}, {"/dev/null", "not a regular file"}, {at("none"), "no such file"},
		{"/proc/self/maps", "larger than"}, // says that it has no bytes
	} {
		if _, err := os.Stat(c.path); err != nil && c.want != "no such file" {
			continue // another system
		}
		done := make(chan error, 2)
		go func() {
			_, err := Read(c.path, 5)
			done <- err
			done <- Check(c.path, 5)
		}()
		for _, what := range []string{"reading", "checking"} {
			select {
			case err := <-done:
				if c.want == "" && err != nil || c.want != "" && what == "reading" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s %s: %v", what, c.path, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s %s: it waits", what, c.path)
			}
		}
	}
}

func TestFS(t *testing.T) {
	top := tree(t, clone)
	a, err := New(Options{Dir: filepath.Join(top, "repo")})
	if err != nil {
		t.Fatal(err)
	}
	fsys := a.FS()
	for name, ok := range map[string]bool{"f": true, "sub/g": true, "absolute": false, "dir/key": false, ".git/config": true, "tokens": false, "sub/fifo": false} {
		if _, err := fs.ReadFile(fsys, name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := fs.ReadDir(fsys, "dir"); err == nil {
		t.Error("a linked folder is listed")
	}
	if names := a.Names("dir"); names != nil {
		t.Errorf("a linked folder is listed: %v", names)
	}
	if names := a.Names("sub"); strings.Join(names, " ") != "fifo g up" {
		t.Errorf("names: %v", names)
	}
}

func TestHintsAreQuotedForAShell(t *testing.T) {
	err := outside("/a b/it's", false)
	if want := `--allow 'fs.read=/a b/it'\''s'`; !strings.HasSuffix(diag.HintOf(err), want) {
		t.Errorf("%q does not end with %q", diag.HintOf(err), want)
	}
}

// An archive has no .git: its links still lead nobody out of it, and its folder is
// all that it is, wherever it was unpacked.
func TestArchives(t *testing.T) {
	top := tree(t, map[string]string{
		"key": "secret", "shared/a/strata.yaml": "x", "shared/a/f": "own", "shared/b/f": "of another",
		"shared/a/out": "-> ../../key", "shared/a/dir": "-> ../b", "clones/c/.git/HEAD": "ref: x", "clones/c/strata.yaml": "x", "clones/d/f": "of another",
	})
	if err := os.Chmod(filepath.Join(top, "shared"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	at := func(p string) string { return filepath.Join(top, p) }
	for _, c := range []struct {
		dir, file, read string
		ok              bool
	}{
		{"shared", "a/strata.yaml", "a/f", true},
		{"shared", "a/strata.yaml", "b/f", false},
		{"shared", "", "b/f", true},
		{"shared", "a/out", "", false},
		{"clones", "c/strata.yaml", "d/f", false},
		{"clones", "c/strata.yaml", "c/strata.yaml", true},
		{"clones", "", "d/f", true},
		{"shared/b", "../a/out", "", false},
	} {
		a, err := New(Options{Dir: at(c.dir), File: c.file})
		if err == nil && c.read != "" {
			_, err = a.ReadFile(c.read, 100)
		}
		if (err == nil) != c.ok {
			t.Errorf("in %s with -f %q, reading %q: %v", c.dir, c.file, c.read, err)
		}
	}
	a, err := New(Options{Dir: at("shared/a")})
	if err != nil {
		t.Fatal(err)
	}
	for path, ok := range map[string]bool{"new": true, "out": false, "dir/new": false, "../b/new": true, "/dev/stdout": true} {
		if _, err := a.TypedForWriting(path); (err == nil) != ok {
			t.Errorf("writing %s: %v", path, err)
		}
	}
}
