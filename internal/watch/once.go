package watch

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Once looks at every image, turns the slots, tries each action that is due
// once, and says what failed, now or before and waits. A host that limits requests is left alone for as
// long as it asked.
func (s *Service) Once(ctx context.Context) error {
	if err := s.round(ctx, true); err != nil {
		return err
	}
	var errs []error
	if s.seen.roundErr != nil {
		errs = append(errs, s.seen.roundErr)
	}
	tried := map[*Job]bool{}
	for ctx.Err() == nil {
		j := s.state.pick(s.config.Now(), func(j *Job) bool { return !tried[j] })
		if j == nil {
			break
		}
		tried[j] = true
		if err := s.start(ctx, j); err != nil {
			return err
		}
		o := <-s.results
		if err := s.finish(o); err != nil {
			return err
		}
		if o.err != nil && !o.stopped {
			errs = append(errs, fmt.Errorf("%s for %s: %w", j.Policy, j.Event.Subject(), o.err))
		}
	}
	for _, j := range s.state.Jobs {
		if j.Failures == 0 || tried[j] {
			continue
		}
		e := j.Event
		s.note(Note{Type: ActionWaiting, Policy: j.Policy, Event: &e, Attempt: j.Attempts, Error: j.Error, Retry: j.NotBefore})
		errs = append(errs, fmt.Errorf("%s for %s: it failed, and is not tried again before %s", j.Policy, e.Subject(), j.NotBefore.Format(time.RFC3339)))
	}
	if ctx.Err() == nil {
		s.tellLooked()
	}
	s.publish()
	return errors.Join(errs...)
}

// tellLooked says what looking once came to where nothing else does: how much
// was looked at, and when a look or a slot is next.
func (s *Service) tellLooked() {
	if len(s.project.Images)+len(s.project.Layers) == 0 {
		return // that was told
	}
	now, limited := s.config.Now(), 0
	for _, i := range s.project.Images {
		if s.state.Hosts[i.Host].After(now) {
			limited++
		}
	}
	n := Note{Type: Looked, Retry: s.state.nextRound(s.project, now, nil)}
	what := "slot"
	if len(s.project.Images) > 0 {
		n.Retry = s.state.nextRound(Project{Images: s.project.Images}, now, nil)
		n.Text, what = fmt.Sprintf("looked at %d of %d pinned images; ", s.looked, len(s.project.Images)), "look"
	}
	if limited > 0 {
		n.Text += fmt.Sprintf("%d left alone, since the registry limits requests; ", limited)
	}
	n.Text += "next " + what + " at " + n.Retry.UTC().Format(time.RFC3339)
	s.note(n)
}

// tellIdle says, once, that the project has nothing to watch.
func (s *Service) tellIdle() {
	idle := len(s.project.Images)+len(s.project.Layers) == 0
	if idle && !s.idle {
		s.note(Note{Type: Idle, Text: s.config.Name})
	}
	s.idle = idle
}
