package cli

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/doctor"
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
