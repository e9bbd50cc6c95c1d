package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// findings are all figures of one or more sessions.
type findings struct {
	Machine  string   `json:"machine"`
	Versions string   `json:"versions"`
	Date     string   `json:"date"`
	Results  []result `json:"results"`
	Full     []result `json:"full"`
	Start    []result `json:"start"`
}

// report adds this session's figures to those of earlier ones, if a file was
// named to keep them in, and writes the page and the picture.
func (b *bench) report(ctx context.Context, repo string) error {
	f := findings{
		Machine: machine(ctx), Versions: b.tools.versions(ctx, repo), Date: time.Now().UTC().Format("2 January 2006"),
		Results: b.results, Full: b.full, Start: b.start,
	}
	if file := b.options.data; file != "" {
		if err := f.merge(file); err != nil {
			return err
		}
	}
	return f.write(b.options.out)
}

// render writes page and picture from what a file keeps.
func render(o options) error {
	var f findings
	data, err := os.ReadFile(o.data)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return fmt.Errorf("reading figures from %q: %w", o.data, err)
	}
	return f.write(o.out)
}

func (f findings) write(dir string) error {
	for name, text := range map[string]string{"benchmarks.md": f.page(), "benchmarks.svg": f.picture()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	say("wrote %s", filepath.Join(dir, "benchmarks.md"))
	return nil
}

// merge puts the figures of a file in where this session has none, and writes
// all of them back.
func (f *findings) merge(file string) error {
	var old findings
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading earlier figures from %q: %w", file, err)
	}
	f.Results, f.Full, f.Start = join(f.Results, old.Results), join(f.Full, old.Full), join(f.Start, old.Start)
	if data, err = json.Marshal(f); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// join keeps the cells of new, and those of old that new does not have.
func join(new, old []result) []result {
	for _, o := range old {
		if !slices.ContainsFunc(new, func(n result) bool { return n.cell == o.cell }) {
			new = append(new, o)
		}
	}
	return new
}

// machine describes where the figures come from.
func machine(ctx context.Context) string {
	cpu, memory := "unknown processor", ""
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(data), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			cpu = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kb); err == nil {
			memory = fmt.Sprintf(", %.0f GiB", float64(kb)/(1<<20))
		}
	}
	kernel, err := exec.CommandContext(ctx, "uname", "-sr").Output()
	if err != nil {
		kernel = []byte(runtime.GOOS)
	}
	return fmt.Sprintf("%d processors (%s)%s, %s", runtime.NumCPU(), cpu, memory, strings.TrimSpace(string(kernel)))
}

// median of a list that is not empty.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func of[T int | int64 | float64](r result, field func(sample) T) float64 {
	var v []float64
	for _, s := range r.Samples {
		v = append(v, float64(field(s)))
	}
	return median(v)
}

func (r result) seconds() float64 { return of(r, func(s sample) float64 { return s.Seconds }) }
func (r result) pulled() int64    { return int64(of(r, func(s sample) int64 { return s.Received })) }
func (r result) pushed() int64    { return int64(of(r, func(s sample) int64 { return s.Sent })) }
func (r result) requests() int    { return int(of(r, func(s sample) int { return s.Requests })) }
func (r result) depth() int       { return int(of(r, func(s sample) int { return s.Depth })) }
func (r result) load() float64    { return of(r, func(s sample) float64 { return s.Load }) }

// peak is the largest memory of any run.
func (r result) peak() int64 {
	var most int64
	for _, s := range r.Samples {
		most = max(most, s.Peak)
	}
	return most
}

func (r result) span() (least, most float64) {
	least = r.Samples[0].Seconds
	for _, s := range r.Samples {
		least, most = min(least, s.Seconds), max(most, s.Seconds)
	}
	return least, most
}

// find gives one figure.
func find(rs []result, c cell) (result, bool) {
	i := slices.IndexFunc(rs, func(r result) bool { return r.cell == c })
	if i < 0 {
		return result{}, false
	}
	return rs[i], true
}

// distinct lists the values of a field, in order.
func distinct[T cmp.Ordered](rs []result, field func(result) T) []T {
	var out []T
	for _, r := range rs {
		if v := field(r); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}
