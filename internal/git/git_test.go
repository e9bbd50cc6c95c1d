package git

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
)

// world is a folder with a repository, and a machine with settings of its own.
type world struct {
	t       *testing.T
	top     string // without links
	dir     string // of the repository
	machine Machine
}

func newWorld(t *testing.T) *world {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, top: top, dir: filepath.Join(top, "r")}
	w.machine.Environ = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(top, "home"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES=" + top,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
	}
	w.write("home/.gitconfig", "")
	w.write("r/f", "f\n")
	w.git("init", "-q", "-b", "main", "--template=")
	w.commit()
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.top, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir, cmd.Env = w.dir, w.machine.Environ
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) commit() {
	w.git("add", "-A")
	w.git("commit", "-q", "-m", "change")
}

func (w *world) with(env ...string) Machine {
	m := w.machine
	m.Environ = append(append([]string(nil), m.Environ...), env...)
	return m
}

func (w *world) open(m Machine, dir string) *Repo {
	w.t.Helper()
	r, err := m.Open(w.t.Context(), filepath.Join(w.top, dir))
	if err != nil {
		w.t.Fatalf("%s: %v", dir, err)
	}
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return r
}

func output(t *testing.T, r *Repo, args ...string) string {
	t.Helper()
	out, err := r.Output(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestARepositoryIsWhereDotGitIs(t *testing.T) {
	w := newWorld(t)
	head := w.git("rev-parse", "HEAD")
	w.write("r/sub/dir/f", "f")
	w.write("r/bare/HEAD", "ref: refs/heads/main\n")
	w.write("r/bare/config", "[core]\n\tbare = true\n")
	w.write("r/bare/objects/x", "")
	w.write("r/bare/refs/x", "")
	if err := os.MkdirAll(filepath.Join(w.top, "r/marked/.git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("r/sub", filepath.Join(w.top, "link")); err != nil {
		t.Fatal(err)
	}
	w.git("worktree", "add", "-q", "../tree")
	w.git("init", "-q", "--separate-git-dir", "../elsewhere", "../separate")
	if _, err := w.machine.Open(t.Context(), filepath.Join(w.top, "separate")); err == nil || diag.HintOf(err) == "" {
		t.Errorf("a repository elsewhere is taken unasked: %v", err)
	}
	w.write("home/.gitconfig", "[safe]\n\tdirectory = "+w.top+"/separate\n")
	for _, c := range []struct{ dir, root, prefix string }{
		{"r", "r", ""}, {"r/sub/dir", "r", "sub/dir/"}, {"r/bare", "r", "bare/"}, {"r/marked", "r", "marked/"}, {"link/dir", "r", "sub/dir/"},
		{"tree", "tree", ""}, {"separate", "separate", ""},
	} {
		r := w.open(w.machine, c.dir)
		if got, err := filepath.Rel(w.top, r.Root()); err != nil || got != c.root {
			t.Errorf("%s: the root is %q, want %q", c.dir, r.Root(), c.root)
		}
		if got := output(t, r, "rev-parse", "--show-prefix"); got != c.prefix {
			t.Errorf("%s: the prefix is %q, want %q", c.dir, got, c.prefix)
		}
		if got, err := r.Output(t.Context(), "rev-parse", "HEAD"); c.root != "separate" && (err != nil || got != head) {
			t.Errorf("%s: HEAD is %q, %v", c.dir, got, err)
		}
		if got := output(t, r, "rev-parse", "--is-bare-repository", "--is-inside-work-tree"); got != "false\ntrue" {
			t.Errorf("%s: %s", c.dir, got)
		}
	}
	if got := output(t, w.open(w.machine, "tree"), "symbolic-ref", "HEAD"); got != "refs/heads/tree" {
		t.Errorf("a linked work tree is on %q", got)
	}
	// What hooks set leads elsewhere.
	hooked := w.with("GIT_DIR="+w.top+"/elsewhere", "GIT_WORK_TREE="+w.top+"/separate", "GIT_INDEX_FILE=/x", "GIT_OBJECT_DIRECTORY=/x", "GIT_COMMON_DIR=/x")
	if got := output(t, w.open(hooked, "r/sub"), "rev-parse", "HEAD"); got != head {
		t.Errorf("as in a hook: %s", got)
	}
	for dir, m := range map[string]Machine{
		".": w.machine, "r/.git/../../home": w.machine, "r/sub/dir": w.with("GIT_CEILING_DIRECTORIES=relative:" + w.top + "/r:" + w.top + "/none"),
	} {
		if _, err := m.Open(t.Context(), filepath.Join(w.top, dir)); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	w.open(w.with("GIT_CEILING_DIRECTORIES="+w.top+"/r"), "r") // the folder itself is looked at
}

func TestABrokenRepositoryIsNotNone(t *testing.T) {
	for name, breakIt := range map[string]func(w *world){
		"no HEAD":               func(w *world) { w.remove("r/.git/HEAD") },
		"no objects":            func(w *world) { w.remove("r/.git/objects") },
		"a file without a path": func(w *world) { w.remove("r/.git"); w.write("r/.git", "x") },
		"a file to nowhere":     func(w *world) { w.remove("r/.git"); w.write("r/.git", "gitdir: ../none\n") },
		"a commondir to nowhere": func(w *world) {
			w.write("r/.git/commondir", "../none\n")
		},
		"a config that is none": func(w *world) { w.write("r/.git/config", "[core\n") },
		"an endless config": func(w *world) {
			w.remove("r/.git/config")
			if err := os.Symlink("/dev/zero", filepath.Join(w.top, "r/.git/config")); err != nil {
				w.t.Fatal(err)
			}
		},
		"a link to another file": func(w *world) { w.link("/etc/passwd", "r/.git/shallow") },
		"a link in a folder":     func(w *world) { w.write("r/.git/info/x", ""); w.link("/etc/passwd", "r/.git/info/exclude") },
		"a FIFO": func(w *world) {
			if err := syscall.Mkfifo(filepath.Join(w.top, "r/.git/packed-refs"), 0o600); err != nil {
				w.t.Fatal(err)
			}
		},
		"another's repository": func(w *world) {
			if err := os.Rename(filepath.Join(w.top, "r/.git"), filepath.Join(w.top, "private")); err != nil {
				w.t.Fatal(err)
			}
			w.write("r/.git", "gitdir: ../private\n")
		},
		"no files":                func(w *world) { w.git("config", "core.bare", "true") },
		"an empty branch":         func(w *world) { w.write("r/.git/refs/heads/main", "") },
		"a branch without commit": func(w *world) { w.write("r/.git/refs/heads/main", strings.Repeat("ab", 20)+"\n") },
		"an unknown extension": func(w *world) {
			w.git("config", "core.repositoryformatversion", "1")
			w.git("config", "extensions.refStorage", "no-such")
		},
		"a user's config that is none": func(w *world) { w.write("home/.gitconfig", "[core\n") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			breakIt(w)
			r, err := w.machine.Open(t.Context(), w.dir)
			if err == nil {
				defer r.Close()
				_, err = r.Output(t.Context(), "show", "-s", "HEAD")
			}
			if err == nil || errors.Is(err, ErrNone) || errors.Is(err, ErrNoCommit) {
				t.Errorf("got %v", err)
			}
		})
	}
	w := newWorld(t)
	w.remove("r/.git")
	w.git("init", "-q", "--template=")
	if _, err := w.open(w.machine, "r").Output(t.Context(), "show", "-s", "HEAD"); !errors.Is(err, ErrNoCommit) {
		t.Errorf("without a commit: %v", err)
	}
}

func (w *world) link(target, name string) {
	w.t.Helper()
	if err := os.Symlink(target, filepath.Join(w.top, name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.top, name)); err != nil {
		w.t.Fatal(err)
	}
}

// Git sees the settings that count for comparing files, from wherever they are,
// and no others.
func TestSettings(t *testing.T) {
	w := newWorld(t)
	w.write("home/.gitconfig", `[core]
	autocrlf = input
	eol = lf
	attributesFile = ~/attributes
	fsmonitor = touch /x
[user]
	name = x
[filter "lfs"]
	clean = git-lfs
[url "https://mirror/"]
	insteadOf = https://origin/
[includeIf "gitdir:**/r/.git"]
	path = more
[alias]
	status = !touch /x
`)
	w.write("home/more", "[core]\n\tsymlinks = false\n\tpager = x\n")
	w.write("r/.git/config", `[core]
	repositoryformatversion = 0
	autocrlf
	abbrev = 12
	attributesFile = /dev/zero
	worktree = /
	sshCommand = x
[include]
	path = /dev/zero
[remote "a \"b\\ c"]
	url = "https://origin/x y"
	uploadpack = x
	vcs = x
`)
	r := w.open(w.with("GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=core.eol", "GIT_CONFIG_VALUE_0=crlf", "GIT_CONFIG_KEY_1=core.askPass",
		"GIT_CONFIG_VALUE_1=x", "GIT_SSH_COMMAND=x", "GIT_EXTERNAL_DIFF=x", "GIT_TRACE=2", "GIT_PAGER=x"), "r")
	want := []string{
		"core.attributesfile=" + w.top + "/home/.config/git/attributes", "core.autocrlf=input", "core.eol=lf",
		"core.attributesfile=" + w.top + "/home/attributes", "url.https://mirror/.insteadof=https://origin/", "core.symlinks=false",
		"core.repositoryformatversion=0", "core.autocrlf", "core.abbrev=12", `remote.a "b\ c.url=https://origin/x y`, "core.eol=crlf",
		"core.bare=false", "core.fsmonitor=false", "core.hookspath=/dev/null", "core.quotepath=false", "protocol.allow=never",
		"maintenance.auto=false", "gc.auto=0", "safe.barerepository=explicit",
	}
	if diff := cmp.Diff(want, strings.Split(output(t, r, "config", "--list"), "\n")); diff != "" {
		t.Errorf("what git sees (-want +got):\n%s", diff)
	}
	if got := output(t, r, "remote", "get-url", `a "b\ c`); got != "https://mirror/x y" {
		t.Errorf("the remote's URL is %q", got)
	}
	for _, kv := range r.command(t.Context(), "x").Env {
		for _, name := range []string{"GIT_SSH", "GIT_EXTERNAL", "GIT_TRACE", "GIT_PAGER", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY"} {
			if strings.HasPrefix(kv, name) {
				t.Errorf("git gets %s", kv)
			}
		}
	}
}

// Conversions that git does itself are as the user has them.
func TestLineBreaksAreNoChange(t *testing.T) {
	w := newWorld(t)
	w.write("home/.config/git/attributes", "*.txt text eol=crlf\n")
	w.write("r/a.txt", "one\n")
	w.commit()
	w.remove("r/a.txt")
	w.git("checkout", "a.txt")
	w.write("r/a.txt", "one\r\n") // as it is, at another time
	if got := output(t, w.open(w.machine, "r"), "status", "--porcelain"); got != "" {
		t.Errorf("git says %q", got)
	}
	w.write("r/a.txt", "two\r\n")
	if got := output(t, w.open(w.machine, "r"), "status", "--porcelain"); got == "" {
		t.Error("a change is not seen")
	}
}

func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files away and needs root")
	}
	give := func(w *world, uid int, names ...string) {
		for _, n := range names {
			if err := filepath.Walk(filepath.Join(w.top, n), func(p string, _ os.FileInfo, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(p, uid, uid)
			}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	refused := func(w *world, m Machine, dir string) {
		w.t.Helper()
		r, err := m.Open(w.t.Context(), filepath.Join(w.top, dir))
		if err == nil {
			r.Close()
		}
		if want := "git config --global --add safe.directory " + w.dir; err == nil || errors.Is(err, ErrNone) || diag.HintOf(err) != want ||
			!strings.Contains(err.Error(), "dubious ownership") {
			w.t.Errorf("%s: %v, hint %q", dir, err, diag.HintOf(err))
		}
	}
	w := newWorld(t)
	w.write("r/sub/f", "f")
	give(w, 1234, "r")
	w.open(w.machine, "r") // all of it is another's: a job as root over a user's clone
	w.open(w.machine, "r/sub")
	give(w, 0, "r/sub") // somebody else's project in it
	refused(w, w.machine, "r/sub")
	give(w, 4321, "r/sub")
	refused(w, w.machine, "r/sub")
	sudo := w.machine
	sudo.Owners = []int{1234}
	w.open(sudo, "r/sub")
	for _, text := range []string{w.dir, "*", w.top + "/*", "~/../r"} {
		w.write("home/.gitconfig", "[safe]\n\tdirectory = "+text+"\n")
		w.open(w.machine, "r/sub")
	}
	w.write("home/.gitconfig", "[safe]\n\tdirectory = *\n\tdirectory =\n\tdirectory = "+w.dir+"/sub\n")
	refused(w, w.machine, "r/sub")
	w.open(w.with("GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"), "r/sub")
	w.write("home/.gitconfig", "")
	w.git("config", "-f", w.dir+"/.git/config", "safe.directory", "*") // the repository can't say so itself
	refused(w, w.machine, "r/sub")

	w = newWorld(t) // a .git that somebody has put above
	give(w, 1234, "r/.git")
	refused(w, w.machine, "r")
	give(w, 0, "r/.git")
	w.open(w.machine, "r")
	w.git("worktree", "add", "-q", "../tree")
	give(w, 1234, "r/.git")
	w.dir = filepath.Join(w.top, "tree") // whose history lies in another's folder
	refused(w, w.machine, "tree")
}

func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	r, err := w.machine.Open(t.Context(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.write("r/.git/config", "[core\n")
	if _, err := w.machine.Open(t.Context(), w.dir); err == nil {
		t.Error("a config that is none is read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.machine.Open(ctx, w.dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a killed process has left goes with a later one.
func TestWhatWasLeftGoes(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"strata-git-1": 25 * time.Hour, "strata-git-2": time.Hour, "other": 25 * time.Hour} {
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	sweep(dir, time.Now().Add(-staleAfter))
	got, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := []string{filepath.Join(dir, "other"), filepath.Join(dir, "strata-git-2")}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("%q is left, %v", got, err)
	}
}

// A git that is a script around the program, and one that never ends: whoever
// reads from it is let go when that is over.
func TestAScriptAroundGitHoldsNobody(t *testing.T) {
	w := newWorld(t)
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(w.top, "bin")
	w.write("bin/git", fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *' log'*|*' cat-file'*) { yes; } & wait ;; *) exec %s \"$@\" ;; esac\n", git))
	if err := os.Chmod(filepath.Join(bin, "git"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	r := w.open(w.machine, "r")
	for name, read := range map[string]func(*bufio.Reader) (bool, error){
		"enough":  func(out *bufio.Reader) (bool, error) { _, err := out.ReadString('\n'); return true, err },
		"gave up": func(*bufio.Reader) (bool, error) { return false, errors.New("gave up") },
		"cancelled": func(out *bufio.Reader) (bool, error) {
			for {
				if _, err := out.ReadString('\n'); err != nil {
					return false, err
				}
			}
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		started := time.Now()
		err := r.Stream(ctx, read, "log")
		cancel()
		if took := time.Since(started); took > 10*time.Second || (name == "enough") != (err == nil) {
			t.Errorf("%s: %v, after %v", name, err, took)
		}
	}
	p, err := r.Start(t.Context(), "cat-file", "--batch")
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = p.In.Write(make([]byte, 8<<20)) // more than a pipe takes, and nobody reads it
	}()
	p.Kill()
	<-wrote
	if err := p.Wait(); err == nil {
		t.Error("a killed git has ended well")
	}
}

func TestMissing(t *testing.T) {
	w := newWorld(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := w.machine.Open(t.Context(), w.dir); !errors.Is(err, ErrMissing) || diag.HintOf(err) != "install git" {
		t.Errorf("got %v", err)
	}
	if _, err := w.machine.Open(t.Context(), w.top); !errors.Is(err, ErrNone) {
		t.Errorf("without a repository: %v", err)
	}
	// A git in the folder at hand is not what the user has installed.
	w.write("r/git", "#!/bin/sh\ntouch ran\n")
	if err := os.Chmod(filepath.Join(w.dir, "git"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(w.dir)
	for _, path := range []string{".", ""} {
		t.Setenv("PATH", path)
		if _, err := w.machine.Open(t.Context(), w.dir); err == nil {
			t.Error("a git in the current folder was run")
		}
	}
	if _, err := os.Stat("ran"); err == nil {
		t.Error("a git in the current folder was run")
	}
}

func TestPointer(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	good := "version https://git-lfs.github.com/spec/v1\noid sha256:" + sum + "\nsize 12345\n"
	if got, size, ok := Pointer([]byte(good)); !ok || got != sum || size != 12345 {
		t.Errorf("got %q, %d, %v", got, size, ok)
	}
	for _, text := range []string{"", "version 1\n", good[1:], strings.Replace(good, "12345", "99999999999999999999", 1), good + strings.Repeat("x", MaxPointer)} {
		if _, _, ok := Pointer([]byte(text)); ok {
			t.Errorf("%q is a pointer", text)
		}
	}
}

// What git quotes of a file that it does not understand is in no error.
func TestNoOtherFileIsQuoted(t *testing.T) {
	for _, name := range []string{"shallow", "packed-refs", "commondir", "HEAD", "config", "index"} {
		w := newWorld(t)
		w.write("secret", "top: secret\n")
		w.remove("r/.git/" + name)
		w.link("../../secret", "r/.git/"+name)
		r, err := w.machine.Open(t.Context(), w.dir)
		if err == nil {
			_, err = r.Output(t.Context(), "status")
			r.Close()
		}
		if err == nil || strings.Contains(err.Error(), "top: secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A tree of a few hundred bytes that has more paths than any machine holds.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	const entry = "100644 blob e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\t"
	w.git("hash-object", "-w", "-t", "blob", "/dev/null")
	lines := ""
	for i := range 10 {
		lines += fmt.Sprintf("%s%d\n", entry, i)
	}
	tree := ""
	for range 10 {
		cmd := exec.Command("git", "mktree")
		cmd.Dir, cmd.Env, cmd.Stdin = w.dir, w.machine.Environ, strings.NewReader(lines)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		tree = strings.TrimSpace(string(out))
		lines = ""
		for i := range 10 {
			lines += fmt.Sprintf("040000 tree %s\t%d\n", tree, i)
		}
	}
	bomb := strings.TrimSpace(w.git("commit-tree", "-m", "bomb", tree))
	_, err := w.open(w.machine, "r").Output(t.Context(), "log", "-1", "--raw", "--root", bomb)
	if err == nil || !strings.Contains(err.Error(), "more than 1024 MB of memory") {
		t.Errorf("got %v", err)
	}
}
