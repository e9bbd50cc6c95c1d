//go:build linux

package cli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/sys/mountinfo"
	"github.com/rogpeppe/go-internal/testscript"
)

// tools is a folder with what scripts need beside the program: the runc that
// the program embeds, and the shell of the images that they build.
var tools string

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "strata" { // a script runs the program
		os.Exit(Main("v0-test"))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "internal/cli: these tests start containers and need root")
		os.Exit(1)
	}
	var err error
	if tools, err = os.MkdirTemp("", "strata-tools-"); err == nil {
		err = unpackTestRunc()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "internal/cli: run scripts/runc.sh first:", err)
		os.Exit(1)
	}
	testscript.Main(cleaning{m}, map[string]func(){"strata": func() { os.Exit(Main("v0-test")) }})
}

// cleaning runs the tests and removes the tools.
type cleaning struct{ *testing.M }

func (c cleaning) Run() int {
	defer os.RemoveAll(tools)
	return c.M.Run()
}

// unpackTestRunc puts the runc that -tags embedrunc embeds on PATH, so that the
// tests run without the tag as well.
func unpackTestRunc() error {
	packed, err := os.Open("../buildkit/runcbin/runc-linux-" + runtime.GOARCH + ".zst")
	if err != nil {
		return err
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed)
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := os.OpenFile(filepath.Join(tools, "runc"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, z); err != nil {
		return err
	}
	return f.Close()
}

// shell builds the /bin/sh of the images, once.
var shell = sync.OnceValues(func() ([]byte, error) {
	path := filepath.Join(tools, "images", "sh") // not on PATH
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "../buildkit/testdata/shell")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the images' shell: %w\n%s", err, out)
	}
	return os.ReadFile(path)
})

// Every script has the project in $WORK/p, where it starts, and Strata's own
// folder in $STRATA_HOME. When it has ended, no process and no mount may be left.
func TestScripts(t *testing.T) {
	for _, group := range []string{"quick", "input", "engine"} {
		t.Run(group, func(t *testing.T) {
			work, err := os.MkdirTemp("", "cli-") // short, for sockets below it; gone even where -run picks a few
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(work) })
			testscript.Run(t, testscript.Params{
				WorkdirRoot:        work,
				Dir:                filepath.Join("testdata", group),
				Setup:              setup,
				Cmds:               commands,
				UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "",
				RequireUniqueNames: true,
			})
		})
	}
}

func setup(e *testscript.Env) error {
	// The work folder of a script is private; a script about another user needs
	// to lead there.
	if err := os.Chmod(filepath.Dir(e.WorkDir), 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"p", "home", ".tmp"} {
		if err := os.MkdirAll(filepath.Join(e.WorkDir, dir), 0o755); err != nil {
			return err
		}
	}
	e.Cd = filepath.Join(e.WorkDir, "p")
	home := filepath.Join(e.WorkDir, "strata-home")
	e.Setenv("STRATA_HOME", home)
	e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
	e.Setenv("PATH", tools+":"+e.Getenv("PATH"))
	e.Setenv("ARCH", runtime.GOARCH)
	e.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	e.Setenv("GIT_CEILING_DIRECTORIES", e.WorkDir)
	for _, role := range []string{"AUTHOR", "COMMITTER"} {
		e.Setenv("GIT_"+role+"_NAME", "Someone")
		e.Setenv("GIT_"+role+"_EMAIL", "someone@example.com")
		e.Setenv("GIT_"+role+"_DATE", "2026-11-22T06:00:00Z")
	}
	tb, ok := e.T().(testing.TB)
	if !ok {
		return fmt.Errorf("a script's test is a %T", e.T())
	}
	e.Values[tbKey{}] = tb
	e.Defer(func() { checkNothingLeft(tb, e.WorkDir) })
	return nil
}

type tbKey struct{}

// checkNothingLeft looks for mounts below a script's folder and for processes
// that were started for it.
func checkNothingLeft(tb testing.TB, work string) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(work))
	if err != nil {
		tb.Error(err)
	}
	for _, m := range mounts {
		tb.Errorf("left behind: the mount %s", m.Mountpoint)
	}
	for _, p := range processes(func(_, environ string) bool { return strings.Contains(environ, "STRATA_HOME="+work) }) {
		tb.Errorf("left behind: the process %s", p)
	}
}

// processes gives "PID COMMAND" of every process for which pick says yes.
func processes(pick func(cmdline, environ string) bool) []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []string
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		line := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		if line != "" && pick(line, string(environ)) {
			out = append(out, filepath.Base(dir)+" "+line)
		}
	}
	return out
}
