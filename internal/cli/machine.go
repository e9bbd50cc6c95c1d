package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/doctor"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/vcs"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) doctorCmd() *cobra.Command {
	var asJSON, fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, and say what to do",
		Long: `Doctor looks at the kernel, overlayfs, namespaces, emulators, disk, credentials and the
registry that the project names, and says what to do about what is missing.`,
		Example: `  strata doctor
  sudo strata doctor --fix     # register emulators that are installed`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if fix {
				if err := a.registerEmulators(); err != nil {
					return err
				}
			}
			checks := doctor.Run(cmd.Context(), a.doctorOptions())
			if asJSON {
				if err := writeJSON(a.machine.Stdout, checks); err != nil {
					return err
				}
			} else {
				a.showChecks(checks)
			}
			if doctor.Worst(checks) == doctor.Fail {
				return code(exitFailed)
			}
			return nil
		},
	}
	a.engineFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	cmd.Flags().BoolVar(&fix, "fix", false, "register installed emulators with the kernel (needs root)")
	return cmd
}

// platforms are those of the project, or both usual ones without a project.
func (a *app) platforms() []string {
	p, err := a.project()
	if err != nil {
		return []string{"linux/amd64", "linux/arm64"}
	}
	seen := map[string]bool{}
	var out []string
	for _, u := range p.Units() {
		if !seen[u.Platform] {
			seen[u.Platform] = true
			out = append(out, u.Platform)
		}
	}
	return out
}

func (a *app) registerEmulators() error {
	for _, p := range a.platforms() {
		native, emulated, err := buildkit.Emulation(p)
		if native || emulated {
			continue
		}
		if !errors.Is(err, buildkit.ErrNoEmulator) {
			return err
		}
		arch := strings.Split(p, "/")[1]
		if err := buildkit.RegisterBinfmt(arch); err != nil {
			return err
		}
		view.Fprintf(a.machine.Stderr, "registered the emulator for %s\n", p)
	}
	return nil
}

func (a *app) doctorOptions() doctor.Options {
	env := a.machine.Getenv
	config := env("DOCKER_CONFIG")
	if config == "" && env("HOME") != "" {
		config = filepath.Join(env("HOME"), ".docker")
	}
	o := doctor.Options{
		StateDir: a.home(), Remote: a.remote(), Platforms: a.platforms(), Now: a.machine.Now, Repository: a.standing,
	}
	if !o.Remote {
		o.Runc, o.RuncFrom = buildkit.RuncPath()
	}
	if config != "" {
		o.DockerConfig = filepath.Join(config, "config.json")
	}
	p, err := a.project()
	if err != nil || a.flags.offline {
		return o
	}
	ref, err := registry.ParseRef(p.Image)
	client, cerr := a.client()
	if err != nil || cerr != nil || !strings.ContainsAny(strings.Split(p.Image, "/")[0], ".:") {
		return o
	}
	o.Registries = []doctor.Registry{{Host: ref.Host, Probe: func(ctx context.Context) (time.Time, error) {
		return time.Time{}, client.CheckAccess(ctx, ref.Host)
	}}}
	return o
}

// standing says where the project's repository stands.
func (a *app) standing(ctx context.Context) (string, error) {
	info, err := vcs.Describe(ctx, a.git(), a.dir())
	switch {
	case errors.Is(err, vcs.ErrNoGit):
		return "the project has no git history: images have no version of their own", nil
	case err != nil:
		return "", err
	case info.Dirty:
		return info.Describe + ", with files that were not committed", nil
	}
	return info.Describe, nil
}

func (a *app) showChecks(checks []doctor.Check) {
	w := a.machine.Stdout
	pal := a.palette(w)
	marks := map[doctor.Status]view.Painted{
		doctor.OK: pal.Paint(view.Green, "ok  "), doctor.Warn: pal.Paint(view.Yellow, "warn"), doctor.Fail: pal.Paint(view.Red, "fail"),
	}
	for _, c := range checks {
		view.Fprintf(w, "%s  %-22s %s\n", marks[c.Status], c.Name, c.Detail)
		for _, l := range lines(c.Hint) {
			view.Fprintf(w, "      %s\n", pal.Paint(view.Cyan, "-> "+l))
		}
	}
}

func (a *app) registryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "The registry on this machine: serve it, import into it, list it",
		Long: `The registry on this machine keeps images whose name has no registry host, and what
strata build makes without --push. The content of HOST/REPO lies in it under that
name, and external images are looked up there first.`,
		Example: "  strata registry ls\n  strata registry serve",
		Args:    noCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.serveCmd(), a.importCmd(), a.listCmd(), a.removeCmd())
	return cmd
}

func (a *app) importCmd() *cobra.Command {
	var name, platform string
	var env, command []string
	cmd := &cobra.Command{
		Use:   "import ROOTFS.tar",
		Short: "Make an image of a root file system",
		Long: `Import makes an image of one layer from a root file system in a tar archive (plain,
gzip or zstd; - is standard input) and keeps it in the registry on this machine, where
every FROM finds it before the registry that the name means. Nothing else is found
there. Files keep their times, in whole seconds; the newest is the image's. Other
platforms under the same name stay.`,
		Example: `  mmdebstrap --variant=minbase bookworm rootfs.tar
  strata registry import rootfs.tar --as debian:bookworm-slim --platform linux/amd64`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usage("importing %q: --as must say what the image is called", args[0])
			}
			ref, err := registry.ParseRef(name)
			if err != nil {
				return err
			}
			in := io.NopCloser(a.machine.Stdin)
			if args[0] != "-" {
				path := args[0]
				if !filepath.IsAbs(path) {
					path = filepath.Join(a.machine.Dir, path)
				}
				if in, err = os.Open(path); err != nil {
					return fmt.Errorf("importing %q: %w", args[0], err)
				}
			}
			defer in.Close()
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			got, err := e.ImportRootfs(cmd.Context(), ref, platform, in, registry.ImportConfig{Env: env, Cmd: command})
			if err != nil {
				return err
			}
			view.Fprintf(a.machine.Stdout, "%s %s %s\n", ref.FamiliarString(), platform, got.Manifest.Digest)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "as", "", "`name` of the image, as a FROM would write it")
	f.StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "`platform` of the root file system")
	f.StringArrayVar(&env, "env", nil, "environment of the image, `NAME=value`")
	f.StringArrayVar(&command, "cmd", nil, "one `word` of the image's command; repeat it for more")
	return cmd
}

func (a *app) listCmd() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use: "ls [REPOSITORY]", Short: "List repositories and tags", Args: takes(0, 1),
		Long: `Ls lists what the registry on this machine holds, under the names that it keeps it
under: ghcr.io/user/app for what was built under that name without --push, and
strata.mirror/docker.io/library/debian for an image that was imported as debian,
which a FROM of any project finds.`,
		Example: "  strata registry ls\n  strata registry ls ghcr.io/user/app",
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			repos, err := e.Repositories()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				repos = slices.DeleteFunc(repos, func(repo string) bool {
					return repo != args[0] && repo != registry.MirrorFolder+"/"+args[0]
				})
			}
			t := view.Table{Columns: []view.Column{{Title: "REPOSITORY"}, {Title: "TAG"}, {Title: "DIGEST"}, {Title: "UPDATED"}}}
			rows := []map[string]string{}
			for _, repo := range repos {
				tags, err := e.Tags(repo)
				if err != nil {
					return err
				}
				for _, tag := range tags {
					if _, attached := tag.Attachment(); !all && (attached || strings.HasPrefix(tag.Ref.Tag, "strata-")) {
						continue
					}
					t.Row(repo, tag.Ref.Tag, tag.Digest.Encoded()[:12], tag.Updated.Format(time.DateTime))
					rows = append(rows, map[string]string{"repository": repo, "tag": tag.Ref.Tag, "digest": tag.Digest.String()})
				}
			}
			if asJSON {
				return writeJSON(a.machine.Stdout, rows)
			}
			none := "the registry on this machine holds nothing yet"
			if len(args) > 0 {
				none = "the registry on this machine has no tag of " + args[0]
			}
			return a.writeTable(t, none)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also the tags that Strata keeps for itself")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) removeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove tags; their content goes with strata store prune", Args: takes(1, -1),
		Long: `Rm removes tags from the registry on this machine. The disk space is free again after
strata store prune.`,
		Example: "  strata registry rm debian:bookworm-slim",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, arg := range args {
				ref, err := a.here(cmd.Context(), c, arg)
				if err != nil {
					return err
				}
				if err := c.Delete(cmd.Context(), ref); errors.Is(err, registry.ErrNotFound) {
					return diag.Hint(err, "`strata registry ls` lists what is there")
				} else if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// here finds the image of this machine that a name means: one that was built, or
// one that was imported.
func (a *app) here(ctx context.Context, c *registry.Client, word string) (registry.Ref, error) {
	named, err := registry.ParseRef(word)
	if err != nil || named.Host == registry.EmbeddedHost {
		return named, err
	}
	ref, err := a.parseImage(ctx, c, word)
	if err != nil {
		return ref, err
	}
	_, imported := c.Resolve(ctx, named.Mirror())
	switch {
	case imported != nil:
		return ref.Local(), nil
	case ref.Host == registry.EmbeddedHost:
		return ref, diag.Hint(fmt.Errorf("%s was both built and imported on this machine", word),
			"name the one that you mean: %s, or %s", ref, named.Mirror())
	}
	return named.Mirror(), nil
}

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
