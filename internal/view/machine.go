package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/printable"
)

// jsonView writes each event as one JSON object a line.
type jsonView struct {
	o   Options
	mu  sync.Mutex
	err error
}

func newJSON(o Options) *jsonView { return &jsonView{o: o} }

// WriteJSON writes v as JSON and a line break: on one line, or indented. It holds
// no credentials, and what a terminal would act on is escaped.
func WriteJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(printable.JSON(b.Bytes()))
	return err
}

// Emit writes e.
func (j *jsonView) Emit(e event.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = WriteJSON(j.o.Out, stamped(e, j.o.Clock), "")
	}
}

// Printf writes text as an event of type [event.Message].
func (j *jsonView) Printf(format string, args ...any) {
	j.Emit(event.Event{Type: event.Message, Text: strings.TrimRight(fmt.Sprintf(format, args...), "\n")})
}

// Close returns the first error of writing.
func (j *jsonView) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// quiet writes the report of each unit that failed, when it fails.
type quiet struct {
	o       Options
	palette Palette
	mu      sync.Mutex
	model   *model
	err     error
}

func newQuiet(o Options) *quiet {
	return &quiet{o: o, palette: Palette{Color: o.Color}, model: newModel()}
}

// Emit writes the report of a unit that failed.
func (q *quiet) Emit(e event.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.model.apply(stamped(e, q.o.Clock))
	if e.Type != event.UnitFinished || e.Error == "" || u == nil {
		return
	}
	for _, l := range u.failure() {
		if q.err == nil {
			_, q.err = io.WriteString(q.o.Out, l.paint(q.palette)+"\n")
		}
	}
}

// Printf writes nothing.
func (q *quiet) Printf(string, ...any) {}

// Close returns the first error of writing.
func (q *quiet) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
