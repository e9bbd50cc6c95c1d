package view

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Node is a box of a drawn graph.
type Node struct {
	ID    string
	Label string // first line; the ID where empty
	Sub   string // second line, small; may be empty
	Class string // "reuse", "append", "rebase", "build", "external" choose a colour; others are grey
}

// Measures of the drawing in pixels. The widths of letters are those of the
// usual monospaced fonts: 0.6 of the size.
const (
	labelSize  = 13
	subSize    = 11
	letter     = 0.602
	boxPad     = 14
	boxHeight  = 34
	subHeight  = 16
	rankGap    = 64
	boxGap     = 16
	margin     = 16
	maxLetters = 44 // a longer text is cut
)

// classColors holds fill and stroke by class. Boxes are opaque and light with
// dark text, edges a middle grey: both can be read on white and on black.
var classColors = map[string][2]string{
	"reuse":    {"#dbeafe", "#3b82f6"},
	"append":   {"#dcfce7", "#16a34a"},
	"rebase":   {"#f3e8ff", "#9333ea"},
	"build":    {"#ffedd5", "#ea580c"},
	"external": {"#ffffff", "#6b7280"},
	"":         {"#e5e7eb", "#6b7280"},
}

// GraphSVG draws a directed graph from left to right: a node stands to the
// right of all that it depends on. An edge is {from, to}, by ID; one that names
// a node that isn't there is left out. The drawing needs nothing but itself,
// and the same graph always gives the same bytes.
func GraphSVG(nodes []Node, edges [][2]string) []byte {
	l := newLayout(nodes, edges)
	l.rank()
	l.split()
	l.sort()
	l.place()
	return l.draw()
}

// vertex is a box, or a bend of an edge that crosses a rank (node < 0).
type vertex struct {
	node     int
	rank     int
	x, y     float64 // left end, middle
	w, h     float64
	ins      []int // vertices before and after it
	outs     []int
	position float64 // for sorting
}

type layout struct {
	nodes    []Node
	vertices []vertex
	edges    [][2]int   // by node, without loops and doubles
	paths    [][]int    // of each edge: its vertices from left to right
	ranks    [][]int    // vertices by rank, from top to bottom
	size     [2]float64 // of the drawing
}

func newLayout(nodes []Node, edges [][2]string) *layout {
	l := &layout{}
	index := map[string]int{}
	for _, n := range nodes {
		if _, double := index[n.ID]; double {
			continue
		}
		index[n.ID] = len(l.nodes)
		if n.Label == "" {
			n.Label = n.ID
		}
		n.Label, n.Sub = cut(field(n.Label), maxLetters), cut(field(n.Sub), maxLetters+6)
		l.nodes = append(l.nodes, n)
		v := vertex{node: len(l.nodes) - 1, h: boxHeight}
		v.w = max(float64(textWidth(n.Label))*labelSize, float64(textWidth(n.Sub))*subSize)*letter + 2*boxPad
		if n.Sub != "" {
			v.h += subHeight
		}
		l.vertices = append(l.vertices, v)
	}
	for _, e := range edges {
		a, okA := index[e[0]]
		b, okB := index[e[1]]
		if okA && okB && a != b && !slices.Contains(l.edges, [2]int{a, b}) {
			l.edges = append(l.edges, [2]int{a, b})
		}
	}
	return l
}

// rank puts each node one rank behind the last that it depends on. Within a
// cycle, which a caller should not have, edges that close it don't count.
func (l *layout) rank() {
	const unseen, open, ready = 0, 1, 2
	state := make([]int, len(l.nodes))
	before := make([][]int, len(l.nodes))
	for _, e := range l.edges {
		before[e[1]] = append(before[e[1]], e[0])
	}
	var visit func(n int)
	visit = func(n int) {
		state[n] = open
		for _, b := range before[n] {
			if state[b] == unseen {
				visit(b)
			}
			if state[b] == ready {
				l.vertices[n].rank = max(l.vertices[n].rank, l.vertices[b].rank+1)
			}
		}
		state[n] = ready
	}
	for n := range l.nodes {
		if state[n] == unseen {
			visit(n)
		}
	}
}

// split gives every edge a vertex in each rank that it crosses, and fills the
// ranks.
func (l *layout) split() {
	for i, e := range l.edges {
		a, b := e[0], e[1]
		if l.vertices[a].rank > l.vertices[b].rank { // closes a cycle
			a, b = b, a
		}
		path := []int{a}
		for r := l.vertices[a].rank + 1; r < l.vertices[b].rank; r++ {
			l.vertices = append(l.vertices, vertex{node: -1, rank: r, h: boxGap / 2})
			path = append(path, len(l.vertices)-1)
		}
		path = append(path, b)
		for j := 1; j < len(path); j++ {
			l.vertices[path[j-1]].outs = append(l.vertices[path[j-1]].outs, path[j])
			l.vertices[path[j]].ins = append(l.vertices[path[j]].ins, path[j-1])
		}
		l.edges[i] = [2]int{a, b}
		l.paths = append(l.paths, path)
	}
	for i, v := range l.vertices {
		for len(l.ranks) <= v.rank {
			l.ranks = append(l.ranks, nil)
		}
		l.ranks[v.rank] = append(l.ranks[v.rank], i)
	}
}

// sweeps is how often ranks are sorted and placed from either side; drawings
// of this size settle in fewer.
const sweeps = 12

// sort orders each rank by the middle of its neighbours' places, from the left
// and from the right by turns, so that few edges cross, and keeps the best
// order.
func (l *layout) sort() {
	best, fewest := l.copyRanks(), l.crossings()
	for s := range sweeps {
		for i := range l.ranks {
			r := l.ranks[i]
			if s%2 == 1 {
				r = l.ranks[len(l.ranks)-1-i]
			}
			l.sortRank(r, s%2 == 1)
		}
		if c := l.crossings(); c < fewest {
			best, fewest = l.copyRanks(), c
		}
	}
	l.ranks = best
}

func (l *layout) sortRank(r []int, byOuts bool) {
	at := l.places()
	for i, v := range r {
		near := l.vertices[v].ins
		if byOuts {
			near = l.vertices[v].outs
		}
		l.vertices[v].position = float64(i)
		if len(near) > 0 {
			sum := 0.0
			for _, n := range near {
				sum += float64(at[n])
			}
			l.vertices[v].position = sum / float64(len(near))
		}
	}
	slices.SortStableFunc(r, func(a, b int) int {
		return cmp.Compare(l.vertices[a].position, l.vertices[b].position)
	})
}

// places gives each vertex's place in its rank.
func (l *layout) places() []int {
	at := make([]int, len(l.vertices))
	for _, r := range l.ranks {
		for i, v := range r {
			at[v] = i
		}
	}
	return at
}

func (l *layout) copyRanks() [][]int {
	out := make([][]int, len(l.ranks))
	for i, r := range l.ranks {
		out[i] = slices.Clone(r)
	}
	return out
}

// crossings counts the pairs of edges between neighbouring ranks that cross.
func (l *layout) crossings() int {
	at := l.places()
	n := 0
	for _, r := range l.ranks {
		var seen [][2]int
		for i, v := range r {
			for _, w := range l.vertices[v].outs {
				for _, s := range seen {
					if s[0] < i && s[1] > at[w] {
						n++
					}
				}
				seen = append(seen, [2]int{i, at[w]})
			}
		}
	}
	return n
}

// place gives coordinates: a column a rank, and in it each vertex as near as
// it can be to the middle of its neighbours.
func (l *layout) place() {
	x := float64(margin)
	for _, r := range l.ranks {
		w, y := 0.0, float64(margin)
		for _, i := range r {
			v := &l.vertices[i]
			v.x, v.y = x, y+v.h/2
			y += v.h + boxGap
			w = max(w, v.w)
		}
		for _, i := range r {
			l.vertices[i].w = w // boxes of a rank are of one width
		}
		x += w + rankGap
	}
	for s := range sweeps {
		for i := range l.ranks {
			if s%2 == 0 {
				l.pull(l.ranks[i], false)
			} else {
				l.pull(l.ranks[len(l.ranks)-1-i], true)
			}
		}
	}
	l.crop(x - rankGap + margin)
}

// pull moves the vertices of a rank towards their neighbours on one side,
// without changing their order or letting them touch.
func (l *layout) pull(r []int, byOuts bool) {
	want := make([]float64, len(r))
	for i, v := range r {
		near := l.vertices[v].ins
		if byOuts {
			near = l.vertices[v].outs
		}
		want[i] = l.vertices[v].y
		if len(near) > 0 {
			want[i] = 0
			for _, n := range near {
				want[i] += l.vertices[n].y / float64(len(near))
			}
		}
	}
	shift := 0.0
	for i, v := range r {
		y := want[i]
		if i > 0 {
			p := l.vertices[r[i-1]]
			y = max(y, p.y+(p.h+l.vertices[v].h)/2+boxGap)
		}
		l.vertices[v].y = y
		shift += (want[i] - y) / float64(len(r))
	}
	for _, v := range r {
		l.vertices[v].y += shift
	}
}

// crop moves all to the top margin and sets the size of the drawing.
func (l *layout) crop(width float64) {
	top, bottom := math.Inf(1), math.Inf(-1)
	for _, v := range l.vertices {
		top, bottom = min(top, v.y-v.h/2), max(bottom, v.y+v.h/2)
	}
	if len(l.vertices) == 0 {
		l.size = [2]float64{2 * margin, 2 * margin}
		return
	}
	for i := range l.vertices {
		l.vertices[i].y += margin - top
	}
	l.size = [2]float64{width, bottom - top + 2*margin}
}

func (l *layout) draw() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" font-family="ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace">`+"\n",
		l.size[0], l.size[1], l.size[0], l.size[1])
	b.WriteString(`<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#8b95a1"/></marker></defs>` + "\n")
	b.WriteString(`<g fill="none" stroke="#8b95a1" stroke-width="1.5">` + "\n")
	for _, p := range l.paths {
		fmt.Fprintf(&b, `<path d="%s" marker-end="url(#arrow)"/>`+"\n", l.curve(p))
	}
	b.WriteString("</g>\n")
	for _, v := range l.vertices {
		if v.node >= 0 {
			drawBox(&b, v, l.nodes[v.node])
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// curve gives the path of an edge: level through boxes' ends and through the
// ranks that it crosses, bent between ranks.
func (l *layout) curve(path []int) string {
	a := l.vertices[path[0]]
	x, y := a.x+a.w, a.y
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", x, y)
	for _, i := range path[1:] {
		v := l.vertices[i]
		mid := (x + v.x) / 2
		fmt.Fprintf(&b, "C%.1f %.1f %.1f %.1f %.1f %.1f", mid, y, mid, v.y, v.x, v.y)
		x, y = v.x, v.y
		if v.node < 0 {
			x += v.w
			fmt.Fprintf(&b, "H%.1f", x)
		}
	}
	return b.String()
}

func drawBox(b *strings.Builder, v vertex, n Node) {
	color, known := classColors[n.Class]
	if !known {
		color = classColors[""]
	}
	dash := ""
	if n.Class == "external" {
		dash = ` stroke-dasharray="4 3"`
	}
	fmt.Fprintf(b, `<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="6" fill="%s" stroke="%s" stroke-width="1.5"%s/>`,
		html.EscapeString(field(n.ID)), v.x, v.y-v.h/2, v.w, v.h, color[0], color[1], dash)
	y := v.y + labelSize*0.36
	if n.Sub != "" {
		y -= subHeight / 2
	}
	text := func(y float64, size int, fill, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="%d" fill="%s">%s</text>`, v.x+boxPad, y, size, fill, html.EscapeString(s))
	}
	text(y, labelSize, "#111827", n.Label)
	if n.Sub != "" {
		text(y+subHeight+1, subSize, "#4b5563", n.Sub)
	}
	b.WriteString("</g>\n")
}
