package strata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/export"
	"github.com/strata-build/strata/internal/graph"
)

// Describe reads the Dockerfiles and orders the units. It asks no registry: of
// external images it knows what the lock does.
func Describe(ctx context.Context, c Config) (*Pass, error) {
	p := &Pass{Config: c, known: newShared()}
	asked, err := c.Project.Select(c.Units...)
	if err != nil {
		return nil, err
	}
	files, err := p.readDockerfiles()
	if err != nil {
		return nil, err
	}
	base := func(u *graph.Unit, f dockerfile.From) (dockerfile.Config, bool) {
		e, ok := externalOf(p.Graph, u, f)
		if !ok {
			return dockerfile.Config{}, false
		}
		_, pin, ok := c.Lock.Find(e.image, e.platform)
		return dockerfile.Config{Env: pin.Env, WorkingDir: pin.WorkingDir, Shell: pin.Shell, OnBuild: pin.OnBuild}, ok
	}
	if err := p.order(files, asked, nil); err != nil {
		return nil, err
	}
	if c.Lock != nil {
		if err := p.order(files, asked, base); err != nil {
			return nil, err
		}
	}
	return p, context.Cause(ctx)
}

// Exporting gives what files for builds without Strata are written from; folder
// is where they go, relative to the project.
func (p *Pass) Exporting(folder string) (export.Input, error) {
	in := export.Input{Graph: p.Graph, Lock: p.Config.Lock, Folder: folder, Ignore: map[string][]byte{}}
	for _, u := range p.Units {
		name := dockerfile.IgnoreFile(u.Dockerfile)
		text, err := p.readFile(name)
		switch {
		case err == nil:
			in.Ignore[u.Dockerfile] = text
		case u.Inline == nil && !errors.Is(err, fs.ErrNotExist):
			return in, fmt.Errorf("reading the ignore file: %w", named(name, err))
		}
	}
	return in, nil
}

// Taking gives the units whose image a file of the project would be copied into:
// one that their instructions take and no ignore file leaves out. The path is
// relative to the project.
func (p *Pass) Taking(file string) ([]string, error) {
	var out []string
	for _, u := range p.Units {
		rel, err := filepath.Rel(filepath.FromSlash(u.Context), filepath.FromSlash(file))
		if err != nil || strings.HasPrefix(filepath.ToSlash(rel)+"/", "../") || !takes(u.Build.Inputs, filepath.ToSlash(rel)) {
			continue
		}
		tree, err := p.openContext(p.contextOf(u, ""))
		if err != nil {
			return nil, err
		}
		if _, ignored := tree.Ignored(rel); !ignored {
			out = append(out, u.ID)
		}
	}
	return out, nil
}

// takes says whether any of the patterns of the main context fits the path or a
// folder that it lies in.
func takes(inputs []dockerfile.Input, file string) bool {
	for _, i := range inputs {
		for _, pattern := range i.Patterns {
			pattern = path.Clean(strings.TrimPrefix(pattern, "/"))
			for dir := file; i.Context == ""; dir = path.Dir(dir) {
				if ok, _ := path.Match(pattern, dir); ok || pattern == dir {
					return true
				}
				if dir == "." {
					break
				}
			}
		}
	}
	return false
}
