// Package diag holds what Strata says when something is wrong: positions,
// severities, hints, and a sorted list of findings that is an error.
//
// It takes findings from every package that reads what a user wrote, and gives
// one deterministic text for them. It has no I/O.
package diag

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a file. Line and Col count from 1; 0 means unknown.
type Pos struct {
	File string
	Line int
	Col  int
}

// String gives file:line:col, leaving out what is unknown.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Severity says how bad a finding is.
type Severity int

// The severities, worst first.
const (
	Error Severity = iota
	Warning
)

// Finding is one thing that is wrong, where, and what to do about it.
type Finding struct {
	Severity Severity
	Pos      Pos
	Text     string // one sentence without a full stop
	Hint     string // what to do, a command where there is one; may be empty
}

// String gives "file:line:col: text", with the hint on a line of its own.
func (f Finding) String() string {
	s := f.Text
	if p := f.Pos.String(); p != "" {
		s = p + ": " + s
	}
	if f.Severity == Warning {
		s = "warning: " + s
	}
	if f.Hint != "" {
		s += "\n  hint: " + f.Hint
	}
	return s
}

// List collects findings. The zero value is ready for use.
type List struct {
	findings []Finding
	seen     map[Finding]bool
}

// Errorf adds an error at pos.
func (l *List) Errorf(pos Pos, hint, format string, args ...any) {
	l.Add(Finding{Severity: Error, Pos: pos, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// Warnf adds a warning at pos.
func (l *List) Warnf(pos Pos, hint, format string, args ...any) {
	l.Add(Finding{Severity: Warning, Pos: pos, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// Add adds f unless the same finding is there already.
func (l *List) Add(f Finding) {
	if l.seen[f] {
		return
	}
	if l.seen == nil {
		l.seen = map[Finding]bool{}
	}
	l.seen[f] = true
	l.findings = append(l.findings, f)
}

// Sorted gives the findings by file, line, column and text.
func (l *List) Sorted() []Finding {
	out := slices.Clone(l.findings)
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col), cmp.Compare(a.Text, b.Text))
	})
	return out
}

// Warnings gives the warnings among the findings, sorted.
func (l *List) Warnings() []Finding {
	return slices.DeleteFunc(l.Sorted(), func(f Finding) bool { return f.Severity != Warning })
}

// Err gives an [*Errors] with every error in the list, or nil when there is
// none.
func (l *List) Err() error {
	errs := slices.DeleteFunc(l.Sorted(), func(f Finding) bool { return f.Severity != Error })
	if len(errs) == 0 {
		return nil
	}
	return &Errors{Findings: errs}
}

// Errors is a sorted, non-empty list of findings as an error.
type Errors struct {
	Findings []Finding
}

// Error gives one finding a line, in sorted order.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// hinted is an error with advice for the user.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint gives err with advice for the user: what to do, with the exact command
// where there is one. The edge prints it on a line of its own.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// HintOf gives the outermost hint of err, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
