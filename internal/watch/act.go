package watch

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The names of the policies that this package has.
const (
	ReportPolicy  = "report"
	CommandPolicy = "command"
	WebhookPolicy = "webhook"
)

// Report tells events in the log.
func (s *Service) Report() Policy { return report{s} }

type report struct{ service *Service }

func (report) Name() string { return ReportPolicy }

func (r report) Act(_ context.Context, e Event, attempt int) (string, error) {
	r.service.note(Note{Type: e.Type, Policy: ReportPolicy, Event: &e, Attempt: attempt})
	return "", nil
}

// Func makes a policy of a function.
func Func(name string, act func(context.Context, Event) (string, error)) Policy { return fn{name, act} }

type fn struct {
	name string
	act  func(context.Context, Event) (string, error)
}

func (f fn) Name() string { return f.name }

func (f fn) Act(ctx context.Context, e Event, _ int) (string, error) { return f.act(ctx, e) }

// Command is a policy that runs a shell command, with the event as JSON on its
// standard input and in STRATA_ variables.
type Command struct {
	Line    string
	Dir     string
	Env     []string
	Output  io.Writer     // what it writes
	Timeout time.Duration // 0: none
}

// Command gives the policy. Commands inherit the lock of the state as file 3, so
// that no second service begins while one runs on after this service was killed.
func (s *Service) Command(c Command) Policy { return command{c, s.store.lock} }

type command struct {
	Command
	lock *os.File
}

func (command) Name() string { return CommandPolicy }

// stopWait is how long a command that is told to end may take.
const stopWait = 10 * time.Second

func (c command) Act(ctx context.Context, e Event, attempt int) (string, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("it did not end within %s", c.Timeout))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.Line)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Dir, bytes.NewReader(append(body, '\n')), c.Output, c.Output
	cmd.Env = append(append([]string{}, c.Env...), environment(e, attempt)...)
	lock, err := inherited(c.lock)
	if err != nil {
		return "", fmt.Errorf("running the command: %w", err)
	}
	defer func() { _ = lock.Close() }()
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches it through the service
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	err = cmd.Run()
	if cmd.Process != nil && ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it started and left
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil: // the second left something in the background
		return "", nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("running the command: %w", context.Cause(ctx))
	case errors.As(err, &exit):
		return "", fmt.Errorf("running the command: %s", exit.ProcessState)
	}
	return "", fmt.Errorf("running the command: %w", err)
}

// inherited duplicates an open file, so that a process can be given it while
// another goroutine closes it.
func inherited(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dup := -1, error(nil)
	if err := raw.Control(func(of uintptr) { fd, dup = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, os.NewSyscallError("fcntl", dup)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// environment is what a command learns without reading JSON. All variables are
// always there.
func environment(e Event, attempt int) []string {
	return []string{
		"STRATA_EVENT=" + e.Type, "STRATA_DELIVERY=" + e.Delivery, "STRATA_ATTEMPT=" + strconv.Itoa(attempt),
		"STRATA_PROJECT=" + e.Project, "STRATA_IMAGE=" + e.Image, "STRATA_OLD=" + string(e.Old), "STRATA_NEW=" + string(e.New),
		"STRATA_LAYER=" + e.Layer, "STRATA_SLOT=" + e.Slot, "STRATA_UNITS=" + strings.Join(e.Units, " "),
	}
}

// The headers of a webhook's request.
const (
	HeaderSignature = "X-Strata-Signature-256" // "sha256=" and the hex form of HMAC-SHA256 of the body
	HeaderDelivery  = "X-Strata-Delivery"
	HeaderEvent     = "X-Strata-Event"
	HeaderTimestamp = "X-Strata-Timestamp" // Unix seconds; signed too, as the body's "sent"
	HeaderAttempt   = "X-Strata-Attempt"
)

// Webhook is a policy that posts events as JSON. The zero values of what is
// optional work.
type Webhook struct {
	URL       string
	Secret    []byte
	UserAgent string
	Now       func() time.Time
	Client    *http.Client  // nil: one with a limit of 30 s a request, which follows no redirects
	Tries     int           // quick ones, before it counts as failed; 0 is 5
	Wait      time.Duration // before the second try, doubling; 0 is 1 s
}

// longestHookWait is the longest Retry-After that a delivery waits for; a longer
// one is left to the next attempt.
const longestHookWait = time.Minute

// later is an error that says when trying again is of use.
type later struct {
	error
	after time.Duration
}

func (l later) Unwrap() error { return l.error }

func (l later) orNil() error {
	if l.error == nil || l.after <= 0 {
		return l.error
	}
	return l
}

// Name gives "webhook".
func (Webhook) Name() string { return WebhookPolicy }

// payload is the body: the event, and when it was sent, so that the signature
// covers a time.
type payload struct {
	Event
	Sent time.Time `json:"sent"`
}

// Sign gives the value of [HeaderSignature] for a body.
func Sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// Act posts the event, up to Tries times where an error may pass.
func (w Webhook) Act(ctx context.Context, e Event, attempt int) (string, error) {
	tries, wait := w.Tries, w.Wait
	if tries == 0 {
		tries = 5
	}
	if wait == 0 {
		wait = time.Second
	}
	for try := 1; ; try++ {
		said, after, err := w.post(ctx, e, attempt)
		if err == nil || after < 0 || try == tries || after > longestHookWait || ctx.Err() != nil {
			return said, later{err, after}.orNil()
		}
		t := time.NewTimer(max(after, wait))
		wait *= 2
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return "", context.Cause(ctx)
		}
	}
}

// post sends one request. A negative wait means that trying again soon is of no
// use.
func (w Webhook) post(ctx context.Context, e Event, attempt int) (said string, after time.Duration, err error) {
	sent := w.Now().UTC()
	body, err := json.Marshal(payload{e, sent})
	if err != nil {
		return "", -1, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return "", -1, w.failed(err)
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "User-Agent": w.UserAgent,
		HeaderSignature: Sign(w.Secret, body), HeaderDelivery: e.Delivery, HeaderEvent: e.Type,
		HeaderTimestamp: strconv.FormatInt(sent.Unix(), 10), HeaderAttempt: strconv.Itoa(attempt),
	} {
		req.Header.Set(k, v)
	}
	resp, err := w.client().Do(req)
	if err != nil {
		return "", 0, w.failed(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	said = resp.Status
	switch code := resp.StatusCode; {
	case code >= 200 && code <= 299:
		return said, 0, nil
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		n, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		after = time.Duration(max(n, 0)) * time.Second
	default:
		after = -1
	}
	return "", after, w.failed(fmt.Errorf("it answered %s", said))
}

func (w Webhook) client() *http.Client {
	if w.Client != nil {
		return w.Client
	}
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// failed names the webhook by its host alone: the rest of a URL is often a
// secret.
func (w Webhook) failed(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	host := "the webhook"
	if parsed, e := url.Parse(w.URL); e == nil && parsed.Host != "" {
		host = "the webhook at " + parsed.Host
	}
	return fmt.Errorf("posting to %s: %w", host, err)
}
