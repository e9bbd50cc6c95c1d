package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/hostfile"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/simulate"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/view"
)

// The history that is replayed where nothing else is asked for, whichever bound
// is met first.
const (
	simulatedCommits = 500
	simulatedDays    = 90
)

// simulateMemory is where collecting becomes as frequent as it has to be: below
// the 300 MB that a replay may take.
const simulateMemory = 240 << 20

type simulateFlags struct {
	since, branch      string
	commits            int
	all                bool
	json, list         bool
	matrix, suggest    bool
	svg, html          string
	whatIf             []string
	times, sizes       []string
	rangeArg           string
	commitsSet, within bool
}

func (a *app) simulateCmd() *cobra.Command {
	var f simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate [REVISION | FROM..TO]",
		Short: "Replay the project's git history: what would have been reused, and what that saves",
		Long: fmt.Sprintf(`Simulate goes over the first-parent commits of the last %d days (counted from the
newest), at most %d, through git's object store: no checkout, no build, no registry.
For every commit it makes the plan that strata plan would have made there, with the
refreshes of the schedule in between, and adds up what was reused, appended and
built. The cost is set beside three other ways of building: everything anew, docker's
instruction cache on one warm machine, and the same on cold runners. What each of
these is taken to do is written below the table; docs/simulate.md says more.

Times and sizes are those of this machine's records (strata history) where there are
any, those of --time and --size where given, and a stated model otherwise; each figure
says which. A commit without a project file is planned with today's.

%s`, simulatedDays, simulatedCommits, exitCodesHelp()),
		Example: `  strata simulate
  strata simulate --since 30d --list          # every commit
  strata simulate v1.0..main --svg year.svg   # one picture
  strata simulate --matrix                    # which change rebuilds what, how often
  strata simulate --what-if new.yaml          # with another strata.yaml
  strata simulate --what-if docker/app/Dockerfile:new.Dockerfile
  strata simulate --suggest                   # cuts and orders that save most`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.rangeArg = args[0]
			}
			f.commitsSet, f.within = cmd.Flags().Changed("commits"), cmd.Flags().Changed("since")
			return a.simulate(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.since, "since", "", "only commits of this `time` before the newest, as 30d or 12h")
	fl.IntVar(&f.commits, "commits", 0, "at most so `many` commits")
	fl.BoolVar(&f.all, "all", false, "the whole history")
	fl.StringVar(&f.branch, "branch", "", "the line that ends in this `revision` instead of HEAD")
	fl.BoolVar(&f.list, "list", false, "show every commit")
	fl.BoolVar(&f.matrix, "matrix", false, "show which kind of change rebuilds which layers, how often, and how long that takes")
	fl.BoolVar(&f.suggest, "suggest", false, "look for cuts and instruction orders that would have saved most")
	fl.StringArrayVar(&f.whatIf, "what-if", nil, "replay with another `file`: a project file, or PATH:FILE for any file of the project")
	fl.StringArrayVar(&f.times, "time", nil, "building a unit of a layer takes `LAYER=TIME`, as ml=6m; appends have a time of their own")
	fl.StringArrayVar(&f.sizes, "size", nil, "a layer adds `LAYER=SIZE` to an image, compressed, as ml=1.6GB")
	fl.StringVar(&f.svg, "svg", "", "write a picture to this `file`")
	fl.StringVar(&f.html, "html", "", "write a page with picture and tables to this `file`")
	fl.BoolVar(&f.json, "json", false, "write JSON")
	return cmd
}

// simulated is what the command found.
type simulated struct {
	*simulate.Result
	Matrix      []simulate.MatrixRow  `json:"matrix,omitempty"`
	WhatIf      *simulate.Difference  `json:"whatIf,omitempty"`
	Suggestions []simulate.Suggestion `json:"suggestions,omitempty"`
}

func (a *app) simulate(ctx context.Context, f simulateFlags) error {
	r, err := f.history()
	if err != nil {
		return err
	}
	o, err := a.simulateOptions(f)
	if err != nil {
		return err
	}
	edit, err := a.whatIf(f, &o)
	if err != nil {
		return err
	}
	h, err := githistory.Read(ctx, a.git(), a.dir(), r)
	if err != nil {
		return err
	}
	defer h.Close()
	// A replay makes much that is gone a moment later. Collecting it less often
	// takes a fifth of the time off, and the memory stays far below the limit.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(simulateMemory))
	var out simulated
	p := a.progressOf("replaying")
	o.Progress = p.tell
	if edit == nil {
		out.Result, err = simulate.Run(ctx, h, o)
	} else {
		out.WhatIf, err = simulate.WhatIf(ctx, h, o, edit)
		if err == nil {
			out.Result = out.WhatIf.Base
		}
	}
	if err == nil && f.suggest {
		p.what = "trying what would save"
		out.Suggestions, err = simulate.Suggest(ctx, h, o, out.Result)
	}
	p.end()
	if err != nil {
		return err
	}
	if gone, err := lostRecords(h, o.Estimates.Records); err != nil {
		return err
	} else if gone > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d of %d records are of commits that this repository does not have (rewritten, or made elsewhere); their times count all the same.", gone, len(o.Estimates.Records)))
	}
	if f.matrix {
		out.Matrix = out.Result.Matrix()
	}
	if err := a.writePictures(f, out); err != nil {
		return err
	}
	if f.json {
		return writeJSON(a.machine.Stdout, out)
	}
	return a.showSimulation(a.machine.Stdout, f, out)
}

// history gives the range that the flags name.
func (f simulateFlags) history() (githistory.Range, error) {
	r := githistory.Range{Rev: cmp.Or(f.rangeArg, f.branch), Commits: simulatedCommits, Within: simulatedDays * 24 * time.Hour}
	switch {
	case f.rangeArg != "" && f.branch != "":
		return r, usage("the line is named twice: %q, and --branch %q", f.rangeArg, f.branch)
	case f.all && (f.commitsSet || f.within):
		return r, usage("--all leaves no place for --commits and --since")
	case f.commitsSet && f.commits < 1:
		return r, usage("reading --commits: %d is no count of commits", f.commits)
	case f.all || strings.Contains(r.Rev, ".."):
		r.Commits, r.Within = 0, 0
	}
	if f.commitsSet {
		r.Commits, r.Within = f.commits, 0
	}
	if f.within {
		d, err := parseDays(f.since)
		if err != nil {
			return r, usage("reading --since: %v", err)
		}
		if r.Within = d; !f.commitsSet {
			r.Commits = 0
		}
	}
	return r, nil
}

// parseDays reads a duration that may be in days or weeks.
func parseDays(s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, err := strconv.ParseFloat(strings.TrimSuffix(s, suffix), 64); err == nil && strings.HasSuffix(s, suffix) && n > 0 {
			return time.Duration(n * float64(unit)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no time, as 30d, 2w or 12h", s)
	}
	return d, nil
}

// simulateOptions gathers what a replay needs beside the history.
func (a *app) simulateOptions(f simulateFlags) (simulate.Options, error) {
	o := simulate.Options{Dir: a.dir(), Platform: "linux/" + runtime.GOARCH, Env: map[string]string{}}
	for _, kv := range a.machine.Environ {
		name, value, _ := strings.Cut(kv, "=")
		o.Env[name] = value
	}
	p, err := a.project()
	if err != nil {
		return o, err
	}
	o.File = p.File
	if p.Kind != spec.KindDockerfile {
		if o.Fallback, err = p.Access.ReadFile(p.File, hostfile.MaxText); err != nil {
			return o, fmt.Errorf("reading project: %s: %w", p.File, pathCause(err))
		}
	}
	if s, err := a.records(); err == nil {
		o.Estimates.Records, _, _ = s.Records(record.Filter{Project: p.Image, Limit: 200})
	}
	o.Estimates.Seconds, o.Estimates.Bytes = map[string]float64{}, map[string]int64{}
	for _, kv := range f.times {
		name, value, _ := strings.Cut(kv, "=")
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || !hasLayer(p, name) {
			return o, usage("reading --time: %q is no LAYER=TIME of this project, as ml=6m", kv)
		}
		o.Estimates.Seconds[name] = d.Seconds()
	}
	for _, kv := range f.sizes {
		name, value, _ := strings.Cut(kv, "=")
		n, err := parseBytes(value)
		if err != nil || !hasLayer(p, name) {
			return o, usage("reading --size: %q is no LAYER=SIZE of this project, as ml=1.6GB", kv)
		}
		o.Estimates.Bytes[name] = n
	}
	return o, nil
}

func hasLayer(p *spec.Project, name string) bool {
	_, ok := p.Layer(name)
	return ok
}

// parseBytes reads a size in decimal units, as they are written everywhere here.
func parseBytes(s string) (int64, error) {
	units := []struct {
		suffix string
		factor float64
	}{{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%q is no size", s)
		}
		return int64(n * u.factor), nil
	}
	return 0, fmt.Errorf("%q is no size", s)
}

// whatIf reads the files that a replay is to have in place of the history's.
func (a *app) whatIf(f simulateFlags, o *simulate.Options) (simulate.Edit, error) {
	if len(f.whatIf) == 0 {
		return nil, nil
	}
	files := simulate.Files{}
	for _, arg := range f.whatIf {
		name, file, ok := strings.Cut(arg, ":")
		if old, f, by := strings.Cut(arg, "="); by && !ok {
			name, file, ok = old, f, true
		}
		if !ok {
			name, file = o.File, arg
			switch ext := filepath.Ext(arg); {
			case (ext == ".yaml" || ext == ".yml") && filepath.Ext(name) != ".yaml" && filepath.Ext(name) != ".yml":
				name = "strata.yaml" // in place of a bake file, or of a Dockerfile alone
			case ext != ".yaml" && ext != ".yml" && ext != filepath.Ext(name):
				return nil, usage("reading --what-if: %q is no project file; write PATH:FILE, PATH being the file that it takes the place of", arg)
			}
		}
		path, err := a.typed(file)
		var data []byte
		if err == nil {
			data, err = hostfile.Read(path, hostfile.MaxText)
		}
		if err != nil {
			return nil, fmt.Errorf("reading --what-if: %q: %w", file, pathCause(err))
		}
		files[filepath.ToSlash(filepath.Clean(name))] = data
	}
	return files, nil
}

// lostRecords counts the records of commits that the repository does not have.
func lostRecords(h *githistory.History, records []record.Record) (int, error) {
	var ids []string
	for _, r := range records {
		if r.Revision != "" {
			ids = append(ids, r.Revision)
		}
	}
	there, err := h.Holds(ids)
	n := 0
	for _, id := range ids {
		if !there[id] {
			n++
		}
	}
	return n, err
}

func (a *app) writePictures(f simulateFlags, out simulated) error {
	write := func(name string, data []byte) error {
		path, err := a.target(name)
		if isOutside(err) {
			return fmt.Errorf("writing %q: %w", name, err)
		}
		if err == nil {
			err = os.WriteFile(path, data, 0o644)
		}
		if err != nil {
			return diag.Hint(fmt.Errorf("writing %q: %w", name, pathCause(err)), "is the folder there?")
		}
		return nil
	}
	if f.svg != "" {
		if err := write(f.svg, out.Result.SVG()); err != nil {
			return err
		}
	}
	if f.html != "" {
		return write(f.html, out.Result.Page())
	}
	return nil
}

// teller shows on standard error how far something that takes long has come.
type teller struct {
	app      *app
	what     string
	began    time.Time
	last     time.Time
	terminal bool
	wrote    bool
}

// patience is how long a command may be silent.
const patience = time.Second

func (a *app) progressOf(what string) *teller {
	now := a.machine.Now()
	return &teller{app: a, what: what, began: now, last: now, terminal: view.IsTerminal(a.machine.Stderr)}
}

func (t *teller) tell(done, of int) {
	now := t.app.machine.Now()
	every := 5 * time.Second // a log need not be told as often as a person
	if t.terminal {
		every = patience / 5
	}
	if now.Sub(t.began) < patience || now.Sub(t.last) < every {
		return
	}
	t.last, t.wrote = now, true
	text := fmt.Sprintf("strata: %s: %d of %d commits", t.what, done, of)
	if t.terminal {
		view.Fprintf(t.app.machine.Stderr, "\r\x1b[K%s", text)
		return
	}
	view.Fprintln(t.app.machine.Stderr, text)
}

func (t *teller) end() {
	if t.wrote && t.terminal {
		view.Fprintf(t.app.machine.Stderr, "\r\x1b[K")
	}
}

var simulatedStyle = map[plan.Action]view.Style{
	plan.Reuse: view.Green, plan.Append: view.Cyan, plan.Build: view.Yellow, plan.Skip: view.Dim,
}

func (a *app) showSimulation(w io.Writer, f simulateFlags, out simulated) error {
	s := shown{app: a, w: w}
	r := out.Result
	s.line("%s", view.Palette.Paint(a.palette(w), view.Bold, r.Headline()))
	if f.list {
		s.rows(r)
	}
	if f.matrix {
		s.matrix(out.Matrix)
	} else {
		s.layers(r)
		s.models(r)
	}
	if out.WhatIf != nil {
		s.difference(out.WhatIf)
	}
	if f.suggest {
		s.suggestions(out.Suggestions)
	}
	s.notes(r, f.matrix)
	return s.err
}
