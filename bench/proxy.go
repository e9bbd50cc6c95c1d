package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between every tool and the registry. It counts requests and the
// bytes on its connections, headers included, and can make each request wait as
// a distant registry would: half a round trip before it goes on, half a round
// trip before its answer comes back, and one whole round trip more on a new
// connection, for TCP's handshake. Bandwidth is not limited, and TLS is not
// there.
type proxy struct {
	host   string // "127.0.0.1:40123"
	server *http.Server
	ln     net.Listener
	rtt    atomic.Int64 // nanoseconds

	sent, received atomic.Int64 // as the tools see it: bytes to and from the registry

	mu       sync.Mutex
	start    time.Time
	requests []request
	conns    map[net.Conn]bool
}

// request is one request, with times since the count began.
type request struct {
	Method, Path string
	Status       int
	Begin, End   time.Duration
	Bytes        int64 // of the answer's body
	NewConn      bool
}

// traffic is what went over the proxy since its last reset.
type traffic struct {
	Requests       int
	Sent, Received int64
	Depth          int // longest chain of requests each of which began after the one before had ended
	Log            []request
}

type newConnKey struct{}

// startProxy serves on a free port of the loopback interface until it is
// closed. Requests go on to target, a registry's host and port.
func startProxy(target string) (*proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the proxy: %w", err)
	}
	p := &proxy{host: ln.Addr().String(), ln: ln, conns: map[net.Conn]bool{}, start: time.Now()}
	back := &url.URL{Scheme: "http", Host: target}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(back)
			r.Out.Host = r.In.Host // so that the registry's own links lead back here
		},
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		BufferPool:    &buffers{},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // tools that stop early are no news
	}
	p.server = &http.Server{
		Handler:  p.handler(forward),
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			fresh := &atomic.Bool{}
			fresh.Store(true)
			return context.WithValue(ctx, newConnKey{}, fresh)
		},
		ConnState: p.track,
	}
	go func() { _ = p.server.Serve(counting{ln, p}) }() // ends with Close
	return p, nil
}

func (p *proxy) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		q := request{Method: r.Method, Path: r.URL.Path, Begin: time.Since(p.start)}
		p.mu.Unlock()
		q.NewConn = r.Context().Value(newConnKey{}).(*atomic.Bool).Swap(false)
		rtt := time.Duration(p.rtt.Load())
		wait := rtt / 2
		if q.NewConn {
			wait += rtt
		}
		time.Sleep(wait)
		a := &answer{ResponseWriter: w, delay: rtt / 2}
		next.ServeHTTP(a, r)
		q.Status, q.Bytes = a.status, a.bytes
		p.mu.Lock()
		q.End = time.Since(p.start)
		p.requests = append(p.requests, q)
		p.mu.Unlock()
	})
}

// answer delays an answer's header, and counts its body.
type answer struct {
	http.ResponseWriter
	delay  time.Duration
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
		time.Sleep(a.delay)
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets the proxy flush.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (p *proxy) track(c net.Conn, s http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch s {
	case http.StateNew:
		p.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, c)
	}
}

// begin sets the round-trip time, forgets what was counted, and cuts
// connections that stem from before.
func (p *proxy) begin(rtt time.Duration) {
	p.rtt.Store(int64(rtt))
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.requests, p.start = nil, time.Now()
	p.mu.Unlock()
	p.sent.Store(0)
	p.received.Store(0)
}

// counted gives what has gone over the proxy since begin.
func (p *proxy) counted() traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	log := slices.Clone(p.requests)
	slices.SortFunc(log, func(a, b request) int { return cmp.Compare(a.Begin, b.Begin) })
	return traffic{
		Requests: len(log), Sent: p.sent.Load(), Received: p.received.Load(), Depth: depth(log), Log: log,
	}
}

// depth is the length of the longest chain of requests, each of which began
// after the one before had ended: taking the one that ends first, always, gives
// it.
func depth(log []request) int {
	byEnd := slices.Clone(log)
	slices.SortFunc(byEnd, func(a, b request) int { return cmp.Compare(a.End, b.End) })
	n, free := 0, time.Duration(-1)
	for _, q := range byEnd {
		if q.Begin > free {
			n, free = n+1, q.End
		}
	}
	return n
}

func (p *proxy) close() error { return p.server.Close() }

// counting counts the bytes of the connections that it accepts.
type counting struct {
	net.Listener
	p *proxy
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l.p}, nil
}

type countedConn struct {
	net.Conn
	p *proxy
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.p.sent.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.p.received.Add(int64(n))
	return n, err
}

// buffers is a pool of buffers large enough to keep the proxy cheap.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 256<<10)
}

func (b *buffers) Put(v []byte) { b.pool.Put(&v) }

// print writes the log of requests, one a line.
func (t traffic) print(w io.Writer) {
	for _, q := range t.Log {
		fresh := " "
		if q.NewConn {
			fresh = "+"
		}
		path := q.Path
		if i := strings.Index(path, "sha256:"); i >= 0 && len(path) > i+19 {
			path = path[:i+19]
		}
		fmt.Fprintf(w, "  %8.1f %8.1f ms %s %-5s %d %9d B  %s\n",
			float64(q.Begin.Microseconds())/1e3, float64(q.End.Microseconds())/1e3, fresh, q.Method, q.Status, q.Bytes, path)
	}
}
