package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/packages"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/view"
)

type updateFlags struct {
	check, json, push, dryRun, noPackages bool
}

func (a *app) updateCmd() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update [IMAGE...]",
		Short: "Move the pins of external images to what they are now",
		Long: `Update moves the pins in strata.lock to what the images' tags point to now, and says
what that means: which packages were added, removed and upgraded, which units will
be made anew and how long that takes by earlier runs. Without an image, all move.

Packages are read from the databases of dpkg and apk; of an image no more is pulled
than that takes. With --check it only looks, by one HEAD request an image, which
registries do not count as a pull, and exits with 2 when one has moved.

` + exitCodesHelp(),
		Example: `  strata update
  strata update debian:bookworm-slim
  strata update --dry-run    # say it, and leave strata.lock as it is
  strata update --check      # in CI: exit code 2 when a base image has moved`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.check {
				return a.checkLock(cmd.Context(), args, f.json)
			}
			return a.update(cmd.Context(), f, args)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.check, "check", false, "change nothing; exit with 2 when an image has moved")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would change, and leave strata.lock as it is")
	fl.BoolVar(&f.noPackages, "no-packages", false, "do not compare what the images have installed")
	fl.BoolVar(&f.push, "push", false, "ask the registry that the image names what will be made anew, instead of the one on this machine")
	fl.BoolVar(&f.json, "json", false, "write JSON, with every package")
	return cmd
}

// updateJSON is what `update --json` writes.
type updateJSON struct {
	Images []strata.Update `json:"images"`
	Steps  []plan.Step     `json:"steps"` // of the units that will be made anew
	// StepsUnknown says why the steps can't be told.
	StepsUnknown string `json:"stepsUnknown,omitempty"`
}

func (a *app) update(ctx context.Context, f updateFlags, args []string) error {
	c, err := a.config(ctx)
	if err != nil {
		return err
	}
	c.Push = f.push
	old, next, err := newPins(ctx, c, func(name string) bool { return len(args) == 0 || slices.Contains(args, name) })
	if err != nil {
		return err
	}
	if err := knownImages(args, next); err != nil {
		return err
	}
	out := updateJSON{Images: []strata.Update{}, Steps: []plan.Step{}}
	found, err := strata.Updates(ctx, c, old, next, !f.noPackages)
	if err != nil {
		return err
	}
	out.Images = append(out.Images, found...)
	steps, err := strata.Rebuilds(ctx, c, next, found)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil { // the pins are good all the same
		out.StepsUnknown = err.Error()
	}
	out.Steps = append(out.Steps, steps...)
	if !f.dryRun {
		if err := a.writeLock(next); err != nil {
			return err
		}
	}
	w := a.machine.Stdout
	if f.json {
		return writeJSON(w, out)
	}
	p := a.palette(w)
	for _, u := range found {
		a.showUpdate(w, p, u)
	}
	a.showSteps(w, out)
	moved := fmt.Sprintf("%s: %d pinned, %d changed", lock.Name, len(next.Images), len(found))
	switch {
	case f.dryRun && len(found) == 0:
		moved = lock.Name + " is up to date: nothing would change"
	case f.dryRun:
		moved = fmt.Sprintf("%s is as it was: %s would change", lock.Name, plural(len(found), "image"))
	}
	view.Fprintln(w, moved)
	return nil
}

// newPins gives the lock as it is and as it is to be.
func newPins(ctx context.Context, c strata.Config, move func(string) bool) (old, next *lock.File, err error) {
	fresh, err := strata.Pins(ctx, c, move)
	if err != nil {
		return nil, nil, err
	}
	if old = c.Lock; old == nil {
		old = &lock.File{Version: lock.Version}
	}
	return old, old.Keep(fresh, move), nil
}

func (a *app) writeLock(f *lock.File) error {
	data, err := f.Encode()
	if err != nil {
		return err
	}
	file, err := a.target(a.fromDir(lock.Name)) // it may be a link within the repository
	if err != nil {
		return fmt.Errorf("writing %s: %w", lock.Name, err)
	}
	mode := os.FileMode(0o644) // to be read by everybody who may read the project
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	if err := strata.WriteFile(file, data); err != nil {
		return fmt.Errorf("writing %s: %w", lock.Name, err)
	}
	return os.Chmod(file, mode)
}

// showUpdate writes what became of an image.
func (a *app) showUpdate(w io.Writer, p view.Palette, u strata.Update) {
	name := p.Paint(view.Bold, u.Name)
	switch {
	case u.Old == "":
		view.Fprintf(w, "%s %s is pinned\n", name, shortDigest(u.New.String()))
		return
	case u.New == "":
		view.Fprintf(w, "%s %s is not used any more\n", name, shortDigest(u.Old.String()))
		return
	}
	view.Fprintf(w, "%s %s -> %s\n", name, shortDigest(u.Old.String()), shortDigest(u.New.String()))
	if !u.OldSince.IsZero() {
		view.Fprintf(w, "  pinned %s\n", a.ago(u.OldSince))
	}
	if made := a.madeWhen(u.Platforms); made != "" {
		view.Fprintf(w, "  %s\n", made)
	}
	for _, g := range alike(u.Platforms) {
		showPackages(w, p, g)
	}
	if len(u.Units) > 0 {
		view.Fprintf(w, "  units on it: %s\n", strings.Join(u.Units, ", "))
	}
}

func (a *app) ago(t time.Time) string {
	return view.Duration(a.machine.Now().Sub(t).Truncate(time.Second)) + " ago"
}

// madeWhen says how old an image is, by the first platform that tells.
func (a *app) madeWhen(all []strata.PlatformUpdate) string {
	for _, u := range all {
		switch {
		case u.NewCreated.IsZero():
			continue
		case u.OldCreated.IsZero():
			return "made " + a.ago(u.NewCreated)
		}
		return fmt.Sprintf("made %s, the one before %s", a.ago(u.NewCreated), a.ago(u.OldCreated))
	}
	return ""
}

// group is platforms on which the same packages changed.
type group struct {
	platforms []string
	changes   []packages.Change
	unknown   string
}

// alike groups platforms: the packages of two are the same but for their
// architecture.
func alike(all []strata.PlatformUpdate) []group {
	var out []group
	for _, u := range all {
		if u.Packages == nil && u.Unknown == "" { // they were not asked for
			continue
		}
		changes := slices.Clone(u.Packages)
		for i := range changes {
			changes[i].Arch = ""
		}
		i := slices.IndexFunc(out, func(g group) bool { return g.unknown == u.Unknown && slices.Equal(g.changes, changes) })
		if i < 0 {
			out = append(out, group{nil, changes, u.Unknown})
			i = len(out) - 1
		}
		out[i].platforms = append(out[i].platforms, u.Platform)
	}
	return out
}

// mostPackages bounds what is shown of an image's packages; a distribution's
// point release changes hundreds.
const mostPackages = 12

// kindOrder is the order in which packages are shown: what came and went first,
// it is rarer and says more.
var kindOrder = []packages.ChangeKind{packages.Removed, packages.Added, packages.Downgraded, packages.Upgraded, packages.Changed}

func showPackages(w io.Writer, p view.Palette, g group) {
	on := strings.Join(g.platforms, ", ")
	switch {
	case g.unknown != "":
		view.Fprintf(w, "  packages (%s): %s\n", on, g.unknown)
		return
	case len(g.changes) == 0:
		view.Fprintf(w, "  packages (%s): the same\n", on)
		return
	}
	var counts []string
	shown := slices.Clone(g.changes)
	slices.SortStableFunc(shown, func(a, b packages.Change) int {
		return slices.Index(kindOrder, a.Kind) - slices.Index(kindOrder, b.Kind)
	})
	for _, k := range kindOrder {
		n := 0
		for _, c := range g.changes {
			if c.Kind == k {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, k))
		}
	}
	view.Fprintf(w, "  packages (%s): %s\n", on, strings.Join(counts, ", "))
	more := 0
	if len(shown) > mostPackages {
		more = len(shown) - mostPackages + 1
		shown = shown[:mostPackages-1]
	}
	for _, c := range shown {
		view.Fprintf(w, "    %s\n", packageLine(p, c))
	}
	if more > 0 {
		view.Fprintf(w, "    and %d more, which --json lists\n", more)
	}
}

func packageLine(p view.Palette, c packages.Change) view.Painted {
	switch c.Kind {
	case packages.Added:
		return p.Paint(view.Green, "+ "+c.Name+" "+c.New)
	case packages.Removed:
		return p.Paint(view.Red, "- "+c.Name+" "+c.Old)
	case packages.Downgraded:
		return p.Paint(view.Yellow, c.Name+" "+c.Old+" -> "+c.New+" (older)")
	case packages.Changed:
		return view.Sprintf("%s %s (made anew)", c.Name, c.New)
	}
	return view.Sprintf("%s %s -> %s", c.Name, c.Old, c.New)
}

// showSteps says what will be made anew, and how long it takes by earlier runs.
func (a *app) showSteps(w io.Writer, out updateJSON) {
	if out.StepsUnknown != "" {
		view.Fprintf(w, "\nwhat will be made anew is not known: %s\n", out.StepsUnknown)
		return
	}
	if len(out.Images) == 0 {
		return
	}
	view.Fprintln(w)
	if len(out.Steps) == 0 {
		view.Fprintln(w, "no unit has to be made anew")
		return
	}
	t := view.Table{Columns: []view.Column{{Title: "UNIT"}, {Title: "STEP"}, {Title: "TIME"}}}
	var total time.Duration
	unknown := 0
	for _, s := range out.Steps {
		took := "no record"
		if s.Estimate != nil {
			took = estimate(s)
			total += time.Duration(s.Estimate.Seconds * float64(time.Second))
		} else {
			unknown++
		}
		t.Row(s.Unit, string(s.Action), took)
	}
	_ = t.Write(w, a.palette(w), a.width(w))
	sum := fmt.Sprintf("%s made anew", strings.Replace(units(len(out.Steps)), "is", "is to be", 1))
	if len(out.Steps) > 1 {
		sum = fmt.Sprintf("%d units are to be made anew", len(out.Steps))
	}
	switch {
	case unknown == len(out.Steps):
		sum += "; there is no record of how long that takes"
	case unknown > 0:
		sum += fmt.Sprintf("; about %s of work by earlier runs, and %d without a record", view.Duration(total), unknown)
	default:
		sum += fmt.Sprintf("; about %s of work by earlier runs", view.Duration(total))
	}
	view.Fprintln(w)
	view.Fprintln(w, sum)
}
