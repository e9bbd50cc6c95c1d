package cli

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/ci"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
)

// planFormats are the forms in which plan writes. Those of pipelines are for
// machines that build natively.
var planFormats = []string{"table", "json", "markdown", "github-matrix", "gitlab", "json-stages"}

// pipelineFormats are those that say what runners have to do.
var pipelineFormats = []string{"github-matrix", "gitlab", "json-stages"}

// planFlags are the flags of plan alone.
type planFlags struct {
	passFlags
	format, summary    string
	oneStage, detailed bool
}

func (f *planFlags) check() error {
	if !slices.Contains(planFormats, f.format) {
		return usage("reading --format: %q is none of %s", f.format, strings.Join(planFormats, ", "))
	}
	if f.json && f.format != "table" && f.format != "json" {
		return usage("reading --format: --json and --format %s are two", f.format)
	}
	if f.json {
		f.format = "json"
	}
	if f.oneStage && !f.pipeline() {
		return usage("reading --one-stage: it goes with --format %s", strings.Join(pipelineFormats, ", "))
	}
	if f.rebuild && f.pipeline() {
		return diag.Hint(usage("reading --rebuild: the runners of a pipeline take over from the registry what is there"),
			"on one machine: strata build --push --rebuild UNIT")
	}
	return nil
}

func (f *planFlags) pipeline() bool { return slices.Contains(pipelineFormats, f.format) }

func (a *app) plan(ctx context.Context, f planFlags, args []string) error {
	if err := f.check(); err != nil {
		return err
	}
	p, err := a.prepare(ctx, f.passFlags, args, func(c *strata.Config) {
		if f.pipeline() {
			c.Emulated = nil // each unit goes to a runner of its platform
		}
		if f.pipeline() || f.summary != "" {
			c.Estimate = a.sharedEstimator(ctx, *c)
		}
	})
	if err != nil {
		return err
	}
	if err := a.writePlan(p, f, args); err != nil {
		return err
	}
	if err := a.summarize(f.summary, func(w io.Writer) error { return planSummary(w, p) }); err != nil {
		return err
	}
	if f.detailed && p.Plan.Work() > 0 {
		return code(exitChanges)
	}
	return nil
}

func (a *app) writePlan(p *strata.Pass, f planFlags, args []string) error {
	w := a.machine.Stdout
	switch f.format {
	case "json":
		return writeJSON(w, planJSON{Image: p.Config.Project.Image, Version: p.Config.Version.Name, Imported: p.Imported(), Plan: p.Plan})
	case "table":
		return a.showPlan(w, p)
	case "markdown":
		return planSummary(w, p)
	}
	runners := ci.GitHubRunners
	if f.format == "gitlab" {
		runners = ci.GitLabRunners
	}
	o := ci.WorkOptions{
		Image: p.Config.Project.Image, Version: p.Config.Version.Name, Time: p.Config.Now, Refresh: f.refresh,
		Units: a.argDir(args), OneStage: f.oneStage, Runners: ci.Labels(p.Config.Project.Runners, runners),
	}
	if a.flags.file != "" {
		o.Global = []string{"-f", a.flags.file}
	}
	work := ci.NewWork(p.Plan, o)
	switch f.format {
	case "gitlab":
		_, err := w.Write(ci.GitLabChild(work, ci.GitLabJobs))
		return err
	case "json-stages":
		return writeJSON(w, work)
	}
	out, err := ci.GitHubMatrix(work, o, ci.Depth(p.Graph))
	if err == nil {
		_, err = w.Write(out)
	}
	return err
}

// mostRecords is how many runs' records estimates are made from.
const mostRecords = 50

// recordsTimeout bounds the look for records of other runners: estimates are
// worth no more.
const recordsTimeout = 10 * time.Second

// sharedEstimator is the estimator for a runner: where this machine has no
// records of the project it takes those beside the images. Without any there are
// no estimates.
func (a *app) sharedEstimator(ctx context.Context, c strata.Config) func(layer, variant, platform string, act plan.Action) *plan.Estimate {
	var e *record.Estimator
	return func(layer, variant, platform string, act plan.Action) *plan.Estimate {
		if e == nil {
			e = record.NewEstimator(a.recordsOf(ctx, c))
		}
		return estimateOf(e, layer, variant, platform, act)
	}
}

func (a *app) recordsOf(ctx context.Context, c strata.Config) []record.Record {
	if s, err := a.records(); err == nil {
		if rs, _, _ := s.Records(record.Filter{Limit: mostRecords, Project: c.Project.Image}); len(rs) > 0 {
			return rs
		}
	}
	ctx, cancel := context.WithTimeout(ctx, recordsTimeout)
	defer cancel()
	texts, _ := strata.Records(ctx, c, mostRecords)
	var out []record.Record
	for _, text := range texts {
		if r, err := record.Decode(text); err == nil {
			out = append(out, r)
		}
	}
	return out
}

func estimateOf(e *record.Estimator, layer, variant, platform string, act plan.Action) *plan.Estimate {
	got := e.Estimate(layer, variant, platform, string(act))
	if got.Basis == "" {
		return nil
	}
	return &plan.Estimate{Seconds: got.Seconds, Basis: got.Basis}
}

// savedSeconds gives the time that a plan saves against building every unit, by earlier
// runs, or, where it was carried out, by the seconds that each unit took; known is
// false where earlier runs do not tell what building a unit takes.
func savedSeconds(p *strata.Pass, made map[string]float64) (seconds float64, known bool) {
	if p.Config.Estimate == nil {
		return 0, false
	}
	for _, s := range p.Plan.Steps {
		full := p.Config.Estimate(s.Layer, s.Variant, s.Platform, plan.Build)
		if full == nil && s.Action != plan.Append {
			return 0, false
		}
		now := made[s.Unit]
		if s.Estimate != nil && made == nil {
			now = s.Estimate.Seconds
		}
		if full != nil {
			seconds += max(0, full.Seconds-now)
		}
	}
	return seconds, len(p.Plan.Steps) > 0
}
