package simulate

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/git"
	"github.com/strata-build/strata/internal/githistory"
)

// repo is a git repository that a test fills through git fast-import: one
// process for any number of commits.
type repo struct {
	t   testing.TB
	dir string
	in  bytes.Buffer
	at  time.Time
	n   int
}

func newRepo(t testing.TB) *repo {
	return &repo{t: t, dir: t.TempDir(), at: time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)}
}

// commit adds a commit some time after the last one. A file's content "-"
// removes it; a name that begins with "*" is a program, "@" a link, and "%" a
// submodule at the commit that the content names.
func (r *repo) commit(after time.Duration, subject string, files map[string]string) {
	r.at = r.at.Add(after)
	r.n++
	fmt.Fprintf(&r.in, "commit refs/heads/main\nmark :%d\ncommitter Someone <someone@example.com> %d +0000\ndata %d\n%s\n", r.n, r.at.Unix(), len(subject), subject)
	for name, text := range files {
		mode := "100644"
		switch name[0] {
		case '*':
			name, mode = name[1:], "100755"
		case '@':
			name, mode = name[1:], "120000"
		case '%':
			fmt.Fprintf(&r.in, "M 160000 %s %s\n", text, name[1:])
			continue
		}
		if text == "-" {
			fmt.Fprintf(&r.in, "D %s\n", name)
			continue
		}
		fmt.Fprintf(&r.in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(text), text)
	}
}

// write makes the repository, with main checked out as HEAD, and no work tree.
func (r *repo) write() string {
	r.t.Helper()
	r.git("init", "-q", "-b", "main", ".")
	cmd := exec.Command("git", "-C", r.dir, "fast-import", "--quiet", "--force")
	cmd.Stdin = &r.in
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
	return r.dir
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Someone", "GIT_AUTHOR_EMAIL=someone@example.com", "GIT_COMMITTER_NAME=Someone", "GIT_COMMITTER_EMAIL=someone@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// read reads a range of the repository's history.
func (r *repo) read(of githistory.Range) *githistory.History {
	r.t.Helper()
	h, err := githistory.Read(context.Background(), git.Machine{}, r.dir, of)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return h
}

// ragex is a project of three layers, for cpu on two platforms and for cuda.
var ragex = map[string]string{
	"strata.yaml": `image: demo
platforms: [linux/amd64, linux/arm64]
variants:
  cpu: {}
  cuda: {platforms: [linux/amd64]}
layers:
  base:
    dockerfile: docker/{variant}/Dockerfile.base
    refresh: {every: week, at: "Mon 06:00"}
  ml:
    parent: base
    dockerfile: docker/{variant}/Dockerfile.ml
    refresh: {every: 2d}
  app:
    parent: ml
    dockerfile: docker/app/Dockerfile
`,
	"strata.lock": `{"version":1,"images":[{"image":"debian:bookworm-slim","from":"docker.io/library/debian","digest":"sha256:` + strings.Repeat("1", 64) + `",
"resolved":"2026-03-01T00:00:00Z","platforms":{"linux/amd64":{"digest":"sha256:` + strings.Repeat("2", 64) + `","env":["PATH=/usr/bin:/bin"]},"linux/arm64":{"digest":"sha256:` + strings.Repeat("3", 64) + `"}}}]}`,
	"docker/cpu/Dockerfile.base":  "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y python3\nCOPY etc/ /etc/demo/\n",
	"docker/cuda/Dockerfile.base": "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y python3 nvidia\nCOPY etc/ /etc/demo/\n",
	"docker/cpu/Dockerfile.ml":    "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY requirements/ml.txt /tmp/\nRUN pip install -r /tmp/ml.txt\n",
	"docker/cuda/Dockerfile.ml":   "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY requirements/ml.txt requirements/cuda.txt /tmp/\nRUN pip install -r /tmp/ml.txt -r /tmp/cuda.txt\n",
	"docker/app/Dockerfile":       "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nWORKDIR /srv\nCOPY src/ /srv/src/\nCOPY run.sh /srv/\nENV MODE=prod\nCMD [\"/srv/run.sh\"]\n",
	"etc/demo.conf":               "level=1\n",
	"requirements/ml.txt":         "torch\n",
	"requirements/cuda.txt":       "nvidia\n",
	"*run.sh":                     "#!/bin/sh\necho hello\n",
	"README.md":                   "A project.\n",
	".dockerignore":               "**/*.md\n.git\n",
}

// history fills a repository with the project, so many files of source, and so
// many commits of the kinds that such projects have: four in ten touch no image,
// most of the others code. The seed is fixed.
func (r *repo) history(project map[string]string, files, commits int) {
	rnd := rand.New(rand.NewPCG(5, 6))
	first := map[string]string{}
	for name, text := range project {
		first[name] = text
	}
	name := func(i int) string { return fmt.Sprintf("src/pkg%02d/mod%d/file%04d.py", i%40, i%3, i) }
	for i := range files {
		first[name(i)] = fmt.Sprintf("# file %d\n%s", i, strings.Repeat("x = 1\n", rnd.IntN(200)))
	}
	r.commit(0, "the first", first)
	for i := 1; i < commits; i++ {
		change, subject := map[string]string{}, ""
		switch n := rnd.IntN(100); {
		case n < 35:
			change["README.md"], subject = fmt.Sprintf("Edition %d\n", i), "docs"
		case n < 85:
			for range 1 + rnd.IntN(4) {
				change[name(rnd.IntN(files))] = fmt.Sprintf("# edition %d\n", i)
			}
			subject = "code"
		case n < 90:
			change[fmt.Sprintf("src/new%d.py", i)], subject = "new\n", "a new file"
		case n < 93:
			change[name(rnd.IntN(files))], subject = "-", "a file less"
		case n < 98:
			change["requirements/ml.txt"], subject = fmt.Sprintf("torch==2.%d\n", i), "requirements"
		case n < 99:
			change["etc/demo.conf"], subject = fmt.Sprintf("level=%d\n", i), "the base's files"
		default:
			change["docker/cpu/Dockerfile.base"], subject = fmt.Sprintf("FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y python3 tool%d\nCOPY etc/ /etc/demo/\n", i), "the base"
		}
		r.commit(time.Duration(20+rnd.IntN(200))*time.Minute, subject, change)
	}
}
