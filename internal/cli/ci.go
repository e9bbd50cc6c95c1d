package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/ci"
	"github.com/strata-build/strata/internal/diag"
	mark "github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/hostfile"
	"github.com/strata-build/strata/internal/vcs"
	"github.com/strata-build/strata/internal/view"
)

// generator writes the files of one CI host.
type generator struct {
	name, short, long string
	examples          string
	// patterns are where its files can be, as path.Match has it, relative to the
	// repository.
	patterns []string
	local    bool // they are relative to the project's folder
	// flags adds its options to a set, and gives what makes the files once the
	// set was parsed: from a command line, or from the mark of a file.
	flags func(fs *pflag.FlagSet) func(m *ci.Model) ([]ci.File, error)
}

func (a *app) generators() []generator {
	return []generator{a.githubGenerator(), a.gitlabGenerator(), a.makeGenerator()}
}

// ciFlags are what the generators' commands share.
type ciFlags struct {
	check, force, json, dryRun bool
	out                        string
}

func (a *app) ciCmd() *cobra.Command {
	var f ciFlags
	cmd := &cobra.Command{
		Use:   "ci",
		Short: "Write pipelines that build only what changed",
		Long: `Ci writes the files of a CI host for this project: workflows that plan first, build what
is missing on a native runner of each platform, parents before children, and move the
tags last. Their path filters and schedules come from the Dockerfiles and from
strata.yaml, so they have to be written again when those change: strata ci --check finds
out, and runs in the pipeline itself. With no generated file at all it fails, with 1.

` + exitCodesHelp(),
		Example: `  strata ci github
  strata ci gitlab
  strata ci make
  strata ci --check        # 0: the files are right, 2: they are not, 1: there are none`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !f.check {
				if f.json {
					return usage("reading the options: --json is of --check")
				}
				return cmd.Help()
			}
			return a.checkCI(cmd.Context(), f)
		},
	}
	cmd.Flags().BoolVar(&f.check, "check", false, "exit with 2 when generated files that are there are not as they would be written now")
	cmd.Flags().BoolVar(&f.json, "json", false, "write JSON")
	for _, g := range a.generators() {
		cmd.AddCommand(a.generatorCmd(g))
	}
	return cmd
}

func (a *app) generatorCmd(g generator) *cobra.Command {
	var f ciFlags
	cmd := &cobra.Command{Use: g.name, Short: g.short, Long: g.long, Example: g.examples, Args: takes(0, 0)}
	fl := cmd.Flags()
	own := pflag.NewFlagSet(g.name, pflag.ContinueOnError)
	files := g.flags(own)
	fl.AddFlagSet(own)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.check && !changed(own) {
			return a.checkCI(cmd.Context(), f, g)
		}
		repo, err := a.ciRepository(cmd.Context())
		if err != nil {
			return err
		}
		if b := own.Lookup("branch"); b != nil && b.DefValue != "" && !b.Changed && repo.head != "" {
			if err := own.Set("branch", repo.head); err != nil {
				return fmt.Errorf("taking over the main branch: %w", err)
			}
		}
		want, root, folder, err := a.ciFiles(cmd.Context(), f, files)
		if err != nil {
			return err
		}
		have, _, err := a.findGenerated(root, g)
		if err != nil {
			return err
		}
		if f.check {
			return a.tellDrift(ci.Compare(want, have), f.json)
		}
		if made, ok := ci.MadeFor(have); ok && made != folder && !f.force {
			return diag.Hint(fmt.Errorf("writing pipelines: those below %q are of the project in %s", root, folderName(made)),
				"a repository has room for the pipelines of one project; --out writes elsewhere, --force replaces them")
		}
		if !g.local {
			a.warnOfRepository(repo, own)
		}
		return a.writeCI(root, want, have, f)
	}
	fl.BoolVar(&f.check, "check", false, "write nothing; exit with 2 when the files are not as they would be written now")
	fl.BoolVar(&f.force, "force", false, "overwrite files that strata ci has not written")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show what would be written, and write nothing")
	fl.BoolVar(&f.json, "json", false, "write JSON")
	fl.StringVar(&f.out, "out", "", "`folder` to write below (default: the top of the repository)")
	return cmd
}

// changed says whether any flag of the set was given, to whatever set it was
// added.
func changed(fs *pflag.FlagSet) bool {
	given := false
	fs.VisitAll(func(f *pflag.Flag) { given = given || f.Changed })
	return given
}

// ciFiles gives the files as they should be, and the folder that they belong
// under, and the project's own.
func (a *app) ciFiles(ctx context.Context, f ciFlags, files func(*ci.Model) ([]ci.File, error)) (want []ci.File, root, folder string, err error) {
	m, root, err := a.ciModel(ctx)
	if err != nil {
		return nil, "", "", err
	}
	if f.out != "" {
		root = f.out
		if !filepath.IsAbs(root) {
			root = filepath.Join(a.machine.Dir, root)
		}
	}
	want, err = files(m)
	return want, root, m.Folder, err
}

// ciModel reads the project as its pipelines see it. No registry is asked, and
// the machine that it is read on makes no difference.
func (a *app) ciModel(ctx context.Context) (*ci.Model, string, error) {
	c, err := a.config(ctx)
	if err != nil {
		return nil, "", err
	}
	c.Platform, c.SourceDateEpoch = "linux/amd64", ""
	p, err := strata.Describe(ctx, c)
	if err != nil {
		return nil, "", err
	}
	root, dir, err := a.repository()
	if err != nil {
		return nil, "", err
	}
	folder, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, "", fmt.Errorf("finding the project in its repository: %w", err)
	}
	if folder = filepath.ToSlash(folder); folder == "." {
		folder = ""
	}
	at := func(rel string) string { return filepath.Join(dir, filepath.FromSlash(rel)) }
	info, _ := vcs.Describe(ctx, a.git(), dir) // without an answer a hint says less
	m, err := ci.New(p.Graph, ci.Source{
		Remote: info.RemoteURL,
		Folder: folder,
		IsDir: func(rel string) bool {
			found, err := filepath.Glob(at(rel))
			return err == nil && slices.ContainsFunc(found, isDir)
		},
		Links:      func(rel string) []string { return links(root, dir, rel) },
		Submodules: exists(filepath.Join(root, ".gitmodules")),
		LFS:        usesLFS(root, dir),
	})
	return m, root, err
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// findGenerated reads the files below root that a generator wrote, with the
// commands that wrote them.
func (a *app) findGenerated(root string, g generator) (have map[string][]byte, commands []string, err error) {
	have = map[string][]byte{}
	patterns, err := a.places(g)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for generated files: %w", err)
	}
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, nil, fmt.Errorf("looking for generated files: %w", err)
		}
		for _, file := range found {
			var data []byte
			at, err := a.typed(file)
			if err == nil {
				data, err = hostfile.Read(at, hostfile.MaxText)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("reading %q: %w", file, pathCause(err))
			}
			command, ok := mark.Command(data)
			if !ok || !strings.HasPrefix(command+" ", "ci "+g.name+" ") {
				continue
			}
			rel, err := filepath.Rel(root, file)
			if err != nil {
				return nil, nil, fmt.Errorf("reading %q: %w", file, err)
			}
			have[filepath.ToSlash(rel)] = data
			if !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	return have, commands, nil
}

// checkCI compares the generated files that are there with what the commands that
// wrote them would write now; only of the given generators, where there
// are any.
func (a *app) checkCI(ctx context.Context, f ciFlags, only ...generator) error {
	gs := only
	if len(gs) == 0 {
		gs = a.generators()
	}
	m, root, err := a.ciModel(ctx)
	if err != nil {
		return err
	}
	if f.out != "" {
		root = filepath.Join(a.machine.Dir, f.out)
	}
	var drift []ci.Drift
	files := 0
	for _, g := range gs {
		have, commands, err := a.findGenerated(root, g)
		if err != nil {
			return err
		}
		if files += len(have); len(have) == 0 {
			continue
		}
		want, err := g.again(m, commands)
		if err != nil {
			return err
		}
		drift = append(drift, ci.Compare(want, have)...)
	}
	if files == 0 {
		return diag.Hint(fmt.Errorf("checking pipelines: no generated file is below %q", root), "strata ci github, gitlab or make writes them")
	}
	return a.tellDrift(drift, f.json)
}

// again makes the files by the command that wrote those that are there. Of
// several, left by a change of options, the last one counts.
func (g generator) again(m *ci.Model, commands []string) ([]ci.File, error) {
	fs := pflag.NewFlagSet(g.name, pflag.ContinueOnError)
	files := g.flags(fs)
	words := strings.Fields(commands[len(commands)-1])
	if len(words) < 2 || words[0] != "ci" || words[1] != g.name {
		return nil, fmt.Errorf("reading the command that wrote the pipeline: strata %s is none of strata ci %s", commands[len(commands)-1], g.name)
	}
	if err := fs.Parse(words[2:]); err != nil {
		return nil, fmt.Errorf("reading the command that wrote the pipeline: %w", err)
	}
	return files(m)
}

func (a *app) tellDrift(drift []ci.Drift, asJSON bool) error {
	w := a.machine.Stdout
	if asJSON {
		out := struct {
			Drift []ci.Drift `json:"drift"`
		}{append([]ci.Drift{}, drift...)}
		if err := writeJSON(w, out); err != nil {
			return err
		}
	} else {
		for _, d := range drift {
			view.Fprintln(w, d)
		}
	}
	if len(drift) == 0 {
		if !asJSON {
			view.Fprintln(w, "The generated files are as they should be.")
		}
		return nil
	}
	p := a.palette(a.machine.Stderr)
	view.Fprintf(a.machine.Stderr, "%s the command that stands in each file writes it again\n", p.Paint(view.Cyan, "strata: hint:"))
	return code(exitChanges)
}

// written is what became of one file.
type written struct {
	Path  string `json:"path"`
	State string `json:"state"` // "written", "unchanged", "removed"
}

// writeCI writes the files, and removes generated ones that are not needed any
// more. One that is somebody's own, or was edited, is left alone, and then nothing
// is written.
func (a *app) writeCI(root string, want []ci.File, have map[string][]byte, f ciFlags) error {
	at := func(rel string) string { return filepath.Join(root, filepath.FromSlash(rel)) }
	var done []written
	var foreign []string
	for _, file := range want {
		if _, err := a.target(at(file.Path)); err != nil {
			return fmt.Errorf("writing %q: %w", file.Path, err)
		}
		same, state, err := mark.Check(at(file.Path), file.Data)
		switch {
		case err != nil:
			return fmt.Errorf("reading %q: %w", file.Path, pathCause(err))
		case same:
			done = append(done, written{file.Path, "unchanged"})
			continue
		case (state == mark.Foreign || state == mark.Edited) && !f.force:
			foreign = append(foreign, file.Path)
		}
		done = append(done, written{file.Path, "written"})
	}
	for _, d := range ci.Compare(want, have) {
		if d.What != ci.NotNeeded {
			continue
		}
		if mark.StateOf(have[d.Path]) == mark.Edited && !f.force {
			foreign = append(foreign, d.Path)
		}
		done = append(done, written{d.Path, "removed"})
	}
	if len(foreign) > 0 {
		return diag.Hint(fmt.Errorf("writing pipelines: %s: strata ci has not written that, or it was edited since", strings.Join(foreign, ", ")),
			"nothing was written; move it away, or use --force")
	}
	if !f.dryRun {
		for _, file := range want {
			if _, err := mark.Write(at(file.Path), file.Data, f.force); err != nil {
				return err
			}
		}
		for _, d := range done {
			if d.State != "removed" {
				continue
			}
			if err := os.Remove(at(d.Path)); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("removing %q: %w", d.Path, pathCause(err))
			}
		}
	}
	return a.tellWritten(done, f)
}

func (a *app) tellWritten(done []written, f ciFlags) error {
	w := a.machine.Stdout
	if f.json {
		return writeJSON(w, struct {
			Files  []written `json:"files"`
			DryRun bool      `json:"dryRun,omitempty"`
		}{done, f.dryRun})
	}
	for _, d := range done {
		word := d.State
		if f.dryRun && word != "unchanged" {
			word = "would be " + word
		}
		view.Fprintf(w, "%s: %s\n", word, d.Path)
	}
	return nil
}

// branchForm is what a branch in a workflow may be called: what git allows, less
// what YAML, shells and GitHub's patterns would read as more than a name.
var branchForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// versionForm is what `go install` may be asked for.
var versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`)

func (a *app) githubGenerator() generator {
	return generator{
		name:  "github",
		short: "Write workflows for GitHub Actions",
		long: `Github writes workflows for GitHub Actions: one for each layer that others stand on
(schedule from refresh, paths from its Dockerfiles), one for the application (pushes to
the main branch), one for pull requests, which publishes nothing and may write nothing,
one for releases (tags v1.2.3), one that removes old images; what they share is a
workflow and an action of their own. Files that it has not written itself are left
alone.

docs/ci.md tells how they work, and what they need on a runner.

` + exitCodesHelp(),
		examples: `  strata ci github
  strata ci github --single             # one workflow
  strata ci github --branch trunk --dry-run
  strata ci github --check              # in a pipeline`,
		patterns: []string{".github/workflows/*.yml", ".github/actions/strata/action.yml"},
		flags: func(fs *pflag.FlagSet) func(*ci.Model) ([]ci.File, error) {
			var o ci.GitHubOptions
			fs.BoolVar(&o.Single, "single", false, "write one workflow in place of one for each purpose")
			fs.StringVar(&o.Branch, "branch", "main", "`name` of the branch whose pushes are published; not given, the one that origin/HEAD names")
			fs.StringVar(&o.Version, "strata-version", installable(a.machine.Version), "`version` of strata for runners that have none")
			return func(m *ci.Model) ([]ci.File, error) {
				if !branchForm.MatchString(o.Branch) {
					return nil, usage("reading --branch: %q can't be written into a workflow", o.Branch)
				}
				if !versionForm.MatchString(o.Version) {
					return nil, usage("reading --strata-version: %q is no version", o.Version)
				}
				return m.GitHub(o)
			}
		},
	}
}

// described is a version as git describe gives it between two releases.
var described = regexp.MustCompile(`-g([0-9a-f]{7,40})(-dirty)?$|^([0-9a-f]{7,40})(-dirty)?$`)

// released is a version that has a tag, or that Go made of a commit.
var released = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z]+(\.[0-9A-Za-z]+)*|-([0-9A-Za-z.]+\.)?[0-9]{14}-[0-9a-f]{12})?$`)

// installable gives a program's version as `go install` takes it: the release,
// or the commit between two; "latest" for one that nobody else has.
func installable(version string) string {
	if released.MatchString(version) {
		return version
	}
	if m := described.FindStringSubmatch(version); m != nil {
		return m[1] + m[3]
	}
	return "latest"
}
