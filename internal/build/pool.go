package build

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-build/strata/internal/event"
)

// Member is one engine of a pool and the platforms that it is given.
type Member struct {
	Platforms []string // "linux/arm64"; empty means any
	Open      func(context.Context) (Engine, error)
}

// Pool gives each job to the first of several engines that has its platform. An
// engine is opened when it gets its first job. It implements [Engine] and
// [Runner].
type Pool struct {
	members []Member
	opened  []func(context.Context) (Engine, error)
}

// NewPool makes a pool of the members, of which there is at least one.
func NewPool(members []Member) *Pool {
	p := &Pool{members: members}
	for _, m := range members {
		p.opened = append(p.opened, once(m.Open))
	}
	return p
}

// once opens an engine at the first call; the others wait for it.
func once(open func(context.Context) (Engine, error)) func(context.Context) (Engine, error) {
	turn := make(chan struct{}, 1)
	var e Engine
	return func(ctx context.Context) (Engine, error) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if e != nil {
			return e, nil
		}
		var err error
		e, err = open(ctx)
		return e, err
	}
}

func (p *Pool) engine(ctx context.Context, platform string) (Engine, error) {
	i := slices.IndexFunc(p.members, func(m Member) bool {
		return len(m.Platforms) == 0 || slices.Contains(m.Platforms, platform)
	})
	if i < 0 {
		return nil, fmt.Errorf("choosing an engine: none of the project's has the platform %s", platform)
	}
	return p.opened[i](ctx)
}

// Build lets the engine of the job's platform build it.
func (p *Pool) Build(ctx context.Context, j Job, s event.Sink) (Result, error) {
	e, err := p.engine(ctx, j.Platform)
	if err != nil {
		return Result{}, err
	}
	return e.Build(ctx, j, s)
}

// Run lets the engine of the job's platform run it.
func (p *Pool) Run(ctx context.Context, j RunJob, s event.Sink) (int, []byte, error) {
	e, err := p.engine(ctx, j.Platform)
	if err != nil {
		return 0, nil, err
	}
	r, ok := e.(Runner)
	if !ok {
		return 0, nil, fmt.Errorf("running a command: the engine for %s can't", j.Platform)
	}
	return r.Run(ctx, j, s)
}
