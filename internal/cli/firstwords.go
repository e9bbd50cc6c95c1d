package cli

import (
	"io"
	"sync"
	"time"
)

// promptWait is how long a shell that shows nothing is waited for.
const promptWait = 3 * time.Second

// afterPrompt gives in and out such that nothing is read from in before
// something was written to out: what is typed ahead reaches a shell that has not
// set its terminal yet, and an end of the input among it would be lost.
func afterPrompt(in io.Reader, out io.Writer) (io.ReadCloser, io.Writer) {
	shown := make(chan struct{})
	w := &promptWriter{out: out, shown: sync.OnceFunc(func() { close(shown) })}
	return io.NopCloser(&promptReader{in: in, shown: shown}), w
}

type promptWriter struct {
	out   io.Writer
	shown func()
}

func (w *promptWriter) Write(data []byte) (int, error) {
	n, err := w.out.Write(data)
	w.shown()
	return n, err
}

type promptReader struct {
	in    io.Reader
	shown <-chan struct{}
	late  bool
}

func (r *promptReader) Read(data []byte) (int, error) {
	if !r.late {
		r.late = true
		t := time.NewTimer(promptWait)
		defer t.Stop()
		select {
		case <-r.shown:
		case <-t.C:
		}
	}
	return r.in.Read(data)
}
