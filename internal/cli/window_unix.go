//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/strata-build/strata/internal/build"
)

// windowSizes gives the size of a terminal, now and whenever it changes, until
// stop is called.
func windowSizes(out *os.File) (sizes <-chan build.WindowSize, stop func()) {
	changed, all, done := make(chan os.Signal, 1), make(chan build.WindowSize, 1), make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if columns, rows, err := term.GetSize(int(out.Fd())); err == nil {
				select {
				case all <- build.WindowSize{Columns: columns, Rows: rows}:
				case <-done:
					return
				}
			}
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	}()
	return all, func() {
		signal.Stop(changed)
		close(done)
		<-ended
	}
}
