package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mount mounts a file system for the time of the test.
func mount(t *testing.T, kind, dir, data string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(kind, dir, kind, 0, data); err != nil {
		t.Fatalf("this test needs root: mounting %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestOverlayWorks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with, comma: and colon\\")
	mount(t, "tmpfs", dir, "size=16m")
	if got := overlay(t.Context(), Options{StateDir: dir}.withDefaults()); got.Status != OK {
		t.Errorf("%+v", got)
	}
	assertClean(t, dir)
}

// TestOverlayOnOverlay is the state folder in a container: overlayfs can't
// write to an overlay.
func TestOverlayOnOverlay(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	mount(t, "tmpfs", base, "size=16m")
	for _, d := range []string{"l", "u", "w"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	mount(t, "overlay", merged, "lowerdir="+base+"/l,upperdir="+base+"/u,workdir="+base+"/w")
	got := overlay(t.Context(), Options{StateDir: merged}.withDefaults())
	if got.Status != Warn || !strings.Contains(got.Hint, "export STRATA_HOME=") || !strings.Contains(got.Detail, "copy whole file systems") {
		t.Errorf("%+v", got)
	}
	assertClean(t, merged)
}

func TestSmallDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	mount(t, "tmpfs", dir, "size=64m,nr_inodes=100")
	got := disk(t.Context(), Options{StateDir: filepath.Join(dir, "below", "it")})
	if got.Status != Fail || !strings.HasPrefix(got.Detail, "0.1 GB free in") {
		t.Errorf("%+v", got)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := disk(t.Context(), Options{StateDir: filepath.Join(file, "state")}); got.Status != Fail {
		t.Errorf("a state folder below a file: %+v", got)
	}
}

func TestNamespacesHere(t *testing.T) {
	if err := inNamespaces(t.Context(), "/nonexistent", true); err == nil {
		t.Error("a program that isn't there has run")
	}
	if got := namespaces(t.Context(), Options{}.withDefaults()); got.Status != OK || !strings.HasPrefix(got.Detail, "a program ran") {
		t.Errorf("%+v", got)
	}
}

// The state's folder is the user's alone: who else owns, writes or enters it is
// told, links included.
func TestPrivacy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	check := func(when string, uid int, want Status, text string) {
		t.Helper()
		got := private(t.Context(), Options{StateDir: dir, UID: func() int { return uid }})
		if got.Status != want || !strings.Contains(got.Detail, text) || want != OK && !strings.Contains(got.Hint, dir) {
			t.Errorf("%s: %+v", when, got)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("before it is made", 0, OK, "not made yet")
	must(os.Mkdir(dir, 0o700))
	check("as it is made", 0, OK, "only its user")
	must(os.Chmod(dir, 0o755))
	check("one in which others see nothing", 0, OK, "only its user")
	must(os.Mkdir(filepath.Join(dir, "registry"), 0o755))
	check("one of an earlier version", 0, Warn, "others may enter")
	must(os.Chmod(dir, 0o777))
	check("one that all may write to", 0, Warn, "others may write")
	must(os.Chmod(dir, 0o700))
	check("a private one with an open part", 0, OK, "only its user")
	must(os.Lchown(filepath.Join(dir, "registry"), 1000, 1000))
	check("with a part of another user", 0, Fail, "registry\" belongs to the user 1000")
	check("the same, of the user", 1000, OK, "only its user")
	must(os.Remove(filepath.Join(dir, "registry")))
	must(os.Symlink("/etc", filepath.Join(dir, "registry")))
	check("with a link of root's", 0, OK, "only its user")
	must(os.Lchown(filepath.Join(dir, "registry"), 1000, 1000))
	check("with a link of another user's", 0, Fail, "registry\" belongs to the user 1000")
	must(os.Remove(filepath.Join(dir, "registry")))
	must(os.Chown(dir, 1000, 1000))
	check("another user's", 0, Fail, "belongs to the user 1000")
}
