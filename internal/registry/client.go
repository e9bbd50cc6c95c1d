package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/strata-build/strata/internal/wire"
)

// Options are the settings of a [Client]. The zero value talks to any registry
// with the credentials of Docker's configuration.
type Options struct {
	// Embedded serves EmbeddedHost; nil: that host cannot be reached.
	Embedded *Embedded
	// MirrorReads makes Resolve, Manifest, Platform and Blob look for an image of
	// another host among the mirrors of the embedded registry first. Probe never does: it asks
	// what the named registry itself holds.
	MirrorReads bool
	// Offline makes every host but the embedded one answer ErrOffline.
	Offline bool
	// Credential gives the credentials for a host; nil: Docker's configuration
	// file and its credential helpers.
	Credential func(ctx context.Context, host string) (Credential, error)
	// PlainHTTP lists hosts that speak http; loopback hosts always do.
	PlainHTTP []string
	// MaxPerHost bounds the requests in flight to one host, for reads and for
	// writes each; 0 is 16.
	MaxPerHost int
	// Retries is how often a request is repeated; 0 is 4, negative is never.
	Retries int
	// RetryWait is the first wait between repeats, which then doubles; 0 is
	// 200 ms.
	RetryWait time.Duration
	// MaxWait bounds all waits of one request, those that a registry asks for
	// included; a longer one fails at once. 0 is 30 s.
	MaxWait time.Duration
	// Meter counts requests and bytes; nil: a new one.
	Meter *Meter
	// Limits bound how long a registry may keep a request waiting; see there for
	// what the zero value gives. The embedded registry has none.
	Limits wire.Limits
	// Transport replaces the wire, below retries, limits and meter.
	Transport http.RoundTripper
	// UserAgent is sent with each request; "" is "strata".
	UserAgent string

	fillMirrors bool // an import: everybody else only reads mirrors
}

// Credential is how a user proves who they are to one host: a name and a
// password, or an identity token, or a token that the registry takes as it is.
// The zero value is: anonymous.
type Credential struct {
	Username, Password string
	IdentityToken      string
	RegistryToken      string
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	*state
	mirror bool
}

type state struct {
	options Options
	auth    *auth.Client
	plain   *http.Client // without credentials
	meter   *Meter

	pullOnly  sync.Map // host or HOST/REPO whose token service refuses push scopes
	referrers sync.Map // host -> bool: whether it has the referrers API
	empty     sync.Map // HOST/REPO where the empty config is known to be
	subjects  sync.Map // HOST/REPO@DIGEST -> *sync.Mutex, for fall-back indexes
}

// New gives a client. It reads no file and makes no request until one is
// needed.
func New(o Options) *Client {
	o.MaxPerHost = orDefault(o.MaxPerHost, 16)
	o.Retries = orDefault(o.Retries, 4)
	o.RetryWait = orDefault(o.RetryWait, 200*time.Millisecond)
	o.MaxWait = orDefault(o.MaxWait, 30*time.Second)
	o.UserAgent = orDefault(o.UserAgent, "strata")
	if o.Meter == nil {
		o.Meter = &Meter{}
	}
	if o.Credential == nil {
		o.Credential = DockerCredentials()
	}
	plain := &http.Client{Transport: newTransport(o, o.Meter)}
	return &Client{mirror: o.MirrorReads && o.Embedded != nil, state: &state{
		options: o,
		meter:   o.Meter,
		plain:   plain,
		auth: &auth.Client{
			Client:   plain,
			Cache:    auth.NewCache(),
			ClientID: "strata",
			Header:   http.Header{"User-Agent": {o.UserAgent}},
			Credential: func(ctx context.Context, host string) (auth.Credential, error) {
				c, err := o.Credential(ctx, host)
				return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.IdentityToken, AccessToken: c.RegistryToken}, err
			},
		},
	}}
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// Meter gives the count of this client's requests and bytes.
func (c *Client) Meter() *Meter { return c.meter }

// Direct gives the same client without mirrored reads: every read asks the
// registry that is named.
func (c *Client) Direct() *Client { return &Client{state: c.state} }

// CheckAccess asks the registry of host whether it answers and accepts the
// credentials that are kept for it.
func (c *Client) CheckAccess(ctx context.Context, host string) error {
	resp, err := c.do(ctx, call{op: "asking", ref: Ref{Host: host}, method: http.MethodGet})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// call is one request to a registry.
type call struct {
	op     string // for messages
	ref    Ref    // what it is about: host, repository, and tag or digest
	method string
	path   string // below /v2/REPO/; "" with an empty repository is the API's root
	query  url.Values
	url    string // instead of path and query, where the registry gave it
	header http.Header
	body   io.Reader                     // *bytes.Reader where it can be sent again
	size   int64                         // of body; -1 unknown
	reopen func() (io.ReadCloser, error) // gives body anew
	mount  string                        // another repository that is read from
	once   bool                          // must not be repeated by the transport
}

// do sends r and gives the answer if it is a success; every other answer
// becomes an [*Error]. The caller closes the body.
func (c *Client) do(ctx context.Context, r call) (*http.Response, error) {
	if c.options.Offline && r.ref.Host != EmbeddedHost {
		return nil, offline(r.op, r.ref)
	}
	resp, err := c.send(ctx, r)
	var token *errcode.ErrorResponse
	if errors.As(err, &token) && c.narrow(r, token.StatusCode) {
		resp, err = c.send(ctx, r)
	}
	if err != nil {
		return nil, transportError(ctx, r.op, r.ref, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, responseError(r.op, r.ref, resp)
	}
	return resp, nil
}

func (c *Client) send(ctx context.Context, r call) (*http.Response, error) {
	ctx = c.marked(c.withScopes(ctx, r), r.ref)
	if r.once {
		ctx = once(ctx)
	}
	base, err := url.Parse(c.base(r.ref.Host))
	if err != nil {
		return nil, err
	}
	ctx = wire.From(ctx, base)
	target := r.url
	if target == "" {
		target = base.String() + "/v2/"
		if r.ref.Repo != "" {
			target += r.ref.Repo + "/" + r.path
		}
		if len(r.query) > 0 {
			target += "?" + r.query.Encode()
		}
	}
	if b, ok := r.body.(*bytes.Reader); ok {
		if _, err := b.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = r.size
		if r.reopen != nil {
			req.GetBody = r.reopen
		}
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if !wire.SameHost(base, req.URL) {
		// Where a registry says that an upload goes on, or a list. The credentials
		// that the user has for that host are none of this registry's business.
		for k, v := range c.auth.Header {
			req.Header[k] = v
		}
		return c.plain.Do(req)
	}
	return c.auth.Do(req)
}

// withScopes says which rights a token must have. Pull and push are asked for
// at once, so that pushing after a pull needs no new token.
func (c *Client) withScopes(ctx context.Context, r call) context.Context {
	if r.ref.Repo == "" {
		return ctx
	}
	host := wireHost(r.ref.Host)
	scopes := []string{auth.ScopeRepository(r.ref.Repo, c.actions(r)...)}
	if r.mount != "" {
		scopes = append(scopes, auth.ScopeRepository(r.mount, auth.ActionPull))
	}
	if r.method == http.MethodDelete && r.url == "" {
		scopes[0] = auth.ScopeRepository(r.ref.Repo, auth.ActionPull, auth.ActionPush, auth.ActionDelete)
	}
	return auth.WithScopesForHost(ctx, host, scopes...)
}

func (c *Client) actions(r call) []string {
	_, host := c.pullOnly.Load(r.ref.Host)
	_, repo := c.pullOnly.Load(r.ref.Name())
	if isRead(r.method) && (host || repo) {
		return []string{auth.ActionPull}
	}
	return []string{auth.ActionPull, auth.ActionPush}
}

// narrow notes that the token service of r's host gives no token with the
// right to push, and says whether asking again, for pull alone, may help. An
// anonymous user will be refused for every repository, another one perhaps
// only for this one.
func (c *Client) narrow(r call, status int) bool {
	denied := status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusBadRequest
	if !denied || !isRead(r.method) || r.ref.Repo == "" || len(c.actions(r)) == 1 {
		return false
	}
	key := r.ref.Name()
	if cred, err := c.options.Credential(context.Background(), wireHost(r.ref.Host)); err == nil && cred == (Credential{}) {
		key = r.ref.Host
	}
	c.pullOnly.Store(key, true)
	return true
}

func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// base gives the root URL of a host.
func (c *Client) base(host string) string {
	scheme := "https"
	if host == EmbeddedHost || isLoopback(host) {
		scheme = "http"
	}
	for _, h := range c.options.PlainHTTP {
		if h == host {
			scheme = "http"
		}
	}
	return scheme + "://" + wireHost(host)
}

// wireHost gives the host that serves the API: Docker Hub's is not the one in
// its names.
func wireHost(host string) string {
	if host == dockerHub {
		return "registry-1.docker.io"
	}
	return host
}

// sources gives the places to read ref from, in order.
func (c *Client) sources(ref Ref) []Ref {
	if c.mirror && ref.Host != EmbeddedHost {
		return []Ref{ref.Mirror(), ref}
	}
	return []Ref{ref}
}

// fromFirst asks the places that may hold ref, in order, until one has it. An
// embedded registry that fails is an error and not a reason to look elsewhere.
func fromFirst[T any](c *Client, ref Ref, ask func(Ref) (T, error)) (T, Ref, error) {
	places := c.sources(ref)
	for _, place := range places[:len(places)-1] {
		v, err := ask(place)
		if !errors.Is(err, ErrNotFound) {
			return v, place, err
		}
	}
	v, err := ask(ref)
	return v, ref, err
}
