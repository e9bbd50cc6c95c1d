package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/printable"
	"github.com/strata-build/strata/internal/view"
)

// passFlags are the flags that planning commands share.
type passFlags struct {
	push, rebuild, verify, refresh, json bool
	time                                 string
}

// addTime is for the jobs of a pipeline.
func (f *passFlags) addTime(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.time, "time", "", "reckon refresh slots at this `time`, such as 2026-11-22T06:00:00Z: the jobs of a pipeline give the same one (default: now)")
}

// addPush is for commands that only look.
func (f *passFlags) addPush(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.push, "push", false, "ask the registry that the image names instead of the one on this machine")
}

func (f *passFlags) addJSON(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.refresh, "refresh", false, "build the layers whose refresh is due, as a scheduled build does")
	cmd.Flags().BoolVar(&f.json, "json", false, "write JSON")
}

func (f *passFlags) addRebuild(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.rebuild, "rebuild", false, "build the named units and all that stands on them, whatever registry and caches hold")
	cmd.Flags().BoolVar(&f.verify, "verify", false, "ask for every blob of the images that are reused, and make those anew that are not whole")
}

// prepare goes the whole way up to the plan and tells the warnings.
func (a *app) prepare(ctx context.Context, f passFlags, units []string, change func(*strata.Config)) (*strata.Pass, error) {
	units = a.argDir(units)
	c, err := a.config(ctx)
	if err != nil {
		return nil, err
	}
	c.Push, c.Rebuild, c.Verify, c.Refresh, c.Units = f.push, f.rebuild, f.verify, f.refresh, units
	if f.time != "" {
		if c.Now, err = time.Parse(time.RFC3339, f.time); err != nil {
			return nil, usage("reading --time: %q is not like 2026-11-22T06:00:00Z", f.time)
		}
	}
	if change != nil {
		change(&c)
	}
	for _, w := range c.Project.Warnings {
		a.warn(w)
	}
	p, err := strata.Prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		a.warn(w)
	}
	return p, nil
}

func (a *app) planCmd() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan [UNIT...]",
		Short: "Show what build would do, and why",
		Long: `Plan reads the project, computes the key of every unit, asks the registry in one
round of parallel look-ups what is there, and shows what build would do with each
unit and why. It changes nothing.

A unit is named LAYER, LAYER/VARIANT, LAYER/ARCH or in full,
LAYER/VARIANT/OS/ARCH. The units that it stands on come along.

For pipelines, --format github-matrix, gitlab and json-stages give the units that need
work in stages, parents first: each with the labels of its runner (the setting runners),
its time by earlier runs, and the command that makes it. github-matrix is lines for
$GITHUB_OUTPUT, gitlab the file of a child pipeline. ` + "`strata ci`" + ` writes the
pipelines that take them.

` + exitCodesHelp(),
		Example: `  strata plan
  strata plan app/cpu
  strata plan --push                # against the registry that the image names
  strata plan --detailed-exitcode   # 0: nothing to do, 2: something to do
  strata plan --push --format github-matrix >> "$GITHUB_OUTPUT"
  strata plan --push --format json-stages | jq -r '.stages[][].command | join(" ")'`,
		ValidArgsFunction: a.completeUnits,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.plan(cmd.Context(), f, args) },
	}
	f.addPush(cmd)
	f.addRebuild(cmd)
	f.addJSON(cmd)
	f.addTime(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.format, "format", "table", "`form`: "+strings.Join(planFormats, ", "))
	completesFlag(cmd, "format", planFormats...)
	summaryFlag(cmd, &f.summary)
	fl.BoolVar(&f.oneStage, "one-stage", false, "put all that a platform needs into one job, for builds that publish nothing")
	fl.BoolVar(&f.detailed, "detailed-exitcode", false, "exit with 2 when there is something to do")
	return cmd
}

type planJSON struct {
	Image   string `json:"image"`
	Version string `json:"version"`
	// Imported are the external images that are taken from this machine.
	Imported []string `json:"imported,omitempty"`
	plan.Plan
}

func writeJSON(w io.Writer, v any) error { return view.WriteJSON(w, v, "  ") }

var actionStyle = map[plan.Action]view.Style{
	plan.Reuse: view.Green, plan.Append: view.Cyan, plan.Rebase: view.Cyan, plan.Build: view.Yellow, plan.Skip: view.Dim,
}

// showPlan writes the plan as a table and one line that sums it up.
func (a *app) showPlan(w io.Writer, p *strata.Pass) error {
	t := view.Table{Columns: []view.Column{{Title: "UNIT"}, {Title: "STEP"}, {Title: "TIME"}, {Title: "REASON", Shrink: true}}}
	for _, s := range p.Plan.Steps {
		t.Rows = append(t.Rows, []view.Cell{
			{Text: s.Unit}, {Text: string(s.Action), Style: actionStyle[s.Action]},
			{Text: estimate(s)}, {Text: reason(s)},
		})
	}
	if err := t.Write(w, a.palette(w), a.width(w)); err != nil {
		return err
	}
	view.Fprintln(w)
	for _, name := range p.Imported() {
		view.Fprintf(w, "%s is taken from this machine, where it was imported.\n", name)
	}
	_, err := view.Fprintln(w, summary(p.Plan))
	return err
}

func (a *app) width(w io.Writer) int {
	if !view.IsTerminal(w) {
		return 0
	}
	width, _ := view.Size(w)
	return width()
}

func estimate(s plan.Step) string {
	if s.Estimate == nil {
		return "-"
	}
	return "~" + view.Duration(time.Duration(s.Estimate.Seconds*float64(time.Second)))
}

func reason(s plan.Step) string {
	text := strings.Join(s.Reasons, "; ")
	if s.Unless {
		text += " (reused if it comes out the same)"
	}
	if s.Emulated {
		text += " [emulated on this machine]"
	}
	return text
}

// ifAny is "2 to rebase, ", or nothing for none: most projects rebase nothing.
func ifAny(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s, ", n, what)
}

// summary counts the steps and adds the estimates.
func summary(p plan.Plan) string {
	counts := map[plan.Action]int{}
	var seconds float64
	known := 0
	for _, s := range p.Steps {
		counts[s.Action]++
		if s.Estimate != nil {
			seconds += s.Estimate.Seconds
			known++
		}
	}
	if p.Work() == 0 {
		return fmt.Sprintf("Nothing to do: %s up to date.", units(counts[plan.Reuse])) + due(p)
	}
	text := fmt.Sprintf("%d to build, %s%d to append, %d to reuse",
		counts[plan.Build], ifAny(counts[plan.Rebase], "to rebase"), counts[plan.Append], counts[plan.Reuse])
	if n := counts[plan.Skip]; n > 0 {
		text += fmt.Sprintf(", %d not needed", n)
	}
	text += "."
	if known == p.Work() && known > 0 {
		text += fmt.Sprintf(" About %s of work, by earlier runs.", view.Duration(time.Duration(seconds*float64(time.Second))))
	}
	return text + due(p)
}

// due tells about refreshes that an ordinary build does not wait for.
func due(p plan.Plan) string {
	n := p.Due()
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" The refresh of %d is due: strata build --refresh.", n)
}

func units(n int) string {
	if n == 1 {
		return "1 unit is"
	}
	return fmt.Sprintf("%d units are", n)
}

// completeUnits offers the units of the project to the shell.
func (a *app) completeUnits(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	p, err := a.project()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, l := range p.Layers {
		out = append(out, l.Name)
	}
	for _, u := range p.Units() {
		out = append(out, u.ID())
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) explainCmd() *cobra.Command {
	var f passFlags
	var recipe bool
	cmd := &cobra.Command{
		Use:   "explain UNIT...",
		Short: "Show which inputs of a unit changed, down to the file",
		Long: `Explain shows how the recipe of a unit (everything that goes into it, one labelled
line each) differs from the recipe of its newest image in the registry. A line that
starts with - is how the input was, one with + how it is now.`,
		Example: `  strata explain app/cpu/linux/amd64
  strata explain ml --recipe        # the whole recipe`,
		Args:              takes(1, -1),
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.prepare(cmd.Context(), f, args, nil)
			if err != nil {
				return err
			}
			if f.json {
				return writeJSON(a.machine.Stdout, p.Plan)
			}
			for i, u := range p.Wanted {
				if i > 0 {
					view.Fprintln(a.machine.Stdout)
				}
				s, _ := p.Plan.Step(u.ID)
				a.explain(p, s, recipe)
			}
			return nil
		},
	}
	f.addPush(cmd)
	f.addJSON(cmd)
	cmd.Flags().BoolVar(&recipe, "recipe", false, "show the whole recipe, not only what changed")
	return cmd
}

func (a *app) explain(p *strata.Pass, s plan.Step, recipe bool) {
	w := a.machine.Stdout
	pal := a.palette(w)
	view.Fprintf(w, "%s: %s, %s\n", pal.Paint(view.Bold, s.Unit), pal.Paint(actionStyle[s.Action], string(s.Action)), reason(s))
	view.Fprintf(w, "  key    %s\n", s.Key)
	if s.Digest != "" {
		view.Fprintf(w, "  image  %s\n", s.Digest)
	}
	if len(s.Changes) > 0 {
		view.Fprintf(w, "\n  against its newest image:\n")
	}
	for _, c := range s.Changes {
		view.Fprintf(w, "  %s\n", c)
		for _, l := range lines(c.Old) {
			view.Fprintf(w, "    %s\n", pal.Paint(view.Red, "- "+l))
		}
		for _, l := range lines(c.New) {
			view.Fprintf(w, "    %s\n", pal.Paint(view.Green, "+ "+l))
		}
	}
	if recipe {
		view.Fprintf(w, "\n%s", view.Painted(printable.Text(string(p.Keys[s.Unit].Unit.Text()))))
	}
	if b := p.Graph.Unit(s.Unit).Build; len(b.Needs) > 0 && s.Action == plan.Build {
		view.Fprintf(w, "\n  `strata why-not %s` tells what makes it need the engine.\n", s.Unit)
	}
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func (a *app) whyNotCmd() *cobra.Command {
	var f passFlags
	cmd := &cobra.Command{
		Use:   "why-not [UNIT...]",
		Short: "Show what makes a unit need an engine, and what to write instead",
		Long: `A change of files that only the last instructions of a Dockerfile take is appended to
the image in well under a second, without an engine and without pulling anything.
Why-not shows, for each unit, the instructions that stand in the way and the
smallest edit that would avoid it.`,
		Example: `  strata why-not
  strata why-not app`,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.prepare(cmd.Context(), f, args, nil)
			if err != nil {
				return err
			}
			if f.json {
				out := map[string]any{}
				for _, u := range p.Wanted {
					out[u.ID] = u.Build.Needs
				}
				return writeJSON(a.machine.Stdout, out)
			}
			seen := map[string]bool{}
			for _, u := range p.Wanted {
				a.whyNot(u.ID, u.Dockerfile, p, seen)
			}
			return nil
		},
	}
	f.addPush(cmd)
	f.addJSON(cmd)
	return cmd
}

func (a *app) whyNot(id, file string, p *strata.Pass, seen map[string]bool) {
	w := a.machine.Stdout
	b := p.Graph.Unit(id).Build
	if b.Trunk.Empty {
		view.Fprintf(w, "%s: every instruction of %s can be appended; no engine is needed\n", id, file)
		return
	}
	view.Fprintf(w, "%s: %s\n", id, a.tailOf(len(b.Trunk.Tail)))
	for _, n := range b.Needs {
		pos := diag.Pos{File: file, Line: n.Line}
		if key := pos.String() + n.Why; seen[key] {
			view.Fprintf(w, "  %s: as above\n", pos)
			continue
		} else {
			seen[key] = true
		}
		view.Fprintf(w, "  %s: %s\n", pos, n.Instruction)
		view.Fprintf(w, "    %s\n", n.Why)
		if n.Instead != "" {
			instead := strings.ReplaceAll(printable.Text(n.Instead), "\n", "\n      ")
			view.Fprintf(w, "    %s %s\n", a.palette(w).Paint(view.Cyan, "instead:"), view.Painted(instead))
		}
	}
}

func (a *app) tailOf(n int) string {
	switch n {
	case 0:
		return "the engine builds all of it"
	case 1:
		return "the engine builds all but the last instruction"
	}
	return fmt.Sprintf("the engine builds all but the last %d instructions", n)
}
