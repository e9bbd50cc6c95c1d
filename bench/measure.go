package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sample is one run of one tool.
type sample struct {
	Seconds float64 `json:"seconds"`
	Peak    int64   `json:"peak"` // bytes of resident memory, tool and engine together
	Load    float64 `json:"load"` // the machine's load average when the run began

	Requests int   `json:"requests"`
	Depth    int   `json:"depth"` // see traffic
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`

	log traffic
}

// measure runs commands one after the other and says what they took. engine is
// the process that works for them, or 0.
func measure(ctx context.Context, p *proxy, rtt time.Duration, engine int, cmds ...*exec.Cmd) (sample, error) {
	s := sample{Load: load()}
	if engine != 0 {
		// Forgets the engine's peak (proc(5): clear_refs, 5).
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", engine), []byte("5"), 0)
	}
	p.begin(rtt)
	began := time.Now()
	for _, cmd := range cmds {
		peak, err := runWatched(ctx, cmd, engine)
		s.Peak = max(s.Peak, peak)
		if err != nil {
			return s, err
		}
	}
	s.Seconds = time.Since(began).Seconds()
	s.log = p.counted()
	s.Requests, s.Sent, s.Received, s.Depth = s.log.Requests, s.log.Sent, s.log.Received, s.log.Depth
	return s, nil
}

// runWatched runs one command to its end and gives the largest sum of the
// memory of its processes and the engine's.
func runWatched(ctx context.Context, cmd *exec.Cmd, engine int) (int64, error) {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := startGroup(cmd); err != nil {
		return 0, err
	}
	stop := make(chan struct{})
	var peak int64
	var wg sync.WaitGroup
	wg.Go(func() { peak = watch(stop, cmd.Process.Pid, engine) })
	err := waitGroup(ctx, cmd)
	close(stop)
	wg.Wait()
	if err != nil {
		return peak, fmt.Errorf("running %s: %w\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	return peak, nil
}

// startGroup starts a command in a process group of its own, so that it can be
// ended with everything that it has started.
func startGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return nil
}

// waitGroup waits for a command. When ctx ends first it asks the command to
// end, and after ten seconds kills it with its group.
func waitGroup(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
	return context.Cause(ctx)
}

// watch adds up the peak memory (VmHWM) of the processes that descend from the
// given ones, and gives the largest sum that it has seen. The processes
// themselves are looked at often, the list of descendants less often, since it
// takes a walk through /proc.
func watch(stop <-chan struct{}, pids ...int) int64 {
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	var most int64
	family := pids
	for i := 0; ; i++ {
		if i%8 == 0 {
			family = descendants(pids)
		}
		var sum int64
		for _, pid := range family {
			sum += peakOf(pid)
		}
		most = max(most, sum)
		select {
		case <-stop:
			return most
		case <-tick.C:
		}
	}
}

// peakOf gives the peak memory of a process in bytes; 0 when it is gone.
func peakOf(pid int) int64 {
	if pid == 0 {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(data, []byte("\nVmHWM:"))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("kB"))
	kb, _ := strconv.ParseInt(strings.TrimSpace(string(line)), 10, 64)
	return kb << 10
}

// descendants gives the processes and all that they have started.
func descendants(pids []int) []int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// "PID (NAME) STATE PPID": the name may hold anything.
		at := bytes.LastIndexByte(data, ')')
		fields := bytes.Fields(data[at+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(string(fields[1]))
		parents[parent] = append(parents[parent], pid)
	}
	var all []int
	queue := append([]int(nil), pids...)
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if pid != 0 {
			all = append(all, pid)
			queue = append(queue, parents[pid]...)
		}
	}
	return all
}

// load is the machine's load average of the last minute.
func load() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// tail keeps the last bytes that a command has written.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append([]byte(nil), t.data[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}

// unmountBelow undoes mounts that a killed engine has left in a folder, the
// innermost first.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	var errs []error
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 2 || !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmounting %q: %w", fields[1], err))
		}
	}
	return errors.Join(errs...)
}
