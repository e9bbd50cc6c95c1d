//go:build linux

package times

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve starts `strata registry serve` with a store of its own and gives its
// address.
func serve(t *testing.T, w *world) string {
	t.Helper()
	m := w.extraMachine(t, "served-"+t.Name())
	cmd := exec.Command(w.program, "registry", "serve", "--addr", "127.0.0.1:0")
	cmd.Env = m.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if found := regexp.MustCompile(`//(127\.0\.0\.1:\d+)`).FindStringSubmatch(lines.Text()); found != nil {
			go func() {
				for lines.Scan() { // so that it never waits for a reader
				}
			}()
			return found[1]
		}
	}
	t.Fatal("strata registry serve did not say where")
	return ""
}

// elsewhere is a project whose images are pushed to a served registry.
func elsewhere(t *testing.T, w *world, p project) (*checkout, string) {
	t.Helper()
	host := serve(t, w)
	p.image = host + "/times/" + p.name
	return p.checkout(t, w), host
}

// clone is another machine's checkout of a project.
func (c *checkout) clone(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(c.dir), "clone-"+c.name+"-"+name)
	c.sh(t, "if [ -d "+dir+" ]; then git -C "+dir+" pull -q; else git clone -q . "+dir+"; fi", "")
	return dir
}

// push builds in a folder with --push.
func (m *machine) push(t *testing.T, dir string, units ...string) map[string]step {
	t.Helper()
	return m.build(t, dir, append([]string{"--push"}, units...)...)
}

// twoMachines are projects whose parent the first machine makes, and whose child
// the second one compiles with a cache mount of its own, that holds what it had
// compiled of the release before.
var twoMachines = []project{
	{name: "pulled-copied", git: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN echo 1 >/made\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=pulled s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "pulled-made", git: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN cp /src/main.c /made.c\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=pulled-made s=/made.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "pulled-argument", git: true, yaml: parentYAML + "args: {V: v1}\n",
		units: []unit{{name: "base", dockerfile: "Dockerfile.base", args: map[string]string{"V": "@v"}}, {name: "app", parent: "base"}},
		files: "-- Dockerfile.base --\nFROM busybox:1\nARG V\nRUN echo $V >/main.c\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=pulled-argument s=/main.c o=/obj/main.o; " + compile + "/seen-app\n" +
			"-- v --\nv1\n-- @2 v --\nv2\n-- @3 v --\nv3\n-- @2 strata.yaml --\n" + parentYAML + "args: {V: v2}\n-- @3 strata.yaml --\n" + parentYAML + "args: {V: v3}\n"},
	{name: "pulled-past", git: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN cp /src/main.c /made.c\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=pulled-past s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three +
			"-- !date --\n2001-01-01T00:00:00Z\n-- @2 !date --\n2002-01-01T00:00:00Z\n-- @3 !date --\n2001-06-01T00:00:00Z\n"},
	{name: "pulled-object", git: true, yaml: parentYAML, units: parentUnits, // the parent has source and object; the child sees which is newer
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN sleep 1.1; cp /src/main.c /main.o; sleep 1.1; cp /main.o /main\n-- Dockerfile --\n" + child + "RUN " + newer + "{ n /src/main.c /main.o; n /main.o /main; } >/seen; cp /main /seen-app\n" + three},
}

func TestSecondMachinePulls(t *testing.T) {
	t.Parallel()
	for _, p := range twoMachines {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			w.turn(t)
			c, _ := elsewhere(t, w, p)
			first, second := w.extraMachine(t, p.name+"-1"), w.extraMachine(t, p.name+"-2")
			c.bringTo(t, first)
			c.bringTo(t, second)
			var before *images
			for n := range c.releases(t) {
				if n > 0 {
					time.Sleep(aSecond)
				}
				c.release(t, n+1)
				dir := c.clone(t, "second")
				first.push(t, c.dir, "base")
				steps := second.push(t, dir)
				if s := steps["base/"+platform]; s.Action != "reuse" {
					t.Fatalf("the second machine was to take the parent; it did %s (%s)", s.Action, s.Reason)
				}
				if s := steps["app/"+platform]; s.Action != "build" {
					t.Fatalf("the second machine was to build the child; it did %s (%s)", s.Action, s.Reason)
				}
				now := &images{checkout: c, w: w, m: second, release: n + 1, strata: map[string]*picture{}, steps: steps}
				now.plain = c.plain(t, w, false)
				for _, u := range c.units {
					now.strata[u.name] = second.image(t, steps, u.name)
				}
				now.compare(t, before)
				before = now
			}
		})
	}
}

// twice are projects that come out the same on two machines and two days.
var twice = []project{
	{name: "two-days", git: true, yaml: "layers:\n  base: {dockerfile: Dockerfile.base, refresh: week}\n  app: {parent: base, refresh: week}\n",
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN cp /src/main.c /made.c; mkdir -p /d/e; touch -d '2015-05-05 05:05:05' /d/old\nWORKDIR /w\nCOPY <<EOF /conf\nNAME=1\nEOF\nRUN chmod 600 /made.c; cp -p /src/main.c /kept.c\n" +
			"-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=two-days s=/src/main.c o=/obj/main.o; " + compile + "/app\nCOPY tail /tail\n-- tail/a --\na\n" + three},
	{name: "two-days-stages", git: true, files: "-- Dockerfile --\nFROM busybox:1 AS build\nCOPY src /src\nRUN mkdir /out; cp /src/main.c /out/app; ln -s app /out/link; ln /out/app /out/hard\nFROM busybox:1\nCOPY --from=build /out /out\nCOPY --chmod=600 src /src\nRUN tar -cf /w.tar -C /out app; tar -xf /w.tar -C /tmp; rm /w.tar\n" + three},
	{name: "two-days-pip", git: true, bases: tools, files: "-- Dockerfile --\nFROM tools:1\nCOPY pkg /pkg\nRUN pip install -q --no-index --no-build-isolation --break-system-packages --root-user-action ignore /pkg && rm -r /pkg/build /pkg/*.egg-info\nCOPY lib /lib-x\nRUN python3 -m compileall -q /lib-x\n" +
		"-- pkg/setup.py --\nfrom setuptools import setup\nsetup(name='demo', version='1', packages=['demo'])\n-- pkg/demo/__init__.py --\nVALUE = 1\n" + modules},
}

// TestTwoHomesTwoDays builds a commit on two machines, the second one later, in a
// fresh clone, and reckoning on another day of the week.
func TestTwoHomesTwoDays(t *testing.T) {
	t.Parallel()
	for _, p := range twice {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			w.turn(t)
			c := p.checkout(t, w)
			c.release(t, 1)
			var made []*picture
			for i, day := range []string{"2026-11-24T10:00:00Z", "2026-11-26T22:00:00Z"} {
				if i > 0 {
					time.Sleep(2 * time.Second)
				}
				m := w.extraMachine(t, fmt.Sprintf("%s-%d", p.name, i))
				c.bringTo(t, m)
				steps := m.build(t, c.clone(t, m.name), "--time", day)
				if s := steps["app/"+platform]; s.Action != "build" {
					t.Fatalf("the unit was to be built; it was %s (%s)", s.Action, s.Reason)
				}
				made = append(made, m.image(t, steps, "app"))
			}
			report(t, unequal(made[0], made[1]))
		})
	}
}

const reproducible = "same bytes" // two builds of one commit differ

// unequal lists what differs between two builds of one commit.
func unequal(a, b *picture) (found []difference) {
	add := func(path, format string, args ...any) {
		found = append(found, difference{reproducible, path, fmt.Sprintf(format, args...)})
	}
	if a.manifest.Config.Digest != b.manifest.Config.Digest {
		add("config", "%s, then %s; created %s, then %s", a.manifest.Config.Digest, b.manifest.Config.Digest, a.config.Created, b.config.Created)
	}
	if len(a.layers) != len(b.layers) {
		add("layers", "%d, then %d", len(a.layers), len(b.layers))
		return found
	}
	for n := range a.layers {
		if a.manifest.Layers[n].Digest == b.manifest.Layers[n].Digest {
			continue
		}
		add(fmt.Sprintf("layer %d", n), "of %q differs", a.commands[n])
		later := map[string]*entry{}
		for _, e := range b.layers[n].entries {
			later[e.path] = e
		}
		for _, e := range a.layers[n].entries {
			o := later[e.path]
			delete(later, e.path)
			switch {
			case o == nil:
				add(e.path, "only in the first")
			case e.sec != o.sec:
				add(e.path, "%s, then %s", clock(e.sec), clock(o.sec))
			case e.sum != o.sum:
				add(e.path, "%s, then %s", short(e), short(o))
			case e.pyc != nil && o.pyc != nil && *e.pyc != *o.pyc:
				add(e.path, "it says %v, then %v", *e.pyc, *o.pyc)
			case e.mode != o.mode || e.kind != o.kind:
				add(e.path, "%c %o, then %c %o", e.kind, e.mode, o.kind, o.mode)
			}
		}
		for p := range later {
			add(p, "only in the second")
		}
	}
	slices.SortStableFunc(found, func(a, b difference) int { return strings.Compare(a.kind, b.kind) })
	return found
}
