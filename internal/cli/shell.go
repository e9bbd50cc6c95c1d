package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/view"
)

type shellFlags struct {
	commandFlags
	shell string
}

func (a *app) shellCmd() *cobra.Command {
	var f shellFlags
	cmd := &cobra.Command{
		Use:   "shell UNIT",
		Short: "Open a shell in a unit's image",
		Long: `Shell opens a shell in the image of a unit, in the engine, and ends with the shell's
exit code. The image must have been built as the project is now; one whose test has
failed is there, too, although no tag points to it. Nothing that is done in the shell
is kept.

On a terminal the shell is interactive. Otherwise it runs what it reads from standard
input. The shell is the image's bash or sh; --shell names another one.`,
		Example: `  strata shell app/cpu/amd64
  strata shell app --user root
  echo 'ls /srv' | strata shell app`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.completeUnits,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.shell(cmd.Context(), f, args[0]) },
	}
	f.add(cmd)
	a.engineFlags(cmd)
	cmd.Flags().StringVar(&f.shell, "shell", "", "`path` of the shell in the image (default: its bash or sh)")
	return cmd
}

func (a *app) shell(ctx context.Context, f shellFlags, name string) error {
	network, err := f.jobNetwork()
	if err != nil {
		return err
	}
	in, out, tty, err := a.terminal()
	if err != nil {
		return err
	}
	keys := func(bool) error { return nil }
	if tty {
		var restore func()
		if keys, restore, err = takeKeys(in); err != nil {
			return err
		}
		defer restore()
		a.machine.cleanup.atLast(restore)
	}
	p, err := a.prepare(ctx, f.passFlags, []string{name}, nil)
	if err != nil {
		return err
	}
	u, err := oneUnit("opening a shell in", name, p)
	if err != nil {
		return err
	}
	ref, err := p.Image(u.ID)
	if err != nil {
		return err
	}
	sh, err := f.shellOf(ctx, p, u, ref)
	if err != nil {
		return err
	}
	e, err := a.openEngine(ctx, func(s string, v ...any) { view.Fprintf(a.machine.Stderr, s+"\n", v...) })
	if err != nil {
		return err
	}
	job := build.RunJob{
		Unit: u.ID, Image: a.engineRef(ref), Platform: u.Platform, Args: []string{sh}, Network: network, User: f.user, Tables: p.Tables(ctx, u),
		Attach: &build.Attach{Stdin: io.NopCloser(a.machine.Stdin), Stdout: a.raw.Stdout, Stderr: a.raw.Stderr},
	}
	if tty {
		if t := a.machine.Getenv("TERM"); t != "" {
			job.Env = []string{"TERM=" + t}
		}
		job.Attach.TTY = true
		job.Attach.Stdin, job.Attach.Stdout = afterPrompt(a.machine.Stdin, a.raw.Stdout)
		sizes, stop := windowSizes(out)
		defer stop()
		job.Attach.Sizes = sizes
		job.Attach.Started = func() { _ = keys(true) } // where it can't, Ctrl-C ends the shell
	}
	exit, _, err := e.Run(ctx, job, event.Discard)
	_ = keys(false)
	return ended(u.ID, exit, err)
}

// shellOf gives the path of the shell in an image.
func (f *shellFlags) shellOf(ctx context.Context, p *strata.Pass, u *graph.Unit, ref registry.Ref) (string, error) {
	if f.shell != "" {
		return f.shell, nil
	}
	inv, err := strata.Inventory(ctx, p.Config.Client, ref, u.Platform)
	if err != nil {
		return "", fmt.Errorf("looking for a shell in %s: %w", u.ID, err)
	}
	if sh := findShell(inv); sh != "" {
		return sh, nil
	}
	return "", diag.Hint(fmt.Errorf("the image of %s has no shell", u.ID),
		"`strata inventory %s` lists what it has, `strata run %s -- COMMAND` runs it", u.ID, u.ID)
}

// terminal says whether the shell has a terminal. One side of it alone is no
// terminal to work on.
func (a *app) terminal() (in, out *os.File, tty bool, err error) {
	in, _ = a.machine.Stdin.(*os.File)
	out, _ = a.raw.Stdout.(*os.File)
	if in == nil || !term.IsTerminal(int(in.Fd())) {
		return nil, nil, false, nil
	}
	if !view.IsTerminal(a.machine.Stdout) {
		return nil, nil, false, diag.Hint(fmt.Errorf("opening a shell: its output is no terminal, but its input is"),
			"`strata run UNIT -- COMMAND` runs one command, and its output can go anywhere")
	}
	return in, out, true, nil
}

// shellPaths are looked for in this order.
var shellPaths = []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh"}

// findShell gives the shell of an image; "" when it has none.
func findShell(inv *inventory.Inventory) string {
	i := slices.IndexFunc(shellPaths, func(sh string) bool {
		at, err := inv.ResolveInRoot(path.Clean(sh))
		if err != nil {
			return false
		}
		e := inv.Lookup(at)
		return e.Kind == inventory.File && e.Mode&0o111 != 0
	})
	if i < 0 {
		return ""
	}
	return shellPaths[i]
}
