package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// bench is one session: programs, and for one parent at a time a registry, a
// project and the sides that build it.
type bench struct {
	options options
	tools   tools
	root    string
	dir     string // of the parent that is measured
	results []result
	full    []result
	start   []result
	engines int

	registry string // host and port, past the proxy
	proxy    *proxy
	project  *project
}

// cell names one figure of the table.
type cell struct {
	Parent int64
	RTT    time.Duration
	Case   string
	Cold   bool
	Side   string
}

// result is what was measured for one cell.
type result struct {
	cell
	Samples []sample
}

// measureParent measures everything on a parent of one size.
func (b *bench) measureParent(ctx context.Context, parent int64) (err error) {
	b.dir = filepath.Join(b.root, strconv.FormatInt(parent/1e6, 10))
	if err := b.dockerConfig(); err != nil {
		return err
	}
	reg, addr, err := startRegistry(ctx, b.tools.registry, filepath.Join(b.dir, "registry"))
	if err != nil {
		return err
	}
	defer func() {
		reg.stop()
		if !b.options.keep {
			err = errors.Join(err, os.RemoveAll(b.dir))
		}
	}()
	b.registry = addr
	if b.proxy, err = startProxy(addr); err != nil {
		return err
	}
	defer b.proxy.close()
	if err := b.pushBase(ctx); err != nil {
		return err
	}
	if b.project, err = newProject(ctx, filepath.Join(b.dir, "project"), b.proxy.host, parent); err != nil {
		return err
	}
	if err := b.project.commit(ctx); err != nil {
		return err
	}
	sides := b.sides()
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.close())
		}
	}()
	if err := b.seed(ctx, parent, sides); err != nil {
		return err
	}
	if err := b.measureStart(ctx, sides); err != nil {
		return err
	}
	if err := b.measureCases(ctx, parent, sides); err != nil {
		return err
	}
	if !b.options.full {
		return nil
	}
	for _, s := range sides { // makes room on the disk
		if err := s.close(); err != nil {
			return err
		}
	}
	return b.fullBuilds(ctx, parent)
}

func (b *bench) sides() []side {
	all := []struct {
		name string
		side side
	}{
		{"strata", &strataSide{b: b}},
		{"bake", &bakeSide{engineSide{b: b, label: "buildx bake"}}},
		{"link", &linkSide{engineSide: engineSide{b: b, label: "COPY --link"}}},
		{"crane", &craneSide{b}},
	}
	var out []side
	for _, s := range all {
		if slices.Contains(b.options.sides, s.name) {
			out = append(out, s.side)
		}
	}
	return out
}

// dockerConfig keeps the tools from the user's own configuration.
func (b *bench) dockerConfig() error {
	if err := os.MkdirAll(filepath.Join(b.dir, "docker"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "docker", "config.json"), []byte("{}"), 0o600)
}

// pushBase puts the base image into the registry, with the program that the
// RUN instructions use, under an index as public base images are.
func (b *bench) pushBase(ctx context.Context) error {
	name := b.proxy.host + "/library/debian"
	fill := filepath.Join(b.dir, "fill.tar")
	cmd := exec.CommandContext(ctx, "tar", "-cf", fill, "-C", filepath.Dir(b.tools.fill), "--transform", "s,^,usr/local/bin/,", filepath.Base(b.tools.fill))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packing fill: %w\n%s", err, out)
	}
	for _, args := range [][]string{
		{"append", "--new_layer", b.tools.rootfs, "--new_layer", fill, "--new_tag", name + ":layer"},
		{"mutate", name + ":layer", "--set-platform", "linux/amd64", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"--cmd", "bash", "--tag", name + ":amd64"},
		{"index", "append", "--manifest", name + ":amd64", "--tag", name + ":bookworm-slim"},
	} {
		cmd := exec.CommandContext(ctx, b.tools.crane, args...)
		cmd.Env = append(os.Environ(), b.dockerEnv()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("publishing the base image: %w\n%s", err, out)
		}
	}
	return nil
}

// seed publishes the project once with every side, from nothing. It is what a
// first build costs, and so is kept as a figure, too.
func (b *bench) seed(ctx context.Context, parent int64, sides []side) error {
	for _, s := range sides {
		if _, ok := s.(*craneSide); ok {
			continue
		}
		if err := s.prepare(ctx, false); err != nil {
			return err
		}
		out, err := b.run(ctx, s, 0)
		if err != nil {
			return err
		}
		b.show(s, "first build", false, 0, out)
		b.full = append(b.full, result{cell{Parent: parent, Case: "first build", Cold: true, Side: s.name()}, []sample{out}})
	}
	syscall.Sync() // or the disk is busy with this while what follows is measured
	return nil
}

// measureStart measures commands that build nothing, once a session: what
// importing an engine costs those who do not use it.
func (b *bench) measureStart(ctx context.Context, sides []side) error {
	s, ok := sides[0].(*strataSide)
	if !ok || b.start != nil {
		return nil
	}
	for _, args := range [][]string{{"version"}, {"plan", "--push"}} {
		r := result{cell: cell{Case: "strata " + args[0], Side: s.name()}}
		for range 2 * b.options.runs {
			cmd := b.command([]string{"STRATA_HOME=" + s.home}, b.tools.strata, args...)
			out, err := measure(ctx, b.proxy, 0, 0, cmd)
			if err != nil {
				return err
			}
			r.Samples = append(r.Samples, out)
		}
		say("%-21s %.1f ms, %s", r.Case, 1e3*r.seconds(), size(r.peak()))
		b.start = append(b.start, r)
	}
	return nil
}

// heavy cases move the whole parent, whoever builds.
func heavy(kind string) bool { return kind == caseMLDep || kind == caseBase }

func (b *bench) measureCases(ctx context.Context, parent int64, sides []side) error {
	for _, kind := range b.options.cases {
		for _, temp := range b.options.temps {
			for i, rtt := range b.options.rtts {
				if (heavy(kind) || kind == caseBulk) && i > 0 {
					continue // bandwidth, not latency, decides here
				}
				if err := b.measureCase(ctx, cell{Parent: parent, RTT: rtt, Case: kind, Cold: temp == "cold"}, sides); err != nil {
					return err
				}
			}
		}
		if kind == caseBulk {
			if err := b.project.dropBulk(); err != nil {
				return err
			}
			if err := b.project.commit(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureCase measures one case for every side in turn, run after run, so that
// what else goes on at the machine falls upon all of them alike.
func (b *bench) measureCase(ctx context.Context, c cell, sides []side) error {
	runs := b.options.runs
	if heavy(c.Case) && c.Parent > 200e6 {
		runs = min(runs, 2)
	}
	found := map[string][]sample{}
	for run := -1; run < runs; run++ { // the first one only brings each side up to date
		for _, s := range sides {
			if !s.applies(c.Case) {
				continue
			}
			if err := s.prepare(ctx, c.Cold && run >= 0); err != nil {
				return err
			}
			if err := b.project.change(ctx, c.Case); err != nil {
				return err
			}
			rtt := c.RTT
			if run < 0 {
				rtt = 0
			}
			out, err := b.run(ctx, s, rtt)
			if err != nil {
				return err
			}
			if err := b.verify(ctx, s, c.Case); err != nil {
				return err
			}
			if run >= 0 {
				b.show(s, c.Case, c.Cold, c.RTT, out)
				found[s.name()] = append(found[s.name()], out)
			}
		}
	}
	for _, s := range sides {
		if samples := found[s.name()]; samples != nil {
			c.Side = s.name()
			b.results = append(b.results, result{c, samples})
		}
	}
	return nil
}

func (b *bench) show(s side, kind string, cold bool, rtt time.Duration, out sample) {
	b.showLine(s.name(), kind, cold, rtt, out)
	if _, ok := s.(*strataSide); b.options.verbose && ok {
		out.log.print(os.Stderr)
	}
}

func (b *bench) showLine(name, kind string, cold bool, rtt time.Duration, out sample) {
	temp := "warm"
	if cold {
		temp = "cold"
	}
	say("%-21s %-11s %s rtt %-5s %8.3f s  %4d requests, depth %2d  %10s pulled %10s pushed  %8s  load %.1f",
		name, kind, temp, rtt, out.Seconds, out.Requests, out.Depth, size(out.Received), size(out.Sent), size(out.Peak), out.Load)
}

// size writes a number of bytes.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}
