package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// Main runs the command line of this process and gives its exit code. The first
// signal cancels everything that is under way; a second one ends the process at
// once, as the signal's default does.
func Main(version string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(Interrupted{Signal: s})
	}()
	code := Run(ctx, System(version), os.Args[1:])
	var i Interrupted
	if errors.As(context.Cause(ctx), &i) {
		return i.ExitCode()
	}
	return code
}
