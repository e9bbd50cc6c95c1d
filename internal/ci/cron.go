package ci

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/spec"
)

// Cron gives a schedule, in UTC, that runs soon after each slot of a refresh
// begins. Where cron can't say the slots' period it runs more often: a run that
// comes before the next slot finds nothing to do.
func Cron(r spec.Refresh) string {
	at := func(hours, day, weekday string) string {
		return fmt.Sprintf("%d %s %s * %s", r.Minute, hours, day, weekday)
	}
	switch r.Every {
	case spec.EveryWeek:
		return at(strconv.Itoa(r.Hour), "*", strconv.Itoa(int(r.Weekday)))
	case spec.EveryMonth:
		return at(strconv.Itoa(r.Hour), strconv.Itoa(r.Day), "*")
	case spec.EveryDay:
		return at(strconv.Itoa(r.Hour), "*", "*")
	}
	hours := int(r.Period / time.Hour)
	switch {
	case r.Period%(24*time.Hour) == 0:
		return at(strconv.Itoa(r.Hour), "*", "*")
	case r.Period%time.Hour == 0 && 24%hours == 0:
		return at(everyHours(r.Hour%hours, hours), "*", "*")
	case r.Period >= time.Hour:
		return at("*", "*", "*")
	}
	// Hosts refuse, or put off, what runs more often than every five minutes.
	return fmt.Sprintf("*/%d * * * *", max(5, int(r.Period/time.Minute)))
}

func everyHours(from, step int) string {
	if step == 1 {
		return "*"
	}
	var out []string
	for h := from; h < 24; h += step {
		out = append(out, strconv.Itoa(h))
	}
	return strings.Join(out, ",")
}
