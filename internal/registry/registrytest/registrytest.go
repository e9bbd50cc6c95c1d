// Package registrytest gives tests a real registry of their own: the embedded
// one, in a temporary folder, on a loopback port, with a client for it, in one
// call.
package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
)

// Registry is a registry that ends with the test.
type Registry struct {
	Embedded *registry.Embedded
	Client   *registry.Client // reaches it by Host and by registry.EmbeddedHost
	Host     string           // "127.0.0.1:PORT"

	mu  sync.Mutex
	log []string
}

// Options change what New gives.
type Options struct {
	Dir    string                               // the folder; "" is a temporary one
	Client registry.Options                     // of the client; Embedded and Credential are filled in
	Wrap   func(next http.Handler) http.Handler // stands before the registry on the port
}

// New gives a fresh registry and a client that knows no credentials and waits
// a millisecond before it tries again.
func New(tb testing.TB) *Registry { return With(tb, Options{}) }

// With is New with options.
func With(tb testing.TB, o Options) *Registry {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	e, err := registry.OpenEmbedded(o.Dir)
	if err != nil {
		tb.Fatal(err)
	}
	r := &Registry{Embedded: e}
	var h http.Handler = e
	if o.Wrap != nil {
		h = o.Wrap(h)
	}
	server := httptest.NewUnstartedServer(r.logged(h))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	tb.Cleanup(func() {
		server.Close()
		e.Close()
	})
	r.Host = strings.TrimPrefix(server.URL, "http://")
	r.Client = r.NewClient(o.Client)
	return r
}

// NewClient gives another client for the registry.
func (r *Registry) NewClient(o registry.Options) *registry.Client {
	o.Embedded = r.Embedded
	if o.Credential == nil {
		o.Credential = func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil }
	}
	if o.RetryWait == 0 {
		o.RetryWait = time.Millisecond
	}
	return registry.New(o)
}

// Ref gives "REPO", "REPO:TAG" or "REPO@DIGEST" on the registry's port.
func (r *Registry) Ref(name string) registry.Ref { return mustRef(r.Host + "/" + name) }

// Inside gives the same on registry.EmbeddedHost, reached without a socket.
// Both name the same content.
func (r *Registry) Inside(name string) registry.Ref {
	return mustRef(registry.EmbeddedHost + "/" + name)
}

func mustRef(s string) registry.Ref {
	ref, err := registry.ParseRef(s)
	if err != nil {
		panic(err)
	}
	return ref
}

// logged notes each request that comes in over the port.
func (r *Registry) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.log = append(r.log, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

// TakeLog gives the requests ("GET /v2/app/manifests/1") that came in over the
// port since the last call, in order.
func (r *Registry) TakeLog() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.log
	r.log = nil
	return taken
}

// Image is a small image to push: files by path, directories with a slash at
// their end, each layer on its own.
type Image struct {
	Platform string // "linux/amd64" is the default
	Layers   []map[string]string
	Config   ocispec.ImageConfig
}

// PushImage pushes an image under ref and gives its manifest's descriptor.
func (r *Registry) PushImage(tb testing.TB, ref registry.Ref, i Image) ocispec.Descriptor {
	tb.Helper()
	ctx := context.Background()
	osName, arch, _ := strings.Cut(cmpOr(i.Platform, "linux/amd64"), "/")
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: osName, Architecture: arch}, Config: i.Config,
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, files := range i.Layers {
		plain, packed := Layer(tb, files)
		d, err := r.Client.PushBytes(ctx, ref, ocispec.MediaTypeImageLayerGzip, packed)
		if err != nil {
			tb.Fatal(err)
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		config.History = append(config.History, ocispec.History{CreatedBy: "registrytest"})
	}
	var err error
	if m.Config, err = r.Client.PushBytes(ctx, ref, ocispec.MediaTypeImageConfig, marshal(tb, config)); err != nil {
		tb.Fatal(err)
	}
	d, err := r.Client.PutManifest(ctx, ref, m.MediaType, marshal(tb, m))
	if err != nil {
		tb.Fatal(err)
	}
	d.Platform = &config.Platform
	return d
}

func cmpOr(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func marshal(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Layer makes a layer of files, as a tar stream and compressed.
func Layer(tb testing.TB, files map[string]string) (plain, packed []byte) {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Mode, h.Typeflag, h.Size = 0o755, tar.TypeDir, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			tw.Write([]byte(files[name]))
		}
	}
	tw.Close()
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	zw.Write(buf.Bytes())
	zw.Close()
	return buf.Bytes(), z.Bytes()
}
