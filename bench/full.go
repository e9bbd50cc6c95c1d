package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// fullBuilds measures the first build of the whole project: empty stores, an
// empty repository, no cache exported. Strata builds once with its embedded
// engine and once with the buildkitd that bake uses, so that what Strata adds
// can be told from what the engine takes.
func (b *bench) fullBuilds(ctx context.Context, parent int64) error {
	kinds := []struct {
		label string
		run   func(context.Context, string) (sample, error)
	}{
		{"Strata", b.fullEmbedded},
		{"Strata, buildkitd", b.fullWith((*engineSide).strataFull)},
		{"buildx bake, no cache", b.fullWith((*engineSide).bakeFull)},
	}
	runs := b.options.runs
	if parent > 200e6 {
		runs = min(runs, 2)
	}
	if parent > 2e9 {
		runs = 1
	}
	found := make([][]sample, len(kinds))
	for run := range runs {
		for i, k := range kinds {
			repo := fmt.Sprintf("full%d-%d", i, run)
			if err := b.project.setRepo(repo); err != nil {
				return err
			}
			out, err := k.run(ctx, repo)
			if err != nil {
				return err
			}
			b.showLine(k.label, "full build", true, 0, out)
			found[i] = append(found[i], out)
		}
	}
	for i, k := range kinds {
		b.full = append(b.full, result{cell{Parent: parent, Case: "full", Cold: true, Side: k.label}, found[i]})
	}
	if err := b.project.setRepo("shop"); err != nil {
		return err
	}
	return b.project.commit(ctx)
}

func (b *bench) fullEmbedded(ctx context.Context, _ string) (sample, error) {
	s := &strataSide{b: b}
	if err := s.prepare(ctx, true); err != nil {
		return sample{}, err
	}
	return b.run(ctx, s, 0)
}

// fullWith measures commands that work with a buildkitd of their own.
func (b *bench) fullWith(commands func(*engineSide) *exec.Cmd) func(context.Context, string) (sample, error) {
	return func(ctx context.Context, repo string) (sample, error) {
		s := &engineSide{b: b, label: repo}
		defer s.close()
		if err := s.prepare(ctx, true); err != nil {
			return sample{}, err
		}
		out, err := measure(ctx, b.proxy, 0, s.current.pid(), commands(s))
		if err != nil {
			return out, fmt.Errorf("measuring a full build: %w", err)
		}
		return out, nil
	}
}

func (s *engineSide) strataFull() *exec.Cmd {
	home := filepath.Join(s.current.dir, "strata")
	return s.b.command([]string{"STRATA_HOME=" + home}, s.b.tools.strata,
		"build", "--push", "--progress", "plain", "--engine", s.current.addr)
}

func (s *engineSide) bakeFull() *exec.Cmd {
	return s.b.command(s.env(), s.b.tools.buildx, "bake", "--push", "--progress", "plain", "--provenance=false",
		"--set", "*.cache-to=", "--set", "*.cache-from=")
}
