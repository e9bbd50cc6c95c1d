package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// faulty answers in place of the registry while it has answers to give.
type faulty struct {
	mu      sync.Mutex
	match   func(*http.Request) bool
	times   int
	handler http.HandlerFunc
	seen    int // requests that matched
}

func (f *faulty) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		matches := f.match != nil && f.match(r)
		if matches {
			f.seen++
		}
		fails := matches && f.times > 0
		if fails {
			f.times--
		}
		handler := f.handler
		f.mu.Unlock()
		if fails {
			handler(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// set makes the next n requests that match be answered by h.
func (f *faulty) set(n int, match func(*http.Request) bool, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match, f.times, f.handler, f.seen = match, n, h, 0
}

const forever = 1 << 30

func every(*http.Request) bool { return true }

func method(m string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m }
}

func answer(status int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if k, v, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func newFaulty(t *testing.T) (*registrytest.Registry, *faulty) {
	f := &faulty{}
	return registrytest.With(t, registrytest.Options{Wrap: f.wrap}), f
}

func TestErrorsOfLookups(t *testing.T) {
	r, f := newFaulty(t)
	r.PushImage(t, r.Ref("app:1"), simple)
	body := func(code, message string) string {
		b, _ := json.Marshal(map[string][]map[string]string{"errors": {{"code": code, "message": message}}})
		return string(b)
	}
	const manifest = "Content-Type: " + ocispec.MediaTypeImageManifest
	for _, tc := range []struct {
		name    string
		handler http.HandlerFunc
		kind    registry.Kind // "" is a hit
		text    string
		hint    string
		seen    int
	}{
		{"401", answer(401, "", body("UNAUTHORIZED", "authentication required")), registry.Unauthorized,
			`looking up "HOST/app:1": HOST asks for credentials (401: authentication required)`,
			"docker login HOST  (some registries answer so for a repository that does not exist: check the name too)", 1},
		{"403", answer(403, "", body("DENIED", "requested access to the resource is denied")), registry.Forbidden,
			`looking up "HOST/app:1": HOST denies access (403: requested access to the resource is denied)`,
			"check that the account has rights for it, and that the repository exists; to change the account: docker login HOST", 1},
		{"404 manifest", answer(404, "", body("MANIFEST_UNKNOWN", "manifest unknown")), registry.NotFound,
			`looking up "HOST/app:1": not found (404: manifest unknown)`, "", 1},
		{"404 repository", answer(404, "", body("NAME_UNKNOWN", "repository name not known")), registry.NotFound,
			`looking up "HOST/app:1": not found (404: repository name not known)`,
			"there is no such repository yet; check the name, or push to it first", 1},
		{"404 bare", answer(404, "", ""), registry.NotFound, `looking up "HOST/app:1": not found (404: not found)`, "", 1},
		{"404 of a web page", answer(404, "Content-Type: text/html", "<html>nginx</html>"), registry.Invalid,
			`looking up "HOST/app:1": HOST answered 404: this does not look like a registry's answer`, "", 1},
		{"404 with another code", answer(404, "", body("UNSUPPORTED", "no such operation")), registry.Invalid,
			`looking up "HOST/app:1": HOST answered 404: no such operation`, "", 1},
		{"429 for an hour", answer(429, "Retry-After: 3600", body("TOOMANYREQUESTS", "limit reached")), registry.RateLimited,
			`looking up "HOST/app:1": HOST limits requests (429: limit reached)`,
			"try again in 1h0m0s, or log in for a higher limit: docker login HOST", 1},
		{"503", answer(503, "", ""), registry.Unavailable,
			`looking up "HOST/app:1": HOST is unavailable (503: service unavailable)`,
			"the registry has a problem of its own; try again later, or build without it: --offline", 5},
		{"501", answer(501, "", ""), registry.Unavailable,
			`looking up "HOST/app:1": HOST is unavailable (501: not implemented)`,
			"the registry has a problem of its own; try again later, or build without it: --offline", 1},
		{"web page", answer(200, "Content-Type: text/html", "<html>log in</html>"), registry.Invalid,
			`looking up "HOST/app:1": not an image: the media type is "text/html"`, "", 1},
		{"docker schema 1", answer(200, "Content-Type: application/vnd.docker.distribution.manifest.v1+prettyjws", "{}"), registry.Invalid,
			`looking up "HOST/app:1": not an image: the media type is "application/vnd.docker.distribution.manifest.v1+prettyjws"`, "", 1},
		{"two types", answer(200, manifest, `{"mediaType":"application/vnd.oci.image.index.v1+json"}`), registry.Invalid,
			`looking up "HOST/app:1": the manifest says that it is "application/vnd.oci.image.index.v1+json", the registry says "application/vnd.oci.image.manifest.v1+json"`, "", 1},
		{"two readings", answer(200, manifest, `{"layers":[],"manifests":[]}`), registry.Invalid,
			`looking up "HOST/app:1": the manifest is an index and an image at once`, "", 1},
		{"not JSON", answer(200, manifest, `{`), registry.Invalid,
			`looking up "HOST/app:1": the manifest is not JSON: unexpected end of JSON input`, "", 1},
		{"too large", answer(200, manifest, strings.Repeat(" ", 5<<20)), registry.Invalid,
			`looking up "HOST/app:1": the manifest is larger than 4194304 bytes`, "", 1},
		{"control characters", answer(400, "", body("X", "a\x1b[31m\nb")), registry.Invalid,
			`looking up "HOST/app:1": HOST answered 400: a[31m b`, "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.set(forever, every, tc.handler)
			a := r.Client.Probe(ctx, []registry.Ref{r.Ref("app:1")})[0]
			var e *registry.Error
			if !errors.As(a.Err, &e) || e.Kind != tc.kind {
				t.Fatalf("%#v, want %s", a.Err, tc.kind)
			}
			wantState := registry.Failed
			if tc.kind == registry.NotFound {
				wantState = registry.Miss
			}
			if a.State != wantState {
				t.Errorf("state %s, want %s", a.State, wantState)
			}
			if got := strings.ReplaceAll(a.Err.Error(), r.Host, "HOST"); got != tc.text {
				t.Errorf("error:\n%s\nwant:\n%s", got, tc.text)
			}
			if got := strings.ReplaceAll(diag.HintOf(a.Err), r.Host, "HOST"); got != tc.hint {
				t.Errorf("hint:\n%s\nwant:\n%s", got, tc.hint)
			}
			if f.seen != tc.seen {
				t.Errorf("%d requests, want %d", f.seen, tc.seen)
			}
		})
	}
}

func TestWrongDigestOfManifest(t *testing.T) {
	r, f := newFaulty(t)
	d := r.PushImage(t, r.Ref("app:1"), simple)
	other := func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		if strings.HasSuffix(req.URL.Path, ":1") || strings.HasSuffix(req.URL.Path, "/1") {
			w.Header().Set("Docker-Content-Digest", d.Digest.String())
		}
		io.WriteString(w, `{"schemaVersion":2}`)
	}
	f.set(forever, method("GET"), other)
	for _, ref := range []registry.Ref{r.Ref("app:1"), r.Ref("app").WithDigest(d.Digest)} {
		_, _, err := r.Client.Manifest(ctx, ref)
		var e *registry.Error
		if !errors.As(err, &e) || e.Kind != registry.Invalid {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestFailuresThatPass(t *testing.T) {
	r, f := newFaulty(t)
	r.PushImage(t, r.Ref("app:1"), simple)
	cut := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	for _, tc := range []struct {
		name  string
		h     http.HandlerFunc
		times int
		least time.Duration
	}{
		{"503", answer(503, "", ""), 3, 0},
		{"500", answer(500, "", ""), 1, 0},
		{"429", answer(429, "Retry-After: 1", ""), 1, time.Second},
		{"cut", cut, 2, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.set(tc.times, every, tc.h)
			start := time.Now()
			if _, err := r.Client.Resolve(ctx, r.Ref("app:1")); err != nil {
				t.Error(err)
			}
			if f.seen != tc.times+1 {
				t.Errorf("%d requests", f.seen)
			}
			if took := time.Since(start); took < tc.least {
				t.Errorf("waited %v, was asked to wait %v", took, tc.least)
			}
		})
	}
	t.Run("cancelled while waiting", func(t *testing.T) {
		f.set(forever, every, answer(429, "Retry-After: 20", ""))
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := r.Client.Resolve(short, r.Ref("app:1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestUploadsAreRepeated(t *testing.T) {
	r, f := newFaulty(t)
	small := []byte("small content")
	large := bytes.Repeat([]byte("x"), 5<<20)
	for _, tc := range []struct {
		name   string
		method string
		push   func() (ocispec.Descriptor, error)
		err    registry.Kind
	}{
		{"stream, small", "PUT", func() (ocispec.Descriptor, error) {
			return r.Client.PushStream(ctx, r.Ref("a"), "x/y", bytes.NewBuffer(bytes.Clone(small)))
		}, ""},
		{"stream, start", "POST", func() (ocispec.Descriptor, error) {
			return r.Client.PushStream(ctx, r.Ref("b"), "x/y", bytes.NewReader(large))
		}, ""},
		{"stream, large", "PATCH", func() (ocispec.Descriptor, error) {
			return r.Client.PushStream(ctx, r.Ref("c"), "x/y", bytes.NewReader(large))
		}, registry.Unavailable},
		{"bytes", "PUT", func() (ocispec.Descriptor, error) {
			return r.Client.PushBytes(ctx, r.Ref("d"), "x/y", large)
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.set(1, method(tc.method), func(w http.ResponseWriter, r *http.Request) {
				io.CopyN(io.Discard, r.Body, 1000)
				w.WriteHeader(502)
			})
			d, err := tc.push()
			var e *registry.Error
			switch {
			case tc.err != "":
				if !errors.As(err, &e) || e.Kind != tc.err {
					t.Errorf("%v, want %s", err, tc.err)
				}
			case err != nil:
				t.Error(err)
			case d.Digest != digest.FromBytes(small) && d.Digest != digest.FromBytes(large):
				t.Errorf("wrong digest %s", d.Digest)
			}
		})
	}
	t.Run("a digest that is wrong", func(t *testing.T) {
		f.set(0, every, nil)
		d := ocispec.Descriptor{Digest: digest.FromString("other"), Size: int64(len(small))}
		err := r.Client.PushBlob(ctx, r.Ref("e"), d, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(small)), nil
		})
		var e *registry.Error
		if !errors.As(err, &e) || e.Kind != registry.Invalid || e.Code != "DIGEST_INVALID" {
			t.Error(err)
		}
	})
	t.Run("a source that breaks", func(t *testing.T) {
		broken := errors.New("disk on fire")
		for _, n := range []int64{10, 5 << 20} {
			source := io.MultiReader(io.LimitReader(&zeros{left: 1 << 40, each: func() {}}, n), errReader{broken})
			if _, err := r.Client.PushStream(ctx, r.Ref("f"), "x/y", source); !errors.Is(err, broken) {
				t.Error(err)
			}
			// Where it is copied to, the registry on this machine above all, is not blamed.
			for _, to := range []registry.Ref{r.Ref("g"), r.Inside("g")} {
				d := ocispec.Descriptor{Digest: digest.FromString("never whole"), Size: n + 10}
				err := r.Client.PushBlob(ctx, to, d, func() (io.ReadCloser, error) {
					return io.NopCloser(io.MultiReader(io.LimitReader(&zeros{left: 1 << 40, each: func() {}}, n), errReader{broken})), nil
				})
				if !errors.Is(err, broken) {
					t.Errorf("copying to %s: %v", to, err)
				}
			}
		}
	})
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func isBlobGet(r *http.Request) bool {
	return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/sha256:")
}

func TestDownloadsResume(t *testing.T) {
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(rand.N(256))
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			r, f := newFaulty(t)
			if _, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content); err != nil {
				t.Fatal(err)
			}
			var sent atomic.Int64
			f.set(3, isBlobGet, func(w http.ResponseWriter, req *http.Request) {
				from := 0
				if h := req.Header.Get("Range"); h != "" && ranges {
					fmt.Sscanf(h, "bytes=%d-", &from)
				}
				rest := content[from:]
				w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
				if from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
					w.WriteHeader(http.StatusPartialContent)
				}
				n := len(rest) / 3
				if !ranges {
					n = len(rest) / 2
				}
				w.Write(rest[:n])
				sent.Add(int64(n))
				panic(http.ErrAbortHandler)
			})
			got, err := r.Client.ReadBlob(ctx, r.Ref("app"), d)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if f.seen != 4 {
				t.Errorf("%d requests", f.seen)
			}
			if total := r.Client.Meter().Total().Received; ranges && total > 1<<20+200_000 {
				t.Errorf("%d bytes received for %d", total, len(content))
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		r, f := newFaulty(t)
		r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content)
		f.set(forever, isBlobGet, func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write(content[:1000])
			}
			panic(http.ErrAbortHandler)
		})
		_, err := r.Client.ReadBlob(ctx, r.Ref("app"), d)
		var e *registry.Error
		if !errors.As(err, &e) || e.Kind != registry.Unavailable {
			t.Error(err)
		}
	})
}

func TestWrongBlobIsNeverAccepted(t *testing.T) {
	r, f := newFaulty(t)
	content := []byte("what was asked for")
	d, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content)
	if err != nil {
		t.Fatal(err)
	}
	chunked := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush() // no Content-Length
			io.WriteString(w, s)
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"same size": answer(200, "", "what was asked f0r"),
		"longer":    chunked("what was asked for, and more"),
		"too long":  answer(200, "", "what was asked for, and more"),
		"too short": answer(200, "", "what"),
	} {
		f.set(forever, isBlobGet, h)
		got, err := r.Client.ReadBlob(ctx, r.Ref("app"), d)
		var e *registry.Error
		if !errors.As(err, &e) || e.Kind != registry.Invalid {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	f.set(forever, isBlobGet, chunked("what was asked f0r"))
	if _, err := r.Client.ReadBlob(ctx, r.Ref("app"), ocispec.Descriptor{Digest: d.Digest}); err == nil {
		t.Error("a wrong blob of unknown size was accepted")
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	c := registry.New(registry.Options{Credential: nobody})
	start := time.Now()
	_, err = c.Resolve(ctx, registry.Ref{Host: host, Repo: "app", Tag: "1"})
	want := fmt.Sprintf(`looking up "%s/app:1": %s cannot be reached: connection refused`, host, host)
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if hint := diag.HintOf(err); hint != fmt.Sprintf("is the registry running? try: curl http://%s/v2/", host) {
		t.Errorf("hint %q", hint)
	}
	if time.Since(start) > time.Second {
		t.Error("a refused connection is told late")
	}
}

func nobody(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil }
