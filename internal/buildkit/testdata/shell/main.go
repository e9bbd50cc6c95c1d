// Command shell is the /bin/sh of the images that the engine's tests build: a
// static program with the few commands that their RUN steps use.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() {
	if len(os.Args) < 3 || os.Args[1] != "-c" {
		fmt.Fprintln(os.Stderr, "usage: sh -c SCRIPT")
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

func cat(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
