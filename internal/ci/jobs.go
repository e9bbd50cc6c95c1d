package ci

import (
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/plan"
)

// Work is what a plan takes of a pipeline: jobs in stages, each of which can
// start when the stage before it has ended, and what comes after the last one.
type Work struct {
	Image   string   `json:"image"`
	Version string   `json:"version"`
	Time    string   `json:"time"` // at which all jobs reckon refresh slots
	Stages  [][]Job  `json:"stages"`
	Publish []string `json:"publish,omitempty"` // the last job's command
}

// Job is what one runner does in a stage.
type Job struct {
	Name     string   `json:"name"` // "ml/cpu/amd64", or the layer and a count for several units
	Units    []string `json:"units"`
	Platform string   `json:"platform"`
	Runner   []string `json:"runner"`  // labels, all of which the runner must have
	Seconds  float64  `json:"seconds"` // by earlier runs; 0 where not every unit's is known
	Command  []string `json:"command"`
}

// WorkOptions say how jobs are written. The zero value works.
type WorkOptions struct {
	Image, Version string
	Time           time.Time
	Refresh        bool     // the plan was made with --refresh
	Units          []string // patterns that the plan was asked for; none: all
	Global         []string // flags before the command's name, such as -f FILE
	// OneStage puts all that one platform needs into one job, which publishes
	// nothing: the result stays on the runner.
	OneStage bool
	Runners  func(platform string) []string
}

// NewWork gives the jobs of a plan, one for each unit with work to do.
func NewWork(p plan.Plan, o WorkOptions) Work {
	w := Work{Image: o.Image, Version: o.Version, Time: o.Time.UTC().Format(time.RFC3339), Stages: [][]Job{}}
	for _, steps := range p.Stages() {
		var stage []Job
		for _, s := range steps {
			j := Job{Units: []string{s.Unit}, Platform: s.Platform, Runner: o.Runners(s.Platform)}
			if s.Estimate != nil {
				j.Seconds = s.Estimate.Seconds
			}
			stage = append(stage, o.finish(j))
		}
		w.Stages = append(w.Stages, stage)
	}
	if o.OneStage {
		w.Stages = o.oneStage(w.Stages)
		return w
	}
	w.Publish = slices.Concat(o.command("publish"), []string{"--time", w.Time}, o.refresh(), o.Units)
	return w
}

// oneStage puts the jobs of each platform together, parents first.
func (o WorkOptions) oneStage(stages [][]Job) [][]Job {
	var order []string
	byPlatform := map[string][]Job{}
	for _, j := range slices.Concat(stages...) {
		if byPlatform[j.Platform] == nil {
			order = append(order, j.Platform)
		}
		byPlatform[j.Platform] = append(byPlatform[j.Platform], j)
	}
	if len(order) == 0 {
		return [][]Job{}
	}
	var out []Job
	for _, platform := range order {
		out = append(out, o.join(byPlatform[platform]))
	}
	return [][]Job{out}
}

// join makes one job of several for the same runner.
func (o WorkOptions) join(jobs []Job) Job {
	if len(jobs) == 1 {
		return jobs[0]
	}
	all := Job{Platform: jobs[0].Platform, Runner: jobs[0].Runner}
	known := true
	for _, j := range jobs {
		all.Units = append(all.Units, j.Units...)
		all.Seconds += j.Seconds
		known = known && j.Seconds > 0
	}
	if !known {
		all.Seconds = 0
	}
	return o.finish(all)
}

// finish gives a job its name and command.
func (o WorkOptions) finish(j Job) Job {
	j.Name = jobName(j)
	j.Command = o.command("build")
	if !o.OneStage {
		j.Command = append(j.Command, "--push")
	}
	j.Command = slices.Concat(j.Command, []string{"--no-tags", "--time", o.Time.UTC().Format(time.RFC3339)}, o.refresh(), j.Units)
	return j
}

func (o WorkOptions) command(name string) []string {
	return slices.Concat([]string{"strata"}, o.Global, []string{name})
}

func (o WorkOptions) refresh() []string {
	if o.Refresh {
		return []string{"--refresh"}
	}
	return nil
}

// jobName names a job as its unit's short form, or after what its units have in
// common.
func jobName(j Job) string {
	arch := strings.TrimPrefix(j.Platform, "linux/")
	if len(j.Units) == 1 {
		return strings.TrimSuffix(j.Units[0], j.Platform) + arch
	}
	var layers []string
	for _, u := range j.Units {
		layer, _, _ := strings.Cut(u, "/")
		if len(layers) <= 4 && !slices.Contains(layers, layer) {
			layers = append(layers, layer)
		}
	}
	if len(layers) > 4 {
		layers = append(layers[:3], "...")
	}
	return strings.Join(layers, "+") + "/" + arch
}

// Labels gives the runner of each platform: the labels that the project names,
// or else the host's own machine of that kind. Platforms for which the host has no
// machine are emulated on its amd64 one.
func Labels(own map[string][]string, host map[string]string) func(platform string) []string {
	return func(platform string) []string {
		if labels := own[platform]; len(labels) > 0 {
			return labels
		}
		if label := host[platform]; label != "" {
			return []string{label}
		}
		if labels := own["linux/amd64"]; len(labels) > 0 {
			return labels
		}
		return []string{host["linux/amd64"]}
	}
}

// Runners that hosts offer, by platform.
var (
	GitHubRunners = map[string]string{"linux/amd64": "ubuntu-24.04", "linux/386": "ubuntu-24.04", "linux/arm64": "ubuntu-24.04-arm"}
	GitLabRunners = map[string]string{"linux/amd64": "saas-linux-small-amd64", "linux/386": "saas-linux-small-amd64", "linux/arm64": "saas-linux-small-arm64"}
)

// Emulated says whether a model's platform has no runner of its own.
func (m *Model) Emulated(host map[string]string) bool {
	return slices.ContainsFunc(m.Platforms, func(p string) bool { return len(m.Runners[p]) == 0 && host[p] == "" })
}
