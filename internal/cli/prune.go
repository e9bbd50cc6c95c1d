package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/view"
)

// pruneFlags are what the user says about what may go.
type pruneFlags struct {
	push, apply, json, long bool
	older, history, grace   days
	olderGiven              bool
	count                   int
	layers, tags            []string
}

// tagsAfter is how long a tag that --tags lets go stands at least, unless
// --older says otherwise.
const tagsAfter = 90 * 24 * time.Hour

func (a *app) pruneImagesCmd() *cobra.Command {
	f := pruneFlags{history: days(prune.DefaultHistory), grace: days(prune.DefaultGrace)}
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images from the registry that nothing needs any more",
		Long: `Prune looks through the repositories of the project and removes what no tag of
yours, no index, no promotion and no build of the project as it is leads to, once it
has not been used for as long as its layer is kept (keep in strata.yaml; 30 days
where nothing is said). Images of indexes and what is attached to an image stay and
go with it. What Strata does not know stays.

Without --apply nothing is deleted: it says what would go and why, and how much that
frees. Your own tags stay, and all that they lead to, unless --tags names a pattern
for them; tags that builds or channels move, and protected ones, stay even then.`,
		Example: `  strata prune                                   # what would go on this machine
  strata prune --push                            # in the registry that the image names
  strata prune --push --apply
  strata prune --push --tags '*-g*' --older 30d  # versions between releases as well
  strata prune --layer ml --older 2d --keep-count 3`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.olderGiven = cmd.Flags().Changed("older")
			return a.prune(cmd.Context(), f)
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.push, "push", false, "look in the registry that the image names instead of the one on this machine")
	fs.BoolVar(&f.apply, "apply", false, "delete; without it prune only says what would go")
	fs.Var(&f.older, "older", "what was not used for this `time` goes (30d, 36h), in place of what the layers keep; with --tags, tags set longer ago (default 90d)")
	fs.IntVar(&f.count, "keep-count", 0, "keep this `number` of the newest images of each unit, whatever their age")
	fs.StringArrayVar(&f.layers, "layer", nil, "only images of this `layer`; repeat it for more")
	fs.StringArrayVar(&f.tags, "tags", nil, "let tags of this `pattern` go, such as '*-g*'; repeat it for more")
	fs.Var(&f.history, "history", "`time` for which records and promotions stay, and the way back from these")
	fs.Var(&f.grace, "grace", "leave alone what was made or used within this `time`: longer than a build takes")
	fs.BoolVarP(&f.long, "long", "l", false, "list every manifest that goes")
	fs.BoolVar(&f.json, "json", false, "write JSON")
	return cmd
}

// options checks the flags and gives what they mean.
func (f pruneFlags) options(known []string) (strata.PruneOptions, error) {
	o := strata.PruneOptions{
		Older: time.Duration(f.older), Count: f.count, Layers: f.layers, Tags: f.tags, After: tagsAfter,
		History: time.Duration(f.history), Grace: time.Duration(f.grace),
	}
	if f.olderGiven {
		o.After = o.Older
	}
	if o.Grace == 0 {
		o.Grace = -1
	}
	if f.count < 0 {
		return o, diag.Hint(fmt.Errorf("pruning: reading --keep-count: %d is less than nothing", f.count), "--keep-count 3 keeps the 3 newest images of each unit; 0 is no such rule")
	}
	for _, l := range f.layers {
		if !slices.Contains(known, l) {
			return o, diag.Hint(fmt.Errorf("pruning: there is no layer %q", l), "the layers are %s", strings.Join(known, ", "))
		}
	}
	for _, p := range f.tags {
		if err := prune.CheckPattern(p); err != nil {
			return o, usage("pruning: reading the pattern %q: %w", p, err)
		}
	}
	return o, nil
}

func (a *app) prune(ctx context.Context, f pruneFlags) error {
	project, err := a.project()
	if err != nil {
		return err
	}
	var layers []string
	for _, l := range project.Layers {
		layers = append(layers, l.Name)
	}
	o, err := f.options(layers)
	if err != nil {
		return err
	}
	p, err := a.prepare(ctx, passFlags{push: f.push}, nil, nil)
	if err != nil {
		return err
	}
	x, err := p.Prune(ctx, o)
	if err != nil {
		return err
	}
	out := pruneJSON{Plan: x.Plan, Applied: f.apply}
	if f.apply {
		if out.Done, err = a.applyPrune(ctx, x, f); err != nil {
			return err
		}
	}
	if f.json {
		return a.writePruneJSON(out)
	}
	return a.showPrune(x, f, out.Done)
}

// applyPrune deletes, and frees what that leaves of the registry on this machine.
func (a *app) applyPrune(ctx context.Context, x *strata.Pruning, f pruneFlags) (*strata.Pruned, error) {
	w := a.machine.Stderr
	shown := view.IsTerminal(w) && !f.json
	done, err := x.Execute(ctx, func(n, total int) {
		if shown {
			view.Fprintf(w, "\rdeleting %d of %d", n, total)
		}
	})
	if shown && !x.Plan.Empty() {
		view.Fprintf(w, "\r\x1b[K")
	}
	if err != nil {
		return nil, diag.Hint(err, "%s", cmp.Or(diag.HintOf(err), "what is left goes when prune is run again"))
	}
	if f.push || x.Plan.Empty() {
		return &done, nil
	}
	e, err := a.openRegistry()
	if err != nil {
		return nil, err
	}
	minAge := time.Duration(f.grace)
	if minAge == 0 {
		minAge = -1
	}
	got, err := x.Collect(ctx, e, 2*time.Second, minAge)
	if errors.Is(err, registry.ErrInUse) {
		a.warn(diag.Finding{
			Severity: diag.Warning, Text: "another strata process has the registry open, so the disk space is not free yet",
			Hint: "`strata store prune` frees it when that one is done",
		})
		return &done, nil
	} else if err != nil {
		return nil, err
	}
	done.Manifests, done.Freed = got.Manifests, got.Freed
	return &done, nil
}

type pruneJSON struct {
	prune.Plan
	Applied bool
	Done    *strata.Pruned
}

func (a *app) writePruneJSON(out pruneJSON) error {
	type tag struct {
		Repo   string `json:"repository"`
		Tag    string `json:"tag"`
		Digest string `json:"digest"`
	}
	expired := []tag{}
	for _, t := range out.Expired {
		expired = append(expired, tag{t.Repo, t.Name, t.Digest.String()})
	}
	if out.Items == nil {
		out.Items = []prune.Item{}
	}
	return writeJSON(a.machine.Stdout, struct {
		Applied bool           `json:"applied"`
		Items   []prune.Item   `json:"items"`
		Expired []tag          `json:"expired"`
		Frees   int64          `json:"frees"`
		Stays   int64          `json:"stays"`
		Done    *strata.Pruned `json:"done,omitempty"`
	}{out.Applied, out.Items, expired, out.Freed, out.Stays, out.Done})
}

// pruneRow sums manifests up that have the same fate for the same reason.
type pruneRow struct {
	goes         bool
	what, reason string
	count        int
	frees        int64
}

func pruneRows(items []prune.Item) []pruneRow {
	var rows []pruneRow
	at := map[[3]string]int{}
	for _, i := range items {
		what := kinds(i.Kind)
		if i.Unit != "" {
			what = i.Unit
		}
		k := [3]string{what, i.Reason, strconv.FormatBool(i.Goes)}
		n, ok := at[k]
		if !ok {
			n = len(rows)
			at[k] = n
			rows = append(rows, pruneRow{goes: i.Goes, what: what, reason: i.Reason})
		}
		rows[n].count++
		rows[n].frees += i.Frees
	}
	return rows
}

func kinds(k prune.Kind) string {
	switch k {
	case prune.Index:
		return "indexes"
	case prune.Inventory:
		return "inventories"
	case prune.Other:
		return "other"
	}
	return string(k) + "s"
}

// showPrune writes what goes and what stays.
func (a *app) showPrune(x *strata.Pruning, f pruneFlags, done *strata.Pruned) error {
	w, pal := a.machine.Stdout, a.palette(a.machine.Stdout)
	t := view.Table{Columns: []view.Column{{Title: ""}, {Title: "WHAT"}, {Title: "COUNT", Right: true}, {Title: "SIZE", Right: true}, {Title: "WHY", Shrink: true}}}
	for _, r := range pruneRows(x.Plan.Items) {
		fate, style, size := "stays", view.Dim, ""
		if r.goes {
			fate, style, size = "goes", view.Yellow, view.Bytes(r.frees)
		}
		t.Rows = append(t.Rows, []view.Cell{{Text: fate, Style: style}, {Text: r.what}, {Text: strconv.Itoa(r.count)}, {Text: size}, {Text: r.reason}})
	}
	for _, e := range x.Plan.Expired {
		t.Rows = append(t.Rows, []view.Cell{{Text: "goes", Style: view.Yellow}, {Text: "tag " + e.Name}, {Text: "1"}, {}, {Text: "matches --tags and has stood long enough"}})
	}
	if f.long {
		for _, i := range x.Plan.Items {
			if i.Goes {
				view.Fprintf(w, "%s@%s %s\n", i.Repo, i.Digest, strings.Join(i.Tags, " "))
			}
		}
	}
	if len(t.Rows) == 0 {
		_, err := view.Fprintln(w, "Nothing to prune: the project has no images here yet")
		return err
	}
	if err := t.Write(w, pal, a.width(w)); err != nil {
		return err
	}
	if n := held(x.Plan.Items); n > 0 {
		view.Fprintf(w, "Held by promotions of the last %s: %d\n", f.history.String(), n)
	}
	switch {
	case x.Plan.Empty():
		view.Fprintf(w, "Nothing to prune: %s, %s stay\n", plural(x.Tags, "tag"), view.Bytes(x.Plan.Stays))
	case done == nil:
		view.Fprintf(w, "%d of %d manifests and %d tags of yours would go; that frees %s, and %s stay. Nothing was deleted: --apply does it.\n",
			x.Plan.Going(), len(x.Plan.Items), len(x.Plan.Expired), view.Bytes(x.Plan.Freed), view.Bytes(x.Plan.Stays))
	default:
		view.Fprintf(w, "%d tags and %d manifests deleted, %s freed\n", done.Tags, done.Manifests, view.Bytes(done.Freed))
		if done.Spared > 0 {
			view.Fprintf(w, "%d manifests have come into use meanwhile and stay\n", done.Spared)
		}
		if len(done.Left) > 0 {
			view.Fprintf(w, "the registry deletes no tags: %s stay until what they point to goes\n", strings.Join(done.Left, ", "))
		}
	}
	return nil
}

// held counts the images that stay only because promotions lead to them.
func held(items []prune.Item) int {
	n := 0
	for _, i := range items {
		if !i.Goes && i.Reason == prune.StayHistory {
			n++
		}
	}
	return n
}

// days is a length of time for a flag: Go's, and days and weeks.
type days time.Duration

// String gives it in days where it is whole days, and nothing for no time, which
// help leaves out.
func (d *days) String() string {
	t := time.Duration(*d)
	if t == 0 {
		return ""
	}
	if day := 24 * time.Hour; t >= day && t%day == 0 {
		return fmt.Sprintf("%dd", t/day)
	}
	return t.String()
}

// Set reads "30d", "2w" or what Go calls a duration.
func (d *days) Set(s string) error {
	unit := time.Duration(0)
	switch {
	case strings.HasSuffix(s, "d"):
		unit = 24 * time.Hour
	case strings.HasSuffix(s, "w"):
		unit = 7 * 24 * time.Hour
	}
	if unit > 0 {
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
		if err != nil {
			return errors.New("write a number and a unit, such as 30d, 2w or 36h")
		}
		*d = days(time.Duration(n) * unit)
		return nil
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return errors.New("write a number and a unit, such as 30d, 2w or 36h")
	}
	*d = days(t)
	return nil
}

// Type names it in help.
func (d *days) Type() string { return "time" }
