package buildkit

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/tracing"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/wire"
)

const (
	pull = docker.HostCapabilityPull | docker.HostCapabilityResolve
	push = docker.HostCapabilityPush
)

// hosts tells the engine where the repositories of a host are: the embedded
// registry for its own name, for others the embedded registry's mirror first
// (what was imported for HOST/REPO is kept there as repository
// MirrorFolder/HOST/REPO) and then the host itself.
type hosts struct {
	registry  func() (string, error)
	inProcess func() (http.RoundTripper, error)
	noMirror  bool
	transport *wire.Transport
	origins   *origins
}

func newHosts(o Options, from *origins) *hosts {
	// HTTP/2 is off: its flow control bounds uploads (golang/go#14077).
	over := wire.New(wire.Options{Limits: o.Limits, PerHost: 8, HTTP1: true})
	return &hosts{registry: o.Registry, inProcess: o.InProcess, noMirror: o.NoMirror, transport: over, origins: from}
}

// lookup implements docker.RegistryHosts.
func (h *hosts) lookup(host string) ([]docker.RegistryHost, error) {
	if host == RegistryHost {
		own, err := h.own("/v2", pull|push)
		return own, err
	}
	var out []docker.RegistryHost
	if h.mirrored(host) {
		own, err := h.own("/v2/"+MirrorFolder+"/"+host, pull)
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
	return (h.registry != nil || h.inProcess != nil) && !h.noMirror && !strings.Contains(host, ":")
}

func (h *hosts) own(path string, can docker.HostCapabilities) ([]docker.RegistryHost, error) {
	if h.inProcess != nil {
		next, err := h.inProcess()
		if err != nil {
			return nil, err
		}
		client := &http.Client{Transport: &noting{next: next, host: RegistryHost, origins: h.origins}}
		return []docker.RegistryHost{{Client: client, Scheme: "http", Host: RegistryHost, Path: path, Capabilities: can}}, nil
	}
	if h.registry == nil {
		return nil, nil
	}
	addr, err := h.registry()
	if err != nil {
		return nil, err
	}
	return []docker.RegistryHost{{
		Client: h.client(RegistryHost, "http", addr), Scheme: "http", Host: addr, Path: path, Capabilities: can,
	}}, nil
}

func (h *hosts) upstream(host string) docker.RegistryHost {
	r := docker.RegistryHost{Scheme: "https", Host: host, Path: "/v2", Capabilities: pull | push}
	if local, err := docker.MatchLocalhost(host); err == nil && local {
		r.Scheme = "http"
	}
	if host == "docker.io" {
		r.Host = "registry-1.docker.io"
	}
	r.Client = h.client(host, r.Scheme, r.Host)
	return r
}

func (h *hosts) client(name, scheme, addr string) *http.Client {
	base := &url.URL{Scheme: scheme, Host: addr}
	return &http.Client{Transport: &noting{next: h.transport, base: base, host: name, origins: h.origins}}
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
	base    *url.URL // of the registry
	host    string
	origins *origins
}

var blobPath = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256:[0-9a-f]{64})$`)

// RoundTrip notes answers with the blob as well as redirections to it: only the
// first request of a chain names the repository.
func (n *noting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(req.WithContext(wire.From(req.Context(), n.base)))
	if resp != nil {
		resp.Request = req // by it the next one of a chain is known
	}
	if err != nil || req.Method != http.MethodGet || resp.StatusCode >= 400 {
		return resp, err
	}
	if m := blobPath.FindStringSubmatch(req.URL.Path); m != nil {
		n.origins.note(digest.Digest(m[2]), origin{host: n.host, repo: m[1]})
	}
	return resp, nil
}

var limitOnce sync.Once

// limitClients puts limits on the clients that BuildKit takes without being given
// them: its own one for token services, which a session here asks whichever the
// engine, and net/http's for addresses that a manifest names for a layer. They
// are globals, so the first engine of a process decides.
func limitClients(l wire.Limits) {
	limitOnce.Do(func() {
		tracing.DefaultClient.Transport = tracing.NewTransport(wire.New(wire.Options{Limits: l, NotLink: true}))
		http.DefaultClient = &http.Client{Transport: wire.New(wire.Options{Limits: l, PublicOnly: true})}
	})
}
