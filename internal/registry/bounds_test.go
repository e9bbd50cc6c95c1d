package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
)

// liar is a registry that holds whatever it is given, whether it makes sense or
// not.
type liar struct {
	manifests map[string]ocispec.Descriptor // tag or digest
	bodies    map[digest.Digest][]byte
	asked     int
	list      http.HandlerFunc // of tags and referrers
}

func newLiar(t *testing.T) (*liar, *registry.Client, func(string) registry.Ref) {
	l := &liar{manifests: map[string]ocispec.Descriptor{}, bodies: map[digest.Digest][]byte{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.asked++
		_, name, ok := strings.Cut(r.URL.Path, "/manifests/")
		if !ok {
			l.list(w, r)
			return
		}
		d, ok := l.manifests[name]
		if !ok {
			w.WriteHeader(404)
			return
		}
		w.Header().Set("Content-Type", d.MediaType)
		w.Write(l.bodies[d.Digest])
	}))
	t.Cleanup(s.Close)
	c := registry.New(registry.Options{Credential: nobody, RetryWait: time.Millisecond})
	return l, c, func(name string) registry.Ref {
		ref, err := registry.ParseRef(strings.TrimPrefix(s.URL, "http://") + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
}

func (l *liar) put(t *testing.T, tag, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	l.bodies[d.Digest] = body
	l.manifests[d.Digest.String()] = d
	if tag != "" {
		l.manifests[tag] = d
	}
	return d
}

func (l *liar) image(t *testing.T, tag string, change func(*ocispec.Manifest)) ocispec.Descriptor {
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("{}"), Size: 2},
		Layers:    []ocispec.Descriptor{layerOf("one")},
	}
	m.SchemaVersion = 2
	if change != nil {
		change(&m)
	}
	return l.put(t, tag, m.MediaType, m)
}

func layerOf(s string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(s), Size: int64(len(s))}
}

func (l *liar) index(t *testing.T, tag string, children ...ocispec.Descriptor) ocispec.Descriptor {
	i := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children}
	i.SchemaVersion = 2
	return l.put(t, tag, i.MediaType, i)
}

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

func TestManifestsThatAskForTooMuch(t *testing.T) {
	l, c, ref := newLiar(t)
	layers := func(n int) func(*ocispec.Manifest) {
		return func(m *ocispec.Manifest) {
			m.Layers = nil
			for i := range n {
				m.Layers = append(m.Layers, layerOf(fmt.Sprintf("layer %d", i)))
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*ocispec.Manifest)
		want   string
	}{
		"1000 layers":        {layers(1000), ""},
		"1001 layers":        {layers(1001), "the image has 1001 layers, more than 1000"},
		"a large config":     {func(m *ocispec.Manifest) { m.Config.Size = 9 << 20 }, "the image's config has 9437184 bytes"},
		"a negative config":  {func(m *ocispec.Manifest) { m.Config.Size = -1 }, "negative size"},
		"an endless layer":   {func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }, "layer 1 of the image has a size of 0 bytes"},
		"a negative layer":   {func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }, "layer 1 of the image has a size of -1 bytes"},
		"an empty layer":     {func(m *ocispec.Manifest) { m.Layers[0] = layerOf("") }, ""},
		"a large annotation": {func(m *ocispec.Manifest) { m.Annotations = map[string]string{"a": strings.Repeat("a", 4<<20)} }, "larger than 4194304 bytes"},
		"an artifact of many": {func(m *ocispec.Manifest) {
			layers(1001)(m)
			m.Config.MediaType = "application/vnd.example.config"
		}, ""},
	} {
		l.image(t, "1", tc.change)
		err := c.Lookup(ctx, ref("app:1")).Err
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	child := l.image(t, "", nil)
	child.Platform = amd64
	children := make([]ocispec.Descriptor, 1001)
	for i := range children {
		children[i] = child
	}
	l.index(t, "many", children...)
	if err := c.Lookup(ctx, ref("app:many")).Err; err == nil || !strings.Contains(err.Error(), "the index has 1001 images") {
		t.Error(err)
	}
}

func TestNestedIndexes(t *testing.T) {
	l, c, ref := newLiar(t)
	image := l.image(t, "", nil)
	child := image
	child.Platform = amd64
	d := l.index(t, "depth1", child)
	for depth := 2; depth <= 6; depth++ {
		d = l.index(t, fmt.Sprintf("depth%d", depth), d)
	}
	for depth := 1; depth <= 6; depth++ {
		l.asked = 0
		got, _, err := c.Platform(ctx, ref(fmt.Sprintf("app:depth%d", depth)), "linux/amd64")
		_, none, _ := c.Platform(ctx, ref(fmt.Sprintf("app:depth%d", depth)), "linux/arm64")
		switch {
		case none != nil:
			t.Errorf("depth %d: there is an image for arm64", depth)
		case depth <= 4 && (err != nil || got.Digest != image.Digest):
			t.Errorf("depth %d: %v %v", depth, got.Digest, err)
		case depth > 4 && (err == nil || !strings.Contains(err.Error(), "nested more than 4 deep")):
			t.Errorf("depth %d: %v", depth, err)
		case l.asked > 12:
			t.Errorf("depth %d: %d requests", depth, l.asked)
		}
	}
	// Many ways to the same place are gone once.
	wide := l.index(t, "")
	for level := range 3 {
		var twins []ocispec.Descriptor
		for i := range 20 {
			twin := wide
			twin.Annotations = map[string]string{"n": fmt.Sprint(level, i)}
			twins = append(twins, twin)
		}
		wide = l.index(t, "wide", twins...)
	}
	l.asked = 0
	if _, _, err := c.Platform(ctx, ref("app:wide"), "linux/amd64"); err == nil || l.asked > 5 {
		t.Errorf("%d requests, %v", l.asked, err)
	}
	var many []ocispec.Descriptor
	for i := range 200 {
		other := l.index(t, "", ocispec.Descriptor{MediaType: "x/y", Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
		many = append(many, other)
	}
	l.index(t, "broad", many...)
	l.asked = 0
	if _, _, err := c.Platform(ctx, ref("app:broad"), "linux/amd64"); err == nil || l.asked > 70 {
		t.Errorf("%d requests, %v", l.asked, err)
	}
	for tag, want := range map[string]string{"depth6": "nested more than 4 deep", "broad": ""} {
		l.asked = 0
		_, err := c.CopyImage(ctx, ref("app:"+tag), ref("copy:"+tag))
		if err == nil || !strings.Contains(err.Error(), want) || l.asked > 250 {
			t.Errorf("copying %s: %d requests, %v", tag, l.asked, err)
		}
	}
}

// Lists that lead from page to page without end.
func TestEndlessLists(t *testing.T) {
	l, c, ref := newLiar(t)
	subject := ref("app").WithDigest(digest.FromString("x"))
	for name, link := range map[string]func(r *http.Request) string{
		"the same page": func(r *http.Request) string { return r.URL.RequestURI() },
		"always another": func(r *http.Request) string {
			return fmt.Sprintf("%s?last=%d", r.URL.Path, l.asked)
		},
	} {
		l.list = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+link(r)+`>; rel="next"`)
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprintf(w, `{"tags":["a","b"],"manifests":[{"digest":%q}]}`, digest.FromString("y"))
		}
		l.asked = 0
		if _, err := c.Tags(ctx, ref("app")); err == nil || !strings.Contains(err.Error(), "the list has no end") || l.asked > 5 {
			t.Errorf("%s: %d requests, %v", name, l.asked, err)
		}
		l.asked = 0
		if _, err := c.Referrers(ctx, subject, ""); err == nil || !strings.Contains(err.Error(), "the list has no end") || l.asked > 5 {
			t.Errorf("%s: %d requests, %v", name, l.asked, err)
		}
	}
	n := 0
	l.list = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, n))
		var tags []string
		for range 100_000 {
			n++
			tags = append(tags, fmt.Sprint("tag-", n))
		}
		json.NewEncoder(w).Encode(map[string]any{"tags": tags})
	}
	l.asked = 0
	if _, err := c.Tags(ctx, ref("app")); err == nil || !strings.Contains(err.Error(), "more than 1000000 entries") || l.asked > 12 {
		t.Errorf("%d requests, %v", l.asked, err)
	}
	// A last page that is empty is usual.
	l.list = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", fmt.Sprintf(`<%s?last=b>; rel="next"`, r.URL.Path))
			fmt.Fprint(w, `{"tags":["a","b"]}`)
			return
		}
		fmt.Fprint(w, `{"tags":null}`)
	}
	if tags, err := c.Tags(ctx, ref("app")); err != nil || len(tags) != 2 {
		t.Error(tags, err)
	}
}

// What an answer's head says is not believed, and not kept without a bound.
func TestLyingHeads(t *testing.T) {
	l, c, ref := newLiar(t)
	l.image(t, "1", nil)
	l.list = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }
	bomb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "size") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
			w.Header().Set("Content-Length", "9000000000000000000")
			return
		}
		for i := range 3000 {
			w.Header().Set(fmt.Sprintf("X-Bomb-%d", i), strings.Repeat("a", 1000))
		}
	}))
	defer bomb.Close()
	at, err := registry.ParseRef(strings.TrimPrefix(bomb.URL, "http://") + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Lookup(ctx, at).Err; err == nil {
		t.Error("3 MB of headers were taken")
	}
	if _, err := c.Resolve(ctx, at.WithTag("size")); err == nil {
		t.Error("a manifest of 9 exabytes was taken")
	}
	if _, err := c.Resolve(ctx, ref("app:1")); err != nil {
		t.Error(err)
	}
}
