//go:build linux

package times

import (
	"archive/tar"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestBuildKitAgainstItself builds projects twice with plain BuildKit, the
// second time without its cache: what differs then is no business of Strata's.
func TestBuildKitAgainstItself(t *testing.T) {
	t.Parallel()
	tried := 0
	for i := range projects {
		if p := projects[i]; !p.cached && !p.git { // a cache mount would be the first build's
			tried++
			p.name = "twice-" + p.name
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				w := open(t)
				w.turn(t)
				c := p.checkout(t, w)
				c.release(t, 1)
				want, again := c.plain(t, w, false), c.plain(t, w, true)
				for _, u := range c.units {
					for _, d := range compare(want[u.name].picture, again[u.name].picture, facts{c.started, c.context, c.holds, false}) {
						// Two of BuildKit's instructions may fall into one second.
						if told[d.kind] == "" && d.kind != notNewer {
							t.Errorf("%s: %+v", u.name, d)
						}
					}
				}
			})
		}
	}
	if tried < 30 {
		t.Errorf("only %d projects were tried", tried)
	}
}

// A change of one time or content of an image must be found, and as the right
// kind.
func TestCompareFinds(t *testing.T) {
	const now = 1_700_000_000
	file := func(path string, sec int64) *entry {
		return &entry{path: path, kind: tar.TypeReg, sec: sec, size: 1, sum: "sum of " + path}
	}
	image := func(change func(files map[string]*entry)) *picture {
		p := &picture{files: map[string]*entry{}, config: ocispec.Image{}}
		p.commands = []string{"", "COPY src /src # buildkit", "RUN make a", "RUN make b", "RUN chmod", "COPY --from=build"}
		all := [][]*entry{
			{file("etc/base", now-1000)},
			{file("src", now+1)},
			{file("a1", now+2), file("a2", now+3), file("archived", 1_400_000_000)},
			{file("b", now+4), file("lib/m.py", now+4), file("lib/__pycache__/m.cpython-311.pyc", now+4), file("seen", now+4)},
			{file("a1", now+2)}, // chmod: the time stays
			{file("out", now+1)},
		}
		files := map[string]*entry{}
		for n, entries := range all {
			for _, e := range entries {
				if e.path == "lib/__pycache__/m.cpython-311.pyc" {
					e.pyc = &pyc{0, now + 4, 1}
				}
				e.layer = n
				files[e.path] = e
			}
			p.layers = append(p.layers, &layer{entries: entries})
		}
		change(files)
		p.files = files
		return p
	}
	context := map[string]bool{contextKey("sum of src", now+1): true}
	for _, c := range []struct {
		name   string
		change func(f map[string]*entry)
		want   []string
	}{
		{"nothing", func(map[string]*entry) {}, nil},
		{"one time a layer", func(f map[string]*entry) { f["a1"].sec, f["a2"].sec = now+3, now+3 }, nil},
		{"a derived file is older than its source", func(f map[string]*entry) { f["b"].sec = now }, []string{reversed, free}},
		{"two layers of one time", func(f map[string]*entry) { f["b"].sec = now + 3 }, []string{notNewer}},
		{"reversed in a layer", func(f map[string]*entry) { f["a1"].sec = now + 3; f["a2"].sec = now + 2 }, []string{within}},
		{"an archive's time", func(f map[string]*entry) { f["archived"].sec++ }, []string{ownTime}},
		{"Python's record", func(f map[string]*entry) { f["lib/__pycache__/m.cpython-311.pyc"].pyc.sec++ }, []string{stale}},
		{"1970", func(f map[string]*entry) { f["b"].sec = 0 }, []string{reversed, old, free}},
		{"the future", func(f map[string]*entry) { f["b"].sec = 1 << 40 }, []string{future}},
		{"a RUN saw something", func(f map[string]*entry) { f["seen"].sum = "other" }, []string{outcome}},
		{"content", func(f map[string]*entry) { f["b"].sum = "other" }, []string{content}},
		{"a path is missing", func(f map[string]*entry) { delete(f, "b") }, []string{paths}},
		{"a copied file of a stage is newer", func(f map[string]*entry) { f["out"].sec = now + 9 }, []string{free}},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := map[string]bool{}
			for _, d := range compare(image(func(map[string]*entry) {}), image(c.change), facts{now, context, nil, false}) {
				found[d.kind] = true
			}
			slices.Sort(c.want)
			if d := cmp.Diff(c.want, slices.Sorted(maps.Keys(found))); d != "" {
				t.Errorf("kinds (-want +got):\n%s", d)
			}
		})
	}
	before := image(func(map[string]*entry) {})
	after := image(func(f map[string]*entry) { f["b"].sum = "v2"; f["b"].sec = now + 60 })
	same := image(func(f map[string]*entry) { f["b"].sum = "v2" })
	if found := compareReleases(before, after, before, same); len(found) != 1 || found[0].kind != release {
		t.Errorf("a file that changed and kept its time: %+v", found)
	}
	if found := compareReleases(before, after, before, after); found != nil {
		t.Errorf("a file that changed and is newer: %+v", found)
	}
}
