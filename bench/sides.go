package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// The cases: what has changed since the tool published last.
const (
	caseNothing = "nothing"
	caseFile    = "file"
	caseMeta    = "meta"
	caseBulk    = "bulk"
	caseAppDep  = "appdep"
	caseMLDep   = "mldep"
	caseBase    = "base"
)

var allCases = []string{caseNothing, caseFile, caseMeta, caseBulk, caseAppDep, caseMLDep, caseBase}

// side is one way to build the project.
type side interface {
	name() string
	// applies says whether the side can do a case at all.
	applies(kind string) bool
	// image is what the side publishes the app as, without the registry.
	image() string
	// prepare makes the side's stores: empty ones, or those of before.
	prepare(ctx context.Context, cold bool) error
	// commands do the work; engine is the process that they let work, or 0.
	commands() (cmds []*exec.Cmd, engine int)
	// close removes the stores.
	close() error
}

// strataSide is `strata build --push` with its embedded engine.
type strataSide struct {
	b    *bench
	home string // of the store in use
	warm string
}

func (s *strataSide) name() string        { return "Strata" }
func (s *strataSide) applies(string) bool { return true }
func (s *strataSide) image() string       { return "strata/shop:latest" }

func (s *strataSide) prepare(_ context.Context, cold bool) error {
	if s.warm == "" {
		s.warm = filepath.Join(s.b.dir, "strata-warm")
	}
	s.home = s.warm
	if !cold {
		return nil
	}
	s.home = filepath.Join(s.b.dir, "strata-cold")
	return os.RemoveAll(s.home)
}

func (s *strataSide) commands() ([]*exec.Cmd, int) {
	return []*exec.Cmd{s.b.command([]string{"STRATA_HOME=" + s.home}, s.b.tools.strata, "build", "--push", "--progress", "plain")}, 0
}

func (s *strataSide) close() error {
	return errors.Join(os.RemoveAll(s.warm), os.RemoveAll(filepath.Join(s.b.dir, "strata-cold")))
}

// engineSide is what the sides with a buildkitd have in common.
type engineSide struct {
	b          *bench
	label      string
	warm, cold *engine
	current    *engine
	n          int
}

func (s *engineSide) name() string { return s.label }

func (s *engineSide) prepare(ctx context.Context, cold bool) (err error) {
	if s.cold != nil {
		if err := s.cold.remove(); err != nil {
			return err
		}
		s.cold = nil
	}
	if !cold {
		if s.warm == nil {
			if s.warm, err = s.start(ctx); err != nil {
				return err
			}
		}
		s.current = s.warm
		return nil
	}
	s.cold, err = s.start(ctx)
	s.current = s.cold
	return err
}

// start starts a buildkitd and makes buildx use it.
func (s *engineSide) start(ctx context.Context) (*engine, error) {
	s.b.engines++
	e, err := startEngine(ctx, s.b.tools, filepath.Join(s.b.dir, fmt.Sprintf("e%d", s.b.engines)))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.b.tools.buildx, "create", "--name", filepath.Base(e.dir), "--driver", "remote", e.addr)
	cmd.Env = append(os.Environ(), s.b.dockerEnv()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("running buildx create: %w\n%s", err, out), e.remove())
	}
	return e, nil
}

func (s *engineSide) env() []string {
	return append(s.b.dockerEnv(), "BUILDX_BUILDER="+filepath.Base(s.current.dir))
}

func (s *engineSide) close() error {
	var errs []error
	for _, e := range []*engine{s.warm, s.cold} {
		if e != nil {
			errs = append(errs, e.remove())
		}
	}
	s.warm, s.cold = nil, nil
	return errors.Join(errs...)
}

// bakeSide is `buildx bake --push` with a registry cache of every step.
type bakeSide struct{ engineSide }

func (s *bakeSide) applies(string) bool { return true }
func (s *bakeSide) image() string       { return "bake/shop:app" }

func (s *bakeSide) commands() ([]*exec.Cmd, int) {
	return []*exec.Cmd{s.b.command(s.env(), s.b.tools.buildx, "bake", "--push", "--progress", "plain", "--provenance=false")}, s.current.pid()
}

// linkSide is a Dockerfile that was written to spare BuildKit the parent.
type linkSide struct {
	engineSide
	seeded bool
}

func (s *linkSide) image() string { return "link/shop:app" }

func (s *linkSide) applies(kind string) bool {
	return slices.Contains([]string{caseNothing, caseFile, caseMeta, caseBulk}, kind)
}

func (s *linkSide) commands() ([]*exec.Cmd, int) {
	var cmds []*exec.Cmd
	if !s.seeded { // its parent stands on bake's
		s.seeded = true
		cmds = append(cmds, s.b.command(s.env(), s.b.tools.buildx, "build", "--push", "--progress", "plain", "--provenance=false",
			"-f", "docker/Dockerfile.deps", "--build-arg", "BASE_IMAGE="+s.b.proxy.host+"/bake/shop:ml", "-t", s.b.proxy.host+"/link/shop:deps", "."))
	}
	cmds = append(cmds, s.b.command(s.env(), s.b.tools.buildx, "build", "--push", "--progress", "plain", "--provenance=false",
		"-f", "docker/Dockerfile.link", "-t", s.b.proxy.host+"/link/shop:app", "."))
	return cmds, s.current.pid()
}

// craneSide appends a tar file with crane, with none of the questions asked
// that a build asks.
type craneSide struct{ b *bench }

func (s *craneSide) name() string { return "crane append" }
func (s *craneSide) applies(kind string) bool {
	return slices.Contains([]string{caseFile, caseBulk}, kind)
}
func (s *craneSide) prepare(context.Context, bool) error { return nil }
func (s *craneSide) close() error                        { return nil }
func (s *craneSide) image() string                       { return "bake/shop:crane" }

func (s *craneSide) commands() ([]*exec.Cmd, int) {
	file := filepath.Join(s.b.dir, "crane.tar")
	return []*exec.Cmd{
		s.b.command(nil, "tar", "-cf", file, "--transform", "s,^,app/,", "src"),
		s.b.command(s.b.dockerEnv(), s.b.tools.crane, "append", "-b", s.b.proxy.host+"/bake/shop:ml",
			"-f", file, "-t", s.b.proxy.host+"/bake/shop:crane"),
	}, 0
}

// command is a command in the project's folder.
func (b *bench) command(env []string, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = b.project.dir
	cmd.Env = append(b.environ(), env...)
	return cmd
}

// environ is the environment without what would point a tool elsewhere.
func (b *bench) environ() []string {
	return append(os.Environ(), "BUILDKIT_HOST=", "STRATA_ENGINE=", "DOCKER_HOST=", "DOCKER_CONFIG="+filepath.Join(b.dir, "docker"))
}

func (b *bench) dockerEnv() []string {
	return []string{
		"DOCKER_CONFIG=" + filepath.Join(b.dir, "docker"), "BUILDX_CONFIG=" + filepath.Join(b.dir, "buildx"),
		"BUILDX_NO_DEFAULT_ATTESTATIONS=1", "BUILDX_METADATA_PROVENANCE=disabled",
	}
}

// run measures a side once.
func (b *bench) run(ctx context.Context, s side, rtt time.Duration) (sample, error) {
	cmds, engine := s.commands()
	out, err := measure(ctx, b.proxy, rtt, engine, cmds...)
	if err != nil {
		return out, fmt.Errorf("measuring %s: %w", s.name(), err)
	}
	return out, nil
}
