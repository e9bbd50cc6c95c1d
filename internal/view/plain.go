package view

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/strata-build/strata/internal/event"
)

// plain writes a line an event: "  12.3s UNIT | [2/4] RUN ...". The seconds
// count from the first event.
type plain struct {
	o       Options
	palette Palette
	mu      sync.Mutex
	model   *model
	closed  bool
	err     error
}

func newPlain(o Options) *plain {
	return &plain{o: o, palette: Palette{Color: o.Color}, model: newModel()}
}

// Emit writes the lines of e.
func (p *plain) Emit(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e = stamped(e, p.o.Clock)
	u := p.model.apply(e)
	for _, l := range plainLines(e, u) {
		p.write(e.Time, l)
	}
}

// plainLines gives what is said of e; nothing for progress.
func plainLines(e event.Event, u *unit) []line {
	switch e.Type {
	case event.RunStarted, event.RunFinished:
		if e.Text == "" {
			return nil
		}
		return texts(nil, Normal, e.Text)
	case event.Message:
		return texts(nil, Normal, e.Text)
	case event.Warning:
		return texts(unitPrefix(u), Yellow, "warning: "+e.Text)
	}
	if u == nil {
		return nil
	}
	prefix := unitPrefix(u)
	switch e.Type {
	case event.UnitStarted:
		return texts(prefix, Normal, strings.TrimSuffix(u.action+": "+e.Text, ": "))
	case event.StepStarted:
		return texts(prefix, Normal, stepName(e, u))
	case event.StepLog:
		return texts(append(prefix, span{Dim, stepTag(stepName(e, u)) + " > "}), Normal, e.Text)
	case event.StepFinished:
		return []line{append(prefix, span{Normal, stepName(e, u)}, span{Normal, ": "}, stepEnd(e))}
	case event.UnitFinished:
		return []line{append(prefix, unitEnd(u)...)}
	}
	return nil
}

func unitPrefix(u *unit) line {
	if u == nil {
		return nil
	}
	return line{{Bold, u.id}, {Dim, " | "}}
}

// texts gives a line for each line of text.
func texts(prefix line, s Style, text string) []line {
	var out []line
	for _, t := range outputLines(text) {
		out = append(out, append(prefix[:len(prefix):len(prefix)], span{s, t}))
	}
	return out
}

// stepName gives the name of the step that e is about, told now or before.
func stepName(e event.Event, u *unit) string {
	id := e.StepID
	if id == "" {
		id = e.Step
	}
	if s := u.steps[id]; s != nil {
		return s.name
	}
	return field(e.Step)
}

// stepTag gives the "[2/4]" of a step's name, or the name itself where it has
// none.
func stepTag(name string) string {
	if strings.HasPrefix(name, "[") {
		if i := strings.IndexByte(name, ']'); i > 0 {
			return name[:i+1]
		}
	}
	return cut(name, 40)
}

func stepEnd(e event.Event) span {
	switch {
	case e.Error != "":
		return span{Red, "ERROR " + clean(strings.ReplaceAll(e.Error, "\n", " "))}
	case e.Cached:
		return span{Blue, "CACHED"}
	}
	return span{Green, fmt.Sprintf("%.1fs", e.Seconds)}
}

func unitEnd(u *unit) line {
	if u.err != "" {
		return line{{Red, fmt.Sprintf("FAILED after %.1fs: %s", u.seconds, clean(strings.ReplaceAll(u.err, "\n", " ")))}}
	}
	if u.idle != "" {
		return line{{Normal, u.idle}}
	}
	l := line{{Green, "done"}, {Normal, fmt.Sprintf(": %s %.1fs", u.action, u.seconds)}}
	if u.digest != "" {
		l = append(l, span{Normal, " " + u.digest})
	}
	if u.size > 0 {
		l = append(l, span{Normal, " " + Bytes(u.size)})
	}
	return l
}

// write writes l with its time.
func (p *plain) write(at time.Time, l line) {
	if p.err != nil || p.closed {
		return
	}
	stamp := fmt.Sprintf("%7.1fs ", max(0, at.Sub(p.model.begin).Seconds()))
	_, p.err = io.WriteString(p.o.Out, string(p.palette.Paint(Dim, stamp))+l.paint(p.palette)+"\n")
}

// Printf writes text as lines with their time.
func (p *plain) Printf(format string, args ...any) {
	p.Emit(event.Event{Type: event.Message, Text: fmt.Sprintf(format, args...)})
}

// Close writes the reports of what failed once more, together: in the log
// their output stands between that of others.
func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		for _, l := range p.model.failures() {
			if p.err == nil {
				_, p.err = io.WriteString(p.o.Out, l.paint(p.palette)+"\n")
			}
		}
	}
	return p.err
}
