package inventory

import (
	"archive/tar"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func at(e entry, sec, nsec int64) entry {
	e.ModTime = time.Unix(sec, nsec)
	if nsec != 0 || sec < 0 {
		e.Format = tar.FormatPAX // the only one that holds parts of a second
	}
	return e
}

func timesOf(v *Inventory) map[string]int64 {
	out := map[string]int64{}
	for e := range v.All() {
		out[e.Path] = e.Time
	}
	return out
}

func timedLayers(t *testing.T) []Layer {
	t.Helper()
	return []Layer{
		layerOf(tarOf(t,
			at(dir("d/", 0o755), 100, 0), at(text("d/f", "1"), 101, 999999999), at(link("d/l", "f"), 102, 0),
			at(text("old", ""), -3, 500000000), at(text("far", ""), 1<<40, 0), at(text("implied/f", ""), 103, 0),
		)),
		layerOf(tarOf(t, at(dir("d/", 0o755), 200, 0), at(hard("d/h", "d/f"), 201, 0), at(text("d/.wh.l", ""), 202, 0))),
	}
}

func TestTimes(t *testing.T) {
	v, err := FromLayers(t.Context(), nil, timedLayers(t))
	if err != nil {
		t.Fatal(err)
	}
	checkRoundTrip(t, v)
	want := map[string]int64{
		"": 0, "d": 200, "d/f": 101, "d/h": 101, // one inode has one time
		"old": -3, "far": 1 << 40, "implied": 0, "implied/f": 103,
	}
	if d := cmp.Diff(want, timesOf(v)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	next, err := v.With(digest.FromString("next"), []Change{{Entry: Entry{Path: "new", Kind: File, Time: 300}}}, Account{}, Account{})
	if err != nil {
		t.Fatal(err)
	}
	want["new"] = 300
	if d := cmp.Diff(want, timesOf(next)); d != "" {
		t.Errorf("with one more layer (-want +got):\n%s", d)
	}
	small := map[string]int64{"": 0, "d": 200, "d/f": 0, "d/h": 0, "old": 0, "far": 0, "implied": 0, "implied/f": 0}
	if d := cmp.Diff(small, timesOf(v.Small())); d != "" {
		t.Errorf("the small part (-want +got):\n%s", d)
	}
}

// Two builds of the same are the same, whenever they ran.
func TestTimesAreNotCompared(t *testing.T) {
	layer := func(sec int64) Layer {
		return layerOf(tarOf(t, at(dir("d/", 0o755), sec, 0), at(text("d/f", ""), sec, 0)))
	}
	a, err := FromLayers(t.Context(), nil, []Layer{layer(1)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromLayers(t.Context(), nil, []Layer{layer(2)})
	if err != nil {
		t.Fatal(err)
	}
	if diffs, err := Diff(a, b); err != nil || len(diffs) > 0 {
		t.Errorf("got %v, %v", diffs, err)
	}
	if alike, err := Alike(a, b); err != nil || !alike {
		t.Errorf("got %v, %v", alike, err)
	}
}

func TestBadTimes(t *testing.T) {
	v := Empty()
	v.entries[0].Time = 7
	body := v.body()
	// The end of an empty image: a table of one time, the root's index, its layer.
	if d := cmp.Diff([]byte{1, 14, 0, 0}, body[len(body)-4:]); d != "" {
		t.Fatalf("the form is another one (-want +got):\n%s", d)
	}
	head := body[:len(body)-4]
	for name, tail := range map[string][]byte{
		"no such line":        {1, 14, 1, 0},
		"no line at all":      {0, 0, 0},
		"more than entries":   {2, 14, 16, 0, 0},
		"more than there are": {1},
		"endless number":      {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0},
		"too large a number":  {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0},
	} {
		d := &decoder{buf: append(append([]byte(nil), head...), tail...)}
		if d.inventory(partFull); !errors.Is(d.err, ErrDamaged) {
			t.Errorf("%s: error %v, want one about damage", name, d.err)
		}
	}
}
