package cli

import (
	"path/filepath"
	"regexp"

	"github.com/spf13/pflag"

	"github.com/strata-build/strata/internal/ci"
)

func (a *app) gitlabGenerator() generator {
	return generator{
		name:  "gitlab",
		short: "Write pipelines for GitLab CI",
		long: `Gitlab writes a pipeline that plans, and starts a child pipeline of what the plan says
is to be built: a stage for each step of the chain, parents first, each unit on a runner
of its platform, tags last. Merge requests are built and tested, and published nowhere.
Pushes that change nothing an image is made from start nothing.

Schedules are kept by GitLab itself: the file's first lines have the commands that make
them. An existing .gitlab-ci.yml is left alone: --include writes a file that it can
include.

` + exitCodesHelp(),
		examples: `  strata ci gitlab
  strata ci gitlab --include            # beside an existing .gitlab-ci.yml
  strata ci gitlab --check              # in a pipeline`,
		patterns: []string{".gitlab-ci.yml", ".gitlab/strata*.yml"},
		flags: func(fs *pflag.FlagSet) func(*ci.Model) ([]ci.File, error) {
			var o ci.GitLabOptions
			fs.BoolVar(&o.Include, "include", false, "write a file to include in place of .gitlab-ci.yml")
			fs.StringVar(&o.Branch, "branch", "", "`name` of the branch whose pushes are published (default: the project's default branch)")
			fs.StringVar(&o.Version, "strata-version", installable(a.machine.Version), "`version` of strata for images that have none")
			return func(m *ci.Model) ([]ci.File, error) {
				if o.Branch != "" && !branchForm.MatchString(o.Branch) {
					return nil, usage("reading --branch: %q can't be written into a pipeline", o.Branch)
				}
				if !versionForm.MatchString(o.Version) {
					return nil, usage("reading --strata-version: %q is no version", o.Version)
				}
				return m.GitLab(o)
			}
		},
	}
}

// makefileForm is what a Makefile may be called.
var makefileForm = regexp.MustCompile(`^(Makefile|[A-Za-z0-9][A-Za-z0-9._-]*\.mk)$`)

func (a *app) makeGenerator() generator {
	return generator{
		name:  "make",
		short: "Write a Makefile that calls strata",
		long: `Make writes a Makefile with a target for each layer of each variant, for all of its
platforms: publish-cpu-base-layered, publish-cpu-layered for the last one, and
cpu-base-layered to build without publishing; make help lists them. An existing Makefile
is left alone: --name strata.mk writes a file that it can include.

strata export make writes one with the same targets that calls docker buildx.

` + exitCodesHelp(),
		examples: `  strata ci make
  strata ci make --name strata.mk       # for a Makefile to include
  strata ci make --check`,
		patterns: []string{"Makefile", "*.mk"},
		local:    true,
		flags: func(fs *pflag.FlagSet) func(*ci.Model) ([]ci.File, error) {
			var o ci.MakeOptions
			fs.StringVar(&o.Name, "name", ci.Makefile, "the file's `name`: Makefile, or one that ends in .mk")
			return func(m *ci.Model) ([]ci.File, error) {
				if !makefileForm.MatchString(o.Name) {
					return nil, usage("reading --name: %q is neither Makefile nor a name that ends in .mk", o.Name)
				}
				return m.Make(o)
			}
		},
	}
}

// places gives where a generator's files can be, relative to the repository.
func (a *app) places(g generator) ([]string, error) {
	if !g.local {
		return g.patterns, nil
	}
	root, dir, err := a.repository()
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range g.patterns {
		out = append(out, filepath.ToSlash(filepath.Join(folder, p)))
	}
	return out, nil
}
