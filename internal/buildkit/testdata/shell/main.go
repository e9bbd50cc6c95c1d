// Command shell is the /bin/sh of the images that the engine's tests build: a
// static program with the few commands that their RUN steps use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// interactive runs what comes on standard input, a statement at a time.
func interactive() int {
	r, err := interp.New(interp.StdIO(nil, os.Stdout, os.Stderr), interp.ExecHandlers(command))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	last := 0
	if _, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		fmt.Print("$ ")
	}
	err = syntax.NewParser().Stmts(os.Stdin, func(s *syntax.Stmt) bool {
		var exit interp.ExitStatus
		last = 0
		if err := r.Run(context.Background(), s); errors.As(err, &exit) {
			last = int(exit)
		}
		return !r.Exited()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return last
}

func main() {
	if len(os.Args) == 1 {
		os.Exit(interactive())
	}
	if len(os.Args) < 3 || os.Args[1] != "-c" {
		fmt.Fprintln(os.Stderr, "usage: sh [-c SCRIPT]")
		os.Exit(2)
	}
	script, err := syntax.NewParser().Parse(strings.NewReader(os.Args[2]), "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	r, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.ExecHandlers(command))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := r.Run(context.Background(), script); err != nil {
		if status, ok := err.(interp.ExitStatus); ok {
			os.Exit(int(status))
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// command runs the programs that an image would have in /bin.
func command(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		c := interp.HandlerCtx(ctx)
		abs := func(p string) string {
			if filepath.IsAbs(p) {
				return p
			}
			return filepath.Join(c.Dir, p)
		}
		var err error
		switch args[0] {
		case "stty": // size, and waits until it was told
			for range 100 {
				size, e := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
				if err = e; e != nil || size.Col > 0 {
					fmt.Fprintln(c.Stdout, size.Row, size.Col)
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		case "cat":
			for _, p := range args[1:] {
				err = cat(c.Stdout, abs(p))
			}
		case "mkdir":
			for _, p := range args[1:] {
				if p != "-p" {
					err = os.MkdirAll(abs(p), 0o755)
				}
			}
		case "ln":
			err = link(args[1:], abs)
		case "rm":
			for _, p := range args[1:] {
				err = errors.Join(err, os.RemoveAll(abs(p)))
			}
		case "mkfifo":
			err = unix.Mkfifo(abs(args[1]), 0o644)
		case "chmod":
			err = chmod(args[1], abs(args[2]))
		case "touch": // touch SECONDS FILE sets both times
			err = touch(args[1], abs(args[2]))
		case "setfattr": // setfattr NAME VALUE FILE
			err = unix.Lsetxattr(abs(args[3]), args[1], []byte(args[2]), 0)
		case "mtime":
			err = mtime(c.Stdout, abs(args[1]))
		case "id":
			fmt.Fprintln(c.Stdout, os.Getuid())
		case "sleep":
			d, _ := time.ParseDuration(args[1] + "s")
			time.Sleep(d)
		default:
			return next(ctx, args)
		}
		if err != nil {
			fmt.Fprintln(c.Stderr, err)
			return interp.ExitStatus(1)
		}
		return nil
	}
}

// link does "ln OLD NEW" and "ln -s TEXT NEW".
func link(args []string, abs func(string) string) error {
	if args[0] == "-s" {
		return os.Symlink(args[1], abs(args[2]))
	}
	return os.Link(abs(args[0]), abs(args[1]))
}

func chmod(mode, path string) error {
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return err
	}
	return unix.Chmod(path, uint32(m))
}

func touch(seconds, path string) error {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	t := unix.Timespec{Sec: n, Nsec: 123456789}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// mtime writes a file's modification time in nanoseconds.
func mtime(w io.Writer, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, info.ModTime().UnixNano())
	return err
}

func cat(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
