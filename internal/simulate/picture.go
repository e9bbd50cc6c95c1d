package simulate

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/plan"
)

// Measures of the picture in pixels.
const (
	pictureMargin = 24
	gridWidth     = 880
	rowHeight     = 20
	rowGap        = 4
	groupGap      = 12 // between the layers
	chartHeight   = 190
	rateWidth     = 190 // right of the grid
	letterWidth   = 7.3 // of the font at 12, about
	maxColumns    = 440 // a column is at least two pixels wide
)

// colors are those of the picture by class, on light and on dark ground. Those
// of lines stroke, the others fill.
var colors = []struct{ class, light, dark string }{
	{".ground", "#ffffff", "#0f172a"}, {"text", "#111827", "#e5e7eb"}, {".soft", "#6b7280", "#9ca3af"},
	{".reuse", "#dbe4f0", "#26354d"}, {".append", "#0d9488", "#2dd4bf"}, {".rebase", "#7c3aed", "#a78bfa"},
	{".build", "#ea580c", "#fb923c"}, {".failed", "#374151", "#e5e7eb"},
	{".grid", "#d1d5db", "#374151"}, {".l-strata", "#0d9488", "#2dd4bf"}, {".l-rebuild", "#6b7280", "#9ca3af"},
	{".l-warm", "#2563eb", "#60a5fa"}, {".l-cold", "#dc2626", "#f87171"},
}

// pictureStyle is light, and dark where the reader's system is. The picture has
// a ground of its own, so that it can be read on any page.
var pictureStyle = func() string {
	var light, dark strings.Builder
	for _, c := range colors {
		what := "fill"
		if c.class == ".grid" || strings.HasPrefix(c.class, ".l-") {
			what = "stroke"
		}
		fmt.Fprintf(&light, "%s{%s:%s}", c.class, what, c.light)
		fmt.Fprintf(&dark, "%s{%s:%s}", c.class, what, c.dark)
	}
	return "<style>\n" + light.String() + "\ntext{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}" +
		".title{font-size:17px;font-weight:600}.end{text-anchor:end}.curve{fill:none;stroke-width:2.2;stroke-linejoin:round}\n" +
		"@media(prefers-color-scheme:dark){" + dark.String() + "}\n</style>\n"
}()

// drawn are the actions in the order in which they stand on each other in a
// column of several runs, the dearest at the bottom, and what they are called.
var drawn = []struct {
	action plan.Action
	words  string
}{
	{plan.Reuse, "reused"}, {plan.Append, "appended"}, {plan.Rebase, "rebased"}, {plan.Build, "built"}, {failed, "can't be planned"},
}

// failed stands for a unit in a run that could not be planned.
const failed plan.Action = "failed"

// picture is a drawing on its way.
type picture struct {
	strings.Builder
	r      *Result
	rows   []pictureRow
	left   float64 // of the grid
	column func(run int) float64
	perCol int // runs in one column
}

// pictureRow is one unit across all runs.
type pictureRow struct {
	unit, layer string
	actions     []plan.Action // by run; "" where the unit was not there
	y           float64
}

// SVG draws the replay: runs across, units down, coloured by step, and below
// what each way of building has cost so far. The drawing needs nothing but
// itself, and the same result gives the same bytes.
func (r *Result) SVG() []byte {
	p := &picture{r: r, rows: r.pictureRows()}
	widest := 0
	for _, row := range p.rows {
		widest = max(widest, len(row.unit))
	}
	p.left = pictureMargin + math.Max(90, float64(widest)*letterWidth*0.9+12)
	n := len(r.Rows)
	p.perCol = (n + maxColumns - 1) / maxColumns
	columns := (n + p.perCol - 1) / p.perCol
	p.column = func(run int) float64 { return p.left + gridWidth*float64(run/p.perCol)/float64(max(columns, 1)) }
	p.head()
	bottom := p.grid(columns)
	bottom = p.chart(bottom + 60)
	width := p.left + gridWidth + rateWidth + pictureMargin
	body := p.String()
	return []byte(fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`+"\n",
		width, bottom+pictureMargin, width, bottom+pictureMargin, markup(r.Headline())) +
		pictureStyle + `<rect class="ground" width="100%" height="100%"/>` + "\n" + body + "</svg>\n")
}

// pictureRows gives the units in the order of the newest graph, and then those
// that are gone.
func (r *Result) pictureRows() []pictureRow {
	var rows []pictureRow
	at := map[string]int{}
	add := func(unit, layer string) int {
		i, ok := at[unit]
		if !ok {
			i = len(rows)
			at[unit] = i
			rows = append(rows, pictureRow{unit: unit, layer: layer, actions: make([]plan.Action, len(r.Rows))})
		}
		return i
	}
	for _, u := range r.last.Graph().Units {
		add(u.ID, u.Layer)
	}
	for n, run := range r.Rows {
		for _, s := range run.Steps {
			rows[add(s.Unit, s.Layer)].actions[n] = s.Action
		}
	}
	for n, run := range r.Rows {
		if run.Error != "" {
			for i := range rows {
				rows[i].actions[n] = failed
			}
		}
	}
	rank := map[string]int{}
	for _, row := range rows {
		if _, ok := rank[row.layer]; !ok {
			rank[row.layer] = len(rank)
		}
	}
	slices.SortStableFunc(rows, func(a, b pictureRow) int { return rank[a.layer] - rank[b.layer] })
	return rows
}

func (p *picture) text(x, y float64, class, s string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" class="%s">%s</text>`+"\n", x, y, class, markup(s))
}

func (p *picture) rect(x, y, w, h float64, class, title string) {
	fmt.Fprintf(p, `<rect x="%.2f" y="%.1f" width="%.2f" height="%.1f" class="%s"`, x, y, w, h, class)
	if title == "" {
		p.WriteString("/>\n")
		return
	}
	fmt.Fprintf(p, `><title>%s</title></rect>`+"\n", markup(title))
}

// head writes the title and the legend.
func (p *picture) head() {
	r := p.r
	p.text(pictureMargin, 36, "title", r.Headline())
	p.text(pictureMargin, 56, "soft", fmt.Sprintf("%s to %s. Each column is %s, each row a unit; what is not a reuse is work.",
		r.First.Format("2 January 2006"), r.Last.Format("2 January 2006"), p.columnWords()))
	x := float64(pictureMargin)
	for _, d := range drawn {
		if !p.has(d.action) {
			continue
		}
		p.rect(x, 68, 14, 14, string(d.action), "")
		p.text(x+20, 79, "", d.words)
		x += 20 + float64(len(d.words))*letterWidth + 22
	}
	if p.perCol == 1 && slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Scheduled }) {
		p.triangle(x+5, 72)
		p.text(x+16, 79, "", "a scheduled refresh")
		for i, row := range r.Rows {
			if row.Scheduled {
				p.triangle(p.column(i)+(p.column(i+1)-p.column(i))/2, 86)
			}
		}
	}
	p.text(p.left+gridWidth+12, 79, "soft", "reused by commits")
}

// triangle marks a place below its tip.
func (p *picture) triangle(x, y float64) {
	fmt.Fprintf(p, `<path class="soft" d="M%.1f %.1fh8l-4 6z"/>`+"\n", x-4, y)
}

func (p *picture) columnWords() string {
	if p.perCol == 1 {
		return "a run (a commit, or a scheduled refresh)"
	}
	return fmt.Sprintf("%d runs (commits and scheduled refreshes)", p.perCol)
}

func (p *picture) has(a plan.Action) bool {
	return a == plan.Reuse || slices.ContainsFunc(p.rows, func(row pictureRow) bool { return slices.Contains(row.actions, a) })
}

// grid draws the units' rows and the dates below, and gives its lower end.
func (p *picture) grid(columns int) float64 {
	y, layer := 94.0, ""
	for i := range p.rows {
		row := &p.rows[i]
		if row.layer != layer && layer != "" {
			y += groupGap
		}
		layer, row.y = row.layer, y
		p.text(p.left-8, y+14, "end", row.unit)
		p.row(row, columns)
		p.text(p.left+gridWidth+12, y+14, "", fmt.Sprintf("%.1f %%", 100*p.reuse(row)))
		y += rowHeight + rowGap
	}
	p.dates(y)
	return y
}

// reuse is the share of reuse among the commits' runs, as in the table.
func (p *picture) reuse(row *pictureRow) float64 {
	n, reused := 0, 0
	for i, a := range row.actions {
		run := p.r.Rows[i]
		if a == "" || a == plan.Skip || run.Error != "" || run.Scheduled || run.Kind == KindClean {
			continue
		}
		if a == plan.Reuse {
			reused++
		}
		n++
	}
	return float64(reused) / float64(max(n, 1))
}

// row draws one unit. Neighbouring columns that look alike are one box.
func (p *picture) row(row *pictureRow, columns int) {
	width := gridWidth / float64(max(columns, 1))
	gap := 0.0
	if width > 6 {
		gap = 1
	}
	for c := 0; c < columns; {
		here := p.parts(row, c)
		n := 1
		for gap == 0 && c+n < columns && slices.Equal(here, p.parts(row, c+n)) {
			n++
		}
		x, top := p.left+float64(c)*width, row.y
		for i, share := range here {
			if share == 0 {
				continue
			}
			h := rowHeight * share
			title := ""
			if drawn[i].action != plan.Reuse && p.perCol == 1 && n == 1 {
				title = p.title(row, c)
			}
			p.rect(x, top, width*float64(n)-gap, h, string(drawn[i].action), title)
			top += h
		}
		c += n
	}
}

// parts gives the share of each action in a column of a row.
func (p *picture) parts(row *pictureRow, column int) []float64 {
	out := make([]float64, len(drawn))
	n := 0
	for run := column * p.perCol; run < min((column+1)*p.perCol, len(row.actions)); run++ {
		for i, d := range drawn {
			if row.actions[run] == d.action {
				out[i]++
				n++
			}
		}
	}
	for i := range out {
		out[i] /= float64(max(n, 1))
	}
	return out
}

func (p *picture) title(row *pictureRow, run int) string {
	r := p.r.Rows[run]
	what := short(r.Commit) + " " + r.Subject
	if r.Scheduled {
		what = "scheduled refresh"
	}
	if r.Error != "" {
		return what + ": " + r.Error
	}
	return fmt.Sprintf("%s, %s: %s %s", r.Time.Format("2006-01-02 15:04"), what, row.unit, row.actions[run])
}

// dates writes the days below the grid, as many as there is room for.
func (p *picture) dates(y float64) {
	lastX, lastDay := -1e9, ""
	for i, run := range p.r.Rows {
		x := p.column(i)
		day := run.Time.Format("2 Jan")
		if day == lastDay || x-lastX < 70 || x > p.left+gridWidth-30 {
			continue
		}
		lastX, lastDay = x, day
		fmt.Fprintf(p, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", x, y, x, y+5)
		p.text(x, y+18, "soft", day)
	}
}

// chart draws what each way of building has cost so far, in hours or minutes,
// and gives its lower end.
func (p *picture) chart(top float64) float64 {
	curves := []struct {
		class, title string
		of           func(Costs) Cost
	}{
		{"l-rebuild", "rebuild everything", func(c Costs) Cost { return c.Rebuild }},
		{"l-cold", "docker, cold", func(c Costs) Cost { return c.Cold }},
		{"l-warm", "docker, warm", func(c Costs) Cost { return c.Warm }},
		{"l-strata", "Strata", func(c Costs) Cost { return c.Strata }},
	}
	most := 0.0
	for _, c := range curves {
		most = max(most, c.of(p.r.Totals).Seconds)
	}
	unit, per := "minutes", 60.0
	if most > 3*3600 {
		unit, per = "hours", 3600
	}
	p.text(pictureMargin, top, "title", "Time spent so far, all units, in "+unit)
	p.text(pictureMargin, top+18, "soft", "Times rest on: "+p.r.Basis()+". What each way of building is taken to do is written beside the table.")
	top += 34
	bottom := top + chartHeight
	height := func(seconds float64) float64 { return bottom - chartHeight*seconds/max(most, 1) }
	for _, tick := range ticks(most / per) {
		y := height(tick * per)
		fmt.Fprintf(p, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", p.left, y, p.left+gridWidth, y)
		p.text(p.left-8, y+4, "end soft", fmt.Sprintf("%g", tick))
	}
	var labels []float64
	for _, c := range curves {
		var path strings.Builder
		sum := 0.0
		fmt.Fprintf(&path, "M%.1f %.1f", p.left, bottom)
		for i, run := range p.r.Rows {
			sum += c.of(run.Costs).Seconds
			if (i+1)%p.perCol == 0 || i == len(p.r.Rows)-1 {
				fmt.Fprintf(&path, "L%.1f %.1f", p.left+gridWidth*float64(i+1)/float64(len(p.r.Rows)), height(sum))
			}
		}
		fmt.Fprintf(p, `<path class="curve %s" d="%s"/>`+"\n", c.class, path.String())
		labels = append(labels, height(sum))
	}
	spread(labels, 15)
	for i, c := range curves {
		y := labels[i]
		fmt.Fprintf(p, `<line class="curve %s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", c.class, p.left+gridWidth+4, y, p.left+gridWidth+12, y)
		p.text(p.left+gridWidth+16, y+4, "", c.title+": "+span(c.of(p.r.Totals).Seconds))
	}
	return bottom
}

// spread moves labels apart so that none is nearer than gap to the next; they
// come from the top down.
func spread(y []float64, gap float64) {
	order := make([]int, len(y))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if y[a] < y[b] {
			return -1
		}
		if y[a] > y[b] {
			return 1
		}
		return 0
	})
	// From the bottom up, so that the lowest stays on its line.
	for i := len(order) - 2; i >= 0; i-- {
		y[order[i]] = min(y[order[i]], y[order[i+1]]-gap)
	}
}

// ticks gives some round numbers from 0 to most.
func ticks(most float64) []float64 {
	if most <= 0 {
		return []float64{0}
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, d := range []float64{0.1, 0.2, 0.25, 0.5, 1} {
		if most/(step*d) <= 5 {
			step *= d
			break
		}
	}
	var out []float64
	for t := 0.0; t <= most*1.0001; t += step {
		out = append(out, math.Round(t*1000)/1000)
	}
	return out
}

// span is how a time is written for people.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= time.Minute:
		return fmt.Sprintf("%.1f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
