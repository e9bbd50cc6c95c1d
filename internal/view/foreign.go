package view

import (
	"fmt"
	"io"
	"reflect"

	"github.com/strata-build/strata/internal/printable"
)

// Painted is text that is written as it is: what a [Palette] has painted, or the
// program's own words. Everything else that is printed counts as foreign.
type Painted string

// Fprintf is fmt.Fprintf for a terminal or a log: every argument that is a text,
// an error or a [fmt.Stringer] comes as one line without control characters and
// credentials, but for those of type [Painted]. The format is the program's own.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	if false {
		_ = fmt.Sprintf(format, args...) // tells vet what this is
	}
	return fmt.Fprintf(w, format, shown(args)...)
}

// Fprintln is fmt.Fprintln in the same way.
func Fprintln(w io.Writer, args ...any) (int, error) { return fmt.Fprintln(w, shown(args)...) }

// Sprintf is fmt.Sprintf in the same way, for texts that are put together.
func Sprintf(format string, args ...any) Painted {
	if false {
		_ = fmt.Sprintf(format, args...)
	}
	return Painted(fmt.Sprintf(format, shown(args)...))
}

// shown gives arguments of which none can do harm.
func shown(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case nil, Painted:
			out[i] = arg
			continue
		case error:
			out[i] = printable.Line(v.Error())
			continue
		case fmt.Stringer:
			out[i] = printable.Line(v.String())
			continue
		}
		switch v := reflect.ValueOf(arg); v.Kind() {
		case reflect.String:
			out[i] = printable.Line(v.String())
		case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
			reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
			out[i] = arg
		default:
			out[i] = printable.Line(fmt.Sprint(arg))
		}
	}
	return out
}
