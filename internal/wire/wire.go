package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout = 5 * time.Second // for a host that does not answer at all
	tlsTimeout  = 2 * dialTimeout
	// pingAfter and pingTimeout find an HTTP/2 connection of which a router has
	// forgotten, which would swallow requests for as long as TCP tries.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	// maxHeader is far above what registries send: signed URLs have a few KiB.
	maxHeader = 1 << 20
)

// Options are the settings of a transport. The zero value works.
type Options struct {
	Limits  Limits
	PerHost int  // idle connections that are kept to a host; 0 is 16
	HTTP1   bool // no HTTP/2
	// PublicOnly makes it go to public addresses alone: for addresses that an
	// image names.
	PublicOnly bool
	// NotLink makes it go to no link-local address, nor to a service of a cloud's
	// metadata: for token services of which the registry is not known.
	NotLink bool
	// Base replaces the network; where it leads is then not looked at, only what
	// the requests say.
	Base http.RoundTripper
	// Resolve replaces the DNS.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Dial replaces the dialing of an address, after it was found good.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Transport sends requests to registries. It is safe for concurrent use.
type Transport struct {
	options Options
	proxy   func(*http.Request) (*url.URL, error)
	any     http.RoundTripper           // wherever the user's own words lead
	within  map[reach]http.RoundTripper // no further than that
	idle    []func()                    // closes idle connections

	mu    sync.Mutex
	where map[string]reach // host:port of a registry -> where it was met, the least
}

// New gives a transport. It opens no connection until it is needed.
func New(o Options) *Transport {
	o.Limits = o.Limits.withDefaults()
	if o.PerHost == 0 {
		o.PerHost = 16
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	t := &Transport{options: o, proxy: http.ProxyFromEnvironment, within: map[reach]http.RoundTripper{}, where: map[string]reach{}}
	t.any = t.network(link)
	for _, r := range []reach{public, private, loopback} {
		t.within[r] = t.network(r)
	}
	t.within[link] = t.any
	return t
}

// CloseIdleConnections closes connections that nobody uses.
func (t *Transport) CloseIdleConnections() {
	for _, do := range t.idle {
		do()
	}
}

// network gives the way to addresses that most reaches.
func (t *Transport) network(most reach) http.RoundTripper {
	if t.options.Base != nil {
		return &limited{t.options.Base, t.options.Limits}
	}
	h := &http.Transport{
		Proxy:                  t.proxy,
		DialContext:            t.dialer(most),
		ForceAttemptHTTP2:      !t.options.HTTP1,
		MaxIdleConnsPerHost:    t.options.PerHost,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    tlsTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // a body decoded on the way has another digest, and another size
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	if t.options.HTTP1 {
		h.Protocols = new(http.Protocols)
		h.Protocols.SetHTTP1(true)
	}
	t.idle = append(t.idle, h.CloseIdleConnections)
	return &limited{h, t.options.Limits}
}

// dialer looks at each address that a name has before it is dialed, so that no
// answer of the DNS between a check and a connection makes a difference.
func (t *Transport) dialer(most reach) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}
	if t.options.Dial != nil {
		dial = t.options.Dial
	}
	if most == link {
		return dial
	}
	d.Control = func(_, addr string, _ syscall.RawConn) error {
		p, err := netip.ParseAddrPort(addr)
		if err != nil {
			return err
		}
		if r := reachOf(p.Addr()); !mayReach(most, r) {
			return &away{p.Addr(), r}
		}
		return nil
	}
	if t.options.Dial == nil {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) { // what the real dialer does
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addrs, err := t.options.Resolve(ctx, host)
		if a, literal := netip.ParseAddr(host); literal == nil {
			addrs, err = []netip.Addr{a}, nil
		}
		for _, a := range addrs {
			at := net.JoinHostPort(a.String(), port)
			if err = d.Control(network, at, nil); err == nil {
				return dial(ctx, network, at)
			}
		}
		return nil, err
	}
}

// away says that an address is out of bounds.
type away struct {
	addr netip.Addr
	is   reach
}

func (a *away) Error() string { return fmt.Sprintf("%s is %s", a.addr, a.is) }

// Refused is a request that a registry has asked for and that was not made.
type Refused struct {
	From, To string // hosts
	Why      string
}

func (r *Refused) Error() string {
	return fmt.Sprintf("%s leads to %s, which is not followed: %s", r.From, r.To, r.Why)
}

type originKey struct{}

// From notes that requests with the context are made for the registry at base,
// a scheme and a host. What goes elsewhere goes there by the registry's word.
func From(ctx context.Context, base *url.URL) context.Context {
	return context.WithValue(ctx, originKey{}, base)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.roundTrip(req)
	if err != nil && req.Body != nil {
		req.Body.Close()
	}
	return resp, err
}

func (t *Transport) roundTrip(req *http.Request) (*http.Response, error) {
	first := firstOf(req)
	if t.options.PublicOnly || t.options.NotLink {
		from, most := &url.URL{Host: "an image's manifest"}, public
		if t.options.NotLink {
			from, most = &url.URL{Host: "a registry"}, loopback
		}
		if req.Method != http.MethodGet && !SameHost(first.URL, req.URL) || first.URL.Scheme == "https" && req.URL.Scheme != "https" {
			return nil, &Refused{From: first.URL.Host, To: req.URL.Host, Why: "credentials would leave"}
		}
		return t.send(req, first, from, most)
	}
	origin, known := req.Context().Value(originKey{}).(*url.URL)
	if !known {
		origin = first.URL
	}
	if first != req && req.URL.Scheme == "http" && origin.Scheme == "https" && strings.EqualFold(req.URL.Hostname(), origin.Hostname()) {
		// A proxy that ends TLS often makes the registry answer with http URLs of
		// itself.
		up := *req.URL
		up.Scheme, up.Host = "https", strings.TrimSuffix(up.Host, ":80")
		out := req.Clone(req.Context())
		out.URL = &up
		req = out
	}
	if SameHost(origin, req.URL) {
		resp, err := t.any.RoundTrip(t.traced(req, origin))
		if resp != nil {
			resp.Request = req
		}
		return resp, err
	}
	refuse := func(why string) (*http.Response, error) {
		return nil, &Refused{From: origin.Host, To: req.URL.Host, Why: why}
	}
	if req.URL.Scheme != "https" && origin.Scheme == "https" {
		return refuse("it would leave https")
	}
	if first == req && req.URL.Scheme != "https" && !isThisMachine(req.URL.Hostname()) && (req.Header.Get("Authorization") != "" || req.Method == http.MethodPost) {
		return refuse("it would send credentials without https")
	}
	most := t.reachOf(req.Context(), origin)
	redirected := first != req
	switch blob := isBlob(first.URL.Path); {
	case !redirected: // a token service, or where an upload goes on
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return refuse("a registry may send elsewhere for reading alone")
	case !blob && (first.URL.Scheme != "https" || req.URL.Scheme != "https"):
		// registry.k8s.io redirects manifests to other hosts, by https.
		return refuse("a registry may send elsewhere for blobs alone, unless it is by https")
	case !blob:
		most = public
	}
	return t.send(req, first, origin, most)
}

// send makes a request to another host than the registry's.
func (t *Transport) send(req, first *http.Request, origin *url.URL, most reach) (*http.Response, error) {
	way := t.within[most]
	if proxied, err := t.proxy(req); err == nil && proxied != nil || t.options.Base != nil {
		// The proxy dials. What can be known here is what the name says, and what it
		// resolves to here.
		way = t.any
		if err := t.look(req.Context(), req.URL.Hostname(), most); err != nil {
			return nil, &Refused{From: origin.Host, To: req.URL.Host, Why: err.Error()}
		}
	}
	out := req
	if !SameHost(first.URL, req.URL) {
		out = req.Clone(req.Context())
		for _, h := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Referer"} {
			out.Header.Del(h)
		}
	}
	resp, err := way.RoundTrip(out)
	if resp != nil {
		resp.Request = req
	}
	if a, ok := asAway(err); ok {
		return nil, &Refused{From: origin.Host, To: req.URL.Host, Why: a.Error()}
	}
	return resp, err
}

// look refuses a host that is, or resolves to, an address beyond most. A name
// that does not resolve here passes: a proxy may know it.
func (t *Transport) look(ctx context.Context, host string, most reach) error {
	addrs, _ := t.addresses(ctx, host)
	for _, a := range addrs {
		if r := reachOf(a); !mayReach(most, r) {
			return &away{a, r}
		}
	}
	return nil
}

func (t *Transport) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, stop := context.WithTimeout(ctx, dialTimeout)
	defer stop()
	return t.options.Resolve(ctx, host)
}

// traced notes where a registry is met.
func (t *Transport) traced(req *http.Request, origin *url.URL) *http.Request {
	if proxied, err := t.proxy(req); err == nil && proxied != nil {
		return req // the address would be the proxy's
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) {
			if r, ok := reachOfAddr(c.Conn.RemoteAddr()); ok {
				t.met(origin, r)
			}
		},
	}))
}

// met notes the least reach of a registry: a name that is now here and now there
// gains nothing by it.
func (t *Transport) met(origin *url.URL, r reach) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before, ok := t.where[hostPort(origin)]; !ok || r < before {
		t.where[hostPort(origin)] = r
	}
}

// reachOf says where a registry is: as it was met, or else as its name says.
func (t *Transport) reachOf(ctx context.Context, origin *url.URL) reach {
	t.mu.Lock()
	r, ok := t.where[hostPort(origin)]
	t.mu.Unlock()
	if ok {
		return r
	}
	addrs, err := t.addresses(ctx, origin.Hostname())
	if err != nil || len(addrs) == 0 {
		return public
	}
	least := link
	for _, a := range addrs {
		least = min(least, reachOf(a))
	}
	return least
}

// firstOf gives the request that a chain of redirects began with.
func firstOf(req *http.Request) *http.Request {
	for range 20 {
		if req.Response == nil || req.Response.Request == nil {
			break
		}
		req = req.Response.Request
	}
	return req
}

// SameHost says whether b is the host and port of a, or that host by https where
// a was by http.
func SameHost(a, b *url.URL) bool {
	if hostPort(a) == hostPort(b) && a.Scheme == b.Scheme {
		return true
	}
	return a.Scheme == "http" && b.Scheme == "https" && strings.EqualFold(a.Hostname(), b.Hostname())
}

// isThisMachine says whether a host is this machine by its name alone.
func isThisMachine(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

func asAway(err error) (*away, bool) {
	var a *away
	ok := errors.As(err, &a)
	return a, ok
}
