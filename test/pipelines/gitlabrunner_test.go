//go:build linux

package pipelines

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// gitlab stands for GitLab and its runners, as far as the pipelines of these
// tests need it: include of local files, extends, rules with if, changes and
// variables, stages, needs, artifacts, child pipelines. What a job says about its
// image and its runner is taken for granted. It follows GitLab's "CI/CD YAML syntax
// reference".
type gitlab struct {
	*host
	pipelines int
}

// node is a mapping of a pipeline's file.
type node = map[string]any

// pipeline is one run.
type pipeline struct {
	*gitlab
	vars    map[string]string
	changed []string // nil: changes are always there, as without a push
	dir     string
	out     *outcome
	log     bytes.Buffer
}

// run runs the pipeline of the project's commit; changed are the files of a push.
func (g *gitlab) run(event map[string]string, changed []string) outcome {
	g.t.Helper()
	g.pipelines++
	sha := strings.TrimSpace(g.git("rev-parse", "HEAD"))
	ref := event["CI_COMMIT_BRANCH"] + event["CI_COMMIT_TAG"] + event["CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"]
	vars := map[string]string{
		"CI": "true", "GITLAB_CI": "true", "CI_COMMIT_SHA": sha, "CI_DEFAULT_BRANCH": "main", "CI_COMMIT_REF_NAME": ref, "CI_COMMIT_REF_SLUG": ref,
		"CI_REGISTRY": g.registry.Host, "CI_JOB_TOKEN": jobToken, "CI_RUNNER_EXECUTABLE_ARCH": "linux/amd64",
	}
	maps.Copy(vars, event)
	o := outcome{jobs: map[string]string{}}
	p := &pipeline{gitlab: g, vars: vars, changed: changed, dir: filepath.Join(g.dir, fmt.Sprintf("pipeline%d", g.pipelines)), out: &o}
	g.registry.TakeLog()
	text, err := os.ReadFile(filepath.Join(g.project.dir, ".gitlab-ci.yml"))
	if err != nil {
		g.t.Fatal(err)
	}
	o.ok = p.start(text)
	o.requests, o.log = g.registry.TakeLog(), p.log.String()
	checkNoSecret(g.t, ".gitlab-ci.yml", o.log)
	return o
}

// start runs the jobs of a file, stage by stage.
func (p *pipeline) start(text []byte) bool {
	p.t.Helper()
	file := p.read(text)
	if w, ok := file["workflow"].(node); ok {
		if in, _ := p.rules(w["rules"]); !in {
			return true
		}
	}
	stages := texts(file["stages"])
	byStage := map[string][]string{}
	for name := range file {
		if slices.Contains([]string{"include", "stages", "workflow"}, name) || strings.HasPrefix(name, ".") {
			continue
		}
		job := p.job(file, name)
		stage := fmt.Sprint(job["stage"])
		if !slices.Contains(stages, stage) {
			p.t.Fatalf("the job %q is of the stage %q; there are %q", name, stage, stages)
		}
		if (job["script"] == nil) == (job["trigger"] == nil) {
			p.t.Fatalf("the job %q has to have either a script or a trigger", name)
		}
		byStage[stage] = append(byStage[stage], name)
	}
	done := map[string]string{} // jobs -> their folders
	for _, stage := range stages {
		slices.Sort(byStage[stage])
		for _, name := range byStage[stage] {
			if !p.runJob(name, p.job(file, name), done) {
				return false
			}
		}
	}
	return true
}

// read reads a file with what it includes.
func (p *pipeline) read(text []byte) node {
	p.t.Helper()
	var file node
	if err := yaml.Unmarshal(text, &file); err != nil {
		p.t.Fatalf("reading the pipeline: %v\n%s", err, text)
	}
	out := node{}
	includes, _ := file["include"].([]any)
	for _, i := range includes {
		data, err := os.ReadFile(filepath.Join(p.project.dir, fmt.Sprint(i.(node)["local"])))
		if err != nil {
			p.t.Fatal(err)
		}
		out = merged(out, p.read(data))
	}
	return merged(out, file)
}

// job gives a job with what it extends.
func (p *pipeline) job(file node, name string) node {
	p.t.Helper()
	own, ok := file[name].(node)
	if !ok {
		p.t.Fatalf("there is no job %q", name)
	}
	out := node{}
	for _, parent := range texts(own["extends"]) {
		out = merged(out, p.job(file, parent))
	}
	return merged(out, own)
}

// merged merges two mappings as extends does: deeply, but for lists.
func merged(a, b node) node {
	out := maps.Clone(a)
	for k, v := range b {
		if below, ok := v.(node); ok {
			if under, ok := a[k].(node); ok {
				v = merged(under, below)
			}
		}
		out[k] = v
	}
	return out
}

// texts gives a string or a list of them as a list.
func texts(v any) []string {
	var out []string
	switch v := v.(type) {
	case string:
		out = append(out, v)
	case []any:
		for _, one := range v {
			out = append(out, fmt.Sprint(one))
		}
	}
	return out
}

func (p *pipeline) runJob(name string, job node, done map[string]string) bool {
	p.t.Helper()
	in, vars := true, maps.Clone(p.vars)
	for k, v := range asNode(job["variables"]) {
		vars[k] = fmt.Sprint(v)
	}
	if job["rules"] != nil {
		var more map[string]string
		in, more = p.rules(job["rules"])
		maps.Copy(vars, more)
	}
	if !in {
		return true
	}
	for _, need := range texts(job["needs"]) {
		if done[need] == "" {
			p.t.Fatalf("the job %q needs %q, which has not run", name, need)
		}
	}
	dir := filepath.Join(p.dir, fmt.Sprintf("job%d", len(p.out.jobs)+1))
	done[name] = filepath.Join(dir, "project")
	var ok bool
	if t, is := job["trigger"].(node); is {
		ok = p.child(t, done)
	} else {
		ok = p.script(name, job, vars, dir)
	}
	p.out.jobs[name] = map[bool]string{true: "success", false: "failure"}[ok]
	return ok
}

func asNode(v any) node { n, _ := v.(node); return n }

// child runs the pipeline that an artifact holds.
func (p *pipeline) child(trigger node, done map[string]string) bool {
	p.t.Helper()
	include := trigger["include"].([]any)[0].(node)
	if trigger["strategy"] != "depend" {
		p.t.Fatal("nobody would wait for the child pipeline")
	}
	text, err := os.ReadFile(filepath.Join(done[fmt.Sprint(include["job"])], fmt.Sprint(include["artifact"])))
	if err != nil {
		p.t.Fatal(err)
	}
	fmt.Fprintf(&p.log, "child pipeline:\n%s\n", text)
	c := &pipeline{gitlab: p.gitlab, vars: with(p.vars, "CI_PIPELINE_SOURCE", "parent_pipeline"), dir: p.dir, out: p.out}
	ok := c.start(text)
	p.log.Write(c.log.Bytes())
	return ok
}

// script runs a job on a machine of its own, in a clone of the commit.
func (p *pipeline) script(name string, job node, vars map[string]string, dir string) bool {
	p.t.Helper()
	project := filepath.Join(dir, "project")
	for _, args := range [][]string{
		{"clone", "-q", "--no-checkout", p.project.dir, project}, {"-C", project, "checkout", "-q", "--detach", vars["CI_COMMIT_SHA"]},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			p.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	vars["CI_PROJECT_DIR"], vars["CI_BUILDS_DIR"], vars["RUNNER_TEMP"], vars["CI_JOB_ID"] = project, dir, dir, strings.ReplaceAll(dir, "/", "-")
	env := append(os.Environ(), "HOME="+dir, "PATH="+filepath.Join(p.host.dir, "bin")+":"+os.Getenv("PATH"))
	for k, v := range vars {
		env = append(env, k+"="+os.Expand(v, func(name string) string { return vars[name] }))
	}
	ok := true
	for _, part := range [][]string{slices.Concat(texts(job["before_script"]), texts(job["script"])), texts(job["after_script"])} {
		cmd := exec.Command("bash", "-eo", "pipefail", "-c", strings.Join(part, "\n"))
		cmd.Dir, cmd.Env = project, env
		out, err := cmd.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			fmt.Fprintf(&p.log, "[%s] %s\n", name, strings.TrimRight(line, "\n"))
		}
		if err != nil {
			fmt.Fprintf(&p.log, "[%s] %v\n", name, err)
			ok = false
		}
	}
	for _, path := range texts(asNode(job["artifacts"])["paths"]) {
		if _, err := os.Stat(filepath.Join(project, path)); err != nil && ok {
			p.t.Errorf("the job %q has no artifact %s", name, path)
		}
	}
	return ok
}

// rules says whether the first rule that fits takes the job in, and with which
// variables.
func (p *pipeline) rules(v any) (in bool, vars map[string]string) {
	p.t.Helper()
	list, _ := v.([]any)
	for _, one := range list {
		r := one.(node)
		if cond, ok := r["if"].(string); ok && !p.holds(cond) {
			continue
		}
		if changes := texts(r["changes"]); changes != nil && p.vars["CI_PIPELINE_SOURCE"] == "push" && p.vars["CI_COMMIT_TAG"] == "" {
			if !slices.ContainsFunc(p.changed, func(f string) bool {
				return slices.ContainsFunc(changes, func(c string) bool { return gitlabGlob(c).MatchString(f) })
			}) {
				continue
			}
		}
		vars = map[string]string{}
		for k, v := range asNode(r["variables"]) {
			vars[k] = fmt.Sprint(v)
		}
		return r["when"] != "never", vars
	}
	return false, nil
}

var comparison = regexp.MustCompile(`^(\$\w+)(?:\s*(==|!=|=~)\s*(.+))?$`)

// holds evaluates a condition: comparisons with && and ||, without brackets.
func (p *pipeline) holds(cond string) bool {
	p.t.Helper()
	for _, or := range strings.Split(cond, "||") {
		all := true
		for _, and := range strings.Split(or, "&&") {
			all = p.compare(strings.TrimSpace(and)) && all
		}
		if all {
			return true
		}
	}
	return false
}

func (p *pipeline) compare(text string) bool {
	p.t.Helper()
	m := comparison.FindStringSubmatch(text)
	if m == nil {
		p.t.Fatalf("the condition %q is none that this test understands", text)
	}
	left, right := p.vars[m[1][1:]], m[3]
	switch {
	case m[2] == "":
		return left != ""
	case m[2] == "=~":
		return regexp.MustCompile(strings.Trim(right, "/")).MatchString(left)
	case strings.HasPrefix(right, "$"):
		right = p.vars[right[1:]]
	default:
		right = strings.Trim(right, `"`)
	}
	return (left == right) == (m[2] == "==")
}

// gitlabGlob is a pattern of rules:changes as a regular expression: Ruby's fnmatch
// with FNM_PATHNAME, FNM_DOTMATCH and FNM_EXTGLOB.
func gitlabGlob(pattern string) *regexp.Regexp {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch {
		case strings.HasPrefix(pattern[i:], "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
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
