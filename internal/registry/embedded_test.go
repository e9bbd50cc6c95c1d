package registry_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// TestMain lets the test binary stand in for another process that has the
// folder open.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REGISTRY_TEST_HOLD"); dir != "" {
		e, err := registry.OpenEmbedded(dir)
		if err != nil {
			panic(err)
		}
		c := registry.New(registry.Options{Embedded: e})
		if _, err := c.PushBytes(context.Background(), inside("held"), "x/y", []byte("from another process")); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("open\n")
		io.Copy(io.Discard, os.Stdin)
		e.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func inside(repo string) registry.Ref {
	return registry.Ref{Host: registry.EmbeddedHost, Repo: repo}
}

func TestSeveralProcessesShareAFolder(t *testing.T) {
	r := registrytest.New(t)
	r.PushImage(t, r.Inside("app:1"), simple)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "REGISTRY_TEST_HOLD="+r.Embedded.Dir())
	stdin, _ := other.StdinPipe()
	stdout, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{Digest: digest.FromString("from another process")}
	if has, err := r.Client.HasBlob(ctx, r.Inside("held"), d); !has || err != nil {
		t.Errorf("the other process's blob: %v, %v", has, err)
	}
	_, err := r.Embedded.GC(ctx, registry.GCOptions{})
	if !errors.Is(err, registry.ErrInUse) || diag.HintOf(err) == "" {
		t.Errorf("GC while another process has the folder open: %v", err)
	}
	stdin.Close()
	if _, err := r.Embedded.GC(ctx, registry.GCOptions{Wait: 10 * time.Second}); err != nil {
		t.Errorf("GC that waits: %v", err)
	}
	other.Wait()
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	logrus.SetOutput(&out)
	defer logrus.SetOutput(os.Stderr)
	r := registrytest.New(t)
	r.PushImage(t, r.Inside("app:1"), simple)
	r.PushImage(t, r.Ref("app:2"), simple)
	r.Client.Probe(ctx, []registry.Ref{r.Ref("app:3"), r.Inside("nothing:3"), {Host: r.Host, Repo: "BAD"}})
	if out.Len() > 0 {
		t.Errorf("distribution logged:\n%s", out.String())
	}
}

func TestOpeningIsCheap(t *testing.T) {
	dir := t.TempDir()
	var times []time.Duration
	for range 9 {
		start := time.Now()
		e, err := registry.OpenEmbedded(dir)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(start))
		e.Close()
	}
	slices.Sort(times)
	t.Logf("median %v, worst %v", times[4], times[8])
	if times[4] > 10*time.Millisecond {
		t.Errorf("opening takes %v", times[4])
	}
}

func TestBodiesStream(t *testing.T) {
	r := registrytest.New(t)
	t.Run("in process", func(t *testing.T) { testStream(t, r, r.Inside("big")) })
	t.Run("over http", func(t *testing.T) { testStream(t, r, r.Ref("bigger")) })
}

func testStream(t *testing.T, r *registrytest.Registry, at registry.Ref) {
	const size = 200 << 20
	before := memory()
	var peak uint64
	source := &zeros{left: size, each: func() { peak = max(peak, memory()) }}
	d, err := r.Client.PushStream(ctx, at, "x/y", source)
	if err != nil {
		t.Fatal(err)
	}
	if d.Size != size {
		t.Errorf("pushed %d bytes", d.Size)
	}
	rc, err := r.Client.Blob(ctx, at, d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if n, err := io.Copy(io.Discard, rc); n != size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if grown := int64(max(peak, memory())) - int64(before); grown > 100<<20 {
		t.Errorf("memory grew by %d MB", grown>>20)
	} else {
		t.Logf("memory grew by %d MB", grown>>20)
	}
}

// memory gives what the process has from the system, apart from what it gave
// back.
func memory() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys - m.HeapReleased
}

type zeros struct {
	left, n int64
	each    func()
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), z.left)]
	clear(p)
	z.left -= int64(len(p))
	if z.n++; z.n%100 == 0 {
		z.each()
	}
	return len(p), nil
}

func TestBlobReaderMayBeLeft(t *testing.T) {
	r := registrytest.New(t)
	d, err := r.Client.PushBytes(ctx, r.Inside("app"), "x/y", bytes.Repeat([]byte{1}, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	rc, err := r.Client.Blob(ctx, r.Inside("app"), d)
	if err != nil {
		t.Fatal(err)
	}
	rc.Read(make([]byte, 10))
	rc.Close()
	cancelled, cancel := context.WithCancel(ctx)
	if _, err = r.Client.Blob(cancelled, r.Inside("app"), d); err != nil {
		t.Fatal(err)
	}
	cancel()
	done := make(chan error)
	go func() { done <- r.Embedded.Close() }() // waits for handlers
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a handler still waits for its reader")
	}
}

// rootfs is a small root file system as a tar stream, as mmdebstrap writes it.
func rootfs(t *testing.T, extra string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755, Size: int64(len(extra)), Uname: "root", Uid: 3, ModTime: time.Unix(5000, 77)},
		{Name: "./usr/bin/alias", Typeflag: tar.TypeLink, Linkname: "./usr/bin/tool", ModTime: time.Unix(5000, 0)},
		{Name: "./usr/bin/later", Typeflag: tar.TypeReg, ModTime: time.Unix(8000000000, 0)},
		{Name: "./etc/old", Typeflag: tar.TypeReg, ModTime: time.Unix(100, 0), PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			tw.Write([]byte(extra))
		}
	}
	tw.Close()
	return buf.Bytes()
}

func TestImportRootfs(t *testing.T) {
	r := registrytest.New(t)
	ref, _ := registry.ParseRef("debian:bookworm-slim")
	cfg := registry.ImportConfig{Cmd: []string{"bash"}, Labels: map[string]string{"a": "b"}}
	amd, err := r.Embedded.ImportRootfs(ctx, ref, "linux/amd64", bytes.NewReader(rootfs(t, "amd64")), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	zw.Write(rootfs(t, "arm64"))
	zw.Close()
	if _, err := r.Embedded.ImportRootfs(ctx, ref, "linux/arm64", &packed, cfg); err != nil {
		t.Fatal(err)
	}

	c := r.NewClient(registry.Options{MirrorReads: true})
	d, index, err := c.Manifest(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	var list ocispec.Index
	json.Unmarshal(index, &list)
	var has []string
	for _, m := range list.Manifests {
		has = append(has, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, has); diff != "" || d.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("%s: %s", d.MediaType, diff)
	}

	m, body, err := c.Platform(ctx, ref, "linux/amd64")
	if err != nil || m.Digest != amd.Manifest.Digest {
		t.Fatalf("linux/amd64 is %s, want %s; %v", m.Digest, amd.Manifest.Digest, err)
	}
	var manifest ocispec.Manifest
	json.Unmarshal(body, &manifest)
	var config ocispec.Image
	configBody, err := c.ReadBlob(ctx, ref, manifest.Config)
	if err != nil {
		t.Fatal(err)
	}
	json.Unmarshal(configBody, &config)
	if diff := cmp.Diff(ocispec.ImageConfig{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"bash"}, Labels: map[string]string{"a": "b"},
	}, config.Config); diff != "" {
		t.Error(diff)
	}
	for _, at := range []*time.Time{config.Created, config.History[0].Created} {
		if at == nil || at.Unix() != 5000 { // the newest file's, but for one that nobody believes
			t.Errorf("the config says that it was made at %v", at)
		}
	}
	layer, err := c.ReadBlob(ctx, ref, manifest.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	checkLayer(t, layer, config.RootFS.DiffIDs[0])
}

func checkLayer(t *testing.T, layer []byte, diffID digest.Digest) {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil || digest.FromBytes(plain) != diffID {
		t.Errorf("diff id %s, content %s, %v", diffID, digest.FromBytes(plain), err)
	}
	type entry struct {
		Name, Link, Content, Xattr string
		Mode                       int64
		Uid                        int
		Time                       int64
	}
	var got []entry
	for tr := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(tr)
		got = append(got, entry{h.Name, h.Linkname, string(content), h.PAXRecords["SCHILY.xattr.user.a"], h.Mode, h.Uid, h.ModTime.Unix()})
	}
	want := []entry{
		{Name: "bin", Link: "usr/bin"},
		{Name: "usr/bin/", Mode: 0o755},
		{Name: "usr/bin/tool", Content: "amd64", Mode: 0o4755, Uid: 3, Time: 5000},
		{Name: "usr/bin/alias", Link: "usr/bin/tool", Time: 5000},
		{Name: "usr/bin/later", Time: 8000000000},
		{Name: "etc/old", Xattr: "b", Time: 100},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestImportIsReproducible(t *testing.T) {
	ref, _ := registry.ParseRef("debian:x")
	big := strings.Repeat("some text that compresses ", 300_000)
	var seen []digest.Digest
	for _, procs := range []int{1, 2, 4} {
		old := runtime.GOMAXPROCS(procs)
		r := registrytest.New(t)
		var in io.Reader = bytes.NewReader(rootfs(t, big))
		if procs == 4 { // the compression of the input makes no difference
			var z bytes.Buffer
			zw, _ := zstd.NewWriter(&z)
			zw.Write(rootfs(t, big))
			zw.Close()
			in = &z
		}
		got, err := r.Embedded.ImportRootfs(ctx, ref, "linux/amd64", in, registry.ImportConfig{})
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, got.Index.Digest)
		again, err := r.Embedded.ImportRootfs(ctx, ref, "linux/amd64", bytes.NewReader(rootfs(t, big)), registry.ImportConfig{})
		if err != nil || again.Index.Digest != got.Index.Digest {
			t.Errorf("importing again: %s, then %s, %v", got.Index.Digest, again.Index.Digest, err)
		}
	}
	if len(slices.Compact(seen)) != 1 {
		t.Errorf("digests differ: %v", seen)
	}
}

func TestImportRefuses(t *testing.T) {
	r := registrytest.New(t)
	tarOf := func(name string) io.Reader {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg})
		tw.Close()
		return &b
	}
	for _, tc := range []struct {
		name, platform string
		in             io.Reader
		want           string
	}{
		{"platform", "li/n/u/x", tarOf("a"), "reading the platform"},
		{"not a tar", "linux/amd64", strings.NewReader(strings.Repeat("hello", 1000)), "reading the archive"},
		{"empty", "linux/amd64", strings.NewReader(""), "holds no files"},
		{"escape", "linux/amd64", tarOf("a/../../b"), "leads out of itself"},
		{"xz", "linux/amd64", strings.NewReader("\xfd7zXZ\x00rest"), "compressed by xz"},
	} {
		_, err := r.Embedded.ImportRootfs(ctx, r.Inside("x:1"), tc.platform, tc.in, registry.ImportConfig{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := r.Client.Resolve(ctx, r.Inside("x:1")); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a failed import left a tag: %v", err)
	}
}
