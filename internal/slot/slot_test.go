package slot

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/spec"
)

var policies = map[string]spec.Refresh{
	"week":  {Every: spec.EveryWeek, Weekday: time.Monday, Hour: 6},
	"day":   {Every: spec.EveryDay, Hour: 23, Minute: 59},
	"month": {Every: spec.EveryMonth, Day: 28, Hour: 1},
	"2d":    {Every: spec.EveryPeriod, Period: 48 * time.Hour},
	"36h":   {Every: spec.EveryPeriod, Period: 36 * time.Hour, Hour: 6},
}

func TestAt(t *testing.T) {
	tests := []struct{ policy, at, name, start, end string }{
		{"week", "2026-11-22T12:00:00Z", "2026-W47", "2026-11-16T06:00:00Z", "2026-11-23T06:00:00Z"},
		{"week", "2026-11-23T05:59:59Z", "2026-W47", "2026-11-16T06:00:00Z", "2026-11-23T06:00:00Z"},
		{"week", "2026-11-23T06:00:00Z", "2026-W48", "2026-11-23T06:00:00Z", "2026-11-30T06:00:00Z"},
		{"week", "2027-01-01T00:00:00Z", "2026-W53", "2026-12-28T06:00:00Z", "2027-01-04T06:00:00Z"},
		{"day", "2026-12-31T23:58:00Z", "2026-12-30", "2026-12-30T23:59:00Z", "2026-12-31T23:59:00Z"},
		{"month", "2026-03-01T00:00:00Z", "2026-02", "2026-02-28T01:00:00Z", "2026-03-28T01:00:00Z"},
		{"month", "2026-01-05T00:00:00Z", "2025-12", "2025-12-28T01:00:00Z", "2026-01-28T01:00:00Z"},
		{"2d", "1970-01-03T00:00:00Z", "1970-01-03T00:00Z", "1970-01-03T00:00:00Z", "1970-01-05T00:00:00Z"},
	}
	for _, tt := range tests {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		s := At(policies[tt.policy], at)
		if s.Name != tt.name || s.Start.Format(time.RFC3339) != tt.start || s.End.Format(time.RFC3339) != tt.end {
			t.Errorf("%s at %s: got %s from %s to %s", tt.policy, tt.at, s.Name, s.Start.Format(time.RFC3339), s.End.Format(time.RFC3339))
		}
	}
}

// Slots have no gap, no overlap and no name twice, and every moment of a slot
// gives the same slot, in every time zone.
func TestSlotsTile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	zone := time.FixedZone("far", 14*3600)
	for name, p := range policies {
		seen := map[string]bool{}
		s := At(p, time.Date(2019, 12, 20, 0, 0, 0, 0, time.UTC))
		for s.Start.Year() < 2029 {
			if seen[s.Name] {
				t.Fatalf("%s: the name %s comes twice", name, s.Name)
			}
			seen[s.Name] = true
			for range 5 {
				at := s.Start.Add(time.Duration(rng.Int64N(int64(s.End.Sub(s.Start)))))
				if got := At(p, at.In(zone)); got != s {
					t.Fatalf("%s: at %s the slot is %v, want %v", name, at, got, s)
				}
			}
			next := At(p, s.End)
			if next.Start != s.End {
				t.Fatalf("%s: after %v comes %v", name, s, next)
			}
			if back := Previous(p, next); back != s {
				t.Fatalf("%s: before %v comes %v, want %v", name, next, back, s)
			}
			s = next
		}
	}
}
