//go:build linux

package buildkit

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/strata-build/strata/internal/build"
)

// Python follows a link to the source when it records its time, in whatever layer
// that lies.
func TestRecordsOfLinkedSourcesAreFollowed(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	work := openWorkTimes(filepath.Join(t.TempDir(), "work-times"))
	defer work.begin()()
	write := func(dir, p, text string) os.FileInfo {
		t.Helper()
		at := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	below, here := write(lower, "app/m.py", "x = 1"), write(upper, "r/k.py", "y = 23")
	pyc := func(of os.FileInfo) string {
		b := []byte{0xa7, 0x0d, '\r', '\n', 0, 0, 0, 0}
		b = binary.LittleEndian.AppendUint32(b, uint32(of.ModTime().Unix()))
		return string(binary.LittleEndian.AppendUint32(b, uint32(of.Size()))) + "code"
	}
	for _, l := range []struct {
		name, target string
		of           os.FileInfo
	}{{"absolute", "/app/m.py", below}, {"relative", "../app/m.py", below}, {"beside", "../r/k.py", here}} {
		write(upper, "lnk/__pycache__/"+l.name+".cpython-311.pyc", pyc(l.of))
		if err := os.Symlink(l.target, filepath.Join(upper, "lnk", l.name+".py")); err != nil {
			t.Fatal(err)
		}
	}
	write(upper, "lnk/__pycache__/loop.cpython-311.pyc", pyc(here))
	if err := os.Symlink("loop.py", filepath.Join(upper, "lnk/loop.py")); err != nil {
		t.Fatal(err)
	}
	d := &dating{job: build.Job{}, work: work}
	of := func(dirs ...string) []mount.Mount {
		if len(dirs) == 1 {
			return []mount.Mount{{Type: "bind", Source: dirs[0]}}
		}
		return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + dirs[1] + ":" + dirs[0]}}}
	}
	first, err := d.date(of(lower))
	if err != nil {
		t.Fatal(err)
	}
	d.add(first.Table)
	second, err := d.date(of(lower, upper))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, r := range second.Table.Records {
		got[r.Path] = r.Published
	}
	source, _ := first.Of("app/m.py")
	own, _ := second.Of("r/k.py")
	want := map[string]int64{
		"lnk/__pycache__/absolute.cpython-311.pyc": source, "lnk/__pycache__/relative.cpython-311.pyc": source,
		"lnk/__pycache__/beside.cpython-311.pyc": own,
	}
	for p, w := range want {
		if got[p] != w || w == 0 {
			t.Errorf("%s says %d, its source is of %d", p, got[p], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("records: %v", got)
	}
}
