package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/simulate"
	"github.com/strata-build/strata/internal/view"
)

// shown writes a simulation; the first error stays.
type shown struct {
	app *app
	w   io.Writer
	err error
}

func (s *shown) line(format string, args ...any) {
	if s.err == nil {
		_, s.err = view.Fprintf(s.w, format+"\n", args...)
	}
}

func (s *shown) table(t view.Table) {
	s.line("")
	if s.err == nil {
		s.err = t.Write(s.w, s.app.palette(s.w), s.app.width(s.w))
	}
}

func seconds(n float64) string { return view.Duration(time.Duration(n * float64(time.Second))) }

// layers is the table of what happened to each layer.
func (s *shown) layers(r *simulate.Result) {
	t := view.Table{Columns: []view.Column{
		{Title: "LAYER"}, {Title: "UNITS", Right: true}, {Title: "REUSED", Right: true}, {Title: "APPENDED", Right: true}, {Title: "REBASED", Right: true},
		{Title: "BUILT", Right: true}, {Title: "REUSE", Right: true}, {Title: "GOAL"}, {Title: "REFRESHED", Right: true}, {Title: "A BUILD"}, {Title: "ADDS"},
	}}
	for _, l := range r.Layers {
		goal := view.Cell{Text: l.GoalText()}
		switch {
		case goal.Text == "-":
		case l.Met():
			goal.Style = view.Green
		default:
			goal.Style = view.Yellow
		}
		t.Rows = append(t.Rows, []view.Cell{
			{Text: l.Layer}, number(l.Units), number(l.Reused), number(l.Appended), number(l.Rebased), number(l.Built),
			{Text: l.ReuseText()}, goal, number(l.Refreshed),
			{Text: seconds(l.Seconds) + " (" + l.TimeBasis + ")"}, {Text: view.Bytes(l.Bytes) + " (" + l.SizeBasis + ")"},
		})
	}
	s.table(t)
}

func number(n int) view.Cell { return view.Cell{Text: fmt.Sprint(n)} }

// models is the table of the ways of building.
func (s *shown) models(r *simulate.Result) {
	t := view.Table{Columns: []view.Column{
		{Title: "WAY OF BUILDING"}, {Title: "UNITS BUILT", Right: true}, {Title: "TIME", Right: true}, {Title: "PUSHED", Right: true},
		{Title: "PULLED", Right: true}, {Title: "STRATA SAVES (TIME, PUSHED + PULLED)", Right: true},
	}}
	own := r.Cost("strata")
	for _, m := range r.Models {
		c := r.Cost(m.Name)
		saves := "-"
		if m.Name != "strata" {
			saves = saved(c, own)
		}
		t.Row(m.Title, fmt.Sprint(c.Built), seconds(c.Seconds), view.Bytes(c.Pushed), view.Bytes(c.Pulled), saves)
	}
	s.table(t)
	s.line("")
	s.line("Builds avoided: %d of %d. Times rest on: %s; sizes on: %s.", r.Cost("rebuildEverything").Built-own.Built,
		r.Cost("rebuildEverything").Built, r.Basis(), r.SizeBasis())
}

// saved says what one cost is less than another.
func saved(than, c simulate.Cost) string {
	return fmt.Sprintf("%s, %s", signed(than.Seconds-c.Seconds, seconds), signed(float64(than.Moved()-c.Moved()), func(n float64) string { return view.Bytes(int64(n)) }))
}

func signed(n float64, text func(float64) string) string {
	if math.Abs(n) < 0.05 {
		n = 0 // a look-up more or less
	}
	if n < 0 {
		return "-" + text(-n)
	}
	return text(n)
}

// rows lists every run.
func (s *shown) rows(r *simulate.Result) {
	t := view.Table{Columns: []view.Column{{Title: "COMMIT"}, {Title: "TIME (UTC)"}, {Title: "KIND"}, {Title: "STEPS"}, {Title: "COST", Right: true}, {Title: "SUBJECT", Shrink: true}}}
	for _, row := range r.Rows {
		commit, subject := row.Commit[:min(10, len(row.Commit))], row.Subject
		if row.Scheduled {
			commit, subject = "-", ""
		}
		steps, style := steps(row)
		if row.Error != "" {
			steps, style = row.Error, view.Red
		}
		cost := "-"
		if row.Error == "" {
			cost = seconds(row.Costs.Strata.Seconds)
		}
		t.Rows = append(t.Rows, []view.Cell{
			{Text: commit}, {Text: row.Time.Format("2006-01-02 15:04")}, {Text: row.Kind}, {Text: steps, Style: style}, {Text: cost}, {Text: subject},
		})
	}
	s.table(t)
}

// steps sums up what a run does.
func steps(row simulate.Row) (string, view.Style) {
	units := map[plan.Action][]string{}
	var order []plan.Action
	for _, st := range row.Steps {
		if st.Action == plan.Reuse || st.Action == plan.Skip {
			continue
		}
		if units[st.Action] == nil {
			order = append(order, st.Action)
		}
		if l := units[st.Action]; len(l) == 0 || l[len(l)-1] != st.Layer {
			units[st.Action] = append(l, st.Layer)
		}
	}
	if len(order) == 0 {
		return "reuse all", simulatedStyle[plan.Reuse]
	}
	var out []string
	style := simulatedStyle[order[0]]
	for _, act := range order {
		out = append(out, string(act)+" "+strings.Join(units[act], " "))
		if act == plan.Build {
			style = simulatedStyle[act]
		}
	}
	return strings.Join(out, ", "), style
}

// matrix is the table of changes, layers, time and frequency.
func (s *shown) matrix(rows []simulate.MatrixRow) {
	t := view.Table{Columns: []view.Column{
		{Title: "CHANGE"}, {Title: "LAYERS MADE"}, {Title: "TIME", Right: true}, {Title: "REBUILDING ALL", Right: true}, {Title: "FREQUENCY"}, {Title: "RUNS", Right: true}, {Title: "BASIS"},
	}}
	for _, m := range rows {
		layers := strings.Join(m.Layers, " + ")
		if layers == "" {
			layers = "-"
		}
		t.Row(m.Change, layers, seconds(m.Seconds), seconds(m.Rebuild), m.Frequency, fmt.Sprint(m.Runs), m.Basis)
	}
	s.table(t)
}

// difference sets a replay with other files beside the one without.
func (s *shown) difference(d *simulate.Difference) {
	t := view.Table{Columns: []view.Column{
		{Title: "WHAT IF"}, {Title: "UNITS BUILT", Right: true}, {Title: "TIME", Right: true}, {Title: "PUSHED", Right: true}, {Title: "PULLED", Right: true}, {Title: "CAN'T BE PLANNED", Right: true},
	}}
	for _, one := range []struct {
		title string
		r     *simulate.Result
	}{{"as it is, held as today", d.Base}, {"with " + strings.Join(d.Files, ", "), d.With}} {
		c := one.r.Totals.Strata
		t.Row(one.title, fmt.Sprint(c.Built), seconds(c.Seconds), view.Bytes(c.Pushed), view.Bytes(c.Pulled), fmt.Sprint(one.r.Commits-one.r.Planned()))
	}
	s.table(t)
	s.line("")
	if d.Saves.Seconds < 0 {
		s.line("It costs %s more.", saved(d.With.Totals.Strata, d.Base.Totals.Strata))
		return
	}
	s.line("It saves %s.", saved(d.Base.Totals.Strata, d.With.Totals.Strata))
}

func (s *shown) suggestions(all []simulate.Suggestion) {
	s.line("")
	if len(all) == 0 {
		s.line("No cut or instruction order was found that would have saved a second.")
		return
	}
	s.line("What would have saved most, the best first; each figure is what it saves on top of those before it:")
	for i, g := range all {
		s.line("")
		s.line("%d. %s", i+1, g.Title)
		s.line("   saves %s; with docker's cache on one warm machine %s", savedBy(g.Saves.Strata), savedBy(g.Saves.Warm))
		s.line("   %s", g.Why)
		if g.Check != "" {
			s.line("   Check: %s", g.Check)
		}
		for l := range strings.Lines(g.Diff) {
			style := view.Dim
			switch l[0] {
			case '+':
				style = view.Green
			case '-':
				style = view.Red
			}
			s.line("     %s", s.app.palette(s.w).Paint(style, strings.TrimRight(l, "\n")))
		}
	}
}

func savedBy(c simulate.Cost) string {
	return fmt.Sprintf("%s and %s", signed(c.Seconds, seconds), signed(float64(c.Moved()), func(n float64) string { return view.Bytes(int64(n)) }))
}

// notes says what there is to know about the history and the models.
func (s *shown) notes(r *simulate.Result, short bool) {
	s.line("")
	for _, n := range r.Notes {
		s.line("note: %s", n)
	}
	for i, k := range r.Skipped {
		if i == 5 {
			s.line("  %d more reasons; --json has all", len(r.Skipped)-i)
			break
		}
		s.line("  %d from %s on: %s", len(k.Commits), k.Commits[0][:min(10, len(k.Commits[0]))], k.Reason)
	}
	if short {
		return
	}
	for _, m := range r.Models {
		s.line("%s: %s", m.Title, m.About)
	}
}
