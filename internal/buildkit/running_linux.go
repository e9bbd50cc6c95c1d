package buildkit

import (
	"context"
	"sync"
	"time"

	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
)

// running is an executor that knows which of its processes were told to end
// and have not yet. A cancelled build waits for them.
type running struct {
	executor.Executor
	mu   sync.Mutex
	runs map[*run]struct{}
}

type run struct {
	ctx  context.Context // only to ask whether it was cancelled
	done chan struct{}
}

func newRunning(e executor.Executor) *running {
	return &running{Executor: e, runs: map[*run]struct{}{}}
}

// Run runs a container and keeps count of it.
func (r *running) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	defer r.begin(ctx)()
	return r.Executor.Run(ctx, id, root, mounts, p, started)
}

// Exec runs a process in a container and keeps count of it.
func (r *running) Exec(ctx context.Context, id string, p executor.ProcessInfo) error {
	defer r.begin(ctx)()
	return r.Executor.Exec(ctx, id, p)
}

func (r *running) begin(ctx context.Context) (end func()) {
	this := &run{ctx: ctx, done: make(chan struct{})}
	r.mu.Lock()
	r.runs[this] = struct{}{}
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		delete(r.runs, this)
		r.mu.Unlock()
		close(this.done)
	}
}

// cancelled gives one run that was cancelled and goes on, or nil.
func (r *running) cancelled() *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	for this := range r.runs {
		if this.ctx.Err() != nil {
			return this
		}
	}
	return nil
}

// settle waits until every cancelled run has ended, for limit at most.
func (r *running) settle(limit time.Duration) {
	deadline := time.After(limit)
	for this := r.cancelled(); this != nil; this = r.cancelled() {
		select {
		case <-this.done:
		case <-deadline:
			return
		}
	}
}
