package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// RoundTripper gives a transport that calls the registry in this process,
// without a socket. Bodies stream in both directions.
func (e *Embedded) RoundTripper() http.RoundTripper { return &inproc{e} }

type inproc struct{ e *Embedded }

// RoundTrip implements http.RoundTripper.
func (t *inproc) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body == nil {
		req = req.Clone(ctx)
		req.Body = http.NoBody
	}
	if err := ctx.Err(); err != nil {
		req.Body.Close()
		return nil, err
	}
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, pipe: pw, noBody: req.Method == http.MethodHead, ready: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	t.e.wg.Go(func() {
		defer stop()
		defer req.Body.Close()
		t.serve(w, req)
	})
	select {
	case <-w.ready:
	case <-ctx.Done():
		req.Body.Close() // ends a handler that waits for more
		return nil, context.Cause(ctx)
	}
	resp := &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Body: pr, Request: req,
	}
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	return resp, nil
}

// serve runs the handler and ends the response, with an error if it panics.
func (t *inproc) serve(w *pipeWriter, req *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			w.WriteHeader(http.StatusInternalServerError)
			w.pipe.CloseWithError(fmt.Errorf("internal error: %v", p))
		}
	}()
	r := req.Clone(req.Context())
	r.RequestURI = r.URL.RequestURI()
	r.RemoteAddr = "in-process"
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	t.e.ServeHTTP(w, r)
	w.WriteHeader(http.StatusOK)
	w.pipe.Close()
}

// pipeWriter is an http.ResponseWriter over a pipe.
type pipeWriter struct {
	header http.Header
	pipe   *io.PipeWriter
	noBody bool // the answer to a HEAD

	once   sync.Once
	ready  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if status < 200 {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.noBody {
		return len(p), nil
	}
	return w.pipe.Write(p)
}
