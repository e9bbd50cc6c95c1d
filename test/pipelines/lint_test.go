//go:build linux

package pipelines

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/ci"
	"github.com/strata-build/strata/internal/spec"
)

// projects are the examples with what each makes of a workflow.
var projects = []struct {
	name, dir string
	change    func(string) string
	options   ci.GitHubOptions
}{
	{name: "ragex", dir: "ragex", change: at("ghcr.io/user")},
	{name: "ragex in one workflow", dir: "ragex", change: at("ghcr.io/user"), options: ci.GitHubOptions{Single: true, Branch: "trunk", Version: "v1.2.3"}},
	{name: "graphrag", dir: "graphrag", change: at("registry.example.com/team")},
	{name: "graphrag in one workflow", dir: "graphrag", change: at("docker.io/team"), options: ci.GitHubOptions{Single: true}},
	{name: "cache gha", dir: "ragex", change: and(at("ghcr.io/user"), more("cache: gha"))},
	{name: "cache s3", dir: "ragex", change: and(at("ghcr.io/user"), more("cache: {type: s3, attrs: {bucket: b, region: r}}"))},
	{name: "cache s3 in one workflow", dir: "ragex", change: and(at("ghcr.io/user"), more("cache: {type: s3, attrs: {bucket: b, region: r}}")), options: ci.GitHubOptions{Single: true}},
	{name: "own runners, two registries and a secret", dir: "ragex", change: and(at("registry.example.com/user"),
		more("runners: {linux/amd64: [self-hosted, big], linux/arm64: arm}"),
		replace("  app:\n", "  app:\n    image: quay.io/user/app\n    secrets: [{id: npm, env: NPM_TOKEN}]\n"))},
	{name: "an emulated platform", dir: "ragex", change: and(at("ghcr.io/user"), replace("linux/arm64]", "linux/arm64, linux/riscv64]"),
		replace("cpu/arm64: docker/arm64/Dockerfile.base", "cpu/arm64: docker/arm64/Dockerfile.base"))},
}

func at(where string) func(string) string { return replaceRegexp(`(?m)^image: `, "image: "+where+"/") }

func more(line string) func(string) string {
	return func(s string) string { return s + "\n" + line + "\n" }
}

func replace(old, now string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, now, 1) }
}

func replaceRegexp(pattern, now string) func(string) string {
	return func(s string) string { return regexp.MustCompile(pattern).ReplaceAllString(s, now) }
}

func and(changes ...func(string) string) func(string) string {
	return func(s string) string {
		for _, c := range changes {
			s = c(s)
		}
		return s
	}
}

// copyOf writes an example with its workflows and gives the repository.
func copyOf(t *testing.T, example string, change func(string) string, o ci.GitHubOptions) *project {
	t.Helper()
	p := &project{t: t, dir: filepath.Join(t.TempDir(), "repository")}
	if err := os.CopyFS(p.dir, os.DirFS("../../examples/"+example)); err != nil {
		t.Fatal(err)
	}
	p.change("strata.yaml", change)
	loaded, err := spec.Load(p.dir, "", spec.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pass, err := strata.Describe(context.Background(), strata.Config{Project: loaded, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := ci.New(pass.Graph, ci.Source{
		IsDir: func(rel string) bool {
			info, err := os.Stat(filepath.Join(p.dir, rel))
			return err == nil && info.IsDir()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.GitHub(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		p.write(f.Path, f.Data)
	}
	p.git("init", "-q") // actionlint looks for the repository
	return p
}

func (p *project) write(name string, data []byte) {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// newest are the versions of actions whose inputs this actionlint knows, where
// the workflows have newer ones. Their inputs are the same.
var newest = strings.NewReplacer("actions/checkout@v7", "actions/checkout@v6", "actions/cache@v6", "actions/cache@v5",
	"actions/github-script@v9", "actions/github-script@v8")

var tagged = regexp.MustCompile(`@[0-9a-f]{40} # (v[0-9]+)[0-9.]*`)

// byTag names actions by tag: actionlint knows their inputs only so. The steps of
// the project's own action, which it does not look at, become those of a workflow.
func (p *project) byTag() {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, ".github/workflows/*.yml"))
	if err != nil {
		p.t.Fatal(err)
	}
	tag := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		return newest.Replace(tagged.ReplaceAllString(string(text), "@$1"))
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte(tag(file)), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	action := tag(filepath.Join(p.dir, ".github/actions/strata/action.yml"))
	_, steps, ok := strings.Cut(action, "  steps:\n")
	if !ok {
		p.t.Fatal("the action has no steps")
	}
	inputs := ""
	for _, m := range regexp.MustCompile(`inputs\.([a-z0-9-]+)`).FindAllStringSubmatch(steps, -1) {
		if !strings.Contains(inputs, m[1]+":") {
			inputs += "      " + m[1] + ": {type: string}\n"
		}
	}
	text := "on:\n  workflow_call:\n    inputs:\n" + inputs + "      unused: {type: string}\npermissions: {}\n" +
		"jobs:\n  action:\n    runs-on: ubuntu-24.04\n    steps:\n" + steps
	p.write(".github/workflows/zz-action.yml", []byte(text))
}

// Every workflow passes actionlint: as it is, and with actions named by tag.
func TestActionlint(t *testing.T) {
	program := tool(t, actionlintModule)
	lint := func(p *project) (string, error) {
		cmd := exec.Command(program, "-no-color", "-ignore", `label "(big|arm)" is unknown`)
		cmd.Dir = p.dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, tc := range projects {
		t.Run(tc.name, func(t *testing.T) {
			p := copyOf(t, tc.dir, tc.change, tc.options)
			if out, err := lint(p); err != nil {
				t.Errorf("by commit: %v\n%s", err, out)
			}
			p.byTag()
			if out, err := lint(p); err != nil {
				t.Errorf("by tag: %v\n%s", err, out)
			}
		})
	}
	t.Run("a wrong input is found", func(t *testing.T) {
		p := copyOf(t, "ragex", and(at("ghcr.io/user"), more("cache: gha")), ci.GitHubOptions{})
		p.change(".github/workflows/strata.yml", func(s string) string { return strings.ReplaceAll(s, "fetch-depth:", "fetch-depths:") })
		p.change(".github/actions/strata/action.yml", func(s string) string {
			s = strings.Replace(s, "driver: docker-container", "drivers: docker-container", 1)
			s = strings.Replace(s, "username:", "user:", 1)
			return strings.Replace(s, "script: |", "scripts: |", 1)
		})
		p.byTag()
		out, err := lint(p)
		for _, input := range []string{"fetch-depths", "drivers", "user", "scripts"} {
			if err == nil || !strings.Contains(out, `input "`+input+`" is not defined`) {
				t.Errorf("actionlint did not find the input %q:\n%s", input, out)
			}
		}
	})
}

var (
	usesLine = regexp.MustCompile(`(?m)^\s*(?:- )?uses: (.*)$`)
	pinned   = regexp.MustCompile(`^[a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`)
)

// What a linter does not ask for: pins, few rights, limits of time, and no
// expression in a script.
func TestWorkflowsAreCareful(t *testing.T) {
	for _, tc := range projects {
		t.Run(tc.name, func(t *testing.T) {
			p := copyOf(t, tc.dir, tc.change, tc.options)
			err := filepath.WalkDir(filepath.Join(p.dir, ".github"), func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				for _, m := range usesLine.FindAllStringSubmatch(string(text), -1) {
					if !strings.HasPrefix(m[1], "./.github/") && !pinned.MatchString(m[1]) {
						t.Errorf("%s uses %s, which is not pinned", d.Name(), m[1])
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, w := range p.workflows() {
				if w.Permissions == nil || len(w.Permissions) > 0 {
					t.Errorf("%s gives every job %v", name, w.Permissions)
				}
				for id, j := range w.Jobs {
					if j.Permissions == nil || j.Uses == "" && j.Timeout == 0 {
						t.Errorf("%s: job %s has no permissions of its own, or no limit of time", name, id)
					}
					if may := j.Permissions["packages"]; may == "write" && strings.Contains(name+id, "pull-request") || may == "write" && strings.Contains(id, "check") {
						t.Errorf("%s: job %s of a pull request may write", name, id)
					}
					for _, s := range j.Steps {
						if strings.Contains(s.Run, "${{") {
							t.Errorf("%s: job %s has an expression in a script: %s", name, id, s.Run)
						}
					}
				}
			}
		})
	}
}
