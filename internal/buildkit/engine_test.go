//go:build linux

package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
)

// shell is the static program that is /bin/sh in the tests' images.
var shell []byte

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

// testMain fails loudly where the engine can't run, in place of skipping.
func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "internal/buildkit: these tests start containers and need root")
		return 1
	}
	logrus.SetOutput(io.Discard) // the registry logs every request
	if len(runcZstd) == 0 {      // without -tags embedrunc, use what the tag would embed
		runcZstd, _ = os.ReadFile("runcbin/runc-linux-" + runtime.GOARCH + ".zst")
	}
	if root := os.Getenv(childRoot); root != "" {
		return child(root)
	}
	if _, err := findRunc("", os.TempDir()); len(runcZstd) == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "internal/buildkit: run scripts/runc.sh first:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "strata-shell-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "sh"), "./testdata/shell")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the tests' shell: %v\n%s", err, out)
		return 1
	}
	if shell, err = os.ReadFile(filepath.Join(dir, "sh")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// hub is a real registry on loopback that counts what it is asked.
type hub struct {
	*httptest.Server
	addr string
	arch string // of the images that are pushed

	mu       sync.Mutex
	requests []string // "METHOD PATH?QUERY STATUS"
}

func newHub(t *testing.T) *hub {
	t.Helper()
	cfg := &configuration.Configuration{}
	cfg.Storage = configuration.Storage{
		"filesystem": configuration.Parameters{"rootdirectory": t.TempDir()},
		"maintenance": configuration.Parameters{
			"uploadpurging": map[any]any{"enabled": false},
		},
	}
	cfg.Catalog.MaxEntries = 100
	cfg.Log.Level = "error"
	cfg.Log.AccessLog.Disabled = true
	cfg.HTTP.Secret = "any"
	app := handlers.NewApp(context.Background(), cfg)
	h := &hub{arch: runtime.GOARCH}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w, status: 200}
		app.ServeHTTP(sw, r)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.requests = append(h.requests, fmt.Sprintf("%s %s %d", r.Method, r.URL.RequestURI(), sw.status))
	}))
	t.Cleanup(h.Close)
	h.addr = strings.TrimPrefix(h.URL, "http://")
	return h
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

// seen gives the requests that contain every one of parts, and forgets none.
func (h *hub) seen(parts ...string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, r := range h.requests {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(r, p)
		}
		if all {
			out = append(out, r)
		}
	}
	return out
}

func (h *hub) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = nil
}

func (h *hub) do(t *testing.T, method, path, mediaType string, body []byte) (*http.Response, []byte) {
	t.Helper()
	u := path
	if !strings.HasPrefix(path, "http") {
		u = h.URL + path
	}
	req, err := http.NewRequest(method, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", */*")
	resp, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, data)
	}
	return resp, data
}

func (h *hub) manifest(t *testing.T, repo, ref string) []byte {
	t.Helper()
	_, body := h.do(t, "GET", "/v2/"+repo+"/manifests/"+ref, "", nil)
	return body
}

func (h *hub) pushBlob(t *testing.T, repo, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(data)
	resp, _ := h.do(t, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil)
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	h.do(t, "PUT", u.String(), "application/octet-stream", data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// file is an entry of a test's layer.
type file struct {
	name string
	mode int64
	data []byte
}

func layer(t *testing.T, files ...file) (blob []byte, diffID digest.Digest) {
	t.Helper()
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var gz bytes.Buffer
	zw := gzip.NewWriter(&gz)
	if _, err := zw.Write(raw.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return gz.Bytes(), digest.FromBytes(raw.Bytes())
}

// pushImage makes an image of one layer and pushes it as repo:tag.
func (h *hub) pushImage(t *testing.T, repo, tag string, files ...file) digest.Digest {
	t.Helper()
	blob, diffID := layer(t, files...)
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: h.arch},
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/bin", "FROM_BASE=yes"}, Cmd: []string{"/bin/sh", "-c", "echo $FROM_BASE"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    h.pushBlob(t, repo, ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{h.pushBlob(t, repo, ocispec.MediaTypeImageLayerGzip, blob)},
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	h.do(t, "PUT", "/v2/"+repo+"/manifests/"+tag, ocispec.MediaTypeImageManifest, body)
	return digest.FromBytes(body)
}

// pushBase pushes the image with the shell.
func (h *hub) pushBase(t *testing.T, repo, tag string, more ...file) digest.Digest {
	t.Helper()
	return h.pushImage(t, repo, tag, append([]file{
		{"bin/", 0o755, nil}, {"bin/sh", 0o755, shell}, {"tmp/", 0o777, nil}, {"etc/", 0o755, nil},
		{"etc/passwd", 0o644, []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")},
	}, more...)...)
}

// layerText unpacks every layer of a pushed image and gives all file names and
// contents as one text.
func (h *hub) layerText(t *testing.T, repo string, manifest []byte) string {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range m.Layers {
		_, data := h.do(t, "GET", "/v2/"+repo+"/blobs/"+l.Digest.String(), "", nil)
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(zr)
		for {
			hdr, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if len(body) > 1<<16 {
				body = nil // the shell
			}
			fmt.Fprintf(&b, "%s %d\n%s\n", hdr.Name, hdr.ModTime.Unix(), body)
		}
	}
	return b.String()
}

// recorder is a sink that keeps events.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) text(ty event.Type) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, e := range r.events {
		if e.Type == ty {
			fmt.Fprintf(&b, "%s|%s|%v|%s\n", e.Step, e.Text, e.Cached, e.Error)
		}
	}
	return b.String()
}

// open opens an engine over root with hub as the embedded registry.
func open(t *testing.T, root string, h *hub) *Embedded {
	t.Helper()
	o := Options{Root: root, DockerConfig: t.TempDir()}
	if h != nil {
		o.Registry = func() (string, error) { return h.addr, nil }
	}
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STRATA_ENGINE_DEBUG") != "" {
		logrus.SetLevel(logrus.DebugLevel)
		logrus.SetOutput(os.Stderr)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// job is a job over a context with files, for the hub's image "base".
func job(t *testing.T, dockerfile string, files map[string]string) build.Job {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return build.Job{
		Unit:       "app/linux/" + runtime.GOARCH,
		Dockerfile: []byte(dockerfile),
		Name:       "docker/Dockerfile.app",
		ContextDir: dir,
		Platform:   "linux/" + runtime.GOARCH,
		Repository: RegistryHost + "/out/app",

		SourceDateEpoch: seconds(0),
	}
}

func mustBuild(t *testing.T, e build.Engine, j build.Job) (build.Result, *recorder) {
	t.Helper()
	rec := &recorder{}
	r, err := e.Build(t.Context(), j, rec)
	if err != nil {
		t.Fatalf("%v\n%s", err, rec.text(event.StepLog))
	}
	return r, rec
}

func TestRunStepIsBuiltAndPushedByDigest(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM strata.internal/base\nARG WHO\nRUN echo hello $WHO | cat; echo built-by-$WHO > /made\nCOPY a.txt /app/\nCMD [\"/bin/sh\"]\n",
		map[string]string{"a.txt": "the file"})
	j.Args = map[string]string{"WHO": "strata"}
	r, rec := mustBuild(t, e, j)

	body := h.manifest(t, "out/app", r.Manifest.Digest.String())
	if !bytes.Equal(body, r.Body) {
		t.Errorf("pushed manifest:\n%s\nresult:\n%s", body, r.Body)
	}
	if !strings.Contains(string(r.Config), `"/bin/sh"`) {
		t.Errorf("config: %s", r.Config)
	}
	text := h.layerText(t, "out/app", r.Body)
	for _, want := range []string{"built-by-strata", "app/a.txt 0\nthe file"} {
		if !strings.Contains(text, want) {
			t.Errorf("image lacks %q:\n%s", want, text)
		}
	}
	for _, typ := range []event.Type{event.StepStarted, event.StepFinished} {
		if !strings.Contains(rec.text(typ), "RUN echo hello") {
			t.Errorf("no %s for RUN:\n%s", typ, rec.text(typ))
		}
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(r.Body, &m); err != nil {
		t.Fatal(err)
	}
	rc, err := r.Blob(t.Context(), m.Layers[len(m.Layers)-1])
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil || digest.FromBytes(data) != m.Layers[len(m.Layers)-1].Digest {
		t.Errorf("blob of the result: %v", err)
	}
}

func createFile(path string) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) { return os.Create(path) }
}
