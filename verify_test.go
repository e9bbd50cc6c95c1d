package strata

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// content is the file in which the registry of a workshop keeps something.
func (w *workshop) content(d digest.Digest) string {
	return filepath.Join(w.reg.Embedded.Dir(), "docker", "registry", "v2", "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data")
}

// made gives the image of a unit as the last run left it.
func (w *workshop) made(t *testing.T, res Result, unit string) *picture {
	t.Helper()
	i := slices.IndexFunc(res.Units, func(m Made) bool { return m.Unit == unit })
	img, err := loadPicture(t.Context(), w.reg.Client, res.Units[i].Ref)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// mustBeWhole reads every blob of an image.
func (w *workshop) mustBeWhole(t *testing.T, img *picture) {
	t.Helper()
	for _, d := range img.blobs() {
		if _, err := w.reg.Client.ReadBlob(t.Context(), img.ref, d); err != nil {
			t.Error(err)
		}
	}
}

// steps gives "unit: action" of a result.
func steps(res Result) string {
	var out []string
	for _, m := range res.Units {
		name, _, _ := strings.Cut(m.Unit, "/")
		out = append(out, name+" "+string(m.Action))
	}
	return strings.Join(out, ", ")
}

// Whatever is wrong with the image that a unit stands on, it is found before
// anything stands on it, said, and put right in the same run.
func TestABrokenParentIsMadeAgain(t *testing.T) {
	remove := func(t *testing.T, file string) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, w *workshop, base, ml *picture)
		want   string
		reason string // of ml
	}{
		{"whole", func(*testing.T, *workshop, *picture, *picture) {}, "base reuse, ml reuse, app append", "nothing changed"},
		{"a layer is gone", func(t *testing.T, w *workshop, _, ml *picture) {
			remove(t, w.content(ml.manifest.Layers[2].Digest))
		}, "base reuse, ml append, app append", "its image in the registry is broken: its layer "},
		{"the config is gone", func(t *testing.T, w *workshop, _, ml *picture) {
			remove(t, w.content(ml.manifest.Config.Digest))
		}, "base reuse, ml append, app append", "its image in the registry is broken: its config "},
		{"a layer is short", func(t *testing.T, w *workshop, _, ml *picture) {
			if err := os.Truncate(w.content(ml.manifest.Layers[2].Digest), 10); err != nil {
				t.Fatal(err)
			}
		}, "base reuse, ml append, app append", "has another size"},
		{"a byte of the manifest is another", func(t *testing.T, w *workshop, _, ml *picture) {
			body, err := os.ReadFile(w.content(ml.desc.Digest))
			if err != nil {
				t.Fatal(err)
			}
			flipped := strings.Replace(string(body), `"size":`, `"sizf":`, 1)
			if err := os.WriteFile(w.content(ml.desc.Digest), []byte(flipped), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "base reuse, ml append, app append", "its image in the registry is broken: its manifest: the registry claims sha256:"},
		{"the manifest is gone", func(t *testing.T, w *workshop, _, ml *picture) {
			if err := w.reg.Client.Delete(t.Context(), ml.ref.WithDigest(ml.desc.Digest)); err != nil {
				t.Fatal(err)
			}
		}, "base reuse, ml append, app append", "never built"},
		{"so is the parent's parent", func(t *testing.T, w *workshop, base, _ *picture) {
			remove(t, w.content(base.manifest.Layers[1].Digest))
		}, "base append, ml append, app append", "its image in the registry is broken: its layer "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := chain(t)
			_, res, _ := w.build(t)
			tt.damage(t, w, w.made(t, res, "base/linux/amd64"), w.made(t, res, "ml/linux/amd64"))
			w.write(t, "app.txt", "after\n")
			p, res, _ := w.build(t)
			if diff := cmp.Diff(tt.want, steps(res)); diff != "" {
				t.Error(diff)
			}
			if s, _ := p.Plan.Step("ml/linux/amd64"); !strings.Contains(strings.Join(s.Reasons, "; "), tt.reason) {
				t.Errorf("ml: %q", s.Reasons)
			}
			w.mustBeWhole(t, w.made(t, res, app))
			p, _, _ = w.build(t)
			if p.Plan.Work() != 0 {
				t.Errorf("once more there is something to do: %+v", p.Plan.Steps)
			}
		})
	}
}

// An image that nothing new stands on is not looked through, which would cost a
// request a layer when nothing changed, unless the user asks for it.
func TestVerifyLooksThroughHits(t *testing.T) {
	w := chain(t)
	_, res, _ := w.build(t)
	img := w.made(t, res, app)
	top := img.manifest.Layers[3].Digest
	if err := os.Remove(w.content(top)); err != nil {
		t.Fatal(err)
	}
	p, _, log := w.build(t)
	if p.Plan.Work() != 0 {
		t.Errorf("there is something to do: %+v", p.Plan.Steps)
	}
	for _, s := range log {
		if strings.Contains(s.what, "/blobs/") && strings.HasPrefix(s.what, "HEAD") {
			t.Errorf("nothing changed, but %s", s.what)
		}
	}
	c := w.config(t)
	c.Verify = true
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if res, err = p.Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := steps(res); got != "base reuse, ml reuse, app append" {
		t.Error(got)
	}
	w.mustBeWhole(t, w.made(t, res, app))
}

// A tail that is known from the newest image is taken over by reference only
// when it is still there.
func TestAKnownTailThatIsGone(t *testing.T) {
	w := chain(t)
	_, res, _ := w.build(t)
	img := w.made(t, res, app)
	if err := os.Remove(w.content(img.manifest.Layers[3].Digest)); err != nil {
		t.Fatal(err)
	}
	w.write(t, "app.Dockerfile", "FROM ml\nCOPY app.txt /\nCMD [\"x\"]\n")
	_, res, _ = w.build(t)
	w.mustBeWhole(t, w.made(t, res, app))
	if m := res.Units[2]; m.NewBlobs != 1 {
		t.Errorf("%d blobs were sent", m.NewBlobs)
	}
}

// A trunk of which a layer is gone is none.
func TestABrokenTrunkIsBuilt(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nRUN true\nCOPY src/ /src/\n")
	c := w.config(t)
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// What an engine would have built.
	k := p.Keys[app].Trunk.ID()
	trunk := imageOf(t, w.reg, "app:built", map[string]string{"ran": "1"})
	plant(t, w.reg, k.Tag(), trunk.body, map[string]string{annotationKey: string(k), annotationUnit: app})
	if p, err = Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if s := p.Plan.Steps[0]; s.Action != plan.Append {
		t.Fatalf("the plan is to %s: %q", s.Action, s.Reasons)
	}
	p.endAhead()
	if err := os.Remove(w.content(trunk.manifest.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	if p, err = Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	p.endAhead()
	if s := p.Plan.Steps[0]; s.Action != plan.Build || !strings.Contains(s.Reasons[0], "what it stands on in the registry is broken: its layer") {
		t.Errorf("the plan is to %s: %q", s.Action, s.Reasons)
	}
}

// refusing answers requests for blobs with a status.
type refusing struct {
	next   http.RoundTripper
	status int
}

func (f refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodHead || !strings.Contains(r.URL.Path, "/blobs/") {
		return f.next.RoundTrip(r)
	}
	return &http.Response{
		StatusCode: f.status, Header: http.Header{"Www-Authenticate": {`Basic realm="test"`}}, Body: io.NopCloser(strings.NewReader("")), Request: r,
	}, nil
}

// A parent that may not be read is no miss: the run ends with what helps.
func TestAParentThatMayNotBeRead(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		w := chain(t)
		w.build(t)
		w.write(t, "app.txt", "after\n")
		c := w.config(t)
		c.Client = w.reg.NewClient(registry.Options{Transport: refusing{http.DefaultTransport, status}})
		_, err := Prepare(t.Context(), c)
		if err == nil || !strings.Contains(diag.HintOf(err), "docker login") {
			t.Errorf("%d: %v (hint %q)", status, err, diag.HintOf(err))
		}
	}
}

// Looking through the parent takes no round trip of its own.
func TestVerifyRoundTrips(t *testing.T) {
	w := chain(t)
	w.build(t)
	w.write(t, "app.txt", "after\n")
	w.spans.pause = 50 * time.Millisecond
	_, _, log := w.build(t)
	heads := 0
	others := slices.DeleteFunc(slices.Clone(log), func(s span) bool {
		head := strings.HasPrefix(s.what, "HEAD") && strings.Contains(s.what, "/blobs/")
		if head {
			heads++
		}
		return head
	})
	if heads != 5 { // ml's config and three layers, and the tail of the last app
		t.Errorf("%d HEAD requests for blobs", heads)
	}
	if n, without := rounds(log), rounds(others); n > without {
		for _, s := range log {
			t.Logf("%8.0f ms  %s", float64(s.begun.Sub(log[0].begun).Milliseconds()), s.what)
		}
		t.Errorf("%d round trips wait for each other in place of %d", n, without)
	}
}
