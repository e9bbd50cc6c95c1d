// Command bench measures what a change costs: Strata, `docker buildx bake` with
// a registry cache, a Dockerfile written by hand for `COPY --link`, and crane
// append, side by side, against one registry on this machine that stands behind
// a counting proxy. It writes docs/benchmarks.md and docs/benchmarks.svg.
//
//	go run . -quick      # some minutes
//	go run .             # about an hour, 40 GB of disk
//
// It needs root (as BuildKit does), git, tar and zstd. It builds the peers from
// their modules and keeps them in ${XDG_CACHE_HOME:-~/.cache}/strata/bench; all
// else is made in one folder that is removed in the end, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	cases, temps []string
	parents      []int64
	rtts         []time.Duration
	sides        []string
	runs         int
	full         bool // compare full builds, too
	verbose      bool
	strata       string
	rootfs       string
	dir          string
	out          string
	data         string
	render       bool
	keep         bool
	peers        string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "one small parent, three runs, the cheap cases, no delay: some minutes")
	cases := f.String("cases", strings.Join(allCases, ","), "what has changed")
	temps := f.String("temps", "cold,warm", "state of the tools' own stores")
	parents := f.String("parents", "100MB,1.1GB,6GB", "compressed size of what the app stands on")
	rtts := f.String("rtt", "0,20,100", "round-trip times to the registry, in milliseconds")
	sides := f.String("sides", "strata,bake,link,crane", "who is measured")
	var o options
	f.IntVar(&o.runs, "runs", 5, "runs of each case; two at most where a run moves the whole parent")
	f.BoolVar(&o.full, "full", true, "compare full builds from nothing, too")
	f.BoolVar(&o.verbose, "v", false, "print every run, and the requests of Strata's")
	f.StringVar(&o.strata, "strata", "", "strata binary to measure, instead of building one")
	f.StringVar(&o.rootfs, "rootfs", "", "tar file of the base image's files (default: what scripts/bases.sh made)")
	f.StringVar(&o.dir, "dir", "", "folder in which to work (default: the system's temporary one)")
	f.StringVar(&o.out, "out", "", "folder for benchmarks.md and benchmarks.svg (default: ../docs)")
	f.StringVar(&o.data, "data", "", "file that keeps the figures, so that several sessions make one page")
	f.BoolVar(&o.render, "render", false, "measure nothing: write the page from the figures in -data")
	f.BoolVar(&o.keep, "keep", false, "keep the working folder, to look at it")
	f.StringVar(&o.peers, "peers", "", "measure nothing: build these programs unless they are there, and print their files")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		*cases, *parents, *rtts = "nothing,file,meta", "100MB", "0"
		o.runs, o.full = min(o.runs, 3), false
	}
	o.cases, o.temps, o.sides = strings.Split(*cases, ","), strings.Split(*temps, ","), strings.Split(*sides, ",")
	for _, c := range o.cases {
		if !slices.Contains(allCases, c) {
			return o, fmt.Errorf("there is no case %q; there are %s", c, strings.Join(allCases, ", "))
		}
	}
	for _, s := range strings.Split(*parents, ",") {
		n, err := parseSize(s)
		if err != nil {
			return o, err
		}
		o.parents = append(o.parents, n)
	}
	for _, s := range strings.Split(*rtts, ",") {
		ms, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return o, fmt.Errorf("reading the round-trip time %q: %w", s, err)
		}
		o.rtts = append(o.rtts, time.Duration(ms*float64(time.Millisecond)))
	}
	return o, nil
}

// parseSize reads "100MB" or "1.1GB".
func parseSize(s string) (int64, error) {
	for unit, factor := range map[string]float64{"MB": 1e6, "GB": 1e9} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			v, err := strconv.ParseFloat(n, 64)
			if err == nil && v > 0 {
				return int64(v * factor), nil
			}
		}
	}
	return 0, fmt.Errorf("reading the size %q: write it like 100MB or 1.1GB", s)
}

// run does everything, and removes what it made.
func run(ctx context.Context, o options) (err error) {
	repo, err := repository(ctx)
	if err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(repo, "docs")
	}
	if o.strata != "" {
		if o.strata, err = filepath.Abs(o.strata); err != nil {
			return err
		}
	}
	if o.render {
		return render(o)
	}
	if o.peers != "" {
		return printPeers(ctx, strings.Split(o.peers, ","))
	}
	t, err := build(ctx, repo, o.strata, o.rootfs, say)
	if err != nil {
		return err
	}
	b := &bench{options: o, tools: t}
	if b.root, err = os.MkdirTemp(o.dir, "sb-"); err != nil { // short: sockets' names are
		return err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, unmountBelow(b.root), os.RemoveAll(b.root)) }()
	}
	for _, parent := range o.parents {
		if err := b.measureParent(ctx, parent); err != nil {
			return err
		}
	}
	return b.report(ctx, repo)
}

// printPeers builds what tests of other modules need, one file a line.
func printPeers(ctx context.Context, names []string) error {
	at, err := buildPeers(ctx, names, say)
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Println(at[name])
	}
	return nil
}

// repository gives the root of the repository, from it or from the folder bench.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w (run bench in its own folder)", err)
	}
	dir := strings.TrimSpace(string(out))
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if _, err := os.Stat(filepath.Join(d, "bench", "go.mod")); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("finding the repository: %q is not in it", dir)
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
