package view

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/strata-build/strata/internal/printable"
)

// Guard is the last thing before a terminal or log: it escapes what should have
// been escaped where it was written. Of control sequences it lets through those
// that this package writes itself, and none where Control says no, as for a log
// without colours.
type Guard struct {
	Out     io.Writer
	Control func() bool // whether colours and the cursor of a live view are right here

	mu   sync.Mutex
	rest []byte // the begin of a character or sequence that is not whole yet
}

// own are the control sequences that this package and the lines of progress use.
var own = regexp.MustCompile(`^(?:\x1b\[(?:[0-9]{1,3}[mA]|[KJm]|\?(?:7|25)[lh])|\r)`)

// Unwrap gives the writer behind g, whose file may be a terminal.
func (g *Guard) Unwrap() io.Writer { return g.Out }

// Write writes p with everything escaped that is not fit to be shown.
func (g *Guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rest) == 0 && plainASCII(p) {
		return g.Out.Write(p)
	}
	data := append(g.rest, p...)
	g.rest = nil
	if cut := whole(data); cut < len(data) {
		g.rest = bytes.Clone(data[cut:])
		data = data[:cut]
	}
	if _, err := io.WriteString(g.Out, g.escape(data)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what was kept back as it could go on.
func (g *Guard) Flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	text := g.escape(g.rest)
	g.rest = nil
	if text == "" {
		return nil
	}
	_, err := io.WriteString(g.Out, text)
	return err
}

func (g *Guard) escape(data []byte) string {
	control := g.Control != nil && g.Control()
	var b strings.Builder
	for len(data) > 0 {
		if control {
			if m := own.Find(data); m != nil {
				b.Write(m)
				data = data[len(m):]
				continue
			}
		}
		next := 1 // up to the next place where a sequence may begin
		for next < len(data) && data[next] != 0x1b && data[next] != '\r' {
			next++
		}
		b.WriteString(printable.Text(string(data[:next])))
		data = data[next:]
	}
	return b.String()
}

// plainASCII says whether p is nothing but letters that need no second look.
func plainASCII(p []byte) bool {
	for _, c := range p {
		if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f || c == '@' || c == '=' {
			return false
		}
	}
	return true
}

// longest is of the sequences in [own].
const longest = 6

// whole gives the length of p without a character or sequence at its end that
// has only begun.
func whole(p []byte) int {
	for i := len(p) - 1; i >= 0 && i >= len(p)-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				return i
			}
			break
		}
	}
	if i := bytes.LastIndexByte(p, 0x1b); i >= 0 && len(p)-i < longest && !own.Match(p[i:]) {
		return i
	}
	return len(p)
}
