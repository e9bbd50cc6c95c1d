package ci

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/spec"
)

// GitHubOptions say how GitHub's workflows are written.
type GitHubOptions struct {
	Branch  string // the main branch; "" is main
	Version string // of strata, as `go install` takes it; "" is latest
	Single  bool   // one workflow in place of one for each purpose
}

// command is what the mark of each file says.
func (o GitHubOptions) command() string {
	s := "ci github"
	if o.Single {
		s += " --single"
	}
	if o.Branch != "main" {
		s += " --branch " + o.Branch
	}
	return s + " --strata-version " + o.Version
}

// action is an action of somebody else's, at one commit.
type action struct{ tag, commit string }

// actions are all that the workflows use. The commits are those of the tags, read
// from the projects' own lists of releases in November 2026.
var actions = map[string]action{
	"actions/checkout":           {"v7.0.1", "3d3c42e5aac5ba805825da76410c181273ba90b1"},
	"actions/cache":              {"v6.1.0", "55cc8345863c7cc4c66a329aec7e433d2d1c52a9"},
	"actions/github-script":      {"v9.0.0", "3a2844b7e9c422d3c10d287c895573f7108da1b3"},
	"docker/login-action":        {"v4.6.0", "dbcb813823bdd20940b903addbd779551569679f"},
	"docker/setup-qemu-action":   {"v4.2.0", "96fe6ef7f33517b61c61be40b68a1882f3264fb8"},
	"docker/setup-buildx-action": {"v4.3.0", "37fe631027851001ddb9b187196cc803df7f5f0e"},
}

// Where the files are; GitHub looks for workflows nowhere else.
const (
	githubWorkflows = ".github/workflows"
	githubAction    = ".github/actions/strata/action.yml"
)

// cleanupCron is when old images are removed: weekly, when few people work.
const cleanupCron = "17 3 * * 0"

//go:embed templates/github
var templates embed.FS

// login is one registry and the secrets that open it; GitHub's own one takes the
// job's token.
type login struct{ Host, Username, Password string }

// page is what the templates see.
type page struct {
	*Model
	GitHubOptions
	Runner, Flags, Ref     string
	Refresh, CleanupCron   string
	Reusable, CheckPlan    string
	Stages                 []int
	Logins                 []login
	Inputs                 []string // of the action: names of secrets in lower case
	Env                    []string // names of secrets that builds take from the environment
	Emulated, Buildx, GHCR bool

	Layer Layer    // of layer.yml
	Name  string   // of app.yml
	Paths []string // of the one that is written
	Crons []string
}

// GitHub gives the workflows of a project and the action that they share.
func (m *Model) GitHub(o GitHubOptions) ([]File, error) {
	if err := m.shared(); err != nil {
		return nil, err
	}
	if o.Branch == "" {
		o.Branch = "main"
	}
	if o.Version == "" {
		o.Version = "latest"
	}
	w := githubWriter{page: m.page(o)}
	w.write(githubAction, "action.yml", w.page)
	if o.Single {
		w.single(m)
	} else {
		w.each(m)
	}
	return w.files, w.err
}

func (m *Model) page(o GitHubOptions) page {
	p := page{
		Model: m, GitHubOptions: o, Ref: "refs/heads/" + o.Branch,
		Runner:  runsOn(Labels(m.Runners, GitHubRunners)("linux/amd64")),
		Refresh: "${{ inputs.refresh }}", CleanupCron: cleanupCron, Reusable: "strata.yml", CheckPlan: "plan", Env: m.Secrets,
		Emulated: m.Emulated(GitHubRunners), Buildx: m.Cache == "gha" || m.Cache == "s3",
		GHCR: slices.Contains(m.Registries, "ghcr.io"),
	}
	p.Flags = m.flags(string(spec.KindStrata))
	for i := range m.Stages {
		p.Stages = append(p.Stages, i)
	}
	if m.Cache == "s3" {
		p.Env = slices.Sorted(slices.Values(append(slices.Clone(m.Secrets), "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")))
		p.Env = slices.Compact(p.Env)
	}
	own := slices.DeleteFunc(slices.Clone(m.Registries), func(h string) bool { return h == "ghcr.io" })
	for _, host := range m.Registries {
		l := login{Host: host}
		if host != "ghcr.io" {
			prefix := "registry-"
			if len(own) > 1 {
				prefix += strings.Trim(notName.ReplaceAllString(host, "-"), "-") + "-"
			}
			l.Username, l.Password = prefix+"username", prefix+"password"
			p.Inputs = append(p.Inputs, l.Username, l.Password)
		}
		p.Logins = append(p.Logins, l)
	}
	return p
}

// runsOn writes a runner's labels, a single one as people do.
func runsOn(labels []string) string {
	if len(labels) == 1 {
		return quoted(labels[0])
	}
	return quoted(labels)
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// single writes everything into one workflow.
func (w *githubWriter) single(m *Model) {
	p := w.page
	p.CheckPlan = "plan-check"
	p.Refresh = "${{ github.event_name == 'schedule' || github.event_name == 'workflow_dispatch' }}"
	for _, l := range m.Layers {
		p.Paths = append(p.Paths, l.Paths...)
	}
	p.Paths = m.withProject(p.Paths)
	p.Crons = crons(m.Layers)
	w.write(path.Join(githubWorkflows, p.Reusable), "single.yml", p)
}

// each writes one workflow for each purpose.
func (w *githubWriter) each(m *Model) {
	file := func(name string) string { return path.Join(githubWorkflows, name) }
	w.write(file(w.page.Reusable), "build.yml", w.page)
	var leaves []Layer
	for _, l := range m.Layers {
		if l.Leaf {
			leaves = append(leaves, l)
			continue
		}
		p := w.page
		p.Layer = l
		if !m.WithLeaves(l) {
			p.Paths = l.Paths
		}
		if l.Refresh != nil || len(p.Paths) > 0 {
			w.write(file(fileName(l.Name)), "layer.yml", p)
		}
	}
	p := w.page
	p.Name = "images"
	for _, l := range leaves {
		p.Paths = append(p.Paths, l.Paths...)
	}
	for _, l := range m.Layers {
		if !l.Leaf && m.WithLeaves(l) {
			p.Paths = append(p.Paths, l.Paths...)
		}
	}
	p.Paths = m.withProject(p.Paths)
	p.Crons = crons(leaves)
	name := "strata-images.yml"
	if len(leaves) == 1 {
		p.Name, name = leaves[0].Name, fileName(leaves[0].Name)
	}
	w.write(file(name), "app.yml", p)
	for _, name := range []string{"pull-request", "release", "cleanup"} {
		w.write(file("strata-"+name+".yml"), name+".yml", w.page)
	}
}

// fileName names the workflow of a layer, beside those with names of their own.
func fileName(layer string) string {
	if slices.Contains([]string{"images", "pull-request", "release", "cleanup"}, layer) {
		layer = "layer-" + layer
	}
	return "strata-" + layer + ".yml"
}

// withProject adds the project's own files to patterns, and gives them sorted, or
// the one that takes all.
func (m *Model) withProject(paths []string) []string {
	all := everything(m.Folder)
	if slices.Contains(paths, all) {
		return []string{all}
	}
	own := []string{path.Join(m.Folder, escape(m.File)), path.Join(m.Folder, "strata.lock")}
	if override := spec.BakeOverride(m.File); override != "" {
		own = append(own, path.Join(m.Folder, escape(override)))
	}
	return slices.Compact(slices.Sorted(slices.Values(append(own, paths...))))
}

// crons gives the schedules of layers, each once.
func crons(layers []Layer) []string {
	out := map[string]bool{}
	for _, l := range layers {
		if l.Refresh != nil {
			out[Cron(*l.Refresh)] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// githubWriter collects files; the first error ends it.
type githubWriter struct {
	page  page
	files []File
	err   error
}

// write fills a template in. Its delimiters are [[ ]], since GitHub's own are {{ }}.
func (w *githubWriter) write(file, name string, p page) {
	if w.err != nil {
		return
	}
	t := template.New(name).Delims("[[", "]]").Option("missingkey=error").Funcs(template.FuncMap{
		"uses": p.uses, "quote": quoted, "cron": func(r *spec.Refresh) string { return Cron(*r) },
		"list": func(s string) string { return quoted([]string{s}) }, "path": func(s string) string { return quoted(githubPath(s)) }, "single": singleQuoted,
		"upper": func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) },
		"reading": func(s string) string { // the pair of pull requests: registry-username is REGISTRY_READ_USERNAME
			s = strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
			at := strings.LastIndexByte(s, '_')
			return s[:at] + "_READ" + s[at:]
		},
		"next":   func(i int) int { return i + 1 },
		"before": func(i int) []int { return slices.Repeat([]int{i - 1}, min(i, 1)) },
	})
	t, err := t.ParseFS(templates, "templates/github/"+name, "templates/github/jobs.tmpl")
	if err != nil {
		w.err = fmt.Errorf("reading the template %s: %w", name, err)
		return
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		w.err = fmt.Errorf("writing %q: %w", file, err)
		return
	}
	text := strings.TrimRight(b.String(), "\n") + "\n"
	w.files = append(w.files, File{Path: file, Data: generated.Mark(text, p.command())})
}

// uses names an action at its commit, with the version as a comment.
func (p page) uses(name string) (string, error) {
	a, ok := actions[name]
	if !ok {
		return "", fmt.Errorf("internal error: there is no pin of %s", name)
	}
	return name + "@" + a.commit + " # " + a.tag, nil
}

// singleQuoted gives a text as expressions have it.
func singleQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
