package strata

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
	"github.com/strata-build/strata/internal/spec"
)

// spans notes when each request to a registry came and went.
type spans struct {
	mu  sync.Mutex
	all []span
	// pause is how long each request is held, so that requests made at once are
	// seen to overlap.
	pause time.Duration
}

type span struct {
	what       string
	begun, end time.Time
	bytes      int
}

func (s *spans) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		c := &countingWriter{ResponseWriter: w}
		next.ServeHTTP(c, r)
		time.Sleep(s.pause)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, span{r.Method + " " + r.URL.Path, begun, time.Now(), c.n})
	})
}

type countingWriter struct {
	http.ResponseWriter
	n int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.ResponseWriter.Write(p)
}

func (s *spans) take() []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

// rounds counts the requests of the longest chain in which each began after the
// one before had ended: the round trips that wait for each other.
func rounds(all []span) int {
	slices.SortFunc(all, func(a, b span) int { return a.end.Compare(b.end) })
	n := 0
	var last time.Time
	for _, s := range all {
		if s.begun.After(last) {
			n, last = n+1, s.end
		}
	}
	return n
}

// workshop is a project in a folder and a registry that holds its parent.
type workshop struct {
	dir    string
	reg    *registrytest.Registry
	spans  *spans
	parent digest.Digest
	layer  digest.Digest
}

const parentSize = 4 << 20

func newWorkshop(t *testing.T, dockerfile string) *workshop {
	t.Helper()
	w := &workshop{dir: t.TempDir(), spans: &spans{}}
	w.reg = registrytest.With(t, registrytest.Options{Wrap: w.spans.wrap})
	noise := make([]byte, parentSize)
	rand.Read(noise)
	d := w.reg.PushImage(t, w.reg.Ref("parent:1"), registrytest.Image{Layers: []map[string]string{{
		"etc/": "", "etc/passwd": "root:x:0:0::/root:/bin/sh\nragex:x:1000:1000::/:/bin/sh\n",
		"etc/group": "ragex:x:1000:\n", "usr/": "", "usr/lib/": "", "usr/lib/noise": string(noise),
	}}})
	w.parent = d.Digest
	_, body, err := w.reg.Client.Manifest(t.Context(), w.reg.Ref("parent:1"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := readPicture(w.reg.Ref("parent:1"), d, body)
	if err != nil {
		t.Fatal(err)
	}
	w.layer = img.manifest.Layers[0].Digest
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	w.write(t, "Dockerfile", strings.ReplaceAll(dockerfile, "PARENT", w.reg.Host+"/parent:1"))
	w.write(t, "src/main.py", "print(1)\n")
	w.write(t, "src/lib.py", "x = 1\n")
	return w
}

func (w *workshop) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// errNoEngine is what these tests have for an engine.
var errNoEngine = errors.New("the test has no engine")

// config is that of a machine that holds nothing.
func (w *workshop) config(t *testing.T) Config {
	t.Helper()
	p, err := spec.Load(w.dir, "", spec.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Project: p, Client: w.reg.NewClient(registry.Options{}), Platform: "linux/amd64",
		Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Cache: t.TempDir(), Push: true, Ahead: true,
		Version: Version{Name: "1.0", Revision: strings.Repeat("1", 40), Time: time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)},
		Record:  func(Result) (string, []byte, error) { return "20261122T120000.000Z-00000000", []byte("{}"), nil },
		Engine:  func(context.Context) (build.Engine, error) { return nil, errNoEngine },
	}
}

func (w *workshop) build(t *testing.T) (*Pass, Result, []span) {
	t.Helper()
	w.spans.take()
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p, res, w.spans.take()
}

const ordinary = "FROM PARENT\nWORKDIR /app\nCOPY --chown=ragex:ragex src/ src/\nUSER ragex\nCMD [\"python3\", \"src/main.py\"]\n"

// A change of code on a machine that holds nothing moves the changed files and
// what describes the image, however large the parent is.
func TestAppendReadsNoParentBlob(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.build(t) // lists the files of the parent, once for all machines
	w.write(t, "src/main.py", "print(2)\n")
	p, res, log := w.build(t)
	if got := p.Plan.Steps[0]; got.Action != plan.Append || got.Reasons[0] != "src/main.py changed" {
		t.Errorf("the plan was to %s because %q", got.Action, got.Reasons)
	}
	if res.Units[0].NewBlobs != 1 || res.Units[0].Pushed > 1000 {
		t.Errorf("%d new blobs with %d bytes were sent", res.Units[0].NewBlobs, res.Units[0].Pushed)
	}
	read := 0
	for _, s := range log {
		read += s.bytes
		if strings.Contains(s.what, w.layer.String()) && strings.HasPrefix(s.what, "GET") {
			t.Errorf("a blob of the parent was read: %s", s.what)
		}
	}
	if read > 20_000 {
		t.Errorf("%d bytes were pulled", read)
	}
}

func TestNothingChangedSendsNothing(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.build(t)
	p, res, log := w.build(t)
	if p.Plan.Work() != 0 || res.Units[0].Action != plan.Reuse {
		t.Errorf("the plan has %d steps of work", p.Plan.Work())
	}
	for _, s := range log {
		if !strings.HasPrefix(s.what, "GET") || strings.Contains(s.what, "/blobs/") && s.bytes > 2000 {
			t.Errorf("with nothing changed: %s (%d bytes)", s.what, s.bytes)
		}
	}
}

// A code-only publish waits for at most eight answers in turn, so that it takes
// under a second with a registry 100 ms away; on a parent that was appended
// itself, too.
func TestAppendRoundTrips(t *testing.T) {
	for name, prepare := range map[string]func(*workshop){
		"on an external image": func(*workshop) {},
		"on an appended parent": func(w *workshop) {
			w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  base: {dockerfile: Dockerfile.base}\n  app: {dockerfile: Dockerfile, parent: base}\n")
			w.write(t, "Dockerfile.base", "FROM "+w.reg.Host+"/parent:1\nCOPY src/lib.py /lib.py\n")
			w.write(t, "Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nWORKDIR /app\nCOPY --chown=ragex:ragex src/main.py src/\nUSER ragex\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t, ordinary)
			prepare(w)
			w.build(t)
			w.write(t, "src/main.py", "print(3)\n")
			w.spans.pause = 50 * time.Millisecond
			_, _, log := w.build(t)
			if n := rounds(log); n > 8 {
				for _, s := range log {
					t.Logf("%8.0f ms  %s", float64(s.begun.Sub(log[0].begun).Milliseconds()), s.what)
				}
				t.Errorf("%d round trips wait for each other, 8 are allowed", n)
			}
		})
	}
}

func TestMetadataMovesNoBlob(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.build(t)
	w.write(t, "Dockerfile", strings.ReplaceAll(strings.ReplaceAll(ordinary, "PARENT", w.reg.Host+"/parent:1"), "WORKDIR /app", "WORKDIR /app\nLABEL a=b"))
	_, res, _ := w.build(t)
	made := res.Units[0]
	if made.Action != plan.Append || made.NewBlobs != 0 || made.Pushed != 0 {
		t.Errorf("a label made the unit %s, and sent %d blobs", made.Action, made.NewBlobs)
	}
	a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("app:latest"))
	img, err := parsePicture(a)
	if err != nil {
		t.Fatal(err)
	}
	if len(img.manifest.Layers) != 2 {
		t.Errorf("the image has %d layers, want the parent's and one", len(img.manifest.Layers))
	}
}

// An inventory that is missing, broken, or another image's is found out, and
// the parent's files are listed again.
func TestFaultyInventoryIsFoundOut(t *testing.T) {
	w := newWorkshop(t, ordinary)
	_, first, _ := w.build(t)
	kept := w.reg.Ref("app:" + inventoryTag(w.parent))
	faults := map[string]func(t *testing.T){
		"missing": func(t *testing.T) {
			if err := w.reg.Client.Delete(t.Context(), kept); err != nil {
				t.Fatal(err)
			}
		},
		"no inventory": func(t *testing.T) {
			d := w.reg.PushImage(t, w.reg.Ref("app:other"), registrytest.Image{Layers: []map[string]string{{"x": "y"}, {"z": "z"}}})
			_, body, err := w.reg.Client.Manifest(t.Context(), w.reg.Ref("app:other"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.reg.Client.PutManifest(t.Context(), kept, d.MediaType, body); err != nil {
				t.Fatal(err)
			}
		},
		"another image's": func(t *testing.T) {
			other := newWorkshop(t, ordinary)
			other.build(t)
			a := other.reg.Client.Lookup(t.Context(), other.reg.Ref("app:"+inventoryTag(other.parent)))
			img, err := parsePicture(a)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range append(slices.Clone(img.manifest.Layers), img.manifest.Config) {
				data, err := other.reg.Client.ReadBlob(t.Context(), other.reg.Ref("app"), l)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.reg.Client.PushBytes(t.Context(), w.reg.Ref("app"), l.MediaType, data); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.reg.Client.PutManifest(t.Context(), kept, a.Desc.MediaType, a.Body); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, break_ := range faults {
		t.Run(name, func(t *testing.T) {
			break_(t)
			if err := w.reg.Client.Delete(t.Context(), w.reg.Ref("app:"+keyTag(t, w))); err != nil {
				t.Fatal(err)
			}
			_, res, _ := w.build(t)
			if res.Units[0].Ref != first.Units[0].Ref {
				t.Errorf("the image is %s, before it was %s", res.Units[0].Ref, first.Units[0].Ref)
			}
		})
	}
}

// keyTag is the tag of the only unit's key.
func keyTag(t *testing.T, w *workshop) string {
	t.Helper()
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	return p.Keys[p.Units[0].ID].Unit.ID().Tag()
}

// Two machines make the same image of the same files, whatever the times of the
// files and the machine's own.
func TestAppendIsReproducible(t *testing.T) {
	a, b := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n"), newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	old := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(b.dir, "src/main.py"), old, old); err != nil {
		t.Fatal(err)
	}
	_, first, _ := a.build(t)
	_, second, _ := b.build(t)
	if first.Units[0].Ref.Digest != second.Units[0].Ref.Digest {
		t.Errorf("%s and %s", first.Units[0].Ref.Digest, second.Units[0].Ref.Digest)
	}
}

// What needs an engine fails where there is none, and no tag moves.
func TestNoTagMovesWhenAUnitFails(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nRUN true\n")
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Execute(t.Context())
	var failed *UnitsError
	if !errors.As(err, &failed) || !errors.Is(err, errNoEngine) {
		t.Fatalf("the run ended with %v", err)
	}
	if len(res.Tags) != 0 {
		t.Errorf("tags were moved: %v", res.Tags)
	}
	if a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("app:latest")); a.State != registry.Miss {
		t.Errorf("the tag latest is a %s", a.State)
	}
}

// To build a base again is to build again what stands on it: its key stays, and
// would find the image on the old base.
func TestRebuildReachesWhatStandsOnIt(t *testing.T) {
	w := newRefreshed(t, "")
	w.pretend(t, sunday, baseID, mlID)
	c := w.config(t)
	c.Now, c.Rebuild, c.Units = sunday, true, []string{"base"}
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got := actions(p); got != "base build, ml build, app build" {
		t.Errorf("the plan is %s", got)
	}
	if s, _ := p.Plan.Step(mlID); s.Reasons[0] != "parent "+baseID+" is built again" {
		t.Errorf("ml is built because %q", s.Reasons)
	}
	if base, ml := p.Graph.Unit(baseID), p.Graph.Unit(mlID); !p.forced(base) || p.forced(ml) || !p.rebuild(ml) {
		t.Error("only the base was asked for")
	}
}

// Variants that share a Dockerfile are one image. It is made once, under one
// name, and nothing moves when it is found again.
func TestTwinsAreOneImage(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nvariants: {cpu: {}, cuda: {}}\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	_, first, _ := w.build(t)
	if a, b := first.Units[0], first.Units[1]; a.Ref != b.Ref || a.NewBlobs+b.NewBlobs != 1 {
		t.Errorf("%s %s (%d new blobs), %s %s (%d)", a.Unit, a.Ref, a.NewBlobs, b.Unit, b.Ref, b.NewBlobs)
	}
	_, second, _ := w.build(t)
	for _, m := range second.Tags {
		if m.Previous != m.Ref.Digest.String() {
			t.Errorf("with nothing changed %s moved from %s to %s", m.Ref.Tag, m.Previous, m.Ref.Digest)
		}
	}
	a := w.reg.Client.Lookup(t.Context(), first.Units[1].Ref)
	img, err := parsePicture(a)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.manifest.Annotations[annotationUnit]; got != "app/cpu/linux/amd64" {
		t.Errorf("the image is called %s", got)
	}
}

// Of two runs that append the same at the same time the first one's image
// counts.
func TestAnAppendTakesWhatAnotherRunHasPublished(t *testing.T) {
	w := newWorkshop(t, ordinary)
	c := w.config(t)
	c.Version.Revision = strings.Repeat("2", 40)
	late, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := w.build(t)
	res, err := late.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Units[0].Ref != first.Units[0].Ref || res.Units[0].Action != plan.Reuse {
		t.Errorf("%s %s, after %s", res.Units[0].Action, res.Units[0].Ref, first.Units[0].Ref)
	}
}

// What was made from files that no commit has does not claim to be a commit's.
func TestADirtyTreeIsNoCommit(t *testing.T) {
	w := newWorkshop(t, ordinary)
	res := w.publishes(t, 1, func(c *Config) { c.Version.Dirty = true })
	img, err := parsePicture(w.reg.Client.Lookup(t.Context(), res.Units[0].Ref))
	if err != nil {
		t.Fatal(err)
	}
	if got := img.manifest.Annotations["org.opencontainers.image.revision"]; got != strings.Repeat("1", 40)+"-dirty" {
		t.Errorf("the revision is %s", got)
	}
}
