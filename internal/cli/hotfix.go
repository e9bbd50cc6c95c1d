package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/change"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/view"
)

// hotfix is one urgent change on its way.
type hotfix struct {
	app      *app
	flags    buildFlags
	class    string // that the user allows; "" is any
	to       string
	enforce  bool
	started  time.Time
	result   change.Result
	estimate float64 // seconds
	known    bool    // there is an estimate for every step
}

func (a *app) hotfixCmd() *cobra.Command {
	h := hotfix{app: a, flags: buildFlags{parallel: 2}}
	cmd := &cobra.Command{
		Use:   "hotfix [UNIT...]",
		Short: "Build, test and publish a small change, against the clock",
		Long: `Hotfix does what build does, and with --to gives what it has made the tags of a
channel at once, without the channels before it. It says beforehand how far the
change reaches, and why:

  code          files that no package manager reads                     2 minutes
  dependencies  files that list dependencies, or instructions of units
                that others stand on                                    5 minutes
  system        external images, or what a unit is made from that
                stands on nothing else                                 10 minutes

With --class it refuses a change that reaches further, and names the files and
instructions, before anything is built. Afterwards the time that it took, from the
first look to the last tag, is held against that of the class; with --enforce the
exit code is 2 when it took longer: it is published then, and late.

Tests run as in build. Only the units that are named, and what they stand on, are
made and get the channel's tags.

` + exitCodesHelp(),
		Example: `  strata hotfix --class code --to stable --push
  strata hotfix app/cpu --to stable --push --enforce
  strata hotfix --dry-run          # the class of what has changed, and the estimate`,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.run(cmd.Context(), args)
		},
	}
	fl := cmd.Flags()
	f := &h.flags
	fl.StringVar(&h.class, "class", "", "refuse a change that reaches further than this `class`: code, dependencies or system")
	completesFlag(cmd, "class", "code", "dependencies", "system")
	fl.StringVar(&h.to, "to", "", "give what was made the tags of this `channel`")
	fl.BoolVar(&h.enforce, "enforce", false, "exit with 2 when it took longer than the class may")
	fl.BoolVar(&f.push, "push", false, "look up and publish in the registry that the image names instead of the one on this machine")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show the class, the estimate and the plan, and stop")
	fl.BoolVar(&f.force, "force", false, forceHelp)
	fl.BoolVar(&f.json, "json", false, "write JSON")
	a.engineFlags(cmd)
	fl.StringVar(&f.progress, "progress", "auto", "`form` of progress: auto, tty, plain, json or quiet")
	completesFlag(cmd, "progress", "auto", "tty", "plain", "json", "quiet")
	fl.IntVar(&f.parallel, "parallel", 2, "`number` of units built at once")
	return cmd
}

func (h *hotfix) run(ctx context.Context, units []string) error {
	h.started = h.app.machine.Now()
	if h.class != "" {
		if _, err := change.Parse(h.class); err != nil {
			return usage("reading --class: %v", err)
		}
	}
	if h.flags.json && h.flags.progress == "json" {
		return usage("reading --progress: with --json it would write into the same output")
	}
	h.flags.before = h.before
	h.flags.after = h.after
	return h.app.build(ctx, h.flags, units)
}

// before classes the change, says so, and refuses what reaches too far.
func (h *hotfix) before(p *strata.Pass) (stop bool, err error) {
	if h.to != "" {
		if err := strata.CheckChannel(p.Config.Project, h.to); err != nil {
			return true, fmt.Errorf("hotfix to %s: %w", h.to, err)
		}
	}
	if h.to != "" && p.Config.Version.Dirty {
		h.app.warn(diag.Finding{
			Severity: diag.Warning, Text: "the work tree has changes that are not committed: what goes to " + h.to + " can't be made again from a commit",
			Hint: "commit first",
		})
	}
	h.result = classOf(p)
	h.estimate, h.known = 0, true
	for _, s := range p.Plan.Steps {
		if s.Action == plan.Reuse || s.Action == plan.Skip {
			continue
		}
		if s.Estimate == nil {
			h.known = false
			continue
		}
		h.estimate += s.Estimate.Seconds
	}
	if allowed := change.Class(h.class); h.class != "" && h.result.Class.Beyond(allowed) {
		return true, h.refusal(allowed)
	}
	if h.flags.json {
		if h.flags.dryRun {
			out := h.json()
			out.Plan = &p.Plan
			return true, writeJSON(h.app.machine.Stdout, out)
		}
		return false, nil
	}
	if h.result.Class == change.None && !h.flags.dryRun {
		return false, nil // that is said in the end
	}
	w := h.app.machine.Stdout
	if !h.flags.dryRun { // what is shown during the run belongs to its progress
		w = h.app.machine.Stderr
	}
	if h.flags.progress == "json" || h.flags.progress == "quiet" {
		w = io.Discard
	}
	return false, h.show(w)
}

// classOf gives the class of what a plan makes.
func classOf(p *strata.Pass) change.Result {
	places := change.Places(p.Graph)
	var facts []change.Fact
	for _, s := range p.Plan.Steps {
		if s.Action == plan.Reuse || s.Action == plan.Skip {
			continue
		}
		f := change.Fact{Unit: s.Unit, Place: places[s.Unit], Changes: s.Changes}
		if len(s.Changes) == 0 && len(s.Reasons) > 0 {
			f.Unknown = s.Reasons[0]
		}
		facts = append(facts, f)
	}
	return change.Classify(facts)
}

// mostReasons bounds what is shown of one unit's reasons.
const mostReasons = 20

func (h *hotfix) refusal(allowed change.Class) error {
	var b strings.Builder
	for _, u := range h.result.Beyond(allowed) {
		for i, r := range u.Reasons {
			if rest := len(u.Reasons) - i; i == mostReasons && rest > 1 {
				fmt.Fprintf(&b, "\n  %s: %d more", u.Unit, rest)
				break
			}
			fmt.Fprintf(&b, "\n  %s: %s (%s: %s)", u.Unit, r.What, r.Class, r.Why)
		}
	}
	return diag.Hint(fmt.Errorf("the change is one of class %s, which reaches further than %s:%s", h.result.Class, allowed, b.String()),
		"nothing was built; take these out of the change, or say --class %s", h.result.Class)
}

// show writes the class with its reasons, the time that it may take, and the
// estimate.
func (h *hotfix) show(w io.Writer) error {
	if h.result.Class == change.None {
		_, err := view.Fprintln(w, "Nothing changed: every unit is in the registry.")
		return err
	}
	t := view.Table{Columns: []view.Column{{Title: "UNIT"}, {Title: "CLASS"}, {Title: "CHANGE"}, {Title: "WHY", Shrink: true}}}
	for _, u := range h.result.Units {
		for i, r := range u.Reasons {
			if rest := len(u.Reasons) - i; i == mostReasons && rest > 1 {
				t.Row(u.Unit, "", fmt.Sprintf("%d more", rest), "")
				break
			}
			t.Rows = append(t.Rows, []view.Cell{{Text: u.Unit}, {Text: string(r.Class), Style: classStyle[r.Class]}, {Text: r.What}, {Text: r.Why}})
		}
	}
	if err := t.Write(w, h.app.palette(w), h.app.width(w)); err != nil {
		return err
	}
	_, err := view.Fprintf(w, "\nA change of class %s: it may take %s, and should take %s.\n\n", h.result.Class, minutes(h.result.Class), h.estimateText())
	return err
}

var classStyle = map[change.Class]view.Style{change.Code: view.Green, change.Dependencies: view.Yellow, change.System: view.Red}

func (h *hotfix) estimateText() string {
	d := view.Duration(time.Duration(h.estimate * float64(time.Second)))
	switch {
	case h.known:
		return "about " + d + ", by earlier runs"
	case h.estimate > 0:
		return "at least " + d + "; some steps have never been run"
	}
	return "who knows how long: it has never been run"
}

// after gives what was made the channel's tags, and holds the time against the
// class's.
func (h *hotfix) after(ctx context.Context, p *strata.Pass, res strata.Result) error {
	var moved *strata.Movement
	if h.to != "" {
		units := map[string]bool{}
		for _, u := range p.Units {
			units[u.ID] = true
		}
		c := p.Config
		got, err := strata.Promote(ctx, c, strata.Promotion{From: c.Project.Version, To: h.to, Units: units, Direct: true}, h.app.moveOptions(false))
		h.app.afterMove(c, got, false)
		if err != nil {
			return fmt.Errorf("the images are published, but not in %s: %w", h.to, err)
		}
		moved = &got
	}
	took := h.app.machine.Now().Sub(h.started)
	late := took > h.result.Class.Budget()
	if err := h.showAfter(p, res, moved, took, late); err != nil {
		return err
	}
	if late && h.enforce {
		return code(exitChanges)
	}
	return nil
}

func (h *hotfix) showAfter(p *strata.Pass, res strata.Result, moved *strata.Movement, took time.Duration, late bool) error {
	if h.flags.json {
		out := h.json()
		out.Seconds, out.Within = took.Seconds(), !late
		out.Result = resultJSON(res)
		if moved != nil {
			m := movementJSON(*moved, false)
			out.Promoted = &m
		}
		return writeJSON(h.app.machine.Stdout, out)
	}
	if h.flags.progress == "json" || h.flags.progress == "quiet" {
		return nil
	}
	w := h.app.machine.Stdout
	if h.result.Class == change.None {
		h.showNone(w, p, res)
	} else {
		h.app.showResult(p, res, took)
	}
	if moved != nil {
		view.Fprintln(w)
		if err := h.app.showMovement(p.Config, *moved, false); err != nil {
			return err
		}
	}
	class, budget := h.result.Class, minutes(h.result.Class)
	if class == change.None {
		return nil
	}
	pal := h.app.palette(w)
	if late {
		_, err := view.Fprintf(w, "%s: published in %s, %s\n", class, view.Duration(took), pal.Paint(view.Red, "over the "+budget+" that it may take"))
		return err
	}
	_, err := view.Fprintf(w, "%s: published in %s of %s\n", class, pal.Paint(view.Green, view.Duration(took)), budget)
	return err
}

// showNone says that there was nothing to build, and where the tags are.
func (h *hotfix) showNone(w io.Writer, p *strata.Pass, res strata.Result) {
	view.Fprintln(w, "Nothing changed: every unit is in the registry.")
	for _, t := range res.Tags {
		verb := "stands"
		if t.Previous != t.Ref.Digest.String() {
			verb = "moved"
		}
		view.Fprintf(w, "  %s %s at %s\n", t.Ref.Repository().WithTag(t.Ref.Tag).FamiliarString(), verb, shortDigest(t.Ref.Digest.String()))
	}
	view.Fprintln(w, tagsWord(p, res))
}

type hotfixOut struct {
	Class    change.Class  `json:"class"` // "" when nothing changed
	Units    []change.Unit `json:"units"`
	Budget   float64       `json:"budgetSeconds"`
	Estimate float64       `json:"estimateSeconds"`
	Known    bool          `json:"estimateComplete"` // there is an estimate for every step
	Seconds  float64       `json:"seconds,omitempty"`
	Within   bool          `json:"withinBudget,omitempty"`
	Plan     *plan.Plan    `json:"plan,omitempty"` // of a dry run
	Result   any           `json:"result,omitempty"`
	Promoted *movementOut  `json:"promoted,omitempty"`
}

func (h *hotfix) json() hotfixOut {
	return hotfixOut{
		Class: h.result.Class, Units: h.result.Units, Budget: h.result.Class.Budget().Seconds(), Estimate: h.estimate, Known: h.known,
	}
}

// minutes gives the time that a class may take, as a user reads it.
func minutes(c change.Class) string { return fmt.Sprintf("%d min", c.Budget()/time.Minute) }
