// Package serve answers HTTP on a port of this machine, and only those whom it
// is for: requests that name this machine (a web page whose own name leads here,
// DNS rebinding, names another), that no other site's page has caused, whose
// method the service has, and, if it has passwords, that know one. Who sends
// nothing is not waited for.
//
// It takes a handler and gives a running server; it knows nothing of what is
// served.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/diag"
)

// Options say whom a server answers. The zero value answers GET and HEAD of
// whoever reaches it under a name of this machine.
type Options struct {
	// Names are host names of this machine besides localhost and the address
	// that a request came in at.
	Names []string
	// Methods are those that the service has; nil is GET and HEAD.
	Methods []string
	// Users are asked for a password; nil lets everybody in.
	Users *Users
	// TLS makes it HTTPS.
	TLS *tls.Config
	// Refuse writes the answer to what is not let through; nil is plain text.
	Refuse func(w http.ResponseWriter, status int, why string)
}

// The bounds of waiting. Registry clients send headers at once and bodies
// without a pause; a connection with a bandwidth of 70 bytes a second is as good
// as none.
const (
	headerTime = 15 * time.Second
	idleTime   = time.Minute // between two requests, and for each step of a body
	bodyStep   = 4 << 10     // that much of a body gives it another idleTime
	headerSize = 64 << 10
	closeTime  = 500 * time.Millisecond // for requests under way when it ends
)

// Server is a running one.
type Server struct {
	addr   net.Addr
	scheme string
	server *http.Server
	done   chan error
}

// Listen serves h on addr ("127.0.0.1:0" for any free port of this machine)
// until the server is closed.
func Listen(addr string, h http.Handler, o Options) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: l.Addr(), scheme: "http", done: make(chan error, 1), server: &http.Server{
		Handler: Guard(h, o), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: headerSize,
		ErrorLog: log.New(io.Discard, "", 0), DisableGeneralOptionsHandler: true, TLSConfig: o.TLS,
	}}
	if o.TLS != nil {
		s.scheme = "https"
		go func() { s.done <- s.server.ServeTLS(l, "", ""); close(s.done) }()
	} else {
		go func() { s.done <- s.server.Serve(l); close(s.done) }()
	}
	return s, nil
}

// URL gives the root URL, without a slash at its end.
func (s *Server) URL() string { return s.scheme + "://" + s.addr.String() }

// Host gives host and port, as they stand in image names.
func (s *Server) Host() string { return s.addr.String() }

// Loopback says whether only this machine reaches it.
func (s *Server) Loopback() bool {
	a, ok := s.addr.(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// Close stops serving. Requests under way get half a second to end.
func (s *Server) Close() error {
	ctx, stop := context.WithTimeout(context.Background(), closeTime)
	defer stop()
	err := s.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.server.Close()
	}
	if e := <-s.done; e != nil && !errors.Is(e, http.ErrServerClosed) { // nil: closed before
		err = errors.Join(err, e)
	}
	return err
}

// LoadTLS reads a certificate, with its chain, and its key.
func LoadTLS(cert, key string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, diag.Hint(fmt.Errorf("reading the certificate %q and its key %q: %w", cert, key, err),
			"both are files in PEM; the certificate's holds the chain, the server's own first")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// Guard lets through to next what o says, and nothing else.
func Guard(next http.Handler, o Options) http.Handler {
	g := &guard{next: next, Options: o, names: map[string]bool{}}
	if g.Methods == nil {
		g.Methods = []string{http.MethodGet, http.MethodHead}
	}
	if g.Refuse == nil {
		g.Refuse = func(w http.ResponseWriter, status int, why string) { http.Error(w, why, status) }
	}
	for _, n := range o.Names {
		if host, ok := hostOf(n); ok {
			g.names[host] = true
		}
	}
	return g
}

type guard struct {
	Options
	next  http.Handler
	names map[string]bool
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A page that gets hold of an answer all the same must not run it.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	status, why := g.judge(r)
	if status == http.StatusOK && g.Users != nil {
		name, password, ok := r.BasicAuth()
		if !ok || !g.Users.Check(r.Context(), name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="strata", charset="UTF-8"`)
			status, why = http.StatusUnauthorized, "a user name and a password are needed"
		}
	}
	control := http.NewResponseController(w)
	if status != http.StatusOK {
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", strings.Join(g.Methods, ", "))
		}
		// What of its body is still to come is not waited for.
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			_ = control.SetReadDeadline(time.Now().Add(closeTime))
		}
		g.Refuse(w, status, why)
		return
	}
	for name := range r.Header { // nothing but the request itself says what it is
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			r.Header.Del(name)
		}
	}
	// The last answer's time on this connection is over; this one's begins with
	// its first byte.
	_ = control.SetWriteDeadline(time.Time{})
	if r.Body == nil || r.Body == http.NoBody {
		g.next.ServeHTTP(&answer{ResponseWriter: w, control: control}, r)
		return
	}
	b := &body{ReadCloser: r.Body, control: control}
	r.Body = b
	g.next.ServeHTTP(&answer{ResponseWriter: w, control: control}, r)
	if !b.ended { // the server reads what the handler has left
		_ = control.SetReadDeadline(time.Now().Add(closeTime))
	}
}

// judge gives 200, or the status of a refusal with the reason.
func (g *guard) judge(r *http.Request) (status int, why string) {
	if !slices.Contains(g.Methods, r.Method) {
		return http.StatusMethodNotAllowed, "this service does not have the method"
	}
	host, ok := hostOf(r.Host)
	if !ok || r.URL.User != nil {
		return http.StatusBadRequest, "the request does not say to which host it goes"
	}
	if !g.own(host, r) {
		return http.StatusMisdirectedRequest, "this service does not have the request's host name (Host); strata's flag for another one is --host, or --listen-host with watch"
	}
	// Browsers say on whose behalf they ask; no client of a registry or of
	// metrics sends either.
	if len(r.Header.Values("Origin")) > 0 {
		return http.StatusForbidden, "requests of web pages are not answered (Origin)"
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" && site != "same-origin" {
			return http.StatusForbidden, "requests of other web sites are not answered (Sec-Fetch-Site)"
		}
	}
	return http.StatusOK, ""
}

// own says whether a host name means this machine. Ports are not compared: a
// tunnel has another one. Names below localhost lead nowhere else (RFC 6761).
func (g *guard) own(host string, r *http.Request) bool {
	if g.names[host] || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && ip == local.AddrPort().Addr().Unmap().WithZone("")
}

// hostOf gives the host of HOST[:PORT] in one form: without port, brackets and a
// dot at its end, in small letters.
func hostOf(s string) (host string, ok bool) {
	port := ""
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		if host, port, ok = strings.Cut(rest, "]"); !ok || port != "" && port[0] != ':' {
			return "", false
		}
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", false
		}
		port = strings.TrimPrefix(port, ":")
	} else {
		host, port, _ = strings.Cut(s, ":")
		host = strings.TrimSuffix(host, ".")
	}
	if strings.Trim(port, "0123456789") != "" || host == "" {
		return "", false
	}
	return strings.ToLower(host), true
}

// body ends a request whose client stops sending, or trickles.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	left    int // of the step that was paid with the last deadline
	ended   bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(idleTime))
		b.left = bodyStep
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	b.ended = err != nil
	if b.ended { // the server watches the connection from here on
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// answer ends a request whose client does not take what it asked for.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (a *answer) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 { // in steps: a large piece may take longer than one
		step := p[:min(len(p), 1<<20)]
		_ = a.control.SetWriteDeadline(time.Now().Add(idleTime))
		m, err := a.ResponseWriter.Write(step)
		n += m
		if err != nil {
			return n, err
		}
		p = p[len(step):]
	}
	return n, nil
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
