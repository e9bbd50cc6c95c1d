package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/strata-build/strata/internal/view"
)

const (
	// endGrace is how long a command may take to end once it is told to. What
	// still goes on then waits where it can't be told: in opening a FIFO, or in a
	// file system that is gone.
	endGrace = 500 * time.Millisecond
	// cleanupGrace is the same for one that has containers and mounts, or a command
	// of a watch, which has ten seconds after SIGTERM.
	cleanupGrace = 15 * time.Second
)

// memoryLimit is where garbage is collected harder than it is by default, which
// lets the memory grow to twice what is in use. An ordinary run stays far below,
// and nothing fails above. $GOMEMLIMIT sets another.
const memoryLimit = 320 << 20

// Main runs the command line of this process and gives its exit code. The first
// signal cancels everything that is under way, and ends the process soon
// whatever it does; a second one ends it at once, as the signal's default does.
func Main(version string) int {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	m := System(version)
	m.cleanup = &cleanup{}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-signals
		signal.Stop(signals)
		i := Interrupted{Signal: s}
		cancel(i)
		m.cleanup.wait(m.Stderr, endGrace, cleanupGrace)
		m.cleanup.forced()
		if view.IsTerminal(m.Stderr) {
			_, _ = io.WriteString(m.Stderr, "\x1b[?25h\x1b[?7h\r\n") // what a live view has switched off: cursor, autowrap
		}
		view.Fprintf(m.Stderr, "strata: error: %v\n", i)
		os.Exit(i.ExitCode())
	}()
	code := Run(ctx, m, os.Args[1:])
	var i Interrupted
	if errors.As(context.Cause(ctx), &i) {
		return i.ExitCode()
	}
	return code
}

// cleanup counts what has to be put in order before the process may end: the
// engine's containers and mounts, and processes that would go on alone. All else
// that a command leaves half done is as after a crash, from which every next run
// recovers.
type cleanup struct {
	mu   sync.Mutex
	open int
	idle chan struct{} // closed when nothing is open; nil when nobody waits
	last func()        // puts the terminal back
}

// atLast notes what must be done even where nothing else is waited for; nil is
// nothing any more.
func (c *cleanup) atLast(do func()) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = do
}

func (c *cleanup) forced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil {
		c.last()
	}
}

func (c *cleanup) begin() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
}

func (c *cleanup) end() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open--; c.open == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// wait returns when the process may be ended: after a short time, or, where
// something is to be put in order, after that, but in no case later than long.
func (c *cleanup) wait(say io.Writer, short, long time.Duration) {
	end := time.Now().Add(long)
	time.Sleep(short)
	c.mu.Lock()
	var idle chan struct{}
	if c.open > 0 {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()
	if idle == nil {
		return
	}
	view.Fprintf(say, "strata: ending what was started, %s at most; another signal ends it at once\n", long)
	select {
	case <-idle:
		time.Sleep(short) // for the rest
	case <-time.After(time.Until(end)):
	}
}
