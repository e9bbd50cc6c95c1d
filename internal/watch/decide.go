package watch

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/slot"
)

// What a service decides. Nothing here reads a clock or touches the world.

// retries is how long a failing action waits after so many failures in a row:
// what docker-library does with builds.
var retries = []time.Duration{0, 0, 1 * time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 32 * time.Hour}

func retryWait(failures int) time.Duration { return retries[min(failures, len(retries)-1)] }

const (
	// jitterPart is by how much the time between two looks varies, both ways, so
	// that images, and machines that were started together, do not ask at once.
	jitterPart = 0.1
	// longestPollWait bounds the wait after looks that failed, unless the host
	// asks for more or looks are rarer anyhow.
	longestPollWait = 6 * time.Hour
	// firstSpread is the time over which the first looks are spread, at most.
	firstSpread = 30 * time.Second
	// farAhead is longer than any slot and any wait: a time beyond it was written
	// while the clock was wrong.
	farAhead = 40 * 24 * time.Hour
	// mostSkipped bounds the slots that are named after a long time of rest.
	mostSkipped = 100
)

// pollWait gives the time to the next look after so many errors in a row, with
// jitter in [0, 1).
func pollWait(every time.Duration, failures int, jitter float64) time.Duration {
	d := every << min(failures, 10)
	if d <= 0 || d > longestPollWait {
		d = max(every, longestPollWait)
	}
	return time.Duration(float64(d) * (1 - jitterPart + 2*jitterPart*jitter))
}

// meet makes entries for images that are new, spreads their first looks, and
// brings back what lies too far ahead: --every was longer, or the clock was
// wrong.
func (st *State) meet(p Project, now time.Time, every time.Duration, jitter func() float64) {
	wrong := func(t time.Time) bool { return t.Sub(now) > farAhead }
	maps.DeleteFunc(st.Hosts, func(_ string, t time.Time) bool { return !t.After(now) || wrong(t) })
	maps.DeleteFunc(st.Layers, func(_ string, l *LayerState) bool { return wrong(l.Start) })
	for _, j := range st.Jobs {
		if wrong(j.NotBefore) {
			j.NotBefore = time.Time{}
		}
	}
	for _, i := range p.Images {
		s := st.Images[i.Name]
		if s == nil {
			spread := float64(min(every/10, firstSpread))
			s = &ImageState{Next: now.Add(time.Duration(spread * jitter())).UTC()}
			st.Images[i.Name] = s
		}
		if latest := now.Add(pollWait(every, 0, 1)).UTC(); s.Next.After(latest) && (s.Errors == 0 || wrong(s.Next)) {
			s.Next = latest
		}
	}
}

// nextLook is when an image is to be asked for.
func (st *State) nextLook(i Image) time.Time {
	s := st.Images[i.Name]
	if s == nil {
		return time.Time{}
	}
	if h := st.Hosts[i.Host]; h.After(s.Next) {
		return h
	}
	return s.Next
}

// looks gives the images that are due, or all but those of hosts that limit
// requests.
func (st *State) looks(p Project, now time.Time, all bool) []Look {
	var out []Look
	for _, i := range p.Images {
		if all && now.Before(st.Hosts[i.Host]) || !all && now.Before(st.nextLook(i)) {
			continue
		}
		l := Look{Image: i, Known: []digest.Digest{i.Pinned}}
		if s := st.Images[i.Name]; s != nil {
			for _, d := range []digest.Digest{s.Same, s.Told} {
				if d != "" {
					l.Known = append(l.Known, d)
				}
			}
		}
		out = append(out, l)
	}
	return out
}

type observation struct {
	image    Image
	answer   Answer
	policies []string
	ways     map[string]string
	name     string // of the project
	now      time.Time
	every    time.Duration
	jitter   float64
	running  *Job
}

// observe takes what a look gave: when the next one is, and an event if the image
// has moved.
func (st *State) observe(o observation) []Note {
	s, a := st.Images[o.image.Name], o.answer
	if a.Err != nil {
		return st.observeError(o)
	}
	s.Errors, s.Error, s.Checked, s.Seen = 0, "", o.now.UTC(), a.Digest
	s.Next = o.now.Add(pollWait(o.every, 0, o.jitter)).UTC()
	switch {
	case a.Digest == o.image.Pinned:
		s.Same, s.Told, s.At, s.Old, s.Given = "", "", time.Time{}, "", nil
		return st.drop(o.running, "it is pinned now", func(j *Job) bool {
			return j.Event.Type == ImageMoved && j.Event.Image == o.image.Name && j.Claimed.IsZero()
		})
	case a.Same:
		s.Same = a.Digest
		return nil
	case a.Digest == s.Same, a.Digest == s.Told, o.running != nil && o.running.Event.Image == o.image.Name:
		return nil // a move in the midst of an action is found again
	}
	s.Told, s.At, s.Old, s.Given = a.Digest, o.now.UTC(), o.image.Pinned, given{}
	s.Given.add(o.policies, o.ways)
	return st.add(s.event(o.image, o.name), o.policies)
}

// event is the newest one of an image.
func (s *ImageState) event(i Image, project string) Event {
	e := Event{
		Version: 1, Type: ImageMoved, Time: s.At, Project: project, Image: i.Name, Old: s.Old, New: s.Told, Units: i.Units,
	}
	e.Delivery = deliveryID(project, e.Image, string(e.Old), string(e.New), e.Time.Format(time.RFC3339Nano))
	return e
}

func (g given) add(policies []string, ways map[string]string) {
	for _, p := range policies {
		g[p] = ways[p]
	}
}

// lacking gives the policies that did not get an event, or act in another way
// than when they did.
func (g given) lacking(policies []string, ways map[string]string) []string {
	return slices.DeleteFunc(slices.Clone(policies), func(p string) bool {
		way, ok := g[p]
		return ok && way == ways[p]
	})
}

func (st *State) observeError(o observation) []Note {
	s, a := st.Images[o.image.Name], o.answer
	s.Errors++
	s.Error = a.Err.Error()
	wait := max(pollWait(o.every, s.Errors, o.jitter), a.RetryAfter)
	s.Next = o.now.Add(wait).UTC()
	if a.Limited {
		// One image's refusal is the host's: all others of it wait as well, at
		// least for the time that it asked for.
		until := o.now.Add(max(a.RetryAfter, pollWait(o.every, 0, o.jitter))).UTC()
		if until.After(st.Hosts[o.image.Host]) {
			st.Hosts[o.image.Host] = until
		}
	}
	return []Note{{Type: PollFailed, Image: o.image.Name, Error: s.Error, Retry: st.nextLook(o.image), Attempt: s.Errors}}
}

// late gives policies that came later the events that still stand: of images
// that are outdated, and of the current slots.
func (st *State) late(p Project, policies []string, c Config, now time.Time, running *Job) []Note {
	var notes []Note
	busy := func(subject string) bool { return running != nil && running.Event.Subject() == subject }
	for _, i := range p.Images {
		s := st.Images[i.Name]
		if s == nil || s.Told == "" || !s.outdated(i) || s.Seen != s.Told || busy(i.Name) {
			continue
		}
		if s.Given == nil { // written by a version that did not note it
			s.Given = given{}
		}
		if s.At.IsZero() {
			s.At, s.Old = now.UTC(), i.Pinned
		}
		lacking := s.Given.lacking(policies, c.Ways)
		s.Given.add(lacking, c.Ways)
		notes = append(notes, st.add(s.event(i, c.Name), lacking)...)
	}
	for _, l := range p.Layers {
		current, s := slot.At(l.Refresh, now), st.Layers[l.Name]
		if s == nil || !s.Start.Equal(current.Start) || busy(l.Name) {
			continue
		}
		if s.Given == nil {
			s.Given = given{}
		}
		lacking := s.Given.lacking(policies, nil)
		s.Given.add(lacking, nil)
		notes = append(notes, st.add(slotEvent(l, current, c.Name, now), lacking)...)
	}
	return notes
}

func slotEvent(l Layer, s slot.Slot, project string, now time.Time) Event {
	return Event{
		Version: 1, Type: SlotTurned, Time: now.UTC(), Project: project, Layer: l.Name,
		Slot: s.Name, Start: s.Start, End: s.End, Units: l.Units,
		Delivery: deliveryID(project, l.Name, s.Start.Format(time.RFC3339)),
	}
}

// turn makes an event for each layer whose slot has turned. Slots that passed
// unnoticed are skipped: the newest does their work.
func (st *State) turn(p Project, policies []string, name string, now time.Time, running *Job) []Note {
	notes := st.drop(running, "the layer has no refresh any more", func(j *Job) bool {
		return j.Event.Type == SlotTurned && !slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.Name == j.Event.Layer })
	})
	var turned []Event
	for _, l := range p.Layers {
		current, last := slot.At(l.Refresh, now), st.Layers[l.Name]
		busy := running != nil && running.Event.Type == SlotTurned && running.Event.Layer == l.Name
		if busy || last != nil && !current.Start.After(last.Start) {
			continue // the second also when a clock went back
		}
		e := slotEvent(l, current, name, now)
		s := &LayerState{Slot: current.Name, Start: current.Start, Given: given{}}
		s.Given.add(policies, nil)
		if last != nil {
			e.Skipped, s.Done = between(l, last.Start, current), last.Done
		}
		st.Layers[l.Name] = s
		turned = append(turned, e)
	}
	slices.SortStableFunc(turned, func(a, b Event) int { return a.Start.Compare(b.Start) })
	for _, e := range turned {
		if len(e.Skipped) > 0 {
			notes = append(notes, Note{Type: SlotsSkipped, Layer: e.Layer, Skipped: e.Skipped})
		}
		notes = append(notes, st.add(e, policies)...)
	}
	return notes
}

// between gives the names of the slots after one that began at last and before
// current, oldest first; of very many the newest.
func between(l Layer, last time.Time, current slot.Slot) []string {
	var out []string
	for s := slot.Previous(l.Refresh, current); s.Start.After(last) && len(out) < mostSkipped; s = slot.Previous(l.Refresh, s) {
		out = append(out, s.Name)
	}
	slices.Reverse(out)
	return out
}

// add makes a job of an event for each policy. It takes the place of an older
// event of the same image or layer that has not come through, and inherits its
// failures: what fails does not become well by being asked for again.
func (st *State) add(e Event, policies []string) []Note {
	var notes []Note
	for _, policy := range policies {
		j := &Job{Event: e, Policy: policy}
		st.Jobs = slices.DeleteFunc(st.Jobs, func(old *Job) bool {
			if old.Policy != policy || old.Event.Type != e.Type || old.Event.Subject() != e.Subject() {
				return false
			}
			j.Failures, j.NotBefore = old.Failures, old.NotBefore
			was := old.Event
			notes = append(notes, Note{Type: ActionDropped, Policy: policy, Event: &was, Attempt: old.Attempts, Text: "a newer one takes its place"})
			return true
		})
		st.Jobs = append(st.Jobs, j)
	}
	return notes
}

// drop removes jobs that have become pointless, but never the one under way.
func (st *State) drop(running *Job, why string, pointless func(*Job) bool) []Note {
	var notes []Note
	st.Jobs = slices.DeleteFunc(st.Jobs, func(j *Job) bool {
		if j == running || !pointless(j) {
			return false
		}
		e := j.Event
		notes = append(notes, Note{Type: ActionDropped, Policy: j.Policy, Event: &e, Attempt: j.Attempts, Text: why})
		return true
	})
	return notes
}

// forget removes the jobs of policies that are not there any more. One that
// comes back gets what it did not come to.
func (st *State) forget(policies []string) {
	if len(policies) == 0 {
		return
	}
	st.Jobs = slices.DeleteFunc(st.Jobs, func(j *Job) bool {
		if slices.Contains(policies, j.Policy) {
			return false
		}
		if l := st.Layers[j.Event.Layer]; j.Event.Type == SlotTurned && l != nil {
			delete(l.Given, j.Policy)
		}
		if i := st.Images[j.Event.Image]; j.Event.Type == ImageMoved && i != nil {
			delete(i.Given, j.Policy)
		}
		return true
	})
}

// pick gives the action to take now: the one that failed least, of those the
// oldest. Nil when there is none.
func (st *State) pick(now time.Time, may func(*Job) bool) *Job {
	var best *Job
	for _, j := range st.Jobs { // they stand in order of their events
		if now.Before(j.NotBefore) || !may(j) {
			continue
		}
		if best == nil || cmp.Compare(j.Failures, best.Failures) < 0 {
			best = j
		}
	}
	return best
}

func (st *State) done(j *Job, now time.Time) {
	st.Jobs = slices.DeleteFunc(st.Jobs, func(o *Job) bool { return o == j })
	if l := st.Layers[j.Event.Layer]; j.Event.Type == SlotTurned && l != nil {
		l.Done = now.UTC()
	}
}

// failed counts a failure; the next attempt is not before the wait that was
// asked for.
func (st *State) failed(j *Job, now time.Time, asked time.Duration) {
	j.Failures++
	j.Claimed = time.Time{}
	j.NotBefore = now.Add(max(retryWait(j.Failures), asked)).UTC()
}

// due says whether a round has something to do.
func (st *State) due(p Project, now time.Time, running *Job) bool {
	return !st.nextRound(p, now, running).After(now)
}

// nextRound is when an image is to be asked for or a slot turns.
func (st *State) nextRound(p Project, now time.Time, running *Job) time.Time {
	next := now.Add(365 * 24 * time.Hour)
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	for _, i := range p.Images {
		earlier(st.nextLook(i))
	}
	for _, l := range p.Layers {
		if running != nil && running.Event.Layer == l.Name {
			continue // its end wakes the service
		}
		earlier(st.nextSlot(l, now))
	}
	return next
}

// nextSlot is when the next slot of a layer is acted on; now or earlier if that
// is to be done at once.
func (st *State) nextSlot(l Layer, now time.Time) time.Time {
	current, last := slot.At(l.Refresh, now), st.Layers[l.Name]
	if last == nil || current.Start.After(last.Start) {
		return current.Start
	}
	if !last.Start.Before(current.End) { // a clock went back, or slots became shorter
		return slot.At(l.Refresh, last.Start).End
	}
	return current.End
}

// next is when the service has something to do again.
func (st *State) next(p Project, now time.Time, running *Job) time.Time {
	next := st.nextRound(p, now, running)
	if running != nil {
		return next
	}
	for _, j := range st.Jobs {
		if j.NotBefore.Before(next) {
			next = j.NotBefore
		}
	}
	return next
}

// unitsOf gives the units that an event concerns as the project is now; nil when
// it does not have the subject any more.
func (p Project) unitsOf(e Event) []string {
	for _, l := range p.Layers {
		if e.Type == SlotTurned && l.Name == e.Layer {
			return l.Units
		}
	}
	for _, i := range p.Images {
		if e.Type == ImageMoved && i.Name == e.Image {
			return i.Units
		}
	}
	return nil
}

// deliveryID names an event: the same parts give the same ID, so that a slot has
// one even if the state is lost.
func deliveryID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// ShortDigest gives the first twelve digits of a digest.
func ShortDigest(d digest.Digest) string {
	_, hex, _ := strings.Cut(string(d), ":")
	return hex[:min(12, len(hex))]
}
