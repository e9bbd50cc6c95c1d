package view

import (
	"strings"
	"time"

	"github.com/strata-build/strata/internal/event"
)

// tailLines is how many lines of a step's output are kept to show them when
// the step fails.
const tailLines = 20

// maxLine bounds what is kept of one line of output, in bytes.
const maxLine = 4096

// model is what a view knows of a run. It is not safe for concurrent use.
type model struct {
	units  map[string]*unit
	order  []*unit // by start
	total  int     // units of the run, 0 when not told
	done   int
	begin  time.Time // of the first event
	idCols int       // columns of the widest unit id
}

type unit struct {
	id, action, reason string
	started            time.Time
	finished           bool
	seconds            float64
	digest, err, idle  string // idle is why a pull copied nothing
	size               int64
	steps              map[string]*step
	running            []*step // by start
	last               *step   // the last that said something
	failed             *step
	ended, cached      int // finished steps, and those of them that the engine had
}

type step struct {
	name           string
	started        time.Time
	current, total int64
	tail           []string // the last lines of output
	err            string
}

func newModel() *model { return &model{units: map[string]*unit{}} }

// apply takes e into the model and gives the unit that it is about, nil when
// it is about none.
func (m *model) apply(e event.Event) *unit {
	if m.begin.IsZero() {
		m.begin = e.Time
	}
	if e.Type == event.RunStarted {
		m.total = int(e.Total)
	}
	if e.Unit == "" {
		return nil
	}
	u := m.unit(e)
	switch e.Type {
	case event.UnitStarted:
		u.reason = field(e.Text)
	case event.UnitFinished:
		m.finish(u, e)
	case event.StepStarted, event.StepProgress, event.StepLog, event.StepFinished:
		u.apply(e)
	}
	return u
}

func (m *model) unit(e event.Event) *unit {
	u := m.units[e.Unit]
	if u == nil {
		u = &unit{id: field(e.Unit), started: e.Time, steps: map[string]*step{}}
		m.units[e.Unit] = u
		m.order = append(m.order, u)
		m.idCols = max(m.idCols, textWidth(u.id))
	}
	if e.Action != "" {
		u.action = field(e.Action)
	}
	return u
}

func (m *model) finish(u *unit, e event.Event) {
	if !u.finished {
		m.done++
	}
	u.finished = true
	u.seconds, u.digest, u.size, u.err = e.Seconds, e.Digest, e.Size, e.Error
	if u.action == "pull" && e.Text != "copied" {
		u.idle = field(e.Text)
	}
	if u.seconds == 0 {
		u.seconds = e.Time.Sub(u.started).Seconds()
	}
	if u.err == "" {
		u.steps, u.running, u.last = map[string]*step{}, nil, nil // the output isn't needed any more
	}
}

// apply takes an event of a step.
func (u *unit) apply(e event.Event) {
	id := e.StepID
	if id == "" {
		id = e.Step
	}
	s := u.steps[id]
	if s == nil {
		s = &step{started: e.Time}
		u.steps[id] = s
	}
	if e.Step != "" {
		s.name = field(e.Step)
	}
	switch e.Type {
	case event.StepStarted:
		u.drop(s)
		u.running = append(u.running, s)
		u.last = s
	case event.StepProgress:
		s.current, s.total = e.Current, e.Total
	case event.StepLog:
		s.log(e.Text)
		u.last = s
	case event.StepFinished:
		u.drop(s)
		u.ended++
		if e.Cached {
			u.cached++
		}
		if s.err = e.Error; s.err != "" && u.failed == nil {
			u.failed = s
		}
	}
}

// drop takes s from the running steps.
func (u *unit) drop(s *step) {
	for i, r := range u.running {
		if r == s {
			u.running = append(u.running[:i], u.running[i+1:]...)
			return
		}
	}
}

func (s *step) log(text string) {
	for _, l := range outputLines(text) {
		if len(l) > maxLine {
			l = strings.ToValidUTF8(l[:maxLine], "") + "…"
		}
		if s.tail = append(s.tail, l); len(s.tail) > tailLines {
			s.tail = s.tail[1:]
		}
	}
}

// outputLines gives the lines of a piece of output, cleaned.
func outputLines(text string) []string {
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	for i, l := range lines {
		lines[i] = clean(l)
	}
	return lines
}

// current gives the step that stands for the unit now: the running one that
// spoke last, or the one that started last; nil when none runs.
func (u *unit) current() *step {
	if len(u.running) == 0 {
		return nil
	}
	for _, s := range u.running {
		if s == u.last {
			return s
		}
	}
	return u.running[len(u.running)-1]
}

// failure gives the report of a failed unit: what failed, and the end of its
// output, not cut.
func (u *unit) failure() []line {
	head := line{{Red, "✗ "}, {Bold, u.id}, {Red, " failed"}}
	s := u.failed
	if s == nil {
		s = u.last
	}
	if s != nil && s.name != "" {
		head = append(head, span{Normal, " at " + s.name})
	}
	out := []line{head}
	if s != nil {
		for _, l := range s.tail {
			out = append(out, line{{Dim, "  │ "}, {Normal, l}})
		}
	}
	for _, l := range outputLines(u.err) {
		out = append(out, line{{Red, "  " + l}})
	}
	return out
}

// failures gives the reports of all failed units by start.
func (m *model) failures() []line {
	var out []line
	for _, u := range m.order {
		if u.finished && u.err != "" {
			out = append(out, u.failure()...)
		}
	}
	return out
}

// stamped gives e with a time.
func stamped(e event.Event, clock func() time.Time) event.Event {
	if e.Time.IsZero() {
		e.Time = clock()
	}
	return e
}
