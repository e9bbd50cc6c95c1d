//go:build linux

package buildkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
)

// The environment of a test binary that builds until it is killed.
const (
	childRoot = "STRATA_TEST_CHILD_ROOT"
	childHub  = "STRATA_TEST_CHILD_HUB"
)

// sleeper is a build that says when its step runs, and does not end by itself.
const sleeper = "FROM strata.internal/base\nRUN echo running; sleep 3600\n"

// child builds sleeper below root and prints a line when the step runs.
func child(root string) int {
	ctx := context.Background()
	e, err := Open(ctx, Options{Root: root, Registry: func() (string, error) { return os.Getenv(childHub), nil }})
	if err != nil {
		fmt.Println("opening:", err)
		return 1
	}
	_, err = e.Build(ctx, build.Job{Unit: "child", Dockerfile: []byte(sleeper), ContextDir: os.TempDir(), Platform: "linux"},
		event.Func(func(ev event.Event) {
			if ev.Type == event.StepLog && ev.Text == "running" {
				fmt.Println("running")
			}
		}))
	fmt.Println("building:", err)
	return 1
}

// startChild starts a child and waits until its RUN step runs.
func startChild(t *testing.T, root string, h *hub) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRoot+"="+root, childHub+"="+h.addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s := bufio.NewScanner(out)
	if !s.Scan() || s.Text() != "running" {
		t.Fatalf("the child said %q", s.Text())
	}
	return cmd
}

// kill ends a child as a lack of memory would.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// sleepers counts the processes that run sleeper's step.
func sleepers(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if strings.HasPrefix(string(data), "/bin/sh\x00-c\x00echo running; sleep 3600") {
			n++
		}
	}
	return n
}

func mountsBelow(t *testing.T, root string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range infos {
		out = append(out, m.Mountpoint)
	}
	return out
}

func TestOpenAndCloseAgainAndAgain(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	dockerfile := "FROM strata.internal/base\nRUN echo once > /made\n"
	for i, limit := range []time.Duration{150 * time.Millisecond, 60 * time.Millisecond, 60 * time.Millisecond} {
		before := time.Now()
		e := open(t, root, h)
		took := time.Since(before)
		t.Logf("start %d: ready in %v", i, took)
		if took > 8*limit { // the target itself is for an idle machine
			t.Errorf("start %d took %v, the target is %v", i, took, limit)
		}
		_, rec := mustBuild(t, e, job(t, dockerfile, nil))
		if cached := strings.Contains(rec.text(event.StepFinished), "RUN echo once > /made||true|"); cached != (i > 0) {
			t.Errorf("start %d: RUN cached is %v\n%s", i, cached, rec.text(event.StepFinished))
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if left := mountsBelow(t, root); len(left) > 0 {
			t.Errorf("start %d left mounts: %q", i, left)
		}
	}
}

func TestSecondProcessWaitsOrGivesUp(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	holder := startChild(t, root, h)

	_, err := Open(t.Context(), Options{Root: root, NoWait: true})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != holder.Process.Pid || diag.HintOf(err) == "" {
		t.Errorf("not waiting: %v, hint %q", err, diag.HintOf(err))
	}

	told := make(chan int, 2)
	waiting := func(_ string, pid int) { told <- pid }
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := Open(ctx, Options{Root: root, Waiting: waiting}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	if pid := <-told; pid != holder.Process.Pid {
		t.Errorf("told to wait for %d, not %d", pid, holder.Process.Pid)
	}

	time.AfterFunc(200*time.Millisecond, func() { _ = holder.Process.Kill() })
	e, err := Open(t.Context(), Options{Root: root, Waiting: waiting})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestOrdinaryUserIsToldAtOnce(t *testing.T) {
	err := checkUser(1000)
	if err == nil || err.Error() != "opening engine: the embedded engine needs root" ||
		!strings.Contains(diag.HintOf(err), "--engine") {
		t.Errorf("%v, hint %q", err, diag.HintOf(err))
	}
}

func TestMissingRunc(t *testing.T) {
	saved := runcZstd
	t.Cleanup(func() { runcZstd = saved })
	runcZstd = nil
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), Options{Root: t.TempDir()})
	if err == nil || !strings.HasPrefix(err.Error(), "finding runc: ") || !strings.Contains(diag.HintOf(err), "embedrunc") {
		t.Errorf("%v, hint %q", err, diag.HintOf(err))
	}
	runcZstd = saved
	open(t, t.TempDir(), nil) // the failed start gave its turn back
}

func TestSecondEngineInTheProcessWaits(t *testing.T) {
	e := open(t, t.TempDir(), nil)
	_, err := Open(t.Context(), Options{Root: t.TempDir(), NoWait: true})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("not waiting: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { e.Close() })
	open(t, t.TempDir(), nil)
}

func TestKilledEngineIsClearedUp(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	kill(t, startChild(t, root, h))
	if sleepers(t) == 0 {
		t.Log("the container ended with its engine")
	}

	before := time.Now()
	e := open(t, root, h)
	t.Logf("ready after a kill in %v", time.Since(before))
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes of the killed engine still run", n)
	}
	if left := mountsBelow(t, root); len(left) > 0 {
		t.Errorf("mounts of the killed engine: %q", left)
	}
	states, _ := filepath.Glob(filepath.Join(runcState, "*", "state.json"))
	for _, s := range states {
		if strings.HasPrefix(bundleOf(s), root) {
			t.Errorf("runc still knows %q", s)
		}
	}
	mustBuild(t, e, job(t, "FROM strata.internal/base\nRUN echo works > /made\n", nil))
}

// Whatever the engine was doing when it was killed, the next one starts, and
// builds what the killed one did not finish.
func TestKillsAtAnyMoment(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	var ids []string // of the containers that were killed
	for i := range 10 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childRoot+"="+root, childHub+"="+h.addr)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+i*35) * time.Millisecond)
		kill(t, cmd)
		ids = append(ids, containers(root)...)
		e := open(t, root, h)
		mustBuild(t, e, job(t, "FROM strata.internal/base\nRUN echo works > /made\n", nil))
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := mountsBelow(t, root); len(left) > 0 || sleepers(t) > 0 {
		t.Errorf("left: %d processes, mounts %q", sleepers(t), left)
	}
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(runcState, id)); err == nil {
			t.Errorf("runc still knows %q", id)
		}
	}
}

// containers lists the containers that an engine below root has a bundle for.
func containers(root string) []string {
	var ids []string
	found, _ := filepath.Glob(filepath.Join(root, "runc-*", "executor", "*", "rootfs"))
	for _, f := range found {
		ids = append(ids, filepath.Base(filepath.Dir(f)))
	}
	return ids
}

// Where overlayfs can't be used, copies are.
func TestNativeSnapshotter(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e, err := Open(t.Context(), Options{
		Root: t.TempDir(), Snapshotter: "native", DockerConfig: t.TempDir(), MaxParallelism: 1,
		Registry: func() (string, error) { return h.addr, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	j := job(t, "FROM strata.internal/base\nRUN echo works > /made\n", nil)
	j.SourceDateEpoch = seconds(0)
	r, _ := mustBuild(t, e, j)
	if text := h.layerText(t, "out/app", r.Body); !strings.Contains(text, "made 0\nworks\n") {
		t.Errorf("image:\n%s", text)
	}
}

// Builds of one run share the engine; the same step is run once.
func TestBuildsAtTheSameTime(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	var wg sync.WaitGroup
	for i := range 6 {
		j := job(t, fmt.Sprintf("FROM strata.internal/base\nRUN echo same; sleep 0.2\nRUN echo %d > /n\n", i%3), nil)
		wg.Go(func() {
			if _, err := e.Build(t.Context(), j, event.Discard); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	e := open(t, root, h)
	ctx, cancel := context.WithCancel(t.Context())
	var at time.Time
	_, err := e.Build(ctx, job(t, sleeper, nil), event.Func(func(ev event.Event) {
		if ev.Type == event.StepLog && ev.Text == "running" {
			at = time.Now()
			cancel()
		}
	}))
	took := time.Since(at)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled build: %v", err)
	}
	t.Logf("cancelled in %v", took)
	if took > time.Second {
		t.Errorf("cancelling took %v", took)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes still run", n)
	}
	mustBuild(t, e, job(t, "FROM strata.internal/base\nRUN echo works > /made\n", nil))
}
