package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

func TestAttach(t *testing.T) {
	r := registrytest.New(t)
	for _, at := range []registry.Ref{r.Ref("app:1"), r.Inside("app:2")} {
		image := at.String()
		d := r.PushImage(t, at, registrytest.Image{Layers: []map[string]string{{"which": image}}})
		subject := at.WithDigest(d.Digest)
		if list, err := r.Client.Referrers(ctx, subject, ""); err != nil || len(list) != 0 {
			t.Errorf("before: %v, %v", list, err)
		}
		blobs := []registry.Blob{{MediaType: "test/data", Data: []byte("data of " + image)}}
		notes := map[string]string{"key": "value"}
		first, err := r.Client.Attach(ctx, subject, d, "test/a", blobs, notes)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.Client.Attach(ctx, subject, d, "test/a", blobs, notes)
		if diff := cmp.Diff(first, again); diff != "" || err != nil {
			t.Errorf("attaching again: %s, %v", diff, err)
		}
		if _, err := r.Client.Attach(ctx, subject, d, "test/b", nil, nil); err != nil {
			t.Fatal(err)
		}
		list, err := r.Client.Referrers(ctx, subject, "test/a")
		if diff := cmp.Diff([]ocispec.Descriptor{first}, list); diff != "" || err != nil {
			t.Errorf("%s %v", diff, err)
		}
		if list, _ := r.Client.Referrers(ctx, subject, ""); len(list) != 2 {
			t.Errorf("%d attached", len(list))
		}
		_, body, err := r.Client.Manifest(ctx, subject.WithDigest(first.Digest))
		if err != nil {
			t.Fatal(err)
		}
		var m ocispec.Manifest
		json.Unmarshal(body, &m)
		if got, err := r.Client.ReadBlob(ctx, subject, m.Layers[0]); err != nil || string(got) != "data of "+image {
			t.Errorf("%q, %v", got, err)
		}
		if m.Subject.Digest != d.Digest || m.ArtifactType != "test/a" {
			t.Errorf("%+v", m)
		}
	}
}

// Whether there is a referrers API is asked once for a host.
func TestReferrersApiIsAskedForOnce(t *testing.T) {
	r := registrytest.New(t)
	d := r.PushImage(t, r.Ref("app:1"), simple)
	r.TakeLog()
	for range 3 {
		r.Client.Referrers(ctx, r.Ref("app").WithDigest(d.Digest), "x")
	}
	n := 0
	for _, l := range r.TakeLog() {
		if strings.Contains(l, "/referrers/") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestConcurrentAttach(t *testing.T) {
	r := registrytest.New(t)
	other, err := registry.OpenEmbedded(r.Embedded.Dir()) // as another process does
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	clients := []*registry.Client{r.Client, registry.New(registry.Options{Embedded: other, Credential: nobody})}
	subject := r.PushImage(t, r.Inside("app:1"), simple)
	at := r.Inside("app").WithDigest(subject.Digest)
	const n = 24
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			blobs := []registry.Blob{{MediaType: "x/y", Data: fmt.Append(nil, i)}}
			if _, err := clients[i%2].Attach(ctx, at, subject, "test/a", blobs, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := r.Client.Referrers(ctx, at, "test/a"); len(list) != n || err != nil {
		t.Errorf("%d of %d attached, %v", len(list), n, err)
	}

	// Over the network within one client.
	at.Host = r.Host
	for i := range n {
		wg.Go(func() {
			if _, err := r.Client.Attach(ctx, at, subject, "test/b", nil, map[string]string{"i": fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := r.Client.Referrers(ctx, at, "test/b"); len(list) != n || err != nil {
		t.Errorf("%d of %d attached, %v", len(list), n, err)
	}
}

// An entry that another writer overwrites is put again.
func TestOverwrittenEntryIsPutAgain(t *testing.T) {
	var overwrite func()
	r := registrytest.With(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			next.ServeHTTP(w, req)
			if req.Method == "PUT" && strings.Contains(req.URL.Path, "/manifests/sha256-") && overwrite != nil {
				f := overwrite
				overwrite = nil
				f()
			}
		})
	}})
	subject := r.PushImage(t, r.Ref("app:1"), simple)
	at := r.Ref("app").WithDigest(subject.Digest)
	empty, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
	overwrite = func() {
		tag := r.Inside("app:" + strings.Replace(subject.Digest.String(), ":", "-", 1))
		if _, err := r.Client.PutManifest(ctx, tag, ocispec.MediaTypeImageIndex, empty); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Client.Attach(ctx, at, subject, "test/a", nil, nil); err != nil {
		t.Fatal(err)
	}
	if list, err := r.Client.Referrers(ctx, at, ""); len(list) != 1 || err != nil {
		t.Errorf("%d attached, %v", len(list), err)
	}
}

// An attachment that was deleted does not keep others from being attached.
func TestAttachAfterDelete(t *testing.T) {
	r := registrytest.New(t)
	subject := r.PushImage(t, r.Ref("app:1"), simple)
	at := r.Ref("app").WithDigest(subject.Digest)
	first, err := r.Client.Attach(ctx, at, subject, "test/a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Client.Delete(ctx, at.WithDigest(first.Digest)); err != nil {
		t.Fatal(err)
	}
	second, err := r.Client.Attach(ctx, at, subject, "test/b", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := r.Client.Referrers(ctx, at, "")
	if len(list) != 1 || err != nil || list[0].Digest != second.Digest {
		t.Errorf("%v, %v", list, err)
	}
}

// referrersAPI gives a registry what distribution does not have, two entries a
// page and without the filter.
func referrersAPI(next http.Handler) http.Handler {
	var mu sync.Mutex
	var list []ocispec.Descriptor
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case strings.Contains(r.URL.Path, "/referrers/"):
			from := 0
			fmt.Sscan(r.URL.Query().Get("from"), &from)
			page := list[from:min(from+2, len(list))]
			if from+2 < len(list) {
				w.Header().Set("Link", fmt.Sprintf(`<%s?from=%d>; rel="next"`, r.URL.Path, from+2))
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			json.NewEncoder(w).Encode(ocispec.Index{Manifests: page})
			return
		case r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/sha256-"):
			w.WriteHeader(500) // must not be used here
			return
		case r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/sha256:"):
			d := digest.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
			list = append(list, ocispec.Descriptor{Digest: d, ArtifactType: fmt.Sprintf("test/%d", len(list)%2)})
			w.Header().Set("OCI-Subject", "yes")
		}
		next.ServeHTTP(w, r)
	})
}

func TestReferrersAPI(t *testing.T) {
	r := registrytest.With(t, registrytest.Options{Wrap: referrersAPI})
	subject := r.PushImage(t, r.Ref("app:1"), simple)
	at := r.Ref("app").WithDigest(subject.Digest)
	for i := range 5 {
		if _, err := r.Client.Attach(ctx, at, subject, "test", nil, map[string]string{"i": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for artifactType, want := range map[string]int{"": 5, "test/0": 3, "test/1": 2, "test/2": 0} {
		if list, err := r.Client.Referrers(ctx, at, artifactType); len(list) != want || err != nil {
			t.Errorf("%q: %d, %v", artifactType, len(list), err)
		}
	}
}

func TestCopyImage(t *testing.T) {
	a, b := registrytest.New(t), registrytest.New(t)
	one := a.PushImage(t, a.Ref("app:one"), registrytest.Image{Platform: "linux/amd64", Layers: []map[string]string{{"f": "1"}, {"common": "c"}}})
	two := a.PushImage(t, a.Ref("app:two"), registrytest.Image{Platform: "linux/arm64", Layers: []map[string]string{{"f": "2"}, {"common": "c"}}})
	index, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two}})
	d, err := a.Client.PutManifest(ctx, a.Ref("app:1"), ocispec.MediaTypeImageIndex, index)
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Client.CopyImage(ctx, a.Ref("app:1"), b.Ref("copy/app:2"))
	if err != nil || got.Digest != d.Digest {
		t.Fatal(got, err)
	}
	for platform, want := range map[string]digest.Digest{"linux/amd64": one.Digest, "linux/arm64": two.Digest} {
		m, _, err := b.Client.Platform(ctx, b.Ref("copy/app:2"), platform)
		if m.Digest != want || err != nil {
			t.Errorf("%s: %v, %v", platform, m.Digest, err)
		}
	}
	if _, _, err := b.Client.Platform(ctx, b.Ref("copy/app:2"), "linux/386"); err == nil || !strings.Contains(err.Error(), "there is no image for linux/386") {
		t.Error(err)
	}
	b.TakeLog()
	if _, err := b.Client.CopyImage(ctx, b.Ref("copy/app:2"), b.Ref("moved:3")); err != nil {
		t.Fatal(err)
	}
	for _, l := range b.TakeLog() {
		if strings.HasPrefix(l, "GET") && strings.Contains(l, "/blobs/") || strings.HasPrefix(l, "PATCH") {
			t.Errorf("a blob was moved within one registry: %s", l)
		}
	}
}

func TestTagsAreListedInPages(t *testing.T) {
	r := registrytest.With(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, "/tags/list") {
				q := req.URL.Query()
				q.Set("n", "2") // a registry that gives little at once
				req.URL.RawQuery = q.Encode()
			}
			next.ServeHTTP(w, req)
		})
	}})
	var want []string
	for _, tag := range []string{"a", "b", "c", "d", "e"} {
		r.PushImage(t, r.Ref("app:"+tag), simple)
		want = append(want, tag)
	}
	got, err := r.Client.Tags(ctx, r.Ref("app"))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := r.Client.Tags(ctx, r.Ref("nothing")); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	infos, err := r.Embedded.Tags("app")
	if len(infos) != 5 || err != nil {
		t.Error(infos, err)
	}
}

func TestMirror(t *testing.T) {
	up := registrytest.New(t) // upstream
	upstream := up.PushImage(t, up.Ref("lib/debian:1"), registrytest.Image{Layers: []map[string]string{{"f": "upstream"}}})
	local := registrytest.New(t)
	c := local.NewClient(registry.Options{MirrorReads: true})
	ref := up.Ref("lib/debian:1")

	a := c.Lookup(ctx, ref)
	if a.Desc.Digest != upstream.Digest || a.Source != ref || a.Err != nil {
		t.Errorf("not mirrored: %+v", a)
	}
	local.PushImage(t, ref.Local(), registrytest.Image{Layers: []map[string]string{{"f": "built here"}}})
	if a = c.Lookup(ctx, ref); a.Desc.Digest != upstream.Digest {
		t.Errorf("what was built here is taken for the registry's: %+v", a)
	}
	made, err := local.Embedded.ImportRootfs(ctx, ref, "linux/amd64", bytes.NewReader(rootfs(t, "amd64")), registry.ImportConfig{})
	if err != nil {
		t.Fatal(err)
	}
	mirrored := made.Index
	up.TakeLog()
	a = c.Lookup(ctx, ref)
	if a.Desc.Digest != mirrored.Digest || a.Source != ref.Mirror() || a.Err != nil {
		t.Errorf("mirrored: %+v", a)
	}
	if d, err := c.Resolve(ctx, ref); d.Digest != mirrored.Digest || err != nil {
		t.Error(d, err)
	}
	_, body, err := c.Platform(ctx, ref, "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	json.Unmarshal(body, &m)
	if _, err := c.ReadBlob(ctx, ref, m.Layers[0]); err != nil {
		t.Error(err)
	}
	if log := up.TakeLog(); len(log) > 0 {
		t.Errorf("upstream was asked: %v", log)
	}
	if d, err := c.Direct().Resolve(ctx, ref); d.Digest != upstream.Digest || err != nil {
		t.Errorf("directly: %v, %v", d, err)
	}
	if a := c.Probe(ctx, []registry.Ref{ref})[0]; a.Desc.Digest != upstream.Digest {
		t.Errorf("a probe was answered by the mirror: %+v", a)
	}

	offline := local.NewClient(registry.Options{MirrorReads: true, Offline: true})
	if _, _, err := offline.Manifest(ctx, ref); err != nil {
		t.Errorf("offline, mirrored: %v", err)
	}
	_, _, err = offline.Manifest(ctx, up.Ref("lib/debian:2"))
	if !errors.Is(err, registry.ErrOffline) || errors.Is(err, registry.ErrNotFound) {
		t.Errorf("offline, not mirrored: %v", err)
	}

	// A mirror that is broken is not passed over.
	link := filepath.Join(local.Embedded.Dir(), "docker/registry/v2/repositories", ref.Mirror().Repo, "_manifests/tags/1/current/link")
	os.Remove(link)
	os.Mkdir(link, 0o755)
	_, _, err = c.Manifest(ctx, ref)
	var e *registry.Error
	if !errors.As(err, &e) || e.Host != registry.EmbeddedHost || e.Kind != registry.Unavailable {
		t.Errorf("a broken mirror: %v", err)
	}
}
