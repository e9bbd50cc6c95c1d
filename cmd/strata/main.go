// Command strata builds container images in layers and rebuilds only what
// changed.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/strata-build/strata/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run())
}

// run ends with the context cancelled by the first signal; a second one ends
// the process at once, as the signal's default does.
func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-signals
		signal.Stop(signals)
		cancel(cli.Interrupted{Signal: s})
	}()
	code := cli.Run(ctx, cli.System(version), os.Args[1:])
	var i cli.Interrupted
	if errors.As(context.Cause(ctx), &i) {
		return i.ExitCode()
	}
	return code
}
