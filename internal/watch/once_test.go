package watch

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Once looks at everything, acts on all that is due once, and tells what failed;
// the next one keeps to the waits.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers
		w.image("debian:12", "docker.io")
		w.image("tool:1", "ghcr.io")
		w.at["debian:12"] = sum("2")
		limited := true
		w.answer = func(i Image) (Answer, bool) {
			return Answer{Err: errors.New("too many requests"), Limited: true, RetryAfter: time.Hour}, limited && i.Host == "ghcr.io"
		}
		once := func() error {
			c := w.config()
			c.Policies = []Policy{w.policy("rebuild", func(_ context.Context, e Event, attempt int) error {
				if e.Slot == "2026-11-21T06:00Z" && attempt < 3 {
					return errors.New("it does not compile")
				}
				return nil
			})}
			s, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return errors.Join(s.Once(t.Context()), s.Close())
		}
		check := func(when string, err error, want string, looks, done int) {
			t.Helper()
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != want || len(w.looks) != looks || len(w.done) != done {
				t.Errorf("%s: it said %q, looked %d times, did %d things; want %q, %d, %d", when, got, len(w.looks), len(w.done), want, looks, done)
			}
			w.looks, w.done = nil, nil
		}
		check("first", once(), "too many requests\nrebuild for ml: it does not compile", 2, 3)
		limited = false
		check("second", once(), "rebuild for ml: it does not compile", 1, 0)
		time.Sleep(30 * time.Minute)
		check("within the waits", once(), "rebuild for ml: it failed, and is not tried again before 2026-11-22T13:00:00Z", 1, 0)
		time.Sleep(31 * time.Minute)
		check("after them", once(), "", 2, 1)
		time.Sleep(24 * time.Hour)
		check("on Monday", once(), "", 2, 2)
	})
}

// A plan is shown without the lock, asks nobody and writes nothing.
func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:2]
		w.image("debian:12", "docker.io")
		st, err := Plan(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range st.Layers {
			if !l.Due {
				t.Errorf("before the first start %s is not due: %+v", l.Layer, l)
			}
		}
		if entries, err := os.ReadDir(w.dir); err != nil || len(entries) > 0 || len(w.looks) > 0 {
			t.Errorf("it wrote %v, %v, and looked %d times", entries, err, len(w.looks))
		}
		stop := w.start()
		time.Sleep(time.Hour)
		synctest.Wait()
		w.set(func() { w.looks = nil })
		st, err = Plan(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		stop()
		var got []string
		for _, l := range st.Layers {
			got = append(got, l.Layer+" "+l.Slot+" "+l.Next.Format(time.RFC3339)+" "+strings.Join(l.Units, ","))
		}
		want := []string{"base 2026-W47 2026-11-23T06:00:00Z base,ml,app", "ml 2026-11-21T06:00Z 2026-11-23T06:00:00Z ml,app"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("slots (-want +got):\n%s", diff)
		}
		if next := time.Until(st.Images[0].Next); next < 0 || next > 17*time.Minute || len(w.looks) > 0 {
			t.Errorf("the next look is in %s", next)
		}
	})
}

// A policy that comes later gets what still stands, under the same delivery ID:
// a move and a slot of today, each once.
func TestLaterPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.image("debian:12", "docker.io")
		w.image("same:1", "docker.io")
		w.at["debian:12"] = sum("2")
		once := func(way string, policies ...string) (got []string) {
			c := w.config()
			c.Policies = nil
			for _, name := range policies {
				c.Policies = append(c.Policies, w.policy(name, func(context.Context, Event, int) error {
					if name == "broken" {
						return errors.New("it is broken")
					}
					return nil
				}))
			}
			if way != "" {
				c.Ways = map[string]string{"rebuild": way}
			}
			s, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			w.done = nil
			_ = s.Once(t.Context())
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, a := range w.done {
				got = append(got, a.policy+" "+a.subject)
			}
			return got
		}
		check := func(when string, got []string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		check("first", once("", "tell"), "tell debian:12", "tell base")
		id := w.done[0].delivery
		check("later", once("", "tell", "rebuild"), "rebuild debian:12", "rebuild base")
		if w.done[0].delivery != id {
			t.Errorf("the delivery is %s for one policy and %s for the other", id, w.done[0].delivery)
		}
		check("again", once("", "tell", "rebuild"))
		check("another way", once("update-lock", "rebuild"), "rebuild debian:12")
		check("the same way", once("update-lock", "rebuild"))
		check("one that fails", once("", "broken"))
		check("without it", once("", "tell"))
		w.project.Images[0].Pinned = sum("2")
		check("pinned", once("", "tell", "new"), "new base")
	})
}

// A service that begins with another policy need not wait for a look.
func TestLaterPolicyOfAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.image("debian:12", "docker.io")
		w.at["debian:12"] = sum("2")
		stop := w.start()
		time.Sleep(time.Hour)
		stop()
		w.looks, w.done = nil, nil
		c := w.config()
		c.Policies = []Policy{w.policy("late", func(context.Context, Event, int) error { return nil })}
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := errors.Join(s.Run(ctx), s.Close()); err != nil {
			t.Fatal(err)
		}
		if len(w.done) != 2 || len(w.looks) != 0 {
			t.Errorf("it did %v and looked at %v", w.done, w.looks)
		}
	})
}
