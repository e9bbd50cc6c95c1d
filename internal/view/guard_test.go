package view

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/printable"
)

func TestGuard(t *testing.T) {
	const in = "a \x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\a\x1b[999A \u202eb\xff\u009b1m https://u:s3cret@h/x\r50%\nend\u2066 日本 \x1b[?25l\x1b"
	for _, control := range []bool{false, true} {
		want := `a \x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x1b[999A \u202eb\xff\u009b1m https://***@h/x\r50%` + "\n" + `end\u2066 日本 \x1b[?25l\x1b`
		if control {
			for _, own := range []string{"\x1b[31m", "\x1b[0m", "\x1b[999A", "\x1b[?25l", "\r"} {
				want = strings.ReplaceAll(want, printable.Line(own), own)
			}
		}
		for size := range 7 { // pieces of this size; 0 is all at once
			var b strings.Builder
			g := &Guard{Out: &b, Control: func() bool { return control }}
			for rest := in; rest != ""; {
				n := len(rest)
				if size > 0 {
					n = min(n, size)
				}
				if got, err := g.Write([]byte(rest[:n])); got != n || err != nil {
					t.Fatalf("Write: %d, %v", got, err)
				}
				rest = rest[n:]
			}
			if err := g.Flush(); err != nil {
				t.Fatal(err)
			}
			got := b.String()
			if size > 0 { // a URL in pieces is not known as one
				got = strings.ReplaceAll(got, "u:s3cret@", "***@")
			}
			if got != want {
				t.Errorf("control %t, pieces of %d:\n%q, not\n%q", control, size, got, want)
			}
		}
	}
}

type name string

func TestFprintf(t *testing.T) {
	const hostile = "x\x1b]0;t\a\n\u202ey"
	const shown = `x\x1b]0;t\x07\n\u202ey`
	var b strings.Builder
	for _, arg := range []any{hostile, name(hostile), errors.New(hostile), fmt.Errorf("%s", hostile), []string{hostile}, Palette{}.Paint(Red, hostile)} {
		b.Reset()
		if _, err := Fprintf(&b, "%s\n", arg); err != nil {
			t.Fatal(err)
		}
		if got := strings.Trim(b.String(), "[]\n"); got != shown {
			t.Errorf("%T: %q, not %q", arg, got, shown)
		}
	}
	b.Reset()
	if _, err := Fprintln(&b, Palette{Color: true}.Paint(Red, "a\n"), 1, 2.5, true, nil, Painted("b\nc")); err != nil {
		t.Fatal(err)
	}
	if want := "\x1b[31ma\\n\x1b[0m 1 2.5 true <nil> b\nc\n"; b.String() != want {
		t.Errorf("%q, not %q", b.String(), want)
	}
}
