package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/view"
)

const forceHelp = "move tags that the project protects, and those that a newer commit has set, too"

func (a *app) publishCmd() *cobra.Command {
	f := buildFlags{made: true, parallel: 2}
	var local bool
	cmd := &cobra.Command{
		Use:   "publish [UNIT...]",
		Short: "Move the tags to what other runs have made",
		Long: `Publish is the last job of a pipeline whose runners have made the units, each with
strata build --push --no-tags. It checks that the registry has every one of them as
the project is now, runs the tests that have not passed yet, and moves the tags:
those of single images first, then those of indexes. It builds nothing, and moves
nothing when a unit is missing.

Tags that name neither version nor commit, such as latest, stay where they are when a
newer commit has set them: a pipeline that ends late, or runs again, does not turn
them back. It still sets the tags of its own version.

` + exitCodesHelp(),
		Example: `  strata build --push --no-tags app/cpu/arm64   # on each runner
  strata publish                                # after all of them
  strata publish --dry-run                      # what would be published`,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.push = !local
			if f.dryRun {
				f.before = func(p *strata.Pass) (bool, error) { return true, a.showMoves(cmd.Context(), p, f.json) }
			}
			return a.build(cmd.Context(), f, args)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&local, "local", false, "publish in the registry on this machine")
	f.addJSON(cmd)
	f.addTime(cmd)
	summaryFlag(cmd, &f.summary)
	a.engineFlags(cmd)
	fl.BoolVar(&f.dryRun, "dry-run", false, "check that every unit is there, show which tags would move, and stop")
	fl.BoolVar(&f.noTest, "no-test", false, "move tags without running the tests of the layers")
	fl.BoolVar(&f.force, "force", false, forceHelp)
	fl.StringVar(&f.progress, "progress", "auto", "`form` of progress: auto, tty, plain, json or quiet")
	completesFlag(cmd, "progress", "auto", "tty", "plain", "json", "quiet")
	return cmd
}

// allMade refuses a plan with work in it.
func allMade(p *strata.Pass) error {
	var missing []string
	for _, s := range p.Plan.Steps {
		if s.Action != plan.Reuse && s.Action != plan.Skip {
			missing = append(missing, s.Unit)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	command := "strata build --no-tags "
	if p.Config.Push {
		command = "strata build --push --no-tags "
	}
	return diag.Hint(fmt.Errorf("publishing: %d of %d units are not in the registry: %s",
		len(missing), len(p.Plan.Steps), strings.Join(missing, ", ")),
		"no tag was moved; %s%s makes them, and strata explain UNIT tells what a key was made from", command, strings.Join(missing, " "))
}

// showMoves says which tags publish would move.
func (a *app) showMoves(ctx context.Context, p *strata.Pass, asJSON bool) error {
	res, err := p.Moves(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(a.machine.Stdout, resultJSON(res))
	}
	t := view.Table{Columns: []view.Column{{Title: "TAG", Shrink: true}, {Title: "WAS"}, {Title: "IS"}}}
	moved := 0
	for _, m := range res.Tags {
		if m.Previous != m.Ref.Digest.String() {
			moved++
			t.Row(m.Ref.Repository().WithTag(m.Ref.Tag).FamiliarString(), shortDigest(m.Previous), shortDigest(m.Ref.Digest.String()))
		}
	}
	w := a.machine.Stdout
	if moved > 0 {
		if err := t.Write(w, a.palette(w), a.width(w)); err != nil {
			return err
		}
		view.Fprintln(w)
	}
	said := fmt.Sprintf("%d of %d tags would move in %s", moved, len(res.Tags)+len(res.Held), where(p))
	if len(res.Held) > 0 {
		said += fmt.Sprintf("; %d stay with the newer commit %.12s", len(res.Held), res.Held[0].Revision)
	}
	view.Fprintln(w, said)
	return nil
}
