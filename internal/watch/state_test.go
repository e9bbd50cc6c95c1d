package watch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
)

func TestTwoServicesExcludeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		s, err := Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), w.config())
		if err == nil || !strings.HasPrefix(err.Error(), "ghcr.io/user/app is being watched already, by process ") ||
			!strings.HasSuffix(err.Error(), " in /srv/app since 2026-11-22T12:00:00Z") || !strings.Contains(diag.HintOf(err), "--name") {
			t.Errorf("the second says %v (%s)", err, diag.HintOf(err))
		}
		other := w.config()
		other.Name = "ghcr.io/user/other"
		o, err := Open(t.Context(), other)
		if err != nil {
			t.Fatalf("another name: %v", err)
		}
		if err := errors.Join(o.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		s, err = Open(t.Context(), w.config())
		if err != nil {
			t.Fatalf("after the first has ended: %v", err)
		}
		s.Close()
	})
}

// A state that can't be read is named and left as it is.
func TestDamagedState(t *testing.T) {
	tests := map[string]struct{ data, want string }{
		"empty":         {"", "it is damaged: EOF"},
		"cut":           {`{"version": 1, "layers": {"base": {"slot": "2026-`, "it is damaged: unexpected EOF"},
		"newer":         {`{"version": 2}`, "its version is 2, this program knows 1"},
		"no version":    {`{}`, "its version is 0, this program knows 1"},
		"no slot":       {`{"version": 1, "layers": {"base": {}}}`, `it is damaged: layer "base" has no slot`},
		"no layer":      {`{"version": 1, "layers": {"base": null}}`, `it is damaged: layer "base" has no slot`},
		"no image":      {`{"version": 1, "images": {"debian": null}}`, `it is damaged: nothing stands for image "debian"`},
		"no event":      {`{"version": 1, "jobs": [{"policy": "report"}]}`, "it is damaged: an action has no event"},
		"something new": {`{"version": 1} {}`, "it is damaged: something follows it"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, dir: t.TempDir(), every: time.Minute}
			if err := os.MkdirAll(filepath.Dir(w.stateFile()), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(w.stateFile(), []byte(test.data), 0o600); err != nil {
				t.Fatal(err)
			}
			c := w.config()
			c.Rand = func() float64 { return 0 }
			_, err := Open(t.Context(), c)
			want := `reading the state of the watch "` + w.stateFile() + `": ` + test.want
			if err == nil || err.Error() != want {
				t.Errorf("it said %v, want %s", err, want)
			}
			if hint := diag.HintOf(err); !strings.HasSuffix(hint, "rm "+w.stateFile()) {
				t.Errorf("the hint is %q", hint)
			}
			if data, err := os.ReadFile(w.stateFile()); err != nil || string(data) != test.data {
				t.Errorf("the file is now %q, %v", data, err)
			}
			if _, err := Open(t.Context(), c); err == nil || strings.Contains(err.Error(), "watched already") {
				t.Errorf("the lock is still held: %v", err)
			}
		})
	}
}

// A file that was being written when the machine went down is not looked at.
func TestHalfWrittenStateIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers
		w.run(time.Hour)
		if err := os.WriteFile(w.stateFile()+".new", []byte(`{"ver`), 0o600); err != nil {
			t.Fatal(err)
		}
		w.run(time.Hour)
		if len(w.done) != 3 {
			t.Errorf("it did %v", w.done)
		}
	})
}

// The actions of a policy that is not asked for any more are forgotten.
func TestForgottenPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.run(time.Minute, attempts{"rebuild", nil}.failing(), attempts{"tell", nil}.failing())
		w.run(24*time.Hour, attempts{"tell", nil}.failing())
		st, err := readState(w.stateFile())
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, j := range st.Jobs {
			left = append(left, j.Policy)
		}
		if diff := cmp.Diff([]string{"tell"}, left); diff != "" {
			t.Errorf("actions left (-want +got):\n%s", diff)
		}
	})
}
