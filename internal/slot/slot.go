// Package slot tells in which time slot of a refresh policy a moment lies.
//
// It takes a policy and a time and gives the slot's name, beginning and end;
// the name enters a recipe. All machines agree on a slot without talking to
// each other. It has no clock and no I/O; all times are UTC.
package slot

import (
	"fmt"
	"time"

	"github.com/strata-build/strata/internal/spec"
)

// Slot is one stretch of time in which an image of a layer may stand.
type Slot struct {
	Name  string    // "2026-W47", "2026-11-22", "2026-11" or "2026-11-21T06:00Z"
	Start time.Time // part of the slot
	End   time.Time // not part of the slot: the next one's Start
}

// At gives the slot that t lies in.
func At(r spec.Refresh, t time.Time) Slot {
	t = t.UTC()
	start := begin(r, t)
	if start.After(t) {
		start = begin(r, previous(r, t))
	}
	return from(r, start)
}

// Previous gives the slot before s.
func Previous(r spec.Refresh, s Slot) Slot { return At(r, s.Start.Add(-time.Second)) }

// begin gives the beginning of the slot of t's calendar day, week, month or
// period; it may lie after t.
func begin(r spec.Refresh, t time.Time) time.Time {
	clock := time.Duration(r.Hour)*time.Hour + time.Duration(r.Minute)*time.Minute
	midnight := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch r.Every {
	case spec.EveryDay:
		return midnight.Add(clock)
	case spec.EveryWeek:
		since := (int(t.Weekday()) - int(r.Weekday) + 7) % 7
		return midnight.AddDate(0, 0, -since).Add(clock)
	case spec.EveryMonth:
		return time.Date(t.Year(), t.Month(), r.Day, 0, 0, 0, 0, time.UTC).Add(clock)
	}
	period := max(int64(r.Period/time.Second), 1)
	offset := int64(clock / time.Second)
	n := (t.Unix() - offset) / period
	if (t.Unix()-offset)%period < 0 {
		n--
	}
	return time.Unix(n*period+offset, 0).UTC()
}

// previous gives a moment one calendar step before t.
func previous(r spec.Refresh, t time.Time) time.Time {
	switch r.Every {
	case spec.EveryWeek:
		return t.AddDate(0, 0, -7)
	case spec.EveryMonth:
		return time.Date(t.Year(), t.Month()-1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t.AddDate(0, 0, -1)
}

func from(r spec.Refresh, start time.Time) Slot {
	s := Slot{Start: start}
	switch r.Every {
	case spec.EveryDay:
		s.Name, s.End = start.Format(time.DateOnly), start.AddDate(0, 0, 1)
	case spec.EveryWeek:
		year, week := start.ISOWeek()
		s.Name, s.End = fmt.Sprintf("%d-W%02d", year, week), start.AddDate(0, 0, 7)
	case spec.EveryMonth:
		s.Name, s.End = start.Format("2006-01"), start.AddDate(0, 1, 0)
	default:
		s.Name, s.End = start.Format("2006-01-02T15:04Z"), start.Add(max(r.Period, time.Second))
		if r.Period%time.Minute != 0 {
			s.Name = start.Format(time.RFC3339)
		}
	}
	return s
}
