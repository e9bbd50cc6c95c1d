//go:build linux

package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what scripts have beside testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"base":     cmdBase,
	"debian":   cmdDebian,
	"alike":    cmdAlike,
	"layers":   cmdLayers,
	"edit":     cmdEdit,
	"mkfile":   cmdMkfile,
	"many":     cmdMany,
	"exit":     cmdExit,
	"nobody":   cmdNobody,
	"waitproc": cmdWaitProc,
	"noproc":   cmdNoProc,
	"signal":   cmdSignal,
	"snapshot": cmdSnapshot,
	"registry": cmdRegistry,
	"fault":    cmdFault,
	"requests": cmdRequests,
	"shape":    cmdShape,
	"layout":   cmdLayout,
	"holds":    cmdHolds,
	"typed":    cmdTyped,
}

func mustUse(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// cmdBase imports a tiny root file system into the registry on this machine:
// base [-sh] [-with PATH FILE]... NAME [PLATFORM]. With -sh it has a /bin/sh that
// can run, with -with the file, too.
func cmdBase(ts *testscript.TestScript, neg bool, args []string) {
	files := map[string][]byte{
		"etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
		"etc/group":  []byte("root:x:0:\nnogroup:x:65534:\n"),
	}
	if len(args) > 0 && args[0] == "-sh" {
		sh, err := shell()
		ts.Check(err)
		files["bin/sh"] = sh
		args = args[1:]
	}
	for len(args) > 2 && args[0] == "-with" {
		files[args[1]] = []byte(ts.ReadFile(args[2]))
		args = args[3:]
	}
	mustUse(ts, !neg && (len(args) == 1 || len(args) == 2), "base [-sh] [-with PATH FILE]... NAME [PLATFORM]")
	tarball := ts.MkAbs(filepath.Join(ts.Getenv("TMPDIR"), "rootfs.tar"))
	ts.Check(os.WriteFile(tarball, rootfs(ts, files), 0o644))
	argv := []string{"registry", "import", tarball, "--as", args[0]}
	if len(args) == 2 {
		argv = append(argv, "--platform", args[1])
	}
	ts.Check(ts.Exec("strata", argv...))
	ts.Check(os.Remove(tarball))
}

func rootfs(ts *testscript.TestScript, files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, data []byte) {
		h.ModTime = time.Unix(0, 0)
		ts.Check(w.WriteHeader(h))
		_, err := w.Write(data)
		ts.Check(err)
	}
	for _, dir := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "root/"} {
		put(&tar.Header{Name: dir, Mode: 0o755, Typeflag: tar.TypeDir}, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		put(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), Typeflag: tar.TypeReg}, files[name])
	}
	ts.Check(w.Close())
	return b.Bytes()
}

// cmdEdit replaces a text in a file: edit FILE OLD NEW. It must be there once.
func cmdEdit(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 3, "edit FILE OLD NEW")
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%q is in %s %d times", args[1], args[0], n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
}

// cmdMkfile writes a file whose name may have Go's escapes: mkfile 'a\nb' TEXT.
func cmdMkfile(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 2, "mkfile NAME TEXT")
	name, err := strconv.Unquote(`"` + args[0] + `"`)
	ts.Check(err)
	path := ts.MkAbs(name)
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, []byte(args[1]+"\n"), 0o644))
}

// cmdMany writes many small files, 1,000 a folder: many FOLDER COUNT.
func cmdMany(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 2, "many FOLDER COUNT")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := range n {
		dir := filepath.Join(ts.MkAbs(args[0]), fmt.Sprintf("d%03d", i/1000))
		if i%1000 == 0 {
			ts.Check(os.MkdirAll(dir, 0o755))
		}
		ts.Check(os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%06d", i)), []byte(strconv.Itoa(i)), 0o644))
	}
}

// cmdExit runs a command and looks at its exit code: exit CODE COMMAND...
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) >= 2, "exit CODE COMMAND...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var e *exec.ExitError
		if !errors.As(err, &e) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdNobody runs the program as the user nobody, with a home of that user's
// own: nobody ARGUMENTS...
func cmdNobody(ts *testscript.TestScript, neg bool, args []string) {
	exe, err := os.Executable()
	ts.Check(err)
	data, err := os.ReadFile(exe)
	ts.Check(err)
	bin := ts.MkAbs(filepath.Join(ts.Getenv("WORK"), "nobody", "strata"))
	home := filepath.Join(filepath.Dir(bin), "home")
	ts.Check(os.MkdirAll(home, 0o755))
	ts.Check(os.WriteFile(bin, data, 0o755))
	ts.Check(os.Chown(home, 65534, 65534))
	argv := []string{
		"--reuid=65534", "--regid=65534", "--clear-groups", "env", "STRATA_HOME=" + home + "/strata", bin,
	}
	err = ts.Exec("setpriv", append(argv, args...)...)
	if (err == nil) == neg {
		ts.Fatalf("strata %s as nobody: %v", strings.Join(args, " "), err)
	}
}

// cmdWaitProc waits until a process of this script has a text in its command
// line: waitproc TEXT.
func cmdWaitProc(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "waitproc TEXT")
	for range 600 { // a minute; it is there in about a second
		if len(shells(args[0])) > 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("no process has %q in its command line", args[0])
}

// cmdSignal builds until a RUN instruction with a text is under way, sends the
// program a signal and looks at its exit code: signal NUMBER CODE TEXT
// [ARGUMENTS...], where the arguments are what builds, otherwise build.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) >= 3, "signal NUMBER CODE TEXT [ARGUMENTS...]")
	argv := []string{"build"}
	if len(args) > 3 {
		argv = args[3:]
	}
	number, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "strata", argv...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "STRATA_HOME", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(cmd.Start())
	for len(shells(args[2])) == 0 && ctx.Err() == nil { // the text must be this script's own
		time.Sleep(50 * time.Millisecond)
	}
	ts.Check(cmd.Process.Signal(syscall.Signal(number)))
	_ = cmd.Wait()
	fmt.Fprint(ts.Stdout(), out.String())
	if got := fmt.Sprint(cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("exit code %s, want %s; it said:\n%s", got, args[1], out.String())
	}
}

// cmdNoProc says that no container's process has a text in its command line.
func cmdNoProc(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "noproc TEXT")
	if left := shells(args[0]); len(left) > 0 {
		ts.Fatalf("still running: %s", strings.Join(left, ", "))
	}
}

// shells gives the shells of RUN instructions whose script has a text.
func shells(text string) []string {
	return processes(func(cmdline, _ string) bool {
		return strings.HasPrefix(cmdline, "/bin/sh -c ") && strings.Contains(cmdline, text)
	})
}

// cmdSnapshot writes a listing of a folder with modes, times and sizes:
// snapshot FOLDER FILE.
func cmdSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 2, "snapshot FOLDER FILE")
	dir := ts.MkAbs(args[0])
	var b strings.Builder
	ts.Check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, rel, info.Mode(), info.Size(), st.Mtim, st.Ctim)
		return nil
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o644))
}
