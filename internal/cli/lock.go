package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/hostfile"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/view"
)

// lockFile reads the project's strata.lock; nil when there is none.
func (a *app) lockFile() (*lock.File, error) {
	access, err := a.access()
	if err != nil {
		return nil, err
	}
	data, err := access.ReadFile(lock.Name, hostfile.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", lock.Name, pathCause(err))
	}
	f, err := lock.Parse(data)
	if errors.Is(err, lock.ErrConflict) {
		return nil, diag.Hint(err, "take one side, then `strata lock`")
	}
	if err != nil {
		return nil, diag.Hint(err, "`strata lock` writes it anew once it is removed")
	}
	return f, nil
}

func (a *app) lockCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Pin every external image in strata.lock",
		Long: `Lock writes strata.lock: every image that a Dockerfile takes from elsewhere, pinned to
its digest per platform. Recipes use it, so that a base image moves when you say so
(strata update) and not in the middle of a day. Images that are pinned already stay
as they are; those that are no longer used go. Commit the file.`,
		Example: `  strata lock && git add strata.lock`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.lock(cmd.Context())
		},
	}
	return cmd
}

// lock writes the lock with what it does not pin yet.
func (a *app) lock(ctx context.Context) error {
	c, err := a.config(ctx)
	if err != nil {
		return err
	}
	old, next, err := newPins(ctx, c, func(string) bool { return false })
	if err != nil {
		return err
	}
	if err := a.writeLock(next); err != nil {
		return err
	}
	changes := lock.Diff(old, next)
	if err := a.showChanges(ctx, c, changes, false); err != nil {
		return err
	}
	view.Fprintf(a.machine.Stdout, "%s: %d pinned, %d changed\n", lock.Name, len(next.Images), len(changes))
	return nil
}

func (a *app) checkLock(ctx context.Context, images []string, asJSON bool) error {
	c, err := a.config(ctx)
	if err != nil {
		return err
	}
	if c.Lock == nil {
		return diag.Hint(errors.New("there is no strata.lock to check"), "`strata lock` writes it")
	}
	if err := knownImages(images, c.Lock); err != nil {
		return a.notPinned(ctx, c, images, err)
	}
	if len(images) > 0 {
		c.Lock = c.Lock.Without(func(name string) bool { return !slices.Contains(images, name) })
	}
	changes, err := strata.Outdated(ctx, c)
	if err != nil {
		return err
	}
	if err := a.showChanges(ctx, c, changes, asJSON); err != nil {
		return err
	}
	if len(changes) > 0 {
		return code(exitChanges)
	}
	if !asJSON {
		view.Fprintf(a.machine.Stdout, "%s is up to date: %s\n", lock.Name, plural(len(c.Lock.Images), "image"))
	}
	return nil
}

// knownImages checks that each of the images asked for is in a lock.
func knownImages(images []string, f *lock.File) error {
	for _, name := range images {
		if _, ok := f.Index(name); ok {
			continue
		}
		err := fmt.Errorf("updating %q: no Dockerfile of the project takes it, written like that", name)
		if len(f.Images) == 0 {
			return diag.Hint(err, "%s pins no image", lock.Name)
		}
		var known []string
		for _, i := range f.Images {
			known = append(known, i.Name)
		}
		return diag.Hint(err, "%s pins %s", lock.Name, strings.Join(known, ", "))
	}
	return nil
}

// notPinned tells an image that a Dockerfile takes, and that the lock does not
// have yet, from one that nothing takes, which is err.
func (a *app) notPinned(ctx context.Context, c strata.Config, images []string, err error) error {
	on, e := strata.UnitsOn(ctx, c)
	if e != nil {
		return e
	}
	for _, name := range images {
		if _, pinned := c.Lock.Index(name); !pinned && len(on[name]) > 0 {
			return diag.Hint(fmt.Errorf("checking %q: %s does not pin it yet", name, lock.Name), "`strata lock` pins it")
		}
	}
	return err
}

// showChanges writes a line for each image that moved, with what stands on it.
func (a *app) showChanges(ctx context.Context, c strata.Config, changes []lock.Change, asJSON bool) error {
	if asJSON {
		if changes == nil {
			changes = []lock.Change{}
		}
		return writeJSON(a.machine.Stdout, changes)
	}
	if len(changes) == 0 {
		return nil
	}
	units, err := strata.UnitsOn(ctx, c)
	if err != nil {
		return err
	}
	t := view.Table{Columns: []view.Column{{Title: "IMAGE"}, {Title: "WAS"}, {Title: "IS"}, {Title: "PINNED"}, {Title: "UNITS ON IT", Shrink: true}}}
	for _, ch := range changes {
		since := "-"
		if !ch.OldSince.IsZero() {
			since = view.Duration(a.machine.Now().Sub(ch.OldSince).Truncate(time.Second)) + " ago"
		}
		t.Row(ch.Name, shortDigest(ch.Old.String()), shortDigest(ch.New.String()), since, strings.Join(units[ch.Name], ", "))
	}
	return t.Write(a.machine.Stdout, a.palette(a.machine.Stdout), a.width(a.machine.Stdout))
}

func shortDigest(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) < 12 {
		return "-"
	}
	return hex[:12]
}
