package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/doctor"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) storeCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Show, prune or reset what Strata keeps on this machine",
		Long: `All that Strata keeps on a machine lies under $STRATA_HOME (default: strata in the XDG
data folder): the registry, the engine's store, records and caches.`,
		Example: "  strata store\n  strata store prune\n  strata store reset --force",
		Args:    takes(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.showStore(asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	cmd.AddCommand(a.pruneCmd(), a.resetCmd())
	return cmd
}

// parts are the folders under home.
var parts = doctor.Parts

func (a *app) showStore(asJSON bool) error {
	sizes := map[string]int64{}
	var total int64
	t := view.Table{Columns: []view.Column{{Title: "PART"}, {Title: "SIZE", Right: true}}}
	for _, part := range parts {
		n, err := diskUsage(filepath.Join(a.home(), part))
		if err != nil {
			return fmt.Errorf("measuring the store: %w", err)
		}
		sizes[part] = n
		total += n
		t.Row(part, view.Bytes(n))
	}
	use, err := registry.UsageOf(filepath.Join(a.home(), "registry"))
	if err != nil {
		return fmt.Errorf("measuring the store: %w", err)
	}
	if asJSON {
		return writeJSON(a.machine.Stdout, map[string]any{"home": a.home(), "bytes": total, "parts": sizes, "unfinished": use.Unfinished})
	}
	t.Row("total", view.Bytes(total))
	view.Fprintln(a.machine.Stdout, a.home())
	if err := t.Write(a.machine.Stdout, a.palette(a.machine.Stdout), a.width(a.machine.Stdout)); err != nil {
		return err
	}
	if use.Unfinished > 0 {
		view.Fprintf(a.machine.Stdout, "%s of the registry are uploads that are under way or were cut; `strata store prune` removes the latter\n",
			view.Bytes(use.Unfinished))
	}
	return nil
}

func (a *app) pruneCmd() *cobra.Command {
	var keep time.Duration
	var size int64
	var records int
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove from the store what no tag leads to and what was not used", Args: takes(0, 0),
		Long: `Prune frees disk space: in the registry on this machine what no tag leads to any more
and what a run that was killed, or had no room, has left half written; in the
embedded engine's store what was not used for a while; and of the records of runs
(strata history) all but the newest. Images that have a tag stay, so a build after
it rebuilds nothing that had been published. It needs no room on the disk itself,
and waits for other runs, which may be writing.`,
		Example: "  strata store prune\n  strata store prune --unused 48h --keep-gb 10",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if size < 0 || keep < 0 || records < 1 {
				return usage("pruning the store: --unused and --keep-gb are at least 0, --keep-records at least 1")
			}
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			held, err := strata.KeptByHistory(cmd.Context(), c, e, a.machine.Now())
			if err != nil {
				return err
			}
			before, err := diskUsage(a.home())
			if err != nil {
				return fmt.Errorf("measuring the store: %w", err)
			}
			got, err := e.GC(cmd.Context(), registry.GCOptions{
				Wait: 10 * time.Second, Hold: held, Idle: true,
				Alone: func() error { return dropTemps(filepath.Join(a.home(), "cache")) },
			})
			if errors.Is(err, registry.ErrInUse) {
				err = diag.Hint(err, "end other runs of strata and `strata registry serve` first")
			}
			if err != nil {
				return err
			}
			s, err := a.records()
			if err != nil {
				return err
			}
			gone, err := s.Prune(record.Keep{Count: records}, a.machine.Now())
			if err != nil {
				return err
			}
			// The engine's databases may need room: it comes last, and what was
			// freed is told even if it fails.
			failed := a.pruneEngine(cmd.Context(), buildkit.PruneOptions{KeepFor: keep, KeepBytes: size << 30})
			after, err := diskUsage(a.home())
			if err != nil {
				return errors.Join(failed, fmt.Errorf("measuring the store: %w", err))
			}
			view.Fprintf(a.machine.Stdout, "freed %s\n", view.Bytes(max(before-after, 0)))
			if got.Uploads > 0 {
				view.Fprintf(a.machine.Stdout, "%s removed\n", plural(got.Uploads, "unfinished upload"))
			}
			if gone > 0 {
				view.Fprintf(a.machine.Stdout, "%s of runs removed\n", plural(gone, "old record"))
			}
			return failed
		},
	}
	cmd.Flags().DurationVar(&keep, "unused", 14*24*time.Hour, "the engine keeps what was used within this `time`")
	cmd.Flags().IntVar(&records, "keep-records", 1000, "this `number` of the newest records of runs stays")
	cmd.Flags().Int64Var(&size, "keep-gb", 20, "the engine keeps at most this `number` of gibibytes")
	return cmd
}

// pruneEngine prunes the embedded engine's store, where there is one; opening it
// clears what a killed run has left.
func (a *app) pruneEngine(ctx context.Context, o buildkit.PruneOptions) error {
	if a.remote() || !dirExists(filepath.Join(a.home(), "engine")) {
		return nil
	}
	e, err := a.openEmbedded(ctx, func(s string, v ...any) { view.Fprintf(a.machine.Stderr, s+"\n", v...) })
	if err != nil {
		return err
	}
	_, err = e.Prune(ctx, o)
	return err
}

func (a *app) resetCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Remove everything that Strata keeps on this machine", Args: takes(0, 0),
		Long: `Reset removes the registry on this machine with all images in it, the engine's store,
records and caches. What was pushed elsewhere stays. Nothing is removed without
--force.`,
		Example: "  strata store reset --force",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				return diag.Hint(fmt.Errorf("resetting the store: this removes %s with every image that is kept only there", a.home()),
					"`strata store` shows what it holds; `strata store reset --force` removes it")
			}
			if why, hint, err := doctor.Foreign(a.home(), os.Geteuid()); why != "" || err != nil {
				return diag.Hint(fmt.Errorf("resetting the store: %s", cmp.Or(why, fmt.Sprint(err))), "%s", hint)
			}
			if dirExists(filepath.Join(a.home(), "engine")) && os.Geteuid() == 0 {
				// Opening the engine clears what a killed run left, mounts included.
				e, err := buildkit.Open(cmd.Context(), buildkit.Options{Root: filepath.Join(a.home(), "engine"), NoWait: true})
				if err != nil {
					return err
				}
				if err := e.Close(); err != nil {
					return err
				}
			}
			if err := registry.Remove(filepath.Join(a.home(), "registry")); err != nil {
				return fmt.Errorf("resetting the store: %w", err)
			}
			for _, part := range parts {
				if part == "registry" { // its lock stays
					continue
				}
				if err := os.RemoveAll(filepath.Join(a.home(), part)); err != nil {
					return fmt.Errorf("resetting the store: %w", err)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "really remove it")
	return cmd
}

func dirExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// diskUsage sums the sizes of the files below a folder, each hard link once. It
// does not go into what is mounted there.
func diskUsage(dir string) (int64, error) {
	var sum int64
	seen := map[[2]uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone meanwhile
		}
		blocks, id, once := allocated(info)
		if once || !seen[id] {
			sum += blocks
		}
		seen[id] = true
		return nil
	})
	return sum, err
}
