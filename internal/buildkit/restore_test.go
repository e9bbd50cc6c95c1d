//go:build linux

package buildkit

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/times"
)

// A table comes from a registry. Whatever it says, nothing outside of the layer
// is reached, and nothing but times changes.
func TestRestoringStaysInsideOfTheLayer(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	old := time.Unix(1_000_000_000, 0)
	write := func(p, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	pyc := "\xa7\x0d\r\n\x00\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00code"
	write(filepath.Join(outside, "secret"), "s")
	write(filepath.Join(outside, "out.pyc"), pyc)
	write(filepath.Join(dir, "a/file"), "f")
	write(filepath.Join(dir, "a/text.pyc"), "this is no compiled Python at all")
	write(filepath.Join(dir, "a/mod.pyc"), pyc)
	for name, target := range map[string]string{"link": outside, "a/secret": filepath.Join(outside, "secret"), "a/out.pyc": filepath.Join(outside, "out.pyc")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	when := int64(1_700_000_000_123_456_789)
	table := &times.Table{
		Paths: []times.Dated{
			{Path: "a/file", Real: when}, {Path: "a/gone", Real: when}, {Path: "a/secret", Real: when},
			{Path: "gone/x", Real: when}, {Path: "link/secret", Real: when},
		},
		Records: []times.Record{
			{Path: "a/gone.pyc", Real: when}, {Path: "a/mod.pyc", Real: when}, {Path: "a/out.pyc", Real: when},
			{Path: "a/text.pyc", Real: when}, {Path: "link/out.pyc", Real: when},
		},
	}
	if err := restore(dir, table); err != nil {
		t.Fatal(err)
	}
	mtime := func(p string) int64 {
		t.Helper()
		info, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime().UnixNano()
	}
	for p, want := range map[string]int64{
		filepath.Join(dir, "a/file"): when, filepath.Join(dir, "a/secret"): when, filepath.Join(dir, "a/mod.pyc"): old.UnixNano(),
		filepath.Join(outside, "secret"): old.UnixNano(), filepath.Join(outside, "out.pyc"): old.UnixNano(),
	} {
		if got := mtime(p); got != want {
			t.Errorf("%s is of %d, want %d", p, got, want)
		}
	}
	for p, want := range map[string]string{
		filepath.Join(outside, "out.pyc"): pyc, filepath.Join(dir, "a/text.pyc"): "this is no compiled Python at all",
		filepath.Join(dir, "a/mod.pyc"): "\xa7\x0d\r\n\x00\x00\x00\x00\x00\xf1\x53\x65\x05\x00\x00\x00code",
	} {
		data, err := os.ReadFile(p)
		if err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", p, data, err)
		}
	}
}

// The state of a version that changed the times of snapshots is not used again.
func TestAnEarlierVersionsStateIsDropped(t *testing.T) {
	root := t.TempDir()
	for _, p := range []string{"runc-overlayfs/snapshots/x", "cache.db", "history.db", "bin/runc", "buildkitd.lock"} {
		p = filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there := func(p string) bool { _, err := os.Stat(filepath.Join(root, p)); return err == nil }
	for range 2 {
		if err := dropUndated(root); err != nil {
			t.Fatal(err)
		}
		if there("runc-overlayfs") || there("cache.db") || there("history.db") || !there("bin/runc") || !there("buildkitd.lock") {
			t.Error("not all of it, or too much, was removed")
		}
	}
	if err := os.Mkdir(filepath.Join(root, "runc-overlayfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := dropUndated(root); err != nil || !there("runc-overlayfs") {
		t.Errorf("this version's state was removed: %v", err)
	}
}
