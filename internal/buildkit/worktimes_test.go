package buildkit

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWorkTimesKnowWhenTheEngineHasWorked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "work-times")
	w := openWorkTimes(path)
	before := time.Now().Add(-time.Minute).UnixNano()
	done := w.begin()
	during := time.Now().UnixNano()
	if w.made(before) || !w.made(during) || w.made(time.Now().Add(time.Hour).UnixNano()) {
		t.Error("while it works")
	}
	done()
	for _, w := range []*workTimes{w, openWorkTimes(path)} {
		if w.made(before) || !w.made(during|1) || w.made(time.Now().Add(time.Minute).UnixNano()) || !w.madeIn(during/1e9) || w.madeIn(before/1e9) {
			t.Error("afterwards")
		}
		// A whole second in the past is what an archive has.
		if w.made(during / 1e9 * 1e9) {
			t.Error("a time out of an archive counts as made")
		}
	}
}

func TestWorkThatWasKilledIsKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "work-times")
	killed, next, later := int64(1_000_000_000_000_000_001), int64(1_000_000_500_000_000_001), int64(1_000_000_900_000_000_001)
	text := fmt.Sprintf("%d \n%d \n%d %d \n%d \n12", killed, next, next, later, later+int64(1e12))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := openWorkTimes(path)
	for ns, want := range map[int64]bool{
		killed - 1: false, killed + 5: true, next - 5: true, next + 5: true, later - 5: true, later + 5: false,
		later + int64(1e12) + 7: true, time.Now().Add(-time.Minute).UnixNano() | 1: true,
	} {
		if w.made(ns) != want {
			t.Errorf("%d: %v, want %v", ns, !want, want)
		}
	}
}

func TestWorkTimesStaySmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "work-times")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	n := maxSpans * 3
	for i := range n {
		begin := 1_000_000_000_000_000_000 + int64(i)*1_000_000
		fmt.Fprintf(f, "%d \n%d %d \n", begin, begin, begin+1000)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w := openWorkTimes(path)
	if len(w.past) != maxSpans || !w.made(1_000_000_000_000_000_000+int64(n-1)*1_000_000+5) {
		t.Errorf("%d spans", len(w.past))
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxSpans*60 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}
