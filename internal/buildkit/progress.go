package buildkit

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
)

// tailLines is how much of a failed step's output its error shows.
const tailLines = 20

// progress turns BuildKit's status of one solve into events, and keeps what the
// result and errors need.
type progress struct {
	unit, ref string
	sink      event.Sink

	mu    sync.Mutex
	steps map[digest.Digest]*step
	order []*step // by last completion
}

// step is one vertex. BuildKit may start and finish a vertex several times.
type step struct {
	id, name string
	cached   bool
	running  bool
	failed   string
	started  time.Time
	seconds  float64
	partial  map[int][]byte // an unfinished line of each stream
	tail     []string
}

func newProgress(unit, ref string, s event.Sink) *progress {
	return &progress{unit: unit, ref: ref, sink: s, steps: map[digest.Digest]*step{}}
}

// follow emits events until ch is closed.
func (p *progress) follow(ch <-chan *client.SolveStatus) {
	for st := range ch {
		p.mu.Lock()
		for _, v := range st.Vertexes {
			p.vertex(v)
		}
		for _, s := range st.Statuses {
			p.status(s)
		}
		for _, l := range st.Logs {
			p.log(l)
		}
		for _, w := range st.Warnings {
			p.sink.Emit(event.Event{Type: event.Warning, Time: time.Now(), Unit: p.unit, Text: string(w.Short)})
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.steps {
		p.flush(s, time.Now())
	}
}

func (p *progress) step(d digest.Digest) *step {
	s, ok := p.steps[d]
	if !ok {
		id := d.Encoded()
		s = &step{id: p.ref + "-" + id[:min(12, len(id))], partial: map[int][]byte{}}
		p.steps[d] = s
	}
	return s
}

func (p *progress) vertex(v *client.Vertex) {
	s := p.step(v.Digest)
	s.name = v.Name
	s.cached = s.cached || v.Cached // a vertex from a cache may be looked at again
	if v.Started != nil && !s.running && v.Started.After(s.started) {
		s.running, s.started = true, *v.Started
		p.sink.Emit(event.Event{Type: event.StepStarted, Time: *v.Started, Unit: p.unit, Step: s.name, StepID: s.id})
	}
	if v.Completed == nil || !s.running {
		return
	}
	s.running = false
	s.failed = v.Error
	s.seconds += v.Completed.Sub(s.started).Seconds()
	p.flush(s, *v.Completed)
	p.order = append(slices.DeleteFunc(p.order, func(o *step) bool { return o == s }), s)
	p.sink.Emit(event.Event{
		Type: event.StepFinished, Time: *v.Completed, Unit: p.unit, Step: s.name, StepID: s.id,
		Cached: s.cached, Error: v.Error, Seconds: s.seconds,
	})
}

func (p *progress) status(v *client.VertexStatus) {
	s := p.step(v.Vertex)
	p.sink.Emit(event.Event{
		Type: event.StepProgress, Time: v.Timestamp, Unit: p.unit, Step: s.name, StepID: s.id,
		Text: v.ID, Current: v.Current, Total: v.Total,
	})
}

// log emits whole lines. A carriage return begins a line anew, as on a terminal.
func (p *progress) log(l *client.VertexLog) {
	s := p.step(l.Vertex)
	data := append(s.partial[l.Stream], l.Data...)
	for {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			break
		}
		p.line(s, line, l.Timestamp)
		data = rest
	}
	s.partial[l.Stream] = slices.Clone(data)
}

func (p *progress) line(s *step, line []byte, at time.Time) {
	text := strings.TrimSuffix(string(line), "\r")
	if i := strings.LastIndexByte(text, '\r'); i >= 0 {
		text = text[i+1:]
	}
	s.tail = append(s.tail, text)
	if len(s.tail) > tailLines {
		s.tail = slices.Delete(s.tail, 0, 1)
	}
	p.sink.Emit(event.Event{
		Type: event.StepLog, Time: at, Unit: p.unit, Step: s.name, StepID: s.id, Text: text,
	})
}

// flush emits what a step wrote after its last line break.
func (p *progress) flush(s *step, at time.Time) {
	for stream, data := range s.partial {
		if len(data) > 0 {
			p.line(s, data, at)
		}
		delete(s.partial, stream)
	}
}

// finished gives every finished step once, in order of completion.
func (p *progress) finished() []build.Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]build.Step, len(p.order))
	for i, s := range p.order {
		out[i] = build.Step{Name: s.name, Cached: s.cached, Seconds: s.seconds}
	}
	return out
}

// failure gives the name and last output of the step with digest d, or of the
// first that failed.
func (p *progress) failure(d string) (name string, tail []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.steps[digest.Digest(d)]; ok {
		return s.name, slices.Clone(s.tail)
	}
	for _, s := range p.order {
		if s.failed != "" && !strings.Contains(s.failed, "context canceled") {
			return s.name, slices.Clone(s.tail)
		}
	}
	return "", nil
}
