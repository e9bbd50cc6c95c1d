package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var sideNames = []string{"Strata", "buildx bake", "COPY --link", "crane append"}

var caseNames = map[string]string{
	caseNothing: "nothing changed", caseFile: "one source file", caseMeta: "metadata (ENV, LABEL, CMD)",
	caseBulk: "200 MB of source in 6,600 files", caseAppDep: "a dependency of the app", caseMLDep: "a dependency of ml",
	caseBase: "the base",
}

// page writes docs/benchmarks.md.
func (f findings) page() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What a change costs

Measured by [bench](../bench), which writes this page: `+"`make bench`"+`. %s. %s.
Versions: %s.

![Seconds until a change is published, on a machine that holds nothing](benchmarks.svg)

`, f.Date, f.Machine, f.Versions)
	for _, parent := range distinct(f.Results, func(r result) int64 { return r.Parent }) {
		f.overview(&b, parent)
	}
	f.targets(&b)
	f.fullTable(&b)
	f.peersBetter(&b)
	b.WriteString(method)
	f.details(&b)
	return b.String()
}

// overview is the table of one parent without delay: seconds, and in brackets
// what each is of Strata's time.
func (f findings) overview(b *strings.Builder, parent int64) {
	fmt.Fprintf(b, "## On a parent of %s\n\nSeconds, median; in brackets how many times Strata's.\n\n| what changed | stores |", size(parent))
	for _, s := range sideNames {
		fmt.Fprintf(b, " %s |", s)
	}
	b.WriteString(" Strata pulls | bake pulls |\n|---|---|" + strings.Repeat("--:|", len(sideNames)+2) + "\n")
	for _, kind := range allCases {
		for _, cold := range []bool{true, false} {
			c := cell{Parent: parent, Case: kind, Cold: cold, Side: "Strata"}
			own, ok := find(f.Results, c)
			if !ok {
				continue
			}
			fmt.Fprintf(b, "| %s | %s |", caseNames[kind], temperature(cold))
			for _, s := range sideNames {
				c.Side = s
				r, ok := find(f.Results, c)
				switch {
				case !ok:
					b.WriteString(" - |")
				case s == "Strata":
					fmt.Fprintf(b, " **%s** |", seconds(r.seconds()))
				default:
					fmt.Fprintf(b, " %s (%s) |", seconds(r.seconds()), times(r.seconds()/own.seconds()))
				}
			}
			c.Side = "buildx bake"
			bake := "-"
			if r, ok := find(f.Results, c); ok {
				bake = size(r.pulled())
			}
			fmt.Fprintf(b, " %s | %s |\n", size(own.pulled()), bake)
		}
	}
	b.WriteString("\n")
}

func temperature(cold bool) string {
	if cold {
		return "cold"
	}
	return "warm"
}

func seconds(s float64) string {
	switch {
	case s < 0.0995:
		return fmt.Sprintf("%.3f", s)
	case s < 9.95:
		return fmt.Sprintf("%.2f", s)
	}
	return fmt.Sprintf("%.1f", s)
}

func times(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.1f×", x)
	}
	return fmt.Sprintf("%.0f×", x)
}

// target is a bound that Strata sets itself. The value comes with the parent
// that it was measured on, 0 where that does not matter.
type target struct {
	text  string
	bound float64
	value func(f findings) (v float64, parent int64, ok bool)
	show  func(float64) string
	note  string // what to know when it is missed
}

// strata gives the figure of a cold case: on the parent of 1.1 GB or, where
// that was not measured, on another.
func (f findings) strata(kind string, rtt time.Duration) (result, bool) {
	for _, parent := range []int64{1.1e9, 6e9, 100e6} {
		if r, ok := find(f.Results, cell{Parent: parent, RTT: rtt, Case: kind, Cold: true, Side: "Strata"}); ok {
			return r, true
		}
	}
	return result{}, false
}

// cold gives a field of a cold case without delay.
func cold(kind string, field func(result) float64) func(findings) (float64, int64, bool) {
	return func(f findings) (float64, int64, bool) {
		r, ok := f.strata(kind, 0)
		if !ok {
			return 0, 0, false
		}
		return field(r), r.Parent, true
	}
}

// start gives a field of a command that builds nothing.
func start(command string, field func(result) float64) func(findings) (float64, int64, bool) {
	return func(f findings) (float64, int64, bool) {
		r, ok := find(f.Start, cell{Case: command, Side: "Strata"})
		if !ok {
			return 0, 0, false
		}
		return field(r), 0, true
	}
}

// largerParent is the time on 6 GB, of the time on 1.1 GB.
func largerParent(f findings) (float64, int64, bool) {
	large, ok := find(f.Results, cell{Parent: 6e9, Case: caseFile, Cold: true, Side: "Strata"})
	small, ok2 := find(f.Results, cell{Parent: 1.1e9, Case: caseFile, Cold: true, Side: "Strata"})
	if !ok || !ok2 {
		return 0, 0, false
	}
	return large.seconds() / small.seconds(), 0, true
}

// ofLink is the time for one file, of what the Dockerfile with COPY --link takes.
func ofLink(f findings) (float64, int64, bool) {
	own, ok := f.strata(caseFile, 0)
	link, ok2 := find(f.Results, cell{Parent: own.Parent, Case: caseFile, Cold: true, Side: "COPY --link"})
	if !ok || !ok2 {
		return 0, 0, false
	}
	return own.seconds() / link.seconds(), own.Parent, true
}

func inTurn(f findings) (float64, int64, bool) {
	r, ok := f.strata(caseFile, 100*time.Millisecond)
	if !ok {
		return 0, 0, false
	}
	return float64(r.depth()), r.Parent, true
}

func appendMemory(f findings) (float64, int64, bool) {
	var most int64
	for _, r := range f.Results {
		if r.Side == "Strata" && slices.Contains([]string{caseFile, caseMeta, caseBulk}, r.Case) {
			most = max(most, r.peak())
		}
	}
	return float64(most), 0, most > 0
}

// fullRatio is the worst of the full builds' times, of bake's.
func fullRatio(f findings) (float64, int64, bool) {
	var worst float64
	var parent int64
	for _, r := range f.Full {
		own, ok := find(f.Full, cell{Parent: r.Parent, Case: "full", Cold: true, Side: "Strata"})
		if !ok || r.Side != "buildx bake, no cache" {
			continue
		}
		if ratio := own.seconds() / r.seconds(); ratio > worst {
			worst, parent = ratio, r.Parent
		}
	}
	return worst, parent, worst > 0
}

func inSeconds(v float64) string { return seconds(v) + " s" }
func inBytes(v float64) string   { return size(int64(v)) }
func asRatio(v float64) string   { return fmt.Sprintf("%.2f", v) }

var targets = []target{
	{"nothing changed, cold", 0.1, cold(caseNothing, result.seconds), inSeconds, ""},
	{"one source file, cold", 0.4, cold(caseFile, result.seconds), inSeconds, ""},
	{"the same: pulled from the registry", 300e3, cold(caseFile, func(r result) float64 { return float64(r.pulled()) }), inBytes, ""},
	{"the same on 6 GB, of the time on 1.1 GB", 1.2, largerParent, asRatio,
		"the list of the parent's paths is read whole, so the time grows with its files (about 135,000 here, against 25,000), though not with its bytes; compare the load of the two, too"},
	{"the same, of `COPY --link`'s time", 1.0 / 3, ofLink, asRatio,
		"buildkitd runs already, and its start is not counted; it looks at one image, without keys, parents or tags"},
	{"metadata only, cold", 0.3, cold(caseMeta, result.seconds), inSeconds, ""},
	{"200 MB in 6,600 files, cold", 1.8, cold(caseBulk, result.seconds), inSeconds, ""},
	{"one source file at 100 ms: answers waited for one after the other", 8, inTurn, func(v float64) string { return fmt.Sprint(v) }, ""},
	{"memory of any append", 150e6, appendMemory, inBytes, ""},
	{"`strata plan`, nothing to do, 3 layers, 200 files", 0.1, start("strata plan", result.seconds), inSeconds, ""},
	{"the same: memory", 60e6, start("strata plan", func(r result) float64 { return float64(r.peak()) }), inBytes, ""},
	{"full build, of bake's time without cache export", 1, fullRatio, asRatio, "Strata also lists the files of every layer; look at the spread of the runs and at the load"},
}

// targets says what was promised and what came of it.
func (f findings) targets(b *strings.Builder) {
	b.WriteString("## Against what Strata promises\n\n| | at most | measured | on a parent of | |\n|---|--:|--:|--:|---|\n")
	for _, t := range targets {
		v, parent, ok := t.value(f)
		if !ok {
			continue
		}
		verdict := "met"
		if v > t.bound {
			verdict = "**missed**"
			if t.note != "" {
				verdict += ": " + t.note
			}
		}
		on := "-"
		if parent > 0 {
			on = size(parent)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", t.text, t.show(t.bound), t.show(v), on, verdict)
	}
	b.WriteString("\n")
	if r, ok := find(f.Start, cell{Case: "strata version", Side: "Strata"}); ok {
		fmt.Fprintf(b, "`strata version`, a start and an end: %s s, %s.\n\n", seconds(r.seconds()), size(r.peak()))
	}
}

// fullTable compares builds from nothing.
func (f findings) fullTable(b *strings.Builder) {
	if len(f.Full) == 0 {
		return
	}
	b.WriteString("## Building everything\n\nEmpty stores and an empty repository. \"First build\" is what the side does every day, bake's export of\nthe cache included; \"full\" is without it, and Strata is also measured on the buildkitd that bake uses.\n\n" +
		"| parent | build | side | seconds | of bake's | pulled | pushed | memory | runs | load |\n|--:|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	rows := slices.DeleteFunc(slices.Clone(f.Full), func(r result) bool { return r.Side == "COPY --link" }) // builds on bake's parent
	slices.SortStableFunc(rows, func(a, c result) int { return int(a.Parent/1e6) - int(c.Parent/1e6) })
	for _, r := range rows {
		ratio := "-"
		for _, peer := range []string{"buildx bake", "buildx bake, no cache"} {
			if p, ok := find(f.Full, cell{Parent: r.Parent, Case: r.Case, Cold: true, Side: peer}); ok {
				ratio = fmt.Sprintf("%.2f", r.seconds()/p.seconds())
			}
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %d | %.1f |\n", size(r.Parent), r.Case, r.Side, seconds(r.seconds()),
			ratio, size(r.pulled()), size(r.pushed()), size(r.peak()), len(r.Samples), r.load())
	}
	b.WriteString("\n")
}

// peersBetter lists every figure in which another side is ahead by a tenth or
// more; of bytes, by a megabyte.
func (f findings) peersBetter(b *strings.Builder) {
	b.WriteString("## Where another tool is better\n\nBy a tenth or more; of bytes, by a megabyte.\n\n")
	lines := 0
	for _, r := range f.Results {
		c := r.cell
		c.Side = "Strata"
		own, ok := find(f.Results, c)
		if !ok || r.Side == "Strata" {
			continue
		}
		var ahead []string
		if r.seconds() < 0.9*own.seconds() {
			ahead = append(ahead, fmt.Sprintf("time %s s against %s s", seconds(r.seconds()), seconds(own.seconds())))
		}
		for _, v := range []struct {
			what       string
			peer, ours int64
		}{{"pulls", r.pulled(), own.pulled()}, {"pushes", r.pushed(), own.pushed()}, {"memory", r.peak(), own.peak()}} {
			if v.peer < v.ours-1e6 && v.peer < v.ours*9/10 {
				ahead = append(ahead, fmt.Sprintf("%s %s against %s", v.what, size(v.peer), size(v.ours)))
			}
		}
		if r.RTT > 0 && r.depth() < own.depth() {
			ahead = append(ahead, fmt.Sprintf("waits for %d answers in turn, not %d", r.depth(), own.depth()))
		}
		if len(ahead) > 0 {
			lines++
			fmt.Fprintf(b, "- %s, %s, %s, %s%s: %s\n", r.Side, caseNames[r.Case], temperature(r.Cold), size(r.Parent), delay(r.RTT), strings.Join(ahead, "; "))
		}
	}
	if lines == 0 {
		b.WriteString("In none of the figures.\n")
	}
	b.WriteString(`
crane append puts a tar file on an image and asks nothing: it reads no Dockerfile, knows no owner by name, looks
at no directory of the parent, computes no key, moves no other tag and keeps no inventory. The Dockerfile with
` + "`COPY --link`" + ` looks at one image where Strata looks at three layers, but has to be written that way, and can't
say WORKDIR. Both pull some tens of kilobytes less: Strata reads the parent's inventory, to give the same image
that BuildKit gives, and the manifests of all three layers.

`)
}

func delay(rtt time.Duration) string {
	if rtt == 0 {
		return ""
	}
	return ", " + rtt.String()
}

// details is the table of everything.
func (f findings) details(b *strings.Builder) {
	b.WriteString("## All figures\n\nTime: median (least to most) of so many runs; the rest: median, memory: most. \"In turn\" is the longest chain of\nrequests each of which began after the one before it had ended.\n\n" +
		"| parent | what changed | stores | RTT | side | seconds | runs | requests | in turn | pulled | pushed | memory | load |\n" +
		"|--:|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	rows := slices.Clone(f.Results)
	slices.SortStableFunc(rows, func(a, c result) int {
		if a.Parent != c.Parent {
			return int(a.Parent/1e6) - int(c.Parent/1e6)
		}
		return slices.Index(allCases, a.Case) - slices.Index(allCases, c.Case)
	})
	for _, r := range rows {
		least, most := r.span()
		fmt.Fprintf(b, "| %s | %s | %s | %d ms | %s | %s (%s to %s) | %d | %d | %d | %s | %s | %s | %.1f |\n",
			size(r.Parent), r.Case, temperature(r.Cold), r.RTT.Milliseconds(), r.Side, seconds(r.seconds()), seconds(least), seconds(most),
			len(r.Samples), r.requests(), r.depth(), size(r.pulled()), size(r.pushed()), size(r.peak()), r.load())
	}
}

const method = `## Method

One project, three layers: base (Debian, 10 MB of files), ml (so many made-up files that the app stands on the
size given, compressed; two thirds random bytes), app (a RUN that installs 5 MB, WORKDIR, COPY of 200 source files,
0.5 MB, ENV, LABEL, CMD). Ordinary Dockerfiles, the same for Strata and bake. Dependencies stand in the RUN that installs
them: with a COPY before it, bake does not find its own registry cache again on a cold store (linked targets, from the
second on), and would look worse.

- **Strata**: ` + "`strata build --push`" + ` with the embedded engine.
- **buildx bake**: ` + "`buildx bake --push`" + ` of the three targets, linked by ` + "`target:`" + ` contexts, with a registry cache of each,
  mode=max, against a buildkitd of the same version as Strata's engine; no attestations.
- **COPY --link**: one Dockerfile by hand: the app's dependencies in an image of their own, every COPY a link, no
  WORKDIR; ` + "`buildx build --push`" + `, the same buildkitd.
- **crane append**: ` + "`tar`" + ` and ` + "`crane append`" + ` of the source onto the ml image.

Each change is a commit. *Cold* is a machine that has never seen the project: an empty STRATA_HOME, a buildkitd just
started over an empty folder (its start is not counted). *Warm* keeps the store. Files are in the page cache. The
sides take turns, run by run. After a changed file the image in the registry is opened and the change looked for.

The registry is distribution's own program on the same machine, so its work is in every figure; a proxy before it
counts requests and bytes, headers included, and adds the delay: half a round trip to each request, half to its
answer, one more to a new connection. It limits no bandwidth; there is no TLS and no token. A real registry adds a
round trip or two for those, to every side alike. Memory is the sum of the peaks (VmHWM) of a side's processes,
buildkitd among them. Where a run moves the whole parent and that is large, there are two runs. The load column
is the machine's load average when a run began.

`
