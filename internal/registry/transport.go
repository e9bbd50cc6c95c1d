package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/strata-build/strata/internal/wire"
)

// newTransport builds what every request passes through, outermost first:
// retries, the limit per host, the meter, and then the wire or, for
// [EmbeddedHost], the embedded registry.
func newTransport(o Options, meter *Meter) http.RoundTripper {
	over := wire.New(wire.Options{Limits: o.Limits, PerHost: 2 * o.MaxPerHost, Base: o.Transport}) // reads and writes have a limit each
	var rt http.RoundTripper = &hostSwitch{wire: over, embedded: o.Embedded, offline: o.Offline}
	rt = &meterTransport{base: rt, meter: meter}
	rt = &limitTransport{base: rt, limit: o.MaxPerHost}
	return &retryTransport{base: rt, options: o}
}

// hostSwitch sends requests for the embedded registry to it and all others
// over the wire.
type hostSwitch struct {
	wire     http.RoundTripper
	embedded *Embedded
	offline  bool
}

var errNoEmbedded = errors.New("this client has no embedded registry")

func (t *hostSwitch) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case req.URL.Host != EmbeddedHost && !t.offline:
		return t.wire.RoundTrip(req)
	case req.URL.Host == EmbeddedHost && t.embedded != nil && isMarked(req.Context(), inside{}):
		return t.embedded.RoundTripper().RoundTrip(req)
	}
	if req.Body != nil {
		req.Body.Close()
	}
	if req.URL.Host == EmbeddedHost {
		return nil, errNoEmbedded
	}
	return nil, ErrOffline
}

// limitTransport bounds the requests that wait for an answer from one host, on
// its own for reads and for writes. A slot is given back when the answer's
// header is there. Holding it until the body is read would let a copy, which
// reads one blob while it writes another, wait for itself. Token requests pass
// freely for the same reason.
//
// What has waited for a slot while the host said nothing to anybody ends with
// those that had one: else a hundred look-ups would find out one after the other
// that a registry hangs.
type limitTransport struct {
	base  http.RoundTripper
	limit int
	hosts sync.Map // slotKey -> *slots
}

type slotKey struct {
	host  string
	write bool
}

type slots struct {
	free chan struct{}

	mu      sync.Mutex
	heard   time.Time     // when the last answer came
	silent  time.Time     // when the last request ended because none came
	silence *wire.Silence // how
}

func (t *limitTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(req.URL.Path, "/v2/") || req.URL.Host == EmbeddedHost {
		return t.base.RoundTrip(req)
	}
	write := req.Method != http.MethodGet && req.Method != http.MethodHead
	v, _ := t.hosts.LoadOrStore(slotKey{req.URL.Host, write}, &slots{free: make(chan struct{}, t.limit)})
	s := v.(*slots)
	came := time.Now()
	var err error
	select {
	case s.free <- struct{}{}:
		defer func() { <-s.free }()
		err = s.silentSince(came)
	case <-req.Context().Done():
		err = context.Cause(req.Context())
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := t.base.RoundTrip(req)
	s.note(err)
	return resp, err
}

func (s *slots) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var silence *wire.Silence
	switch {
	case err == nil:
		s.heard = time.Now()
	case errors.As(err, &silence):
		s.silent, s.silence = time.Now(), silence
	}
}

// silentSince gives the silence of a host from which nothing was heard since a
// request came, although it was waited for.
func (s *slots) silentSince(came time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent.After(came) && s.heard.Before(came) {
		return s.silence
	}
	return nil
}

// retryTransport repeats a request that may be sent again and that failed for
// a reason that passes. oras's transport does the repeating; the policy is
// ours, because it has to know the request and to keep to a bound.
type retryTransport struct {
	base    http.RoundTripper
	options Options
}

func (t *retryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	p := &retryPolicy{req: req, options: t.options}
	rt := retry.Transport{Base: t.base, Policy: func() retry.Policy { return p }}
	return rt.RoundTrip(req)
}

// onceKey marks the context of a request that must not be repeated by itself:
// a part of an upload, which only makes sense in a new upload.
type onceKey struct{}

func once(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, true) }

type retryPolicy struct {
	req     *http.Request
	options Options
	waited  time.Duration
	kept    bool // waiting once, by a registry that said nothing
}

// Retry says how long to wait before sending the request again; a negative
// time is: not at all.
func (p *retryPolicy) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	ctx := p.req.Context()
	if attempt >= p.options.Retries || ctx.Err() != nil || ctx.Value(onceKey{}) != nil ||
		p.req.URL.Host == EmbeddedHost || !passing(resp, err) && !p.silent(err) {
		return -1, nil
	}
	wait := backoff(p.options.RetryWait, attempt)
	if resp != nil {
		wait = max(wait, retryAfter(resp))
	}
	p.waited += wait
	if p.waited > p.options.MaxWait {
		return -1, nil
	}
	return wait, nil
}

// silent says whether err is a silence that is worth another try: one alone, as
// each takes its time.
func (p *retryPolicy) silent(err error) bool {
	var s *wire.Silence
	if !errors.As(err, &s) || !s.Repeat || p.kept || !isRead(p.req.Method) {
		return false
	}
	p.kept = true
	return true
}

// passing says whether a failure may be gone in a moment. A refused connection
// or an unknown host is told at once.
func passing(resp *http.Response, err error) bool {
	var silent *wire.Silence
	var refused *wire.Refused
	switch {
	case errors.As(err, &silent), errors.As(err, &refused):
		return false
	case err != nil:
		return !errors.Is(err, syscall.ECONNREFUSED) && (isCut(err) || isTimeout(err))
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// backoff gives base * 2^attempt, spread by a quarter in both directions so
// that clients that failed together do not come back together.
func backoff(base time.Duration, attempt int) time.Duration {
	d := base << min(attempt, 6)
	return d*3/4 + rand.N(max(d/2, 1))
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isLoopback says whether host, with or without a port, is this machine.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}
