package cli

import (
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strata-build/strata/internal/initproject"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) initCmd() *cobra.Command {
	var print, force bool
	cmd := &cobra.Command{
		Use:   "init [FOLDER]",
		Short: "Write a strata.yaml for an existing repository",
		Long: `Init looks at the Dockerfiles, bake and compose files of a repository, guesses its
layers, variants and platforms, and writes a commented strata.yaml. It says what it
could not guess.`,
		Example: `  strata init
  strata init --print      # show it, write nothing`,
		Args: takes(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.flags.dir = a.fromDir(args[0])
			}
			return a.initProject(print, force)
		},
	}
	cmd.Flags().BoolVar(&print, "print", false, "write to standard output only")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a strata.yaml that is there")
	return cmd
}

func (a *app) initProject(print, force bool) error {
	dir := a.dir()
	access, err := a.access()
	if err != nil {
		return err
	}
	found, err := initproject.Detect(access.FS(), initproject.Options{Name: filepath.Base(dir)})
	if err != nil {
		return err
	}
	w := a.machine.Stdout
	if print {
		_, err := io.WriteString(a.filesOut(), found.Text)
		return err
	}
	for _, line := range found.Found {
		view.Fprintf(w, "found: %s\n", line)
	}
	for _, line := range found.Unsure {
		first, hint, _ := strings.Cut(line, "\n")
		view.Fprintf(w, "%s %s\n", a.palette(w).Paint(view.Yellow, "unsure:"), first)
		if hint != "" {
			view.Fprintf(w, "        %s\n", strings.TrimSpace(hint))
		}
	}
	if found.Kind == initproject.KindBake && found.Text == "" {
		view.Fprintf(w, "\nThere is nothing to write: the bake file is read as it is. Next: strata plan\n")
		return nil
	}
	if err := initproject.Write(dir, found, force); err != nil {
		return err
	}
	view.Fprintf(w, "\nWrote %s. Next: strata plan\n", found.File)
	return nil
}
