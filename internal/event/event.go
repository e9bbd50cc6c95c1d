// Package event holds what a run tells while it goes on, as values.
//
// The core emits events and never prints; renderers (terminal, plain, JSON) and
// the record of a run are sinks. An event is immutable once it was emitted.
package event

import (
	"sync"
	"time"
)

// Type names the kind of an event; it is the "type" of the JSON form.
type Type string

// The kinds of event, in the order in which a unit meets them.
const (
	RunStarted   Type = "run.started"
	UnitStarted  Type = "unit.started"
	StepStarted  Type = "step.started"  // one step of the engine (a vertex)
	StepProgress Type = "step.progress" // bytes or items of a step
	StepLog      Type = "step.log"      // output of a step
	StepFinished Type = "step.finished"
	UnitFinished Type = "unit.finished"
	Warning      Type = "warning"
	Message      Type = "message" // words of the program itself, of no unit
	RunFinished  Type = "run.finished"
)

// Event is one thing that happened. Fields that do not apply are empty.
type Event struct {
	Type    Type      `json:"type"`
	Time    time.Time `json:"time"`
	Unit    string    `json:"unit,omitempty"`    // "app/cpu/linux/amd64"
	Step    string    `json:"step,omitempty"`    // name of the engine's step: "[2/4] RUN apt-get ..."
	StepID  string    `json:"stepId,omitempty"`  // unique within a run
	Cached  bool      `json:"cached,omitempty"`  // the engine had the step's result
	Text    string    `json:"text,omitempty"`    // a line of output, a reason, a warning
	Error   string    `json:"error,omitempty"`   // why a step or unit failed
	Current int64     `json:"current,omitempty"` // bytes or items so far
	Total   int64     `json:"total,omitempty"`   // bytes or items in all, 0 when unknown
	Action  string    `json:"action,omitempty"`  // of a unit: reuse, append, rebase, build
	Digest  string    `json:"digest,omitempty"`  // of a finished unit
	Seconds float64   `json:"seconds,omitempty"` // of a finished step or unit
	Size    int64     `json:"size,omitempty"`    // of a finished unit: compressed bytes of all its blobs
}

// Sink takes events. Emit does not block for long and is safe for concurrent
// use.
type Sink interface {
	Emit(Event)
}

// Func makes a function a [Sink].
type Func func(Event)

// Emit calls f.
func (f Func) Emit(e Event) { f(e) }

// Discard is a sink that drops everything.
var Discard Sink = Func(func(Event) {})

// Tee gives a sink that hands each event to every sink, one event at a time.
func Tee(sinks ...Sink) Sink {
	var mu sync.Mutex
	return Func(func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range sinks {
			s.Emit(e)
		}
	})
}
