package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/view"
)

type buildFlags struct {
	passFlags
	dryRun, noCache, noTest, load, force bool
	noTags, made                         bool // made: every unit must be in the registry already
	progress, output, summary            string
	parallel                             int

	// A command that builds on the way to something else looks at the plan
	// before anything is done, and may stop there, and shows what came of it
	// in its own way.
	before func(*strata.Pass) (stop bool, err error)
	after  func(context.Context, *strata.Pass, strata.Result) error
}

func (a *app) buildCmd() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [UNIT...]",
		Short: "Build what changed, and publish it",
		Long: `Build does what plan shows. What the registry holds under a unit's key is reused;
where only the files of the last instructions changed they are appended; the rest
is built by BuildKit, parents first. Tags move when every unit has passed, and
nothing is written into the repository.

With --json, every unit comes with what was done, and every tag with its digest,
the previous one, and whether it moved.

Without --push, images are looked up and kept in the registry on this machine
(strata registry); with it, in the registry that the image names.

` + exitCodesHelp(),
		Example: `  strata build
  strata build app/cpu              # this unit, and what it stands on
  strata build --push
  strata build -f Dockerfile .      # without a strata.yaml
  strata build --output app.tar app/cpu/amd64   # an OCI archive
  strata build --allow fs.read=../shared        # a context outside of the repository
  strata build --dry-run            # the same as plan`,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.build(cmd.Context(), f, args)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.push, "push", false, "look up and publish in the registry that the image names instead of the one on this machine")
	f.addRebuild(cmd)
	f.addJSON(cmd)
	a.engineFlags(cmd)
	fl.BoolVar(&f.dryRun, "dry-run", false, "show the plan and stop")
	fl.BoolVar(&f.noCache, "no-cache", false, "the engine runs every instruction again")
	fl.BoolVar(&f.noTest, "no-test", false, "move tags without running the tests of the layers")
	fl.BoolVar(&f.noTags, "no-tags", false, "make and test the units, and leave the tags to strata publish")
	f.addTime(cmd)
	summaryFlag(cmd, &f.summary)
	fl.BoolVar(&f.force, "force", false, forceHelp)
	fl.StringVar(&f.progress, "progress", "auto", "`form` of progress: auto, tty, plain, json or quiet")
	completesFlag(cmd, "progress", "auto", "tty", "plain", "json", "quiet")
	fl.IntVar(&f.parallel, "parallel", 2, "`number` of units built at once")
	fl.StringVarP(&f.output, "output", "o", "", "also write the last unit as an OCI archive to this `file`")
	fl.BoolVar(&f.load, "load", false, "also load the images into Docker on this machine")
	return cmd
}

func (a *app) build(ctx context.Context, f buildFlags, args []string) error {
	mode, err := view.ParseMode(f.progress)
	if err != nil {
		return err
	}
	if f.parallel < 1 {
		return usage("reading --parallel: %d is not at least 1", f.parallel)
	}
	if f.json && mode == view.Auto {
		mode = view.Quiet
	}
	started := a.machine.Now()
	v := a.view(mode)
	defer v.Close()
	rec := record.NewRecorder(a.newRecord(started))
	var p *strata.Pass
	p, err = a.prepare(ctx, f.passFlags, args, func(c *strata.Config) {
		c.Ahead = !f.dryRun
		c.Record = func(res strata.Result) (string, []byte, error) {
			r := a.finishRecord(p, rec, res, record.OK)
			data, err := r.Encode()
			return r.ID, data, err
		}
		c.Sink = event.Tee(v, rec)
		c.NoCache, c.NoTest, c.NoTags, c.Force, c.Parallel = f.noCache, f.noTest, f.noTags, f.force, f.parallel
		c.EngineRef = a.engineRef
		c.Engine = func(ctx context.Context) (build.Engine, error) { return a.openEngine(ctx, v.Printf) }
	})
	if err != nil {
		return err
	}
	if looks := f.dryRun && !f.made && f.before == nil; !f.noTags && !looks {
		if err := a.checkVersion(p.Config); err != nil {
			return err
		}
	}
	if f.made {
		if err := allMade(p); err != nil {
			return err
		}
	}
	if f.before != nil {
		if stop, err := f.before(p); stop || err != nil {
			return err
		}
	}
	if f.dryRun {
		if f.json {
			return writeJSON(a.machine.Stdout, p.Plan)
		}
		return a.showPlan(a.machine.Stdout, p)
	}
	if err := a.checkRemote(f.push); err != nil && p.Plan.Work() > 0 {
		return err
	}
	targets, err := a.exportTargets(ctx, p, f)
	if err != nil {
		return err
	}
	res, err := p.Execute(ctx)
	if err == nil {
		err = a.exportAll(ctx, p, res, targets)
	}
	closeErr := v.Close()
	a.keepRecord(ctx, p, rec, res, err)
	if err != nil {
		return err
	}
	err = a.summarize(f.summary, func(w io.Writer) error {
		return resultSummary(w, p, res, a.machine.Now().Sub(started), f.made)
	})
	if err != nil {
		return err
	}
	if f.after != nil {
		return f.after(ctx, p, res)
	}
	if f.json {
		return writeJSON(a.machine.Stdout, resultJSON(res))
	}
	if mode != view.JSON && mode != view.Quiet {
		a.showResult(p, res, a.machine.Now().Sub(started))
	}
	return closeErr
}

// checkVersion refuses a version that would move a channel's tags, and tells where
// it comes from.
func (a *app) checkVersion(c strata.Config) error {
	err := strata.CheckVersion(c.Project)
	if err == nil {
		return nil
	}
	instead := "strata promote VERSION " + c.Project.Version + " moves the channel"
	switch {
	case c.Project.Version != c.Version.Name:
		return diag.Hint(err, "take `version` out of %s; %s", c.Project.File, instead)
	case a.flags.tag != "":
		return diag.Hint(err, "give another --tag-version; %s", instead)
	}
	return diag.Hint(err, "it is what the source code is called, by git or the CI job: give another one with --tag-version; %s", instead)
}

// view opens the progress view on standard error, and its JSON form on standard
// output.
func (a *app) view(mode view.Mode) view.View {
	out := a.machine.Stderr
	if mode == view.JSON {
		out = a.machine.Stdout
	}
	width, height := view.Size(out)
	return view.New(view.Options{
		Out: out, Mode: mode, Terminal: view.IsTerminal(out) && a.machine.Getenv("TERM") != "dumb",
		Color: a.palette(out).Color, Width: width, Height: height,
	})
}

func (a *app) newRecord(started time.Time) record.Record {
	r := record.Record{
		Version: record.Version, Started: started, Command: record.CommandLine(append([]string{"strata"}, a.args...)),
		Machine: record.Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()},
	}
	var engines []string
	for _, e := range a.endpoints() {
		engines = append(engines, e.URL)
	}
	r.Engine = strings.Join(engines, ", ")
	if id, err := record.NewID(started, rand.Reader); err == nil {
		r.ID = id
	}
	return r
}

// keepRecord writes the run's record on this machine. One that can't be kept is a
// warning: the images are there.
func (a *app) keepRecord(ctx context.Context, p *strata.Pass, rec *record.Recorder, res strata.Result, failed error) {
	outcome := record.OK
	switch {
	case failed != nil && context.Cause(ctx) != nil:
		outcome = record.Cancelled
	case failed != nil:
		outcome = record.Failed
	}
	done := a.finishRecord(p, rec, res, outcome)
	s, err := a.records()
	if err == nil {
		err = s.Write(done)
	}
	if err != nil {
		view.Fprintf(a.machine.Stderr, "strata: warning: keeping the record of the run: %v\n", err)
	}
}

// finishRecord gives the record of a run as it stands.
func (a *app) finishRecord(p *strata.Pass, rec *record.Recorder, res strata.Result, outcome record.Outcome) record.Record {
	for _, m := range res.Units {
		rec.Unit(m.Unit, func(u *record.Unit) {
			u.Action, u.Reason = string(m.Action), m.Reason
			u.Key = string(p.Keys[m.Unit].Unit.ID())
			u.Size, u.Blobs, u.NewBlobs, u.BytesPushed = m.Size, m.Blobs, m.NewBlobs, m.Pushed
		})
	}
	total := p.Config.Client.Meter().Total()
	done := rec.Finish(a.machine.Now(), outcome, record.Traffic{Requests: total.Requests, BytesPushed: total.Sent, BytesPulled: total.Received})
	done.Project, done.Revision, done.Dirty = p.Config.Project.Image, p.Config.Version.Revision, p.Config.Version.Dirty
	done.Tags = nil
	for _, t := range res.Tags {
		done.Tags = append(done.Tags, record.Tag{
			Tag: t.Ref.Repository().WithTag(t.Ref.Tag).FamiliarString(), Digest: t.Ref.Digest.String(), Previous: t.Previous,
		})
	}
	return done
}

type unitJSON struct {
	Unit     string  `json:"unit"`
	Action   string  `json:"action"`
	Reason   string  `json:"reason"`
	Image    string  `json:"image"`
	Seconds  float64 `json:"seconds"`
	Size     int64   `json:"size"`
	Blobs    int     `json:"blobs"`
	NewBlobs int     `json:"newBlobs"`
	Pushed   int64   `json:"bytesPushed"`
}

// tagResult is a tag that the run has made sure of.
type tagResult struct {
	Tag      string `json:"tag"` // "ghcr.io/user/app:latest-cpu"
	Digest   string `json:"digest"`
	Previous string `json:"previous,omitempty"` // where it was; "" when it is new
	Moved    bool   `json:"moved"`
}

func resultJSON(res strata.Result) any {
	out := struct {
		Units []unitJSON  `json:"units"`
		Tags  []tagResult `json:"tags"`
		Held  []string    `json:"held,omitempty"` // tags that a newer commit has set
	}{Units: []unitJSON{}, Tags: []tagResult{}}
	for _, h := range res.Held {
		out.Held = append(out.Held, h.Ref.FamiliarString())
	}
	for _, m := range res.Units {
		out.Units = append(out.Units, unitJSON{
			m.Unit, string(m.Action), m.Reason, m.Ref.FamiliarString(), m.Seconds, m.Size, m.Blobs, m.NewBlobs, m.Pushed,
		})
	}
	for _, t := range res.Tags {
		d := t.Ref.Digest.String()
		out.Tags = append(out.Tags, tagResult{t.Ref.Repository().WithTag(t.Ref.Tag).FamiliarString(), d, t.Previous, t.Previous != d})
	}
	return out
}

// showResult writes what a run did, a line a unit.
func (a *app) showResult(p *strata.Pass, res strata.Result, took time.Duration) {
	w := a.machine.Stdout
	t := view.Table{Columns: []view.Column{
		{Title: "UNIT"}, {Title: "STEP"}, {Title: "TIME", Right: true}, {Title: "SIZE", Right: true},
		{Title: "BLOBS", Right: true}, {Title: "NEW", Right: true}, {Title: "SENT", Right: true}, {Title: "REASON", Shrink: true},
	}}
	for _, m := range res.Units {
		t.Rows = append(t.Rows, []view.Cell{
			{Text: m.Unit}, {Text: string(m.Action), Style: actionStyle[m.Action]},
			{Text: view.Duration(time.Duration(m.Seconds * float64(time.Second)))}, {Text: view.Bytes(m.Size)},
			{Text: fmt.Sprint(m.Blobs)}, {Text: fmt.Sprint(m.NewBlobs)}, {Text: view.Bytes(m.Pushed)}, {Text: m.Reason},
		})
	}
	_ = t.Write(w, a.palette(w), a.width(w))
	view.Fprintf(w, "\n%d built, %s%d appended, %d reused in %s; %s\n",
		count(res, plan.Build), ifAny(count(res, plan.Rebase), "rebased"), count(res, plan.Append), count(res, plan.Reuse), view.Duration(took), tagsWord(p, res))
}

// tagsWord says what became of the tags.
func tagsWord(p *strata.Pass, res strata.Result) string {
	if p.Config.NoTags {
		return "no tags moved in " + where(p)
	}
	moved := slices.DeleteFunc(slices.Clone(res.Tags), func(m strata.Moved) bool { return m.Previous == m.Ref.Digest.String() })
	s := fmt.Sprintf("%d of %d tags moved in %s", len(moved), len(res.Tags)+len(res.Held), where(p))
	if len(res.Held) > 0 {
		s += fmt.Sprintf("; %d stay with the newer commit %.12s", len(res.Held), res.Held[0].Revision)
	}
	return s
}

func count(res strata.Result, act plan.Action) int {
	n := 0
	for _, m := range res.Units {
		if m.Action == act {
			n++
		}
	}
	return n
}

// where names the repository that a run published into, as a user calls it.
func where(p *strata.Pass) string {
	name := p.Config.Project.Image
	if !p.Config.Push {
		name += " (on this machine)"
	}
	return name
}
