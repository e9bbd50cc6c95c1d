package watch

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/spec"
)

const childVar = "STRATA_TEST_WATCH"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a real service over a layer with slots of a second, until standard
// input ends. Its policy writes a line before and after it acts.
func child(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	write := func(what string, e Event) {
		fmt.Fprintf(log, "%s %d %s %s\n", what, os.Getpid(), e.Slot+e.Start.Format(":05"), e.Delivery)
	}
	s, err := Open(ctx, Config{
		Name: "app", Dir: dir, State: dir, Every: time.Second, Now: time.Now, Emit: func(Note) {},
		Load: func(context.Context) (Project, error) {
			return Project{Layers: []Layer{{Name: "base", Refresh: spec.Refresh{Every: spec.EveryPeriod, Period: time.Second}}}}, nil
		},
		Policies: []Policy{Func("act", func(_ context.Context, e Event) (string, error) {
			write("begin", e)
			time.Sleep(30 * time.Millisecond)
			write("end", e)
			return "", nil
		})},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Run(ctx)
}

// A process that is killed with SIGKILL at random moments never leaves a state
// that can't be read, and repeats only what was under way.
func TestSigkill(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 7))
	const rounds = 20
	for round := range rounds {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		var out strings.Builder
		cmd.Stderr = &out
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Actions begin at the turn of a second: most kills fall into one.
		at := time.Now().Truncate(time.Second).Add(time.Second + time.Duration(random.Int64N(int64(80*time.Millisecond))) - 20*time.Millisecond)
		if random.IntN(2) == 0 {
			at = time.Now().Add(time.Duration(random.Int64N(int64(60 * time.Millisecond))))
		}
		if round == rounds-1 {
			time.Sleep(2 * time.Second)
			stdin.Close()
		} else {
			time.Sleep(time.Until(at))
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if out.Len() > 0 {
			t.Fatalf("round %d: %s", round, out.String())
		}
	}
	checkLog(t, filepath.Join(dir, "log"))
}

func checkLog(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var open, openPID, last string
	cut, done := 0, map[string]int{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		what, pid, slot := f[0], f[1], f[2]
		switch {
		case what == "begin" && open != "" && openPID == pid:
			t.Errorf("process %s began %s in the midst of %s", pid, slot, open)
		case what == "begin" && slot < last:
			t.Errorf("slot %s came after %s", slot, last)
		case what == "end":
			done[slot]++
		}
		if what == "begin" && open != "" {
			cut++
		}
		open, openPID, last = slot, pid, slot
		if what == "end" {
			open = ""
		}
	}
	repeated := 0
	for _, n := range done {
		repeated += n - 1
	}
	t.Logf("%d slots were acted on, %d actions were cut by a kill, %d came through twice", len(done), cut, repeated)
	if cut == 0 || len(done) < 5 {
		t.Errorf("%d slots, %d cuts: the test shows nothing; the log:\n%s", len(done), cut, data)
	}
	if repeated > 3 { // the kill must fall between an action's end and the note of it, about a millisecond
		t.Errorf("%d slots were acted on twice; the log:\n%s", repeated, data)
	}
}
