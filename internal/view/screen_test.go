package view

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// screen is a small terminal: what the view writes is carried out on it, and
// an escape that it does not know is a test failure. Lines that leave it at
// the top go to past.
type screen struct {
	t        *testing.T
	cols     int
	rows     int
	cells    [][]rune // rows of cells; the second cell of a wide rune is 0
	past     []string
	x, y     int
	noWrap   bool
	hidden   bool
	wrapped  int // rows that were begun by wrapping
	widest   int // most columns that a row was written to without wrapping
	writes   int
	sgrOpen  bool
	clippedN int // runes that did not fit with wrapping off
}

func newScreen(t *testing.T, cols, rows int) *screen {
	return &screen{t: t, cols: cols, rows: rows, cells: [][]rune{{}}}
}

func (s *screen) Write(b []byte) (int, error) {
	s.writes++
	text := string(b)
	for len(text) > 0 {
		if text[0] == 0x1b {
			text = s.escape(text)
			continue
		}
		r := []rune(text[:min(len(text), 4)])[0]
		text = text[len(string(r)):]
		s.put(r)
	}
	return len(b), nil
}

// escape carries out the control sequence at the start of text and gives what
// follows.
func (s *screen) escape(text string) string {
	end := strings.IndexFunc(text[2:], func(r rune) bool { return r >= 0x40 && r <= 0x7e })
	if !strings.HasPrefix(text, "\x1b[") || end < 0 {
		s.t.Fatalf("the screen got the escape %q", text)
	}
	seq, rest := text[2:2+end+1], text[2+end+1:]
	switch {
	case seq == "?25l":
		s.hidden = true
	case seq == "?25h":
		s.hidden = false
	case seq == "?7l":
		s.noWrap = true
	case seq == "?7h":
		s.noWrap = false
	case seq == "K":
		s.cells[s.y] = s.cells[s.y][:min(s.x, len(s.cells[s.y]))]
	case seq == "J":
		s.cells = s.cells[:s.y+1]
		s.cells[s.y] = s.cells[s.y][:min(s.x, len(s.cells[s.y]))]
	case strings.HasSuffix(seq, "A"):
		n, err := strconv.Atoi(strings.TrimSuffix(seq, "A"))
		if err != nil || n > s.y {
			s.t.Fatalf("the cursor moves up by %q from row %d", seq, s.y)
		}
		s.y -= n
	case strings.HasSuffix(seq, "m"):
		s.sgrOpen = seq != "0m"
	default:
		s.t.Fatalf("the screen got the control sequence %q", seq)
	}
	return rest
}

func (s *screen) put(r rune) {
	if r == '\n' {
		s.newline()
		return
	}
	w := runeWidth(r)
	if s.x+w > s.cols {
		if s.noWrap {
			s.clippedN++
			return
		}
		s.newline()
		s.wrapped++
	}
	row := s.cells[s.y]
	for len(row) < s.x+w {
		row = append(row, ' ')
	}
	if w > 0 {
		row[s.x] = r
	}
	if w == 2 {
		row[s.x+1] = 0
	}
	s.cells[s.y] = row
	s.x += w
	s.widest = max(s.widest, s.x)
}

func (s *screen) newline() {
	s.x = 0
	s.y++
	if s.y == len(s.cells) {
		s.cells = append(s.cells, []rune{})
	}
	for len(s.cells) > s.rows {
		s.past = append(s.past, rowText(s.cells[0]))
		s.cells = s.cells[1:]
		s.y--
	}
}

// String gives all rows, those that have left the screen first.
func (s *screen) String() string {
	rows := append([]string(nil), s.past...)
	for _, c := range s.cells {
		rows = append(rows, rowText(c))
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n") + "\n"
}

// state tells what isn't text.
func (s *screen) state() string {
	return fmt.Sprintf("cursor row %d column %d hidden %t", len(s.past)+s.y, s.x, s.hidden)
}

func rowText(cells []rune) string {
	var b strings.Builder
	for _, r := range cells {
		if r != 0 {
			b.WriteRune(r)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// resize makes the screen another width and wraps rows again, as terminals do.
func (s *screen) resize(cols int) {
	var cells [][]rune
	for i, row := range s.cells {
		for len(row) > cols {
			cells = append(cells, row[:cols])
			row = row[cols:]
		}
		if i == s.y {
			s.y = len(cells)
		}
		cells = append(cells, row)
	}
	s.cols, s.cells = cols, cells
}
