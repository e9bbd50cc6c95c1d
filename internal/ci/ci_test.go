package ci

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/spec"
)

func TestCron(t *testing.T) {
	period := func(d time.Duration, hour, minute int) spec.Refresh {
		return spec.Refresh{Every: spec.EveryPeriod, Period: d, Hour: hour, Minute: minute}
	}
	tests := []struct {
		refresh spec.Refresh
		want    string
	}{
		{spec.Refresh{Every: spec.EveryDay, Hour: 6, Minute: 30}, "30 6 * * *"},
		{spec.Refresh{Every: spec.EveryWeek, Weekday: time.Monday, Hour: 6}, "0 6 * * 1"},
		{spec.Refresh{Every: spec.EveryWeek, Weekday: time.Sunday}, "0 0 * * 0"},
		{spec.Refresh{Every: spec.EveryMonth, Day: 28, Hour: 4}, "0 4 28 * *"},
		{period(48*time.Hour, 6, 0), "0 6 * * *"},
		{period(6*time.Hour, 7, 15), "15 1,7,13,19 * * *"},
		{period(time.Hour, 0, 5), "5 * * * *"},
		{period(36*time.Hour, 0, 10), "10 * * * *"},
		{period(5*time.Hour, 0, 0), "0 * * * *"},
		{period(30*time.Minute, 0, 0), "*/30 * * * *"},
		{period(time.Minute, 0, 0), "*/5 * * * *"},
	}
	for _, tc := range tests {
		if got := Cron(tc.refresh); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.refresh, got, tc.want)
		}
	}
}

func TestGlobs(t *testing.T) {
	dirs := map[string]bool{"src": true, "app/src": true, "a+b": true, "d*": true, "lib/*": true}
	isDir := func(p string) bool { return dirs[p] }
	tests := []struct {
		context, pattern string
		want             []string
	}{
		{".", "go.mod", []string{"go.mod"}},
		{".", "./src/", []string{"src", "src/**"}},
		{".", "/src", []string{"src", "src/**"}},
		{".", ".", []string{"**"}},
		{".", "/", []string{"**"}},
		{"app", ".", []string{"app", "app/**"}},
		{"app", "src", []string{"app/src", "app/src/**"}},
		{".", "package*.json", []string{"package*.json"}},
		{".", "lib/*", []string{"lib", "lib/**"}},
		{".", "d*", []string{"d*", "d*/**"}},
		{".", "**/*.py", []string{"**/*.py"}},
		{".", "a?c[0-9]/x", []string{"a*c*/x"}},
		{".", "a+b", []string{`a\+b`, `a\+b/**`}},
		{".", `we\*rd`, []string{`we\*rd`}},
		{".", "../outside", []string{"outside"}},
	}
	for _, tc := range tests {
		if diff := cmp.Diff(tc.want, globs(tc.context, tc.pattern, isDir)); diff != "" {
			t.Errorf("%s in %s (-want +got):\n%s", tc.pattern, tc.context, diff)
		}
	}
}

var noon = time.Date(2026, 11, 22, 13, 0, 0, 0, time.FixedZone("CET", 3600))

func options() WorkOptions {
	return WorkOptions{Image: "ghcr.io/user/app", Version: "v1", Time: noon, Runners: Labels(nil, GitHubRunners)}
}

func step(unit, platform string, seconds float64, needs ...string) plan.Step {
	s := plan.Step{Unit: unit + "/" + platform, Platform: platform, Action: plan.Build}
	for _, n := range needs {
		s.Needs = append(s.Needs, n+"/"+platform)
	}
	if seconds > 0 {
		s.Estimate = &plan.Estimate{Seconds: seconds}
	}
	return s
}

func TestWork(t *testing.T) {
	p := plan.Plan{Steps: []plan.Step{
		step("base/cpu", "linux/amd64", 10), step("base/cpu", "linux/arm64", 0),
		step("ml/cpu", "linux/amd64", 20, "base/cpu"), {Unit: "ml/cuda/linux/amd64", Action: plan.Reuse},
	}}
	type job struct {
		Name, Runner, Command string
		Seconds               float64
	}
	got := func(w Work) (out [][]job) {
		for _, stage := range w.Stages {
			var jobs []job
			for _, j := range stage {
				jobs = append(jobs, job{j.Name, strings.Join(j.Runner, " "), strings.Join(j.Command, " "), j.Seconds})
			}
			out = append(out, jobs)
		}
		return out
	}
	o := options()
	w := NewWork(p, o)
	const build = "strata build --push --no-tags --time 2026-11-22T12:00:00Z "
	want := [][]job{
		{
			{"base/cpu/amd64", "ubuntu-24.04", build + "base/cpu/linux/amd64", 10},
			{"base/cpu/arm64", "ubuntu-24.04-arm", build + "base/cpu/linux/arm64", 0},
		},
		{{"ml/cpu/amd64", "ubuntu-24.04", build + "ml/cpu/linux/amd64", 20}},
	}
	if diff := cmp.Diff(want, got(w)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := strings.Join(w.Publish, " "); got != "strata publish --time 2026-11-22T12:00:00Z" {
		t.Errorf("publish: %s", got)
	}

	o.Refresh, o.Global, o.Units = true, []string{"-f", "other.yaml"}, []string{"ml"}
	o.Runners = Labels(map[string][]string{"linux/amd64": {"self-hosted", "big"}}, GitHubRunners)
	w = NewWork(p, o)
	if j := w.Stages[1][0]; strings.Join(j.Command, " ") != "strata -f other.yaml build --push --no-tags --time 2026-11-22T12:00:00Z --refresh ml/cpu/linux/amd64" ||
		strings.Join(j.Runner, " ") != "self-hosted big" {
		t.Errorf("with options: %v", j)
	}
	if got := strings.Join(w.Publish, " "); got != "strata -f other.yaml publish --time 2026-11-22T12:00:00Z --refresh ml" {
		t.Errorf("publish with options: %s", got)
	}

	o = options()
	o.OneStage = true
	want = [][]job{{
		{"base+ml/amd64", "ubuntu-24.04", "strata build --no-tags --time 2026-11-22T12:00:00Z base/cpu/linux/amd64 ml/cpu/linux/amd64", 30},
		{"base/cpu/arm64", "ubuntu-24.04-arm", "strata build --no-tags --time 2026-11-22T12:00:00Z base/cpu/linux/arm64", 0},
	}}
	if diff := cmp.Diff(want, got(NewWork(p, o))); diff != "" {
		t.Errorf("one stage (-want +got):\n%s", diff)
	}
	if w := NewWork(plan.Plan{}, o); len(w.Stages) != 0 {
		t.Errorf("nothing to do: %v", w.Stages)
	}
}

func TestRunners(t *testing.T) {
	own := map[string][]string{"linux/amd64": {"mine"}}
	tests := []struct {
		own      map[string][]string
		platform string
		want     string
	}{
		{nil, "linux/amd64", "ubuntu-24.04"}, {nil, "linux/386", "ubuntu-24.04"}, {nil, "linux/arm64", "ubuntu-24.04-arm"},
		{nil, "linux/riscv64", "ubuntu-24.04"}, {own, "linux/riscv64", "mine"}, {own, "linux/amd64", "mine"}, {own, "linux/arm64", "ubuntu-24.04-arm"},
	}
	for _, tc := range tests {
		if got := strings.Join(Labels(tc.own, GitHubRunners)(tc.platform), " "); got != tc.want {
			t.Errorf("%v %s: %s, want %s", tc.own, tc.platform, got, tc.want)
		}
	}
}

// many gives a plan of one stage with n units, one in four of them for arm64.
func many(n int, name string) plan.Plan {
	var p plan.Plan
	for i := range n {
		platform := "linux/amd64"
		if i%4 == 3 {
			platform = "linux/arm64"
		}
		p.Steps = append(p.Steps, step(fmt.Sprintf("%s%d", name, i), platform, float64(i%7)))
	}
	return p
}

func TestMatrixKeepsToTheLimits(t *testing.T) {
	o := options()
	tests := []struct {
		name  string
		units int
		unit  string
		jobs  func(int) bool
	}{
		{"as many as there may be", 256, "u", func(n int) bool { return n == 256 }},
		{"one more", 257, "u", func(n int) bool { return n <= 256 && n > 200 }},
		{"many", 3000, "u", func(n int) bool { return n <= 256 && n > 200 }},
		{"long names", 3000, strings.Repeat("n", 55), func(n int) bool { return n <= 256 && n >= 2 }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := NewWork(many(tc.units, tc.unit), o)
			out, err := GitHubMatrix(w, o, 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(out) > mostOutput {
				t.Errorf("%d bytes", len(out))
			}
			if n := strings.Count(string(out), `"name":`); !tc.jobs(n) {
				t.Errorf("%d jobs", n)
			}
			for _, s := range many(tc.units, tc.unit).Steps {
				if !strings.Contains(string(out), s.Unit) {
					t.Errorf("%s is in no job", s.Unit)
				}
			}
			if strings.Count(string(out), "\n") != 5 || !strings.Contains(string(out), "\nstage2={\"include\":[]}\n") {
				t.Errorf("not every stage has its line: %.300s", out)
			}
		})
	}
	w := NewWork(many(20000, strings.Repeat("n", 60)), o)
	if _, err := GitHubMatrix(w, o, 1); err == nil || !strings.Contains(err.Error(), "are more than the 1000000 that GitHub takes") {
		t.Errorf("too much for any matrix: %v", err)
	}
}

func TestGitHubMatrix(t *testing.T) {
	o := options()
	p := plan.Plan{Steps: []plan.Step{step("app/cpu", "linux/arm64", 1.5)}}
	out, err := GitHubMatrix(NewWork(p, o), o, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := `stages=1
time=2026-11-22T12:00:00Z
stage0={"include":[{"name":"app/cpu/arm64","runner":["ubuntu-24.04-arm"],"args":"--push --no-tags --time 2026-11-22T12:00:00Z app/cpu/linux/arm64","units":"app/cpu/linux/arm64","seconds":1.5}]}
stage1={"include":[]}
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	const mark, other = "# Generated by \"strata ci github\". Edits are lost. (1)\n", "# Generated by \"strata ci github\". Edits are lost. (2)\n"
	want := []File{{"a", []byte(mark + "x: 1\n")}, {"b", []byte(mark + "x: 1\ny: 2\n")}, {"c", []byte(mark)}}
	have := map[string][]byte{"a": []byte(strings.ReplaceAll(mark+"x: 1\n", "\n", "\r\n")), "b": []byte(other + "x: 1\n  y: 3\n"), "d": []byte(mark)}
	diff := cmp.Diff([]Drift{
		{Path: "b", What: Differs, Line: 3, Have: "y: 3", Want: "y: 2"},
		{Path: "c", What: Missing},
		{Path: "d", What: NotNeeded},
	}, Compare(want, have))
	if diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
