// Package watch is the service that notices what becomes old by itself: images
// of others that move, and refresh slots that turn.
//
// It takes a [Config]: how to read the project, how to ask for digests, and the
// policies that act. It polls, keeps the layers' schedules, and hands each event
// to each policy, one at a time, trying again with growing waits what failed.
// What it knows lies in a state file that is written before and after each
// action, so that neither a restart nor SIGKILL loses or repeats a slot; only an
// action that was under way is done again, under the same delivery ID.
//
// Deciding (decide.go) is without clock and I/O; this file acts.
package watch

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/spec"
)

// Project is what is watched.
type Project struct {
	Images []Image
	Layers []Layer // that are refreshed, parents first
}

// Image is one pinned external image.
type Image struct {
	Name   string // as a Dockerfile writes it: "debian:bookworm-slim"
	Host   string // that is asked
	Pinned digest.Digest
	Units  []string // that stand on it
}

// Layer is a layer that is built anew by time alone.
type Layer struct {
	Name    string
	Refresh spec.Refresh
	Units   []string // its own, and what stands on them
}

// Config is what a service works with.
type Config struct {
	Name  string        // what the state is kept under: the project's image
	Dir   string        // of the project, for who meets the lock
	State string        // folder of all watchers' states
	Every time.Duration // between two looks at an image; at least a second

	// Load reads the project. It is called before each round, so that edits
	// count.
	Load func(context.Context) (Project, error)
	// Poll asks for the digests of images and gives an answer for each, in order.
	Poll     func(context.Context, []Look) []Answer
	Policies []Policy // at least one, each name once
	// Ways says of a policy how it acts on images that move, where its name does
	// not tell: one that acts in another way than before gets the event again.
	Ways map[string]string
	Emit func(Note) // takes the log, one note at a time
	Now  func() time.Time
	Rand func() float64 // in [0, 1); nil is a random one
}

// Look is an image to ask for. Known are digests that need no comparison: the
// pinned one, and those that were compared before.
type Look struct {
	Image Image
	Known []digest.Digest
}

// Answer is what one look gave.
type Answer struct {
	Digest     digest.Digest
	Same       bool          // not the pinned digest, but the same on all pinned platforms
	Limited    bool          // the host refused because of too many requests
	RetryAfter time.Duration // the wait that the host asked for
	Err        error
}

// Policy is one way to act on events.
type Policy interface {
	// Name is unique among the policies of a service; the state file has it.
	Name() string
	// Act acts on an event, says in a few words what came of it, and returns
	// early when ctx ends. It is called again with the same delivery ID when it
	// failed, and after a crash in the midst of it.
	Act(ctx context.Context, e Event, attempt int) (said string, err error)
}

// The types of events.
const (
	ImageMoved = "image.moved"
	SlotTurned = "slot.turned"
)

// Event is what policies act on; its JSON form is what commands and webhooks
// get.
type Event struct {
	Version  int           `json:"version"` // of this form: 1
	Type     string        `json:"type"`
	Delivery string        `json:"delivery"` // the same for all attempts and policies
	Time     time.Time     `json:"time"`     // when it was noticed
	Project  string        `json:"project"`
	Image    string        `json:"image,omitempty"`
	Old      digest.Digest `json:"old,omitempty"` // pinned in strata.lock
	New      digest.Digest `json:"new,omitempty"` // what the tag points to now
	Layer    string        `json:"layer,omitempty"`
	Slot     string        `json:"slot,omitempty"` // "2026-W47"
	Start    time.Time     `json:"start,omitzero"` // of the slot
	End      time.Time     `json:"end,omitzero"`   // of the slot: the next one's start
	Skipped  []string      `json:"skipped,omitempty"`
	Units    []string      `json:"units"` // that the event concerns
}

// Subject is what the event is about: an image or a layer.
func (e Event) Subject() string {
	if e.Type == SlotTurned {
		return e.Layer
	}
	return e.Image
}

// The types of notes, beside those of events, which the policy report gives.
const (
	Started       = "watch.started"
	Ended         = "watch.ended"
	Looked        = "watch.looked" // the end of looking and acting once
	Idle          = "watch.idle"   // there is nothing to watch
	SlotsSkipped  = "slots.skipped"
	PollFailed    = "poll.failed"
	ProjectFailed = "project.failed"
	ActionStarted = "action.started"
	ActionDone    = "action.done"
	ActionFailed  = "action.failed"
	ActionStopped = "action.stopped" // by the service's end; it goes on at the next start
	ActionDropped = "action.dropped"
	ActionWaiting = "action.waiting" // it failed before, and is not due yet
)

// Note is one line of the service's log.
type Note struct {
	Type    string    `json:"type"`
	Time    time.Time `json:"time"`
	Policy  string    `json:"policy,omitempty"`
	Image   string    `json:"image,omitempty"` // of a look that failed
	Layer   string    `json:"layer,omitempty"`
	Event   *Event    `json:"event,omitempty"`
	Skipped []string  `json:"skipped,omitempty"` // slots, oldest first
	Text    string    `json:"text,omitempty"`
	Error   string    `json:"error,omitempty"`
	Retry   time.Time `json:"retry,omitzero"` // when it is tried again
	Attempt int       `json:"attempt,omitempty"`
	Seconds float64   `json:"seconds,omitempty"`
}

// Service watches one project. It holds the state's lock from [Open] to Close.
type Service struct {
	config  Config
	store   *store
	state   *State
	project Project
	running *Job // under way
	results chan outcome
	metrics *metrics
	seen    health
	loaded  time.Time // when the project was read
	begun   bool      // a round has been
	looked  int       // images in this round
	idle    bool      // it was told that there is nothing to watch
	problem string    // why it could not be read since
	status  atomic.Pointer[Status]
	telling sync.Mutex
}

type outcome struct {
	job     *Job
	said    string
	err     error
	stopped bool
	took    time.Duration
}

// Open takes the lock of the project's state, and reads state and project. It
// fails when another service has the lock.
func Open(ctx context.Context, c Config) (*Service, error) {
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	st, err := openStore(c)
	if err != nil {
		return nil, err
	}
	s := &Service{config: c, store: st, metrics: newMetrics(), results: make(chan outcome, 1)}
	s.seen.started = c.Now()
	if s.state, err = st.read(); err == nil {
		s.project, err = c.Load(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	s.loaded = c.Now()
	s.state.Name = c.Name
	s.state.forget(s.policies())
	s.publish()
	return s, nil
}

// Close gives the lock free.
func (s *Service) Close() error { return s.store.close() }

// SetPolicies replaces the policies before the service runs; a policy may need
// what Open made.
func (s *Service) SetPolicies(p ...Policy) {
	s.config.Policies = p
	s.state.forget(s.policies())
}

func (s *Service) policies() []string {
	var names []string
	for _, p := range s.config.Policies {
		names = append(names, p.Name())
	}
	return names
}

func (s *Service) note(n Note) {
	if n.Time.IsZero() {
		n.Time = s.config.Now().UTC()
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	s.config.Emit(n)
}

// longestWait is how long the service sleeps at most: a timer does not run
// while a machine is suspended, and does not follow a clock that is set.
const longestWait = time.Minute

// Run watches until ctx ends, which is no error. It returns an error when it
// can't write its state: acting without would repeat what was done.
func (s *Service) Run(ctx context.Context) error {
	s.note(Note{Type: Started, Text: s.config.Name})
	for ctx.Err() == nil {
		err := s.round(ctx, false)
		if err == nil {
			err = s.begin(ctx)
		}
		if err != nil {
			return errors.Join(err, s.drain())
		}
		s.publish()
		if err := s.wait(ctx); err != nil {
			return errors.Join(err, s.drain())
		}
	}
	err := s.drain()
	s.note(Note{Type: Ended, Text: s.config.Name})
	return err
}

// wait sleeps until something is to be done, or takes what an action came to.
func (s *Service) wait(ctx context.Context) error {
	now := s.config.Now()
	d := min(longestWait, s.state.next(s.project, now, s.running).Sub(now))
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case o := <-s.results:
		return s.finish(o)
	}
	return nil
}

// drain waits for the action under way; its context has ended.
func (s *Service) drain() error {
	if s.running == nil {
		return nil
	}
	return s.finish(<-s.results)
}

// round reads the project, looks at the images that are due and turns slots.
func (s *Service) round(ctx context.Context, all bool) error {
	now := s.config.Now()
	// Perhaps it was edited; with nothing that is due, nobody would look. And a
	// clock that went back leaves everything far ahead.
	edited := !s.begun || now.Sub(s.loaded) >= s.config.Every || now.Before(s.loaded)
	if !all && !edited && !s.state.due(s.project, now, s.running) {
		return nil
	}
	s.begun = true
	s.reload(ctx)
	s.tellIdle()
	s.state.meet(s.project, now, s.config.Every, s.config.Rand)
	looks := s.state.looks(s.project, now, all)
	s.looked = len(looks)
	if len(looks) > 0 {
		s.look(ctx, looks)
	}
	if ctx.Err() != nil {
		return nil
	}
	now = s.config.Now() // asking takes its time
	notes := s.state.turn(s.project, s.policies(), s.config.Name, now, s.running)
	notes = append(notes, s.state.late(s.project, s.policies(), s.config, now, s.running)...)
	if err := s.save(); err != nil {
		return err
	}
	for _, n := range notes {
		s.metrics.skipped(n)
		s.note(n)
	}
	return nil
}

// reload reads the project again. One that can't be read, perhaps since it is
// being edited, leaves the last one in place.
func (s *Service) reload(ctx context.Context) {
	p, err := s.config.Load(ctx)
	s.loaded = s.config.Now()
	switch {
	case err == nil:
		s.project, s.problem = p, ""
	case ctx.Err() == nil && err.Error() != s.problem:
		s.problem = err.Error()
		s.note(Note{Type: ProjectFailed, Error: s.problem})
	}
}

// look asks for images and takes what was answered.
func (s *Service) look(ctx context.Context, looks []Look) {
	answers := s.config.Poll(ctx, looks)
	if ctx.Err() != nil {
		return // cut short: says nothing about the registries
	}
	now := s.config.Now()
	s.seen.roundErr = nil
	for i, l := range looks {
		a := answers[i]
		notes := s.state.observe(observation{
			image: l.Image, answer: a, policies: s.policies(), ways: s.config.Ways, name: s.config.Name,
			now: now, every: s.config.Every, jitter: s.config.Rand(), running: s.running,
		})
		s.metrics.poll(a, l.Image)
		s.seen.poll(now, a)
		for _, n := range notes {
			s.note(n)
		}
	}
}

// begin starts the next action that is due, when none is under way.
func (s *Service) begin(ctx context.Context) error {
	if s.running != nil || ctx.Err() != nil {
		return nil
	}
	j := s.state.pick(s.config.Now(), func(*Job) bool { return true })
	if j == nil {
		return nil
	}
	return s.start(ctx, j)
}

// start notes on disk that an action is under way, and then starts it.
func (s *Service) start(ctx context.Context, j *Job) error {
	now := s.config.Now()
	j.Claimed, j.Attempts = now.UTC(), j.Attempts+1
	if units := s.project.unitsOf(j.Event); units != nil {
		j.Event.Units = units
	}
	if err := s.save(); err != nil {
		return err
	}
	i := slices.IndexFunc(s.config.Policies, func(p Policy) bool { return p.Name() == j.Policy })
	policy, e, attempt := s.config.Policies[i], j.Event, j.Attempts
	s.running = j
	if j.Policy != ReportPolicy {
		s.note(Note{Type: ActionStarted, Policy: j.Policy, Event: &e, Attempt: attempt})
	}
	go func() {
		said, err := policy.Act(ctx, e, attempt)
		stopped := err != nil && ctx.Err() != nil
		s.results <- outcome{j, said, err, stopped, s.config.Now().Sub(now)}
	}()
	return nil
}

// finish takes what an action came to and notes it on disk.
func (s *Service) finish(o outcome) error {
	s.running = nil
	now := s.config.Now()
	e := o.job.Event
	n := Note{Policy: o.job.Policy, Event: &e, Attempt: o.job.Attempts, Seconds: o.took.Seconds(), Text: o.said}
	switch {
	case o.stopped: // the claim stays for the next start
		n.Type = ActionStopped
	case o.err != nil:
		var l later
		errors.As(o.err, &l)
		s.state.failed(o.job, now, l.after)
		o.job.Error = o.err.Error()
		s.seen.failure(now, o.err)
		n.Type, n.Error, n.Retry = ActionFailed, o.err.Error(), o.job.NotBefore
	default:
		s.state.done(o.job, now)
		n.Type = ActionDone
	}
	s.metrics.action(o)
	err := s.save()
	if n.Type != ActionDone || n.Policy != ReportPolicy {
		s.note(n)
	}
	s.publish()
	return err
}

func (s *Service) save() error { return s.store.write(s.state) }
