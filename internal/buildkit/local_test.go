//go:build linux

package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
)

// epoch lies between the times of the files that everything makes.
const epoch = 1_600_000_000

// longName does not fit the old header of a tar archive.
var longName = strings.Repeat("a-long-folder-name/", 14) + "ünïcode-file"

// everything makes what a layer can hold: files before and after the epoch,
// long names, links of both kinds, a removed file, a replaced folder, a pipe,
// odd modes and extended attributes.
const everything = `FROM strata.internal/base AS first
RUN mkdir -p /d/e /gone /opq; echo a > /d/a; echo old > /d/old; touch 1500000000 /d/old; echo x > /gone/x; echo y > /opq/y
FROM first
RUN ln /d/a /d/hard; ln -s /d/a /d/soft; chmod 6751 /d/a; echo b > /d/e/b; mkfifo /d/pipe
RUN mkdir -p "/%[1]s"; rm "/%[1]s"; echo long > "/%[1]s"; ln "/%[1]s" /short
RUN rm /gone/x /opq; mkdir -p /opq; echo z > /opq/z; setfattr user.note hello /d/old; touch 1400000000 /d/e
COPY --chown=7:8 a.txt sub /app/
WORKDIR /work
CMD ["/bin/sh"]
`

func everythingJob(t *testing.T) build.Job {
	t.Helper()
	j := job(t, fmt.Sprintf(everything, longName), map[string]string{"a.txt": "a", "sub/b.txt": "b"})
	j.SourceDateEpoch = seconds(epoch)
	return j
}

func seconds(n int64) *int64 { return &n }

// localJob is a job whose result stays in the engine.
func localJob(j build.Job) build.Job {
	j.Local = true
	return j
}

func mustBuildLocal(t *testing.T, e build.Engine, j build.Job) (build.Result, *recorder) {
	t.Helper()
	r, rec := mustBuild(t, e, localJob(j))
	if !r.Local || r.Release == nil {
		t.Fatalf("the result is not local: %+v", r)
	}
	t.Cleanup(r.Release)
	return r, rec
}

func diffIDs(t *testing.T, r build.Result) []digest.Digest {
	t.Helper()
	var c ocispec.Image
	if err := json.Unmarshal(r.Config, &c); err != nil {
		t.Fatal(err)
	}
	return c.RootFS.DiffIDs
}

// readBlob gives a layer of a result as the engine has it.
func readBlob(t *testing.T, r build.Result, d ocispec.Descriptor) []byte {
	t.Helper()
	rc, err := r.Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func unpacked(t *testing.T, data []byte) []byte {
	t.Helper()
	var z io.Reader
	var err error
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err = gzip.NewReader(bytes.NewReader(data))
	} else {
		z, err = zstd.NewReader(bytes.NewReader(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// publish pushes a local result's layers, config and manifest.
func (h *hub) publish(t *testing.T, repo string, r build.Result) {
	t.Helper()
	m := manifest(t, r.Body)
	for _, l := range m.Layers {
		h.pushBlob(t, repo, l.MediaType, readBlob(t, r, l))
	}
	h.pushBlob(t, repo, m.Config.MediaType, r.Config)
	h.do(t, "PUT", "/v2/"+repo+"/manifests/"+r.Manifest.Digest.String(), r.Manifest.MediaType, r.Body)
}

func TestLocalLayersAreWhatRewriteTimestampMakes(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := everythingJob(t)
	j.NoCache = true
	pushed, _ := mustBuild(t, e, j)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, compression := range []string{"gzip", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			e := open(t, t.TempDir(), h)
			j := j
			j.Compression = compression
			h.forget()
			local, _ := mustBuildLocal(t, e, j)
			if got := h.seen("POST"); got != nil {
				t.Errorf("it pushed: %q", got)
			}
			if diff := cmp.Diff(string(pushed.Config), string(local.Config)); diff != "" {
				t.Errorf("config (-pushed +local):\n%s", diff)
			}
			m, ids := manifest(t, local.Body), diffIDs(t, local)
			want := manifest(t, pushed.Body)
			if len(m.Layers) != len(want.Layers) {
				t.Fatalf("%d layers, want %d", len(m.Layers), len(want.Layers))
			}
			for i, l := range m.Layers {
				data := readBlob(t, local, l)
				if digest.FromBytes(data) != l.Digest || int64(len(data)) != l.Size {
					t.Errorf("layer %d is not what its descriptor says", i)
				}
				plain := unpacked(t, data)
				if digest.FromBytes(plain) != ids[i] {
					t.Errorf("layer %d is not what the config says", i)
				}
				if i > 0 && l.MediaType != "application/vnd.oci.image.layer.v1.tar+"+compression {
					t.Errorf("layer %d is a %q", i, l.MediaType)
				}
				_, theirs := h.do(t, "GET", "/v2/out/app/blobs/"+want.Layers[i].Digest.String(), "", nil)
				if !bytes.Equal(plain, unpacked(t, theirs)) {
					t.Errorf("layer %d (-pushed +local):\n%s", i, cmp.Diff(headers(t, unpacked(t, theirs)), headers(t, plain)))
				}
			}
		})
	}
}

// headers lists an archive, for a message.
func headers(t *testing.T, plain []byte) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(bytes.NewReader(plain))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%c %s -> %s %o %d:%d %d %v %v", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.UTC(), h.PAXRecords))
	}
}

func TestLocalDigestIsTheSameFromColdStores(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	var first build.Result
	for _, processors := range []int{1, 2, 8} {
		old := runtime.GOMAXPROCS(processors)
		e := open(t, t.TempDir(), h)
		r, _ := mustBuildLocal(t, e, everythingJob(t))
		r.Release()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		runtime.GOMAXPROCS(old)
		if first.Body == nil {
			first = r
		}
		if diff := cmp.Diff(string(first.Body), string(r.Body)); diff != "" {
			t.Errorf("%d processors (-1 +%[1]d):\n%s", processors, diff)
		}
	}
}

func TestLocalChildFindsItsParentInTheStore(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	parent, _ := mustBuildLocal(t, e, everythingJob(t))
	h.publish(t, "out/parent", parent)
	parent.Release()

	text := "FROM strata.internal/out/parent@" + parent.Manifest.Digest.String() + "\n" +
		"RUN mtime /d/a; mtime /d/old; mtime /d/soft; cat \"/" + longName + "\"; echo child > /child\n"
	child := job(t, text, nil)
	child.Times.Tables = parent.Tables
	h.forget()
	here, rec := mustBuildLocal(t, e, child)
	if got := h.seen("GET", "/blobs/", manifest(t, parent.Body).Layers[2].Digest.String()); got != nil {
		t.Errorf("a layer was pulled: %q", got)
	}
	// Nothing was done to the files after the step that made them.
	for _, want := range []string{"|1500000000123456789|", "|long|"} {
		if !strings.Contains(rec.text(event.StepLog), want) {
			t.Errorf("no %s in\n%s", want, rec.text(event.StepLog))
		}
	}
	if strings.Contains(rec.text(event.StepLog), "|1600000000000000000|") {
		t.Errorf("it sees a published time:\n%s", rec.text(event.StepLog))
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	// So it is on another machine, which pulls the parent.
	elsewhere, rec2 := mustBuildLocal(t, open(t, t.TempDir(), h), child)
	if diff := cmp.Diff(rec.text(event.StepLog), rec2.text(event.StepLog)); diff != "" {
		t.Errorf("the child sees other files than on a cold machine (-here +there):\n%s", diff)
	}
	ids, ids2 := diffIDs(t, here), diffIDs(t, elsewhere)
	if diff := cmp.Diff(ids, ids2); diff != "" {
		t.Errorf("layers of the child (-here +there):\n%s", diff)
	}
}

func TestLocalImageLeavesItsBaseWhereItIs(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	h.forget()
	r, _ := mustBuildLocal(t, e, job(t, "FROM strata.internal/base\nCOPY --link a.txt /a.txt\n", map[string]string{"a.txt": "a"}))
	m := manifest(t, r.Body)
	if got := h.seen("GET", "/blobs/"+m.Layers[0].Digest.String()); got != nil {
		t.Errorf("the base was pulled: %q", got)
	}
	if _, err := r.Blob(t.Context(), m.Layers[0]); err == nil {
		t.Error("the engine has a layer that it never pulled")
	}
	readBlob(t, r, m.Layers[1])
}

func TestLocalLayersAreListedOnTheWay(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := everythingJob(t)
	listed := map[digest.Digest]digest.Digest{}
	lists := make(chan [2]digest.Digest, 16)
	j.List = func(r io.Reader) (func(digest.Digest), error) {
		plain, err := io.ReadAll(r)
		return func(blob digest.Digest) { lists <- [2]digest.Digest{blob, digest.FromBytes(plain)} }, err
	}
	r, _ := mustBuildLocal(t, e, j)
	close(lists)
	for l := range lists {
		listed[l[0]] = l[1]
	}
	want := map[digest.Digest]digest.Digest{}
	for i, l := range manifest(t, r.Body).Layers[1:] {
		want[l.Digest] = diffIDs(t, r)[i+1]
	}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Errorf("layers listed (-want +got):\n%s", diff)
	}

	// One that fails does no harm.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	j.List = func(io.Reader) (func(digest.Digest), error) { return nil, errors.New("it is no archive for me") }
	again, _ := mustBuildLocal(t, open(t, t.TempDir(), h), j)
	if diff := cmp.Diff(string(r.Body), string(again.Body)); diff != "" {
		t.Errorf("with a list that failed (-without +with):\n%s", diff)
	}
}

func TestLocalLayersOfAnotherEpochAreMadeAgain(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := everythingJob(t)
	mustBuildLocal(t, e, j)
	j.SourceDateEpoch = seconds(1_450_000_000)
	again, _ := mustBuildLocal(t, e, j)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	cold, _ := mustBuildLocal(t, open(t, t.TempDir(), h), j)
	if diff := cmp.Diff(string(cold.Config), string(again.Config)); diff != "" {
		t.Errorf("config (-cold +warm):\n%s", diff)
	}
}

func TestLocalBlobsStayUntilTheyAreReleased(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	r, _ := mustBuildLocal(t, e, everythingJob(t))
	m := manifest(t, r.Body)
	prune := func() {
		t.Helper()
		if _, err := e.Prune(t.Context(), PruneOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := e.worker.GarbageCollect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	prune()
	for _, l := range m.Layers[1:] {
		readBlob(t, r, l)
	}
	r.Release()
	prune()
	for _, l := range m.Layers[1:] {
		if rc, err := r.Blob(t.Context(), l); err == nil {
			rc.Close()
			t.Errorf("layer %s is still there", l.Digest)
		}
	}
}

func TestRemoteEnginePushesLocalJobs(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	far := &engine{client: e.client, blobs: e.blobs, dockerConfig: e.dockerConfig}
	r, _ := mustBuild(t, far, localJob(everythingJob(t)))
	if r.Local || r.Release != nil || r.Blob != nil {
		t.Errorf("the result is local: %+v", r)
	}
	if body := h.manifest(t, "out/app", r.Manifest.Digest.String()); !bytes.Equal(body, r.Body) {
		t.Errorf("pushed manifest:\n%s\nresult:\n%s", body, r.Body)
	}
}

func TestLocalWorksWithTheNativeSnapshotter(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	want, _ := mustBuildLocal(t, e, everythingJob(t))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), Options{
		Root: t.TempDir(), DockerConfig: t.TempDir(), Snapshotter: "native",
		Registry: func() (string, error) { return h.addr, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	got, _ := mustBuildLocal(t, n, everythingJob(t))
	// The walking differ names other folders than the overlay one does; what is
	// there must be right all the same.
	ids := diffIDs(t, got)
	if len(ids) != len(diffIDs(t, want)) {
		t.Errorf("%d layers, want %d", len(ids), len(diffIDs(t, want)))
	}
	for i, l := range manifest(t, got.Body).Layers {
		if digest.FromBytes(unpacked(t, readBlob(t, got, l))) != ids[i] {
			t.Errorf("layer %d is not what the config says", i)
		}
	}
}
