package buildkit

import (
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
)

const (
	pull = docker.HostCapabilityPull | docker.HostCapabilityResolve
	push = docker.HostCapabilityPush
)

// hosts tells the engine where the repositories of a host are: the embedded
// registry for its own name, for others the embedded registry first (content of
// HOST/REPO is kept there as repository HOST/REPO) and then the host itself.
type hosts struct {
	registry  func() (string, error)
	noMirror  bool
	transport *http.Transport
	origins   *origins
}

func newHosts(o Options, from *origins) *hosts {
	return &hosts{registry: o.Registry, noMirror: o.NoMirror, transport: newTransport(), origins: from}
}

// newTransport has HTTP/2 off: its flow control bounds uploads (golang/go#14077).
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 60 * time.Second}).DialContext,
		MaxIdleConns:          30,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       2 * time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		ForceAttemptHTTP2:     false,
		Protocols:             http1(),
	}
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// lookup implements docker.RegistryHosts.
func (h *hosts) lookup(host string) ([]docker.RegistryHost, error) {
	if host == RegistryHost {
		own, err := h.own("/v2", pull|push)
		return own, err
	}
	var out []docker.RegistryHost
	if h.mirrored(host) {
		own, err := h.own("/v2/"+host, pull)
		if err != nil {
			return nil, err
		}
		out = own
	}
	return append(out, h.upstream(host)), nil
}

// mirrored tells whether the embedded registry may hold content of host. A
// port can't stand in the name of a repository.
func (h *hosts) mirrored(host string) bool {
	return h.registry != nil && !h.noMirror && !strings.Contains(host, ":")
}

func (h *hosts) own(path string, can docker.HostCapabilities) ([]docker.RegistryHost, error) {
	if h.registry == nil {
		return nil, nil
	}
	addr, err := h.registry()
	if err != nil {
		return nil, err
	}
	return []docker.RegistryHost{{
		Client: h.client(RegistryHost), Scheme: "http", Host: addr, Path: path, Capabilities: can,
	}}, nil
}

func (h *hosts) upstream(host string) docker.RegistryHost {
	r := docker.RegistryHost{
		Client: h.client(host), Scheme: "https", Host: host, Path: "/v2", Capabilities: pull | push,
	}
	if local, err := docker.MatchLocalhost(host); err == nil && local {
		r.Scheme = "http"
	}
	if host == "docker.io" {
		r.Host = "registry-1.docker.io"
	}
	return r
}

func (h *hosts) client(name string) *http.Client {
	return &http.Client{Transport: &noting{next: h.transport, host: name, origins: h.origins}}
}

// origins remembers from which repository a blob is being pulled, so that the
// content store can label it: a push to the same registry then mounts the blob
// in place of uploading it.
type origins struct {
	mu sync.Mutex
	m  map[digest.Digest]origin
}

type origin struct{ host, repo string }

func newOrigins() *origins { return &origins{m: map[digest.Digest]origin{}} }

func (o *origins) note(d digest.Digest, from origin) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.m[d] = from
}

func (o *origins) of(d digest.Digest) (origin, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from, ok := o.m[d]
	return from, ok
}

func (o *origins) forget(d digest.Digest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.m, d)
}

// noting notes the origin of every blob that is fetched through it from host.
type noting struct {
	next    http.RoundTripper
	host    string
	origins *origins
}

var blobPath = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256:[0-9a-f]{64})$`)

// RoundTrip notes answers with the blob as well as redirections to it: only the
// first request of a chain names the repository.
func (n *noting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(req)
	if err != nil || req.Method != http.MethodGet || resp.StatusCode >= 400 {
		return resp, err
	}
	if m := blobPath.FindStringSubmatch(req.URL.Path); m != nil {
		n.origins.note(digest.Digest(m[2]), origin{host: n.host, repo: m[1]})
	}
	return resp, nil
}
