package strata

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/record"
)

// stepsBack is how many of the entries that count of each channel, and of the
// tags that runs move, keep what they name whatever their age: so often can one
// go back.
const stepsBack = 3

// allLogs gives what records tell, those of runs and those of promotions.
func (f *findings) allLogs() []prune.Log {
	var records []journal.Record
	channels := map[string]bool{"": true}
	for _, r := range f.runs {
		if j := asJournal(r); len(j.Moves) > 0 {
			records = append(records, j)
		}
	}
	for _, r := range f.journal {
		records = append(records, r)
		channels[r.Channel] = true
	}
	hold := map[string]bool{}
	for channel := range channels {
		entries := journal.HistoryOf(records, channel).Entries
		for _, e := range entries[max(0, len(entries)-stepsBack):] {
			hold[e.ID] = true
		}
	}
	var out []prune.Log
	for _, id := range f.order {
		if r, ok := f.runs[id]; ok {
			l := prune.Log{ID: id, At: r.Started, Hold: hold[r.ID], Moves: moved(asJournal(r))}
			if r.Finished.After(l.At) {
				l.At = r.Finished
			}
			for _, u := range r.Units {
				if d := digest.Digest(u.Digest); d.Validate() == nil {
					l.Units = append(l.Units, d)
				}
			}
			out = append(out, l)
		}
		if r, ok := f.journal[id]; ok {
			l := prune.Log{ID: id, At: r.Started, Promotion: true, Hold: hold[r.ID] || r.State == journal.Started, Moves: moved(r)}
			if r.Finished.After(l.At) {
				l.At = r.Finished
			}
			out = append(out, l)
		}
	}
	return out
}

// asJournal takes a run's record as one that moved tags.
func asJournal(r record.Record) journal.Record {
	j := journal.Record{Version: journal.Version, ID: r.ID, Kind: journal.Run, State: journal.Done, Started: r.Started}
	for _, t := range r.Tags {
		at := strings.LastIndex(t.Tag, ":")
		if at < 0 || digest.Digest(t.Digest).Validate() != nil {
			continue
		}
		j.Moves = append(j.Moves, journal.Move{
			Image: t.Tag[:at], Tag: t.Tag[at+1:], Digest: digest.Digest(t.Digest), Previous: digest.Digest(t.Previous),
		})
	}
	return j
}

func moved(r journal.Record) []prune.Move {
	out := make([]prune.Move, len(r.Moves))
	for i, m := range r.Moves {
		out[i] = prune.Move{Tag: m.Tag, Digest: m.Digest, Previous: m.Previous}
	}
	return out
}
