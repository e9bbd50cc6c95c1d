package build

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func chain() []Node {
	return []Node{
		{ID: "base"}, {ID: "other"},
		{ID: "ml", Needs: []string{"base"}},
		{ID: "app", Needs: []string{"ml", "not in this run"}},
	}
}

func TestScheduleRunsParentsFirst(t *testing.T) {
	var mu sync.Mutex
	var order []string
	out := Schedule(t.Context(), chain(), 4, func(_ context.Context, id string) error {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, id)
		return nil
	})
	for _, o := range out {
		if o.Err != nil {
			t.Errorf("%s: %v", o.ID, o.Err)
		}
	}
	if len(order) != 4 || slices.Index(order, "base") > slices.Index(order, "ml") || slices.Index(order, "ml") > slices.Index(order, "app") {
		t.Errorf("ran in the order %v", order)
	}
}

func TestScheduleStopsOnlyWhatDependsOnAFailure(t *testing.T) {
	broken := errors.New("exit code 1")
	var ran atomic.Int32
	out := Schedule(t.Context(), chain(), 1, func(_ context.Context, id string) error {
		ran.Add(1)
		if id == "base" {
			return broken
		}
		return nil
	})
	if ran.Load() != 2 {
		t.Errorf("%d nodes ran, want base and other", ran.Load())
	}
	var skip *SkippedError
	if !errors.As(out[3].Err, &skip) || skip.Cause != "base" || !errors.Is(out[3].Err, broken) {
		t.Errorf("app ended with %v, want it skipped because of base", out[3].Err)
	}
	if out[1].Err != nil {
		t.Errorf("other ended with %v", out[1].Err)
	}
}

func TestScheduleIsBounded(t *testing.T) {
	var nodes []Node
	for i := range 20 {
		nodes = append(nodes, Node{ID: string(rune('a' + i))})
	}
	var now, most atomic.Int32
	Schedule(t.Context(), nodes, 3, func(context.Context, string) error {
		n := now.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(time.Millisecond)
		now.Add(-1)
		return nil
	})
	if most.Load() != 3 {
		t.Errorf("%d ran at once, want 3", most.Load())
	}
}

func TestScheduleStartsNothingAfterCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("interrupted")
	var ran atomic.Int32
	out := Schedule(ctx, chain(), 1, func(context.Context, string) error {
		ran.Add(1)
		cancel(stop)
		return stop
	})
	if ran.Load() != 1 {
		t.Errorf("%d nodes ran after the cancel", ran.Load()-1)
	}
	for _, o := range out {
		if !errors.Is(o.Err, stop) {
			t.Errorf("%s ended with %v", o.ID, o.Err)
		}
	}
}
