package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

var sideColors = map[string]string{
	"Strata": "#1a7f5a", "buildx bake": "#4a6fa5", "COPY --link": "#b0803a", "crane append": "#8a8a8a",
}

const (
	pictureWidth = 820
	chartLeft    = 250
	chartRight   = 740
	barHeight    = 15
	groupGap     = 16
	leastSeconds = 0.02 // left end of the scale
)

// picture draws the cold figures without delay on the parent of 1.1 GB, or the
// one nearest to it, on a logarithmic scale: the differences are of three
// orders of magnitude.
func (f findings) picture() string {
	parent := f.pictureParent()
	var bars strings.Builder
	y, most := 70, 1.0
	for _, r := range f.Results {
		if r.Parent == parent && r.Cold && r.RTT == 0 {
			_, longest := r.span()
			most = max(most, longest)
		}
	}
	top := math.Pow(10, math.Ceil(math.Log10(most)))
	x := func(s float64) float64 {
		return chartLeft + (chartRight-chartLeft)*math.Log(max(s, leastSeconds)/leastSeconds)/math.Log(top/leastSeconds)
	}
	for _, kind := range allCases {
		first := true
		for _, side := range sideNames {
			r, ok := find(f.Results, cell{Parent: parent, Case: kind, Cold: true, Side: side})
			if !ok {
				continue
			}
			if first {
				fmt.Fprintf(&bars, `<text x="12" y="%d" class="case">%s</text>`+"\n", y+12, html.EscapeString(caseNames[kind]))
				first = false
			}
			end := x(r.seconds())
			fmt.Fprintf(&bars, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s: %s s</title></rect>`+"\n",
				chartLeft, y, max(end-chartLeft, 1), barHeight-2, sideColors[side], html.EscapeString(side), seconds(r.seconds()))
			fmt.Fprintf(&bars, `<text x="%.1f" y="%d" class="value">%s s</text>`+"\n", end+5, y+11, seconds(r.seconds()))
			y += barHeight
		}
		if !first {
			y += groupGap
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>Seconds until a change is published from a machine that holds nothing; parent %s</title>
<style>text{font:13px system-ui,sans-serif;fill:#222}.value{font-size:11px}.axis{font-size:11px;fill:#666}.head{font-size:15px;font-weight:600}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="12" y="24" class="head">Seconds until a change is published: cold machine, parent of %s (logarithmic)</text>
`, pictureWidth, y+26, pictureWidth, y+26, size(parent), size(parent))
	f.legend(&b)
	for s := 0.1; s <= top*1.001; s *= 10 {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="62" x2="%.1f" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" class="axis" text-anchor="middle">%g s</text>`+"\n",
			x(s), x(s), y, x(s), y+16, s)
	}
	b.WriteString(bars.String())
	b.WriteString("</svg>\n")
	return b.String()
}

func (f findings) legend(b *strings.Builder) {
	x := 12
	for _, side := range sideNames {
		fmt.Fprintf(b, `<rect x="%d" y="38" width="12" height="12" fill="%s"/><text x="%d" y="49">%s</text>`+"\n",
			x, sideColors[side], x+17, html.EscapeString(side))
		x += 150
	}
}

func (f findings) pictureParent() int64 {
	var best int64
	for _, r := range f.Results {
		if math.Abs(float64(r.Parent)-1.1e9) < math.Abs(float64(best)-1.1e9) {
			best = r.Parent
		}
	}
	return best
}
