package spec

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/diag"
)

// Refresh says how long an image of a layer may stand: until the current time
// slot ends. All times are UTC.
type Refresh struct {
	Every   Every         // day, week, month or period
	Period  time.Duration // of EveryPeriod, counted from 1970-01-01 00:00 plus the offset
	Weekday time.Weekday  // of EveryWeek
	Day     int           // of EveryMonth: 1 to 28
	Hour    int           // when a slot begins
	Minute  int
}

// Every is the kind of a refresh's slots.
type Every string

// The kinds of slots.
const (
	EveryDay    Every = "day"
	EveryWeek   Every = "week"
	EveryMonth  Every = "month"
	EveryPeriod Every = "period"
)

// String gives the policy in a user's words: "week at Mon 06:00".
func (r Refresh) String() string {
	clock := fmt.Sprintf("%02d:%02d", r.Hour, r.Minute)
	switch r.Every {
	case EveryWeek:
		return "week at " + r.Weekday.String()[:3] + " " + clock
	case EveryMonth:
		return fmt.Sprintf("month at %d %s", r.Day, clock)
	case EveryPeriod:
		return formatDuration(r.Period) + " at " + clock
	}
	return "day at " + clock
}

// MarshalText gives String.
func (r Refresh) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

var weekdays = map[string]time.Weekday{
	"Sun": time.Sunday, "Mon": time.Monday, "Tue": time.Tuesday, "Wed": time.Wednesday,
	"Thu": time.Thursday, "Fri": time.Friday, "Sat": time.Saturday,
}

// parseRefresh reads texts that have passed everyFormat and atFormat; at may be
// empty.
func parseRefresh(every, at string) (Refresh, error) {
	r := Refresh{Weekday: time.Monday, Day: 1}
	switch every {
	case "day", "week", "month":
		r.Every = Every(every)
	default:
		d, err := parseDuration(every)
		if err != nil {
			return r, err
		}
		r.Every, r.Period = EveryPeriod, d
	}
	day, clock, hasDay := strings.Cut(at, " ")
	if !hasDay {
		day, clock = "", at
	}
	weekday, isWeekday := weekdays[day]
	switch {
	case day == "":
	case r.Every == EveryWeek && isWeekday:
		r.Weekday = weekday
	case r.Every == EveryMonth && !isWeekday:
		r.Day, _ = strconv.Atoi(day)
	default:
		return r, diag.Hint(fmt.Errorf("at %q does not go with every: %s", at, every), "write %s", atFormat.words)
	}
	if clock != "" {
		r.Hour, _ = strconv.Atoi(clock[:2])
		r.Minute, _ = strconv.Atoi(clock[3:])
	}
	return r, nil
}

// units of durations in strata.yaml; a day has 24 hours.
var durationUnits = []struct {
	letter byte
	length time.Duration
}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// maxDuration bounds what a policy may ask for, well inside of time.Duration's
// 292 years.
const maxDuration = 100 * 365 * 24 * time.Hour

// parseDuration reads a text such as "36h", "2d" or "1h30m".
func parseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	number := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= '0' && c <= '9' {
			if number = number*10 + int(c-'0'); number > 1e9 {
				return 0, fmt.Errorf("duration %q is too long", s)
			}
			continue
		}
		for _, u := range durationUnits {
			if u.letter != s[i] {
				continue
			}
			if time.Duration(number) > (maxDuration-sum)/u.length {
				return 0, fmt.Errorf("duration %q is longer than 100 years", s)
			}
			sum += time.Duration(number) * u.length
		}
		number = 0
	}
	return sum, nil
}

// formatDuration gives a duration in the largest unit that has no remainder:
// "2d", "36h", "90s". parseDuration reads it back.
func formatDuration(d time.Duration) string {
	for _, u := range durationUnits {
		if d >= u.length && d%u.length == 0 {
			return fmt.Sprintf("%d%c", d/u.length, u.letter)
		}
	}
	return "0s"
}
