package cli

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strata-build/strata/internal/diag"
)

// helpWidth is where help is broken into lines: a terminal's usual width, so
// that the generated reference is the same everywhere.
const helpWidth = 80

// exitCode is one of the codes that the program ends with.
type exitCode struct {
	Code    int
	Meaning string
}

// exitCodes are all of them. They are part of the interface: help and
// docs/cli/README.md are written from this table.
var exitCodes = []exitCode{
	{exitOK, "done, or nothing to do"},
	{exitFailed, "an error"},
	{exitChanges, "there is something to do (only with flags such as --detailed-exitcode)"},
	{129, "ended by SIGHUP: the terminal went away"},
	{130, "ended by Ctrl-C"},
	{143, "ended by SIGTERM"},
}

// exitCodesHelp is the table as help shows it.
func exitCodesHelp() string {
	var b strings.Builder
	b.WriteString("Exit codes:")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "\n  %-4d %s", c.Code, c.Meaning)
	}
	return b.String()
}

// wrapFlags makes a command and those below it break the list of flags into
// lines, which cobra's own template does not.
func wrapFlags(root *cobra.Command) {
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", helpWidth)))
}

// takes checks the number of arguments; a negative max means any number from
// min on.
func takes(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= min && (max < 0 || len(args) <= max) {
			return nil
		}
		return diag.Hint(fmt.Errorf("%s takes %s, not %d", cmd.CommandPath(), arguments(min, max), len(args)),
			"usage: %s", cmd.UseLine())
	}
}

func arguments(min, max int) string {
	switch {
	case max < 0:
		return fmt.Sprintf("at least %s", plural(min, "argument"))
	case max == 0:
		return "no arguments"
	case min == max:
		return plural(min, "argument")
	}
	return fmt.Sprintf("%d to %s", min, plural(max, "argument"))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// flagError says what a flag takes where a value can't be read.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	takes := map[string]string{
		"int": "a whole number", "int64": "a whole number", "float64": "a number", "bool": "true or false", "duration": "a time, such as 30s or 5m",
	}[bad.GetFlag().Value.Type()]
	if takes == "" {
		return err
	}
	return fmt.Errorf("reading --%s: %q is not %s", bad.GetFlag().Name, bad.GetValue(), takes)
}

// noCommand refuses a word that is no command of cmd, and names one like it.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("`%s --help` lists the commands", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = cmp.Or(cmd.SuggestionsMinimumDistance, 2)
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), like[0])
	}
	return diag.Hint(fmt.Errorf("%q is no command of %s", args[0], cmd.CommandPath()), "%s", hint)
}

// completesFlag offers the values of a flag to the shell.
func completesFlag(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("internal error: " + err.Error())
	}
}

// addHelp adds cobra's help command, which otherwise takes any word.
func addHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	cmd, _, err := root.Find([]string{"help"})
	if err != nil || cmd == root {
		panic("internal error: there is no help command")
	}
	cmd.GroupID = "machine"
	cmd.Short = "Show the help of a command"
	cmd.Long = "Help shows what strata COMMAND --help shows."
	cmd.Example = "  strata help plan"
	cmd.Run = nil
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		of, rest, err := root.Find(args)
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			return noCommand(of, rest)
		}
		return of.Help()
	}
}

// addCompletion adds cobra's command that writes scripts for shells, in the
// words of the others.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	cmd, _, err := root.Find([]string{"completion"})
	if err != nil || cmd == root {
		panic("internal error: there is no completion command")
	}
	cmd.GroupID = "machine"
	cmd.Short = "Write a completion script for a shell"
	cmd.Long = `Completion writes a script that makes a shell complete commands, flags and the units
of the project. The help of each shell's command says where to put it.`
	cmd.Example = "  source <(strata completion bash)      # for this session"
	cmd.Args = noCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, shell := range cmd.Commands() {
		shell.Short = "Write the completion script for " + shell.Name()
		shell.Example = "  strata completion " + shell.Name()
	}
}
