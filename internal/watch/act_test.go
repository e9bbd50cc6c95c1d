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
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var moved = Event{
	Version: 1, Type: ImageMoved, Delivery: "0123456789abcdef", Time: sunday, Project: "ghcr.io/user/app",
	Image: "debian:12", Old: sum("1"), New: sum("2"), Units: []string{"base/linux/amd64", "app/linux/amd64"},
}

func openFor(t *testing.T, dir string) *Service {
	t.Helper()
	w := &world{t: t, dir: dir, every: time.Minute}
	c := w.config()
	c.Rand = func() float64 { return 0 }
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCommand(t *testing.T) {
	s := openFor(t, t.TempDir())
	defer s.Close()
	dir := t.TempDir()
	var out bytes.Buffer
	c := s.Command(Command{
		Line: `cat > stdin; env | grep '^STRATA_' | sort > env; echo out; echo err >&2`,
		Dir:  dir, Env: []string{"PATH=" + os.Getenv("PATH")}, Output: &out,
	})
	if _, err := c.Act(t.Context(), moved, 3); err != nil {
		t.Fatal(err)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"STRATA_ATTEMPT=3", "STRATA_DELIVERY=0123456789abcdef", "STRATA_EVENT=image.moved", "STRATA_IMAGE=debian:12",
		"STRATA_LAYER=", "STRATA_NEW=" + string(sum("2")), "STRATA_OLD=" + string(sum("1")), "STRATA_PROJECT=ghcr.io/user/app",
		"STRATA_SLOT=", "STRATA_UNITS=base/linux/amd64 app/linux/amd64", "",
	}, "\n")
	if diff := cmp.Diff(want, string(env)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	data, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(moved, got); diff != "" {
		t.Errorf("standard input (-want +got):\n%s", diff)
	}
	if out.String() != "out\nerr\n" {
		t.Errorf("output %q", out.String())
	}
}

func TestCommandThatFails(t *testing.T) {
	s := openFor(t, t.TempDir())
	defer s.Close()
	tests := map[string]struct {
		line    string
		timeout time.Duration
		want    string
	}{
		"exit code":  {"exit 3", 0, "running the command: exit status 3"},
		"signal":     {"kill -9 $$", 0, "running the command: signal: killed"},
		"too long":   {"sleep 60 & wait", 100 * time.Millisecond, "running the command: it did not end within 100ms"},
		"background": {"sleep 60 >/dev/null 2>&1 3>&- & echo $! > pid", 0, "<nil>"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := s.Command(Command{Line: test.line, Dir: dir, Env: os.Environ(), Output: io.Discard, Timeout: test.timeout})
			_, err := c.Act(t.Context(), moved, 1)
			if fmt.Sprint(err) != test.want {
				t.Errorf("it said %v, want %s", err, test.want)
			}
			if pid, e := os.ReadFile(filepath.Join(dir, "pid")); e == nil {
				n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
				if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
					t.Errorf("what it left in the background does not run on: %v", err)
				}
			}
		})
	}
}

// A command that the service started, and that outlives it, keeps the next
// service out.
func TestCommandHoldsTheLock(t *testing.T) {
	dir, started := t.TempDir(), make(chan struct{})
	s := openFor(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := s.Command(Command{Line: "echo > " + fifo + "; exec sleep 60", Env: os.Environ(), Output: io.Discard}).Act(ctx, moved, 1)
		ended <- err
	}()
	go func() {
		_, _ = os.ReadFile(fifo)
		close(started)
	}()
	<-started
	s.Close() // as the death of the process does
	w := &world{t: t, dir: dir, every: time.Minute}
	c := w.config()
	c.Rand = func() float64 { return 0 }
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is being watched already") {
		t.Errorf("beside the command a service opens: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the command ended with %v", err)
	}
	openFor(t, dir).Close()
}

// hook is a receiver that answers what it is told to, and keeps what it got.
type hook struct {
	*httptest.Server
	answers []func(http.ResponseWriter)
	got     []*http.Request
	bodies  [][]byte
}

func newHook(t *testing.T, answers ...func(http.ResponseWriter)) *hook {
	h := &hook{answers: answers}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.got, h.bodies = append(h.got, r), append(h.bodies, body)
		h.answers[min(len(h.got), len(h.answers))-1](w)
	}))
	t.Cleanup(h.Close)
	return h
}

func answers(code int, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

// The signature is what GitHub's receivers check: "sha256=" and the hex form of
// HMAC-SHA256 over the body as it came; here made without the package's help.
func TestWebhookIsSigned(t *testing.T) {
	h := newHook(t, answers(204))
	w := Webhook{URL: h.URL + "/hook", Secret: []byte("It's a Secret to Everybody"), UserAgent: "strata/1", Now: func() time.Time { return sunday }}
	said, err := w.Act(t.Context(), moved, 2)
	if err != nil || said != "204 No Content" {
		t.Fatalf("it said %q, %v", said, err)
	}
	mac := hmac.New(sha256.New, w.Secret)
	mac.Write(h.bodies[0])
	r := h.got[0]
	want := map[string]string{
		"X-Strata-Signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil)), "X-Strata-Delivery": "0123456789abcdef",
		"X-Strata-Event": "image.moved", "X-Strata-Timestamp": strconv.FormatInt(sunday.Unix(), 10), "X-Strata-Attempt": "2",
		"Content-Type": "application/json", "User-Agent": "strata/1",
	}
	got := map[string]string{}
	for name := range want {
		got[name] = r.Header.Get(name)
	}
	if diff := cmp.Diff(want, got); diff != "" || r.Method != http.MethodPost || r.URL.Path != "/hook" {
		t.Errorf("%s %s with headers (-want +got):\n%s", r.Method, r.URL, diff)
	}
	var body struct {
		Event
		Sent time.Time `json:"sent"`
	}
	if err := json.Unmarshal(h.bodies[0], &body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(moved, body.Event); diff != "" || !body.Sent.Equal(sunday) {
		t.Errorf("sent %s, body (-want +got):\n%s", body.Sent, diff)
	}
	// The vector that GitHub's documentation gives for its header.
	if got := Sign(w.Secret, []byte("Hello, World!")); got != "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17" {
		t.Errorf("Sign gives %s", got)
	}
}

func TestWebhookIsTriedAgain(t *testing.T) {
	tests := map[string]struct {
		answers []func(http.ResponseWriter)
		tries   int
		want    string // "" is success
		after   time.Duration
	}{
		"passes":          {[]func(http.ResponseWriter){answers(503), answers(429, "Retry-After", "0"), answers(200)}, 3, "", 0},
		"never":           {[]func(http.ResponseWriter){answers(502)}, 5, "it answered 502 Bad Gateway", 0},
		"refused":         {[]func(http.ResponseWriter){answers(401)}, 1, "it answered 401 Unauthorized", 0},
		"elsewhere":       {[]func(http.ResponseWriter){answers(302, "Location", "/")}, 1, "it answered 302 Found", 0},
		"in an hour":      {[]func(http.ResponseWriter){answers(503, "Retry-After", "3600")}, 1, "it answered 503 Service Unavailable", time.Hour},
		"connection ends": {[]func(http.ResponseWriter){func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, answers(200)}, 2, "", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHook(t, test.answers...)
			w := Webhook{URL: h.URL + "/secret-path", Secret: []byte("s"), Now: time.Now, Wait: time.Millisecond}
			_, err := w.Act(t.Context(), moved, 1)
			want := "posting to the webhook at " + strings.TrimPrefix(h.URL, "http://") + ": " + test.want
			if test.want == "" && err != nil || test.want != "" && (err == nil || err.Error() != want) {
				t.Errorf("it said %v, want %s", err, want)
			}
			var l later
			errors.As(err, &l)
			if len(h.got) != test.tries || l.after != test.after {
				t.Errorf("%d tries, then after %s; want %d, %s", len(h.got), l.after, test.tries, test.after)
			}
			for _, r := range h.got {
				if r.Header.Get(HeaderDelivery) != moved.Delivery {
					t.Errorf("a delivery is called %q", r.Header.Get(HeaderDelivery))
				}
			}
		})
	}
}

// An error names the host of a webhook, never the rest of its URL.
func TestWebhookUrlIsNotTold(t *testing.T) {
	for _, url := range []string{"http://user:hunter2@127.0.0.1:1/hunter2?token=hunter2", "http://hunter2 /", "ftp://127.0.0.1/hunter2"} {
		w := Webhook{URL: url, Now: time.Now, Wait: time.Millisecond, Tries: 2}
		_, err := w.Act(t.Context(), moved, 1)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestWebhookEndsWithItsContext(t *testing.T) {
	h := newHook(t, answers(503))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := Webhook{URL: h.URL, Now: time.Now, Wait: time.Hour}.Act(ctx, moved, 1)
	if err == nil || time.Since(started) > 5*time.Second {
		t.Errorf("it said %v after %s", err, time.Since(started))
	}
}
