package ci

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/printable"
)

// hosts are all that writes pipelines.
func hosts(m *Model) map[string]func() ([]File, error) {
	return map[string]func() ([]File, error){
		"github":        func() ([]File, error) { return m.GitHub(GitHubOptions{Branch: "main"}) },
		"github single": func() ([]File, error) { return m.GitHub(GitHubOptions{Branch: "main", Single: true}) },
		"gitlab":        func() ([]File, error) { return m.GitLab(GitLabOptions{}) },
		"make":          func() ([]File, error) { return m.Make(MakeOptions{}) },
	}
}

func TestNamesThatWouldBeRead(t *testing.T) {
	for _, name := range []string{
		"${{ github.event.head_commit.message }}", "$(touch x)", "a`touch x`", `a"; touch x; "`, "it's", `a\`, "a\nb", "a: b", "a #b", "a\u202eb", "$[[ inputs.x ]]", "$HOME", "\xff",
	} {
		for _, m := range []*Model{{Image: "ghcr.io/a/b", Folder: name, File: "strata.yaml"}, {Image: "ghcr.io/a/b", File: name}, {Image: "ghcr.io/a/b", File: "strata.yaml", Secrets: []string{name}}} {
			for host, write := range hosts(m) {
				_, err := write()
				if err == nil || diag.HintOf(err) == "" || !strings.Contains(err.Error(), "writing pipelines: ") {
					t.Errorf("%s, folder %q, file %q, secrets %q: %v", host, m.Folder, m.File, m.Secrets, err)
				}
			}
		}
	}
	for _, name := range []string{"my project", "größe/日本", "a-b_c.d+e,f=g@h", "-rf", "~x", "a;b", "a&b", "(x)", "a|b>c"} {
		for host, write := range hosts(&Model{Image: "ghcr.io/a/b", Folder: name, File: name}) {
			files, err := write()
			if err != nil {
				t.Errorf("%s: %q: %v", host, name, err)
			}
			for _, f := range files {
				if host != "make" {
					scriptsOf(t, f)
				}
			}
			if host == "github" || host == "gitlab" {
				have := map[string][]byte{}
				for _, f := range files {
					have[f.Path] = f.Data
				}
				if folder, ok := MadeFor(have); !ok || folder != name {
					t.Errorf("%s: the folder is %q, not %q", host, folder, name)
				}
			}
		}
	}
}

// scriptsOf gives the lines that a runner's shell reads, of a file that has to
// be YAML.
func scriptsOf(t *testing.T, f File) []string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(f.Data, &doc); err != nil {
		t.Fatalf("%s: %v\n%s", f.Path, err, f.Data)
	}
	var out []string
	var walk func(n *yaml.Node, script bool)
	walk = func(n *yaml.Node, script bool) {
		if n.Kind == yaml.ScalarNode && script {
			out = append(out, n.Value)
		}
		for i, c := range n.Content {
			in := script
			if n.Kind == yaml.MappingNode && i%2 == 1 {
				in = in || slices.Contains([]string{"run", "script", "before_script", "after_script"}, n.Content[i-1].Value)
			}
			walk(c, in)
		}
	}
	walk(&doc, false)
	return out
}

// TestHostilePaths gives a Dockerfile that takes files whose names are
// expressions; and looks that no pipeline has one that is not the template's.
func TestHostilePaths(t *testing.T) {
	hostile := []string{"${{ github.event.issue.title }}", "$(touch x)", "$CI_COMMIT_MESSAGE", "$[[ inputs.x ]]", "a\u202eb", "quo\"te", "a\nb: c", "\xff\xfe", "`x`"}
	plain, err := example(t, "ragex", "", "image: ", "image: ghcr.io/user/").GitHub(GitHubOptions{Branch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	expression := regexp.MustCompile(`\$\{\{[^}]*\}\}`)
	for _, f := range plain {
		for _, e := range expression.FindAllString(string(f.Data), -1) {
			known[e] = true
		}
	}
	m := example(t, "ragex", "", "image: ", "image: ghcr.io/user/")
	for i := range m.Layers {
		for _, h := range hostile {
			m.Layers[i].Paths = append(m.Layers[i].Paths, "src/"+h)
		}
	}
	for host, write := range hosts(m) {
		files, err := write()
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		for _, f := range files {
			if !printable.Clean(strings.NewReplacer("\n", "", "\t", "").Replace(string(f.Data))) {
				t.Errorf("%s: hidden characters in %s", host, f.Path)
			}
			if host == "make" {
				continue
			}
			for _, s := range scriptsOf(t, f) {
				for _, h := range hostile {
					if strings.Contains(s, h) {
						t.Errorf("%s: a script of %s has %q: %s", host, f.Path, h, s)
					}
				}
			}
			if strings.HasPrefix(host, "gitlab") {
				if strings.Contains(string(f.Data), "CI_COMMIT_MESSAGE") && strings.Contains(string(f.Data), "$CI_COMMIT_MESSAGE") {
					t.Errorf("%s has a variable", f.Path)
				}
				continue
			}
			if host == "github" {
				for _, e := range expression.FindAllString(string(f.Data), -1) {
					if !known[e] {
						t.Errorf("%s has the expression %s", f.Path, e)
					}
				}
			}
		}
	}
}

func TestChildPipelineQuotes(t *testing.T) {
	w := Work{Stages: [][]Job{{{Name: "a\u202e", Runner: []string{"x"}, Units: []string{"app"}, Command: []string{"strata", "-f", "it's $(touch x)", "build", "app"}}}}, Publish: []string{"strata", "publish", "app/*"}}
	got := scriptsOf(t, File{Path: "child", Data: GitLabChild(w, GitLabJobs)})
	want := []string{`strata -f 'it'\''s $(touch x)' build app`, `strata publish 'app/*'`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}
