//go:build linux

package buildkit

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/event"
)

func TestRunCommandInImage(t *testing.T) {
	h := newHub(t)
	d := h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	base := RunJob{Unit: "app", Image: RegistryHost + "/base@" + d.String(), Platform: "linux/" + runtime.GOARCH}
	for _, tc := range []struct {
		name string
		edit func(*RunJob)
		code int
		want string
	}{
		{"own command", func(*RunJob) {}, 0, "yes\n"},
		{"args and env", func(j *RunJob) {
			j.Args, j.Env = []string{"/bin/sh", "-c", "echo $FROM_BASE $MINE"}, []string{"MINE=too"}
		}, 0, "yes too\n"},
		{"exit code", func(j *RunJob) { j.Args = []string{"/bin/sh", "-c", "echo bad; exit 7"} }, 7, "bad\n"},
		{"user", func(j *RunJob) { j.Args, j.User = []string{"/bin/sh", "-c", "id"}, "nobody" }, 0, "65534\n"},
		{"not cached, nothing kept", func(j *RunJob) {
			j.Args = []string{"/bin/sh", "-c", "cat /left 2>/dev/null; echo left > /left; cat /left"}
		}, 0, "left\n"},
		{"again", func(j *RunJob) {
			j.Args = []string{"/bin/sh", "-c", "if [[ -f /left ]]; then echo kept; else echo clean; fi"}
		}, 0, "clean\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := base
			tc.edit(&j)
			rec := &recorder{}
			code, out, err := e.Run(t.Context(), j, rec)
			if err != nil || code != tc.code || !strings.HasSuffix(string(out), tc.want) {
				t.Errorf("exit code %d, output %q, %v", code, out, err)
			}
			if !strings.Contains(rec.text(event.StepLog), strings.TrimSpace(tc.want)) {
				t.Errorf("events:\n%s", rec.text(event.StepLog))
			}
		})
	}
}

func TestRunTimeout(t *testing.T) {
	h := newHub(t)
	d := h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	began := time.Now()
	_, out, err := e.Run(t.Context(), RunJob{
		Image: RegistryHost + "/base@" + d.String(), Platform: "linux/" + runtime.GOARCH,
		Args: []string{"/bin/sh", "-c", "echo running; sleep 3600"}, Timeout: 3 * time.Second,
	}, event.Discard)
	if !errors.Is(err, ErrTimeout) || string(out) != "running\n" {
		t.Errorf("output %q, %v", out, err)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("took %v", took)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes still run", n)
	}
}

func TestUsageAndPrune(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	e := open(t, root, h)
	mustBuild(t, e, job(t, "FROM strata.internal/base\nRUN echo made > /made\n", nil))
	u, err := e.Usage(t.Context())
	if err != nil || u.Records == 0 || u.Bytes < int64(len(shell)) {
		t.Errorf("usage %+v, %v", u, err)
	}
	if _, err := e.Prune(t.Context(), PruneOptions{KeepFor: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if kept, err := e.Usage(t.Context()); err != nil || kept.Bytes < u.Bytes/2 {
		t.Errorf("kept %+v of %+v, %v", kept, u, err)
	}
	freed, err := e.Prune(t.Context(), PruneOptions{})
	if err != nil || freed < int64(len(shell)) {
		t.Errorf("freed %d, %v", freed, err)
	}
	if left, err := e.Usage(t.Context()); err != nil || left.Bytes != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
	// The last record of an image that was exported is gone as well; blobs go
	// with the collection that follows.
	if err := e.worker.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(root, "runc-*", "content", "blobs", "sha256", "*"))
	if err != nil || len(blobs) != 0 {
		t.Errorf("%d blobs are left, %v", len(blobs), err)
	}
}
