package simulate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/plan"
)

// MatrixRow is one kind of change: what it makes, how long that takes, and how
// often it comes.
type MatrixRow struct {
	Change    string   `json:"change"`
	Layers    []string `json:"layers"`  // that are not reused
	Seconds   float64  `json:"seconds"` // of a run, median
	Rebuild   float64  `json:"rebuildSeconds"`
	Frequency string   `json:"frequency"`
	Runs      int      `json:"runs"`
	Basis     string   `json:"basis"` // of the times of what is made
}

// order of the kinds in a matrix, the ones that reach least first.
var order = []string{KindNothing, KindEarlier, KindCode, KindDependencies, KindSystem, KindRefresh, KindClean}

// Matrix gives the build time matrix of the history: a row for each kind of
// change and set of layers that it made.
func (r *Result) Matrix() []MatrixRow {
	at := map[string]int{}
	var rows []MatrixRow
	var times, rebuilds [][]float64
	for _, row := range r.Rows {
		if row.Error != "" {
			continue
		}
		layers, made := row.made()
		if row.Scheduled && len(layers) == 0 {
			continue // a slot that turned while its layer was new anyway
		}
		k := row.Kind + " " + strings.Join(layers, "+")
		i, ok := at[k]
		if !ok {
			i = len(rows)
			at[k] = i
			rows = append(rows, MatrixRow{Change: row.Kind, Layers: layers, Basis: r.basisOf(made)})
			times, rebuilds = append(times, nil), append(rebuilds, nil)
		}
		rows[i].Runs++
		times[i], rebuilds[i] = append(times[i], row.Costs.Strata.Seconds), append(rebuilds[i], row.Costs.Rebuild.Seconds)
	}
	for i := range rows {
		rows[i].Seconds, rows[i].Rebuild = median(times[i]), median(rebuilds[i])
		rows[i].Frequency = frequency(rows[i].Runs, r.Days())
		if rows[i].Change == KindClean {
			rows[i].Frequency = "at the start"
		}
	}
	slices.SortStableFunc(rows, func(a, b MatrixRow) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Change), slices.Index(order, b.Change)), cmp.Compare(b.Runs, a.Runs))
	})
	return rows
}

// made gives the layers and units that a run does not reuse.
func (row Row) made() (layers []string, units map[string]bool) {
	units = map[string]bool{}
	for _, s := range row.Steps {
		if s.Action == plan.Reuse || s.Action == plan.Skip {
			continue
		}
		if s.Action == plan.Build {
			units[s.Unit] = true
		}
		if !slices.Contains(layers, s.Layer) {
			layers = append(layers, s.Layer)
		}
	}
	return layers, units
}

// basisOf says what the times of builds of some units rest on. What is appended
// or only looked at has a measured time of its own.
func (r *Result) basisOf(units map[string]bool) string {
	var all []string
	for _, b := range r.Bases {
		if units[b.Unit] {
			all = append(all, b.TimeBasis)
		}
	}
	if len(all) == 0 {
		return "measured"
	}
	return basis(all)
}

// frequency names how often something comes that came n times in some days.
func frequency(n int, days float64) string {
	perDay := float64(n) / days
	switch {
	case perDay >= 1.5:
		return fmt.Sprintf("%.0f a day", perDay)
	case perDay >= 0.4:
		return "daily"
	case perDay*7 >= 1.5:
		return fmt.Sprintf("%.0f a week", perDay*7)
	case perDay*7 >= 0.6:
		return "weekly"
	case perDay*30 >= 1.5:
		return fmt.Sprintf("%.0f a month", perDay*30)
	case perDay*30 >= 0.6:
		return "monthly"
	case perDay*91 >= 0.6:
		return "quarterly"
	}
	return "rare"
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	if n%2 == 1 {
		return all[n/2]
	}
	return (all[n/2-1] + all[n/2]) / 2
}
