package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/view"
)

type shellFlags struct {
	passFlags
	network, user, shell string
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
	f.addPush(cmd)
	a.engineFlags(cmd)
	cmd.Flags().StringVar(&f.network, "network", "", "`network` of the shell: none or host (default host)")
	cmd.Flags().StringVar(&f.user, "user", "", "`user` to be (default: the image's)")
	cmd.Flags().StringVar(&f.shell, "shell", "", "`path` of the shell in the image (default: its bash or sh)")
	return cmd
}

func (a *app) shell(ctx context.Context, f shellFlags, name string) error {
	in, out, tty, err := a.terminal()
	if err != nil {
		return err
	}
	p, err := a.prepare(ctx, f.passFlags, []string{name}, nil)
	if err != nil {
		return err
	}
	if len(p.Wanted) != 1 {
		return usage("opening a shell in %q: it names %d units, not one", name, len(p.Wanted))
	}
	u := p.Wanted[0]
	ref, err := p.Image(u.ID)
	if err != nil {
		return err
	}
	sh := f.shell
	if sh == "" {
		inv, err := strata.Inventory(ctx, p.Config.Client, ref, u.Platform)
		if err != nil {
			return fmt.Errorf("looking for a shell in %s: %w", u.ID, err)
		}
		if sh = findShell(inv); sh == "" {
			return diag.Hint(fmt.Errorf("the image of %s has no shell", u.ID),
				"`strata inventory %s` lists what it has, `strata run %s -- COMMAND` runs it", u.ID, u.ID)
		}
	}
	e, err := a.openEngine(ctx, func(s string, v ...any) { fmt.Fprintf(a.machine.Stderr, s+"\n", v...) })
	if err != nil {
		return err
	}
	job := build.RunJob{
		Unit: u.ID, Image: a.engineRef(ref), Platform: u.Platform, Args: []string{sh}, Network: f.network, User: f.user,
		Attach: &build.Attach{Stdin: io.NopCloser(a.machine.Stdin), Stdout: a.machine.Stdout, Stderr: a.machine.Stderr},
	}
	restore := func() {}
	if tty {
		if t := a.machine.Getenv("TERM"); t != "" {
			job.Env = []string{"TERM=" + t}
		}
		job.Attach.TTY = true
		sizes, stop := windowSizes(out)
		defer stop()
		job.Attach.Sizes = sizes
		var once sync.Once
		job.Attach.Started = func() { once.Do(func() { restore = raw(in) }) }
	}
	exit, _, err := e.Run(ctx, job, event.Discard)
	restore()
	if err == nil && exit != 0 {
		return code(exit)
	}
	return err
}

// terminal says whether the shell has a terminal. One side of it alone is no
// terminal to work on.
func (a *app) terminal() (in, out *os.File, tty bool, err error) {
	in, _ = a.machine.Stdin.(*os.File)
	out, _ = a.machine.Stdout.(*os.File)
	if in == nil || !term.IsTerminal(int(in.Fd())) {
		return nil, nil, false, nil
	}
	if !view.IsTerminal(a.machine.Stdout) {
		return nil, nil, false, diag.Hint(fmt.Errorf("opening a shell: its output is no terminal, but its input is"),
			"`strata run UNIT -- COMMAND` runs one command, and its output can go anywhere")
	}
	return in, out, true, nil
}

// raw hands every key to the shell, Ctrl-C too, until restore is called.
func raw(in *os.File) (restore func()) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return func() {}
	}
	return func() { _ = term.Restore(int(in.Fd()), before) }
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
