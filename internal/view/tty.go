package view

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/strata-build/strata/internal/event"
)

// frameTime is the time between two frames: 10 Hz is smooth for text and
// costs nothing to speak of.
const frameTime = 100 * time.Millisecond

// The escapes in use: ECMA-48 8.3, and DEC private modes 7 (autowrap) and 25
// (cursor).
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	wrapOff    = "\x1b[?7l"
	wrapOn     = "\x1b[?7h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// tty is the live view. Emit and Printf change the model; the goroutine of
// loop alone writes.
type tty struct {
	o       Options
	palette Palette

	mu    sync.Mutex // guards model and above
	model *model
	above []entry // what goes above the live area at the next frame

	painter painter // of the goroutine of loop
	quit    chan struct{}
	stopped chan struct{}
	once    sync.Once
}

// entry is a line for above the live area. A whole one isn't cut to the width.
type entry struct {
	make  func(cols int) line
	whole bool
}

func newTTY(o Options) *tty {
	return &tty{
		o: o, palette: Palette{Color: o.Color}, model: newModel(), painter: painter{out: o.Out},
		quit: make(chan struct{}), stopped: make(chan struct{}),
	}
}

func startTTY(o Options) *tty {
	t := newTTY(o)
	go t.loop()
	return t
}

func (t *tty) loop() {
	defer close(t.stopped)
	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	for {
		select {
		case <-t.quit:
			return
		case <-tick.C:
			t.draw()
		}
	}
}

// Emit takes e into the model; the next frame shows it.
func (t *tty) Emit(e event.Event) {
	e = stamped(e, t.o.Clock)
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.model.apply(e)
	switch e.Type {
	case event.UnitFinished:
		if u != nil {
			t.above = append(t.above, entry{make: func(cols int) line { return t.model.collapsed(u, cols) }})
		}
	case event.Warning, event.Message:
		for _, l := range warningLines(e) {
			t.above = append(t.above, entry{make: func(int) line { return l }, whole: true})
		}
	}
}

// warningLines gives the lines of a warning or message, with its unit.
func warningLines(e event.Event) []line {
	var out []line
	for _, text := range outputLines(e.Text) {
		var l line
		if e.Type == event.Warning {
			l = append(l, span{Yellow, "! "})
		}
		if e.Unit != "" {
			l = append(l, span{Bold, field(e.Unit) + ": "})
		}
		out = append(out, append(l, span{Normal, text}))
	}
	return out
}

// Printf puts text above the live area with the next frame.
func (t *tty) Printf(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range strings.SplitSeq(text, "\n") {
		t.above = append(t.above, entry{make: func(int) line { return line{{Normal, field(l)}} }, whole: true})
	}
}

// Close draws what is left, with the reports of what failed, and restores the
// terminal.
func (t *tty) Close() error {
	t.once.Do(func() {
		close(t.quit)
		<-t.stopped
		t.end()
	})
	return t.painter.err
}

// draw writes one frame.
func (t *tty) draw() {
	width, height, now := t.o.Width(), t.o.Height(), t.o.Clock()
	t.mu.Lock()
	above := t.takeAbove(width)
	live := t.paint(t.model.frame(now, width, height, t.painter.frames))
	t.mu.Unlock()
	t.painter.paint(above, live, width)
}

// end writes the last frame: no live area, units that had not ended as
// stopped, reports of failures.
func (t *tty) end() {
	width, now := t.o.Width(), t.o.Clock()
	t.mu.Lock()
	above := t.takeAbove(width)
	for _, u := range t.model.running() {
		above = append(above, row{text: t.model.stopped(u, now, width-1).paint(t.palette)})
	}
	for _, l := range t.model.failures() {
		above = append(above, row{text: l.paint(t.palette), wraps: true})
	}
	t.mu.Unlock()
	t.painter.paint(above, nil, width)
	t.painter.restore()
}

func (t *tty) takeAbove(width int) []row {
	out := make([]row, len(t.above))
	for i, e := range t.above {
		out[i] = row{text: e.make(width - 1).paint(t.palette), wraps: e.whole}
	}
	t.above = nil
	return out
}

func (t *tty) paint(lines []line) []row {
	out := make([]row, len(lines))
	for i, l := range lines {
		out[i] = row{text: l.paint(t.palette), cols: l.width()}
	}
	return out
}

// row is a painted line. One that wraps may be longer than the terminal is
// wide.
type row struct {
	text  string
	cols  int
	wraps bool
}

// painter draws rows over the rows of the frame before. Each frame is one
// write, so that nothing gets between.
type painter struct {
	out    io.Writer
	shown  []row // the live area on the screen; the cursor stands below it
	frames int
	hidden bool // the cursor is
	err    error
}

// paint replaces the live area by above, which stays, and live.
func (p *painter) paint(above, live []row, width int) {
	p.frames++
	if len(above) == 0 && equalRows(p.shown, live) || p.err != nil {
		return
	}
	var b strings.Builder
	if !p.hidden && len(live) > 0 {
		b.WriteString(hideCursor)
		p.hidden = true
	}
	n := p.height(width)
	if n > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", n)
	}
	if len(above) > 0 || n > len(live) {
		b.WriteString(clearBelow)
	}
	for _, r := range above {
		b.WriteString(r.text + "\n")
	}
	// A width that is wrong by a column must not cost a row.
	if len(live) > 0 {
		b.WriteString(wrapOff)
		for _, r := range live {
			b.WriteString(r.text + clearLine + "\n")
		}
		b.WriteString(wrapOn)
	}
	_, p.err = io.WriteString(p.out, b.String())
	p.shown = live
}

// height gives the rows that the live area takes on a terminal of this width:
// one that became narrower has wrapped what was longer.
func (p *painter) height(width int) int {
	n := 0
	for _, r := range p.shown {
		n += max(1, (r.cols+width-1)/max(1, width))
	}
	return n
}

func (p *painter) restore() {
	if p.hidden && p.err == nil {
		_, p.err = io.WriteString(p.out, showCursor)
		p.hidden = false
	}
}

func equalRows(a, b []row) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
