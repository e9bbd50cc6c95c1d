package ci

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"strings"
	"text/template"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/spec"
)

// GitLabOptions say how GitLab's pipelines are written.
type GitLabOptions struct {
	Branch  string // whose pushes are published; "" is the project's default branch
	Version string // of strata, as `go install` takes it; "" is latest
	Include bool   // for an existing .gitlab-ci.yml to include, in place of one
}

// Where the files are. Child pipelines include the jobs by this name.
const (
	gitlabRoot     = ".gitlab-ci.yml"
	gitlabPipeline = ".gitlab/strata-pipeline.yml"
	GitLabJobs     = ".gitlab/strata.yml"
)

// mostChanges is how many patterns a `rules:changes` may have (docs.gitlab.com,
// "CI/CD YAML syntax reference").
const mostChanges = 50

//go:embed templates/gitlab
var gitlabTemplates embed.FS

// gitlabPage is what the templates see.
type gitlabPage struct {
	*Model
	GitLabOptions
	Runner, Flags string
	Branch        string // as an expression
	Trunk         string // as a shell has it
	CleanupCron   string
	Jobs          string
	Pipeline      string
	Paths, Crons  []string
	Logins        []login
	Emulated      bool
}

func (o GitLabOptions) command() string {
	s := "ci gitlab"
	if o.Include {
		s += " --include"
	}
	if o.Branch != "" {
		s += " --branch " + o.Branch
	}
	return s + " --strata-version " + o.Version
}

// GitLab gives the pipeline of a project, and the jobs that it shares with the
// child pipelines of its runs.
func (m *Model) GitLab(o GitLabOptions) ([]File, error) {
	if m.Cache == "gha" {
		return nil, diag.Hint(fmt.Errorf("writing GitLab's pipeline: `cache: gha` is GitHub's"), "cache: registry works everywhere")
	}
	if err := m.shared(); err != nil {
		return nil, err
	}
	if o.Version == "" {
		o.Version = "latest"
	}
	p := gitlabPage{
		Model: m, GitLabOptions: o, Runner: quoted(Labels(m.Runners, GitLabRunners)("linux/amd64")), Branch: "$CI_DEFAULT_BRANCH", Trunk: `"$DEFAULT_BRANCH"`,
		CleanupCron: cleanupCron, Jobs: GitLabJobs, Pipeline: gitlabPipeline, Crons: crons(m.Layers), Logins: m.gitlabLogins(),
		Emulated: m.Emulated(GitLabRunners), Paths: m.gitlabPaths(),
	}
	if o.Branch != "" {
		p.Branch, p.Trunk = quoted(o.Branch), o.Branch
	}
	p.Flags = m.flags(string(spec.KindStrata))
	root := gitlabRoot
	if o.Include {
		root = gitlabPipeline
	}
	var files []File
	for _, f := range [][2]string{{root, "pipeline.yml"}, {GitLabJobs, "jobs.yml"}} {
		data, err := fillIn(gitlabTemplates, "templates/gitlab/"+f[1], p)
		if err != nil {
			return nil, fmt.Errorf("writing %q: %w", f[0], err)
		}
		files = append(files, File{Path: f[0], Data: generated.Mark(data, o.command())})
	}
	return files, nil
}

// fillIn fills a template in, with [[ ]] as delimiters.
func fillIn(fsys embed.FS, file string, data any) (string, error) {
	t, err := template.New(path.Base(file)).Delims("[[", "]]").Option("missingkey=error").
		Funcs(template.FuncMap{"quote": quoted}).ParseFS(fsys, file)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return "", err
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// gitlabPaths gives what starts a pipeline that publishes; nil is everything.
func (m *Model) gitlabPaths() []string {
	var paths []string
	for _, l := range m.Layers {
		paths = append(paths, l.Paths...)
	}
	paths = m.withProject(paths)
	if len(paths) > mostChanges {
		return nil
	}
	for i, p := range paths {
		// Ruby's fnmatch, which GitLab uses, takes ** for folders only where a slash
		// follows, and braces for alternatives.
		p = strings.NewReplacer("{", `\{`, "}", `\}`).Replace(p)
		if p == "**" || strings.HasSuffix(p, "/**") {
			p += "/*"
		}
		paths[i] = gitlabPath(p)
	}
	return paths
}

// gitlabLogins gives the registries beside GitLab's own, and the variables that
// open them.
func (m *Model) gitlabLogins() []login {
	var out []login
	for _, host := range m.Registries {
		if host == "registry.gitlab.com" {
			continue // what the job's token opens
		}
		out = append(out, login{Host: host})
	}
	for i := range out {
		prefix := "REGISTRY_"
		if len(out) > 1 {
			prefix += strings.ToUpper(strings.Trim(notName.ReplaceAllString(out[i].Host, "_"), "_")) + "_"
		}
		out[i].Username, out[i].Password = prefix+"USERNAME", prefix+"PASSWORD"
		if out[i].Host == "docker.io" {
			out[i].Host = "https://index.docker.io/v1/" // where Docker's config keeps it
		}
	}
	return out
}
