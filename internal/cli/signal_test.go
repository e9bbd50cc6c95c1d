//go:build linux

package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endLimit is how long a command may take to end after a signal: a second, and
// another one for a machine that runs all tests at once.
const endLimit = 2 * time.Second

// phase is a command in the middle of something.
type phase struct {
	dir  string
	args []string
	env  []string
	at   chan struct{} // closed when it is there
}

// one writes a project of one layer with a Dockerfile.
func one(t *testing.T, image, dockerfile string) phase {
	t.Helper()
	p := phase{dir: t.TempDir(), at: make(chan struct{})}
	for name, text := range map[string]string{"strata.yaml": "image: " + image + "\nlayers: {app: {}}\n", "Dockerfile": dockerfile} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// hanging serves until a request matches, which it begins to answer with head and
// never ends.
func hanging(t *testing.T, at chan struct{}, match, head string, next http.HandlerFunc) string {
	over := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Method+" "+r.URL.Path, match) {
			next(w, r)
			return
		}
		if head != "" {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, head)
			w.(http.Flusher).Flush()
		}
		select {
		case <-at:
		default:
			close(at)
		}
		<-over
	}))
	t.Cleanup(func() { close(over); s.CloseClientConnections(); s.Close() })
	return strings.TrimPrefix(s.URL, "http://")
}

// phases are places where a command may be when it is told to end, by name.
var phases = map[string]func(t *testing.T) phase{
	"a registry says nothing": func(t *testing.T) phase {
		at := make(chan struct{})
		p := one(t, "demo", "FROM "+hanging(t, at, "", "", nil)+"/base:1\n")
		p.args, p.at = []string{"plan"}, at
		return p
	},
	"a registry stops in a manifest": func(t *testing.T) phase {
		at := make(chan struct{})
		p := one(t, "demo", "FROM "+hanging(t, at, "GET", "{", nil)+"/base:1\n")
		p.args, p.at = []string{"build"}, at
		return p
	},
	"a registry does not take an upload": func(t *testing.T) phase {
		at := make(chan struct{})
		host := hanging(t, at, "PUT", "", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", r.URL.Path+"1")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		})
		p := one(t, host+"/demo", "FROM scratch\nCOPY Dockerfile /\n")
		p.args, p.at = []string{"build", "--push"}, at
		return p
	},
	"a token service says nothing": func(t *testing.T) phase {
		at := make(chan struct{})
		host := hanging(t, at, "/token", "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		p := one(t, "demo", "FROM "+host+"/base:1\n")
		p.args, p.at = []string{"plan"}, at
		return p
	},
	"a credential helper says nothing": func(t *testing.T) phase {
		p := one(t, "demo", "")
		host := hanging(t, make(chan struct{}), "never", "", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		script := "#!/bin/sh\n: >" + p.dir + "/there\nexec sleep 600\n"
		for name, text := range map[string]string{
			"docker-credential-slow": script, "config.json": `{"credsStore":"slow"}`, "Dockerfile": "FROM " + host + "/base:1\n",
		} {
			if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p.env = []string{"DOCKER_CONFIG=" + p.dir, "PATH=" + p.dir + ":" + os.Getenv("PATH")}
		p.args = []string{"plan"}
		go func() {
			for range 600 {
				if _, err := os.Stat(filepath.Join(p.dir, "there")); err == nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			close(p.at)
		}()
		return p
	},
	"a FIFO is read of which nobody writes": func(t *testing.T) phase {
		p := one(t, "demo", "")
		fifo := filepath.Join(p.dir, "rootfs.tar")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			if f, err := os.OpenFile(fifo, os.O_WRONLY, 0); err == nil { // when the other end is opened
				t.Cleanup(func() { f.Close() })
			}
			close(p.at)
		}()
		p.args = []string{"registry", "import", fifo, "--as", "x:1"}
		return p
	},
	"a large file is hashed": func(t *testing.T) phase {
		p := one(t, "demo", "FROM scratch\nCOPY large /\n")
		if err := os.WriteFile(filepath.Join(p.dir, "large"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(p.dir, "large"), 1<<36); err != nil { // holes alone
			t.Fatal(err)
		}
		p.args = []string{"plan"}
		time.AfterFunc(time.Second, func() { close(p.at) })
		return p
	},
	"it serves": func(t *testing.T) phase {
		p := one(t, "demo", "")
		p.args = []string{"registry", "serve", "--addr", "127.0.0.1:0"}
		time.AfterFunc(time.Second, func() { close(p.at) })
		return p
	},
	"it watches": func(t *testing.T) phase {
		p := one(t, "demo", "FROM scratch\nCOPY Dockerfile /\n")
		p.args = []string{"watch", "--listen", "127.0.0.1:0"}
		time.AfterFunc(time.Second, func() { close(p.at) })
		return p
	},
}

// Ctrl-C and SIGTERM end a command within a second, wherever it is.
func TestSignalsEndAnyPhase(t *testing.T) {
	me, err := exec.LookPath("strata")
	if err != nil {
		t.Fatal(err)
	}
	for name, begin := range phases {
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			t.Run(fmt.Sprintf("%s/%v", name, s), func(t *testing.T) { endsBy(t, me, begin(t), s) })
		}
	}
}

// endsBy runs a command up to its phase, and ends it there.
func endsBy(t *testing.T, me string, p phase, s syscall.Signal) {
	cmd := exec.Command(me, p.args...)
	cmd.Dir = p.dir
	cmd.Env = append(append(os.Environ(), "STRATA_HOME="+t.TempDir(), "HOME="+p.dir, "TMPDIR="+p.dir, "DOCKER_CONFIG="), p.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // it has ended when all went well
	ended := goWait(cmd)
	select {
	case <-p.at:
	case <-ended:
		t.Fatalf("it ended before: %s", &out)
	case <-time.After(30 * time.Second):
		t.Fatalf("it never got there: %s", &out)
	}
	start := time.Now()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if took := time.Since(start); took > endLimit {
		t.Errorf("it took %s", took)
	}
	if got := cmd.ProcessState.ExitCode(); got != 128+int(s) {
		t.Errorf("exit code %d: %s", got, &out)
	}
	for _, left := range processes(func(_, environ string) bool { return strings.Contains(environ, "HOME="+p.dir+"\x00") }) {
		t.Errorf("left behind: %s", left)
	}
}

func goWait(cmd *exec.Cmd) chan struct{} {
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state says how
		close(ended)
	}()
	return ended
}

// What has containers to end may take longer, and not forever.
func TestCleanupIsBounded(t *testing.T) {
	const short, long = 20 * time.Millisecond, 300 * time.Millisecond
	for name, tc := range map[string]struct {
		after   time.Duration // when it is done; 0 is never
		open    bool
		atLeast time.Duration
		atMost  time.Duration
	}{
		"nothing to clean up": {0, false, short, long},
		"something":           {100 * time.Millisecond, true, 100 * time.Millisecond, long},
		"something for ever":  {0, true, long, 10 * long},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cleanup{}
			if tc.open {
				c.begin()
			}
			if tc.after > 0 {
				time.AfterFunc(tc.after, c.end)
			}
			var said bytes.Buffer
			start := time.Now()
			c.wait(&said, short, long)
			if took := time.Since(start); took < tc.atLeast || took > tc.atMost {
				t.Errorf("it waited for %s", took)
			}
			if (said.Len() > 0) != tc.open {
				t.Errorf("it said %q", &said)
			}
		})
	}
}
