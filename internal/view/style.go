package view

import "github.com/strata-build/strata/internal/printable"

// Style is how a piece of text looks.
type Style int

// The styles. They use the terminal's own sixteen colours, so that they follow
// its light or dark theme.
const (
	Normal Style = iota
	Bold
	Dim
	Red
	Green
	Yellow
	Blue
	Magenta
	Cyan
)

// codes holds the SGR parameters of the styles (ECMA-48, 8.3.117).
var codes = [...]string{Bold: "1", Dim: "2", Red: "31", Green: "32", Yellow: "33", Blue: "34", Magenta: "35", Cyan: "36"}

// Palette paints text, or leaves it as it is. The zero value does not paint.
type Palette struct {
	Color bool
}

// Paint gives text in style s, as one line that is fit to be shown.
func (p Palette) Paint(s Style, text string) Painted {
	text = printable.Line(text)
	if !p.Color || s <= Normal || int(s) >= len(codes) || text == "" {
		return Painted(text)
	}
	return Painted("\x1b[" + codes[s] + "m" + text + "\x1b[0m")
}

// ColorOptions are what decides about colour: a flag and the values of the
// environment's variables, as the caller read them.
type ColorOptions struct {
	Flag     string // "always", "never", or "auto" and "" for the rest to decide
	Terminal bool   // output is a terminal
	NoColor  string // $NO_COLOR: any value but "" forbids (no-color.org)
	Force    string // $CLICOLOR_FORCE: any value but "" and "0" demands
	CLIColor string // $CLICOLOR: "0" forbids
	Term     string // $TERM: "dumb" forbids
}

// ColorWanted says whether to colour. The flag wins, then NO_COLOR, then
// CLICOLOR_FORCE, then TERM=dumb and CLICOLOR=0, then whether there is a
// terminal.
func ColorWanted(o ColorOptions) bool {
	switch {
	case o.Flag == "always":
		return true
	case o.Flag == "never", o.NoColor != "":
		return false
	case o.Force != "" && o.Force != "0":
		return true
	case o.Term == "dumb", o.CLIColor == "0":
		return false
	}
	return o.Terminal
}
