package build

import (
	"context"
	"errors"
	"fmt"
)

// Node is one thing to do, after everything that it needs.
type Node struct {
	ID    string
	Needs []string // IDs of other nodes; an ID that no node has is ignored
}

// Outcome says how a node ended.
type Outcome struct {
	ID  string
	Err error // nil when it was done
}

// SkippedError is the outcome of a node that was not started because one that
// it needs had failed. It unwraps to the failure at the root.
type SkippedError struct {
	Cause string // the node that failed
	Err   error
}

// Error names the node that failed.
func (e *SkippedError) Error() string {
	return fmt.Sprintf("not started, because %s failed", e.Cause)
}

// Unwrap gives the failure at the root.
func (e *SkippedError) Unwrap() error { return e.Err }

// Schedule calls do once for each node, at most limit at a time, a node after
// all that it needs. A failure stops what depends on it and nothing else; a
// cancelled context starts nothing more. It returns when every call has
// returned, with the outcomes in the order of nodes, which must hold what a node
// needs before the node itself.
func Schedule(ctx context.Context, nodes []Node, limit int, do func(ctx context.Context, id string) error) []Outcome {
	type result struct {
		i   int
		err error
	}
	s := newSchedule(nodes)
	done := make(chan result)
	running := 0
	for s.left > 0 {
		for running < max(limit, 1) {
			i, ok := s.next()
			if !ok {
				break
			}
			if err := context.Cause(ctx); err != nil {
				s.finish(i, err)
				continue
			}
			running++
			go func() { done <- result{i, do(ctx, nodes[i].ID)} }()
		}
		if running == 0 {
			continue
		}
		r := <-done
		running--
		s.finish(r.i, r.err)
	}
	return s.outcomes
}

type schedule struct {
	nodes    []Node
	at       map[string]int
	started  []bool
	ended    []bool
	outcomes []Outcome
	left     int
}

func newSchedule(nodes []Node) *schedule {
	s := &schedule{
		nodes: nodes, at: make(map[string]int, len(nodes)),
		started: make([]bool, len(nodes)), ended: make([]bool, len(nodes)),
		outcomes: make([]Outcome, len(nodes)), left: len(nodes),
	}
	for i, n := range nodes {
		s.at[n.ID] = i
		s.outcomes[i].ID = n.ID
	}
	return s
}

// next gives the first node that is ready, ending on the way every node that
// can't be started any more.
func (s *schedule) next() (int, bool) {
	for i := range s.nodes {
		if s.started[i] {
			continue
		}
		ready, cause := s.ready(i)
		if cause != nil {
			s.finish(i, cause)
			continue
		}
		if ready {
			s.started[i] = true
			return i, true
		}
	}
	return 0, false
}

func (s *schedule) ready(i int) (bool, error) {
	ready := true
	for _, need := range s.nodes[i].Needs {
		j, ok := s.at[need]
		switch {
		case !ok:
		case j >= i:
			return false, fmt.Errorf("internal error: %s stands before %s, which it needs", s.nodes[i].ID, need)
		case !s.ended[j]:
			ready = false
		case s.outcomes[j].Err != nil:
			return false, skipped(need, s.outcomes[j].Err)
		}
	}
	return ready, nil
}

func skipped(need string, err error) error {
	var up *SkippedError
	if errors.As(err, &up) {
		return up
	}
	return &SkippedError{Cause: need, Err: err}
}

func (s *schedule) finish(i int, err error) {
	s.started[i], s.ended[i] = true, true
	s.outcomes[i].Err = err
	s.left--
}
