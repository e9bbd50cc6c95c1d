package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/export"
	mark "github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/view"
)

// exportFlags say where plain files go.
type exportFlags struct {
	out                string
	force, check, json bool
}

// exportFolder is where plain files go unless said otherwise.
const exportFolder = "strata-export"

func (a *app) exportCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write plain files that build the same images without Strata",
		Long: `Export writes files that docker buildx alone can build the images from: a way back
at any time, and a fallback that can be tested before it is needed. External images
are pinned as strata.lock has them.

A file that was not written by this command, or was edited since, is left alone
unless --force is given.`,
		Example: `  strata export dockerfile app/cpu/amd64 --out -
  strata export bake
  strata export make --out .`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.exportKind("dockerfile [UNIT...]", "Write one Dockerfile for each image, with all layers that it stands on",
			`Each of the Dockerfiles has the stages of a whole chain of layers, with images
pinned and arguments filled in; its first lines are the command that builds it.
Without a name, every unit that no other stands on gets one.`,
			"  strata export dockerfile\n  strata export dockerfile app/cpu/amd64 --out -", a.exportDockerfiles),
		a.exportKind("bake [UNIT...]", "Write a docker-bake file with a target for each unit",
			`Each unit is a target, linked to those that it starts from, with platforms, args,
labels, secrets, tags and caches as strata.yaml has them; VERSION and IMAGE are
variables. Linked targets must be built by one builder.`,
			"  strata export bake\n  docker buildx bake -f strata-export/docker-bake.hcl --push", a.exportBake),
		a.exportKind("make [UNIT...]", "Write a Makefile of docker buildx lines",
			`Its targets are publish-VARIANT-LAYER-layered, and publish-VARIANT-layered for the
last layer; REGISTRY, IMAGE_NAME and VERSION are variables. What a target starts
from is built before, where the registry does not have it.`,
			"  strata export make --out .\n  make publish-cpu-layered REGISTRY=ghcr.io/user", a.exportMake),
	)
	return cmd
}

func (a *app) exportKind(use, short, long, example string, do func(context.Context, []string, exportFlags) ([]export.File, *strata.Pass, error)) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			files, p, err := do(cmd.Context(), a.argDir(args), f)
			if err != nil {
				return err
			}
			return a.putExport(files, p, f)
		},
	}
	cmd.Flags().StringVar(&f.out, "out", exportFolder, "`folder` to write to, in the project's; - is standard output")
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite files that are not from this command, or were edited")
	cmd.Flags().BoolVar(&f.check, "check", false, "write nothing; exit with 2 when a file is not as it would be written")
	cmd.Flags().BoolVar(&f.json, "json", false, "write JSON: what was done with each file")
	return cmd
}

// describe reads the project as far as no registry is needed.
func (a *app) describe(ctx context.Context, units []string, r spec.Release) (*strata.Pass, error) {
	p, err := a.project()
	if err != nil {
		return nil, err
	}
	pins, err := a.lockFile()
	if err != nil {
		return nil, err
	}
	return strata.Describe(ctx, strata.Config{
		Project: p.With(r), Lock: pins, Platform: "linux/" + runtime.GOARCH, Units: units, Now: a.machine.Now(),
	})
}

func (f exportFlags) folder() string {
	if f.out == "-" {
		return exportFolder
	}
	return filepath.ToSlash(filepath.Clean(f.out))
}

func (a *app) exportDockerfiles(ctx context.Context, units []string, f exportFlags) ([]export.File, *strata.Pass, error) {
	v, err := a.version(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.warnOfVersion(v)
	p, err := a.describe(ctx, units, v.Release())
	if err != nil {
		return nil, nil, err
	}
	in, err := p.Exporting(f.folder())
	if err != nil {
		return nil, nil, err
	}
	var files []export.File
	for _, u := range p.Wanted {
		if len(units) == 0 && !p.Graph.Leaf(u) {
			continue
		}
		more, err := in.Dockerfile(u)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, more...)
	}
	return files, p, nil
}

func (a *app) exportBake(ctx context.Context, units []string, f exportFlags) ([]export.File, *strata.Pass, error) {
	p, err := a.describe(ctx, units, export.Release)
	if err != nil {
		return nil, nil, err
	}
	in, err := p.Exporting(f.folder())
	if err != nil {
		return nil, nil, err
	}
	return []export.File{in.Bake(p.Units)}, p, nil
}

func (a *app) exportMake(ctx context.Context, units []string, f exportFlags) ([]export.File, *strata.Pass, error) {
	p, err := a.describe(ctx, units, export.Release)
	if err != nil {
		return nil, nil, err
	}
	in, err := p.Exporting(f.folder())
	if err != nil {
		return nil, nil, err
	}
	file, err := in.Make(p.Units)
	return []export.File{file}, p, err
}

// putExport writes the files, or says how they differ.
func (a *app) putExport(files []export.File, p *strata.Pass, f exportFlags) error {
	for _, file := range files {
		for _, n := range file.Notes {
			a.warn(diag.Finding{Text: file.Name + ": " + n})
		}
	}
	if f.out == "-" {
		if len(files) > 1 {
			return diag.Hint(fmt.Errorf("writing to standard output: these are %d files", len(files)), "name one unit, or a folder with --out")
		}
		_, err := a.filesOut().Write(mark.Mark(string(files[0].Data), files[0].Mark))
		return err
	}
	type state struct {
		File  string `json:"file"`
		State string `json:"state"` // "written", "unchanged", "differs", "missing"
	}
	states := []state{}
	stale := false
	for _, file := range files {
		name := filepath.Join(f.out, file.Name)
		s, err := a.putFile(name, mark.Mark(string(file.Data), file.Mark), f)
		if err != nil {
			return err
		}
		states = append(states, state{filepath.ToSlash(name), s})
		stale = stale || s == "differs" || s == "missing"
	}
	if f.json {
		if err := writeJSON(a.machine.Stdout, states); err != nil {
			return err
		}
	} else {
		pal := a.palette(a.machine.Stdout)
		style := map[string]view.Style{"written": view.Green, "unchanged": view.Dim, "differs": view.Yellow, "missing": view.Yellow}
		for _, s := range states {
			view.Fprintf(a.machine.Stdout, "%s  %s\n", pal.Paint(style[s.State], fmt.Sprintf("%-9s", s.State)), s.File)
		}
	}
	if stale {
		return code(exitChanges)
	}
	return a.warnOfTaking(files, p, f)
}

func (a *app) putFile(name string, data []byte, f exportFlags) (string, error) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.dir(), name)
	}
	path, err := a.target(path)
	if err != nil {
		return "", fmt.Errorf("writing %q: %w", name, err)
	}
	if f.check {
		same, state, err := mark.Check(path, data)
		switch {
		case err != nil:
			return "", fmt.Errorf("reading %q: %w", name, pathCause(err))
		case state == mark.Absent:
			return "missing", nil
		case !same:
			return "differs", nil
		}
		return "unchanged", nil
	}
	changed, err := mark.Write(path, data, f.force)
	if err != nil || changed {
		return "written", err
	}
	return "unchanged", nil
}

// warnOfTaking tells when a file that was written goes into an image: it would
// change what it is written from.
func (a *app) warnOfTaking(files []export.File, p *strata.Pass, f exportFlags) error {
	if filepath.IsAbs(f.out) {
		return nil
	}
	for _, file := range files {
		name := filepath.ToSlash(filepath.Join(f.out, file.Name))
		if _, err := os.Stat(filepath.Join(a.dir(), name)); err != nil {
			continue
		}
		taking, err := p.Taking(name)
		if err != nil {
			return err
		}
		if len(taking) > 0 {
			ignored := strings.SplitN(name, "/", 2)[0]
			a.warn(diag.Finding{Text: fmt.Sprintf("%s goes into the image of %s", name, strings.Join(taking, ", ")),
				Hint: "add " + ignored + " to .dockerignore"})
			return nil
		}
	}
	return nil
}
