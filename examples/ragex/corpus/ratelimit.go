// Package ratelimit holds callers to a steady pace.
package ratelimit

import (
	"sync"
	"time"
)

// Bucket is a token bucket: it fills at a fixed rate up to its burst, and every call takes one token.
type Bucket struct {
	mu     sync.Mutex
	tokens float64
	burst  float64
	rate   float64 // tokens a second
	last   time.Time
}

// New returns a full bucket.
func New(rate, burst float64, now time.Time) *Bucket {
	return &Bucket{tokens: burst, burst: burst, rate: rate, last: now}
}

// Allow takes a token, or reports that the caller has to be throttled.
func (b *Bucket) Allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.burst, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
