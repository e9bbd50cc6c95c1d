package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/spec"
)

// The units of the tests: base is built by an engine with a tail, ml by an
// engine to the end, app is nothing but a tail.
var dockerfiles = map[string]string{
	"base": "FROM debian\nRUN install\nCOPY conf /etc/\n",
	"ml":   "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN pip\n",
	"app":  "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src /src/\n",
}

var order = []string{"base", "ml", "app"}

// world is what a plan is made from; the tests change one thing each.
type world struct {
	Input
	content map[string]string // of the file that base and app take
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{content: map[string]string{"base": "1", "app": "1"}}
	w.Hits, w.Last, w.Rebuild = map[string]Hit{}, map[string]Last{}, map[string]bool{}
	w.Emulated, w.Inexact, w.Due = map[string]bool{}, map[string]string{}, map[string]string{}
	for i, name := range order {
		f, err := dockerfile.Parse(name, []byte(dockerfiles[name]))
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Analyze(dockerfile.Options{Platform: "linux/arm64", ParentArgs: map[string]bool{"BASE_IMAGE": true}})
		if err != nil {
			t.Fatal(err)
		}
		u := &graph.Unit{Unit: spec.Unit{Layer: name, Platform: "linux/arm64"}, ID: name, File: f, Build: b}
		if i > 0 {
			u.Parents = []graph.Parent{{ID: order[i-1], Arg: "BASE_IMAGE"}}
		}
		w.Units = append(w.Units, u)
	}
	w.Wanted = w.Units
	w.Keys = w.keys()
	return w
}

func (w *world) keys() map[string]key.Keys {
	out := map[string]key.Keys{}
	for i, u := range w.Units {
		in := key.Input{
			Platform: u.Platform, Build: u.Build, Files: make([][]source.Entry, len(u.Build.Inputs)),
			Parent: func(dockerfile.From) (key.Parent, bool) {
				if i == 0 {
					return key.Parent{}, false
				}
				return key.Parent{Unit: order[i-1], Key: out[order[i-1]].Unit.ID()}, true
			},
			External: func(dockerfile.From) digest.Digest { return digest.FromString("debian") },
		}
		for n, input := range u.Build.Inputs {
			in.Files[n] = []source.Entry{{
				Path: input.Patterns[0], Kind: source.File, Mode: 0o644, Digest: digest.FromString(w.content[u.ID]),
			}}
		}
		out[u.ID] = key.Compute(in)
	}
	return out
}

// built says that the registry holds everything as it is now.
func (w *world) built() {
	for _, u := range w.Units {
		h := Hit{Unit: digest.FromString(u.ID)}
		if !w.Keys[u.ID].Trunk.IsZero() {
			h.Trunk = digest.FromString(u.ID + "'s trunk")
		}
		w.Hits[u.ID] = h
		w.Last[u.ID] = Last{Known: true, Key: w.Keys[u.ID].Unit.ID(), Recipe: w.Keys[u.ID].Unit}
	}
}

// change gives a unit's file another content; what stands on it is no hit any
// more, while trunks that do not depend on it are.
func (w *world) change(unit string) {
	before := w.Keys
	w.content[unit] += "!"
	w.Keys = w.keys()
	for _, u := range w.Units {
		h := w.Hits[u.ID]
		if w.Keys[u.ID].Unit.ID() != before[u.ID].Unit.ID() {
			h.Unit = ""
		}
		if w.Keys[u.ID].Trunk.ID() != before[u.ID].Trunk.ID() {
			h.Trunk = ""
		}
		w.Hits[u.ID] = h
	}
}

// rebases gives ml a policy, and its newest trunk, which is its image.
func (w *world) rebases(policy string) {
	w.Units[1].OnParentChange = policy
	w.Trunks = map[string]Last{"ml": w.Last["ml"]}
}

// lines writes a plan, a line a step.
func lines(p Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s: %s, %s", s.Unit, s.Action, strings.Join(s.Reasons, "; "))
		if len(s.Needs) > 0 {
			fmt.Fprintf(&b, " needs %s", strings.Join(s.Needs, ","))
		}
		if s.Unless {
			b.WriteString(" unless unchanged")
		}
		if s.Emulated {
			b.WriteString(" emulated")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestMake(t *testing.T) {
	want := func(w *world, ids ...int) {
		w.Wanted = nil
		for _, i := range ids {
			w.Wanted = append(w.Wanted, w.Units[i])
		}
	}
	tests := []struct {
		name string
		set  func(*world)
		want string
	}{
		{"nothing is there", func(*world) {},
			"base: build, never built\nml: build, never built needs base\napp: append, never built needs ml\n"},
		{"everything is there", (*world).built,
			"base: reuse, nothing changed\nml: reuse, nothing changed\napp: reuse, nothing changed\n"},
		{"a file of the app", func(w *world) { w.built(); w.change("app") },
			"base: reuse, nothing changed\nml: reuse, nothing changed\napp: append, src changed\n"},
		{"a file of the base's tail", func(w *world) { w.built(); w.change("base") },
			"base: append, conf changed\nml: build, parent base is rebuilt needs base unless unchanged\n" +
				"app: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"a file of both", func(w *world) { w.built(); w.change("base"); w.change("app") },
			"base: append, conf changed\nml: build, parent base is rebuilt needs base unless unchanged\n" +
				"app: append, parent ml is rebuilt; src changed needs ml\n"},
		{"one unit is asked for", func(w *world) { want(w, 0) },
			"base: build, never built\nml: skip, nothing that was asked for needs it\napp: skip, nothing that was asked for needs it\n"},
		{"the last is asked for and there, its parents are not", func(w *world) {
			w.built()
			w.Hits["base"], w.Hits["ml"] = Hit{}, Hit{}
			want(w, 2)
		}, "base: skip, nothing that was asked for needs it\nml: skip, nothing that was asked for needs it\napp: reuse, nothing changed\n"},
		{"a parent in the middle is gone", func(w *world) { w.built(); w.Hits["ml"] = Hit{} },
			"base: reuse, nothing changed\nml: build, its image is gone from the registry\napp: reuse, nothing changed\n"},
		{"a parent is gone and the child changed", func(w *world) {
			w.built()
			w.Hits["base"], w.Hits["ml"] = Hit{}, Hit{}
			w.change("app")
			want(w, 2)
		}, "base: build, its image is gone from the registry\nml: build, its image is gone from the registry needs base\n" +
			"app: append, src changed needs ml\n"},
		{"asked to build one again", func(w *world) { w.built(); w.Rebuild["ml"] = true },
			"base: reuse, nothing changed\nml: build, asked to build it again\napp: reuse, nothing changed\n"},
		{"the newest recipe can't be read", func(w *world) {
			w.built()
			w.change("app")
			w.Last["app"] = Last{Known: true, Key: "other"}
		}, "base: reuse, nothing changed\nml: reuse, nothing changed\napp: append, its inputs changed\n"},
		{"a tail that can't be appended exactly", func(w *world) { w.built(); w.change("app"); w.Inexact["app"] = "it is odd" },
			"base: reuse, nothing changed\nml: reuse, nothing changed\napp: build, src changed; the engine makes its last files: it is odd\n"},
		{"an emulated platform matters where an engine runs", func(w *world) { w.Emulated["linux/arm64"] = true },
			"base: build, never built emulated\nml: build, never built needs base emulated\napp: append, never built needs ml\n"},
		{"a parent changed, and its child may be rebased", func(w *world) { w.built(); w.rebases(PolicyRebaseOrRebuild); w.change("base") },
			"base: append, conf changed\nml: rebase, parent base is rebuilt; " +
				"its own layers go on the new parent, or it is rebuilt where both changed the same needs base unless unchanged\n" +
				"app: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"and has to be", func(w *world) { w.built(); w.rebases(PolicyRebase); w.change("base") },
			"base: append, conf changed\nml: rebase, parent base is rebuilt; its own layers go on the new parent needs base unless unchanged\n" +
				"app: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"it may be rebased, but is asked for again", func(w *world) { w.built(); w.rebases(PolicyRebase); w.change("base"); w.Rebuild["ml"] = true },
			"base: append, conf changed\nml: build, asked to build it again needs base\napp: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"it may be rebased, but nothing is known of its last trunk", func(w *world) {
			w.built()
			w.rebases(PolicyRebase)
			w.change("base")
			w.Trunks["ml"] = Last{Known: true}
		}, "base: append, conf changed\nml: build, parent base is rebuilt needs base unless unchanged\napp: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"it may be rebased, but its last trunk was made of something else", func(w *world) {
			w.built()
			w.rebases(PolicyRebase)
			w.change("base")
			w.Trunks["ml"] = w.Last["app"]
		}, "base: append, conf changed\nml: build, parent base is rebuilt needs base unless unchanged\napp: append, parent ml is rebuilt needs ml unless unchanged\n"},
		{"a refresh that is due", func(w *world) { w.built(); w.Due["base"] = "2026-W48" },
			"base: reuse, nothing changed; its refresh for slot 2026-W48 is due\nml: reuse, nothing changed\napp: reuse, nothing changed\n"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			tc.set(w)
			p := Make(w.Input)
			if diff := cmp.Diff(tc.want, lines(p)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(p, Make(w.Input)); diff != "" {
				t.Errorf("the same input gave another plan:\n%s", diff)
			}
			work := strings.Count(tc.want, ": build,") + strings.Count(tc.want, ": rebase,") + strings.Count(tc.want, ": append,")
			if p.Work() != work {
				t.Errorf("%d steps of work, want %d", p.Work(), work)
			}
		})
	}
}

func TestReasonsAreFew(t *testing.T) {
	var changes []key.Change
	for i := range 12 {
		changes = append(changes, key.Change{Kind: key.Changed, Label: "file", What: fmt.Sprintf("f%02d", i)})
	}
	got := words(changes)
	if want := "f00 changed|f01 changed|f02 changed|f03 changed|8 more changes"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got, "|"), want)
	}
	if got := words(changes[:5]); len(got) != 5 || got[4] != "f04 changed" {
		t.Errorf("five changes are told as %q", got)
	}
}

func TestStepsCarryKeysAndEstimates(t *testing.T) {
	w := newWorld(t)
	w.Estimate = func(layer, _, platform string, a Action) *Estimate {
		return &Estimate{Seconds: float64(len(layer)), Basis: platform + " " + string(a)}
	}
	p := Make(w.Input)
	for i, id := range order {
		s, ok := p.Step(id)
		if !ok || s.Key != w.Keys[id].Unit.ID() || s.Estimate == nil || s.Estimate.Basis != "linux/arm64 "+string(s.Action) {
			t.Errorf("step %d is %+v", i, s)
		}
		if hasTrunk := id == "base"; (s.TrunkKey != "") != hasTrunk {
			t.Errorf("%s has the trunk key %q", id, s.TrunkKey)
		}
	}
	if _, ok := p.Step("other"); ok {
		t.Error("there is a step for a unit that is not there")
	}
}
