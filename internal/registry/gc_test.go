package registry_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// A registry that somebody has open is not removed under them.
func TestRemove(t *testing.T) {
	dir := t.TempDir()
	e, err := registry.OpenEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Options{Embedded: e, Credential: nobody})
	ref := registry.Ref{Host: registry.EmbeddedHost, Repo: "app"}
	if _, err := c.PushBytes(ctx, ref, "x/y", []byte("content")); err != nil {
		t.Fatal(err)
	}
	if err := registry.Remove(dir); !errors.Is(err, registry.ErrInUse) || diag.HintOf(err) == "" {
		t.Errorf("while it is open: %v, hint %q", err, diag.HintOf(err))
	}
	if u, err := registry.UsageOf(dir); err != nil || u.Blobs != 1 {
		t.Errorf("it holds %d blobs, %v", u.Blobs, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := registry.Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if u, err := registry.UsageOf(dir); err != nil || u.Blobs != 0 || u.Repositories != 0 {
		t.Errorf("there are %d blobs left, %v", u.Blobs, err)
	}
	if err := registry.Remove(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

func TestGC(t *testing.T) {
	r := registrytest.New(t)
	c := r.Client
	image := func(tag, content string) registry.Ref {
		ref := r.Inside(tag)
		d := r.PushImage(t, ref, registrytest.Image{Layers: []map[string]string{{"common": "c"}, {"f": content}}})
		a, err := c.Attach(ctx, ref, d, "test/inventory", []registry.Blob{{MediaType: "x/y", Data: []byte("inventory " + content)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// and something attached to the attachment
		if _, err := c.Attach(ctx, ref, a, "test/signature", nil, map[string]string{"of": content}); err != nil {
			t.Fatal(err)
		}
		return ref.WithDigest(d.Digest)
	}
	kept, dropped, untagged := image("app:1", "one"), image("app:2", "two"), image("app:3", "three")
	gonerRepo := image("goner/app:1", "four")
	image("app:3", "three again")
	if _, err := c.PushBytes(ctx, r.Inside("app"), "x/y", []byte("an upload without a manifest")); err != nil {
		t.Fatal(err)
	}
	keep := func(t registry.TagInfo) bool { return t.Ref.Tag != "2" && t.Ref.Repo != "goner/app" }

	// What is young stays.
	young, err := r.Embedded.GC(ctx, registry.GCOptions{})
	if diff := cmp.Diff(registry.GCResult{}, young); diff != "" || err != nil {
		t.Error(diff, err)
	}
	before, _ := r.Embedded.Usage()
	dry, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := r.Embedded.Usage(); after != before {
		t.Errorf("a dry run changed %+v to %+v", before, after)
	}
	got, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1})
	if diff := cmp.Diff(dry, got); diff != "" || err != nil {
		t.Errorf("dry run and run differ: %s %v", diff, err)
	}
	after, _ := r.Embedded.Usage()
	t.Logf("%+v, from %+v to %+v", got, before, after)
	if got.Tags < 2 || got.Manifests == 0 || got.Blobs == 0 || got.Freed == 0 {
		t.Errorf("collected %+v", got)
	}
	checkImage(t, r, kept)
	for _, ref := range []registry.Ref{dropped, untagged, gonerRepo, r.Inside("app:2")} {
		if _, err := c.Resolve(ctx, ref); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if again, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1}); again != (registry.GCResult{}) || err != nil {
		t.Errorf("collecting again finds %+v, %v", again, err)
	}
	repos, err := r.Embedded.Repositories()
	if diff := cmp.Diff([]string{"app"}, repos); diff != "" || err != nil {
		t.Error(diff, err)
	}
	image("app:2", "two") // what was dropped can come back
	checkImage(t, r, dropped)
}

// checkImage reads an image and what is attached to it.
func checkImage(t *testing.T, r *registrytest.Registry, ref registry.Ref) {
	t.Helper()
	if _, err := r.Client.CopyImage(ctx, ref, r.Ref("copy:1")); err != nil {
		t.Errorf("reading %s: %v", ref, err)
	}
	list, err := r.Client.Referrers(ctx, ref, "test/inventory")
	if err != nil || len(list) != 1 {
		t.Fatalf("%s has %d inventories, %v", ref, len(list), err)
	}
	if _, err := r.Client.CopyImage(ctx, ref.WithDigest(list[0].Digest), r.Ref("copy:2")); err != nil {
		t.Errorf("reading an attachment of %s: %v", ref, err)
	}
	if list, err = r.Client.Referrers(ctx, ref.WithDigest(list[0].Digest), ""); err != nil || len(list) != 1 {
		t.Errorf("%s: %d signatures, %v", ref, len(list), err)
	}
	for _, tag := range []string{"1", "2"} {
		if err := r.Client.Delete(ctx, r.Ref("copy:"+tag)); err != nil {
			t.Error(err)
		}
	}
	if err := removeRepo(r, "copy"); err != nil {
		t.Error(err)
	}
}

// removeRepo takes a repository away as a user would who knows the layout.
func removeRepo(r *registrytest.Registry, repo string) error {
	return os.RemoveAll(filepath.Join(r.Embedded.Dir(), "docker/registry/v2/repositories", repo))
}

// An upload that is under way while garbage is collected is finished afterwards,
// and what it brings is there: content that had lain in the store for long and
// that nothing needed, too.
func TestGCLeavesUploadsUnderWay(t *testing.T) {
	r := registrytest.New(t)
	old := bytes.Repeat([]byte("old "), 1000)
	if _, err := r.Client.PushBytes(ctx, r.Inside("app"), "x/y", old); err != nil {
		t.Fatal(err)
	}
	age(t, r.Embedded.Dir(), 48*time.Hour)

	// One upload has sent its first half; another has brought back what had been
	// there; a third waits in the middle of its request.
	fresh := []byte("first half, second half")
	request := func(method, url string, body io.Reader) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, url, resp.Status)
		}
		return resp
	}
	next := func(resp *http.Response) string {
		l, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return l.String()
	}
	at := next(request(http.MethodPost, "http://"+r.Host+"/v2/app/blobs/uploads/", nil))
	at = next(request(http.MethodPatch, at, bytes.NewReader(fresh[:11])))
	if _, err := r.Client.PushBytes(ctx, r.Inside("app"), "x/y", old); err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	streamed := make(chan error, 1)
	go func() {
		_, err := r.Client.PushStream(ctx, r.Ref("app"), "x/y", pr)
		streamed <- err
	}()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // more than is held in memory
	if _, err := pw.Write(big[:len(big)/2]); err != nil {
		t.Fatal(err)
	}
	collected := make(chan error, 1)
	go func() {
		_, err := r.Embedded.GC(ctx, registry.GCOptions{})
		collected <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if _, err := pw.Write(big[len(big)/2:]); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	for what, c := range map[string]chan error{"the collection": collected, "the upload that waited": streamed} {
		if err := <-c; err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	at = next(request(http.MethodPatch, at, bytes.NewReader(fresh[11:])))
	request(http.MethodPut, at+"&digest="+digest.FromBytes(fresh).String(), nil)
	for _, want := range [][]byte{old, fresh, big} {
		got, err := r.Client.ReadBlob(ctx, r.Inside("app"), ocispec.Descriptor{Digest: digest.FromBytes(want), Size: int64(len(want))})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(want), err)
		}
	}
}

// age makes every file of a folder that much older.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		at := time.Now().Add(-by)
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// While another process has the folder open nothing is collected, whatever it is
// in the middle of.
func TestGCWaitsForOtherProcesses(t *testing.T) {
	r := registrytest.New(t)
	other, err := registry.OpenEmbedded(r.Embedded.Dir()) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Embedded.GC(ctx, registry.GCOptions{MinAge: -1}); !errors.Is(err, registry.ErrInUse) {
		t.Errorf("collected all the same: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Embedded.GC(ctx, registry.GCOptions{MinAge: -1}); err != nil {
		t.Error(err)
	}
}

// What is held stays although no tag leads to it.
func TestGCHolds(t *testing.T) {
	r := registrytest.New(t)
	held := r.PushImage(t, r.Inside("app:1"), registrytest.Image{Layers: []map[string]string{{"f": "held"}}})
	r.PushImage(t, r.Inside("app:1"), registrytest.Image{Layers: []map[string]string{{"f": "tagged"}}})
	got, err := r.Embedded.GC(ctx, registry.GCOptions{MinAge: -1, Hold: map[digest.Digest]bool{held.Digest: true}})
	if diff := cmp.Diff(registry.GCResult{}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := r.Client.CopyImage(ctx, r.Inside("app").WithDigest(held.Digest), r.Inside("copy:1")); err != nil {
		t.Error(err)
	}
}

// What a crash has left of a tag goes.
func TestGCClearsBrokenTags(t *testing.T) {
	r := registrytest.New(t)
	for _, tag := range []string{"1", "2"} {
		r.PushImage(t, r.Inside("app:"+tag), registrytest.Image{Layers: []map[string]string{{"f": tag}}})
	}
	tags := filepath.Join(r.Embedded.Dir(), "docker/registry/v2/repositories/app/_manifests/tags")
	if err := os.RemoveAll(filepath.Join(tags, "2", "current")); err != nil {
		t.Fatal(err)
	}
	got, err := r.Embedded.GC(ctx, registry.GCOptions{MinAge: -1})
	if err != nil || got.Manifests != 1 {
		t.Errorf("collected %+v, %v", got, err)
	}
	left, err := os.ReadDir(tags)
	if err != nil || len(left) != 1 || left[0].Name() != "1" {
		t.Errorf("left are %v, %v", left, err)
	}
}

// Where this process uploads nothing and no other one has the folder open, what
// was cut is garbage at once: halves of uploads, blobs without a manifest, files
// that were not yet renamed. A fresh manifest stays for an hour.
func TestGCClearsWhatWasCut(t *testing.T) {
	dir := t.TempDir()
	r := registrytest.With(t, registrytest.Options{Dir: dir})
	untagged := r.PushImage(t, r.Inside("app:1"), registrytest.Image{Layers: []map[string]string{{"f": "untagged"}}})
	r.PushImage(t, r.Inside("app:1"), registrytest.Image{Layers: []map[string]string{{"f": "tagged"}}})
	if _, err := r.Client.PushBytes(ctx, r.Inside("app"), "x/y", []byte("a blob whose manifest never came")); err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"app", "only/begun"} {
		resp, err := http.Post("http://"+r.Host+"/v2/"+repo+"/blobs/uploads/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		at, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPatch, at.String(), bytes.NewReader(make([]byte, 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err = http.DefaultClient.Do(req); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	half := filepath.Join(dir, "docker/registry/v2/repositories/app/_manifests/tags/1/current/link.0a1b.tmp")
	if err := os.WriteFile(half, []byte("sha256:"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := r.Embedded.Usage()
	if err != nil || before.Unfinished < 2<<20 {
		t.Errorf("unfinished are %d bytes, %v", before.Unfinished, err)
	}
	alone := false
	got, err := r.Embedded.GC(ctx, registry.GCOptions{Idle: true, Alone: func() error { alone = true; return nil }})
	if err != nil || got.Uploads != 3 || got.Blobs != 1 || got.Manifests != 0 || got.Freed < 2<<20 || !alone {
		t.Errorf("collected %+v, %v", got, err)
	}
	after, err := r.Embedded.Usage()
	if err != nil || after.Unfinished != 0 {
		t.Errorf("unfinished are %d bytes afterwards, %v", after.Unfinished, err)
	}
	for _, ref := range []registry.Ref{r.Inside("app:1"), r.Inside("app").WithDigest(untagged.Digest)} {
		if _, err := r.Client.CopyImage(ctx, ref, r.Inside("copy:1")); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	repos, err := r.Embedded.Repositories()
	if diff := cmp.Diff([]string{"app", "copy"}, repos); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
