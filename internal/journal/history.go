package journal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// History is what happened to one channel, or, under no channel's name, to the
// tags that runs move: those records whose effect still counts, the oldest
// first. Going back takes records away from its end and never adds one, so
// going back twice is going back by two, and not forth again. It is immutable.
type History struct {
	Entries []Record
	all     []Record
}

// HistoryOf replays the records of a channel. Those of runs, which have the kind
// [Run], belong to the channel "".
func HistoryOf(records []Record, channel string) History {
	var h History
	for _, r := range records {
		if r.Channel == channel && r.State == Done {
			h.all = append(h.all, r)
		}
	}
	Sort(h.all)
	for _, r := range h.all {
		if r.Kind != Rollback {
			h.Entries = append(h.Entries, r)
			continue
		}
		h.Entries = slices.DeleteFunc(h.Entries, func(e Record) bool { return slices.Contains(r.Undoes, e.ID) })
		if len(r.Undoes) == 0 { // it went forward, to a record that had been undone
			h.Entries = append(h.Entries, r)
		}
	}
	return h
}

// Step is a way back (or forward, to a record that was undone): what moves and
// what is undone by it.
type Step struct {
	From   string   // the record whose state is back; "" for the one before all
	Undoes []string // see [Record]
	Moves  []Move   // Digest is where the tag goes, Previous where the history has it now
	Stays  []Move   // tags that were new: there is nothing to go back to
}

// NothingError says that there is nothing to go back to, and why.
type NothingError struct{ Why string }

// Error gives the reason.
func (e *NothingError) Error() string { return e.Why }

// Back gives the step to what stood before the last entry. A run that
// only finished what a killed one had begun is one with it.
func (h History) Back() (Step, error) {
	if len(h.Entries) == 0 {
		return Step{}, &NothingError{"nothing has been moved yet, or all of it has been taken back"}
	}
	first := len(h.Entries) - 1
	for first > 0 && same(h.Entries[first-1], h.Entries[first]) {
		first--
	}
	return h.undo(first)
}

// To gives the step to what stood after the record with the id, or an unambiguous
// beginning or end of it.
func (h History) To(id string) (Step, error) {
	r, err := h.find(id)
	if err != nil {
		return Step{}, err
	}
	if r.Kind == Rollback && len(r.Undoes) > 0 { // what it went back to
		if r.From == "" {
			return Step{}, &NothingError{fmt.Sprintf("record %s went back to before the first one", r.ID)}
		}
		return h.To(r.From)
	}
	at := slices.IndexFunc(h.Entries, func(e Record) bool { return e.ID == r.ID })
	if at < 0 || at == len(h.Entries)-1 {
		return h.set(r), nil
	}
	return h.undo(at + 1)
}

// undo takes back the entries from first on.
func (h History) undo(first int) (Step, error) {
	var s Step
	if first > 0 {
		s.From = h.Entries[first-1].ID
	}
	gone := h.Entries[first:]
	seen := map[string]bool{}
	for _, e := range gone {
		s.Undoes = append(s.Undoes, e.ID)
		for _, m := range e.Moves {
			if seen[m.Name()] {
				continue
			}
			seen[m.Name()] = true
			now, before := last(gone, m), m.Previous
			if before == m.Digest && e.Kind == Run { // perhaps moved by a run of which no record was kept
				before = h.before(first, m)
			}
			if before == "" {
				s.Stays = append(s.Stays, Move{Image: m.Image, Tag: m.Tag, Digest: now, Previous: now})
				continue
			}
			s.Moves = append(s.Moves, Move{Image: m.Image, Tag: m.Tag, Digest: before, Previous: now})
		}
	}
	if !slices.ContainsFunc(s.Moves, Move.Moves) {
		return Step{}, &NothingError{fmt.Sprintf("before record %s the tags were not there, or pointed to the same", gone[0].ID)}
	}
	return s, nil
}

// set gives the step to what a record set: one that was undone, or the last one,
// whose tags someone else may have moved since.
func (h History) set(r Record) Step {
	s := Step{From: r.ID}
	for _, m := range r.Moves {
		s.Moves = append(s.Moves, Move{Image: m.Image, Tag: m.Tag, Digest: m.Digest, Previous: last(h.Entries, m)})
	}
	return s
}

// Left gives where the records left a tag, those that were taken back and those
// that took them back included; "" where none names it.
func (h History) Left(tag Move) digest.Digest {
	tag.Previous = ""
	return last(h.all, tag)
}

// last gives where the entries left a tag.
func last(entries []Record, of Move) digest.Digest {
	for _, e := range slices.Backward(entries) {
		if i := slices.IndexFunc(e.Moves, func(m Move) bool { return m.Name() == of.Name() }); i >= 0 {
			return e.Moves[i].Digest
		}
	}
	return of.Previous
}

// before gives where a tag was by the entries before the one at first; where
// they do not know, by its own record.
func (h History) before(first int, of Move) digest.Digest {
	for _, e := range slices.Backward(h.Entries[:first]) {
		if i := slices.IndexFunc(e.Moves, func(m Move) bool { return m.Name() == of.Name() }); i >= 0 {
			return e.Moves[i].Digest
		}
	}
	return of.Previous
}

// same says whether run b set nothing but what run a had set already: it found
// nothing to move, or a had been ended before it had moved everything.
func same(a, b Record) bool {
	return a.Kind == Run && b.Kind == Run && holds(a, b.Moves)
}

// holds says whether a record sets every tag of a set to the same content.
func holds(r Record, set []Move) bool {
	return !slices.ContainsFunc(set, func(want Move) bool {
		return !slices.ContainsFunc(r.Moves, func(m Move) bool { return m.Name() == want.Name() && m.Digest == want.Digest })
	})
}

func (h History) find(id string) (Record, error) {
	var found []Record
	for _, r := range h.all {
		if id != "" && (strings.HasPrefix(r.ID, id) || strings.HasSuffix(r.ID, id)) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return Record{}, fmt.Errorf("finding record %q: there is none that has moved these tags", id)
	case 1:
		return found[0], nil
	}
	return Record{}, fmt.Errorf("finding record %q: it means %d records, %s and %s among them", id, len(found), found[0].ID, found[1].ID)
}

// Stood says whether a set of tags, each with its digest, stood at once by some
// record of the channel.
func (h History) Stood(set []Move) bool {
	return slices.ContainsFunc(h.all, func(r Record) bool { return holds(r, set) })
}
