package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// short are limits for tests: half a second where the usual ones are 30.
var short = Patience(500 * time.Millisecond)

// slowly is a body whose parts come apart in time.
type slowly struct {
	parts int
	pause time.Duration
	size  int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.parts == 0 {
		return 0, io.EOF
	}
	s.parts--
	time.Sleep(s.pause)
	n := min(len(p), s.size)
	clear(p[:n])
	return n, nil
}

func TestLimits(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	hold := func(r *http.Request) { // a server does not see the end of a connection of which it reads nothing
		select {
		case <-r.Context().Done():
		case <-over:
		case <-time.After(5 * time.Second):
		}
	}
	write := func(w http.ResponseWriter, n int) {
		w.Write(make([]byte, n))
		w.(http.Flusher).Flush()
	}
	for _, tc := range []struct {
		name   string
		method string
		path   string
		body   io.Reader
		serve  func(w http.ResponseWriter, r *http.Request)
		want   string // of the error; "" is none
		within time.Duration
	}{
		{name: "no head", serve: func(w http.ResponseWriter, r *http.Request) { hold(r) }, want: "has sent nothing for 500ms"},
		{name: "no head to a HEAD", method: "HEAD", serve: func(w http.ResponseWriter, r *http.Request) { hold(r) }, want: "has sent nothing"},
		{name: "no end of a manifest", serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			write(w, 50)
			hold(r)
		}, want: "has sent next to nothing for 500ms"},
		{name: "no end of an error", serve: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			write(w, 50)
			hold(r)
		}, want: "has sent next to nothing"},
		{name: "no end of a blob", path: blobPath, serve: func(w http.ResponseWriter, r *http.Request) {
			write(w, 1<<20)
			hold(r)
		}, want: "has sent next to nothing"},
		{name: "a byte of a blob now and then", path: blobPath, serve: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				write(w, 1)
				time.Sleep(20 * time.Millisecond)
			}
		}, want: "has sent next to nothing"},
		{name: "a manifest that goes on and on", serve: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				write(w, progress)
				time.Sleep(50 * time.Millisecond)
			}
		}, want: "has not come to the end of a small answer for 1 s"},
		{name: "a blob that goes on for long", path: blobPath, serve: func(w http.ResponseWriter, r *http.Request) {
			for range 30 {
				write(w, progress)
				time.Sleep(50 * time.Millisecond)
			}
		}, within: 20 * time.Second},
		{name: "a write without an answer", method: "POST", serve: func(w http.ResponseWriter, r *http.Request) { hold(r) }, want: "has not answered a POST for 1 s"},
		{name: "a DELETE without an answer", method: "DELETE", serve: func(w http.ResponseWriter, r *http.Request) { hold(r) }, want: "has not answered a DELETE"},
		{name: "an upload that is not taken", method: "PUT", body: bytes.NewReader(make([]byte, 64<<20)),
			serve: func(w http.ResponseWriter, r *http.Request) {
				io.CopyN(io.Discard, r.Body, 1<<20)
				hold(r)
			}, want: "has taken nothing of an upload for 500ms"},
		{name: "an upload that is taken and not answered", method: "PUT", body: bytes.NewReader(make([]byte, 1<<20)),
			serve: func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				hold(r)
			}, want: "has not answered a PUT"},
		{name: "an upload whose source is slow", method: "PATCH", body: &slowly{4, 700 * time.Millisecond, 100}, serve: func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		}, within: 20 * time.Second},
		{name: "an upload that is taken slowly", method: "PUT", body: bytes.NewReader(make([]byte, 16<<20)), serve: func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.CopyN(io.Discard, r.Body, 1<<20); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}, within: 20 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(tc.serve))
			defer s.Close()
			defer s.CloseClientConnections()
			tr := New(Options{Limits: short})
			defer tr.CloseIdleConnections()
			if tc.path == "" {
				tc.path = manifestPath
			}
			req, err := http.NewRequestWithContext(t.Context(), tc.method, s.URL+tc.path, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			resp, err := tr.RoundTrip(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			var silence *Silence
			if tc.want == "" && err != nil {
				t.Error(err)
			}
			if tc.want != "" && (!errors.As(err, &silence) || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "127.0.0.1:")) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if tc.within == 0 {
				tc.within = 4 * time.Second
			}
			if took := time.Since(start); took > tc.within {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// An answer that somebody is in no hurry to read is not silent.
func TestSlowReaders(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 8<<20)) }))
	defer s.Close()
	tr := New(Options{Limits: short})
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequest("GET", s.URL+blobPath, nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p := make([]byte, 2<<20)
	for {
		n, err := io.ReadFull(resp.Body, p)
		if n == 0 && err == io.EOF {
			return
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
	}
}

// The end of the caller's context is told as such.
func TestCancelled(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer s.Close()
	defer s.CloseClientConnections()
	tr := New(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+manifestPath, nil)
	if _, err := tr.RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
