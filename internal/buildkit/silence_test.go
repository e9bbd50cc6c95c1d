//go:build linux

package buildkit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/wire"
)

// A registry that hangs, or stops in the middle of a layer, ends the build with
// an error that names it; so does a token service. The engine is fit for the next
// build.
func TestSilentRegistry(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	inner := h.Config.Handler
	mode := ""
	over := make(chan struct{})
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait := func() {
			select {
			case <-r.Context().Done():
			case <-over:
			}
		}
		blob := r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
		switch {
		case mode == "manifest" && strings.Contains(r.URL.Path, "/manifests/"), mode == "blob" && blob, mode == "upload" && r.Method == http.MethodPut:
			wait()
		case mode == "half" && blob:
			whole := httptest.NewRecorder()
			inner.ServeHTTP(whole, r)
			w.Header().Set("Content-Length", whole.Header().Get("Content-Length"))
			w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
			w.(http.Flusher).Flush()
			wait()
		case mode == "token" && strings.HasPrefix(r.URL.Path, "/token"):
			wait()
		case mode == "token":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			inner.ServeHTTP(w, r)
		}
	})
	defer close(over)
	for _, tc := range []struct{ mode, want string }{
		{"manifest", "has sent nothing for 300ms"},
		{"blob", "has sent nothing for 300ms"},
		{"half", "has sent next to nothing for 300ms"},
		{"upload", "has not answered a PUT for 600ms"},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			root := t.TempDir()
			e, err := Open(t.Context(), Options{Root: root, DockerConfig: t.TempDir(), Limits: wire.Patience(300 * time.Millisecond)})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { e.Close() }()
			j := job(t, "FROM "+h.addr+"/base\nRUN echo "+tc.mode+" > /made\n", nil)
			j.Repository = h.addr + "/out/app"
			mode = tc.mode
			start := time.Now()
			_, err = e.Build(t.Context(), j, &recorder{})
			if err == nil || !strings.Contains(err.Error(), h.addr+" "+tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if !strings.Contains(diag.HintOf(err), "STRATA_REGISTRY_TIMEOUT") {
				t.Errorf("hint %q", diag.HintOf(err))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			mode = ""
			e.Close()
			if e, err = Open(t.Context(), Options{Root: root, DockerConfig: t.TempDir()}); err != nil { // as long as it takes
				t.Fatal(err)
			}
			if _, err := e.Build(t.Context(), j, &recorder{}); err != nil {
				t.Errorf("the next build: %v", err)
			}
		})
	}
}

// The clients that BuildKit takes by itself have limits and bounds too.
func TestOwnClientsAreLimited(t *testing.T) {
	limitClients(wire.Limits{})
	for _, url := range []string{"http://169.254.169.254/latest", "http://127.0.0.1:1/x", "http://10.0.0.1/x"} {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := http.DefaultClient.Do(req); err == nil || !strings.Contains(err.Error(), "which is not followed") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// The engine is given the same credentials as Strata's own client.
func TestCredentialsAreGiven(t *testing.T) {
	h := newHub(t)
	inner := h.Config.Handler
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "ann" || p != "given" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"credsStore":"not-asked"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), Options{
		Root: t.TempDir(), DockerConfig: config,
		Credential: func(context.Context, string) (username, secret, token string, err error) {
			return "ann", "given", "", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	j := job(t, "FROM scratch\nCOPY f /\n", map[string]string{"f": "x"})
	j.Repository = h.addr + "/private/app"
	if _, err := e.Build(t.Context(), j, &recorder{}); err != nil {
		t.Error(err)
	}
}

// What a registry sent under a wrong size or digest is not kept: the same blob
// comes right the next time, or, where it was too short and so is taken for the
// beginning of the blob, the time after.
func TestWrongBlobIsForgotten(t *testing.T) {
	for name, body := range map[string][]byte{"too large": make([]byte, 1<<20), "as large": make([]byte, 239), "too small": make([]byte, 10)} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.pushBase(t, "base", "latest")
			inner := h.Config.Handler
			wrong := true
			h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if wrong && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
					w.Write(body)
					return
				}
				inner.ServeHTTP(w, r)
			})
			e := open(t, t.TempDir(), nil)
			j := job(t, "FROM "+h.addr+"/base\nRUN echo made > /made\n", nil)
			j.Repository = h.addr + "/out/app"
			if _, err := e.Build(t.Context(), j, &recorder{}); err == nil {
				t.Error("wrong bytes were taken")
			}
			wrong = false
			_, err := e.Build(t.Context(), j, &recorder{})
			if err != nil && name == "too small" {
				_, err = e.Build(t.Context(), j, &recorder{})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}
