package view

import (
	"fmt"
	"strings"
	"time"
)

// maxTail is how many lines of output stand under a running unit at most.
const maxTail = 6

// spinner is shown one state a frame.
var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// frame gives the live area: the running units with the end of their output
// and a line of totals, in at most height-1 lines of at most width-1 columns,
// so that the cursor never has to leave the screen or wrap.
func (m *model) frame(now time.Time, width, height, tick int) []line {
	running := m.running()
	if len(running) == 0 || height < 3 {
		return nil
	}
	cols, rows := width-1, height-2 // the last rows: totals, cursor
	hidden := 0
	if len(running) > rows {
		rows--
		hidden = len(running) - rows
		running = running[:rows]
	}
	tails := 0
	if len(running) > 0 {
		tails = min(maxTail, (rows-len(running))/len(running))
	}
	var out []line
	for _, u := range running {
		out = append(out, m.runningLine(u, now, cols, tick))
		if tails > 0 {
			out = append(out, u.tailLines(tails, cols)...)
		}
	}
	if hidden > 0 {
		out = append(out, line{{Dim, fmt.Sprintf("  … and %d more", hidden)}}.cut(cols))
	}
	return append(out, m.totals(now).cut(cols))
}

func (m *model) running() []*unit {
	var out []*unit
	for _, u := range m.order {
		if !u.finished {
			out = append(out, u)
		}
	}
	return out
}

// runningLine gives spinner, id, action and step at the left, the time at the
// right end.
func (m *model) runningLine(u *unit, now time.Time, cols, tick int) line {
	left := line{
		{Cyan, spinner[tick%len(spinner)] + " "},
		{Bold, pad(u.id, m.idCols)},
		{Cyan, "  " + pad(u.action, actionCols)},
	}
	if s := u.current(); s != nil {
		left = append(left, span{Normal, "  " + s.name}, span{Dim, s.progress()})
		if n := len(u.running) - 1; n > 0 {
			left = append(left, span{Dim, fmt.Sprintf(" (+%d)", n)})
		}
	} else if u.reason != "" {
		left = append(left, span{Dim, "  " + u.reason})
	}
	right := elapsed(now.Sub(u.started))
	room := cols - len(right) - 2
	if room < 8 {
		return left.cut(cols)
	}
	left = left.cut(room)
	gap := strings.Repeat(" ", room-left.width()+2)
	return append(left, span{Dim, gap + right})
}

// progress gives " 12.0 MB of 40.0 MB", or nothing.
func (s *step) progress() string {
	switch {
	case s.total > 0:
		return fmt.Sprintf("  %s of %s", Bytes(s.current), Bytes(s.total))
	case s.current > 0:
		return "  " + Bytes(s.current)
	}
	return ""
}

func (u *unit) tailLines(n, cols int) []line {
	s := u.current()
	if s == nil {
		return nil
	}
	var out []line
	for _, l := range s.tail[max(0, len(s.tail)-n):] {
		out = append(out, line{{Dim, "    │ " + l}}.cut(cols))
	}
	return out
}

func (m *model) totals(now time.Time) line {
	of := ""
	if m.total > 0 {
		of = fmt.Sprintf(" of %d", m.total)
	}
	return line{{Dim, fmt.Sprintf("  %d%s done, %d running, %s", m.done, of, len(m.running()), elapsed(now.Sub(m.begin)))}}
}

// actionCols is the width of the longest action: "append", "rebase".
const actionCols = 6

// collapsed gives the one line that stays of a finished unit.
func (m *model) collapsed(u *unit, cols int) line {
	mark := span{Green, "✓ "}
	switch {
	case u.err != "":
		mark = span{Red, "✗ "}
	case u.action == "reuse":
		mark = span{Blue, "✓ "}
	}
	l := line{mark, {Bold, pad(u.id, m.idCols)}, {Normal, "  " + pad(u.action, actionCols) + "  "}, {Normal, pad(seconds(u.seconds), 10)}}
	if u.err != "" {
		return append(l, span{Red, "  " + outputLines(u.err)[0]}).cut(cols)
	}
	if u.idle != "" {
		l[0] = span{Blue, "- "}
		return append(l, span{Normal, "  " + u.idle}).cut(cols)
	}
	size := ""
	if u.size > 0 {
		size = Bytes(u.size)
	}
	l = append(l, span{Normal, "  " + pad(size, 8)})
	if u.digest != "" {
		l = append(l, span{Dim, "  " + shortDigest(u.digest)})
	}
	if u.ended > 0 {
		l = append(l, span{Dim, fmt.Sprintf("  %d of %d steps cached", u.cached, u.ended)})
	}
	return l.cut(cols)
}

// stopped gives the line of a unit that had not ended when the view closed.
func (m *model) stopped(u *unit, now time.Time, cols int) line {
	return line{
		{Yellow, "- "}, {Bold, pad(u.id, m.idCols)}, {Normal, "  " + pad(u.action, actionCols)},
		{Yellow, "  stopped after " + elapsed(now.Sub(u.started))},
	}.cut(cols)
}
