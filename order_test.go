package strata

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/registry"
)

// at gives the configuration of a run of the commit with a number: later ones
// are newer.
func (w *workshop) at(t *testing.T, commit int) Config {
	t.Helper()
	c := w.config(t)
	c.Version = Version{
		Name: "1." + string(rune('0'+commit)), Revision: strings.Repeat(string(rune('0'+commit)), 40),
		Time: time.Date(2026, 11, 22, 10, commit, 0, 0, time.UTC),
	}
	return c
}

// publishes makes the project as a commit has it, and gives what came of it.
func (w *workshop) publishes(t *testing.T, commit int, change func(*Config)) Result {
	t.Helper()
	w.write(t, "src/main.py", "print("+string(rune('0'+commit))+")\n")
	c := w.at(t, commit)
	if change != nil {
		change(&c)
	}
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (w *workshop) tag(t *testing.T, tag string) string {
	t.Helper()
	return w.reg.Client.Lookup(t.Context(), w.reg.Ref("app:"+tag)).Desc.Digest.String()
}

// A pipeline of an older commit that ends late, or runs again, sets its own
// version's tag and leaves `latest` alone.
func TestAnOlderCommitDoesNotMoveTagsBack(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.publishes(t, 1, nil)
	second := w.publishes(t, 2, nil)
	first := w.publishes(t, 1, nil)
	if got, want := w.tag(t, "latest"), second.Units[0].Ref.Digest.String(); got != want {
		t.Errorf("latest is %s, the newer commit's image is %s", got, want)
	}
	if got, want := w.tag(t, "1.1"), first.Units[0].Ref.Digest.String(); got != want {
		t.Errorf("1.1 is %s, want %s", got, want)
	}
	if len(first.Held) != 1 || first.Held[0].Ref.Tag != "latest" || first.Held[0].Revision != strings.Repeat("2", 40) {
		t.Errorf("held back: %v", first.Held)
	}
	if third := w.publishes(t, 3, nil); len(third.Held) != 0 || w.tag(t, "latest") != third.Units[0].Ref.Digest.String() {
		t.Error("a newer commit did not move latest")
	}
	forced := w.publishes(t, 1, func(c *Config) { c.Force = true })
	if len(forced.Held) != 0 || w.tag(t, "latest") != forced.Units[0].Ref.Digest.String() {
		t.Error("--force did not move latest back")
	}
}

// What the history says counts more than the clocks of those who commit.
func TestHistoryCountsMoreThanTime(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.publishes(t, 2, nil)
	ancestry := func(c *Config) {
		c.Compare = func(_ context.Context, first, second string) (int, error) {
			return strings.Compare(second, first), nil // the lower number is the newer one
		}
	}
	if res := w.publishes(t, 1, ancestry); len(res.Held) != 0 {
		t.Errorf("held back: %v", res.Held)
	}
	if res := w.publishes(t, 3, ancestry); len(res.Held) != 1 {
		t.Error("a commit that is part of the history moved a tag back")
	}
}

// Two runs at the same time: whatever the order in which their requests come,
// the newer commit has the tag in the end. (The note of who has set it can be
// the older one's in the second case, until the next run writes its own.)
func TestRunsAtTheSameTimeEndWithTheNewerCommit(t *testing.T) {
	for _, tc := range []struct {
		name string
		hold string // the older commit's request that waits until the newer has ended
	}{
		{"the older one sets its tag last", "PUT /v2/app/manifests/latest"},
		{"the older one writes the order last", "PUT /v2/app/manifests/" + orderTag},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorkshop(t, ordinary)
			w.publishes(t, 1, nil)
			w.write(t, "src/main.py", "print(2)\n")
			c := w.at(t, 2)
			waiting, go_ := make(chan bool), make(chan bool)
			var once sync.Once
			c.Client = w.reg.NewClient(registry.Options{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Method+" "+r.URL.Path == tc.hold {
					once.Do(func() { close(waiting); <-go_ })
				}
				return http.DefaultTransport.RoundTrip(r)
			})})
			older, err := Prepare(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := older.Execute(t.Context())
				done <- err
			}()
			<-waiting
			newer := w.publishes(t, 3, nil)
			close(go_)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got, want := w.tag(t, "latest"), newer.Units[0].Ref.Digest.String(); got != want {
				t.Errorf("latest is %s, the newer commit's image is %s", got, want)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The runners of a pipeline make units and move no tag; the last job moves them
// all and makes nothing.
func TestPublishMovesWhatRunnersMade(t *testing.T) {
	w := newWorkshop(t, ordinary)
	res := w.publishes(t, 1, func(c *Config) { c.NoTags = true })
	if len(res.Tags) != 0 || w.reg.Client.Lookup(t.Context(), w.reg.Ref("app:latest")).State != registry.Miss {
		t.Errorf("tags were moved: %v", res.Tags)
	}
	res = w.publishes(t, 1, nil)
	if res.Units[0].Action != "reuse" || w.tag(t, "latest") != res.Units[0].Ref.Digest.String() {
		t.Errorf("the last job: %s, tags %v", res.Units[0].Action, res.Tags)
	}
}
