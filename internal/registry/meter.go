package registry

import (
	"cmp"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// Meter counts requests and the bytes of their bodies, by host and method.
// Retries, redirects and token requests count too: it sees what goes over the
// wire. Its zero value is ready for use, by several goroutines at once.
type Meter struct {
	mu     sync.Mutex
	counts map[meterKey]*counter
}

type meterKey struct{ host, method string }

type counter struct{ requests, sent, received atomic.Int64 }

// Count is what one host was asked by one method. Sent and Received are bytes
// of bodies, headers left out.
type Count struct {
	Host     string `json:"host"`
	Method   string `json:"method"`
	Requests int64  `json:"requests"`
	Sent     int64  `json:"sent"`
	Received int64  `json:"received"`
}

// Counts gives what was counted so far, sorted by host and method.
func (m *Meter) Counts() []Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Count
	for k, c := range m.counts {
		out = append(out, Count{k.host, k.method, c.requests.Load(), c.sent.Load(), c.received.Load()})
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Method, b.Method))
	})
	return out
}

// Total gives the sums over every host and method.
func (m *Meter) Total() Count {
	var t Count
	for _, c := range m.Counts() {
		t.Requests += c.Requests
		t.Sent += c.Sent
		t.Received += c.Received
	}
	return t
}

// Hosts gives the sums for each host.
func (m *Meter) Hosts() []Count {
	sums := map[string]Count{}
	for _, c := range m.Counts() {
		s := sums[c.Host]
		s.Host = c.Host
		s.Requests += c.Requests
		s.Sent += c.Sent
		s.Received += c.Received
		sums[c.Host] = s
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b Count) int { return cmp.Compare(a.Host, b.Host) })
}

// Reset forgets what was counted.
func (m *Meter) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts = nil
}

func (m *Meter) counter(host, method string) *counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[meterKey]*counter{}
	}
	k := meterKey{host, method}
	c := m.counts[k]
	if c == nil {
		c = &counter{}
		m.counts[k] = c
	}
	return c
}

// meterTransport counts what passes through it.
type meterTransport struct {
	base  http.RoundTripper
	meter *Meter
}

func (t *meterTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := t.meter.counter(req.URL.Host, req.Method)
	c.requests.Add(1)
	if req.Body != nil && req.Body != http.NoBody {
		body := req.Body
		req = req.Clone(req.Context())
		req.Body = &countingBody{body, &c.sent}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &countingBody{resp.Body, &c.received}
	return resp, nil
}

type countingBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
