package watch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (w *world) gaps(image string) []time.Duration {
	var out []time.Duration
	var last time.Time
	for _, l := range w.looks {
		if l.image != image {
			continue
		}
		if !last.IsZero() {
			out = append(out, l.at.Sub(last))
		}
		last = l.at
	}
	return out
}

// Looks at an image are 15 minutes apart, give or take a tenth, and images are
// not asked for at the same time.
func TestPollsAreJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		for i := range 20 {
			w.image(fmt.Sprintf("image:%d", i), "docker.io")
		}
		w.run(12*time.Hour, w.policy("tell", func(context.Context, Event, int) error { return nil }))
		low, high := time.Hour, time.Duration(0)
		for _, i := range w.project.Images {
			gaps := w.gaps(i.Name)
			if n := len(gaps); n < 43 || n > 53 {
				t.Errorf("%d looks at %s in 12 hours", n, i.Name)
			}
			for _, g := range gaps {
				low, high = min(low, g), max(high, g)
			}
		}
		if low < 13*time.Minute+30*time.Second || high > 16*time.Minute+31*time.Second {
			t.Errorf("looks are %s to %s apart, want 13m30s to 16m30s", low, high)
		}
		if high-low < 2*time.Minute {
			t.Errorf("looks are all %s to %s apart: there is no jitter", low, high)
		}
		at := map[time.Time]int{}
		most := 0
		for _, l := range w.looks {
			at[l.at]++
			most = max(most, at[l.at])
		}
		if most > 2 {
			t.Errorf("%d of 20 images were asked for at once", most)
		}
	})
}

// A restart asks for nothing before its time.
func TestRestartsDoNotPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		for range 60 {
			w.run(time.Minute, w.policy("tell", func(context.Context, Event, int) error { return nil }))
		}
		if n := len(w.looks); n < 4 || n > 6 {
			t.Errorf("%d looks in an hour with a restart a minute", n)
		}
	})
}

// 429 with Retry-After leaves the whole host alone for that time; other hosts
// are asked as ever.
func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		w.image("node:24", "docker.io")
		w.image("ghcr.io/user/tool:1", "ghcr.io")
		from := time.Now().Add(time.Hour)
		limited := time.Time{}
		w.answer = func(i Image) (Answer, bool) {
			if i.Name != "debian:12" || time.Now().Before(from) || !limited.IsZero() {
				return Answer{}, false
			}
			limited = time.Now()
			return Answer{Err: errors.New("too many requests"), Limited: true, RetryAfter: 3 * time.Hour}, true
		}
		tell := w.policy("tell", func(context.Context, Event, int) error { return nil })
		w.run(2*time.Hour, tell)
		w.run(6*time.Hour, tell) // it holds over a restart
		others := 0
		for _, l := range w.looks {
			if l.at.After(limited) && l.at.Before(limited.Add(3*time.Hour)) {
				if l.image != "ghcr.io/user/tool:1" {
					t.Errorf("%s was asked for %s after 429", l.image, l.at.Sub(limited))
				}
				others++
			}
		}
		if others < 10 {
			t.Errorf("the other host was asked %d times in 3 hours", others)
		}
		if last := w.looks[len(w.looks)-1]; last.at.Before(limited.Add(4 * time.Hour)) {
			t.Errorf("the last look is %s after 429", last.at.Sub(limited))
		}
	})
}

// Errors make looks rarer, up to six hours, for that image alone; the first
// success brings them back.
func TestErrorsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("gone:1", "example.com")
		w.image("debian:12", "example.com")
		w.answer = func(i Image) (Answer, bool) {
			if i.Name != "gone:1" || time.Since(sunday) > 48*time.Hour {
				return Answer{}, false
			}
			return Answer{Err: errors.New("connection refused")}, true
		}
		w.run(60*time.Hour, w.policy("tell", func(context.Context, Event, int) error { return nil }))
		gaps := w.gaps("gone:1")
		want := []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 6 * time.Hour}
		for i, d := range want {
			if g := gaps[i]; g < d*9/10-time.Second || g > d*11/10+time.Second {
				t.Errorf("after %d errors it waited %s, want about %s", i+1, g, d)
			}
		}
		if g := gaps[len(gaps)-1]; g > 17*time.Minute {
			t.Errorf("after success it waits %s", g)
		}
		if n := len(w.gaps("debian:12")); n < 200 {
			t.Errorf("the other image was asked for %d times in 60 hours", n)
		}
	})
}

// An image that moved is told once, not at each look and not after a restart;
// again when it moves on, and when it comes back after it had been right.
func TestMoveIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		var got []string
		tell := w.policy("tell", func(_ context.Context, e Event, _ int) error {
			got = append(got, ShortDigest(e.Old)+" -> "+ShortDigest(e.New)+" "+fmt.Sprint(e.Units))
			return nil
		})
		for _, tag := range []string{"1", "2", "2", "3", "1", "3"} {
			w.at["debian:12"] = sum(tag)
			w.run(2*time.Hour, tell)
		}
		one, two, three := ShortDigest(sum("1")), ShortDigest(sum("2")), ShortDigest(sum("3"))
		want := []string{one + " -> " + two + " [base]", one + " -> " + three + " [base]", one + " -> " + three + " [base]"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("moves (-want +got):\n%s", diff)
		}
		ids := map[string]bool{}
		for _, a := range w.done {
			ids[a.delivery] = true
		}
		if len(ids) != 3 {
			t.Errorf("%d delivery IDs for 3 moves", len(ids))
		}
	})
}

// An index that moved only for platforms that are not pinned is no event.
func TestSamePlatformsAreNoMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		compared := 0
		c := w.config()
		c.Poll = func(_ context.Context, looks []Look) []Answer {
			a := Answer{Digest: sum("2")}
			if len(looks[0].Known) < 2 {
				compared++
				a.Same = true
			}
			return []Answer{a}
		}
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 3 {
			if err := s.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if st := s.Status(); len(w.done) != 0 || st.Images[0].Outdated || compared != 1 {
			t.Errorf("it did %v, status %+v, compared %d times", w.done, st.Images[0], compared)
		}
	})
}

// An action for a move that fails is dropped once the user has pinned the new
// digest.
func TestPinnedMoveIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		w.at["debian:12"] = sum("2")
		fail := w.policy("rebuild", func(context.Context, Event, int) error { return errors.New("it does not compile") })
		w.run(2*time.Hour, fail)
		w.project.Images[0].Pinned = sum("2")
		w.run(2*time.Hour, fail)
		st, err := readState(w.stateFile())
		if err != nil || len(st.Jobs) != 0 || w.count(ActionDropped) != 1 {
			t.Errorf("the state has %d actions, %d were dropped; %v", len(st.Jobs), w.count(ActionDropped), err)
		}
	})
}

// Looks go on while an action takes long.
func TestPollsGoOnBesideAnAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		w.project.Layers = layers[:1]
		w.run(10*time.Hour, w.policy("rebuild", func(ctx context.Context, _ Event, _ int) error {
			select {
			case <-time.After(8 * time.Hour):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}))
		for _, g := range w.gaps("debian:12") {
			if g > 17*time.Minute {
				t.Errorf("there are %s between two looks", g)
			}
		}
		if len(w.done) != 1 {
			t.Errorf("it did %v", w.done)
		}
	})
}

// Edits of the project count, also when nothing was due before; a project that
// can't be read leaves the last one, is told once, and is no reason to stop.
func TestProjectIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.start()
		time.Sleep(time.Hour)
		w.set(func() { w.project.Layers = layers[:1] })
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(w.done) != 1 {
			t.Errorf("an hour after the layer was added it did %v", w.done)
		}
		stop()
		c := w.config()
		broken := false
		c.Load = func(context.Context) (Project, error) {
			if broken {
				return Project{}, errors.New("strata.yaml:3:1: unknown key")
			}
			return w.project, nil
		}
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		broken = true
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if len(w.done) != 2 || w.count(ProjectFailed) != 1 {
			t.Errorf("with a broken project it did %v and told it %d times", w.done, w.count(ProjectFailed))
		}
		if p := s.Status().Health(time.Now()).Problem; p != "strata.yaml:3:1: unknown key" {
			t.Errorf("the problem is %q", p)
		}
	})
}

// A clock that goes back repeats no slot, and does not stop the looks.
func TestClockGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.every = 2 * time.Hour
		w.project.Layers = layers[1:2]
		w.image("debian:12", "docker.io")
		back := time.Duration(0)
		c := w.config()
		c.Now = func() (t time.Time) {
			w.set(func() { t = time.Now().Add(-back) })
			return t
		}
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*24*time.Hour)
		defer cancel()
		time.AfterFunc(9*24*time.Hour, func() { w.set(func() { back = 5 * 24 * time.Hour }) })
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(w.done); i++ {
			if !w.done[i].start.After(w.done[i-1].start) {
				t.Errorf("slot %s came after %s", w.done[i].slot, w.done[i-1].slot)
			}
		}
		if n := len(w.done); n != 9 { // from 21 November to 7 December by that clock
			t.Errorf("%d slots, want 9: %v", n, w.done)
		}
		for _, g := range w.gaps("debian:12") {
			if g > 2*w.every*11/10+time.Minute { // one wait before, and a whole one after
				t.Errorf("there are %s between two looks", g)
			}
		}
	})
}

// A state written while the clock was years ahead stops nothing.
func TestClockWasFarAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.image("debian:12", "docker.io")
		c := w.config()
		c.Now = func() time.Time { return time.Now().AddDate(10, 0, 0) }
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Once(t.Context()), s.Close()); err != nil {
			t.Fatal(err)
		}
		w.done, w.looks = nil, nil
		w.run(48 * time.Hour)
		if len(w.done) != 2 || w.done[0].slot != "2026-W47" || len(w.looks) < 100 {
			t.Errorf("it did %v, and looked %d times", w.done, len(w.looks))
		}
	})
}
