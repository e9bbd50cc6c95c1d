// Command rebase measures a base's security update through three layers of about
// a gigabyte: rebased, and rebuilt by the engine in the same session. Both are
// then compared file by file.
//
//	cd bench && go run ./rebase -strata ../bin/strata
//
// It needs root, and the Debian that scripts/bases.sh has made.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	strata := flag.String("strata", "../bin/strata", "strata `binary` to measure")
	rootfs := flag.String("rootfs", "", "`tar` file of the base image's files (default: what scripts/bases.sh made)")
	size := flag.Int("size", 1000, "`megabytes` of random data that ml holds")
	runs := flag.Int("runs", 3, "updates of the base")
	flag.Parse()
	if err := measure(ctx, *strata, *rootfs, *size, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "rebase:", err)
		os.Exit(1)
	}
}

// bench is a project in a folder of its own.
type bench struct {
	strata, dir string
	size        int
}

func measure(ctx context.Context, strata, rootfs string, size, runs int) (err error) {
	b := &bench{size: size}
	if b.strata, err = filepath.Abs(strata); err != nil {
		return err
	}
	if rootfs == "" {
		if rootfs, err = debian(); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "strata-rebase-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if _, err := b.run(ctx, "registry", "import", rootfs, "--as", "debian:bookworm-slim",
		"--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	if err := b.fill(); err != nil {
		return err
	}
	fmt.Printf("%-8s %10s %10s %10s %10s %10s %10s\n", "update", "base", "ml", "app", "ml+app", "image", "sent")
	for level := range runs + 1 {
		if err := b.write(level); err != nil {
			return err
		}
		for _, policy := range []string{"rebase", "rebuild"} {
			res, err := b.build(ctx, policy)
			if err != nil {
				return err
			}
			if level > 0 && res["ml"].Action != map[string]string{"rebase": "rebase", "rebuild": "build"}[policy] {
				return fmt.Errorf("ml was made by %s", res["ml"].Action)
			}
			fmt.Printf("%-8s %9.2fs %9.2fs %9.2fs %9.2fs %7d MB %7d kB\n", policy, res["base"].Seconds, res["ml"].Seconds, res["app"].Seconds,
				res["ml"].Seconds+res["app"].Seconds, res["app"].Size/1e6, (res["ml"].Pushed+res["app"].Pushed)/1e3)
		}
		if level > 0 {
			if err := b.compare(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill writes the data that ml takes, which can't be compressed.
func (b *bench) fill() error {
	if err := os.Mkdir(filepath.Join(b.dir, "data"), 0o755); err != nil {
		return err
	}
	data := make([]byte, 10e6)
	for i := range b.size / 10 {
		rand.Read(data)
		if err := os.WriteFile(filepath.Join(b.dir, "data", strconv.Itoa(i)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func debian() (string, error) {
	cache := os.Getenv("STRATA_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(dir, "strata")
	}
	found, err := filepath.Glob(filepath.Join(cache, "bases", "*", "debian-"+runtime.GOARCH+".tar"))
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, errors.New("finding a base image: run scripts/bases.sh first, or name a tar file with -rootfs"))
	}
	return slices.Max(found), nil
}

func (b *bench) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.strata, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "STRATA_HOME="+filepath.Join(b.dir, "home"))
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("strata %s: %w\n%s", strings.Join(args, " "), err, log.String())
	}
	return out, nil
}

const project = `image: demo-%s
layers:
  base: {dockerfile: base.Dockerfile}
  ml: {parent: base, dockerfile: ml.Dockerfile, on-parent-change: %s}
  app: {parent: ml, dockerfile: app.Dockerfile}
`

// pack makes a Debian package: pack NAME VERSION DEPENDS.
const pack = `set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/doc/$1
echo $2 > /tmp/p/usr/share/doc/$1/version
printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Someone <someone@example.com>\nDescription: %s\n' $1 $2 $1 > /tmp/p/DEBIAN/control
[ -z "$3" ] || echo "Depends: $3" >> /tmp/p/DEBIAN/control
dpkg-deb --build --root-owner-group /tmp/p /tmp/$1.deb
rm -rf /tmp/p
`

// write writes the project, with the base at a level. Of ml the package database
// and the data are in one blob, which is the dear case.
func (b *bench) write(level int) error {
	files := map[string]string{
		"pack":         pack,
		"rebase.yaml":  fmt.Sprintf(project, "rebase", "rebase"),
		"rebuild.yaml": fmt.Sprintf(project, "rebuild", "rebuild"),
		"base.Dockerfile": fmt.Sprintf("FROM debian:bookworm-slim\nARG LEVEL=%d\n", level) +
			"RUN --mount=type=bind,source=pack,target=/pack sh /pack demo-base 1.$LEVEL && dpkg -i /tmp/demo-base.deb && rm /tmp/demo-base.deb\n",
		"ml.Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n" +
			"RUN --mount=type=bind,source=pack,target=/pack --mount=type=bind,source=data,target=/mnt sh /pack demo-ml 1 'demo-base (>= 1.0)' && " +
			"apt-get install -y --no-install-recommends /tmp/demo-ml.deb && rm /tmp/demo-ml.deb && cp -r /mnt /data\n",
		"app.Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY main /srv/\n",
		"main":           "main\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// unit is what came of a unit.
type unit struct {
	Unit    string  `json:"unit"`
	Action  string  `json:"action"`
	Seconds float64 `json:"seconds"`
	Size    int64   `json:"size"`
	Pushed  int64   `json:"bytesPushed"`
}

func (b *bench) build(ctx context.Context, policy string) (map[string]unit, error) {
	out, err := b.run(ctx, "-f", policy+".yaml", "build", "--json")
	if err != nil {
		return nil, err
	}
	var res struct {
		Units []unit `json:"units"`
	}
	if err := json.Unmarshal(out, &res); err != nil {
		return nil, fmt.Errorf("reading what strata build says: %w", err)
	}
	units := map[string]unit{}
	for _, u := range res.Units {
		layer, _, _ := strings.Cut(u.Unit, "/")
		units[layer] = u
	}
	return units, nil
}

// compare says in which files the two images differ.
func (b *bench) compare(ctx context.Context) error {
	start := time.Now()
	out, err := b.run(ctx, "-f", "rebase.yaml", "diff", "--json", "demo-rebase:latest", "demo-rebuild:latest")
	if err != nil {
		return err
	}
	var diffs []struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(out, &diffs); err != nil {
		return err
	}
	var paths []string
	for _, d := range diffs {
		paths = append(paths, d.Path)
	}
	fmt.Printf("         differ in %s (compared in %.1fs)\n", strings.Join(paths, " "), time.Since(start).Seconds())
	return nil
}
