package simulate

import (
	"fmt"
	"slices"

	"github.com/strata-build/strata/internal/change"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/plan"
)

// LayerSum is what all runs did with the units of one layer.
type LayerSum struct {
	Layer    string `json:"layer"`
	Units    int    `json:"units"`
	Reused   int    `json:"reused"` // of the steps of commits
	Appended int    `json:"appended"`
	Rebased  int    `json:"rebased"`
	Built    int    `json:"built"`
	// Refreshed counts the units that scheduled runs made; Scheduled is how many
	// such runs there were.
	Refreshed int     `json:"refreshed"`
	Scheduled int     `json:"scheduled"`
	Reuse     float64 `json:"reuse"`          // of the steps of commits, 0 to 1; the clean build at the start does not count
	Goal      float64 `json:"goal,omitempty"` // 0: none
	Seconds   float64 `json:"seconds"`        // of building one unit, mean
	Bytes     int64   `json:"bytes"`          // that the layer adds to an image, mean
	TimeBasis string  `json:"timeBasis"`      // of BasisGiven, BasisRecords, BasisModel; several with a "+"
	SizeBasis string  `json:"sizeBasis"`
}

// Steps is how many steps of commits there were.
func (l LayerSum) Steps() int { return l.Reused + l.Appended + l.Rebased + l.Built }

// Met says whether the goal is met.
func (l LayerSum) Met() bool { return l.Reuse > l.Goal }

// ReuseText is the reuse for people, "-" where no run followed the first.
func (l LayerSum) ReuseText() string {
	if l.Steps() == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", l.Reuse*100)
}

// GoalText is the goal, and whether it is met: "> 95 %: met", or "-".
func (l LayerSum) GoalText() string {
	switch {
	case l.Goal == 0 || l.Steps() == 0:
		return "-"
	case l.Met():
		return fmt.Sprintf("> %.0f %%: met", l.Goal*100)
	}
	return fmt.Sprintf("> %.0f %%: missed", l.Goal*100)
}

// The goals of the plan that Strata takes the place of: what everything stands
// on is reused in more than 95 of 100 builds, what stands in between in more
// than 80. Layers that nothing stands on have none.
const (
	goalRoot, goalMiddle = 0.95, 0.80
)

// sum adds up the rows.
func (r *Result) sum(p *prices) {
	g := r.last.Graph()
	goals := goalsOf(g)
	at := map[string]int{}
	for _, l := range g.Project.Layers {
		at[l.Name] = len(r.Layers)
		r.Layers = append(r.Layers, LayerSum{Layer: l.Name, Goal: goals[l.Name]})
	}
	for _, u := range g.Units {
		r.Layers[at[u.Layer]].Units++
	}
	for _, row := range r.Rows {
		if row.Error != "" {
			continue
		}
		r.Runs++
		r.Totals.Add(row.Costs)
		seen := map[string]bool{}
		for _, s := range row.Steps {
			i, ok := at[s.Layer]
			if !ok {
				i = len(r.Layers) // a layer that is gone since
				at[s.Layer] = i
				r.Layers = append(r.Layers, LayerSum{Layer: s.Layer})
			}
			r.Layers[i].count(row, s, !seen[s.Layer])
			seen[s.Layer] = true
		}
	}
	r.Bases = p.listBases()
	for i := range r.Layers {
		r.Layers[i].finish(r.Bases)
	}
}

func (l *LayerSum) count(row Row, s Step, first bool) {
	if row.Scheduled {
		if s.Action != plan.Reuse && s.Action != plan.Skip {
			l.Refreshed++
		}
		if first {
			l.Scheduled++
		}
		return
	}
	if row.Kind == KindClean {
		return // that there was nothing before is no fault of the layer
	}
	switch s.Action {
	case plan.Reuse:
		l.Reused++
	case plan.Append:
		l.Appended++
	case plan.Build:
		l.Built++
	case plan.Skip:
	default:
		l.Rebased++
	}
}

func (l *LayerSum) finish(bases []UnitBasis) {
	if n := l.Steps(); n > 0 {
		l.Reuse = float64(l.Reused) / float64(n)
	}
	n := 0
	var times, sizes []string
	for _, b := range bases {
		if b.Layer != l.Layer {
			continue
		}
		n++
		l.Seconds += b.Seconds
		l.Bytes += b.Bytes
		times, sizes = append(times, b.TimeBasis), append(sizes, b.SizeBasis)
	}
	if n > 0 {
		l.Seconds /= float64(n)
		l.Bytes /= int64(n)
	}
	l.TimeBasis, l.SizeBasis = basis(times), basis(sizes)
}

// basis gives what several figures rest on: never one in place of several.
func basis(all []string) string {
	slices.Sort(all)
	out := ""
	for _, b := range slices.Compact(all) {
		if out != "" {
			out += "+"
		}
		out += b
	}
	return out
}

// Basis is what the times of the units rest on.
func (r *Result) Basis() string {
	var all []string
	for _, b := range r.Bases {
		all = append(all, b.TimeBasis)
	}
	return basis(all)
}

// SizeBasis is what the sizes of the units rest on.
func (r *Result) SizeBasis() string {
	var all []string
	for _, b := range r.Bases {
		all = append(all, b.SizeBasis)
	}
	return basis(all)
}

func goalsOf(g *graph.Graph) map[string]float64 {
	goals := map[string]float64{}
	places := change.Places(g)
	for _, u := range g.Units {
		switch p := places[u.ID]; {
		case p.Needed && p.Root:
			goals[u.Layer] = goalRoot
		case p.Needed:
			goals[u.Layer] = goalMiddle
		}
	}
	return goals
}
