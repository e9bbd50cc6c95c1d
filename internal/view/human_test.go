package view

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1234: "1.2 kB", 99_949: "99.9 kB", 99_950: "100 kB", 654_321: "654 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 12_000_000: "12.0 MB", 1_100_000_000: "1.1 GB",
		-2500: "-2.5 kB", math.MaxInt64: "9.2 EB", math.MinInt64: "-9.2 EB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]string{
		"0s": "0 s", "300us": "1 ms", "4ms": "4 ms", "9.4ms": "9 ms", "9.9ms": "0.01 s", "140ms": "0.14 s", "999ms": "1.00 s",
		"9.99s": "9.99 s", "9.996s": "10.0 s", "12.34s": "12.3 s", "59.94s": "59.9 s", "59.96s": "1 min 0 s", "62s": "1 min 2 s",
		"59m59.4s": "59 min 59 s", "59m59.6s": "1 h 0 min", "2h5m10s": "2 h 5 min", "23h59m31s": "1 d 0 h", "76h": "3 d 4 h", "-62s": "-1 min 2 s",
	} {
		d, err := time.ParseDuration(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := Duration(d); got != want {
			t.Errorf("Duration(%s) = %q, want %q", in, got, want)
		}
	}
	if got := Duration(math.MinInt64); !strings.HasPrefix(got, "-") {
		t.Errorf("the shortest duration is %q", got)
	}
}

func TestColorWanted(t *testing.T) {
	for _, c := range []struct {
		name string
		o    ColorOptions
		want bool
	}{
		{"pipe", ColorOptions{}, false},
		{"terminal", ColorOptions{Terminal: true, Term: "xterm"}, true},
		{"NO_COLOR on a terminal", ColorOptions{Terminal: true, NoColor: "1"}, false},
		{"forced on a pipe", ColorOptions{Force: "1"}, true},
		{"forced by 0 is not", ColorOptions{Force: "0"}, false},
		{"NO_COLOR beats force", ColorOptions{Force: "1", NoColor: "1"}, false},
		{"dumb terminal", ColorOptions{Terminal: true, Term: "dumb"}, false},
		{"CLICOLOR=0", ColorOptions{Terminal: true, CLIColor: "0"}, false},
		{"flag beats NO_COLOR", ColorOptions{Flag: "always", NoColor: "1"}, true},
		{"flag never", ColorOptions{Flag: "never", Terminal: true, Force: "1"}, false},
	} {
		if got := ColorWanted(c.o); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\r\n":                              "plain",
		"a\rb\rc\r":                              "c",
		"\x1b[1;31mred\x1b[0m":                   "red",
		"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07": "link",
		"\x1b(Bx\x1bcy":                          "xy",
		"ab\tc":                                  "ab      c",
		"日\tx":                                   "日      x",
		"bad \xff byte":                          "bad � byte",
		"bell\x07 nul\x00 \u202eevil\u202c":      `bell nul \u202eevil\u202c`,
		"cut off \x1b[3":                         "cut off ",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"}, {"abc", 1, "…"}, {"abc", 0, ""}, {"", 0, ""},
	} {
		if got := cut(c.in, c.n); got != c.want {
			t.Errorf("cut(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
}

func exampleTable() *Table {
	t := &Table{Columns: []Column{{Title: "UNIT"}, {Title: "STEP"}, {Title: "REASON", Shrink: true}, {Title: "SIZE", Right: true}}}
	t.Row("base/cpu/linux/amd64", "reuse", "nothing changed", "48.3 MB")
	t.Rows = append(t.Rows, []Cell{{Text: "app/日本/linux/amd64"}, {"append", Cyan}, {Text: "src/very/long/path/of/a/server.py changed\nand more"}, {Text: "9 kB"}})
	t.Row("ml/cpu/linux/arm64", "build")
	t.Row()
	return t
}

func TestTable(t *testing.T) {
	var b strings.Builder
	for _, c := range []struct {
		name    string
		palette Palette
		width   int
	}{{"file", Palette{}, 0}, {"60 columns", Palette{}, 60}, {"30 columns", Palette{}, 30}, {"colour", Palette{Color: true}, 0}} {
		b.WriteString("--- " + c.name + "\n")
		var out strings.Builder
		if err := exampleTable().Write(&out, c.palette, c.width); err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(out.String()) {
			if c.width > 0 && textWidth(strings.TrimSuffix(l, "\n")) > c.width {
				t.Errorf("%s: line of %d columns: %q", c.name, textWidth(l), l)
			}
		}
		b.WriteString(strings.ReplaceAll(out.String(), "\x1b", "␛"))
	}
	golden(t, "table.golden", b.String())
	var none strings.Builder
	if err := (&Table{}).Write(&none, Palette{}, 10); err != nil || none.String() != "" {
		t.Errorf("the empty table is %q, %v", none.String(), err)
	}
}

func TestLineCut(t *testing.T) {
	l := line{{Bold, "ab"}, {Normal, "cd"}, {Dim, "ef"}}
	for n, want := range map[int]string{0: "", 1: "…", 2: "a…", 3: "ab…", 4: "abc…", 5: "abcd…", 6: "abcdef", 7: "abcdef"} {
		if diff := cmp.Diff(want, l.cut(n).paint(Palette{})); diff != "" {
			t.Errorf("cut to %d: %s", n, diff)
		}
	}
}
