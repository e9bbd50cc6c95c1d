// Package dockerfile tells what a Dockerfile says: its stages, the normal form
// of its instructions, what it reads (images, files, build args, remote
// sources), and where the part ends that needs an engine.
//
// It takes the text of a Dockerfile and gives values. It reads BuildKit's own
// syntax tree and follows the rules of BuildKit's converter
// (frontend/dockerfile/dockerfile2llb), so that what it says about an
// instruction is what BuildKit does with it. It has no I/O.
package dockerfile

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/strata-build/strata/internal/diag"
)

// File is a parsed Dockerfile. It is immutable and may be analysed from several
// goroutines.
type File struct {
	Name   string // path, for messages
	Syntax string // value of "# syntax=", "" without one

	syntaxLine int
	escape     rune
	escapeLine int // 0 without the directive
	data       []byte
	meta       []*instr // ARG before the first FROM
	stages     []*stage
}

// stage is one FROM and what follows it.
type stage struct {
	index int
	name  string // lower case; "" when unnamed
	from  *instr
	def   *instructions.Stage
	cmds  []*instr
}

// label gives the stage's name for people: its name or its index.
func (s *stage) label() string {
	if s.name != "" {
		return s.name
	}
	return strconv.Itoa(s.index)
}

// instr is one instruction as written.
type instr struct {
	node    *parser.Node
	kind    string // lower case keyword
	line    int    // first line, from 1
	end     int    // last line, heredocs included
	text    string // normal form
	cmd     instructions.Command
	trigger bool // an ONBUILD trigger of the base, not written in this file
}

// fresh gives a copy of the command that may be expanded.
func (in *instr) fresh() (instructions.Command, error) {
	return instructions.ParseCommand(in.node)
}

// maxStages bounds the stages of a Dockerfile: what stages take from each other
// costs their square. The largest Dockerfiles that were seen have about a hundred.
const maxStages = 1000

// Instructions gives how many instructions the file has.
func (f *File) Instructions() int {
	n := len(f.meta)
	for _, s := range f.stages {
		n += 1 + len(s.cmds)
	}
	return n
}

// maxErrors bounds how often a file with syntax errors is read again without
// the instruction that was wrong, to find the next error.
const maxErrors = 20

// Parse reads a Dockerfile. A file that BuildKit would refuse to parse gives an
// [*diag.Errors] with every error that can be told apart, with its line.
func Parse(name string, data []byte) (*File, error) {
	f := &File{Name: name, data: data, escape: parser.DefaultEscapeToken}
	var errs diag.List
	res := f.tree(&errs)
	if res == nil {
		return nil, errs.Err()
	}
	f.escape = res.EscapeToken
	if syntax, _, loc, ok := parser.DetectSyntax(data); ok {
		f.Syntax, f.syntaxLine = syntax, firstLine(loc)
	}
	if _, _, loc, ok := parser.ParseDirective("escape", data); ok {
		f.escapeLine = firstLine(loc)
	}
	for _, n := range res.AST.Children {
		f.add(n, &errs)
	}
	if len(f.stages) == 0 && errs.Err() == nil {
		errs.Errorf(diag.Pos{File: name}, "start it with FROM", "no FROM: the Dockerfile builds nothing")
	}
	if n := len(f.stages); n > maxStages {
		errs.Errorf(diag.Pos{File: name}, "split it into several Dockerfiles", "%d stages; at most %d can be read", n, maxStages)
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	f.normalise()
	return f, nil
}

// tree reads the syntax tree. Where an instruction can't be read it is reported
// and blanked, so that the errors after it are found too. It gives nil when
// nothing is left to read.
func (f *File) tree(errs *diag.List) *parser.Result {
	data := f.data
	for range maxErrors {
		res, err := parser.Parse(bytes.NewReader(data))
		if err == nil {
			return res
		}
		start, end := errorLines(err)
		if errs.Err() != nil && strings.Contains(err.Error(), "file with no instructions") {
			return nil
		}
		errs.Errorf(f.pos(start), "", "%s", reason(err))
		blanked := blank(data, start, end)
		if start == 0 || bytes.Equal(blanked, data) {
			return nil
		}
		data = blanked
	}
	return nil
}

// add turns one node into an instruction of the file.
func (f *File) add(n *parser.Node, errs *diag.List) {
	in := &instr{node: n, kind: strings.ToLower(n.Value), line: n.StartLine, end: n.EndLine}
	v, err := instructions.ParseInstruction(n)
	if err != nil {
		errs.Errorf(f.pos(in.line), didYouMean(in.kind, err), "%s", reason(err))
		if in.kind == command.From { // so that what follows has a stage
			f.stages = append(f.stages, &stage{index: len(f.stages), from: in, def: &instructions.Stage{}})
		}
		return
	}
	switch c := v.(type) {
	case *instructions.Stage:
		f.stages = append(f.stages, &stage{index: len(f.stages), name: c.Name, from: in, def: c})
	case *instructions.ArgCommand:
		in.cmd = c
		if len(f.stages) == 0 {
			f.meta = append(f.meta, in)
			return
		}
		f.last().cmds = append(f.last().cmds, in)
	case instructions.Command:
		in.cmd = c
		if len(f.stages) == 0 {
			errs.Errorf(f.pos(in.line), "only ARG may stand before the first FROM",
				"%s stands before the first FROM", strings.ToUpper(in.kind))
			return
		}
		f.last().cmds = append(f.last().cmds, in)
	}
}

func (f *File) last() *stage { return f.stages[len(f.stages)-1] }

func (f *File) pos(line int) diag.Pos { return diag.Pos{File: f.Name, Line: line} }

// Stages gives the names of the stages in order, "" for a stage without one.
func (f *File) Stages() []string {
	names := make([]string, len(f.stages))
	for i, s := range f.stages {
		names[i] = s.name
	}
	return names
}

// IgnoreFile gives the name of the ignore file that belongs to one Dockerfile
// alone and, where it exists, takes the place of .dockerignore.
func IgnoreFile(dockerfile string) string { return dockerfile + ".dockerignore" }

// source gives the file's text up to and with line end.
func (f *File) source(end int) []byte {
	at := 0
	for range end {
		i := bytes.IndexByte(f.data[at:], '\n')
		if i < 0 {
			return slices.Clone(f.data)
		}
		at += i + 1
	}
	return slices.Clone(f.data[:at])
}

// reason gives the message of an error of BuildKit's parser without the
// positions that it repeats, and without its guess at what was meant, which is
// another one each time.
func reason(err error) string {
	var le *parser.LocationError
	if errors.As(err, &le) {
		err = le.Unwrap()
	}
	text, _, _ := strings.Cut(err.Error(), " (did you mean")
	return text
}

// didYouMean guesses which instruction was meant by one that there is not.
func didYouMean(word string, err error) string {
	var unknown *instructions.UnknownInstructionError
	if !errors.As(err, &unknown) {
		return ""
	}
	best, at := "", 3
	for _, known := range slices.Sorted(maps.Keys(command.Commands)) {
		if d := distance(word, known); d < at && d < len(known) {
			best, at = known, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + strings.ToUpper(best) + "?"
}

// distance counts the letters to insert, remove, replace or swap with their
// neighbour to make b from a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			if i == 0 || j == 0 {
				rows[i][j] = i + j
				continue
			}
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// errorLines gives the lines that an error of BuildKit's parser is about, from
// 1, or 0, 0 when it says none.
func errorLines(err error) (start, end int) {
	var le *parser.LocationError
	if !errors.As(err, &le) || len(le.Locations) == 0 || len(le.Locations[0]) == 0 {
		return 0, 0
	}
	ranges := le.Locations[0]
	start, end = ranges[0].Start.Line, ranges[len(ranges)-1].End.Line
	// Directives are reported by the number of the line before them.
	if strings.Contains(err.Error(), "directive") || strings.Contains(err.Error(), "escape token") {
		start, end = start+1, end+1
	}
	return start, end
}

// blank empties the lines from start to end, keeping the count of lines.
func blank(data []byte, start, end int) []byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	for i := max(start, 1); i <= end && i <= len(lines); i++ {
		if bytes.HasSuffix(lines[i-1], []byte("\n")) {
			lines[i-1] = []byte("\n")
		} else {
			lines[i-1] = nil
		}
	}
	return bytes.Join(lines, nil)
}

func firstLine(loc []parser.Range) int {
	if len(loc) == 0 {
		return 0
	}
	return loc[0].Start.Line
}
