//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// openPty gives both ends of a new terminal of 100 by 40.
func openPty() (master, terminal *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 100, Row: 40})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, terminal, err
}

// cmdTyped runs the program on a terminal and types a file into it once it shows
// the text that it waits for: typed FILE TEXT OUTPUT ARGS... What the terminal
// showed goes into OUTPUT.
func cmdTyped(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, len(args) > 3, "typed FILE TEXT OUTPUT ARGS...")
	master, terminal, err := openPty()
	ts.Check(err)
	defer master.Close()
	program, err := os.Executable() // see TestMain
	ts.Check(err)
	cmd := &exec.Cmd{
		Path: program, Args: append([]string{"strata"}, args[3:]...), Dir: ts.MkAbs("."),
		Stdin: terminal, Stdout: terminal, Stderr: terminal,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}
	for _, name := range []string{"STRATA_HOME", "HOME", "PATH", "TMPDIR", "GIT_CONFIG_GLOBAL", "GIT_CEILING_DIRECTORIES"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "TERM=vt100")
	ts.Check(cmd.Start())
	terminal.Close()
	var shown bytes.Buffer
	asked := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf) // EIO when the program has ended
			shown.Write(buf[:n])
			if !asked && strings.Contains(shown.String(), args[1]) {
				asked = true
				_, _ = master.WriteString(ts.ReadFile(args[0]))
			}
			if err != nil {
				return
			}
		}
	}()
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	late.Stop()
	<-done
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), shown.Bytes(), 0o644))
	if (err != nil) != neg {
		ts.Fatalf("it ended with %v:\n%s", err, shown.String())
	}
}
