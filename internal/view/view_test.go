package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/event"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

var begin = time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)

// at gives e with a time so many seconds after the begin.
func at(sec float64, e event.Event) event.Event {
	e.Time = begin.Add(time.Duration(sec * float64(time.Second)))
	return e
}

const someDigest = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"

// run is a run with a reused unit, an appended one, a failing build with an
// emulated neighbour, a warning, and output that tries to harm a terminal.
func run() []event.Event {
	const base, app, ml, arm = "base/cpu/linux/amd64", "app/cpu/linux/amd64", "ml/cuda/linux/amd64", "ml/cpu/linux/arm64"
	return []event.Event{
		at(0, event.Event{Type: event.RunStarted, Total: 4}),
		at(0, event.Event{Type: event.UnitStarted, Unit: base, Action: "reuse", Text: "nothing changed"}),
		at(0.05, event.Event{Type: event.UnitFinished, Unit: base, Action: "reuse", Digest: someDigest, Seconds: 0.05, Size: 48_300_000}),
		at(0.1, event.Event{Type: event.UnitStarted, Unit: app, Action: "append", Text: "src/server.py changed"}),
		at(0.1, event.Event{Type: event.UnitStarted, Unit: ml, Action: "build", Text: "requirements/base-ml.txt changed"}),
		at(0.2, event.Event{Type: event.UnitStarted, Unit: arm, Action: "build", Text: "never built"}),
		at(0.2, event.Event{Type: event.Warning, Unit: arm, Text: "linux/arm64 is emulated"}),
		at(0.3, event.Event{Type: event.UnitFinished, Unit: app, Action: "append", Digest: someDigest, Seconds: 0.2, Size: 48_954_000}),
		at(0.4, event.Event{Type: event.StepStarted, Unit: ml, StepID: "a", Step: "[1/3] FROM base"}),
		at(0.4, event.Event{Type: event.StepFinished, Unit: ml, StepID: "a", Step: "[1/3] FROM base", Cached: true}),
		at(0.5, event.Event{Type: event.StepStarted, Unit: ml, StepID: "b", Step: "[2/3] RUN pip install -r requirements.txt"}),
		at(0.6, event.Event{Type: event.StepLog, Unit: ml, StepID: "b", Text: "Collecting numpy"}),
		at(0.7, event.Event{Type: event.StepLog, Unit: ml, StepID: "b", Text: "\x1b[32m 10%\x1b[0m\r 55%\r100% \x1b]0;title\x07done\x1b[2J\tok"}),
		at(0.8, event.Event{Type: event.StepStarted, Unit: arm, StepID: "c", Step: "[2/3] RUN apt-get install -y 日本語 python3-sklearn"}),
		at(0.9, event.Event{Type: event.StepProgress, Unit: arm, StepID: "c", Current: 12_000_000, Total: 40_000_000}),
		at(1.0, event.Event{Type: event.StepStarted, Unit: arm, StepID: "d", Step: "[internal] load build context"}),
		at(1.1, event.Event{Type: event.StepLog, Unit: arm, StepID: "c", Text: "Setting up python3-sklearn …"}),
		at(2.5, event.Event{Type: event.StepLog, Unit: ml, StepID: "b", Text: "ERROR: no matching distribution found for numpyy, and this line is longer than the terminal is wide, so it must be wrapped and not cut"}),
		at(3.0, event.Event{Type: event.StepFinished, Unit: ml, StepID: "b", Error: "exit code: 1", Seconds: 2.5}),
		at(3.1, event.Event{Type: event.UnitFinished, Unit: ml, Action: "build", Error: "building \"ml\": exit code: 1", Seconds: 3}),
		at(4.0, event.Event{Type: event.StepFinished, Unit: arm, StepID: "d", Seconds: 3}),
		at(75, event.Event{Type: event.StepFinished, Unit: arm, StepID: "c", Seconds: 74.2}),
		at(76, event.Event{Type: event.UnitFinished, Unit: arm, Action: "build", Digest: someDigest, Seconds: 75.8, Size: 512_000_000}),
		at(76, event.Event{Type: event.RunFinished, Error: "1 unit failed"}),
	}
}

func TestLines(t *testing.T) {
	for _, mode := range []Mode{Plain, JSON, Quiet} {
		t.Run(string(mode), func(t *testing.T) {
			var out bytes.Buffer
			v := New(Options{Out: &out, Mode: mode, Clock: func() time.Time { return begin.Add(time.Second) }})
			for i, e := range run() {
				if i == 4 {
					v.Printf("engine is %s\nand ready\n", "up")
				}
				v.Emit(e)
			}
			for range 2 {
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, string(mode)+".golden", out.String())
		})
	}
}

func TestJSONIsOneObjectALine(t *testing.T) {
	var out bytes.Buffer
	v := New(Options{Out: &out, Mode: JSON})
	for _, e := range run() {
		v.Emit(e)
	}
	v.Printf("two\nlines <&>\n")
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if want := len(run()) + 1; len(lines) != want {
		t.Fatalf("got %d lines, want %d", len(lines), want)
	}
	for _, l := range lines {
		var e event.Event
		if err := json.Unmarshal([]byte(l), &e); err != nil || e.Type == "" || e.Time.IsZero() {
			t.Errorf("%s: %v", l, err)
		}
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, `"text":"two\nlines <&>"`) {
		t.Errorf("message is %s", last)
	}
}

// TestTTYScreens draws after each event and compares what stands on a
// terminal.
func TestTTYScreens(t *testing.T) {
	s := newScreen(t, 72, 12)
	now := begin
	v := newTTY(Options{Out: s, Width: func() int { return s.cols }, Height: func() int { return s.rows }, Clock: func() time.Time { return now }}.withDefaults())
	close(v.stopped) // frames are drawn here, not by the loop
	var all strings.Builder
	for i, e := range run() {
		if i == 10 {
			v.Printf("engine is up\n")
		}
		v.Emit(e)
		now = e.Time
		v.draw()
		fmt.Fprintf(&all, "--- after %d: %s %s\n%s", i, e.Type, e.Unit, s)
		if i == 16 {
			fmt.Fprintf(&all, "%s\n", s.state())
		}
	}
	if s.wrapped > 0 || s.widest >= s.cols || s.clippedN > 0 {
		t.Errorf("%d rows wrapped, %d runes clipped, widest row %d of %d columns", s.wrapped, s.clippedN, s.widest, s.cols)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&all, "--- closed\n%s%s\n", s, s.state())
	golden(t, "tty.golden", all.String())
}

// TestTTYEscapes pins the bytes of a short run: one write a frame.
func TestTTYEscapes(t *testing.T) {
	var out bytes.Buffer
	now := begin
	v := newTTY(Options{Out: &out, Color: true, Clock: func() time.Time { return now }}.withDefaults())
	close(v.stopped)
	v.Emit(at(0, event.Event{Type: event.UnitStarted, Unit: "app/linux/amd64", Action: "build", Text: "never built"}))
	v.draw()
	v.draw() // the spinner alone turns
	v.Printf("a word\n")
	now = now.Add(2 * time.Second)
	v.Emit(at(2, event.Event{Type: event.UnitFinished, Unit: "app/linux/amd64", Action: "build", Seconds: 2, Digest: someDigest}))
	v.draw()
	v.draw() // nothing new: nothing is written
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	golden(t, "escapes.golden", strings.ReplaceAll(out.String(), "\x1b", "␛"))
}

func TestTTYStoppedInTheMiddle(t *testing.T) {
	s := newScreen(t, 60, 10)
	v := New(Options{Out: s, Mode: TTY, Width: func() int { return 60 }, Clock: func() time.Time { return begin.Add(3 * time.Second) }})
	v.Emit(at(0, event.Event{Type: event.UnitStarted, Unit: "app/linux/amd64", Action: "build"}))
	v.Emit(at(1, event.Event{Type: event.StepStarted, Unit: "app/linux/amd64", StepID: "1", Step: "[1/1] RUN sleep 100"}))
	time.Sleep(3 * frameTime) // the loop has drawn and hidden the cursor
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if want := "- app/linux/amd64  build   stopped after 3.0 s\n"; s.String() != want || s.hidden || s.noWrap {
		t.Errorf("screen is %q, hidden %t, nowrap %t; want %q", s, s.hidden, s.noWrap, want)
	}
	if s.writes < 3 {
		t.Errorf("the loop drew nothing: %d writes", s.writes)
	}
}

func TestTTYResize(t *testing.T) {
	s := newScreen(t, 100, 20)
	v := newTTY(Options{Out: s, Width: func() int { return s.cols }, Height: func() int { return s.rows }, Clock: func() time.Time { return begin }}.withDefaults())
	close(v.stopped)
	v.Printf("before")
	v.Emit(at(0, event.Event{Type: event.UnitStarted, Unit: "app/linux/amd64", Action: "build", Text: strings.Repeat("long ", 30)}))
	v.draw()
	for _, cols := range []int{30, 120, 17, 64} {
		s.resize(cols)
		v.draw()
		if got := strings.Count(s.String(), "app/linux"); got != 1 && cols > 20 {
			t.Fatalf("%d copies of the unit's line at %d columns:\n%s", got, cols, s)
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if want := "before\n- app/linux/amd64  build   stopped after 0.0 s\n"; s.String() != want {
		t.Errorf("screen is %q, want %q", s, want)
	}
}

// TestFramesFit draws random runs on random sizes: no line reaches the last
// column, and the live area never fills the screen.
func TestFramesFit(t *testing.T) {
	words := []string{"RUN", "日本語", "e\u0301", "👩‍💻", "\t", "\x1b[1m", strings.Repeat("x", 50), "[2/4]", "한글"}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := newModel()
		width, height := 1+r.IntN(120), 1+r.IntN(40)
		text := func() string {
			var b strings.Builder
			for range r.IntN(9) {
				b.WriteString(words[r.IntN(len(words))] + " ")
			}
			return b.String()
		}
		types := []event.Type{event.UnitStarted, event.StepStarted, event.StepLog, event.StepProgress, event.StepFinished, event.UnitFinished}
		for range 100 {
			e := event.Event{
				Type: types[r.IntN(len(types))], Time: begin, Unit: fmt.Sprintf("l%d/日本/linux/amd64", r.IntN(20)),
				StepID: fmt.Sprint(r.IntN(3)), Step: text(), Text: text(), Action: "build", Current: r.Int64N(1e12), Total: r.Int64N(1e12),
			}
			u := m.apply(e)
			if got := m.collapsed(u, width-1).width(); got > width-1 {
				t.Fatalf("seed %d: collapsed line has %d columns of %d", seed, got, width)
			}
		}
		frame := m.frame(begin.Add(time.Hour), width, height, int(seed))
		if len(frame) > max(0, height-1) {
			t.Fatalf("seed %d: %d lines on %d rows", seed, len(frame), height)
		}
		for _, l := range frame {
			if l.width() > width-1 || strings.ContainsAny(l.paint(Palette{}), "\x1b\n\r\t") {
				t.Fatalf("seed %d: line of %d columns on %d: %q", seed, l.width(), width, l.paint(Palette{}))
			}
		}
	}
}

// TestConcurrentUse is for the race detector, and checks that nothing is lost.
func TestConcurrentUse(t *testing.T) {
	for _, mode := range []Mode{TTY, Plain, JSON, Quiet} {
		var out bytes.Buffer
		v := New(Options{Out: &out, Mode: mode})
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 200 {
					v.Emit(event.Event{Type: event.StepLog, Unit: fmt.Sprintf("u%d/linux/amd64", g), StepID: "s", Text: fmt.Sprint(i)})
					v.Printf("said-%d-%d", g, i)
				}
			})
		}
		wg.Wait()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "said-"); mode != Quiet && got != 800 {
			t.Errorf("%s: %d of 800 messages", mode, got)
		}
	}
}

type brokenPipe struct{}

var errPipe = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errPipe }

func TestWriteErrorIsTold(t *testing.T) {
	for _, mode := range []Mode{TTY, Plain, JSON, Quiet} {
		v := New(Options{Out: brokenPipe{}, Mode: mode})
		for _, e := range run() {
			v.Emit(e)
		}
		if err := v.Close(); !errors.Is(err, errPipe) {
			t.Errorf("%s: Close gives %v", mode, err)
		}
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range append([]Mode{""}, Modes...) {
		got, err := ParseMode(string(m))
		if want := max(m, map[bool]Mode{true: Auto}[m == ""]); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %q, %v", m, got, err)
		}
	}
	_, err := ParseMode("fancy")
	if want := `reading progress mode "fancy": it is none of auto, tty, plain, json, quiet`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAutoFollowsTheTerminal(t *testing.T) {
	for terminal, want := range map[bool]Mode{true: TTY, false: Plain} {
		if got := (Options{Mode: Auto, Terminal: terminal}).withDefaults().Mode; got != want {
			t.Errorf("terminal %t gives %s", terminal, got)
		}
	}
	if IsTerminal(&bytes.Buffer{}) {
		t.Error("a buffer is no terminal")
	}
	if w, h := Size(&bytes.Buffer{}); w() != 0 || h() != 0 {
		t.Error("a buffer has no size")
	}
}

func TestPullThatCopiesNothing(t *testing.T) {
	m := newModel()
	m.apply(event.Event{Type: event.UnitStarted, Unit: "app", Action: "pull"})
	u := m.apply(event.Event{Type: event.UnitFinished, Unit: "app", Action: "pull", Seconds: 1, Size: 5, Text: "it is here already"})
	for name, l := range map[string]line{"plain": unitEnd(u), "terminal": m.collapsed(u, 80)} {
		if got := l.paint(Palette{}); !strings.HasSuffix(got, "it is here already") || strings.Contains(got, "✓") {
			t.Errorf("%s: it says %q", name, got)
		}
	}
}
