package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

//go:generate go run ../../cmd/strata reference ../../docs/cli

const generated = "<!-- Generated from internal/cli: make docs -->\n\n"

// Reference gives the pages of the command reference by file name: one for each
// command, and README.md with the list of them, the flags that all have, and
// the exit codes.
func Reference() map[string][]byte {
	a := &app{machine: Machine{Getenv: func(string) string { return "" }}}
	root := a.root()
	pages := map[string][]byte{"README.md": indexPage(root)}
	for _, c := range documented(root) {
		pages[pageName(c)] = commandPage(c)
	}
	return pages
}

// referenceCmd writes the reference; it is for those who change a command.
func (a *app) referenceCmd() *cobra.Command {
	return &cobra.Command{
		Use: "reference FOLDER", Short: "Write the command reference", Hidden: true, Args: takes(1, 1),
		Example: "  strata reference docs/cli",
		RunE: func(_ *cobra.Command, args []string) error {
			dir := args[0]
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(a.machine.Dir, dir)
			}
			old, err := filepath.Glob(filepath.Join(dir, "*.md"))
			if err != nil {
				return err
			}
			for _, f := range old {
				if err := os.Remove(f); err != nil {
					return fmt.Errorf("writing the reference: %w", err)
				}
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("writing the reference: %w", err)
			}
			for name, text := range Reference() {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
					return fmt.Errorf("writing the reference: %w", err)
				}
			}
			return nil
		},
	}
}

// documented are the commands below root that a user is told of, each before
// its own.
func documented(root *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range root.Commands() {
		if c.Hidden || !c.IsAvailableCommand() {
			continue
		}
		out = append(append(out, c), documented(c)...)
	}
	return out
}

func pageName(c *cobra.Command) string {
	return strings.ReplaceAll(c.CommandPath(), " ", "-") + ".md"
}

func indexPage(root *cobra.Command) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# strata\n\n%s%s\n\n%s", generated, rootHelp, block(root.Example))
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n## %s\n\n| command | |\n|---|---|\n", strings.TrimSuffix(g.Title, ":"))
		for _, c := range documented(root) {
			top := c
			for top.Parent() != root {
				top = top.Parent()
			}
			if top.GroupID == g.ID && top.Name() != "completion" || c.Name() == "completion" && c.GroupID == g.ID {
				fmt.Fprintf(&b, "| [%s](%s) | %s |\n", c.CommandPath(), pageName(c), c.Short)
			}
		}
	}
	fmt.Fprintf(&b, "\n## Flags of every command\n\n%s", block(root.PersistentFlags().FlagUsagesWrapped(helpWidth)))
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", c.Code, c.Meaning)
	}
	b.WriteString("\n[strata run](strata-run.md) and [strata shell](strata-shell.md) end with the exit code of what they ran.\n")
	b.WriteString(environment)
	return []byte(b.String())
}

const environment = `
## Environment

| variable | |
|---|---|
| ` + "`STRATA_HOME`" + ` | folder of everything that Strata keeps on this machine; otherwise ` + "`$XDG_DATA_HOME/strata`, `~/.local/share/strata`" + `, or ` + "`/var/lib/strata`" + ` for a service without a home and for root in the home of somebody else (sudo -E) |
| ` + "`STRATA_ENGINE`, `BUILDKIT_HOST`" + ` | BuildKit to use, as ` + "`--engine`" + ` |
| ` + "`STRATA_REGISTRY_TIMEOUT`" + ` | how long a registry may say nothing, or take nothing of an upload: ` + "`30s`" + `, between ` + "`1s` and `1h`" + `. Twice as long for an answer to a write, and for the whole of a small answer. A transfer that goes on has no limit |
| ` + "`DOCKER_CONFIG`" + ` | folder of Docker's ` + "`config.json`" + `, from which credentials and credential helpers are taken; otherwise ` + "`~/.docker`" + ` |
| ` + "`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`" + ` | proxies for registries |
| ` + "`NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`, `TERM`" + ` | whether there is colour, as usual |
`

func commandPage(c *cobra.Command) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s%s.\n\n", c.CommandPath(), generated, c.Short)
	b.WriteString(block("  " + c.UseLine()))
	if c.Long != "" {
		text, _, _ := strings.Cut(c.Long, "\n\n"+exitCodesHelp())
		fmt.Fprintf(&b, "\n%s\n", text)
		if text != c.Long {
			b.WriteString("\nThe [exit codes](README.md#exit-codes) are those of all commands.\n")
		}
	}
	fmt.Fprintf(&b, "\n## Examples\n\n%s", block(c.Example))
	if below := documented(c); len(below) > 0 {
		b.WriteString("\n## Commands\n\n")
		for _, s := range below {
			fmt.Fprintf(&b, "* [%s](%s): %s\n", s.CommandPath(), pageName(s), s.Short)
		}
	}
	if own := ownFlags(c); own.HasAvailableFlags() {
		fmt.Fprintf(&b, "\n## Flags\n\n%s", block(own.FlagUsagesWrapped(helpWidth)))
	}
	b.WriteString("\nSee also the [flags of every command](README.md#flags-of-every-command).\n")
	return []byte(b.String())
}

// ownFlags are the flags of one command without --help.
func ownFlags(c *cobra.Command) *pflag.FlagSet {
	own := pflag.NewFlagSet(c.Name(), pflag.ContinueOnError)
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			own.AddFlag(f)
		}
	})
	return own
}

// block writes text that stands in by two blanks or more as a block of code.
func block(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(strings.TrimPrefix(l, "  "), " ")
	}
	return "```text\n" + strings.Join(lines, "\n") + "\n```\n"
}
