package record

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strata-build/strata/internal/event"
)

// A Recorder is a sink that makes a record of the events of a run. What
// events don't tell, the caller adds. It is safe for concurrent use.
type Recorder struct {
	mu     sync.Mutex
	record Record
	index  map[string]int // unit id -> place in record.Units
	names  map[string]string
}

// NewRecorder gives a recorder that starts from r: its ID, command, project,
// machine and the like.
func NewRecorder(r Record) *Recorder {
	r.Version = Version
	r.Units = slices.Clone(r.Units)
	rec := &Recorder{record: r, index: map[string]int{}, names: map[string]string{}}
	for i, u := range r.Units {
		rec.index[u.ID] = i
	}
	return rec
}

// Emit takes e into the record. Output of steps is not looked at.
func (r *Recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Type {
	case event.RunStarted:
		r.record.Started = e.Time
	case event.RunFinished:
		r.record.Finished = e.Time
		r.record.Error = e.Error
	case event.UnitStarted:
		u := r.unit(e.Unit)
		u.Started, u.Action, u.Reason = e.Time, e.Action, e.Text
	case event.UnitFinished:
		r.finish(r.unit(e.Unit), e)
	case event.StepStarted:
		r.names[stepKey(e)] = e.Step
	case event.StepFinished:
		r.step(e)
	}
}

func (r *Recorder) finish(u *Unit, e event.Event) {
	if e.Action != "" {
		u.Action = e.Action
	}
	if e.Digest != "" {
		u.Digest = e.Digest
	}
	if e.Size != 0 {
		u.Size = e.Size
	}
	u.Seconds, u.Error = e.Seconds, e.Error
	if u.Seconds == 0 && !u.Started.IsZero() && e.Time.After(u.Started) {
		u.Seconds = e.Time.Sub(u.Started).Seconds()
	}
}

// step adds a finished step; its name may have been told at its start alone.
func (r *Recorder) step(e event.Event) {
	if e.Unit == "" {
		return
	}
	name := e.Step
	if name == "" {
		name = r.names[stepKey(e)]
	}
	delete(r.names, stepKey(e))
	u := r.unit(e.Unit)
	u.EngineSteps = append(u.EngineSteps, Step{Name: name, Cached: e.Cached, Seconds: e.Seconds})
}

func stepKey(e event.Event) string { return e.Unit + "\x00" + e.StepID }

// unit gives the unit of that id, a new one where there is none.
func (r *Recorder) unit(id string) *Unit {
	i, ok := r.index[id]
	if !ok {
		i = len(r.record.Units)
		r.index[id] = i
		layer, variant, platform := SplitID(id)
		r.record.Units = append(r.record.Units, Unit{ID: id, Layer: layer, Variant: variant, Platform: platform})
	}
	return &r.record.Units[i]
}

// Unit lets f change the unit of that id, for what events do not tell: keys,
// blobs, bytes. f must not keep the pointer.
func (r *Recorder) Unit(id string, f func(*Unit)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.unit(id))
}

// Tag adds a tag that was moved.
func (r *Recorder) Tag(t Tag) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Tags = append(r.record.Tags, t)
}

// Finish ends the record and gives a copy of it, scrubbed. Units are sorted
// by start, then ID. Where no event told the end, it is at.
func (r *Recorder) Finish(at time.Time, outcome Outcome, traffic Traffic) Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Finished.IsZero() {
		r.record.Finished = at
	}
	r.record.Outcome, r.record.Traffic = outcome, traffic
	out := r.record.Scrub()
	out.Tags = slices.Clone(out.Tags)
	slices.SortStableFunc(out.Units, func(a, b Unit) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// SplitID gives the parts of a unit's ID, "layer/variant/os/arch[/version]"
// or the same without a variant.
func SplitID(id string) (layer, variant, platform string) {
	parts := strings.Split(id, "/")
	n := 2 // parts of the platform
	if last := parts[len(parts)-1]; len(parts) >= 4 && len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789.") == "" {
		n = 3
	}
	if len(parts) <= n {
		return id, "", ""
	}
	at := len(parts) - n
	return parts[0], strings.Join(parts[1:at], "/"), strings.Join(parts[at:], "/")
}
