package view

import (
	"io"
	"strings"
)

// Cell is one field of a table.
type Cell struct {
	Text  string
	Style Style
}

// plain gives the cell's text as one line.
func (c Cell) plain() string { return field(c.Text) }

// Column says how a column is laid out.
type Column struct {
	Title  string
	Right  bool // aligned right, as numbers are
	Shrink bool // may be cut where the table is wider than the terminal
}

// Table is rows of cells under titles. A row may have fewer cells than there
// are columns.
type Table struct {
	Columns []Column
	Rows    [][]Cell
}

// minShrunk is the width below which a column isn't cut for the sake of
// others.
const minShrunk = 8

// Row adds a row of cells in no style.
func (t *Table) Row(texts ...string) {
	cells := make([]Cell, len(texts))
	for i, s := range texts {
		cells[i] = Cell{Text: s}
	}
	t.Rows = append(t.Rows, cells)
}

// Write writes t, two blanks between columns. With width > 0 no line is wider:
// columns that may shrink do, the widest first, and what is still too long is
// cut. Width 0 writes all in full, for files and pipes.
func (t *Table) Write(w io.Writer, p Palette, width int) error {
	cols := t.widths()
	if width > 0 {
		t.shrink(cols, width)
	}
	var b strings.Builder
	title := make([]Cell, len(t.Columns))
	titled := false
	for i, c := range t.Columns {
		title[i] = Cell{c.Title, Bold}
		titled = titled || c.Title != ""
	}
	if titled {
		b.WriteString(t.line(title, cols, width).paint(p) + "\n")
	}
	for _, r := range t.Rows {
		b.WriteString(t.line(r, cols, width).paint(p) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) widths() []int {
	cols := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		cols[i] = textWidth(c.Title)
		for _, r := range t.Rows {
			if i < len(r) {
				cols[i] = max(cols[i], textWidth(r[i].plain()))
			}
		}
	}
	return cols
}

// shrink takes columns off the widest column that may shrink, one at a time,
// until the table fits or none is left.
func (t *Table) shrink(cols []int, width int) {
	total := 2 * (len(cols) - 1)
	for _, c := range cols {
		total += c
	}
	for ; total > width; total-- {
		widest := -1
		for i, c := range t.Columns {
			if c.Shrink && cols[i] > minShrunk && (widest < 0 || cols[i] > cols[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		cols[widest]--
	}
}

// line gives one row without blanks at its end.
func (t *Table) line(cells []Cell, cols []int, width int) line {
	var out line
	blanks := 0
	for i, c := range cells {
		if i >= len(cols) {
			break
		}
		text := cut(c.plain(), cols[i])
		rest := cols[i] - textWidth(text)
		if t.Columns[i].Right {
			blanks, rest = blanks+rest, 0
		}
		if text != "" {
			out = append(out, span{Normal, strings.Repeat(" ", blanks)}, span{c.Style, text})
			blanks = 0
		}
		blanks += rest + 2
	}
	if width > 0 {
		out = out.cut(width)
	}
	return out
}
