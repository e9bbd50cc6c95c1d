package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
)

func TestReach(t *testing.T) {
	for addr, want := range map[string]reach{
		"8.8.8.8": public, "2001:4860::1": public, "::ffff:8.8.8.8": public, "64:ff9b::808:808": public, "172.32.0.1": public,
		"10.0.0.1": private, "172.16.9.9": private, "192.168.1.1": private, "fd12::1": private, "100.64.0.1": private,
		"::ffff:10.0.0.1": private, "64:ff9b::a00:1": private, "2002:a00:1::": private,
		"127.0.0.1": loopback, "127.9.9.9": loopback, "::1": loopback, "0.0.0.0": loopback, "::": loopback, "0.1.2.3": loopback,
		"::ffff:127.0.0.1": loopback, "64:ff9b::7f00:1": loopback,
		"169.254.169.254": link, "fe80::1": link, "fe80::1%eth0": link, "fd00:ec2::254": link, "100.100.100.200": link,
		"192.0.0.192": link, "168.63.129.16": link, "224.0.0.1": link, "ff02::1": link, "255.255.255.255": link,
		"64:ff9b::a9fe:a9fe": link, "2002:a9fe:a9fe::": link, "64:ff9b:1::1": link,
	} {
		if got := reachOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

// network is a small internet: names with addresses, and a server behind each
// address. What is dialed is noted.
type network struct {
	mu     sync.Mutex
	names  map[string][]string // host -> addresses
	dialed []string
	seen   []string // "METHOD host/path auth"
	at     string
}

func newNetwork(t *testing.T, names map[string][]string, answers map[string]http.HandlerFunc) (*network, *Transport) {
	t.Helper()
	n := &network{names: names}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.seen = append(n.seen, strings.TrimSpace(r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("Authorization")))
		n.mu.Unlock()
		h, ok := answers[r.Host+r.URL.Path]
		if !ok {
			io.WriteString(w, "here")
			return
		}
		h(w, r)
	}))
	t.Cleanup(s.Close)
	n.at = s.Listener.Addr().String()
	tr := New(Options{
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			var out []netip.Addr
			for _, a := range n.names[host] {
				out = append(out, netip.MustParseAddr(a))
			}
			if out == nil {
				return nil, fmt.Errorf("no such host: %s", host)
			}
			return out, nil
		},
		Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.dialed = append(n.dialed, addr)
			c, err := net.Dial("tcp", n.at)
			if err != nil {
				return nil, err
			}
			host, port, _ := net.SplitHostPort(addr)
			if a, ok := n.names[host]; ok { // by name: the registry itself
				host = a[0]
			}
			return &farConn{c, net.JoinHostPort(host, port)}, nil
		},
	})
	tr.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	return n, tr
}

// farConn seems to lead to another address.
type farConn struct {
	net.Conn
	addr string
}

func (c *farConn) RemoteAddr() net.Addr { return farAddr(c.addr) }

type farAddr string

func (farAddr) Network() string  { return "tcp" }
func (a farAddr) String() string { return string(a) }

func to(location string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, location, http.StatusTemporaryRedirect)
	}
}

const (
	blobPath     = "/v2/app/blobs/sha256:00"
	manifestPath = "/v2/app/manifests/1"
)

// Where the redirect of a registry is followed to, by where registry and target
// are. All speak http here, which for https alone is looked at below.
func TestRedirects(t *testing.T) {
	names := map[string][]string{
		"public.test": {"8.8.8.8"}, "other.test": {"9.9.9.9"}, "private.test": {"10.0.0.5"}, "storage.test": {"10.9.9.9"},
		"loop.test": {"127.0.0.1"}, "both.test": {"10.1.1.1", "9.9.9.8"}, "meta.test": {"169.254.169.254"}, "six.test": {"fd00:ec2::254"},
	}
	for _, tc := range []struct {
		from, path, method, target string
		refused                    string // "" is followed
	}{
		{"public.test", blobPath, "GET", "http://other.test/x", ""},
		{"public.test", blobPath, "HEAD", "http://other.test/x", ""},
		{"public.test", blobPath, "GET", "http://8.8.4.4/x", ""},
		{"public.test", blobPath, "GET", "http://storage.test/x", "10.9.9.9 is an address of a private network"},
		{"public.test", blobPath, "GET", "http://10.0.0.1/x", "10.0.0.1 is an address of a private network"},
		{"public.test", blobPath, "GET", "http://[::ffff:10.0.0.1]/x", "is an address of a private network"},
		{"public.test", blobPath, "GET", "http://loop.test/x", "127.0.0.1 is an address of this machine"},
		{"public.test", blobPath, "GET", "http://[::1]:22/x", "::1 is an address of this machine"},
		{"public.test", blobPath, "GET", "http://0.0.0.0/x", "is an address of this machine"},
		{"public.test", blobPath, "GET", "http://meta.test/latest/meta-data", "169.254.169.254 is a link-local address"},
		{"public.test", blobPath, "GET", "http://six.test/latest/meta-data", "is a link-local address"},
		{"public.test", blobPath, "GET", "http://both.test/x", ""}, // by its public address
		{"private.test", blobPath, "GET", "http://storage.test/x", ""},
		{"private.test", blobPath, "GET", "http://other.test/x", ""},
		{"private.test", blobPath, "GET", "http://loop.test/x", "127.0.0.1 is an address of this machine"},
		{"private.test", blobPath, "GET", "http://meta.test/x", "is a link-local address"},
		{"loop.test", blobPath, "GET", "http://127.0.0.2:9000/x", ""},
		{"loop.test", blobPath, "GET", "http://storage.test/x", ""},
		{"loop.test", blobPath, "GET", "http://meta.test/x", "is a link-local address"},
		{"public.test", manifestPath, "GET", "http://public.test/elsewhere", ""},
		{"public.test", manifestPath, "GET", "http://other.test/x", "for blobs alone"},
		{"public.test", manifestPath, "HEAD", "http://other.test/x", "for blobs alone"},
		{"public.test", "/v2/app/tags/list", "GET", "http://other.test/x", "for blobs alone"},
		{"public.test", "/v2/", "GET", "http://public.test:8080/x", "for blobs alone"},
		{"public.test", "/token", "GET", "http://other.test/x", "for blobs alone"},
		{"public.test", "/v2/app/blobs/uploads/1", "PUT", "http://other.test/x", "for reading alone"},
		{"public.test", manifestPath, "DELETE", "http://other.test/x", "for reading alone"},
		{"loop.test", manifestPath, "GET", "http://loop.test:9000/x", "for blobs alone"},
	} {
		t.Run(tc.from+" "+tc.method+" "+tc.path+" "+tc.target, func(t *testing.T) {
			n, tr := newNetwork(t, names, map[string]http.HandlerFunc{tc.from + tc.path: to(tc.target)})
			defer tr.CloseIdleConnections()
			base := &url.URL{Scheme: "http", Host: tc.from}
			var body io.Reader
			if tc.method == "PUT" {
				body = strings.NewReader("content")
			}
			req, err := http.NewRequestWithContext(From(t.Context(), base), tc.method, base.String()+tc.path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "secret")
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err == nil {
				resp.Body.Close()
			}
			var refused *Refused
			switch {
			case tc.refused == "" && err != nil:
				t.Error(err)
			case tc.refused != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Error(), tc.refused)):
				t.Errorf("got %v, want %q", err, tc.refused)
			case tc.refused != "" && len(n.dialed) != 1:
				t.Errorf("dialed %q", n.dialed)
			}
			for _, s := range n.seen[1:] {
				if strings.Contains(s, "secret") && !strings.Contains(tc.target, "http://"+tc.from+"/") {
					t.Errorf("credentials went along: %q", s)
				}
			}
		})
	}
}

// What is dialed was looked at: a name that is public when it is looked up and
// private when it is dialed, and a connection that another request has left open,
// lead nowhere.
func TestRedirectsAreCheckedWhereTheyAreDialed(t *testing.T) {
	names := map[string][]string{"public.test": {"8.8.8.8"}, "inner.test": {"10.0.0.5"}}
	_, tr := newNetwork(t, names, map[string]http.HandlerFunc{"public.test" + blobPath: to("http://inner.test/x")})
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	get := func(host, path string) error {
		base := &url.URL{Scheme: "http", Host: host}
		req, _ := http.NewRequestWithContext(From(t.Context(), base), "GET", base.String()+path, nil)
		resp, err := c.Do(req)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	if err := get("inner.test", "/v2/"); err != nil { // the user's own registry; its connection stays open
		t.Fatal(err)
	}
	var refused *Refused
	if err := get("public.test", blobPath); !errors.As(err, &refused) {
		t.Errorf("over a connection that was open: %v", err)
	}
}

// A registry that was met at a public address stays there, whatever its name says
// later.
func TestTheLeastReachCounts(t *testing.T) {
	_, tr := newNetwork(t, map[string][]string{"moving.test": {"10.0.0.1"}}, nil)
	at := &url.URL{Scheme: "https", Host: "moving.test"}
	tr.met(at, public)
	tr.met(at, private)
	if r := tr.reachOf(t.Context(), at); r != public {
		t.Errorf("it is taken for %v", r)
	}
	unmet := &url.URL{Scheme: "https", Host: "moving.test:5000"}
	if r := tr.reachOf(t.Context(), unmet); r != private {
		t.Errorf("an unmet one is taken for %v", r)
	}
}

// By https, a manifest may come from another host, if that is public: so does
// registry.k8s.io. Nothing leaves https.
func TestSchemes(t *testing.T) {
	var sent []string
	answers := map[string]string{}
	tr := New(Options{
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, strings.TrimSpace(r.URL.String()+" "+r.Header.Get("Authorization")))
			resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
			if l := answers[r.URL.String()]; l != "" {
				resp.StatusCode, resp.Header = 307, http.Header{"Location": {l}}
			}
			return resp, nil
		}),
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			return map[string][]netip.Addr{
				"r.test": {netip.MustParseAddr("10.0.0.1")}, "inner.test": {netip.MustParseAddr("10.0.0.2")}, "out.test": {netip.MustParseAddr("9.9.9.9")},
			}[host], nil
		},
	})
	tr.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	for _, tc := range []struct{ path, target, refused, last string }{
		{manifestPath, "https://out.test/x", "", "https://out.test/x"},
		{manifestPath, "https://inner.test/x", "private network", ""},
		{manifestPath, "http://out.test/x", "it would leave https", ""},
		{blobPath, "http://out.test/x", "it would leave https", ""},
		{blobPath, "https://inner.test/x", "", "https://inner.test/x"},
		{blobPath, "https://127.0.0.1/x", "this machine", ""},
		{manifestPath, "http://r.test/y", "", "https://r.test/y secret"}, // a proxy that ends TLS
		{manifestPath, "http://r.test:80/y", "", "https://r.test/y secret"},
	} {
		sent = nil
		answers = map[string]string{"https://r.test" + tc.path: tc.target}
		base := &url.URL{Scheme: "https", Host: "r.test"}
		req, _ := http.NewRequestWithContext(From(t.Context(), base), "GET", base.String()+tc.path, nil)
		req.Header.Set("Authorization", "secret")
		_, err := (&http.Client{Transport: tr}).Do(req)
		var refused *Refused
		switch {
		case tc.refused == "" && err != nil:
			t.Errorf("%s: %v", tc.target, err)
		case tc.refused != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Error(), tc.refused) || len(sent) != 1):
			t.Errorf("%s: %v, want %q; sent %q", tc.target, err, tc.refused, sent)
		case tc.refused == "" && sent[len(sent)-1] != tc.last:
			t.Errorf("%s: sent %q, want %q", tc.target, sent, tc.last)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What an image's manifest names is fetched from public addresses alone.
func TestPublicOnly(t *testing.T) {
	for addr, ok := range map[string]bool{"8.8.8.8": true, "10.0.0.1": false, "127.0.0.1": false, "169.254.169.254": false} {
		tr := New(Options{PublicOnly: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialed") }})
		tr.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
		_, err := (&http.Client{Transport: tr}).Get("http://" + addr + "/layer")
		var refused *Refused
		if errors.As(err, &refused) == ok || ok && !strings.Contains(err.Error(), "dialed") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
