package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/spec"
)

// exportTarget is one image that goes elsewhere than into a registry.
type exportTarget struct {
	unit, name, platform string
	open                 func(context.Context) (io.WriteCloser, error)
}

// exportTargets says what --output and --load ask for, before anything is
// built.
func (a *app) exportTargets(ctx context.Context, p *strata.Pass, f buildFlags) ([]exportTarget, error) {
	var out []exportTarget
	if f.output != "" {
		u := p.Wanted[len(p.Wanted)-1]
		path, err := a.target(f.output)
		if err == nil {
			err = canCreate(path)
		}
		if err != nil {
			return nil, fmt.Errorf("writing the archive %q: %w", f.output, err)
		}
		out = append(out, exportTarget{u.ID, a.imageName(p, u.Unit), u.Platform, func(context.Context) (io.WriteCloser, error) {
			return createFile(path)
		}})
	}
	if !f.load {
		return out, nil
	}
	docker, err := exec.LookPath("docker")
	if err != nil {
		return nil, diag.Hint(fmt.Errorf("loading into Docker: %w", err), "install Docker, or use --output FILE")
	}
	if err := dockerAnswers(ctx, docker); err != nil {
		return nil, diag.Hint(fmt.Errorf("loading into Docker: %w", err), "start Docker, or use --output FILE")
	}
	for _, u := range p.Wanted {
		if !u.Leaf && len(p.Wanted) > 1 {
			continue
		}
		out = append(out, exportTarget{u.ID, a.imageName(p, u.Unit), u.Platform, func(ctx context.Context) (io.WriteCloser, error) {
			return startDocker(ctx, docker)
		}})
	}
	return out, nil
}

// dockerAnswers asks whether there is a daemon behind the program: without one
// the images would be built for nothing.
func dockerAnswers(ctx context.Context, docker string) error {
	ctx, stop := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("it does not answer"))
	defer stop()
	out, err := exec.CommandContext(ctx, docker, "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("docker version: %w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// imageName is the name of a unit's image where only one fits: that of its
// first tag.
func (a *app) imageName(p *strata.Pass, u spec.Unit) string {
	tags := p.Config.Project.TagsFor(u, p.Config.Version.Release())
	if len(tags) == 0 {
		return u.Image
	}
	return u.Image + ":" + tags[0]
}

func (a *app) exportAll(ctx context.Context, p *strata.Pass, res strata.Result, targets []exportTarget) error {
	for _, t := range targets {
		for _, m := range res.Units {
			if m.Unit != t.unit {
				continue
			}
			w, err := t.open(ctx)
			if err == nil {
				err = strata.WriteArchive(ctx, p.Config.Client, w, m.Ref, t.name, t.platform)
				if c, ok := w.(interface{ abort() }); ok && err != nil {
					c.abort()
				}
				err = errors.Join(err, w.Close())
			}
			if err != nil {
				return fmt.Errorf("exporting %s: %w", t.unit, err)
			}
		}
	}
	return nil
}

// canCreate finds what would keep a file from getting its name, before anything
// is built for it.
func canCreate(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return errors.New("it is a folder")
	}
	if special(path) {
		return nil
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("its folder: %w", pathCause(err))
	}
	return nil
}

// special says whether a path is a device or a pipe, such as /dev/stdout: what is
// written goes there, and nothing takes its place.
func special(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular() && !info.IsDir()
}

// newFile is a file that takes its name only when it is whole.
type newFile struct {
	*os.File
	path    string
	aborted bool
}

func createFile(path string) (io.WriteCloser, error) {
	if special(path) {
		return os.OpenFile(path, os.O_WRONLY, 0)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".strata-*")
	if err != nil {
		return nil, err
	}
	return &newFile{File: f, path: path}, nil
}

func (f *newFile) abort() { f.aborted = true }

// Close gives the file its name, or removes it.
func (f *newFile) Close() error {
	err := errors.Join(f.Chmod(0o644), f.File.Close())
	if err == nil && !f.aborted {
		return os.Rename(f.Name(), f.path)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// dockerLoad is a running `docker load`.
type dockerLoad struct {
	io.WriteCloser
	cmd *exec.Cmd
	out strings.Builder
}

func startDocker(ctx context.Context, docker string) (io.WriteCloser, error) {
	d := &dockerLoad{cmd: exec.CommandContext(ctx, docker, "load", "--quiet")}
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	var err error
	if d.WriteCloser, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return d, d.cmd.Start()
}

// Close waits for docker.
func (d *dockerLoad) Close() error {
	err := d.WriteCloser.Close()
	if e := d.cmd.Wait(); e != nil {
		return fmt.Errorf("docker load: %w: %s", e, strings.TrimSpace(d.out.String()))
	}
	return err
}
