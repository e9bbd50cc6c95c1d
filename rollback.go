package strata

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/record"
)

// Back is what is to go back, and how far.
type Back struct {
	Channel string // "" means the tags that runs move
	To      string // the record whose state is wanted, or a beginning or end of its id; "" means what stood before the last one
}

// String says what is done.
func (b Back) String() string { return strings.TrimSpace("rolling back " + b.Channel) }

// Rollback sets the tags of a channel, or those that runs move, to where they
// were. Nothing moves unless all that they will point to is still there.
func Rollback(ctx context.Context, c Config, b Back, o MoveOptions) (Movement, error) {
	if err := known(c, b.Channel); err != nil {
		return Movement{}, fmt.Errorf("%s: %w", b, err)
	}
	m, err := newMover(ctx, c, o)
	if err != nil {
		return Movement{}, err
	}
	b.Channel = m.channelOf(b)
	if err := m.rollback(ctx, b); err != nil {
		return m.movement, fmt.Errorf("%s: %w", b, err)
	}
	return m.movement, nil
}

// channelOf gives the channel that is meant: the one that is named, or that of
// the record which is.
func (m *mover) channelOf(b Back) string {
	if b.Channel != "" || b.To == "" {
		return b.Channel
	}
	for _, r := range m.records {
		if strings.HasPrefix(r.ID, b.To) || strings.HasSuffix(r.ID, b.To) {
			return r.Channel
		}
	}
	return ""
}

func (m *mover) rollback(ctx context.Context, b Back) error {
	// Who types the command again after it was killed wants it done, and not to
	// go back twice.
	for _, r := range m.movement.Finished {
		if r.Kind == journal.Rollback && r.Channel == b.Channel && b.To == "" {
			m.movement.Record, m.movement.Resumed = r, true
			return nil
		}
	}
	if err := known(m.Config, b.Channel); err != nil {
		return err
	}
	step, err := m.stepBack(ctx, b)
	if err != nil {
		return err
	}
	set, err := m.settled(ctx, step.Moves)
	if err != nil {
		return err
	}
	m.movement.Stays = step.Stays
	gone, err := m.whole(ctx, set, nil)
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		return diag.Hint(fmt.Errorf("it is not complete any more, so nothing has moved:\n  %s", strings.Join(gone, "\n  ")),
			"--to RECORD goes to another one; strata history%s lists them", m.pushFlag())
	}
	if err := m.sheltered(set); err != nil {
		return err
	}
	r, err := m.newRecord(journal.Rollback, b.Channel)
	if err != nil {
		return err
	}
	r.From, r.Undoes, r.Moves = step.From, step.Undoes, set
	return m.begin(ctx, r)
}

// known refuses a channel that the project does not have, or has no more.
func known(c Config, channel string) error {
	switch {
	case channel == "":
		return nil
	case len(c.Project.Channels) == 0:
		return diag.Hint(errors.New("the project has no channels"), "declare them in strata.yaml: channels: [dev, staging, stable]; without a channel, strata rollback takes the last run's tags back")
	}
	return CheckChannel(c.Project, channel)
}

// mostRuns is how many runs' records are read at first: going back by one needs
// two of them, and each is a request.
const mostRuns = 32

// stepBack says what goes where.
func (m *mover) stepBack(ctx context.Context, b Back) (journal.Step, error) {
	ask := func(h journal.History) (journal.Step, error) {
		if b.To != "" {
			return h.To(b.To)
		}
		return h.Back()
	}
	if b.Channel != "" {
		h := journal.HistoryOf(m.records, b.Channel)
		step, err := ask(h)
		return step, m.explain(ctx, b, h, err)
	}
	for limit := mostRuns; ; limit = 0 {
		more, err := m.readRuns(ctx, limit)
		if err != nil {
			return journal.Step{}, err
		}
		h := journal.HistoryOf(slices.Concat(m.records, m.runs), "")
		step, err := ask(h)
		if more && (err != nil || step.From == "") {
			continue
		}
		return step, m.explain(ctx, b, h, err)
	}
}

// explain says why there is no step back.
func (m *mover) explain(ctx context.Context, b Back, h journal.History, err error) error {
	var nothing *journal.NothingError
	if errors.As(err, &nothing) {
		strange, failed := m.unrecorded(ctx, b, h)
		if failed != nil {
			return failed
		}
		if len(strange) > 0 {
			return diag.Hint(fmt.Errorf("there is nothing to go back to: %s: moved by something that keeps no record, such as strata rebase, or by hand", strings.Join(strange, ", ")),
				"by the records, %s; %s", err, b.anew(m.pushFlag()))
		}
		return diag.Hint(fmt.Errorf("there is nothing to go back to: %w", err), "strata history%s lists what has moved the tags", m.pushFlag())
	} else if err != nil {
		return diag.Hint(err, "strata history%s lists them", m.pushFlag())
	}
	return nil
}

// anew says how tags are set without going back.
func (b Back) anew(push string) string {
	if b.Channel == "" {
		return "strata build" + push + " sets the tags of what is checked out"
	}
	return fmt.Sprintf("strata promote%s FROM %s sets the tags of another release", push, b.Channel)
}

// unrecorded names the tags that are not where the records have left them.
func (m *mover) unrecorded(ctx context.Context, b Back, h journal.History) ([]string, error) {
	to := b.Channel
	if to == "" {
		to = latest
	}
	members, err := releaseMembers(m.Config, Promotion{From: to, To: to})
	if err != nil {
		return nil, nil //nolint:nilerr // no such tags: nothing can have moved them
	}
	set := setOf(members, func(mb *member) []string { return mb.from })
	now, err := m.current(ctx, set)
	if err != nil {
		return nil, err
	}
	var strange []string
	for i, move := range set {
		if now[i] != "" && now[i] != h.Left(move) {
			strange = append(strange, move.Name())
		}
	}
	return strange, nil
}

// readRuns reads the records of runs, the newest so many, as records of what
// moved.
func (m *mover) readRuns(ctx context.Context, limit int) (more bool, err error) {
	runs, more, err := readRuns(ctx, m.Config, limit)
	if err != nil {
		return false, err
	}
	images := map[string]string{} // by what records call them
	for _, u := range m.Project.Units() {
		repo, err := repository(u.Image, m.Push)
		if err != nil {
			return false, err
		}
		images[repo.FamiliarString()] = u.Image
	}
	m.runs = nil
	for _, r := range runs {
		if e := runEntry(r, images, m.Project.Protect); slices.ContainsFunc(e.Moves, journal.Move.Moves) {
			m.runs = append(m.runs, e)
		}
	}
	return more, nil
}

// runEntry gives what a run moved of the project's tags. Protected ones stay
// where they are.
func runEntry(r record.Record, images map[string]string, protect []string) journal.Record {
	e := journal.Record{ID: r.ID, Kind: journal.Run, State: journal.Done, Started: r.Started, Finished: r.Finished, Command: r.Command, Revision: r.Revision, Dirty: r.Dirty}
	for _, t := range r.Tags {
		i := strings.LastIndexByte(t.Tag, ':')
		if i < 0 {
			continue
		}
		image, ours := images[t.Tag[:i]]
		to, from := digest.Digest(t.Digest), digest.Digest(t.Previous)
		if !ours || to.Validate() != nil || from != "" && from.Validate() != nil || protects(protect, t.Tag[i+1:]) {
			continue
		}
		e.Moves = append(e.Moves, journal.Move{Image: image, Tag: t.Tag[i+1:], Digest: to, Previous: from})
	}
	return e
}

// settled gives the set with where its tags are now. They have to be where the
// history says, or where they are to go: what someone else has moved since would
// be lost.
func (m *mover) settled(ctx context.Context, set []journal.Move) ([]journal.Move, error) {
	now, err := m.current(ctx, set)
	if err != nil {
		return nil, err
	}
	var strange []string
	out := slices.Clone(set)
	for i, move := range set {
		if now[i] != move.Previous && now[i] != move.Digest {
			strange = append(strange, move.Name())
		}
		out[i].Previous = now[i]
	}
	if len(strange) > 0 && !m.Force {
		return nil, diag.Hint(fmt.Errorf("no record tells who has moved %s to where it is", strings.Join(strange, ", ")), "--force moves it all the same")
	}
	return out, nil
}

// readRuns reads the records that runs keep beside the project's images, the
// newest first; more says whether there are others. A limit of 0 is none.
func readRuns(ctx context.Context, c Config, limit int) (runs []record.Record, more bool, err error) {
	if limit == 0 {
		limit = math.MaxInt - 1
	}
	texts, err := Records(ctx, c, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("reading the records of runs: %w", err)
	}
	if more = len(texts) > limit; more {
		texts = texts[:limit]
	}
	for _, text := range texts {
		if r, err := record.Decode(text); err == nil { // one of a newer format is nothing to go back to
			runs = append(runs, r)
		}
	}
	return runs, more, nil
}

// History reads what runs, promotions and rollbacks have left beside the
// project's images, both the newest first.
func History(ctx context.Context, c Config, limit int) (runs []record.Record, moves []journal.Record, warnings []string, err error) {
	runs, _, err = readRuns(ctx, c, limit)
	if err != nil {
		return nil, nil, nil, err
	}
	home, err := repository(c.Project.Image, c.Push)
	if err != nil {
		return nil, nil, nil, err
	}
	moves, warnings, err = readJournal(ctx, c.Client.Direct(), home)
	slices.Reverse(moves)
	if limit > 0 && len(moves) > limit {
		moves = moves[:limit]
	}
	return runs, moves, warnings, err
}
