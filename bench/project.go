package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// project is the source tree that every tool builds: base -> ml -> app, the
// Dockerfiles as people write them. The ml layer is as large as the parent of
// the app is to be.
type project struct {
	dir     string
	host    string                               // of the registry
	parent  int64                                // compressed bytes of what the app stands on
	edition int                                  // counts changes, so that no two are alike
	made    struct{ base, ml, app, meta string } // what the Dockerfiles say
	corpus  []byte                               // text to make many files from; nil until it is needed
}

const (
	baseBytes = 10e6 // the base layer's own files, and the app layer's dependencies
	appBytes  = 5e6
	// compressed is what fill's files come to when they are compressed.
	compressed = 0.68
	// rootfsBytes is about what Debian's own files come to.
	rootfsBytes = 45e6
)

// newProject writes the tree and makes it a git repository.
func newProject(ctx context.Context, dir, host string, parent int64) (*project, error) {
	p := &project{dir: dir, host: host, parent: parent, edition: 1}
	files := map[string]string{".dockerignore": ".git\n"}
	for i := range 200 {
		files[fmt.Sprintf("src/module%03d.py", i)] = source(i, 2500)
	}
	for name, text := range files {
		if err := p.write(name, text); err != nil {
			return nil, err
		}
	}
	if err := p.setRepo("shop"); err != nil {
		return nil, err
	}
	p.made.base, p.made.ml, p.made.app, p.made.meta = "1", "1", "1", "1"
	if err := p.writeDockerfiles(); err != nil {
		return nil, err
	}
	return p, p.git(ctx, "init", "-q")
}

func (p *project) path(name string) string { return filepath.Join(p.dir, filepath.FromSlash(name)) }

func (p *project) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(p.path(name), []byte(text), 0o644)
}

func (p *project) git(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", append([]string{
		"-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0",
		"-c", "init.defaultBranch=main", "-c", "core.compression=0"}, args...)...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running git %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// commit makes the tree what a CI runner checks out.
func (p *project) commit(ctx context.Context) error {
	if err := p.git(ctx, "add", "-A"); err != nil {
		return err
	}
	return p.git(ctx, "commit", "-q", "--allow-empty", "-m", fmt.Sprintf("Edition %d", p.edition))
}

// setRepo writes the files that name repositories: strata.yaml and the bake
// file. The tools do not share any, so that none finds what another has built.
func (p *project) setRepo(name string) error {
	err := p.write("strata.yaml", fmt.Sprintf(`image: %s/strata/%s
platforms: [linux/amd64]
layers:
  base: {dockerfile: docker/Dockerfile.base}
  ml:   {dockerfile: docker/Dockerfile.ml, parent: base}
  app:  {dockerfile: docker/Dockerfile.app, parent: ml}
`, p.host, name))
	if err != nil {
		return err
	}
	var bake strings.Builder
	bake.WriteString("group \"default\" { targets = [\"base\", \"ml\", \"app\"] }\n")
	for i, t := range []string{"base", "ml", "app"} {
		parent := ""
		if i > 0 {
			parent = fmt.Sprintf("  contexts = { parent = \"target:%s\" }\n  args = { BASE_IMAGE = \"parent\" }\n", []string{"base", "ml"}[i-1])
		}
		image := fmt.Sprintf("%s/bake/%s", p.host, name)
		fmt.Fprintf(&bake, `
target %[1]q {
  dockerfile = "docker/Dockerfile.%[1]s"
%[2]s  tags = ["%[3]s:%[1]s"]
  cache-from = ["type=registry,ref=%[3]s-cache:%[1]s"]
  cache-to = ["type=registry,ref=%[3]s-cache:%[1]s,mode=max"]
}
`, t, parent, image)
	}
	return p.write("docker-bake.hcl", bake.String())
}

// writeDockerfiles writes the Dockerfiles. Dependencies are named in the
// instruction that installs them. With a COPY of a list before it, a bake of
// linked targets does not find what its own cache in the registry holds (BuildKit
// v0.33.1, from the second target on), and would look worse than it has to.
func (p *project) writeDockerfiles() error {
	ml := int64(max(float64(p.parent)-rootfsBytes-baseBytes*compressed, 1e6) / compressed)
	dockerfiles := map[string]string{
		"base": fmt.Sprintf(`FROM %s/library/debian:bookworm-slim
RUN fill /opt/base %d base-%s
`, p.host, int64(baseBytes), p.made.base),
		"ml": fmt.Sprintf(`ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN fill /opt/ml %d ml-%s
`, ml, p.made.ml),
		"app": fmt.Sprintf(`ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN fill /opt/app %d app-%s
WORKDIR /app
COPY src/ src/
ENV RELEASE=%[3]s
LABEL release=%[3]s
CMD ["/app/src/module000.py", %[3]q]
`, int64(appBytes), p.made.app, p.made.meta),
		// What a careful user writes by hand to spare BuildKit the parent: no
		// WORKDIR, every COPY a link, the dependencies in an image of their own.
		"deps": fmt.Sprintf(`ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN fill /opt/app %d app-%s
`, int64(appBytes), p.made.app),
		"link": fmt.Sprintf(`FROM %s/link/shop:deps
COPY --link src/ /app/src/
ENV RELEASE=%[2]s
LABEL release=%[2]s
CMD ["/app/src/module000.py", %[2]q]
`, p.host, p.made.meta),
	}
	for name, text := range dockerfiles {
		if err := p.write("docker/Dockerfile."+name, text); err != nil {
			return err
		}
	}
	return nil
}

const (
	bulkFiles = 6600
	bulkBytes = 200e6
)

// change makes one change of the kind that a case is about, and commits it.
func (p *project) change(ctx context.Context, kind string) error {
	p.edition++
	edition := fmt.Sprint(p.edition)
	var err error
	switch kind {
	case caseNothing:
		return nil
	case caseFile:
		err = p.write("src/module000.py", "# edition "+edition+"\n"+source(0, 2500))
	case caseMeta:
		p.made.meta = edition
		err = p.writeDockerfiles()
	case caseBulk:
		err = p.bulk(ctx)
	case caseAppDep:
		p.made.app = edition
		err = p.writeDockerfiles()
	case caseMLDep:
		p.made.ml = edition
		err = p.writeDockerfiles()
	case caseBase:
		p.made.base = edition
		err = p.writeDockerfiles()
	default:
		err = fmt.Errorf("there is no case %q", kind)
	}
	if err != nil {
		return err
	}
	return p.commit(ctx)
}

// bulk writes 6,600 new files of 200 MB in all: pieces of the source code of
// Go's own library, so that they pack as source code does.
func (p *project) bulk(ctx context.Context) error {
	if p.corpus == nil {
		var err error
		if p.corpus, err = goSource(ctx); err != nil {
			return err
		}
	}
	size := int(bulkBytes) / bulkFiles
	at := p.edition * 12345
	for i := range bulkFiles {
		name := p.path(fmt.Sprintf("src/data/d%02d/f%04d.go", i/100, i))
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return err
			}
		}
		head := fmt.Sprintf("// edition %d, file %d\n", p.edition, i)
		n := size - len(head)
		at %= len(p.corpus) - n
		if err := os.WriteFile(name, append([]byte(head), p.corpus[at:at+n]...), 0o644); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// goSource reads the Go source files of GOROOT, one after the other.
func goSource(ctx context.Context) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("finding Go's source code: %w", err)
	}
	var all []byte
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		data, err := os.ReadFile(name)
		all = append(all, data...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading Go's source code: %w", err)
	}
	if len(all) < 10<<20 {
		return nil, fmt.Errorf("reading Go's source code: %q holds only %d bytes", root, len(all))
	}
	return all, nil
}

// dropBulk takes the files of the bulk case away.
func (p *project) dropBulk() error { return os.RemoveAll(p.path("src/data")) }

// source is n bytes of made-up code.
func source(seed, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "def function_%d_%d(argument):\n    return argument * %d + %d\n\n", seed, i, seed*7919+i, i*i)
	}
	return b.String()[:n]
}
