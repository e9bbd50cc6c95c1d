package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/slot"
	"github.com/strata-build/strata/internal/spec"
)

// The tests run on synctest's clock: a month takes about a second.

var layers = []Layer{
	{Name: "base", Refresh: spec.Refresh{Every: spec.EveryWeek, Weekday: time.Monday, Hour: 6}, Units: []string{"base", "ml", "app"}},
	{Name: "ml", Refresh: spec.Refresh{Every: spec.EveryPeriod, Period: 48 * time.Hour, Hour: 6}, Units: []string{"ml", "app"}},
	{Name: "tools", Refresh: spec.Refresh{Every: spec.EveryMonth, Day: 1}, Units: []string{"tools"}},
}

func sum(s string) digest.Digest { return digest.FromString(s) }

// world is what a service under test watches: a project and its registries.
type world struct {
	t       *testing.T
	dir     string
	every   time.Duration
	project Project
	at      map[string]digest.Digest // what the tags point to
	answer  func(Image) (Answer, bool)
	rand    *rand.Rand

	mu    sync.Mutex // services, actions and the test itself
	looks []look
	notes []Note
	done  []act
	acts  int // under way
}

// set changes the world while a service runs.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// random is in [0, 1).
func (w *world) random() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Float64()
}

// upTo gives a random time, shorter than d.
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.random() * float64(d)) }

type look struct {
	image string
	at    time.Time
}

type act struct {
	policy, subject, slot, delivery string
	start                           time.Time
}

// sunday is when the tests begin.
var sunday = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	time.Sleep(time.Until(sunday))
	return &world{
		t: t, dir: t.TempDir(), every: 15 * time.Minute, at: map[string]digest.Digest{},
		rand: rand.New(rand.NewPCG(seed, 1)),
	}
}

func (w *world) image(name, host string) {
	w.at[name] = sum("1")
	w.project.Images = append(w.project.Images, Image{Name: name, Host: host, Pinned: sum("1"), Units: []string{"base"}})
}

func (w *world) config() Config {
	return Config{
		Name: "ghcr.io/user/app", Dir: "/srv/app", State: w.dir, Every: w.every, Now: time.Now, Rand: w.random,
		Load: func(context.Context) (p Project, err error) {
			w.set(func() { p = w.project })
			return p, nil
		},
		Emit: func(n Note) { w.set(func() { w.notes = append(w.notes, n) }) },
		Poll: func(_ context.Context, looks []Look) []Answer {
			w.mu.Lock()
			defer w.mu.Unlock()
			var out []Answer
			for _, l := range looks {
				w.looks = append(w.looks, look{l.Image.Name, time.Now()})
				a := Answer{Digest: w.at[l.Image.Name]}
				if w.answer != nil {
					if special, ok := w.answer(l.Image); ok {
						a = special
					}
				}
				out = append(out, a)
			}
			return out
		},
		Policies: []Policy{w.policy("tell", func(context.Context, Event, int) error { return nil })},
	}
}

// policy notes what an action did when it came through, and that there is only
// one at a time.
func (w *world) policy(name string, do func(context.Context, Event, int) error) Policy {
	return attempts{name, func(ctx context.Context, e Event, attempt int) (string, error) {
		w.set(func() {
			if w.acts++; w.acts > 1 {
				w.t.Errorf("%d actions at once", w.acts)
			}
		})
		defer w.set(func() { w.acts-- })
		if err := do(ctx, e, attempt); err != nil {
			return "", err
		}
		w.set(func() { w.done = append(w.done, act{name, e.Subject(), e.Slot, e.Delivery, e.Start}) })
		return "done", nil
	}}
}

type attempts struct {
	name string
	act  func(context.Context, Event, int) (string, error)
}

func (a attempts) failing() Policy {
	a.act = func(context.Context, Event, int) (string, error) { return "", errors.New("no") }
	return a
}

func (a attempts) Name() string { return a.name }

func (a attempts) Act(ctx context.Context, e Event, attempt int) (string, error) {
	return a.act(ctx, e, attempt)
}

// run runs a service for a while, and ends it.
func (w *world) run(d time.Duration, policies ...Policy) {
	w.t.Helper()
	stop := w.start(policies...)
	time.Sleep(d)
	stop()
}

// start starts a service and gives what ends it.
func (w *world) start(policies ...Policy) (stop func()) {
	w.t.Helper()
	c := w.config()
	if len(policies) > 0 {
		c.Policies = policies
	}
	s, err := Open(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) stateFile() string {
	return filepath.Join(folder(w.dir, "ghcr.io/user/app"), "state.json")
}

// kill ends a service as SIGKILL does: the state stays as it is on disk at this
// moment.
func (w *world) kill(stop func()) {
	synctest.Wait()
	data, err := os.ReadFile(w.stateFile())
	if err != nil {
		w.t.Fatal(err)
	}
	stop()
	if err := os.WriteFile(w.stateFile(), data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(noteType string) int {
	n := 0
	for _, note := range w.notes {
		if note.Type == noteType {
			n++
		}
	}
	return n
}

// Thirty days with restarts, kills, downtime and builds that fail: each policy
// acts on every slot of every layer exactly once and in order, but for slots
// that passed while nothing ran or that a newer one overtook, and those are told.
func TestThirtyDays(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { thirtyDays(t, newWorld(t, seed)) })
		})
	}
}

func thirtyDays(t *testing.T, w *world) {
	w.every = 12 * time.Hour // looks are other tests' subject
	w.project.Layers = layers
	w.image("debian:12", "docker.io")
	begin := time.Now()
	build := w.policy("rebuild", func(ctx context.Context, e Event, _ int) error {
		select {
		case <-time.After(w.upTo(90 * time.Minute)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if w.random() < 0.3 {
			return errors.New("no space left on device")
		}
		return nil
	})
	tell := w.policy("tell", func(context.Context, Event, int) error { return nil })
	var down [][2]time.Time
	for time.Since(begin) < 30*24*time.Hour {
		stop := w.start(build, tell)
		time.Sleep(w.upTo(5 * 24 * time.Hour))
		if w.random() < 0.6 {
			w.kill(stop)
		} else {
			stop()
		}
		from := time.Now()
		pause := 20 * time.Minute
		if w.random() < 0.25 {
			pause = 5 * 24 * time.Hour
		}
		time.Sleep(w.upTo(pause))
		down = append(down, [2]time.Time{from, time.Now()})
	}
	w.run(4*24*time.Hour, w.policy("rebuild", func(context.Context, Event, int) error { return nil }), tell)
	if n := w.count(ActionDone); n < 30 {
		t.Errorf("only %d actions in 30 days", n)
	}
	for _, policy := range []string{"rebuild", "tell"} {
		for _, l := range layers {
			w.checkSlots(policy, l, begin, down)
		}
	}
}

// checkSlots accounts for every slot of a layer since begin.
func (w *world) checkSlots(policy string, l Layer, begin time.Time, down [][2]time.Time) {
	w.t.Helper()
	fate := map[string][]string{}
	var last time.Time
	for _, a := range w.done {
		if a.policy != policy || a.subject != l.Name {
			continue
		}
		fate[a.slot] = append(fate[a.slot], "done")
		if !a.start.After(last) {
			w.t.Errorf("%s acted on slot %s of %s after that of %s", policy, a.slot, l.Name, last)
		}
		last = a.start
	}
	for _, n := range w.notes {
		switch {
		case n.Type == SlotsSkipped && n.Layer == l.Name:
			for _, s := range n.Skipped {
				fate[s] = append(fate[s], "skipped")
			}
		case n.Type == ActionDropped && n.Policy == policy && n.Event.Layer == l.Name:
			fate[n.Event.Slot] = append(fate[n.Event.Slot], "dropped")
		}
	}
	for s := slot.At(l.Refresh, begin); !s.Start.After(time.Now()); s = slot.At(l.Refresh, s.End) {
		if len(fate[s.Name]) != 1 {
			w.t.Errorf("%s, slot %s of %s: %v, want one thing", policy, s.Name, l.Name, fate[s.Name])
			continue
		}
		passed := slices.ContainsFunc(down, func(d [2]time.Time) bool { return !s.Start.Before(d[0]) && !s.End.After(d[1]) })
		switch what := fate[s.Name][0]; {
		case what == "skipped" && !passed:
			w.t.Errorf("slot %s of %s was skipped, but something ran in it", s.Name, l.Name)
		case what == "done" && passed:
			w.t.Errorf("slot %s of %s was acted on, but nothing ran in it", s.Name, l.Name)
		case what == "dropped" && policy == "tell" && !overlaps(down, s):
			w.t.Errorf("slot %s of %s was dropped", s.Name, l.Name)
		}
		delete(fate, s.Name)
	}
	for s, what := range fate {
		w.t.Errorf("%s, slot %s of %s: %v, which is no slot of these days", policy, s, l.Name, what)
	}
}

func overlaps(down [][2]time.Time, s slot.Slot) bool {
	return slices.ContainsFunc(down, func(d [2]time.Time) bool { return d[1].After(s.Start) && d[0].Before(s.End) })
}

// With nothing in the way every slot is acted on within a minute of its start,
// and of two that begin together the parent's comes first.
func TestEverySlotInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.every = 6 * time.Hour
		w.project.Layers = layers
		late := time.Duration(0)
		w.run(30*24*time.Hour, w.policy("tell", func(_ context.Context, e Event, _ int) error {
			if !e.Start.Before(sunday) {
				late = max(late, time.Since(e.Start))
			}
			return nil
		}))
		var got []string
		for _, a := range w.done {
			got = append(got, a.subject+" "+a.slot)
		}
		want := []string{
			"tools 2026-11", "base 2026-W47", "ml 2026-11-21T06:00Z", // as it starts, by age
			"base 2026-W48", "ml 2026-11-23T06:00Z", "ml 2026-11-25T06:00Z", "ml 2026-11-27T06:00Z", "ml 2026-11-29T06:00Z",
			"base 2026-W49", "tools 2026-12", "ml 2026-12-01T06:00Z", "ml 2026-12-03T06:00Z", "ml 2026-12-05T06:00Z",
			"base 2026-W50", "ml 2026-12-07T06:00Z", "ml 2026-12-09T06:00Z", "ml 2026-12-11T06:00Z", "ml 2026-12-13T06:00Z",
			"base 2026-W51", "ml 2026-12-15T06:00Z", "ml 2026-12-17T06:00Z", "ml 2026-12-19T06:00Z",
			"base 2026-W52", "ml 2026-12-21T06:00Z",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("slots (-want +got):\n%s", diff)
		}
		if late > time.Minute {
			t.Errorf("a slot was acted on %s late", late)
		}
		if n := w.count(SlotsSkipped) + w.count(ActionDropped); n > 0 {
			t.Errorf("%d slots were skipped or dropped", n)
		}
	})
}

// An action that was cut by a kill is done again under the same delivery ID,
// whether it had come through or not.
func TestKillInTheMidstOfAnAction(t *testing.T) {
	for name, throughFirst := range map[string]bool{"before its effect": false, "after its effect": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.project.Layers = layers[:1]
				var claimed []byte
				var tries []int
				stop := w.start(w.policy("rebuild", func(ctx context.Context, _ Event, attempt int) error {
					claimed, _ = os.ReadFile(w.stateFile())
					tries = append(tries, attempt)
					if throughFirst {
						return nil
					}
					<-ctx.Done()
					return context.Cause(ctx)
				}))
				time.Sleep(time.Minute)
				stop()
				if err := os.WriteFile(w.stateFile(), claimed, 0o600); err != nil {
					t.Fatal(err)
				}
				w.run(time.Hour, w.policy("rebuild", func(_ context.Context, _ Event, attempt int) error {
					tries = append(tries, attempt)
					return nil
				}))
				if diff := cmp.Diff([]int{1, 2}, tries); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
				for _, a := range w.done {
					if a.slot != "2026-W47" || a.delivery != w.done[0].delivery {
						t.Errorf("it did %v, then %v", w.done[0], a)
					}
				}
			})
		})
	}
}

// Ending a service in an action keeps the claim and counts no failure.
func TestEndInTheMidstOfAnAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.run(time.Minute, w.policy("rebuild", func(ctx context.Context, _ Event, _ int) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}))
		st, err := readState(w.stateFile())
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Jobs) != 1 || st.Jobs[0].Claimed.IsZero() || st.Jobs[0].Failures != 0 {
			t.Errorf("the state has %+v", st.Jobs)
		}
		if w.count(ActionStopped) != 1 {
			t.Errorf("it said %v", w.notes)
		}
	})
}

// What fails is tried again after 0, 1, 2, 4, 8, 16 and 32 hours; another layer
// does not wait for it; success sets the count back.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		month := layers[2]
		other := month
		other.Name = "other"
		w.project.Layers = []Layer{month, other}
		var at []time.Time
		w.run(8*24*time.Hour, w.policy("rebuild", func(_ context.Context, e Event, _ int) error {
			if e.Layer == "other" {
				if len(at) != 1 {
					t.Errorf("the layer that does not fail waited for %d attempts of the other", len(at))
				}
				return nil
			}
			at = append(at, time.Now())
			if len(at) < 9 {
				return errors.New("it does not compile")
			}
			return nil
		}))
		var hours []int
		for i := 1; i < len(at); i++ {
			hours = append(hours, int(at[i].Sub(at[i-1]).Round(time.Minute).Hours()))
		}
		if diff := cmp.Diff([]int{0, 1, 2, 4, 8, 16, 32, 32}, hours); diff != "" {
			t.Errorf("hours between attempts (-want +got):\n%s", diff)
		}
		st, err := readState(w.stateFile())
		if err != nil || len(st.Jobs) != 0 {
			t.Errorf("after success the state has %v, %v", st.Jobs, err)
		}
	})
}

// A failing layer takes its failures along to the next slot, which takes the
// place of the last one.
func TestFailuresOutlastTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[1:2] // two days
		tries := map[string]int{}
		w.run(10*24*time.Hour, w.policy("rebuild", func(_ context.Context, e Event, _ int) error {
			tries[e.Slot]++
			return errors.New("it does not compile")
		}))
		if n := tries["2026-11-25T06:00Z"]; n == 0 || n > 2 {
			t.Errorf("a slot of two days was tried %d times after days of failing; all: %v", n, tries)
		}
		if n := w.count(ActionDropped); n != 5 {
			t.Errorf("%d slots were dropped for a newer one, want 5", n)
		}
	})
}

// A layer that loses its refresh while its action is under way is not cut off;
// one whose action waits is dropped.
func TestLayerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:2]
		stop := w.start(w.policy("rebuild", func(context.Context, Event, int) error {
			time.Sleep(2 * time.Hour)
			return nil
		}))
		time.Sleep(time.Hour)
		w.set(func() { w.project.Layers = nil })
		time.Sleep(23 * time.Hour)
		stop()
		var dropped []string
		for _, n := range w.notes {
			if n.Type == ActionDropped {
				dropped = append(dropped, n.Event.Layer)
			}
		}
		if len(w.done) != 1 || w.done[0].subject != "base" || !slices.Equal(dropped, []string{"ml"}) {
			t.Errorf("it did %v and dropped %v", w.done, dropped)
		}
	})
}
