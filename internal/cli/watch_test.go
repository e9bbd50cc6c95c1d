//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/strata-build/strata/internal/registry/registrytest"
	"github.com/strata-build/strata/internal/watch"
)

// shop is a project with a pinned image in a registry, and a program to watch it.
type shop struct {
	t             *testing.T
	dir, home, me string
	hub           *registrytest.Registry
	down          func(bool) // whether the registry answers 503
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir(), home: t.TempDir(), me: filepath.Join(t.TempDir(), "strata")}
	exe, err := os.Executable()
	if err == nil {
		err = os.Symlink(exe, s.me)
	}
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var down bool
	s.down = func(d bool) { mu.Lock(); defer mu.Unlock(); down = d }
	s.hub = registrytest.With(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			d := down
			mu.Unlock()
			if d {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	s.push("one")
	for name, text := range map[string]string{
		"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nlayers:\n  app: {dockerfile: Dockerfile, refresh: week}\n",
		"Dockerfile":  "FROM " + s.hub.Host + "/base:1\nCOPY Dockerfile /\n",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.command("lock").CombinedOutput(); err != nil {
		t.Fatalf("strata lock: %v\n%s", err, out)
	}
	return s
}

func (s *shop) push(content string) {
	s.hub.PushImage(s.t, s.hub.Ref("base:1"), registrytest.Image{Layers: []map[string]string{{"file": content}}})
}

func (s *shop) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.me, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "STRATA_HOME="+s.home, "HOME="+s.home, "HOOK_SECRET=hunter2")
	return cmd
}

// until asks again and again, for at most half a minute.
func (s *shop) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("it never came to that: %s", what)
}

// A running service: signed webhooks for a slot and a moved image, health and
// metrics, a second one that is refused, and an end by SIGTERM.
func TestWatchService(t *testing.T) {
	s := newShop(t)
	events := make(chan watch.Event, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, []byte("hunter2"))
		mac.Write(body)
		if got := r.Header.Get("X-Strata-Signature-256"); got != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("the signature is %q", got)
		}
		var e watch.Event
		if err := json.Unmarshal(body, &e); err != nil {
			t.Error(err)
		}
		events <- e
	}))
	defer hook.Close()
	cmd := s.command("watch", "--every", "1s", "--json", "--listen", "127.0.0.1:0",
		"--policy", "report,webhook", "--webhook", hook.URL, "--webhook-secret-env", "HOOK_SECRET")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // it has ended when all went well
	line, err := bufio.NewReader(stderr).ReadString('\n')
	addr := regexp.MustCompile(`http://[^/]+`).FindString(line)
	if err != nil || addr == "" {
		t.Fatalf("it said %q, %v", line, err)
	}
	if e := <-events; e.Type != watch.SlotTurned || e.Layer != "app" || e.Project != "demo" {
		t.Errorf("the first event is %+v", e)
	}
	if out, err := s.command("watch").CombinedOutput(); err == nil || !strings.Contains(string(out),
		"strata: error: demo is being watched already, by process "+strconv.Itoa(cmd.Process.Pid)+" in "+s.dir) {
		t.Errorf("a second one: %v\n%s", err, out)
	}
	for _, path := range []string{"/healthz", "/metrics"} {
		if status, _ := ask(t, &http.Client{}, "GET", addr+path, "evil.example.com"); status != 421 {
			t.Errorf("under another name %s is %d", path, status)
		}
		if status, _ := ask(t, &http.Client{}, "TRACE", addr+path, ""); status != 405 {
			t.Errorf("TRACE of %s is %d", path, status)
		}
	}
	s.until("healthz is ok", func() bool { return health(t, addr, 200).Status == "ok" })
	s.push("two")
	if e := <-events; e.Type != watch.ImageMoved || e.Image != s.hub.Host+"/base:1" || e.Old == e.New || len(e.Units) != 1 {
		t.Errorf("the second event is %+v", e)
	}
	if n := metric(t, addr, "strata_watch_outdated_images"); n != 1 {
		t.Errorf("%v images are outdated", n)
	}
	if h := health(t, addr, 200); len(h.Outdated) != 1 {
		t.Errorf("healthz says %+v", h)
	}
	s.down(true)
	s.until("healthz is stale", func() bool { return health(t, addr, 0).Status == "stale" })
	if h := health(t, addr, 503); !strings.Contains(h.LastError, "is unavailable (503") {
		t.Errorf("healthz says %+v", h)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("its exit code is %d", code)
	}
	checkLines(t, stdout.String())
}

// checkLines says that every line of the log is JSON with a type and a time.
func checkLines(t *testing.T, text string) {
	t.Helper()
	seen := map[string]int{}
	for line := range strings.Lines(text) {
		var n watch.Note
		if err := json.Unmarshal([]byte(line), &n); err != nil || n.Type == "" || n.Time.IsZero() {
			t.Errorf("the line %q: %v", line, err)
		}
		seen[n.Type]++
	}
	for _, once := range []string{watch.Started, watch.Ended, watch.SlotTurned, watch.ImageMoved} {
		if seen[once] != 1 {
			t.Errorf("%s was told %d times; all: %v", once, seen[once], seen)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Error("the log has the secret")
	}
}

// health asks /healthz; a code of 0 is any.
func health(t *testing.T, addr string, code int) watch.Health {
	t.Helper()
	resp, err := (&http.Client{}).Get(addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var h watch.Health
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil || code != 0 && resp.StatusCode != code {
		t.Errorf("healthz is %d, %v, want %d", resp.StatusCode, err, code)
	}
	return h
}

func metric(t *testing.T, addr, name string) float64 {
	t.Helper()
	resp, err := (&http.Client{}).Get(addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(resp.Body)
	if err != nil || families[name] == nil {
		t.Fatalf("there is no %s: %v", name, err)
	}
	return families[name].GetMetric()[0].GetGauge().GetValue()
}

// SIGKILL in the midst of a command: while it runs on nobody else begins; then it
// is run again, under the same delivery ID.
func TestWatchKilled(t *testing.T) {
	s := newShop(t)
	log := filepath.Join(s.dir, "log")
	cmd := s.command("watch", "--command", `echo "$STRATA_EVENT $STRATA_ATTEMPT $STRATA_DELIVERY $$" >> log; exec sleep 300`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var first []string
	s.until("the command is under way", func() bool {
		data, _ := os.ReadFile(log)
		first = strings.Fields(string(data))
		return len(first) == 4
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	pid, err := strconv.Atoi(first[3])
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.command("watch").CombinedOutput(); err == nil || !strings.Contains(string(out), "or by a command that it started and that still runs") {
		t.Errorf("beside the command: %v\n%s", err, out)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var out []byte
	s.until("the lock is free", func() bool {
		out, err = s.command("watch", "--once", "--command", `echo "$STRATA_EVENT $STRATA_ATTEMPT $STRATA_DELIVERY" > again`).CombinedOutput()
		return err == nil
	})
	again, err := os.ReadFile(filepath.Join(s.dir, "again"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "slot.turned 2 " + first[2] + "\n"; string(again) != want {
		t.Errorf("again it was %q, want %q", again, want)
	}
}
