package serve

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// start serves a handler that takes everything, and says who was asked for.
func start(t *testing.T, addr string, o Options) *Server {
	t.Helper()
	o.Methods = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	s, err := Listen(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err, r.Header.Get("X-Forwarded-Host"))
	}), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// raw sends a request as it stands, and gives the status of the answer.
func raw(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, strings.ReplaceAll(request, "\n", "\r\n")+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Only requests that name this machine are answered, in every form in which HTTP
// lets them be written.
func TestHosts(t *testing.T) {
	s := start(t, "127.0.0.1:0", Options{Names: []string{"Images.Example.com:5000"}})
	_, port, _ := net.SplitHostPort(s.Host())
	for request, want := range map[string]int{
		"GET / HTTP/1.1\nHost: localhost":                                   200,
		"GET / HTTP/1.1\nHost: LOCALHOST:" + port:                           200,
		"GET / HTTP/1.1\nHost: localhost.:" + port:                          200,
		"GET / HTTP/1.1\nHost: a.localhost:" + port:                         200,
		"GET / HTTP/1.1\nHost: 127.0.0.1:" + port:                           200,
		"GET / HTTP/1.1\nHost: 127.9.9.9":                                   200,
		"GET / HTTP/1.1\nHost: [::1]:" + port:                               200,
		"GET / HTTP/1.1\nHost: [::ffff:127.0.0.1]":                          200,
		"GET / HTTP/1.1\nHost: images.example.com":                          200,
		"GET / HTTP/1.0\nHost: localhost":                                   200,
		"GET http://localhost/ HTTP/1.1\nHost: localhost":                   200,
		"GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: none":             200,
		"GET / HTTP/1.1\nHost: evil.example.com":                            421,
		"GET / HTTP/1.1\nHost: evil.example.com:" + port:                    421,
		"POST / HTTP/1.1\nHost: evil.example.com\nContent-Length: 0":        421,
		"GET / HTTP/1.1\nHost: evil.example.com.":                           421,
		"GET / HTTP/1.1\nHost: localhost.evil.example.com":                  421,
		"GET / HTTP/1.1\nHost: 127.0.0.1.evil.example.com":                  421,
		"GET / HTTP/1.1\nHost: evillocalhost":                               421,
		"GET / HTTP/1.1\nHost: 0.0.0.0:" + port:                             421,
		"GET / HTTP/1.1\nHost: 2130706433":                                  421,
		"GET / HTTP/1.1\nHost: 127.1":                                       421,
		"GET / HTTP/1.1\nHost: 192.0.2.1":                                   421,
		"GET / HTTP/1.1\nHost: [fe80::1]":                                   421,
		"GET / HTTP/1.1\nHost: evil\nX-Forwarded-Host: localhost":           421,
		"GET / HTTP/1.1\nHost: ":                                            400,
		"GET / HTTP/1.1":                                                    400,
		"GET / HTTP/1.0":                                                    400,
		"GET / HTTP/1.1\nHost: localhost\nHost: evil":                       400,
		"GET / HTTP/1.1\nHost: localhost:80:90":                             400,
		"GET / HTTP/1.1\nHost: [::1":                                        400,
		"GET / HTTP/1.1\nHost: [127.0.0.1]":                                 400,
		"GET http://evil.example.com/ HTTP/1.1\nHost: localhost":            421,
		"GET http://a@localhost/ HTTP/1.1\nHost: localhost":                 400,
		"GET / HTTP/1.1\nHost: localhost\nOrigin: http://evil.example.com":  403,
		"GET / HTTP/1.1\nHost: localhost\nOrigin: http://localhost:" + port: 403,
		"GET / HTTP/1.1\nHost: localhost\nOrigin: null":                     403,
		"GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site":       403,
		"GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: same-site":        403,
		"TRACE / HTTP/1.1\nHost: localhost":                                 405,
		"CONNECT / HTTP/1.1\nHost: localhost":                               405,
		"CONNECT evil.example.com:443 HTTP/1.1\nHost: evil.example.com:443": 405,
		"OPTIONS * HTTP/1.1\nHost: localhost":                               405,
		"PUT / HTTP/1.1\nHost: localhost\nContent-Length: 9":                405,
		"get / HTTP/1.1\nHost: localhost":                                   405,
		"PRI * HTTP/2.0":                                                    405,
		"GET / HTTP/1.1\nHost: localhost\nX: " + strings.Repeat("x", 1<<17): 431,
	} {
		if got := raw(t, s.Host(), request); got != want {
			t.Errorf("%.100q: %d, want %d", request, got, want)
		}
	}
}

// Where it listens for others it has the address that a request came in at, and
// the names that it was given.
func TestHostsOnEveryAddress(t *testing.T) {
	s := start(t, "0.0.0.0:0", Options{Names: []string{"machine"}})
	if s.Loopback() {
		t.Error("everybody reaches it")
	}
	_, port, _ := net.SplitHostPort(s.Host())
	for host, want := range map[string]int{
		"127.0.0.1": 200, "localhost": 200, "machine:" + port: 200, "0.0.0.0": 421, "192.0.2.1": 421, "evil.example.com": 421,
	} {
		if got := raw(t, "127.0.0.1:"+port, "GET / HTTP/1.1\nHost: "+host); got != want {
			t.Errorf("%s: %d, want %d", host, got, want)
		}
	}
}

// A server ends at once, though a client is in the middle of a request.
func TestCloseDoesNotWait(t *testing.T) {
	s := start(t, "127.0.0.1:0", Options{})
	for _, text := range []string{"", "GET", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"} {
		c, err := net.Dial("tcp", s.Host())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, text)
	}
	time.Sleep(50 * time.Millisecond)
	before := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func htpasswd(t *testing.T, file string, pairs ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# users\n\n")
	for i := 0; i < len(pairs); i += 2 {
		h, err := bcrypt.GenerateFromPassword([]byte(pairs[i+1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:%s\n", pairs[i], h)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Passwords are asked for, found right and wrong, and read again when the file
// changes; a file that can't be read lets nobody in.
func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	htpasswd(t, file, "ann", "secret", "bob", "other")
	u, err := OpenUsers(file)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "127.0.0.1:0", Options{Users: u})
	ask := func(name, password string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if name != "" {
			req.SetBasicAuth(name, password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if auth := resp.Header.Get("WWW-Authenticate"); (resp.StatusCode == 401) != strings.HasPrefix(auth, "Basic realm=") {
			t.Errorf("%d with WWW-Authenticate %q", resp.StatusCode, auth)
		}
		return resp.StatusCode
	}
	for range 2 { // the second time from what is remembered
		for pair, want := range map[[2]string]int{
			{"ann", "secret"}: 200, {"bob", "other"}: 200, {"ann", "other"}: 401, {"ann", ""}: 401,
			{"eve", "secret"}: 401, {"", ""}: 401, {"# users", ""}: 401,
		} {
			if got := ask(pair[0], pair[1]); got != want {
				t.Errorf("%q: %d, want %d", pair, got, want)
			}
		}
	}
	htpasswd(t, file, "ann", "changed", "bob", "other", "eve", "new")
	if ask("ann", "secret") != 401 || ask("ann", "changed") != 200 || ask("eve", "new") != 200 {
		t.Error("the file was not read again")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if ask("ann", "changed") != 401 {
		t.Error("a file that is gone lets somebody in")
	}
}

// Files that are none of passwords are refused, without a word of what stands in
// them.
func TestBadUsers(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                      "has no user",
		"# nothing\n":           "has no user",
		"hunter2\n":             "line 1 is not NAME:HASH",
		":$2y$05$x\n":           "line 1 is not NAME:HASH",
		"ann:hunter2\n":         "line 1 has no bcrypt hash",
		"ann:{SHA}hunter2=\n":   "line 1 has no bcrypt hash",
		"ann:$apr1$hunter2$x\n": "line 1 has no bcrypt hash",
		"\nann:$2y$31$" + strings.Repeat("a", 53):                                           "line 2 has a hash of cost 31",
		"ann:$2y$05$" + strings.Repeat("a", 53) + "\nann:$2y$05$" + strings.Repeat("a", 53): "line 2 has a user that is there already",
	} {
		file := filepath.Join(dir, "users")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenUsers(file)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, file := range []string{dir, filepath.Join(dir, "absent"), "/dev/zero"} {
		if _, err := OpenUsers(file); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}

// What a refused request, or one whose body the service does not want, was still
// to send is not waited for: the connection ends.
func TestUnwantedBodies(t *testing.T) {
	s, err := Listen("127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
	}), Options{Methods: []string{http.MethodPost}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for request, want := range map[string]string{
		"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc": "400",
		"POST / HTTP/1.1\r\nHost: evil\r\nContent-Length: 100\r\n\r\nabc":      "421",
		"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc":  "405",
	} {
		c, err := net.Dial("tcp", s.Host())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, request)
		all, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 "+want) {
			t.Errorf("%q: %.20q, %v", request, all, err)
		}
	}
}

// A client that stops in the middle of a body, or of taking an answer, is let go;
// one that is slow, but goes on, is not. The time is that of synctest.
func TestIdleClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan error, 1)
		l := &pipes{make(chan net.Conn)}
		server := &http.Server{Handler: Guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			got <- err
		}), Options{Methods: []string{http.MethodPost}})}
		go func() { _ = server.Serve(l) }()
		send := func(pieces int, size int, wait time.Duration) error {
			c, far := net.Pipe()
			l.c <- far
			defer c.Close()
			go func() { _, _ = io.Copy(io.Discard, c) }()
			_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", pieces*size)
			go func() {
				for range pieces {
					if _, err := c.Write(make([]byte, size)); err != nil {
						return
					}
					time.Sleep(wait)
				}
			}()
			return <-got
		}
		if err := send(100, bodyStep, 50*time.Second); err != nil {
			t.Errorf("one that is slow: %v", err)
		}
		before := time.Now()
		if err := send(2, bodyStep, time.Hour); err == nil {
			t.Error("one that stops was waited for")
		}
		if err := send(1000, 1, 30*time.Second); err == nil {
			t.Error("one that trickles was waited for")
		}
		if took := time.Since(before); took > 5*time.Minute {
			t.Errorf("it took %v", took)
		}
		server.Close()
		time.Sleep(2 * time.Hour) // until the last writer has noticed
	})
}

// pipes is a listener over pipes.
type pipes struct{ c chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) {
	if c, ok := <-p.c; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p *pipes) Close() error   { close(p.c); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }
