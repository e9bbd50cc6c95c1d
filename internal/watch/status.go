package watch

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// Status is what a service knows and will do. It is immutable.
type Status struct {
	Name    string        `json:"name"`
	Every   time.Duration `json:"-"`
	Images  []ImageStatus `json:"images"`
	Layers  []LayerStatus `json:"layers"`
	Actions []JobStatus   `json:"actions"`
	Problem string        `json:"problem,omitempty"` // why the project can't be read

	health health
}

// ImageStatus is one image.
type ImageStatus struct {
	Image    string        `json:"image"`
	Pinned   digest.Digest `json:"pinned"`
	Seen     digest.Digest `json:"seen,omitempty"`
	Outdated bool          `json:"outdated"`
	Checked  time.Time     `json:"checked,omitzero"`
	Next     time.Time     `json:"next"`
	Errors   int           `json:"errors,omitempty"` // in a row
	Error    string        `json:"error,omitempty"`
	Units    []string      `json:"units"`
}

// LayerStatus is one refreshed layer.
type LayerStatus struct {
	Layer   string    `json:"layer"`
	Refresh string    `json:"refresh"`        // "week at Mon 06:00"
	Slot    string    `json:"slot,omitempty"` // the newest with an event
	Done    time.Time `json:"done,omitzero"`
	Next    time.Time `json:"next"` // when the next slot is acted on
	Due     bool      `json:"due"`  // a slot has turned that has no event yet
	Units   []string  `json:"units"`
}

// JobStatus is one action that is to be taken.
type JobStatus struct {
	Policy   string    `json:"policy"`
	Type     string    `json:"type"`
	Subject  string    `json:"subject"` // image or layer
	Slot     string    `json:"slot,omitempty"`
	Delivery string    `json:"delivery"`
	Running  bool      `json:"running,omitempty"`
	Failures int       `json:"failures,omitempty"`
	Next     time.Time `json:"next,omitzero"` // zero: at once
}

// health is what happened since the service began.
type health struct {
	started, lastPoll, lastOK time.Time
	lastError                 string
	lastErrorAt               time.Time
	roundErr                  error // of the last round of looks
}

func (h *health) poll(now time.Time, a Answer) {
	h.lastPoll = now
	if a.Err == nil {
		h.lastOK = now
		return
	}
	h.roundErr = errors.Join(h.roundErr, a.Err)
	h.failure(now, a.Err)
}

func (h *health) failure(now time.Time, err error) { h.lastError, h.lastErrorAt = err.Error(), now }

// Plan says what a service would do, without one: it takes no lock, asks no
// registry and writes nothing.
func Plan(ctx context.Context, c Config) (Status, error) {
	p, err := c.Load(ctx)
	if err != nil {
		return Status{}, err
	}
	st, err := readState(filepath.Join(folder(c.State, c.Name), "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		st, err = newState(), nil
	}
	if err != nil {
		return Status{}, err
	}
	st.meet(p, c.Now(), c.Every, func() float64 { return 0 })
	return status(c, st, p, nil, c.Now()), nil
}

// Status gives what the service knows now. It is safe for concurrent use.
func (s *Service) Status() Status { return *s.status.Load() }

// publish renews what Status gives.
func (s *Service) publish() {
	st := status(s.config, s.state, s.project, s.running, s.config.Now())
	st.health, st.Problem = s.seen, s.problem
	s.status.Store(&st)
}

func status(c Config, st *State, p Project, running *Job, now time.Time) Status {
	out := Status{Name: c.Name, Every: c.Every, Images: []ImageStatus{}, Layers: []LayerStatus{}, Actions: []JobStatus{}}
	for _, i := range p.Images {
		s := st.Images[i.Name]
		if s == nil {
			s = &ImageState{}
		}
		out.Images = append(out.Images, ImageStatus{
			Image: i.Name, Pinned: i.Pinned, Seen: s.Seen, Outdated: s.outdated(i), Checked: s.Checked,
			Next: st.nextLook(i), Errors: s.Errors, Error: s.Error, Units: i.Units,
		})
	}
	for _, l := range p.Layers {
		ls := LayerStatus{Layer: l.Name, Refresh: l.Refresh.String(), Next: st.nextSlot(l, now), Units: l.Units}
		if last := st.Layers[l.Name]; last != nil {
			ls.Slot, ls.Done = last.Slot, last.Done
		}
		ls.Due = !ls.Next.After(now)
		out.Layers = append(out.Layers, ls)
	}
	for _, j := range st.Jobs {
		out.Actions = append(out.Actions, JobStatus{
			Policy: j.Policy, Type: j.Event.Type, Subject: j.Event.Subject(), Slot: j.Event.Slot, Delivery: j.Event.Delivery,
			Running: j == running, Failures: j.Failures, Next: j.NotBefore,
		})
	}
	return out
}

func (s *ImageState) outdated(i Image) bool {
	return s.Seen != "" && s.Seen != i.Pinned && s.Seen != s.Same
}
