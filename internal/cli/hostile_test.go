//go:build linux

package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// looking has for each command the arguments with which it is tried in a hostile
// checkout, in this order, or why it is not. A command that is not here fails the
// test.
var looking = []struct {
	command string
	args    []string // lines of arguments after the command
	not     string
}{
	{command: "plan", args: []string{"", "--json", "--detailed-exitcode"}},
	{command: "graph", args: []string{""}},
	{command: "build", args: []string{"--dry-run", "", "--dry-run --verify"}},
	{command: "explain", args: []string{"app", "app --recipe"}},
	{command: "why-not", args: []string{"app"}},
	{command: "config", args: []string{"", "--json"}},
	{command: "tags", args: []string{""}},
	{command: "lock", args: []string{""}},
	{command: "update", args: []string{"--dry-run", "--check"}},
	{command: "simulate", args: []string{"", "--all --list", "--suggest", "--branch HEAD~1"}},
	{command: "history", args: []string{"", "--registry"}},
	{command: "doctor", args: []string{""}},
	{command: "diff", args: []string{"app app"}},
	{command: "inventory", args: []string{"app"}},
	{command: "hotfix", args: []string{"--dry-run"}},
	{command: "publish", args: []string{"--dry-run"}},
	{command: "promote", args: []string{"v1 stable --dry-run", "v1 stable"}},
	{command: "rollback", args: []string{"stable"}},
	{command: "prune", args: []string{""}},
	{command: "pull", args: []string{"app"}},
	{command: "watch", args: []string{"--once --dry-run", "--once --policy rebuild"}},
	{command: "init", args: []string{"--print"}},
	{command: "ci", args: []string{""}},
	{command: "ci github", args: []string{"--dry-run", ""}},
	{command: "ci gitlab", args: []string{"--dry-run", "--check"}},
	{command: "ci make", args: []string{"--dry-run"}},
	{command: "export", args: []string{""}},
	{command: "export dockerfile", args: []string{"--out -", ""}},
	{command: "export bake", args: []string{"--out -"}},
	{command: "export make", args: []string{"--out -"}},
	{command: "rebase", args: []string{"localhost:1/demo:latest --onto localhost:1/demo:latest --dry-run"}},
	{command: "registry", args: []string{""}},
	{command: "registry ls", args: []string{""}},
	{command: "registry import", args: []string{"no.tar --as base"}},
	{command: "registry rm", args: []string{"none"}},
	{command: "registry serve", not: "does not end, and looks at no project"},
	{command: "run", not: "makes its unit as build does, and starts a container"},
	{command: "shell", not: "makes its unit as build does, and starts a container"},
	{command: "version", args: []string{""}},
	{command: "completion", args: []string{""}},
	{command: "completion bash", not: "writes what does not depend on a project"},
	{command: "completion fish", not: "writes what does not depend on a project"},
	{command: "completion zsh", not: "writes what does not depend on a project"},
	{command: "completion powershell", not: "writes what does not depend on a project"},
	{command: "store", args: []string{""}},
	{command: "store prune", not: "opens the engine, and looks at no project"},
	{command: "store reset", args: []string{""}},
}

// hostile is a checkout that wants to start a program.
type hostile struct {
	name  string
	plant func(h *checkout)
	// proof is a git command that starts it. Its input is a credential's.
	proof []string
	typed bool   // at a terminal
	in    string // where it is given, from the top
}

// checkout is a repository with a project in its folder docker.
type checkout struct {
	t      *testing.T
	dir    string // of the repository
	marker string // what a started program makes
	home   string
}

func (c *checkout) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "TMPDIR=" + os.TempDir(), "STRATA_HOME=" + c.home + "/strata", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_GLOBAL=" + c.home + "/.gitconfig", "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES=" + filepath.Dir(c.dir),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
	}
}

func (c *checkout) file(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		c.t.Fatal(err)
	}
}

func (c *checkout) append(name, text string) {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	c.file(name, string(data)+text)
}

func (c *checkout) git(args ...string) string { return c.gitIn("", nil, args...) }

func (c *checkout) gitIn(dir string, in io.Reader, args ...string) string {
	c.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = filepath.Join(c.dir, dir), c.env(), in
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (c *checkout) commit() {
	c.git("add", "-A", "-f")
	c.git("commit", "-q", "-m", "change")
}

// program gives a command line that leaves a trace and does what a filter does.
func (c *checkout) program() string { return "touch '" + c.marker + "'; cat" }

// monitor gives one for core.fsmonitor.
func (c *checkout) monitor() string { return "touch '" + c.marker + "'; false" }

// monitored gives a config with it, and as many settings more as name programs.
func (c *checkout) monitored() string {
	return fmt.Sprintf("[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tfsmonitor = \"%s\"\n", c.monitor())
}

// newCheckout makes a harmless one.
func newCheckout(t *testing.T) *checkout {
	t.Helper()
	top := t.TempDir()
	c := &checkout{t: t, dir: filepath.Join(top, "repository"), marker: filepath.Join(top, "marker"), home: filepath.Join(top, "home")}
	for _, dir := range []string{c.dir, c.home} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.git("init", "-q", "-b", "main", "--template=")
	c.file("docker/strata.yaml", "image: localhost:1/demo\nchannels: [dev, stable]\nlayers:\n  base: {dockerfile: base.Dockerfile}\n  app: {parent: base, dockerfile: app.Dockerfile}\n")
	c.file("docker/base.Dockerfile", "FROM scratch\nCOPY src/a /a\n")
	c.file("docker/app.Dockerfile", "FROM base\nCOPY src/ /src/\n")
	c.file("docker/src/a", "one\n")
	c.file("elsewhere", "one, elsewhere\n")
	c.commit()
	c.file("docker/src/a", "two\n")
	c.file("elsewhere", "two\n")
	c.commit()
	c.git("tag", "v1")
	return c
}

// clone gives a copy at another place, in which git trusts no time stamp.
func (c *checkout) clone(n int) *checkout {
	c.t.Helper()
	at := *c
	at.dir = filepath.Join(filepath.Dir(c.dir), fmt.Sprintf("c%d", n), "repository")
	if err := os.MkdirAll(filepath.Dir(at.dir), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", c.dir, at.dir).CombinedOutput(); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	now := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(at.dir, "docker/src/a"), now, now); err != nil {
		c.t.Fatal(err)
	}
	return &at
}

// started says whether a program of the checkout ran, and forgets it.
func (c *checkout) started() bool { return os.Remove(c.marker) == nil }

// prove runs plain git, which has to start the program: else nothing is shown by
// strata not doing so.
func (c *checkout) prove(h hostile) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", h.proof...)
	cmd.WaitDelay = time.Second
	cmd.Dir, cmd.Env = filepath.Join(c.dir, h.in), c.env()
	cmd.Stdin = strings.NewReader("protocol=https\nhost=localhost\n\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if h.typed {
		master, terminal, err := openPty()
		if err != nil {
			c.t.Fatal(err)
		}
		defer master.Close()
		defer terminal.Close()
		go func() { _, _ = io.Copy(io.Discard, master) }()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	}
	err := cmd.Run()
	if !c.started() {
		c.t.Fatalf("git %q started nothing: %v\n%s", h.proof, err, out.String())
	}
}

// strata runs a command in the project's folder and gives its exit status.
func (c *checkout) strata(args ...string) (int, string) {
	c.t.Helper()
	env := c.env()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	status := Run(ctx, Machine{
		Version: "v0-test", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Environ: env, Now: time.Now,
		Dir: filepath.Join(c.dir, "docker"),
		Getenv: func(name string) string {
			for _, kv := range env {
				if v, ok := strings.CutPrefix(kv, name+"="); ok {
					return v
				}
			}
			return ""
		},
	}, args)
	return status, out.String()
}

// outcome is how a command ended.
type outcome struct {
	status int
	said   string
}

// walk tries every command, each in a fresh clone.
func (c *checkout) walk() map[string]outcome {
	c.t.Helper()
	all := map[string]outcome{}
	for _, l := range looking {
		for _, args := range l.args {
			line := strings.TrimSpace(l.command + " " + args)
			at := c.clone(len(all))
			status, out := at.strata(strings.Fields(line)...)
			if c.started() {
				c.t.Errorf("strata %s started a program of the checkout:\n%s", line, out)
			}
			all[line] = outcome{status, out}
			if err := os.RemoveAll(filepath.Dir(at.dir)); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	return all
}

// A checkout starts no program, whichever command looks at it, and each command
// does there what it does in a harmless one.
func TestHostileCheckouts(t *testing.T) {
	root := (&app{machine: Machine{Getenv: func(string) string { return "" }}}).root()
	var known []string
	for _, l := range looking {
		known = append(known, l.command)
		if (l.not == "") == (len(l.args) == 0) {
			t.Errorf("%s has arguments and a reason to leave it out, or neither", l.command)
		}
	}
	for _, c := range documented(root) {
		if name := strings.TrimPrefix(c.CommandPath(), "strata "); !slices.Contains(known, name) {
			t.Errorf("strata %s is not tried in hostile checkouts: say in looking how", name)
		}
	}
	want := newCheckout(t).walk()
	for _, line := range []string{"plan", "build", "build --dry-run", "explain app", "why-not app", "graph", "lock", "tags", "simulate", "config",
		"ci github --dry-run", "export dockerfile --out -", "hotfix --dry-run", "history"} {
		if want[line].status != exitOK {
			t.Errorf("strata %s has status %d in a harmless checkout:\n%s", line, want[line].status, want[line].said)
		}
	}
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			c := newCheckout(t)
			h.plant(c)
			c.started()
			c.clone(-1).prove(h)
			got := c.walk()
			for line, harmless := range want {
				if got[line].status != harmless.status {
					t.Errorf("strata %s has status %d, and %d in a harmless checkout:\n%s", line, got[line].status, harmless.status, got[line].said)
				}
			}
		})
	}
}

// hostiles are the checkouts. Those that a clone can bring come first; the others
// take a folder that was handed over with its .git, by an archive, a share, a cache.
var hostiles = []hostile{
	{
		name: "the project is a bare repository", proof: []string{"status"}, in: "docker",
		plant: func(c *checkout) {
			c.bare("docker", "\tworktree = .\n")
			c.commit()
		},
	}, {
		name: "a context is a bare repository", proof: []string{"status"}, in: "docker/src",
		plant: func(c *checkout) {
			c.bare("docker/src", "\tworktree = .\n")
			c.file("docker/app.Dockerfile", "FROM base\nCOPY a /src/\n")
			c.file("docker/strata.yaml", "image: localhost:1/demo\nchannels: [dev, stable]\nlayers:\n  base: {dockerfile: base.Dockerfile}\n  app: {parent: base, context: src, dockerfile: app.Dockerfile}\n")
			c.commit()
		},
	}, {
		name: "the user's own filter, by .gitattributes", proof: []string{"status"},
		plant: func(c *checkout) {
			if err := os.WriteFile(filepath.Join(c.home, ".gitconfig"),
				fmt.Appendf(nil, "[filter \"lfs\"]\n\tclean = \"%s\"\n\tsmudge = \"%[1]s\"\n\trequired = true\n", c.program()), 0o644); err != nil {
				c.t.Fatal(err)
			}
			c.file(".gitattributes", "* filter=lfs\n")
			c.commit()
		},
	}, {
		name: "a bare repository behind a folder named .git", proof: []string{"--git-dir=hidden/.git", "status"}, in: "docker",
		plant: func(c *checkout) {
			c.bare("hidden", "")
			c.commit()
			c.bare("docker/hidden/.git", "\tworktree = ../..\n")
		},
	}, {
		name: "core.fsmonitor", proof: []string{"status"},
		plant: func(c *checkout) { c.git("config", "core.fsmonitor", c.monitor()) },
	}, {
		name: "a hook", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file(".git/hooks/post-index-change", "#!/bin/sh\n"+c.program()+"\n")
		},
	}, {
		name: "core.hooksPath to the tree", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file("hooks/post-index-change", "#!/bin/sh\n"+c.program()+"\n")
			c.commit()
			c.git("config", "core.hooksPath", "hooks")
		},
	}, {
		name: "diff.external", proof: []string{"diff", "HEAD~1"},
		plant: func(c *checkout) { c.git("config", "diff.external", c.program()+" #") },
	}, {
		name: "a text conversion by .gitattributes", proof: []string{"log", "-p"},
		plant: func(c *checkout) {
			c.git("config", "diff.evil.textconv", c.program()+" <")
			c.file(".gitattributes", "* diff=evil\n")
			c.commit()
		},
	}, {
		name: "a diff command by .gitattributes", proof: []string{"diff", "HEAD~1"},
		plant: func(c *checkout) {
			c.git("config", "diff.evil.command", c.program()+" #")
			c.file(".gitattributes", "* diff=evil\n")
			c.commit()
		},
	}, {
		name: "a clean filter by .gitattributes", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file(".gitattributes", "* filter=evil\n")
			c.commit()
			c.git("config", "filter.evil.clean", c.program())
			c.git("config", "filter.evil.required", "true")
		},
	}, {
		name: "a filter process by .gitattributes", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file(".gitattributes", "* filter=evil\n")
			c.commit()
			c.git("config", "filter.evil.process", c.monitor())
		},
	}, {
		name: "info/attributes", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file(".git/info/attributes", "* filter=a.b.c\n")
			c.git("config", "filter.a.b.c.clean", c.program())
		},
	}, {
		name: "include.path to the tree", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file("settings", c.monitored())
			c.commit()
			c.git("config", "include.path", "../settings")
		},
	}, {
		name: "includeIf to the tree", proof: []string{"status"},
		plant: func(c *checkout) {
			c.file("settings", c.monitored())
			c.commit()
			c.git("config", "includeIf.onbranch:**.path", "../settings")
		},
	}, {
		name: "a submodule's config", proof: []string{"status"},
		plant: func(c *checkout) {
			c.submodule("docker/src/vendor")
			c.git("submodule", "--quiet", "absorbgitdirs")
			c.append(".git/modules/docker/src/vendor/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "a submodule that .gitmodules wants looked into", proof: []string{"status", "--porcelain"},
		plant: func(c *checkout) {
			c.submodule("vendor")
			c.append(".gitmodules", "\tignore = none\n")
			c.commit()
			c.append("vendor/.git/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
			c.git("config", "status.submoduleSummary", "true")
			c.git("config", "diff.ignoreSubmodules", "none")
		},
	}, {
		name: "an embedded repository that is no submodule", proof: []string{"status"}, in: "docker/src/foreign",
		plant: func(c *checkout) {
			c.file("docker/src/foreign/f", "f")
			c.gitIn("docker/src/foreign", nil, "init", "-q")
			c.append("docker/src/foreign/.git/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "a file .git that leads into the tree", proof: []string{"status"},
		plant: func(c *checkout) {
			if err := os.Rename(filepath.Join(c.dir, ".git"), filepath.Join(c.dir, "inner")); err != nil {
				c.t.Fatal(err)
			}
			c.file(".git", "gitdir: inner\n")
			c.append("inner/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "core.worktree elsewhere", proof: []string{"status"}, in: ".git",
		plant: func(c *checkout) {
			c.git("config", "core.worktree", c.dir+"/docker")
			c.append(".git/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "a commondir", proof: []string{"status"},
		plant: func(c *checkout) {
			if err := os.Rename(filepath.Join(c.dir, ".git"), filepath.Join(c.dir, "inner")); err != nil {
				c.t.Fatal(err)
			}
			c.file(".git/HEAD", "ref: refs/heads/main\n")
			c.file(".git/commondir", "../inner\n")
			if err := os.Rename(filepath.Join(c.dir, "inner/index"), filepath.Join(c.dir, ".git/index")); err != nil {
				c.t.Fatal(err)
			}
			c.append("inner/config", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "config.worktree", proof: []string{"status"},
		plant: func(c *checkout) {
			c.git("config", "core.repositoryformatversion", "1")
			c.git("config", "extensions.worktreeConfig", "true")
			c.file(".git/config.worktree", "[core]\n\tfsmonitor = \""+c.monitor()+"\"\n")
		},
	}, {
		name: "a remote to fetch from with ext::", proof: []string{"log", "-p"},
		plant: func(c *checkout) {
			c.partial("ext::sh -c touch% " + c.marker)
			c.git("config", "protocol.ext.allow", "always")
		},
	}, {
		name: "a remote to fetch from with core.sshCommand", proof: []string{"log", "-p"},
		plant: func(c *checkout) {
			c.partial("ssh://localhost/x")
			c.git("config", "core.sshCommand", c.monitor()+" #")
		},
	}, {
		name: "a remote to fetch from with an upload program", proof: []string{"log", "-p"},
		plant: func(c *checkout) {
			c.partial(c.dir)
			c.git("config", "remote.evil.uploadpack", c.monitor()+" #")
		},
	}, {
		name: "a credential helper", proof: []string{"credential", "fill"},
		plant: func(c *checkout) {
			c.partial("https://127.0.0.1:1/x")
			c.git("config", "credential.helper", "!"+c.program()+" #")
			c.git("config", "core.askPass", c.program()+" #")
		},
	}, {
		name: "a pager", proof: []string{"log"}, typed: true,
		plant: func(c *checkout) {
			c.git("config", "core.pager", c.program())
			for _, command := range []string{"status", "log", "show", "ls-files", "config", "describe", "remote"} {
				c.git("config", "pager."+command, c.program())
			}
		},
	}, {
		name: "a program for signatures", proof: []string{"log", "-1"},
		plant: func(c *checkout) {
			text := c.git("cat-file", "commit", "HEAD")
			head, message, _ := strings.Cut(text, "\n\n")
			signed := head + "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n" + message + "\n"
			id := c.gitIn("", strings.NewReader(signed), "hash-object", "-t", "commit", "-w", "--stdin")
			c.git("update-ref", "HEAD", id)
			c.git("config", "gpg.program", c.script())
			c.git("config", "log.showSignature", "true")
		},
	}, {
		name: "alternates", proof: []string{"rev-list", "--alternate-refs"},
		plant: func(c *checkout) {
			c.file(".git/objects/info/alternates", c.dir+"/.git/objects\n")
			other := filepath.Join(filepath.Dir(c.dir), "other.git")
			c.git("init", "-q", "--bare", other)
			c.file(".git/objects/info/alternates", other+"/objects\n")
			c.git("config", "core.alternateRefsCommand", c.program()+" #")
		},
	},
}

// bare makes a folder look like a bare repository to git.
func (c *checkout) bare(dir, more string) {
	c.file(dir+"/HEAD", "ref: refs/heads/main\n")
	c.file(dir+"/config", c.monitored()+more)
	c.file(dir+"/objects/.keep", "")
	c.file(dir+"/refs/heads/.keep", "")
}

// submodule adds one.
func (c *checkout) submodule(path string) {
	c.file(path+"/f", "f")
	c.gitIn(path, nil, "init", "-q", "-b", "main", "--template=")
	c.gitIn(path, nil, "add", "f")
	c.gitIn(path, nil, "commit", "-q", "-m", "one")
	c.file(".gitmodules", fmt.Sprintf("[submodule %q]\n\tpath = %[1]s\n\turl = ./x\n", path))
	c.commit()
}

// partial makes the checkout a partial clone that lacks an old content, outside of
// the project.
func (c *checkout) partial(url string) {
	blob := c.git("rev-parse", "HEAD~1:elsewhere")
	c.git("config", "core.repositoryformatversion", "1")
	c.git("config", "extensions.partialClone", "evil")
	c.git("config", "remote.evil.url", url)
	c.git("config", "remote.evil.promisor", "true")
	if err := os.Remove(filepath.Join(c.dir, ".git/objects", blob[:2], blob[2:])); err != nil {
		c.t.Fatal(err)
	}
}

// script gives the path of a program that leaves a trace.
func (c *checkout) script() string {
	path := filepath.Join(filepath.Dir(c.dir), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.program()+"\n"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	return path
}
