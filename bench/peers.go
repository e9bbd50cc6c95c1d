package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// peer is a program of another project, built from its module as that project
// would build it: with the versions of its own go.mod.
type peer struct{ module, version, pkg, program string }

var peers = []peer{
	{"github.com/moby/buildkit", "v0.33.1", "./cmd/buildkitd", "buildkitd"},
	{"github.com/moby/buildkit", "v0.33.1", "./cmd/buildctl", "buildctl"},
	{"github.com/docker/buildx", "v0.37.2", "./cmd/buildx", "buildx"},
	{"github.com/google/go-containerregistry", "v0.22.1", "./cmd/crane", "crane"},
	{"github.com/distribution/distribution/v3", "v3.1.2", "./cmd/registry", "registry"},
}

// tools are the programs that are measured, and those that they need.
type tools struct {
	strata, fill                  string
	buildkitd, buildctl, buildx   string
	crane, registry, runc, rootfs string
}

// cacheDir is where programs are kept from one run to the next.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(dir, "strata", "bench"), nil
}

// build makes every program that is not in the cache, one after the other.
// Strata itself is built each time unless a binary is given.
func build(ctx context.Context, repo, strata, rootfs string, say func(string, ...any)) (tools, error) {
	var t tools
	cache, err := cacheDir()
	if err != nil {
		return t, err
	}
	at, err := buildPeers(ctx, nil, say)
	if err != nil {
		return t, err
	}
	t = tools{
		strata: strata, buildkitd: at["buildkitd"], buildctl: at["buildctl"], buildx: at["buildx"],
		crane: at["crane"], registry: at["registry"], fill: filepath.Join(cache, "fill"), runc: filepath.Join(cache, "runc"),
	}
	if t.strata == "" {
		t.strata = filepath.Join(cache, "strata")
		say("building strata")
		if err := goBuild(ctx, repo, t.strata, "./cmd/strata", "-tags", "embedrunc"); err != nil {
			return t, err
		}
	}
	if err := goBuild(ctx, filepath.Join(repo, "bench"), t.fill, "./fill"); err != nil {
		return t, err
	}
	if err := t.unpackRunc(ctx, repo); err != nil {
		return t, err
	}
	t.rootfs, err = findRootfs(rootfs)
	return t, err
}

// buildPeers makes the named peers, or all, unless they are in the cache, and
// gives their files by name.
func buildPeers(ctx context.Context, names []string, say func(string, ...any)) (map[string]string, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	for _, p := range peers {
		if names != nil && !slices.Contains(names, p.program) {
			continue
		}
		file := filepath.Join(cache, p.program+"-"+p.version)
		at[p.program] = file
		if _, err := os.Stat(file); err == nil {
			continue
		}
		say("building %s %s", p.program, p.version)
		if err := p.build(ctx, file); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if at[name] == "" {
			return nil, fmt.Errorf("building %q: there is no such peer", name)
		}
	}
	return at, nil
}

func (p peer) build(ctx context.Context, file string) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", p.module+"@"+p.version)
	cmd.Dir = os.TempDir()
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("downloading %s %s: %w", p.module, p.version, err)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("downloading %s %s: %w", p.module, p.version, err)
	}
	return goBuild(ctx, m.Dir, file, p.pkg)
}

// goBuild compiles a program of the module in dir, statically and without
// symbols, and puts it in place when it is whole.
func goBuild(ctx context.Context, dir, file, pkg string, more ...string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	args := append([]string{"build", "-p", "2", "-trimpath", "-mod=readonly", "-buildvcs=false", "-ldflags", "-s -w"}, more...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", file+".new", pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("building %s in %q: %w\n%s", pkg, dir, err, out), os.RemoveAll(file+".new"))
	}
	return os.Rename(file+".new", file)
}

// unpackRunc gives both sides the runc that Strata carries.
func (t tools) unpackRunc(ctx context.Context, repo string) error {
	home, err := os.MkdirTemp("", "strata-bench-runc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	found, err := filepath.Glob(filepath.Join(repo, "internal/buildkit/runcbin/runc-linux-*.zst"))
	if err != nil || len(found) != 1 {
		return errors.New("finding runc: there is none in internal/buildkit/runcbin; make it with scripts/runc.sh")
	}
	cmd := exec.CommandContext(ctx, "zstd", "-dqf", found[0], "-o", t.runc+".new")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpacking runc: %w\n%s", err, out)
	}
	if err := os.Chmod(t.runc+".new", 0o755); err != nil {
		return err
	}
	return os.Rename(t.runc+".new", t.runc)
}

// findRootfs finds the file system that all images stand on: the newest that
// scripts/bases.sh has made, unless one is given.
func findRootfs(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "strata", "bases", "*", "debian-amd64.tar"))
	if err != nil {
		return "", err
	}
	newest := ""
	for _, f := range found {
		if newest == "" || modified(f) > modified(newest) {
			newest = f
		}
	}
	if newest == "" {
		return "", errors.New("finding a base image: run scripts/bases.sh first, or name a tar file with -rootfs")
	}
	return newest, nil
}

func modified(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

// versions says what is compared. Strata is told by its commit.
func (t tools) versions(ctx context.Context, repo string) string {
	var out []string
	for _, p := range peers {
		if p.program != "buildctl" {
			out = append(out, p.program+" "+p.version)
		}
	}
	cmd := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	cmd.Dir = repo
	if commit, err := cmd.Output(); err == nil {
		out = append([]string{"Strata " + strings.TrimSpace(string(commit))}, out...)
	}
	return strings.Join(out, ", ")
}
