package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
	"github.com/strata-build/strata/internal/wire"
)

// impatient makes a client whose limits are a fifth of a second in place of 30.
func impatient() registry.Options {
	return registry.Options{Limits: wire.Patience(200 * time.Millisecond)}
}

// count is how many requests have matched.
func (f *faulty) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// hang answers nothing until the client or the test has gone.
func hang(t *testing.T) http.HandlerFunc {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-over:
		case <-time.After(3 * time.Second):
		}
	}
}

// Whatever the client asks a registry that hangs ends with an error that names
// the registry, after one repeat at most.
func TestHangingRegistry(t *testing.T) {
	f := &faulty{}
	r := registrytest.With(t, registrytest.Options{Wrap: f.wrap})
	image := r.PushImage(t, r.Ref("app:1"), simple)
	r.Client = r.NewClient(impatient())
	blob := ocispec.Descriptor{Digest: digest.FromString("absent"), Size: 6}
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("absent")), nil }
	for name, do := range map[string]func() error{
		"Resolve":  func() error { _, err := r.Client.Resolve(ctx, r.Ref("app:1")); return err },
		"Lookup":   func() error { return r.Client.Lookup(ctx, r.Ref("app:1")).Err },
		"Platform": func() error { _, _, err := r.Client.Platform(ctx, r.Ref("app:1"), "linux/amd64"); return err },
		"ReadBlob": func() error { _, err := r.Client.ReadBlob(ctx, r.Ref("app"), blob); return err },
		"HasBlob":  func() error { _, err := r.Client.HasBlob(ctx, r.Ref("app"), blob); return err },
		"PushBlob": func() error { return r.Client.PushBlob(ctx, r.Ref("app"), blob, open) },
		"PushStream": func() error {
			_, err := r.Client.PushStream(ctx, r.Ref("app"), "x/y", strings.NewReader("x"))
			return err
		},
		"Mount":     func() error { _, err := r.Client.Mount(ctx, r.Ref("base"), r.Ref("app"), blob); return err },
		"Tags":      func() error { _, err := r.Client.Tags(ctx, r.Ref("app")); return err },
		"Referrers": func() error { _, err := r.Client.Referrers(ctx, r.Ref("app").WithDigest(image.Digest), ""); return err },
		"Delete":    func() error { return r.Client.Delete(ctx, r.Ref("app:1")) },
		"CheckAccess": func() error {
			return r.Client.CheckAccess(ctx, r.Host)
		},
		"PutManifest": func() error {
			_, err := r.Client.PutManifest(ctx, r.Ref("app:2"), ocispec.MediaTypeImageManifest, []byte("{}"))
			return err
		},
		"CopyImage": func() error { _, err := r.Client.CopyImage(ctx, r.Ref("app:1"), r.Ref("copy")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			f.set(forever, every, hang(t))
			defer f.set(0, nil, nil)
			start := time.Now()
			err := do()
			var e *registry.Error
			if !errors.As(err, &e) || e.Kind != registry.Silent || !strings.Contains(err.Error(), r.Host+" has ") {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(diag.HintOf(err), "STRATA_REGISTRY_TIMEOUT=2m") {
				t.Errorf("hint %q", diag.HintOf(err))
			}
			// 90 s where this is a fifth of a second.
			if took := time.Since(start); took > 600*time.Millisecond+2*time.Second {
				t.Errorf("it took %s", took)
			}
			if f.count() > 2 {
				t.Errorf("it was asked %d times", f.count())
			}
		})
	}
}

// A hundred look-ups find out together that a registry hangs.
func TestHangingRegistryIsAskedOnce(t *testing.T) {
	f := &faulty{}
	r := registrytest.With(t, registrytest.Options{Wrap: f.wrap, Client: impatient()})
	f.set(forever, every, hang(t))
	var refs []registry.Ref
	for i := range 100 {
		refs = append(refs, r.Ref(fmt.Sprintf("app:%d", i)))
	}
	start := time.Now()
	for _, a := range r.Client.Probe(ctx, refs) {
		if a.State != registry.Failed {
			t.Fatalf("%s: %v", a.State, a.Err)
		}
	}
	if took := time.Since(start); took > 2*time.Second { // sixteen at a time, and each twice: 2.8 s
		t.Errorf("it took %s", took)
	}
}

// One silence is no end: what was asked is asked once more.
func TestSilenceOnce(t *testing.T) {
	f := &faulty{}
	r := registrytest.With(t, registrytest.Options{Wrap: f.wrap})
	r.PushImage(t, r.Ref("app:1"), simple)
	client := r.NewClient(impatient())
	f.set(1, every, hang(t))
	if a := client.Lookup(ctx, r.Ref("app:1")); a.State != registry.Hit {
		t.Error(a.Err)
	}
	content := make([]byte, 2<<20)
	d, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content)
	if err != nil {
		t.Fatal(err)
	}
	stalled := hang(t)
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:1<<20])
		w.(http.Flusher).Flush()
		stalled(w, r)
	}
	f.set(1, isBlobGet, half)
	if got, err := client.ReadBlob(ctx, r.Ref("app"), d); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	start := time.Now()
	f.set(forever, isBlobGet, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			stalled(w, r)
			return
		}
		half(w, r)
	})
	_, err = client.ReadBlob(ctx, r.Ref("app"), d)
	var e *registry.Error
	if !errors.As(err, &e) || e.Kind != registry.Silent || f.count() != 2 {
		t.Errorf("%v, after %d requests", err, f.count())
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A registry that cuts every answer after a byte is not asked for each byte.
func TestCutAfterEveryByte(t *testing.T) {
	f := &faulty{}
	r := registrytest.With(t, registrytest.Options{Wrap: f.wrap})
	content := make([]byte, 1<<20)
	d, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content)
	if err != nil {
		t.Fatal(err)
	}
	f.set(forever, isBlobGet, func(w http.ResponseWriter, r *http.Request) {
		var from int
		if fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		}
		w.Write(content[:1])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	if _, err := r.Client.ReadBlob(ctx, r.Ref("app"), d); err == nil || f.count() > 10 {
		t.Errorf("%v, after %d requests", err, f.count())
	}
}

// A token service that hangs is named, and not the registry.
func TestHangingTokenService(t *testing.T) {
	service := httptest.NewServer(hang(t))
	defer service.Close()
	o := as("me")
	o.Limits = impatient().Limits
	r := registrytest.With(t, registrytest.Options{Client: o, Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+service.URL+`/token",service="test"`)
			w.WriteHeader(401)
		})
	}})
	start := time.Now()
	err := r.Client.Lookup(ctx, r.Ref("app:1")).Err
	host := strings.TrimPrefix(service.URL, "http://")
	if err == nil || !strings.Contains(err.Error(), host+" has sent nothing for 200ms") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A credential helper that hangs is ended, with what it has started, and named;
// the end of the context ends it at once.
func TestHangingCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script := "#!/bin/sh\necho $$ >" + dir + "/pid\nsleep 600\necho never\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-hangs"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"hangs"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := registry.DockerCredentialsWithin(200 * time.Millisecond)
	start := time.Now()
	_, err := ask(ctx, "registry.test")
	if err == nil || !strings.Contains(err.Error(), "docker-credential-hangs has not answered for 200ms") || diag.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	gone(t, filepath.Join(dir, "pid"))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := registry.DockerCredentials()(short, "registry.test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	gone(t, filepath.Join(dir, "pid"))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// gone sees that the process group of a helper has ended.
func gone(t *testing.T, file string) {
	t.Helper()
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if children, _ := filepath.Glob("/proc/[0-9]*/stat"); children != nil {
		for _, c := range children {
			data, _ := os.ReadFile(c)
			fields := strings.Fields(string(data))
			if len(fields) > 4 && fields[4] == strings.TrimSpace(string(pid)) && fields[2] != "Z" {
				t.Errorf("left behind: %s", data)
			}
		}
	}
}

// Where a registry says that an upload goes on, or is to be cancelled, gets none
// of the credentials that the user has for that host.
func TestUploadLocationElsewhere(t *testing.T) {
	var leaked atomic.Value
	victim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok {
			leaked.Store(r.Method + " with " + password)
		}
		w.Header().Set("Www-Authenticate", `Basic realm="victim"`)
		w.WriteHeader(401)
	}))
	defer victim.Close()
	r := registrytest.With(t, registrytest.Options{
		Client: registry.Options{Credential: func(context.Context, string) (registry.Credential, error) {
			return registry.Credential{Username: "me", Password: "secret"}, nil
		}},
		Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.Header().Set("Location", victim.URL+"/v2/mine/manifests/latest")
					w.WriteHeader(http.StatusAccepted)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
	})
	if _, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", []byte("content")); err == nil {
		t.Error("the upload went through")
	}
	blob := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
	if _, err := r.Client.Mount(ctx, r.Ref("base"), r.Ref("app"), blob); err != nil { // cancels what it did not need
		t.Error(err)
	}
	if l := leaked.Load(); l != nil {
		t.Error(l)
	}
}

// The time for which a registry asks is bounded in what is told of it.
func TestRetryAfter(t *testing.T) {
	r, f := newFaulty(t)
	for _, v := range []string{"1000000000", "99999999999999999999", "9223372036854775807", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.set(forever, every, answer(429, "Retry-After: "+v, ""))
		err := r.Client.Lookup(ctx, r.Ref("app:1")).Err
		var e *registry.Error
		if !errors.As(err, &e) || e.RetryAfter != 24*time.Hour || f.count() != 1 {
			t.Errorf("%s: %v after %d requests: %v", v, e.RetryAfter, f.count(), err)
		}
	}
}
