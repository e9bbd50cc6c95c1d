// Package view shows the events of a run: a live terminal, plain lines for CI
// logs, JSON lines, or errors alone. It also draws what commands print when
// they are done: tables, sizes, durations, graphs.
//
// It takes events and an [io.Writer] and gives text. It reads no environment:
// whether there is a terminal, colour or a clock is told in [Options].
package view

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/strata-build/strata/internal/event"
)

// Mode names a way to show a run.
type Mode string

// The modes.
const (
	Auto  Mode = "auto"  // TTY on a terminal, Plain elsewhere
	TTY   Mode = "tty"   // a live area that is redrawn
	Plain Mode = "plain" // one line an event, greppable
	JSON  Mode = "json"  // one JSON object a line
	Quiet Mode = "quiet" // errors only
)

// Modes lists the modes in the order in which help names them.
var Modes = []Mode{Auto, TTY, Plain, JSON, Quiet}

// ParseMode gives the mode of that name; "" is [Auto].
func ParseMode(name string) (Mode, error) {
	if name == "" {
		return Auto, nil
	}
	if m := Mode(name); slices.Contains(Modes, m) {
		return m, nil
	}
	names := make([]string, len(Modes))
	for i, m := range Modes {
		names[i] = string(m)
	}
	return "", fmt.Errorf("reading progress mode %q: it is none of %s", name, strings.Join(names, ", "))
}

// A View shows events until it is closed. Its methods are safe for concurrent
// use.
type View interface {
	event.Sink
	// Printf shows text of the program itself without tearing what is drawn:
	// above the live area, or as a line or an event of its own.
	Printf(format string, args ...any)
	// Close shows what is left, gives the terminal back as it was, and returns
	// the first error of writing. A second call does nothing.
	Close() error
}

// Options say where and how a view writes. Out is needed, all else has a
// default.
type Options struct {
	Out      io.Writer
	Mode     Mode             // "" is Auto; an unknown one is Plain
	Terminal bool             // Out moves its cursor when told; decides Auto
	Color    bool             // see [ColorWanted]
	Width    func() int       // columns of the terminal now; default, and for answers <= 0: 80
	Height   func() int       // rows of the terminal now; default, and for answers <= 0: 24
	Clock    func() time.Time // default time.Now
}

// New gives the view that o asks for. A [TTY] view owns the terminal until it
// is closed.
func New(o Options) View {
	o = o.withDefaults()
	switch o.Mode {
	case TTY:
		return startTTY(o)
	case JSON:
		return newJSON(o)
	case Quiet:
		return newQuiet(o)
	}
	return newPlain(o)
}

func (o Options) withDefaults() Options {
	if o.Mode == "" || o.Mode == Auto {
		o.Mode = Plain
		if o.Terminal {
			o.Mode = TTY
		}
	}
	o.Width = orDefault(o.Width, 80)
	o.Height = orDefault(o.Height, 24)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o
}

// orDefault gives f with answers below 1 replaced by n.
func orDefault(f func() int, n int) func() int {
	return func() int {
		if f == nil {
			return n
		}
		if v := f(); v > 0 {
			return v
		}
		return n
	}
}

// IsTerminal says whether w is a file that is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := behind(w).(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// behind gives the writer that a [Guard] writes to.
func behind(w io.Writer) io.Writer {
	if g, ok := w.(*Guard); ok {
		return g.Unwrap()
	}
	return w
}

// Size gives functions that ask for the columns and rows of the terminal w at
// each call; they answer 0 where w is none.
func Size(w io.Writer) (width, height func() int) {
	f, ok := behind(w).(*os.File)
	ask := func() (int, int) {
		if !ok {
			return 0, 0
		}
		c, r, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return c, r
	}
	width = func() int { c, _ := ask(); return c }
	height = func() int { _, r := ask(); return r }
	return width, height
}
