// Package cli is what a user types and reads: commands, flags, environment,
// terminal, exit codes. It is the only package that reads the environment, the
// clock and the working directory, and it owns the terminal.
//
// It takes arguments and a [Machine], picks registry and engine, calls the
// facade, and writes what came of it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/view"
)

// The exit codes. They are part of the interface.
const (
	exitOK      = 0 // done, or nothing to do
	exitFailed  = 1 // an error
	exitChanges = 2 // only with flags that ask for it: there is something to do
)

// Interrupted is the cause of a run's end by a signal.
type Interrupted struct{ Signal os.Signal }

// Error says what ended the run.
func (i Interrupted) Error() string {
	switch i.Signal {
	case syscall.SIGHUP:
		return "ended by SIGHUP"
	case syscall.SIGINT:
		return "ended by SIGINT"
	case syscall.SIGTERM:
		return "ended by SIGTERM"
	}
	return "ended by " + i.Signal.String()
}

// ExitCode is 128 and the signal's number, as shells have it.
func (i Interrupted) ExitCode() int {
	if s, ok := i.Signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return exitFailed
}

// Machine is what a command sees of the world.
type Machine struct {
	Version        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Environ        []string
	Dir            string // working directory
	Now            func() time.Time

	cleanup *cleanup // what must not be left behind by the end of this process; nil: nobody asks
}

// System is the real machine.
func System(version string) Machine {
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	return Machine{
		Version: version, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Environ: os.Environ(), Dir: dir, Now: time.Now,
	}
}

// code is an error that only sets the exit code.
type code int

func (c code) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// exitTimeout is the exit code of a command in an image that ran for too long, as
// that of timeout(1).
const exitTimeout code = 124

// codeError is an error with an exit code of its own.
type codeError struct {
	code code
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// Run runs one command and gives its exit code.
func Run(ctx context.Context, m Machine, args []string) int {
	a := &app{machine: m, args: args}
	defer a.guard()()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(m.Stdin)
	root.SetOut(a.machine.Stdout)
	root.SetErr(a.machine.Stderr)
	err := root.ExecuteContext(ctx)
	if e := a.close(); err == nil {
		err = e
	}
	var c code
	var own *codeError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		a.complain(err)
		return int(own.code)
	case errors.As(err, &c):
		return int(c)
	}
	a.complain(err)
	return exitFailed
}

// complain writes an error and its hint, each finding and failed unit with its
// own.
func (a *app) complain(err error) {
	var units *strata.UnitsError
	var findings *diag.Errors
	switch {
	case errors.As(err, &units):
		for _, m := range units.Failed {
			a.complainOf(m.Failure())
		}
		if units.Skipped > 0 {
			a.complainOf(fmt.Errorf("%d more units were not started because of that", units.Skipped))
		}
	case errors.As(err, &findings):
		for i, f := range findings.Findings {
			if rest := len(findings.Findings) - i; i == mostFindings && rest > 1 {
				a.complainOf(fmt.Errorf("%d more mistakes of this kind or another", rest))
				break
			}
			hint := f.Hint
			f.Hint = ""
			a.complainOf(diag.Hint(errors.New(f.String()), "%s", hint))
		}
	default:
		a.complainOf(err)
	}
}

// mostFindings bounds what is shown of a file that is all wrong, such as one
// that is no Dockerfile.
const mostFindings = 50

func (a *app) complainOf(err error) {
	p := a.palette(a.machine.Stderr)
	for _, line := range strings.Split(strings.TrimRight(err.Error(), "\n"), "\n") {
		view.Fprintf(a.machine.Stderr, "%s %s\n", p.Paint(view.Red, "strata: error:"), line)
	}
	if hint := diag.HintOf(err); hint != "" {
		for _, line := range strings.Split(hint, "\n") {
			view.Fprintf(a.machine.Stderr, "%s %s\n", p.Paint(view.Cyan, "strata: hint:"), line)
		}
	}
}

func (a *app) warn(f diag.Finding) {
	p := a.palette(a.machine.Stderr)
	f.Severity = diag.Error // the word stands in front already
	hint := f.Hint
	f.Hint = ""
	for _, line := range strings.Split(f.String(), "\n") {
		view.Fprintf(a.machine.Stderr, "%s %s\n", p.Paint(view.Yellow, "strata: warning:"), line)
	}
	for _, line := range lines(hint) {
		view.Fprintf(a.machine.Stderr, "%s %s\n", p.Paint(view.Cyan, "strata: hint:"), line)
	}
}

// checkColor refuses a --color that means nothing.
func (a *app) checkColor() error {
	switch a.flags.color {
	case "auto", "always", "never":
		return nil
	}
	return diag.Hint(fmt.Errorf("reading --color: %q is none of auto, always, never", a.flags.color), "without --color it is auto: colors on a terminal")
}

const rootHelp = `Strata builds container images that stand on each other in layers, for several
variants and platforms, and rebuilds only what changed.

It says beforehand what it will do and why (strata plan), does it (strata
build), and keeps a record of what it did. No Docker daemon is needed.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "strata",
		Short: "Build container images in layers, and only what changed",
		Long:  rootHelp + "\n\n" + exitCodesHelp(),
		Example: `  strata init              # write a strata.yaml for this repository
  strata plan              # what would be done, and why
  strata build             # do it, keeping the images on this machine
  strata build --push      # do it, in the registry that strata.yaml names`,
		Version:           a.machine.Version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Args:              noCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return errors.Join(a.checkColor(), a.readLimits()) },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetVersionTemplate("strata {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return diag.Hint(flagError(err), "`%s --help` lists the flags", cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVarP(&a.flags.dir, "directory", "C", "", "work in this `folder` instead of the current one")
	f.StringVarP(&a.flags.file, "file", "f", "", "project `file`: strata.yaml, a bake file or a Dockerfile (default: the first that is there)")
	f.StringArrayVar(&a.flags.allow, "allow", nil, allowHelp)
	f.StringVar(&a.flags.color, "color", "auto", "`when` to use colour: auto, always or never")
	f.BoolVar(&a.flags.offline, "offline", false, "ask no registry but the one on this machine")
	f.StringVar(&a.flags.tag, "tag-version", "", "`version` in place of the one that git describe gives")
	root.AddGroup(
		&cobra.Group{ID: "main", Title: "Main commands:"},
		&cobra.Group{ID: "release", Title: "Releases:"},
		&cobra.Group{ID: "ci", Title: "In CI, and without Strata:"},
		&cobra.Group{ID: "look", Title: "Looking closer:"},
		&cobra.Group{ID: "machine", Title: "This machine:"},
	)
	for group, cmds := range map[string][]*cobra.Command{
		"main":    {a.initCmd(), a.planCmd(), a.buildCmd(), a.pullCmd(), a.lockCmd(), a.updateCmd(), a.watchCmd(), a.runCmd(), a.shellCmd(), a.tagsCmd()},
		"release": {a.publishCmd(), a.promoteCmd(), a.rollbackCmd(), a.hotfixCmd(), a.rebaseCmd(), a.pruneImagesCmd()},
		"look":    {a.explainCmd(), a.graphCmd(), a.configCmd(), a.inventoryCmd(), a.diffCmd(), a.whyNotCmd(), a.historyCmd(), a.simulateCmd()},
		"ci":      {a.ciCmd(), a.exportCmd()},
		"machine": {a.doctorCmd(), a.registryCmd(), a.storeCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCmd(), a.referenceCmd())
	addHelp(root)
	addCompletion(root)
	completesFlag(root, "color", "auto", "always", "never")
	wrapFlags(root)
	return root
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: takes(0, 0), Example: "  strata version", GroupID: "machine",
		RunE: func(*cobra.Command, []string) error {
			view.Fprintln(a.machine.Stdout, "strata", a.machine.Version)
			return nil
		},
	}
}
