package record

import (
	"fmt"
	"slices"
)

// sample is how many of the newest runs an estimate rests on: enough for a
// median to ignore an outlier or two, few enough to follow changes.
const sample = 5

// Estimate is how long a step is thought to take.
type Estimate struct {
	Seconds float64
	Basis   string // what it rests on: "5 records", "same layer, other platform"; "" when nothing is known
}

// An Estimator gives the median of earlier runs. It is immutable.
type Estimator struct {
	exact, otherVariant, otherPlatform map[work][]float64
}

// work is what is timed; fields that a fall-back does not look at are empty.
type work struct{ layer, variant, platform, action string }

// NewEstimator makes an estimator of records, given the newest first, as
// [Store.Records] does. Units that failed or did not end do not count.
func NewEstimator(records []Record) *Estimator {
	e := &Estimator{exact: map[work][]float64{}, otherVariant: map[work][]float64{}, otherPlatform: map[work][]float64{}}
	for _, r := range records {
		for _, u := range r.Units {
			if u.Error != "" || u.Digest == "" || u.Action == "" {
				continue
			}
			add(e.exact, work{u.Layer, u.Variant, u.Platform, u.Action}, u.Seconds)
			add(e.otherVariant, work{u.Layer, "", u.Platform, u.Action}, u.Seconds)
			add(e.otherPlatform, work{u.Layer, "", "", u.Action}, u.Seconds)
		}
	}
	return e
}

func add(m map[work][]float64, w work, seconds float64) {
	if len(m[w]) < sample {
		m[w] = append(m[w], seconds)
	}
}

// Estimate gives the median of the last five runs of that very work; failing
// that, of the same layer and platform in another variant; failing that, of
// the same layer on another platform.
func (e *Estimator) Estimate(layer, variant, platform, action string) Estimate {
	if s := e.exact[work{layer, variant, platform, action}]; len(s) > 0 {
		basis := "1 record"
		if len(s) > 1 {
			basis = fmt.Sprintf("%d records", len(s))
		}
		return Estimate{median(s), basis}
	}
	if s := e.otherVariant[work{layer, "", platform, action}]; len(s) > 0 {
		return Estimate{median(s), "same layer, other variant"}
	}
	if s := e.otherPlatform[work{layer, "", "", action}]; len(s) > 0 {
		return Estimate{median(s), "same layer, other platform"}
	}
	return Estimate{}
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}
