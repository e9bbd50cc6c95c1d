package ci

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/spec"
)

var updateHosts = flag.Bool("update-hosts", false, "write the golden files of GitLab and make")

// example gives the model of an example, whose strata.yaml may be changed.
func example(t *testing.T, name, folder string, change ...string) *Model {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "examples", name))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "strata.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.NewReplacer(change...).Replace(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := spec.Load(dir, "", spec.LoadOptions{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*dockerfile.File{}
	for _, u := range p.Units() {
		data, err := os.ReadFile(filepath.Join(dir, u.Dockerfile))
		if err != nil {
			t.Fatal(err)
		}
		if files[u.Dockerfile], err = dockerfile.Parse(u.Dockerfile, data); err != nil {
			t.Fatal(err)
		}
	}
	g, err := graph.New(p, files, graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(g, Source{
		Folder: folder,
		IsDir: func(rel string) bool {
			info, err := os.Stat(filepath.Join(dir, rel))
			return err == nil && info.IsDir()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func goldenFiles(t *testing.T, dir string, files []File) {
	t.Helper()
	for _, f := range files {
		name := filepath.Join("testdata", dir, strings.TrimPrefix(strings.ReplaceAll(f.Path, "/", "_"), "."))
		if *updateHosts {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(f.Data)); d != "" {
			t.Errorf("%s (-want +got; -update-hosts writes it):\n%s", name, d)
		}
	}
}

func TestGitLab(t *testing.T) {
	const image = "image: registry.gitlab.com/user/"
	for _, tc := range []struct {
		name    string
		model   *Model
		options GitLabOptions
	}{
		{"gitlab-ragex", example(t, "ragex", "", "image: ", image), GitLabOptions{Version: "v1.2.3"}},
		{"gitlab-edges", example(t, "graphrag", "svc/graph rag", "image: ", "image: docker.io/user/", "platforms: [linux/amd64]",
			"platforms: [linux/amd64, linux/riscv64]\nrunners: {linux/amd64: [big, x86]}"), GitLabOptions{Branch: "trunk", Include: true}},
	} {
		files, err := tc.model.GitLab(tc.options)
		if err != nil {
			t.Fatal(err)
		}
		goldenFiles(t, tc.name, files)
		for _, f := range files {
			var m map[string]any
			if err := yaml.Unmarshal(f.Data, &m); err != nil {
				t.Errorf("%s: %v", f.Path, err)
			}
		}
	}
}

func TestGitLabRefuses(t *testing.T) {
	m := example(t, "ragex", "", "image: ", "cache: gha\nimage: ghcr.io/user/")
	if _, err := m.GitLab(GitLabOptions{}); err == nil || diag.HintOf(err) == "" {
		t.Errorf("cache: gha went through: %v", err)
	}
}

// A filter that GitLab would refuse is left out: then every push starts the
// pipeline, and the plan decides.
func TestGitLabPaths(t *testing.T) {
	m := example(t, "ragex", "", "image: ", "image: ghcr.io/user/")
	m.Layers[0].Paths = append(m.Layers[0].Paths, "a{b}c")
	found := false
	for _, p := range m.gitlabPaths() {
		found = found || p == `a\{b\}c`
		if p == "**" || strings.HasSuffix(p, "/**") {
			t.Errorf("%s takes one level only", p)
		}
	}
	if !found {
		t.Error("braces have kept their meaning")
	}
	for i := range mostChanges {
		m.Layers[0].Paths = append(m.Layers[0].Paths, fmt.Sprintf("file%d", i))
	}
	if p := m.gitlabPaths(); p != nil {
		t.Errorf("%d patterns are more than GitLab takes", len(p))
	}
}

func TestImageWithoutARegistry(t *testing.T) {
	for _, c := range []struct{ file, remote, want string }{
		{"strata.yaml", "", "write it with a host, for example image: ghcr.io/user/demo"},
		{"strata.yaml", "git@github.com:Owner/Name.git", "write it with a host, for example image: ghcr.io/owner/name"},
		{"strata.yaml", "https://gitlab.com/owner/name", "write it with a host, for example image: ghcr.io/user/demo"},
		{"Dockerfile", "https://github.com/owner/na.me/", "strata init writes a strata.yaml in which image: is set; give it a host, for example image: ghcr.io/owner/na.me"},
		{"docker-bake.hcl", "ssh://git@github.com/owner/name.git", "strata init writes a strata.yaml in which image: is set; give it a host, for example image: ghcr.io/owner/name"},
	} {
		m := &Model{File: c.file, homeless: "demo", remote: c.remote}
		_, github := m.GitHub(GitHubOptions{})
		_, gitlab := m.GitLab(GitLabOptions{})
		for _, err := range []error{github, gitlab} {
			if got := diag.HintOf(err); got != c.want {
				t.Errorf("%s, %s: got %q, want %q", c.file, c.remote, got, c.want)
			}
		}
		if files, err := m.Make(MakeOptions{}); len(files) != 1 || err != nil {
			t.Errorf("no Makefile: %v", err)
		}
	}
}

func TestPathsOfABakeProject(t *testing.T) {
	m := &Model{Folder: "sub", File: "docker-bake.hcl"}
	want := []string{"sub/a", "sub/docker-bake.hcl", "sub/docker-bake.override.hcl", "sub/strata.lock"}
	if got := m.withProject([]string{"sub/a"}); !cmp.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestMake(t *testing.T) {
	m := example(t, "ragex", "sub", "image: ", "image: ghcr.io/user/")
	var files []File
	for _, name := range []string{"", "strata.mk"} {
		made, err := m.Make(MakeOptions{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, made...)
	}
	goldenFiles(t, "make", files)
}
