//go:build linux

package buildkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

// The runc in the binary runs from memory that nobody can write to, and from a
// file without a name where that can't be; it leaves nothing in the folder.
func TestEmbeddedRunc(t *testing.T) {
	for name, find := range map[string]func(dir string) (program, error){"memory": embeddedRunc, "file": namelessRunc} {
		dir := t.TempDir()
		p, err := find(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := p.wait(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out, err := exec.Command(p.path, "--version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "runc version") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if f, err := os.OpenFile(p.path, os.O_WRONLY, 0); err == nil {
			if _, err := f.Write([]byte("changed")); err == nil && name == "memory" {
				t.Errorf("%s: it can be written to", name)
			}
			f.Close()
		}
		got, err := unix.FcntlInt(p.hold.Fd(), unix.F_GET_SEALS, 0)
		if name == "memory" && (err != nil || got&seals != seals) {
			t.Errorf("%s: its seals are %x, %v", name, got, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
		if err := exec.Command(p.path, "--version").Run(); err == nil {
			t.Errorf("%s: it is there after it was closed", name)
		}
	}
}

// What somebody has put into the store's folder, under the name that earlier
// versions executed, is not executed: it is removed.
func TestNoProgramOfTheStoreIsExecuted(t *testing.T) {
	root := t.TempDir()
	ran := filepath.Join(t.TempDir(), "ran")
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runc", "runc-96ebf3a5449ccc09", "buildkit-runc"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\ntouch "+ran+"\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, root, h)
	mustBuild(t, e, job(t, "FROM strata.internal/base\nRUN echo hello > /made\n", nil))
	if _, err := os.Stat(ran); err == nil {
		t.Error("it was executed")
	}
	if _, err := os.Stat(bin); err == nil {
		t.Error("the folder stays")
	}
}

// A runc on PATH is taken only from where nobody else can change it.
func TestInstalledRunc(t *testing.T) {
	dir := t.TempDir()
	saved := runcZstd
	t.Cleanup(func() { runcZstd = saved })
	runcZstd = nil
	bin := filepath.Join(dir, "bin")
	path := filepath.Join(bin, "runc")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	links := filepath.Join(dir, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(links, "runc")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", links)
	check := func(when, want string) {
		t.Helper()
		p, err := findRunc("", dir)
		switch {
		case want == "" && (err != nil || p.path != path):
			t.Errorf("%s: %q, %v", when, p.path, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || diag.HintOf(err) == ""):
			t.Errorf("%s: %v", when, err)
		}
	}
	set := func(at string, uid, gid int, mode os.FileMode) {
		t.Helper()
		if err := os.Chown(at, uid, gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
	}
	check("as it is", "")
	set(bin, 0, 50, 0o775)
	check("in a folder of the system's group", "")
	set(bin, 0, 1000, 0o775)
	check("in a folder of a users' group", "the group 1000")
	set(bin, 0, 0, 0o777)
	check("in a folder of everybody", "everybody")
	set(bin, 0, 0, 0o777|os.ModeSticky)
	check("in a folder like /tmp", "")
	set(bin, 1000, 0, 0o755)
	check("in a user's folder", "the user 1000")
	set(bin, 0, 0, 0o755)
	set(path, 1000, 0, 0o755)
	check("a user's file", "the user 1000")
	set(path, 0, 0, 0o757)
	check("everybody's file", "everybody")
}
