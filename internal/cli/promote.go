package cli

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/view"
)

// moveFlags are those of the commands that move whole sets of tags.
type moveFlags struct {
	push, dryRun, force, json bool
}

func (f *moveFlags) add(cmd *cobra.Command, force string) {
	fl := cmd.Flags()
	fl.BoolVar(&f.push, "push", false, "work in the registry that the image names instead of the one on this machine")
	fl.BoolVar(&f.dryRun, "dry-run", false, "check everything, show what would move, and stop")
	fl.BoolVar(&f.force, "force", false, force)
	fl.BoolVar(&f.json, "json", false, "write JSON")
}

func (a *app) promoteCmd() *cobra.Command {
	var f moveFlags
	cmd := &cobra.Command{
		Use:   "promote FROM TO",
		Short: "Give a whole release the tags of a channel",
		Long: `Promote moves the tags of a channel to a release: those of all layers, variants,
platforms and indexes together, in every repository that the project has. FROM is a
version, a channel, or latest, which is what the last build has published; TO is one
of the project's channels, which strata.yaml declares in the order that a release
goes through them:

  channels: [dev, staging, stable]

A channel's tags are those that have {version} in their template, with the
channel's name in place of the version: stable-cpu, cpu-base-amd64-stable.

Nothing moves unless every member of the release is there with its config and all
its blobs, and unless the same images stand, or have stood, together in the channel
before TO. Images first, indexes last. A record is kept beside the images before
and after (strata history): when promote is killed in between, the next promote or
rollback finishes its work first.

` + exitCodesHelp(),
		Example: `  strata promote 1.4.0 dev
  strata promote dev staging --push
  strata promote staging stable --push --dry-run`,
		Args:              takes(2, 2),
		ValidArgsFunction: a.completeChannels,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.moveTags(cmd.Context(), f, func(ctx context.Context, c strata.Config, o strata.MoveOptions) (strata.Movement, error) {
				return strata.Promote(ctx, c, strata.Promotion{From: args[0], To: args[1]}, o)
			})
		},
	}
	f.add(cmd, "also move tags that the project protects, and leave out the order of the channels")
	return cmd
}

func (a *app) rollbackCmd() *cobra.Command {
	var f moveFlags
	var to string
	cmd := &cobra.Command{
		Use:   "rollback [CHANNEL]",
		Short: "Set the tags of a channel, or of the last run, back",
		Long: `Rollback sets the tags of a channel back to what they pointed to before the last
promotion, by the records that promotions keep beside the images. Without a channel
it takes back what the last run has moved: latest and the like. A tag that was new
then has nothing to go back to and stays; so does one that the project protects.

A second rollback goes one further back, and not forth again: each takes away the
last record that still counts. With --to, it goes to what stood after that record,
further back or forth again.

Nothing moves unless all that the tags will point to is still there, and unless they
are where the last record has left them. When rollback is killed before it is done,
the same command again finishes it and does not go back twice.

` + exitCodesHelp(),
		Example: `  strata rollback stable --push
  strata rollback                 # what the last build has moved
  strata history --push           # the records
  strata rollback stable --push --to 20261122T060000.000Z-0a1b2c3d`,
		Args:              takes(0, 1),
		ValidArgsFunction: a.completeChannels,
		RunE: func(cmd *cobra.Command, args []string) error {
			b := strata.Back{To: to}
			if len(args) == 1 {
				b.Channel = args[0]
			}
			return a.moveTags(cmd.Context(), f, func(ctx context.Context, c strata.Config, o strata.MoveOptions) (strata.Movement, error) {
				return strata.Rollback(ctx, c, b, o)
			})
		},
	}
	f.add(cmd, "also move tags that the project protects, and those that someone else has moved since")
	cmd.Flags().StringVar(&to, "to", "", "go to what stood after this `record`, or one whose id begins or ends so")
	return cmd
}

// completeChannels offers the project's channels to the shell.
func (a *app) completeChannels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	p, err := a.project()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.Channels, cobra.ShellCompDirectiveNoFileComp
}

// newID gives an id for what begins at t.
func newID(t time.Time) (string, error) { return record.NewID(t, rand.Reader) }

// moveTags runs a promotion or rollback and shows what it did.
func (a *app) moveTags(ctx context.Context, f moveFlags, move func(context.Context, strata.Config, strata.MoveOptions) (strata.Movement, error)) error {
	c, err := a.config(ctx)
	if err != nil {
		return err
	}
	for _, w := range c.Project.Warnings {
		a.warn(w)
	}
	c.Push, c.Force = f.push, f.force
	got, err := move(ctx, c, a.moveOptions(f.dryRun))
	a.afterMove(c, got, f.dryRun)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = diag.Hint(cause, "the same command again goes on where this one has ended")
	}
	if err != nil {
		return err
	}
	if f.json {
		return writeJSON(a.machine.Stdout, movementJSON(got, f.dryRun))
	}
	return a.showMovement(c, got, f.dryRun)
}

func (a *app) moveOptions(dryRun bool) strata.MoveOptions {
	return strata.MoveOptions{DryRun: dryRun, NewID: newID, Command: record.CommandLine(append([]string{"strata"}, a.args...))}
}

// afterMove tells the warnings, and keeps records on this machine of what was
// done. One that can't be kept is a warning: the tags have moved.
func (a *app) afterMove(c strata.Config, got strata.Movement, dryRun bool) {
	for _, w := range got.Warnings {
		a.warn(diag.Finding{Severity: diag.Warning, Text: w})
	}
	if dryRun {
		return
	}
	done := slices.Clone(got.Finished)
	if !got.Already && !got.Resumed && got.Record.State == journal.Done {
		done = append(done, got.Record)
	}
	for _, r := range done {
		r.State = journal.Done
		s, err := a.records()
		if err == nil {
			err = s.Write(a.recordOf(r))
		}
		if err != nil {
			view.Fprintf(a.machine.Stderr, "strata: warning: keeping the record on this machine: %v\n", err)
		}
	}
}

// recordOf gives a record of the journal in the form of a run's.
func (a *app) recordOf(j journal.Record) record.Record {
	r := record.Record{
		Version: record.Version, ID: j.ID, Started: j.Started, Finished: j.Finished, Kind: string(j.Kind), Channel: j.Channel, From: j.From,
		Command: j.Command, Project: j.Project, Revision: j.Revision, Dirty: j.Dirty, Undoes: j.Undoes, Outcome: record.OK, Units: []record.Unit{},
	}
	switch j.State {
	case journal.Started:
		r.Outcome = record.Running
	case journal.Abandoned:
		r.Outcome = record.Failed
	}
	for _, m := range j.Moves {
		r.Tags = append(r.Tags, record.Tag{Tag: m.Name(), Digest: m.Digest.String(), Previous: m.Previous.String()})
	}
	return r
}

type movementOut struct {
	DryRun    bool            `json:"dryRun,omitempty"`
	Moved     int             `json:"moved"`            // tags that were elsewhere
	Moves     []journal.Move  `json:"moves"`            // every tag of the set, those that stand already included
	Record    *journal.Record `json:"record,omitempty"` // that was written: none in a dry run, or when nothing moves
	Stays     []journal.Move  `json:"stays,omitempty"`
	Finished  []string        `json:"finished,omitempty"`  // records of earlier commands
	Abandoned []string        `json:"abandoned,omitempty"` // those that could not be finished
}

func movementJSON(got strata.Movement, dryRun bool) movementOut {
	out := movementOut{DryRun: dryRun, Moves: got.Record.Moves, Stays: got.Stays}
	if !dryRun && !got.Already {
		out.Record = &got.Record
	}
	if !got.Already && !got.Resumed {
		out.Moved = countMoves(got.Record)
	}
	for _, r := range got.Finished {
		out.Finished = append(out.Finished, r.ID)
	}
	for _, r := range got.Abandoned {
		out.Abandoned = append(out.Abandoned, r.ID)
	}
	return out
}

func countMoves(r journal.Record) int {
	n := 0
	for _, m := range r.Moves {
		if m.Moves() {
			n++
		}
	}
	return n
}

// showMovement writes every tag that moves, and a line that sums it up.
func (a *app) showMovement(c strata.Config, got strata.Movement, dryRun bool) error {
	w := a.machine.Stdout
	place := placeOf(c)
	for _, r := range got.Finished {
		verb := "finished"
		if dryRun {
			verb = "to be finished first"
		}
		view.Fprintf(w, "%s: %s, which was begun at %s\n", verb, title(r), r.Started.Format(time.RFC3339))
	}
	if got.Resumed {
		return nil
	}
	if got.Already {
		view.Fprintf(w, "%s: all %s stand already in %s\n", title(got.Record), plural(len(got.Record.Moves), "tag"), place)
		return nil
	}
	t := view.Table{Columns: []view.Column{{Title: "TAG", Shrink: true}, {Title: "WAS"}, {Title: "IS"}}}
	for _, m := range got.Record.Moves {
		if m.Moves() {
			t.Row(m.Name(), shortDigest(m.Previous.String()), shortDigest(m.Digest.String()))
		}
	}
	if err := t.Write(w, a.palette(w), a.width(w)); err != nil {
		return err
	}
	if n := len(got.Record.Moves) - len(t.Rows); n > 0 {
		verb := "stand"
		if n == 1 {
			verb = "stands"
		}
		view.Fprintf(w, "and %d that %s already\n", n, verb)
	}
	for _, m := range got.Stays {
		view.Fprintf(w, "%s stays: it was new\n", m.Name())
	}
	verb := "moved"
	if dryRun {
		verb = "would move"
	}
	_, err := view.Fprintf(w, "\n%s: %d of %s %s in %s\n", title(got.Record), countMoves(got.Record), plural(len(got.Record.Moves), "tag"), verb, place)
	return err
}

func placeOf(c strata.Config) string {
	if c.Push {
		return c.Project.Image
	}
	return c.Project.Image + " (on this machine)"
}

// title says in a few words what a record is of.
func title(r journal.Record) string {
	if r.Kind == journal.Promote {
		return r.From + " -> " + r.Channel
	}
	if r.Kind == rebaseKind {
		return "rebase of " + r.From
	}
	what := "rollback"
	if r.Channel != "" {
		what += " of " + r.Channel
	}
	if r.From != "" {
		what += " to " + r.From
	}
	return strings.TrimSpace(what)
}
