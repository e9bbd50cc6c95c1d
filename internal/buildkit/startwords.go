package buildkit

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// StartError says that a command was never run.
type StartError struct {
	Code   int    // 127: there is no such command; 126: it can't be run
	Reason string // in the words of what starts it
}

// Error says why it was not run.
func (e *StartError) Error() string {
	switch {
	case e.Code == 127:
		return "the image has no such command"
	case e.Code == 126 && !strings.Contains(e.Reason, "exec format error"):
		return "it is not an executable file"
	}
	return "it can't be started: " + e.Reason
}

// startFailed is how runc begins to say, where the command would write its own
// errors, that it could not start it. The exit code is 1, as a command's own may
// be.
var startFailed = []byte("runc run failed: unable to start container process: ")

// startWords passes on what is written, but holds it back as long as it may be
// what runc says of a command that it could not start.
type startWords struct {
	to io.Writer

	mu   sync.Mutex
	held []byte
	open bool // nothing is held any more
}

// Write passes data on or holds it.
func (w *startWords) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		return w.to.Write(data)
	}
	w.held = append(w.held, data...)
	n := min(len(w.held), len(startFailed))
	if bytes.Equal(w.held[:n], startFailed[:n]) && len(w.held) < 1<<14 {
		return len(data), nil
	}
	w.open = true
	_, err := w.to.Write(w.held)
	return len(data), err
}

// end passes on what is still held, unless the exit code and all that was written
// say that the command was never run.
func (w *startWords) end(code int) *StartError {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open {
		return nil
	}
	w.open = true
	reason, ok := bytes.CutPrefix(bytes.TrimSpace(w.held), startFailed)
	if !ok || code != 1 || bytes.ContainsRune(reason, '\n') {
		_, _ = w.to.Write(w.held)
		return nil
	}
	e := &StartError{Code: 1, Reason: strings.TrimPrefix(string(reason), "error during container init: ")}
	switch {
	case strings.Contains(e.Reason, "executable file not found"), strings.Contains(e.Reason, "no such file or directory"):
		e.Code = 127
	case strings.Contains(e.Reason, "permission denied"), strings.Contains(e.Reason, "is a directory"), strings.Contains(e.Reason, "exec format error"):
		e.Code = 126
	}
	return e
}
