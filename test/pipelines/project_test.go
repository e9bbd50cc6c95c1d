//go:build linux

package pipelines

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/registry"
)

// project is a git repository with examples/ragex in it, whose bases come from
// the test's own registry and whose RUN instructions take no time. Everything else
// is the example's: layers, variants, platforms, what COPY takes.
type project struct {
	t   *testing.T
	dir string
}

// runs are the instructions that install packages.
var runs = regexp.MustCompile(`(?m)^RUN (.*\\\n)*.*$`)

// newProject writes the project for a registry and makes its first commit.
func newProject(t *testing.T, host string) *project {
	t.Helper()
	p := &project{t: t, dir: filepath.Join(t.TempDir(), "repository")}
	if err := os.CopyFS(p.dir, os.DirFS("../../examples/ragex")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cpu/Dockerfile.base", "arm64/Dockerfile.base", "cuda/Dockerfile.base"} {
		p.change("docker/"+file, func(s string) string {
			s = strings.Replace(s, "FROM debian:bookworm-slim", "FROM "+host+"/debian:bookworm-slim", 1)
			// Another content each time, as of packages that have moved: what comes out
			// the same reaches nobody.
			return runs.ReplaceAllString(s, "RUN cat /proc/sys/kernel/random/uuid > /made-base")
		})
	}
	for _, file := range []string{"cpu/Dockerfile.ml", "arm64/Dockerfile.ml", "cuda/Dockerfile.ml"} {
		p.change("docker/"+file, func(s string) string {
			return runs.ReplaceAllString(s, "RUN cat /opt/ragex/requirements/base-ml.txt > /made-ml; sleep 0.5")
		})
	}
	p.change("strata.yaml", func(s string) string {
		s = strings.Replace(s, "image: mcp-ragex", "image: "+host+"/user/mcp-ragex", 1)
		return regexp.MustCompile(`(?m)^    test: .*$`).ReplaceAllString(s, "")
	})
	p.git("init", "-q", "-b", "main")
	return p
}

// change edits a file of the work tree; the edit must do something.
func (p *project) change(name string, edit func(string) string) {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	old, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	text := edit(string(old))
	if text == string(old) {
		p.t.Fatalf("editing %s changed nothing", name)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// add writes a line at the end of a file.
func (p *project) add(name, line string) {
	p.t.Helper()
	p.change(name, func(s string) string { return s + line + "\n" })
}

// commit commits everything and gives what changed since the commit before.
func (p *project) commit(message string) (changed []string) {
	p.t.Helper()
	p.git("add", "-A")
	p.git("commit", "-q", "-m", message)
	return strings.Fields(p.git("show", "--name-only", "--format=", "HEAD"))
}

func (p *project) git(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = p.dir
	// A minute between commits: who is newer decides who may move a tag.
	commits++
	at := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC).Add(time.Duration(commits) * time.Minute).Format(time.RFC3339)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Someone", "GIT_AUTHOR_EMAIL=someone@example.com",
		"GIT_COMMITTER_NAME=Someone", "GIT_COMMITTER_EMAIL=someone@example.com", "GIT_AUTHOR_DATE="+at, "GIT_COMMITTER_DATE="+at)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var commits int

// pushBases puts the image that the example starts from into the registry, for
// both platforms: a /bin/sh that can run, and the account ragex.
func pushBases(t *testing.T, e *registry.Embedded) {
	t.Helper()
	for _, arch := range []string{"amd64", "arm64"} {
		ref, err := registry.ParseRef(registry.EmbeddedHost + "/debian:bookworm-slim")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.ImportRootfs(context.Background(), ref, "linux/"+arch, bytes.NewReader(rootfs(t, arch)), registry.ImportConfig{}); err != nil {
			t.Fatal(err)
		}
	}
}

func rootfs(t *testing.T, arch string) []byte {
	t.Helper()
	sh := filepath.Join(t.TempDir(), "sh")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", sh, "../../internal/buildkit/testdata/shell")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the images' shell: %v\n%s", err, out)
	}
	shell, err := os.ReadFile(sh)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, data []byte) {
		h.Size, h.ModTime = int64(len(data)), time.Unix(0, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"app", "bin", "dev", "etc", "opt", "proc", "root", "sys", "tmp"} {
		put(tar.Header{Name: dir + "/", Mode: 0o755, Typeflag: tar.TypeDir}, nil)
	}
	put(tar.Header{Name: "bin/sh", Mode: 0o755, Typeflag: tar.TypeReg}, shell)
	put(tar.Header{Name: "etc/group", Mode: 0o644, Typeflag: tar.TypeReg}, []byte("root:x:0:\nragex:x:10001:\n"))
	put(tar.Header{Name: "etc/passwd", Mode: 0o644, Typeflag: tar.TypeReg},
		[]byte("root:x:0:0:root:/root:/bin/sh\nragex:x:10001:10001::/app:/bin/sh\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// started gives the workflows that a push of changed files to the main branch
// starts, by their own path filters, as GitHub documents them: patterns are tried
// in order, and ! takes out again.
func (p *project) started(changed []string) []string {
	p.t.Helper()
	var out []string
	for name, w := range p.workflows() {
		if len(w.On.Push.Branches) == 0 || !slices.Contains(w.On.Push.Branches, "main") {
			continue
		}
		if len(w.On.Push.Paths) == 0 || slices.ContainsFunc(changed, func(f string) bool { return matches(w.On.Push.Paths, f) }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func matches(patterns []string, file string) bool {
	in := false
	for _, pattern := range patterns {
		pattern, not := strings.CutPrefix(pattern, "!")
		if githubPattern(pattern).MatchString(file) {
			in = !not
		}
	}
	return in
}

// githubPattern is a filter pattern as a regular expression: * takes anything but
// a slash, ** anything, and a backslash the meaning of the next character.
func githubPattern(pattern string) *regexp.Regexp {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch {
		case strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(".*")
			i++
		case pattern[i] == '*':
			b.WriteString("[^/]*")
		case pattern[i] == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	return regexp.MustCompile("^" + b.String() + "$")
}
