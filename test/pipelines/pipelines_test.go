//go:build linux

// Package pipelines runs the pipelines that strata ci writes for examples/ragex,
// job by job: on the real engine and a real registry, each job on a machine that
// holds nothing. Only the action that logs in is a stand-in, since the real one
// can't be had without the host. It needs root.
package pipelines

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var variants = []string{"cpu/amd64", "cpu/arm64", "cuda/amd64"}

// stage names the jobs of one stage that makes a layer for all variants.
func stage(n, layer string) []string {
	var out []string
	for _, v := range variants {
		out = append(out, "Stage "+n+": "+layer+"/"+v)
	}
	return out
}

func want(groups ...[]string) []string {
	out := append(slices.Concat(groups...), "Plan", "Publish")
	slices.Sort(out)
	return out
}

func (h *host) check(what string, o outcome, jobs []string) {
	h.t.Helper()
	if !o.ok {
		h.t.Fatalf("%s: the pipeline failed:\n%s", what, o.log)
	}
	if diff := cmp.Diff(jobs, o.names()); diff != "" {
		h.t.Fatalf("%s: other jobs ran than it takes (-want +got):\n%s\n%s", what, diff, o.log)
	}
}

// blobs gives the layer blobs that were read.
func (h *host) blobs(o outcome) []string {
	h.t.Helper()
	layers := h.layers()
	var out []string
	for _, r := range o.requests {
		method, path, _ := strings.Cut(r, " ")
		if i := strings.LastIndex(path, "/"); method == "GET" && strings.Contains(path, "/blobs/") && layers[path[i+1:]] {
			out = append(out, r)
		}
	}
	return out
}

// writes gives the requests that change the registry.
func writes(o outcome) []string {
	var out []string
	for _, r := range o.requests {
		if !strings.HasPrefix(r, "GET ") && !strings.HasPrefix(r, "HEAD ") {
			out = append(out, r)
		}
	}
	return out
}

// begin gives a project with its workflows committed.
func begin(t *testing.T, args ...string) *host {
	h := newHost(t)
	if out, err := h.strataIn(t.TempDir(), append([]string{"ci", "github"}, args...)...); err != nil {
		t.Fatalf("writing the workflows: %v\n%s", err, out)
	}
	h.changed = h.commit("first")
	return h
}

var main = push("refs/heads/main")

// One project through what happens to it: each part stands on the ones before.
func TestGitHubPipelines(t *testing.T) {
	h := begin(t)
	h.starts("the first push", h.changed, "strata-app.yml", "strata-base.yml", "strata-ml.yml")
	h.check("the first push", h.run("strata-base.yml", main), want(stage("1", "base"), stage("2", "ml"), stage("3", "app")))
	o := h.run("strata-app.yml", main)
	h.check("what the same push started besides", o, want())
	first := h.tag("latest-cpu")
	if first == "" || h.tag("cuda-latest") == "" {
		t.Fatal("the first push has set no tags")
	}

	// Code only: one stage, and no blob of any image is read.
	h.add("src/server.py", "# one line more")
	h.starts("a change of code", h.commit("code"), "strata-app.yml")
	o = h.run("strata-app.yml", main)
	h.check("a change of code", o, want(stage("1", "app")))
	if blobs := h.blobs(o); len(blobs) > 0 {
		t.Errorf("a change of code read %d blobs: %s", len(blobs), blobs)
	}
	// Other runners' records tell how long it takes, and what it saves.
	if strings.Contains(o.log, `"seconds":0}`) || !regexp.MustCompile(`\*\*About .* saved\*\* against building everything`).MatchString(o.log) {
		t.Errorf("the plan does not know what earlier runs took:\n%s", o.log)
	}
	if code := h.tag("latest-cpu"); code == first {
		t.Error("a change of code did not move latest-cpu")
	}

	// Requirements: the layers from there on.
	h.add("requirements/base-ml.txt", "python3-pip")
	h.starts("a change of requirements", h.commit("requirements"), "strata-ml.yml")
	h.check("a change of requirements", h.run("strata-ml.yml", main), want(stage("1", "ml"), stage("2", "app")))

	// Nothing that an image is made of.
	h.add("README.md", "More words.")
	h.starts("a change of nothing", h.commit("words"))
	o = h.run("strata-app.yml", event{name: "workflow_dispatch", payload: map[string]any{"ref": "refs/heads/main"}})
	h.check("a change of nothing", o, want())
	if blobs := h.blobs(o); len(blobs) > 0 {
		t.Errorf("a change of nothing read %d blobs: %s", len(blobs), blobs)
	}

	t.Run("schedule", func(t *testing.T) { h.schedule(t) })
	t.Run("tag", func(t *testing.T) { h.release(t) })
	t.Run("pull request", func(t *testing.T) { h.pullRequest(t) })
	t.Run("a runner dies", func(t *testing.T) { h.dies(t) })
	t.Run("two at once", func(t *testing.T) { h.twoAtOnce(t) })
	t.Run("cleanup", func(t *testing.T) { h.cleanup(t) })
	t.Run("a test in the image", func(t *testing.T) { h.gate(t) })
}

// The schedule builds what is due, and nothing when it comes too early.
func (h *host) schedule(t *testing.T) {
	on := event{name: "schedule", payload: map[string]any{"ref": "refs/heads/main", "schedule": "0 6 * * 1"}}
	h.check("a schedule with nothing due", h.run("strata-base.yml", on), want())
	before := h.tag("latest-cpu")
	on.env = map[string]string{"TEST_TIME": time.Now().AddDate(0, 0, 8).UTC().Format(time.RFC3339)}
	h.check("a week later", h.run("strata-base.yml", on), want(stage("1", "base"), stage("2", "ml"), stage("3", "app")))
	if h.tag("latest-cpu") == before {
		t.Error("the refreshed base has not reached latest-cpu")
	}
	h.check("the same time once more", h.run("strata-base.yml", on), want())
}

// A version's tag only sets tags: everything has been built.
func (h *host) release(t *testing.T) {
	h.git("tag", "v1.2.3")
	defer h.git("tag", "-d", "v1.2.3")
	h.check("a release", h.run("strata-release.yml", push("refs/tags/v1.2.3")), want())
	for _, tag := range []string{"v1.2.3-cpu", "v1.2.3-cpu-arm64", "v1.2.3-cuda-amd64", "cpu-base-amd64-v1.2.3"} {
		if h.tag(tag) == "" {
			t.Errorf("the release has not set %s", tag)
		}
	}
}

// A pull request from a fork has no secrets: it is built, and nothing is written.
func (h *host) pullRequest(t *testing.T) {
	h.git("checkout", "-q", "-b", "idea")
	defer h.git("checkout", "-q", "main")
	h.add("src/server.py", "# an idea")
	h.add("requirements/app.txt", "python3-idea")
	h.commit("idea")
	pr := event{name: "pull_request", fork: true, payload: map[string]any{"pull_request": map[string]any{"number": 7}}}
	o := h.run("strata-pull-request.yml", pr)
	h.check("a pull request", o, []string{"Build: ml+app/amd64", "Build: ml+app/arm64", "Plan"})
	if w := writes(o); len(w) > 0 {
		t.Errorf("a pull request wrote into the registry: %s", w)
	}
	// Workflows that are not what the project is now.
	h.change("strata.yaml", func(s string) string { return strings.Replace(s, "Mon 06:00", "Tue 06:00", 1) })
	h.commit("a schedule")
	// Of a step's output act may lose the end: its result counts.
	if o = h.run("strata-pull-request.yml", pr); o.ok || !strings.Contains(o.log, "Failure - Main The workflows are what strata ci writes") {
		t.Errorf("outdated workflows went through:\n%s", o.log)
	}
}

// A runner that dies in mid-build fails the pipeline, and moves no tag; the next
// try takes up where it was.
func (h *host) dies(t *testing.T) {
	before := h.tag("latest-cpu")
	h.add("requirements/base-ml.txt", "python3-wheel")
	h.commit("more requirements")
	dead := t.TempDir()
	dying := main
	dying.env = map[string]string{"TEST_DIES": "ml/cpu/linux/amd64", "TEST_DEAD": dead}
	o := h.run("strata-ml.yml", dying)
	if o.ok || o.jobs["Stage 1: ml/cpu/amd64"] != "failure" || o.jobs["Publish"] != "" {
		t.Fatalf("the pipeline of a dead runner: %v\n%s", o.jobs, o.log)
	}
	if h.tag("latest-cpu") != before {
		t.Error("a pipeline that failed has moved a tag")
	}
	h.check("the next try", h.run("strata-ml.yml", main),
		want([]string{"Stage 1: ml/cpu/amd64", "Stage 1: app/cpu/arm64", "Stage 1: app/cuda/amd64", "Stage 2: app/cpu/amd64"}))
	if h.tag("latest-cpu") == before {
		t.Error("the next try has not moved latest-cpu")
	}
	// A real machine would be gone with all that its engine left behind; this one
	// is swept by the next run in the same home.
	if out, err := h.strataIn(dead, "build", "base/cpu/amd64"); err != nil {
		t.Errorf("sweeping up after the dead runner: %v\n%s", err, out)
	}
}

// Two pipelines of one commit end as one would.
func (h *host) twoAtOnce(t *testing.T) {
	before := h.tag("latest-cpu")
	h.add("requirements/app.txt", "python3-venv")
	h.commit("both layers")
	h.registry.TakeLog()
	first, second := h.start("strata-ml.yml", main), h.start("strata-app.yml", main)
	for what, o := range map[string]outcome{"the first of two": first(), "the second of two": second()} {
		if !o.ok {
			t.Errorf("%s: the pipeline failed:\n%s", what, o.log)
		}
	}
	if h.tag("latest-cpu") == before {
		t.Error("two pipelines at once have not moved latest-cpu")
	}
	h.check("after the two", h.run("strata-app.yml", main), want())
}

// The cleanup leaves what is needed, and says what it would do when it is started
// by hand.
func (h *host) cleanup(t *testing.T) {
	const workflow = "strata-cleanup.yml"
	before := h.tag("latest-cpu")
	o := h.run(workflow, event{name: "workflow_dispatch", payload: map[string]any{"inputs": map[string]any{"apply": "false"}}})
	h.check("a cleanup by hand", o, []string{"Remove old images"})
	if w := writes(o); len(w) > 0 {
		t.Errorf("a cleanup by hand wrote into the registry: %s", w)
	}
	h.check("a cleanup", h.run(workflow, event{name: "schedule", payload: map[string]any{"schedule": "17 3 * * 0"}}), []string{"Remove old images"})
	if h.tag("latest-cpu") != before {
		t.Error("the cleanup has moved a tag")
	}
	h.check("after the cleanup", h.run("strata-app.yml", main), want())
}

// A test that runs in the image runs on the unit's own runner, and once.
func (h *host) gate(t *testing.T) {
	h.change("strata.yaml", func(s string) string {
		return strings.TrimRight(s, "\n") + "\n    test: [/bin/sh, -c, \"cat /app/src/server.py > /dev/null\"]\n"
	})
	h.starts("a test", h.commit("test"), "strata-app.yml")
	h.check("a new test", h.run("strata-app.yml", main), want())
	h.add("src/server.py", "# tested")
	h.commit("tested")
	o := h.run("strata-app.yml", main)
	h.check("a change that is tested", o, want(stage("1", "app")))
	h.change("strata.yaml", func(s string) string { return strings.Replace(s, "server.py > /dev/null", "absent.py", 1) })
	h.add("src/server.py", "# tested by a test that fails")
	h.commit("a test that fails")
	before := h.tag("latest-cpu")
	if o := h.run("strata-app.yml", main); o.ok || o.jobs["Publish"] != "" || h.tag("latest-cpu") != before {
		t.Errorf("a failing test: %v\n%s", o.jobs, o.log)
	}
}

// The single workflow does the same by events.
func TestGitHubSingleWorkflow(t *testing.T) {
	h := begin(t, "--single")
	h.starts("the first push", h.changed, "strata.yml")
	h.check("the first push", h.run("strata.yml", main), want(stage("1", "base"), stage("2", "ml"), stage("3", "app")))
	h.add("src/server.py", "# one line more")
	h.commit("code")
	o := h.run("strata.yml", main)
	h.check("a change of code", o, want(stage("1", "app")))
	if blobs := h.blobs(o); len(blobs) > 0 {
		t.Errorf("a change of code read %d blobs: %s", len(blobs), blobs)
	}
	h.check("a schedule", h.run("strata.yml", event{name: "schedule", payload: map[string]any{"ref": "refs/heads/main", "schedule": "0 6 * * 1"}}), want())
	h.add("src/server.py", "# an idea")
	h.commit("idea")
	o = h.run("strata.yml", event{name: "pull_request", fork: true, payload: map[string]any{"pull_request": map[string]any{"number": 7}}})
	h.check("a pull request", o, []string{"Build: app/amd64", "Build: app/cpu/arm64", "Plan"})
	if w := writes(o); len(w) > 0 {
		t.Errorf("a pull request wrote into the registry: %s", w)
	}
}
