package strata

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/packages"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

const farAway = 50 * time.Millisecond

// outdated asks which of many images of a registry that is far away have moved,
// and gives how long that took and what was asked.
func outdated(tb testing.TB, images int) (time.Duration, []lock.Change, []string) {
	slow := make(chan struct{}) // closed when pushing, which is not measured, has ended
	reg := registrytest.With(tb, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-slow:
				time.Sleep(farAway)
			default:
			}
			next.ServeHTTP(w, r)
		})
	}})
	f := &lock.File{Version: lock.Version}
	for i := range images {
		name := fmt.Sprintf("base%d", i)
		d := reg.PushImage(tb, reg.Ref(name+":1"), registrytest.Image{Layers: []map[string]string{{"f": name}}})
		f.Images = append(f.Images, lock.Image{Name: reg.Host + "/" + name + ":1", Index: d.Digest})
	}
	reg.PushImage(tb, reg.Ref("base7:1"), registrytest.Image{Layers: []map[string]string{{"f": "moved"}}})
	close(slow)
	reg.TakeLog()
	begun := time.Now()
	changes, err := Outdated(tb.Context(), Config{Client: reg.NewClient(registry.Options{}), Lock: f})
	if err != nil {
		tb.Fatal(err)
	}
	return time.Since(begun), changes, reg.TakeLog()
}

// TestOutdatedIsQuick: fifty images on one registry at 50 ms a round trip are
// checked in well under a second, by one HEAD request each.
func TestOutdatedIsQuick(t *testing.T) {
	took, changes, log := outdated(t, 50)
	if len(changes) != 1 || !strings.HasSuffix(changes[0].Name, "/base7:1") {
		t.Errorf("moved: %v", changes)
	}
	if took > time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("50 images, %v a request: %v", farAway, took)
	if len(log) != 50 || slices.ContainsFunc(log, func(l string) bool { return !strings.HasPrefix(l, "HEAD ") }) {
		t.Errorf("%d requests: %v", len(log), log)
	}
}

func BenchmarkOutdated(b *testing.B) {
	for b.Loop() {
		took, _, _ := outdated(b, 50)
		b.ReportMetric(took.Seconds(), "s/check")
	}
}

// stanzas gives a dpkg database of "name version" pairs.
func stanzas(pairs ...string) map[string]string {
	text := ""
	for _, p := range pairs {
		name, version, _ := strings.Cut(p, " ")
		text += "Package: " + name + "\nStatus: install ok installed\nArchitecture: amd64\nVersion: " + version + "\n\n"
	}
	return map[string]string{"var/lib/dpkg/status": text}
}

// pin makes a lock of the project's images as they are, and keeps what old pins.
func (w *workshop) pin(t *testing.T, old *lock.File, move bool) *lock.File {
	t.Helper()
	c := w.config(t)
	c.Lock = old
	fresh, err := Pins(t.Context(), c, func(string) bool { return move })
	if err != nil {
		t.Fatal(err)
	}
	return old.Keep(fresh, func(string) bool { return move })
}

func TestUpdates(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY src/ /src/\n")
	push := func(layers ...map[string]string) {
		w.reg.PushImage(t, w.reg.Ref("parent:1"), registrytest.Image{Layers: layers})
	}
	push(map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n"}, stanzas("libc6 1", "gone 1"))
	before := w.pin(t, nil, true)
	c := w.config(t)
	c.Lock = before
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	push(map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n"}, stanzas("libc6 2", "more 1"))
	if same := w.pin(t, before, false); len(lock.Diff(before, same)) != 0 {
		t.Error("an image moved that was to stay")
	}
	after := w.pin(t, before, true)
	want := []packages.Change{
		{Kind: packages.Removed, Name: "gone", Arch: "amd64", Old: "1"},
		{Kind: packages.Upgraded, Name: "libc6", Arch: "amd64", Old: "1", New: "2"},
		{Kind: packages.Added, Name: "more", Arch: "amd64", New: "1"},
	}
	got, err := Updates(t.Context(), c, before, after, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || len(got[0].Platforms) != 1 || got[0].Platforms[0].Unknown != "" {
		t.Fatalf("%+v", got)
	}
	if diff := cmp.Diff(want, got[0].Platforms[0].Packages); diff != "" {
		t.Error(diff)
	}
	steps, err := Rebuilds(t.Context(), c, after, got)
	if err != nil || len(steps) != 1 || steps[0].Unit != app {
		t.Errorf("to be made anew: %v, %v", steps, err)
	}

	// Upstream has the old image no more; what was built on it still has its
	// layers and the list of them.
	old := w.reg.Ref("parent").WithDigest(got[0].Platforms[0].Old)
	if err := w.reg.Client.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c.Cache = t.TempDir()
	if got, err = Updates(t.Context(), c, before, after, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got[0].Platforms[0].Packages); diff != "" {
		t.Errorf("%s (%s)", diff, got[0].Platforms[0].Unknown)
	}
	// Nothing was built on it: that is said.
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/other\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	c = w.config(t)
	if got, err = Updates(t.Context(), c, before, after, true); err != nil {
		t.Fatal(err)
	}
	if u := got[0].Platforms[0]; u.Unknown != "the old image is not in the registry any more" || len(u.Packages) != 0 {
		t.Errorf("%q, %v", u.Unknown, u.Packages)
	}
}

// TestABotMovesADigest: a program that knows one digest an image puts another
// one into strata.lock; builds go by it, and `strata lock` completes the file.
func TestABotMovesADigest(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY src/ /src/\n")
	locked := w.pin(t, nil, true)
	moved := w.reg.PushImage(t, w.reg.Ref("parent:1"), registrytest.Image{Layers: []map[string]string{{"etc/": "", "etc/new": "1"}}})
	w.reg.PushImage(t, w.reg.Ref("parent:1"), registrytest.Image{Layers: []map[string]string{{"etc/": "", "etc/newer": "1"}}})
	text, err := locked.Encode()
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), `"digest": "`+locked.Images[0].Index.String(), `"digest": "`+moved.Digest.String(), 1))
	c := w.config(t)
	if c.Lock, err = lock.Parse(text); err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range p.externals {
		if x.digest != moved.Digest || x.index != moved.Digest {
			t.Errorf("it stands on %s, not on what the lock says", x.digest)
		}
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0].Text, "is pinned without its platform") {
		t.Errorf("warnings: %v", p.Warnings)
	}
	whole := w.pin(t, c.Lock, false)
	if i := whole.Images[0]; i.Stale() || i.Platforms["linux/amd64"].Digest != moved.Digest {
		t.Errorf("completed: %+v", i)
	}
	// What was pinned is gone: the error names the way on.
	if err := w.reg.Client.Delete(t.Context(), w.reg.Ref("parent").WithDigest(moved.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(t.Context(), c); err == nil || !strings.Contains(fmt.Sprintf("%+v", err), "not there any more") {
		t.Errorf("%v", err)
	}
}

// TestATestsImagesArePinned: what only a stage that tests takes is pinned, too,
// and part of what makes the test run again.
func TestATestsImagesArePinned(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.write(t, "Dockerfile", strings.ReplaceAll("FROM HOST/parent:1 AS app\nCOPY src/ /src/\nFROM HOST/tool:1 AS check\nCOPY --from=app /src /src\nRUN check\n", "HOST", w.reg.Host))
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    stage: app\n    test: {stage: check}\n")
	tool := func(text string) {
		w.reg.PushImage(t, w.reg.Ref("tool:1"), registrytest.Image{Layers: []map[string]string{{"bin/check": text}}})
	}
	tool("one")
	locked := w.pin(t, nil, true)
	if len(locked.Images) != 2 {
		t.Fatalf("pinned: %v", locked.Images)
	}
	testKeys := func(l *lock.File) (string, string) {
		c := w.config(t)
		c.Lock = l
		p, err := Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		r := &runner{pass: p}
		id, err := r.testKey(t.Context(), p.Graph.Unit(app))
		if err != nil {
			t.Fatal(err)
		}
		job, err := r.job(p.Graph.Unit(app), nil)
		if err != nil {
			t.Fatal(err)
		}
		if job.Pins[w.reg.Host+"/tool:1"] == "" {
			t.Error("the engine may read the tag again")
		}
		return string(p.Keys[app].Unit.ID()), string(id)
	}
	unit, test := testKeys(locked)
	tool("two")
	if u, k := testKeys(locked); u != unit || k != test {
		t.Error("a pinned tool that moved upstream changes something")
	}
	if u, k := testKeys(w.pin(t, locked, true)); u != unit || k == test {
		t.Errorf("the tool moved: unit %v, test %v", u != unit, k != test)
	}
}
