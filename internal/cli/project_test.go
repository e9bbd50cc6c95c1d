//go:build linux

package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opens counts how often a file is opened while do runs.
func opens(t *testing.T, file string, do func()) int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_OPEN|unix.IN_CLOSE_NOWRITE); err != nil {
		t.Fatal(err)
	}
	do()
	buf, n := make([]byte, 1<<20), 0
	for {
		read, err := unix.Read(fd, buf)
		if err != nil || read == 0 {
			return n
		}
		// Each open is followed by a close: of equal events that follow each other
		// the kernel tells one. A watch of a file gives no names.
		n += (read/unix.SizeofInotifyEvent + 1) / 2
	}
}

// The project is read once by a command, however many units it has and whatever
// is asked about its engines.
func TestProjectIsReadOnce(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var layers strings.Builder
	for i := range 12 {
		fmt.Fprintf(&layers, "  l%d: {}\n", i)
	}
	write("strata.yaml", "image: demo\nplatforms: [linux/amd64, linux/arm64]\nengine: embedded\nlayers:\n"+layers.String())
	write("Dockerfile", "FROM scratch\nCOPY f /f\n")
	write("f", "1")
	for _, command := range []string{"plan", "build", "history", "config"} {
		var out strings.Builder
		n := opens(t, filepath.Join(dir, "strata.yaml"), func() {
			env := map[string]string{"STRATA_HOME": home, "HOME": home, "PATH": os.Getenv("PATH")}
			m := Machine{Version: "v0", Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &out, Getenv: func(k string) string { return env[k] }, Dir: dir, Now: time.Now}
			if code := Run(context.Background(), m, []string{command}); code != exitOK {
				t.Errorf("%s: exit code %d: %s", command, code, out.String())
			}
		})
		if n > 1 {
			t.Errorf("%s opened the project's file %d times", command, n)
		}
	}
}
