package simulate

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/record"
)

// TestCosts holds the costs of every way of building against figures that were
// added up by hand. The sizes that are given are of RUNs that the model knows
// nothing of, and can't be shared without a rest.
func TestCosts(t *testing.T) {
	project := map[string]string{
		"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nlayers:\n  base: {dockerfile: base.Dockerfile}\n" +
			"  ml: {parent: base, dockerfile: ml.Dockerfile}\n  app: {parent: ml, dockerfile: app.Dockerfile}\n",
		"base.Dockerfile": "FROM debian\nRUN one\nRUN two\nRUN three\n",
		"ml.Dockerfile":   "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY list /\nRUN one\nRUN two\n",
		"app.Dockerfile":  "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src/ /srv/\n",
		"list":            "abc\n", // 4 bytes: 0 compressed
		"src/main":        strings.Repeat("a", 1000),
	}
	given := Estimates{
		Seconds: map[string]float64{"base": 30, "ml": 60, "app": 5},
		Bytes:   map[string]int64{"base": 1_000_000_001, "ml": 590_000_000, "app": 1_000_000},
	}
	recorded := Estimates{Bytes: given.Bytes}
	for layer, s := range given.Seconds {
		recorded.Records = append(recorded.Records, record.Record{Units: []record.Unit{
			{ID: layer + "/linux/amd64", Layer: layer, Platform: "linux/amd64", Action: "build", Seconds: s, Digest: "sha256:1"}}})
	}
	const (
		all    = 1_000_000_001 + 590_000_000 + 1_000_000
		base   = 45_000_000
		onBase = base + 1_000_000_001
		onML   = onBase + 590_000_000
		pull   = 59e6
		add    = 0.14 + 1000/145e6
	)
	steps := []struct {
		files                       map[string]string
		kind                        string
		strata, rebuild, warm, cold Cost
		// of pulling, which a recorded time has in it
		strataPull, rebuildPull, coldPull float64
	}{
		{project, KindClean,
			Cost{0.045 + 30 + 60 + add, all, base, 2}, Cost{0.045 + 95, all, base, 3}, Cost{0.24 + 95, all, 0, 3}, Cost{0.31 + 95, all, base, 3},
			base / pull, base / pull, base / pull},
		{map[string]string{"ml.Dockerfile": strings.Replace(project["ml.Dockerfile"], "two", "2", 1)}, KindDependencies, // half of ml
			Cost{0.045 + 60 + add, 591_000_000, onBase, 1}, Cost{0.045 + 95, all, base, 3}, Cost{0.24 + 30 + 5, 296_000_000, 0, 2}, Cost{0.31 + 30 + 5, 296_000_000, onBase + 295_000_000, 2},
			onBase / pull, base / pull, (onBase + 295_000_000) / pull},
		{map[string]string{"src/main": strings.Repeat("b", 1000)}, KindCode,
			Cost{0.045 + add, 1_000_000, 0, 0}, Cost{0.045 + 95, all, base, 3}, Cost{0.24 + 5, 1_000_000, 0, 1}, Cost{0.31 + 5, 1_000_000, onML, 1},
			0, base / pull, onML / pull},
		{map[string]string{"src/main": project["src/main"]}, KindEarlier,
			Cost{0.045, 0, 0, 0}, Cost{0.045 + 95, all, base, 3}, Cost{0.24, 0, 0, 0}, Cost{0.31, 0, 0, 0},
			0, base / pull, 0},
		{map[string]string{"README.md": "x"}, KindNothing,
			Cost{0.045, 0, 0, 0}, Cost{0.045 + 95, all, base, 3}, Cost{0.24, 0, 0, 0}, Cost{0.31, 0, 0, 0},
			0, base / pull, 0},
	}
	r := newRepo(t)
	for i, s := range steps {
		r.commit(time.Hour, fmt.Sprint(i), s.files)
	}
	r.write()
	for _, e := range []Estimates{given, recorded} {
		got := r.replay(Options{Estimates: e})
		for i, s := range steps {
			if len(e.Records) == 0 {
				s.strata.Seconds += s.strataPull
				s.rebuild.Seconds += s.rebuildPull
				s.cold.Seconds += s.coldPull
			}
			c := got.Rows[i].Costs
			for _, one := range []struct {
				name      string
				got, want Cost
			}{{"Strata", c.Strata, s.strata}, {"rebuild", c.Rebuild, s.rebuild}, {"warm", c.Warm, s.warm}, {"cold", c.Cold, s.cold}} {
				near := math.Abs(one.got.Seconds-one.want.Seconds) < 1e-3 // the COPY of 4 bytes has its time
				one.got.Seconds, one.want.Seconds = math.Round(one.got.Seconds*1e3)/1e3, math.Round(one.want.Seconds*1e3)/1e3
				if !near || one.got.Pushed != one.want.Pushed || one.got.Pulled != one.want.Pulled || one.got.Built != one.want.Built {
					t.Errorf("%d records, commit %d, %s:\n got %+v\nwant %+v", len(e.Records), i, one.name, one.got, one.want)
				}
			}
			if got.Rows[i].Kind != s.kind {
				t.Errorf("commit %d is of kind %q, want %q", i, got.Rows[i].Kind, s.kind)
			}
		}
		note := slices.ContainsFunc(got.Notes, func(n string) bool { return strings.HasPrefix(n, "The time that is given for app ") })
		if note != (len(e.Records) == 0) {
			t.Errorf("the notes are %q", got.Notes)
		}
	}
}

// TestShares holds that the shares of instructions add up.
func TestShares(t *testing.T) {
	for _, tt := range []struct {
		lines string
		bytes int64
		want  []int64
	}{
		{"RUN apt-get install a;RUN apt-get install b;RUN apt-get install c", 1_499_999_999, []int64{500_000_000, 499_999_999, 500_000_000}},
		{"RUN a;RUN b", 1_000_000_000, []int64{500_000_000, 500_000_000}},
		{"WORKDIR /a;COPY --from=x a b", 10, []int64{0, 10}},
		{"WORKDIR /a", 10, []int64{10}},
		{"RUN apt-get install a;RUN b", 10, []int64{10, 0}},
		{"RUN a;RUN make", 0, []int64{0, 0}},
	} {
		var vs []vertex
		for text := range strings.SplitSeq(tt.lines, ";") {
			vs = append(vs, vertex{text: text})
		}
		pr := price{UnitBasis: UnitBasis{Seconds: 7, Bytes: tt.bytes}}
		var got []int64
		seconds := 0.0
		for _, c := range pr.shares(vs) {
			got = append(got, c.Pushed)
			seconds += c.Seconds
		}
		if !slices.Equal(got, tt.want) || math.Abs(seconds-7) > 1e-9 {
			t.Errorf("%s: %d and %f s, want %d and 7 s", tt.lines, got, seconds, tt.want)
		}
	}
}

// TestUntracked names the repository that does not hold the project.
func TestUntracked(t *testing.T) {
	r := newRepo(t)
	r.commit(0, "one", map[string]string{"README.md": "x"})
	root := r.write()
	r.dir = root + "/demo"
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := r.read(githistory.Range{})
	_, err := Run(t.Context(), h, Options{Dir: r.dir, File: "strata.yaml", Fallback: []byte(chainProject["strata.yaml"]), Platform: "linux/amd64"})
	if want := fmt.Sprintf("the project is not tracked in the repository at %q", root); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestNoLaterRun holds that nothing is said of a goal that no run was there for.
func TestNoLaterRun(t *testing.T) {
	r := newRepo(t)
	r.commit(0, "one", chainProject)
	r.write()
	for _, l := range r.replay(Options{}).Layers {
		if l.GoalText() != "-" || l.ReuseText() != "-" {
			t.Errorf("%s: %s, %s", l.Layer, l.ReuseText(), l.GoalText())
		}
	}
}
