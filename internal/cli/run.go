package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/view"
)

// commandFlags say how a command in an image is run.
type commandFlags struct {
	passFlags
	network, user string
}

func (f *commandFlags) add(cmd *cobra.Command) {
	f.addPush(cmd)
	cmd.Flags().StringVar(&f.network, "network", "default", "`network` of the command: none, host, or default, which is the engine's own (the embedded one: host)")
	completesFlag(cmd, "network", "none", "host", "default")
	cmd.Flags().StringVar(&f.user, "user", "", "`user` to be (default: the image's)")
}

// jobNetwork gives the network as an engine calls it.
func (f *commandFlags) jobNetwork() (string, error) {
	switch f.network {
	case "none", "host":
		return f.network, nil
	case "default":
		return "", nil
	}
	return "", diag.Hint(fmt.Errorf("reading --network: %q is none of none, host, default", f.network), "--network none is no network at all")
}

type runFlags struct {
	commandFlags
	timeout     time.Duration
	interactive bool
}

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run UNIT [-- COMMAND...]",
		Short: "Run a command in a unit's image",
		Long: `Run runs a command in the image of a unit, in the engine, and exits with the
command's exit code. The image must have been built as the project is now (strata
build). Nothing that the command writes is kept.

COMMAND stands in place of the image's ENTRYPOINT and CMD; without it these are run.
The command reads nothing, unless --interactive hands it standard input, and has no
terminal: strata shell has one.

As with docker run, the exit code is 127 when the image has no such command, and 126
when it can't be executed. It is 124 when --timeout has ended it.`,
		Example: `  strata run app/cpu/amd64 -- python3 -m src.server --selftest
  strata run prod --network none -- node --version
  echo data | strata run app -i -- wc -c`,
		Args:              takes(1, -1),
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), f, args[0], args[1:])
		},
	}
	f.add(cmd)
	a.engineFlags(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "end the command after this `time`, such as 30s")
	cmd.Flags().BoolVarP(&f.interactive, "interactive", "i", false, "let the command read standard input")
	return cmd
}

func (a *app) run(ctx context.Context, f runFlags, name string, args []string) error {
	network, err := f.jobNetwork()
	if err != nil {
		return err
	}
	p, err := a.prepare(ctx, f.passFlags, []string{name}, nil)
	if err != nil {
		return err
	}
	u, err := oneUnit("running in", name, p)
	if err != nil {
		return err
	}
	ref, err := p.Image(u.ID)
	if err != nil {
		return err
	}
	e, err := a.openEngine(ctx, func(s string, v ...any) { view.Fprintf(a.machine.Stderr, s+"\n", v...) })
	if err != nil {
		return err
	}
	job := buildkit.RunJob{
		Unit: u.ID, Image: a.engineRef(ref), Platform: u.Platform, Args: args,
		Network: network, User: f.user, Timeout: f.timeout, Tables: p.Tables(ctx, u),
	}
	if f.interactive {
		job.Attach = &build.Attach{Stdin: io.NopCloser(a.machine.Stdin), Stdout: a.raw.Stdout, Stderr: a.raw.Stderr}
	}
	exit, _, err := e.Run(ctx, job, a.outputSink())
	return ended(u.ID, exit, err)
}

// oneUnit gives the only unit that a pass is for, and says which ones there are
// otherwise.
func oneUnit(doing, name string, p *strata.Pass) (*graph.Unit, error) {
	if len(p.Wanted) == 1 {
		return p.Wanted[0], nil
	}
	var ids []string
	for _, u := range p.Wanted {
		ids = append(ids, u.ID)
	}
	slices.Sort(ids)
	return nil, diag.Hint(fmt.Errorf("%s %q: it names %d units, not one", doing, name, len(ids)), "name one of them: %s", strings.Join(ids, ", "))
}

// ended gives the error of a command in a unit's image that was run, with the
// exit code that tells what became of it.
func ended(unit string, exit int, err error) error {
	var unstarted *buildkit.StartError
	switch {
	case errors.Is(err, buildkit.ErrTimeout):
		return &codeError{exitTimeout, diag.Hint(err, "--timeout says for how long it may run")}
	case errors.As(err, &unstarted):
		if diag.HintOf(err) == "" {
			err = diag.Hint(err, "`strata inventory %s` lists what the image has; what only a shell knows is run with: -- sh -c '...'", unit)
		}
		return &codeError{code(unstarted.Code), err}
	case err == nil && exit != 0:
		return code(exit)
	}
	return err
}

// outputSink writes a command's output as it comes. A terminal gets its colours,
// and nothing else that it would act on.
func (a *app) outputSink() event.Sink {
	w := a.raw.Stdout
	if view.IsTerminal(w) {
		w = a.machine.Stdout
	}
	return event.Func(func(e event.Event) {
		if e.Type == event.StepLog {
			_, _ = io.WriteString(w, e.Text+"\n") // an error: who reads it went away
		}
	})
}
