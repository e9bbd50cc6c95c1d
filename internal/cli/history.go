package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/view"
)

type historyFlags struct {
	json, push, registry, all bool
	limit                     int
}

func (a *app) historyCmd() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history [RECORD]",
		Short: "Show what earlier runs, promotions and rollbacks did",
		Long: `History lists the runs of strata build, the promotions and the rollbacks of this
machine, the newest first: those of the project in the folder, or, with --all or
where there is no project, those of all. With the id of a record, or an unambiguous
beginning or end of it, it shows the whole record as JSON: a run as it is written
down (docs/format-record.md), a promotion or rollback as in the journal beside the
images (docs/format.md).

With --registry it reads the records that are kept beside the project's images
instead, which are those of all machines: runs that made something or moved tags,
promotions and rollbacks.`,
		Example: `  strata history
  strata history --json --limit 1
  strata history --all                 # of every project on this machine
  strata history 20261122T060000.000Z-0a1b2c3d
  strata history --registry --push     # of all machines, in the image's registry`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.registry = f.registry || f.push
			if len(args) == 1 {
				return a.showRecord(cmd.Context(), f, args[0])
			}
			rs, err := a.history(cmd.Context(), f, f.limit)
			if err != nil {
				return err
			}
			if f.json {
				out := make([]any, len(rs))
				for i, r := range rs {
					out[i] = recordJSON(r)
				}
				return writeJSON(a.machine.Stdout, out)
			}
			return a.showHistory(rs, f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.json, "json", false, "write JSON")
	fl.IntVar(&f.limit, "limit", 20, "`number` of records; 0 is all")
	fl.BoolVar(&f.all, "all", false, "list the records of every project on this machine")
	fl.BoolVar(&f.registry, "registry", false, "read the records beside the project's images")
	fl.BoolVar(&f.push, "push", false, "read those in the registry that the image names instead of the one on this machine")
	return cmd
}

// history gives records, the newest first.
func (a *app) history(ctx context.Context, f historyFlags, limit int) ([]record.Record, error) {
	if limit < 0 {
		return nil, diag.Hint(usage("reading --limit: %d is negative", limit), "--limit 0 is all")
	}
	if f.all && f.registry {
		return nil, usage("reading --all: the records beside the images are those of one project")
	}
	if !f.registry {
		s, err := a.records()
		if err != nil {
			return nil, err
		}
		project, err := a.projectHere(f)
		if err != nil {
			return nil, err
		}
		rs, warnings, err := s.Records(record.Filter{Project: project, Limit: limit})
		for _, w := range warnings {
			view.Fprintf(a.machine.Stderr, "strata: warning: %v\n", w)
		}
		return rs, err
	}
	runs, moves, err := a.remoteHistory(ctx, f, limit)
	if err != nil {
		return nil, err
	}
	rs := runs
	for _, j := range moves {
		rs = append(rs, a.recordOf(j))
	}
	slices.SortFunc(rs, func(x, y record.Record) int { return strings.Compare(y.ID, x.ID) })
	if limit > 0 && len(rs) > limit {
		rs = rs[:limit]
	}
	return rs, nil
}

// projectHere gives the image of the project whose records are wanted; "" is all.
// Without a project in the folder all are: there is none to choose by.
func (a *app) projectHere(f historyFlags) (string, error) {
	if _, err := os.Stat(a.dir()); err != nil {
		return "", fmt.Errorf("opening the folder %q: %w", a.dir(), pathCause(err))
	}
	if f.all {
		return "", nil
	}
	p, err := a.project()
	if errors.Is(err, spec.ErrNoProject) && a.flags.file == "" {
		return "", nil
	} else if err != nil {
		return "", err
	}
	return p.Image, nil
}

func (a *app) remoteHistory(ctx context.Context, f historyFlags, limit int) ([]record.Record, []journal.Record, error) {
	c, err := a.config(ctx)
	if err != nil {
		return nil, nil, err
	}
	c.Push = f.push
	runs, moves, warnings, err := strata.History(ctx, c, limit)
	for _, w := range warnings {
		a.warn(diag.Finding{Severity: diag.Warning, Text: w})
	}
	return runs, moves, err
}

// showRecord writes one record as JSON, a promotion or rollback from beside the
// images in the journal's own form.
func (a *app) showRecord(ctx context.Context, f historyFlags, id string) error {
	if !f.registry {
		s, err := a.records()
		if err != nil {
			return err
		}
		r, err := s.Get(id)
		var several *record.AmbiguousError
		switch {
		case errors.Is(err, record.ErrNotFound):
			return diag.Hint(err, "`strata history --all` lists the records of this machine; --registry asks for those beside the images")
		case errors.As(err, &several):
			return oneOf(several)
		case err != nil:
			return err
		}
		return writeJSON(a.machine.Stdout, recordJSON(r))
	}
	runs, moves, err := a.remoteHistory(ctx, f, 0)
	if err != nil {
		return err
	}
	found := map[string]any{}
	means := func(other string) bool {
		return id != "" && (strings.HasPrefix(other, id) || strings.HasSuffix(other, id))
	}
	for _, r := range runs {
		if means(r.ID) {
			found[r.ID] = r
		}
	}
	for _, r := range moves {
		if means(r.ID) {
			found[r.ID] = r
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	switch len(ids) {
	case 0:
		return diag.Hint(fmt.Errorf("reading record %q: %w", id, record.ErrNotFound), "`strata history --registry` lists them; with --push, those in the registry that the image names")
	case 1:
		return writeJSON(a.machine.Stdout, found[ids[0]])
	}
	slices.Reverse(ids)
	return oneOf(&record.AmbiguousError{Part: id, IDs: ids})
}

// oneOf names the first of several records that a part of an id means.
func oneOf(several *record.AmbiguousError) error {
	const most = 5
	ids := several.IDs[:min(most, len(several.IDs))]
	text := strings.Join(ids, ", ")
	if rest := len(several.IDs) - len(ids); rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return diag.Hint(several, "give more of the id: %s", text)
}

// recordJSON gives a record as it is shown: a run as it is, a promotion or
// rollback in the form of the journal.
func recordJSON(r record.Record) any {
	if r.Kind == "" {
		return r
	}
	j := journal.Record{
		Version: journal.Version, ID: r.ID, Kind: journal.Kind(r.Kind), State: journal.Done, Project: r.Project, Channel: r.Channel, From: r.From,
		Undoes: r.Undoes, Started: r.Started, Finished: r.Finished, Command: r.Command, Revision: r.Revision, Dirty: r.Dirty, Moves: []journal.Move{},
	}
	switch r.Outcome {
	case record.Running:
		j.State = journal.Started
	case record.Failed:
		j.State = journal.Abandoned
	}
	for _, t := range r.Tags {
		i := max(strings.LastIndexByte(t.Tag, ':'), 0)
		j.Moves = append(j.Moves, journal.Move{
			Image: t.Tag[:i], Tag: strings.TrimPrefix(t.Tag[i:], ":"), Digest: digest.Digest(t.Digest), Previous: digest.Digest(t.Previous),
		})
	}
	return j
}

func (a *app) showHistory(rs []record.Record, f historyFlags) error {
	t := view.Table{Columns: []view.Column{
		{Title: "RECORD"}, {Title: "PROJECT"}, {Title: "OUTCOME"}, {Title: "TIME", Right: true}, {Title: "WHAT", Shrink: true},
	}}
	for _, r := range rs {
		took := time.Duration(0)
		if !r.Finished.IsZero() {
			took = r.Finished.Sub(r.Started)
		}
		t.Row(r.ID, r.Project, string(r.Outcome), view.Duration(took), whatOf(r))
	}
	none := "there is no record of a run yet"
	if !f.all && !f.registry {
		none += "; strata history --all lists those of every project"
	}
	return a.writeTable(t, none)
}

// whatOf says what a record is of in a few words.
func whatOf(r record.Record) string {
	moved := 0
	for _, t := range r.Tags {
		if t.Previous != t.Digest {
			moved++
		}
	}
	if r.Kind != "" {
		return title(journal.Record{Kind: journal.Kind(r.Kind), Channel: r.Channel, From: r.From}) + fmt.Sprintf(", %d of %s", moved, plural(len(r.Tags), "tag"))
	}
	counts := map[string]int{}
	for _, u := range r.Units {
		counts[u.Action]++
	}
	var steps []string
	for _, act := range slices.Sorted(maps.Keys(counts)) {
		steps = append(steps, fmt.Sprintf("%d %s", counts[act], act))
	}
	what := strings.Join(steps, ", ")
	if moved > 0 {
		what += "; " + plural(moved, "tag") + " moved"
	}
	return strings.TrimPrefix(what, "; ")
}
