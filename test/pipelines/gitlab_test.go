//go:build linux

package pipelines

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/registry/registrytest"
)

// jobToken opens the registry for pipelines that may publish.
const jobToken = "token-of-the-job"

// newGitLab gives a project with its pipeline committed, and GitLab's side of it.
func newGitLab(t *testing.T) *gitlab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the engine needs root")
	}
	h := &host{t: t, dir: t.TempDir()}
	h.registry = registrytest.With(t, registrytest.Options{Wrap: tokenOnly})
	pushBases(t, h.registry.Embedded)
	h.strata = filepath.Join(h.dir, "bin", "strata.program")
	cmd := exec.Command("go", "build", "-tags", "embedrunc", "-ldflags=-s -w", "-o", h.strata, "../../cmd/strata")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building strata: %v\n%s", err, out)
	}
	h.write("bin/strata", wrapper, 0o755)
	h.project = newProject(t, h.registry.Host)
	if out, err := h.strataIn(t.TempDir(), "ci", "gitlab"); err != nil {
		t.Fatalf("writing the pipeline: %v\n%s", err, out)
	}
	h.changed = h.commit("first")
	return &gitlab{host: h}
}

// tokenOnly refuses writes without the job's token, as GitLab's registry does
// for a public project.
func tokenOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if (u != "gitlab-ci-token" || p != jobToken) && r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var pushed = map[string]string{"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"}

// with gives an event's variables and some more.
func with(event map[string]string, kv ...string) map[string]string {
	out := map[string]string{}
	for k, v := range event {
		out[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

// gitlabJobs are the jobs of a pipeline that publishes, for the layers that it
// builds.
func gitlabJobs(layers ...string) []string {
	out := []string{"publish", "strata images", "strata plan"}
	for _, l := range layers {
		for _, v := range variants {
			out = append(out, l+"/"+v)
		}
	}
	slices.Sort(out)
	return out
}

func (g *gitlab) check(what string, o outcome, jobs []string) {
	g.t.Helper()
	if !o.ok {
		g.t.Fatalf("%s: the pipeline failed:\n%s", what, o.log)
	}
	if diff := cmp.Diff(jobs, o.names()); diff != "" {
		g.t.Fatalf("%s: other jobs ran than it takes (-want +got):\n%s\n%s", what, diff, o.log)
	}
}

// One project through what happens to it: each part stands on the ones before.
func TestGitLabPipelines(t *testing.T) {
	g := newGitLab(t)
	g.check("the first push", g.run(pushed, g.changed), gitlabJobs("base", "ml", "app"))
	first := g.tag("latest-cpu")
	if first == "" || g.tag("cuda-latest") == "" {
		t.Fatal("the first push has set no tags")
	}

	// Code only: one stage, and no blob of any image is read.
	g.add("src/server.py", "# one line more")
	o := g.run(pushed, g.commit("code"))
	g.check("a change of code", o, gitlabJobs("app"))
	if blobs := g.blobs(o); len(blobs) > 0 {
		t.Errorf("a change of code read %d blobs: %s", len(blobs), blobs)
	}
	if g.tag("latest-cpu") == first {
		t.Error("a change of code did not move latest-cpu")
	}

	// Requirements: the layers from there on, parents first.
	g.add("requirements/base-ml.txt", "python3-pip")
	o = g.run(pushed, g.commit("requirements"))
	g.check("a change of requirements", o, gitlabJobs("ml", "app"))
	if ml, app := strings.Index(o.log, "[ml/cpu/amd64]"), strings.Index(o.log, "[app/cpu/amd64]"); ml > app {
		t.Error("a child ran before its parent")
	}

	// Nothing that an image is made of starts nothing; by hand, only tags are
	// looked after.
	g.add("README.md", "More words.")
	g.check("a change of nothing", g.run(pushed, g.commit("words")), nil)
	web := with(pushed, "CI_PIPELINE_SOURCE", "web")
	g.check("a pipeline by hand", g.run(web, nil), gitlabJobs())
	g.check("another branch", g.run(with(pushed, "CI_COMMIT_BRANCH", "idea"), []string{"src/server.py"}), nil)

	t.Run("schedule", func(t *testing.T) {
		schedule := with(pushed, "CI_PIPELINE_SOURCE", "schedule")
		g.check("a schedule with nothing due", g.run(schedule, nil), gitlabJobs())
		before := g.tag("latest-cpu")
		later := with(schedule, "TEST_TIME", time.Now().AddDate(0, 0, 8).UTC().Format(time.RFC3339))
		g.check("a week later", g.run(later, nil), gitlabJobs("base", "ml", "app"))
		if g.tag("latest-cpu") == before {
			t.Error("the refreshed base has not reached latest-cpu")
		}
		g.check("the cleanup", g.run(with(schedule, "STRATA_CLEANUP", "true"), nil), []string{"strata cleanup"})
	})
	t.Run("tag", func(t *testing.T) {
		g.git("tag", "v1.2.3")
		g.check("a release", g.run(map[string]string{"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v1.2.3"}, nil), gitlabJobs())
		for _, tag := range []string{"v1.2.3-cpu", "v1.2.3-cpu-arm64", "v1.2.3-cuda-amd64", "cpu-base-amd64-v1.2.3"} {
			if g.tag(tag) == "" {
				t.Errorf("the release has not set %s", tag)
			}
		}
	})
	t.Run("merge request", func(t *testing.T) { g.mergeRequest(t) })
}

// A merge request is built and tested; its job's token may not even write.
func (g *gitlab) mergeRequest(t *testing.T) {
	g.git("checkout", "-q", "-b", "idea")
	defer g.git("checkout", "-q", "main")
	g.add("src/server.py", "# an idea")
	g.add("requirements/app.txt", "python3-idea")
	g.commit("idea")
	mr := map[string]string{"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "7",
		"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "idea", "CI_JOB_TOKEN": "token-of-a-fork"}
	o := g.run(mr, nil)
	g.check("a merge request", o, []string{"ml+app/amd64", "ml+app/arm64", "strata check", "strata check plan"})
	if w := writes(o); len(w) > 0 {
		t.Errorf("a merge request wrote into the registry: %s", w)
	}
	// A pipeline that is not what the project is now.
	g.change("strata.yaml", func(s string) string { return strings.Replace(s, "Mon 06:00", "Tue 06:00", 1) })
	g.commit("a schedule")
	if o = g.run(mr, nil); o.ok || !strings.Contains(o.log, ".gitlab-ci.yml:") {
		t.Errorf("an outdated pipeline went through:\n%s", o.log)
	}
}
