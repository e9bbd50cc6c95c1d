package wire

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits bound how long a registry may keep a request waiting. A field that is 0
// has the value that stands with it. They bound silence and not length: a
// transfer that goes on may take as long as it needs.
type Limits struct {
	// Head is from a request that reads to the head of its answer: 30 s.
	Head time.Duration
	// Body is the silence in the middle of an answer: 30 s. Less than [progress]
	// bytes count as silence.
	Body time.Duration
	// Upload is how long a registry may take nothing of what it is sent: 30 s.
	Upload time.Duration
	// Written is from a request that writes, or the last byte of its body, to the
	// head of its answer: 60 s, and a second more for each 10 MB, because
	// registries hash what they were sent before they answer.
	Written time.Duration
	// Small is for the whole of an answer that is no large blob: 60 s.
	Small time.Duration
}

// Patience gives the limits for a registry that needs up to d where the usual ones
// are 30 s.
func Patience(d time.Duration) Limits {
	return Limits{Head: d, Body: d, Upload: d, Written: 2 * d, Small: 2 * d}
}

func (l Limits) withDefaults() Limits {
	d := Patience(30 * time.Second)
	for _, f := range []struct{ have, usual *time.Duration }{
		{&l.Head, &d.Head}, {&l.Body, &d.Body}, {&l.Upload, &d.Upload}, {&l.Written, &d.Written}, {&l.Small, &d.Small},
	} {
		if *f.have == 0 {
			*f.have = *f.usual
		}
	}
	return l
}

const (
	// progress is what has to come within the limit for silence: a line that
	// carries less than 140 bytes a second carries no image.
	progress = 4 << 10
	// smallBlob is the size up to which a blob is a small answer: configs, recipes,
	// inventories of few files.
	smallBlob = 256 << 10
	// hashed is what the slowest registry that was thought of hashes in a second.
	hashed = 10 << 20
)

// Silence is the end of a request whose registry kept it waiting for too long.
type Silence struct {
	Host   string        // who was waited for; a token service is not the registry
	What   string        // "has sent nothing"
	After  time.Duration // the limit
	Repeat bool          // asking again may help, and does no harm
}

// SilenceHint says what helps against it.
const SilenceHint = "try again later, or build without it: --offline; for a registry or a line that is only slow, lengthen the limits: STRATA_REGISTRY_TIMEOUT=2m"

// What a registry may do wrong.
const (
	noHead   = "has sent nothing"
	noMore   = "has sent next to nothing"
	noEnd    = "has not come to the end of a small answer"
	noAnswer = "has not answered a " // and the method
	noTaking = "has taken nothing of an upload"
)

// IsSilence says whether the words of an error, of which a server has left no
// more than these, are those of a Silence.
func IsSilence(text string) bool {
	for _, what := range []string{noHead, noMore, noEnd, noAnswer, noTaking} {
		if strings.Contains(text, " "+what) {
			return true
		}
	}
	return false
}

func (s *Silence) Error() string {
	after := s.After.String()
	if s.After%time.Second == 0 && s.After < 2*time.Minute {
		after = fmt.Sprintf("%d s", s.After/time.Second)
	}
	return s.Host + " " + s.What + " for " + after
}

// alarm ends a request unless it is set anew, or stopped, in time.
type alarm struct {
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	rang  *Silence
	done  bool
}

// set makes the alarm ring with s, if nothing else is heard before.
func (a *alarm) set(s Silence, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done || a.rang != nil {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(max(wait, 0), func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.timer == t && !a.done {
			a.rang = &s
			a.cancel(&s)
		}
	})
	a.timer = t
}

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// end stops the alarm for good.
func (a *alarm) end() {
	a.stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = true
}

// or gives the reason of the alarm, if it has rung, in place of err.
func (a *alarm) or(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rang != nil && err != nil && err != io.EOF {
		return a.rang
	}
	return err
}

// limited ends requests whose registry has gone silent.
type limited struct {
	base   http.RoundTripper
	limits Limits
}

// RoundTrip implements http.RoundTripper.
func (t *limited) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	waiting, whole := &alarm{cancel: cancel}, &alarm{cancel: cancel}
	out := req.WithContext(ctx)
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		waiting.set(Silence{Host: req.URL.Host, What: noHead, After: t.limits.Head, Repeat: true}, t.limits.Head)
	} else {
		waiting.set(t.unanswered(req, 0), t.limits.Written)
	}
	var sent *uploading
	if req.Body != nil && req.Body != http.NoBody {
		sent = &uploading{ReadCloser: req.Body, t: t, req: req, alarm: waiting}
		out.Body = sent
		if again := req.GetBody; again != nil {
			out.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				if err != nil {
					return nil, err
				}
				return &uploading{ReadCloser: body, t: t, req: req, alarm: waiting}, nil
			}
		}
	}
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		waiting.end()
		cancel(nil)
		return nil, waiting.or(err)
	}
	waiting.end()
	body := &answer{
		ReadCloser: resp.Body, host: req.URL.Host, limit: t.limits.Body,
		silence: &alarm{cancel: cancel}, whole: whole, done: func() { cancel(nil) },
	}
	if !isBlob(req.URL.Path) && !fromBlob(req) || resp.StatusCode > 299 || resp.ContentLength >= 0 && resp.ContentLength <= smallBlob {
		whole.set(Silence{Host: req.URL.Host, What: noEnd, After: t.limits.Small}, t.limits.Small)
	}
	resp.Body, resp.Request = body, req
	return resp, nil
}

// unanswered is what is said of a write that gets no answer after sent bytes.
func (t *limited) unanswered(req *http.Request, sent int64) Silence {
	after := t.limits.Written + time.Duration(sent/hashed)*time.Second
	return Silence{Host: req.URL.Host, What: noAnswer + req.Method, After: after}
}

// uploading is the body of a request. Only the registry's time counts: while the
// next bytes are being made, the alarm is off.
type uploading struct {
	io.ReadCloser
	t     *limited
	req   *http.Request
	alarm *alarm
	sent  int64
}

func (u *uploading) Read(p []byte) (int, error) {
	u.alarm.stop()
	n, err := u.ReadCloser.Read(p)
	u.sent += int64(n)
	if err != nil || u.req.ContentLength > 0 && u.sent >= u.req.ContentLength {
		s := u.t.unanswered(u.req, u.sent)
		u.alarm.set(s, s.After)
	} else {
		after := u.t.limits.Upload
		u.alarm.set(Silence{Host: u.req.URL.Host, What: noTaking, After: after, Repeat: true}, after)
	}
	return n, err
}

// answer is the body of an answer. Only the time counts in which somebody waits
// for it.
type answer struct {
	io.ReadCloser
	host    string
	limit   time.Duration
	silence *alarm
	whole   *alarm
	done    func()
	waited  time.Duration // since so much came as is progress
	got     int
}

func (a *answer) Read(p []byte) (int, error) {
	a.silence.set(Silence{Host: a.host, What: noMore, After: a.limit, Repeat: true}, a.limit-a.waited)
	start := time.Now()
	n, err := a.ReadCloser.Read(p)
	a.silence.stop()
	a.waited += time.Since(start)
	if a.got += n; a.got >= progress {
		a.waited, a.got = 0, 0
	}
	if err != nil {
		err = a.whole.or(a.silence.or(err))
		a.end()
	}
	return n, err
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	a.end()
	return err
}

func (a *answer) end() {
	a.silence.end()
	a.whole.end()
	a.done()
}

// isBlob says whether a path is that of a blob, and not of an upload.
func isBlob(path string) bool {
	return strings.HasPrefix(path, "/v2/") && strings.Contains(path, "/blobs/") && !strings.Contains(path, "/blobs/uploads/")
}

// fromBlob says whether a request comes of the redirect of a blob.
func fromBlob(req *http.Request) bool {
	first := firstOf(req)
	return first != req && isBlob(first.URL.Path)
}
