package cli

import (
	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) pullCmd() *cobra.Command {
	var progress string
	var needed bool
	cmd := &cobra.Command{
		Use:   "pull [UNIT...]",
		Short: "Copy what the image's registry holds to this machine",
		Long: `Pull asks the registry that the image names which units it holds as they are now, and
copies these into the registry on this machine: a build without --push then starts
from the layers that others have published. What is not there is built as ever.

With --needed it copies only what building the missing units starts from, and
nothing when none is missing: what a job does that builds a pull request without
publishing it.`,
		Example: `  strata pull ml/cpu/amd64   # and what it stands on
  strata pull && strata build
  strata pull --needed app && strata build --no-tags app`,
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, err := view.ParseMode(progress)
			if err != nil {
				return err
			}
			v := a.view(mode)
			defer v.Close()
			p, err := a.prepare(cmd.Context(), passFlags{push: true}, args, func(c *strata.Config) { c.Sink = v })
			if err != nil {
				return err
			}
			got, err := p.Pull(cmd.Context(), needed)
			if err != nil {
				return err
			}
			if err := v.Close(); err != nil {
				return err
			}
			if needed && len(got) == 0 {
				view.Fprintln(a.machine.Stdout, "nothing is missing in the registry, so nothing was copied")
				return nil
			}
			copied, here := 0, 0
			for _, g := range got {
				switch {
				case g.Here:
					here++
				case g.Found:
					copied++
				}
			}
			view.Fprintf(a.machine.Stdout, "%d copied, %d here already, %d not in the registry\n", copied, here, len(got)-copied-here)
			return nil
		},
	}
	cmd.Flags().StringVar(&progress, "progress", "auto", "progress: auto, tty, plain, json or quiet")
	cmd.Flags().BoolVar(&needed, "needed", false, "copy only the parents and trunks of units that the registry does not have")
	return cmd
}
