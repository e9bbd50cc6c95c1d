package strata

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// pretend publishes the parent's manifest under the keys that the plan at a
// time asks for, as if an engine had built the units then.
func (w *workshop) pretend(t *testing.T, at time.Time, units ...string) {
	t.Helper()
	p := w.planAt(t, at, false)
	a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("parent:1"))
	img, err := parsePicture(a)
	if err != nil {
		t.Fatal(err)
	}
	ref := w.reg.Ref("app:x")
	for _, d := range append(img.manifest.Layers, img.manifest.Config) {
		if _, err := w.reg.Client.Mount(t.Context(), w.reg.Ref("parent"), ref, d); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range units {
		k := p.Keys[id].Unit.ID()
		plant(t, w.reg, k.Tag(), a.Body, map[string]string{annotationKey: string(k), annotationUnit: id})
	}
}

// plant puts a manifest with annotations under a tag of the project's image.
func plant(t *testing.T, reg *registrytest.Registry, tag string, body []byte, says map[string]string) digest.Digest {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	m.Annotations = says
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.Client.PutManifest(t.Context(), reg.Ref("app:"+tag), m.MediaType, body)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest
}

func (w *workshop) planAt(t *testing.T, at time.Time, refresh bool) *Pass {
	t.Helper()
	c := w.config(t)
	c.Now, c.Refresh = at, refresh
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func actions(p *Pass) string {
	var out []string
	for _, s := range p.Plan.Steps {
		out = append(out, s.Layer+" "+string(s.Action))
	}
	return strings.Join(out, ", ")
}

const refreshed = `image: HOST/app
platforms: [linux/amd64]
layers:
  base:
    dockerfile: base.Dockerfile
    refresh: {every: week, at: "Mon 06:00"}
    POLICY
  ml:
    parent: base
    dockerfile: ml.Dockerfile
    refresh: {every: 2d}
  app:
    parent: ml
    dockerfile: app.Dockerfile
`

func newRefreshed(t *testing.T, policy string) *workshop {
	w := newWorkshop(t, ordinary)
	w.write(t, "strata.yaml", strings.NewReplacer("HOST", w.reg.Host, "POLICY", policy).Replace(refreshed))
	w.write(t, "base.Dockerfile", "FROM "+w.reg.Host+"/parent:1\nRUN apt-get upgrade\n")
	w.write(t, "ml.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN pip install\n")
	w.write(t, "app.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src /src\n")
	return w
}

var (
	sunday = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	monday = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
)

const (
	baseID = "base/linux/amd64"
	mlID   = "ml/linux/amd64"
)

// When a slot turns, nobody waits: the last slot's images are taken until the
// scheduled build has made new ones.
func TestATurnedSlotMakesNobodyWait(t *testing.T) {
	w := newRefreshed(t, "")
	if got := actions(w.planAt(t, sunday, false)); got != "base build, ml build, app append" {
		t.Fatalf("at first: %s", got)
	}
	w.pretend(t, sunday, baseID, mlID)
	p := w.planAt(t, monday, false)
	if got := actions(p); got != "base reuse, ml reuse, app append" {
		t.Errorf("on Monday morning: %s", got)
	}
	if s, _ := p.Plan.Step(baseID); s.Due != "2026-W48" {
		t.Errorf("the refresh that is due is %q", s.Due)
	}
	scheduled := w.planAt(t, monday, true)
	if got := actions(scheduled); got != "base build, ml build, app append" {
		t.Errorf("the scheduled build: %s", got)
	}
	if scheduled.Keys[baseID].Unit.ID() == p.Keys[baseID].Unit.ID() {
		t.Error("the new slot has the old one's key")
	}
	w.write(t, "base.Dockerfile", "FROM "+w.reg.Host+"/parent:1\nRUN apt-get dist-upgrade\n")
	if s, _ := w.planAt(t, monday, false).Plan.Step(baseID); s.Action != plan.Build || s.Due != "" {
		t.Errorf("a changed base: %s, due %q", s.Action, s.Due)
	}
}

// A refreshed base is not taken before what stands on it is there as well.
func TestARefreshIsTakenWhole(t *testing.T) {
	w := newRefreshed(t, "")
	w.pretend(t, sunday, baseID, mlID)
	c := w.config(t)
	c.Now, c.Refresh = monday, true
	fresh, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("parent:1"))
	if _, err := w.reg.Client.PutManifest(t.Context(), w.reg.Ref("app:"+fresh.Keys[baseID].Unit.ID().Tag()), a.Desc.MediaType, a.Body); err != nil {
		t.Fatal(err)
	}
	p := w.planAt(t, monday, false)
	if got := actions(p); got != "base reuse, ml reuse, app append" {
		t.Errorf("with a fresh base and an old ml: %s", got)
	}
	if s, _ := p.Plan.Step(baseID); s.Due == "" {
		t.Error("the fresh base was taken without its ml")
	}
}

func TestStaleDeny(t *testing.T) {
	w := newRefreshed(t, "stale: deny")
	w.pretend(t, sunday, baseID, mlID)
	if got := actions(w.planAt(t, monday, false)); got != "base build, ml build, app append" {
		t.Errorf("with stale: deny: %s", got)
	}
}

func TestMaxAge(t *testing.T) {
	w := newRefreshed(t, "max-age: 2d")
	w.pretend(t, sunday, baseID, mlID)
	if got := actions(w.planAt(t, monday, false)); got != "base reuse, ml reuse, app append" {
		t.Errorf("three hours after the slot ended: %s", got)
	}
	thursday := monday.AddDate(0, 0, 3)
	if got := actions(w.planAt(t, thursday, false)); got != "base build, ml build, app append" {
		t.Errorf("three days after the slot ended: %s", got)
	}
}

// In a new slot the engine's cache is not used before a build has come through:
// what an earlier try did not come to is still there as the old slot left it.
func TestRegressionAFailedRefreshBeginsAnew(t *testing.T) {
	w := newRefreshed(t, "")
	p := w.planAt(t, monday, true)
	base, plain := p.Graph.Unit(baseID), p.Graph.Unit(app)
	for try := range 2 {
		if !p.freshSlot(base) {
			t.Errorf("try %d takes the cache of the slot before", try+1)
		}
	}
	if p.noteSlot(base); p.freshSlot(base) {
		t.Error("a slot that was built in is still new")
	}
	if p.freshSlot(plain) {
		t.Error("a unit without a refresh has a new slot")
	}
}

// What the user wants built again is built for the slot that has begun, not once
// more under the key of the one before.
func TestRebuildCountsTheSlotThatHasBegun(t *testing.T) {
	w := newRefreshed(t, "")
	w.pretend(t, sunday, baseID, mlID)
	c := w.config(t)
	c.Now, c.Rebuild, c.Units = monday, true, []string{"base"}
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	p.endAhead()
	if got, want := p.Keys[baseID].Unit.ID(), w.planAt(t, monday, true).Keys[baseID].Unit.ID(); got != want {
		t.Errorf("it is built under %s, not under the current slot's %s", got, want)
	}
	if s, _ := p.Plan.Step(baseID); s.Action != plan.Build || s.Due != "" {
		t.Errorf("base: %s, due %q", s.Action, s.Due)
	}
}

// An image that is taken over under a new key has what belongs to it under that
// key, too: the first key may be pruned.
func TestAnAdoptedImageKeepsItsAttachments(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY src/ /src/\n")
	w.build(t)
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    network: none\n")
	p, res, _ := w.build(t)
	if !strings.Contains(res.Units[0].Reason, "came out the same as before") {
		t.Fatalf("it was not taken over: %s", res.Units[0].Reason)
	}
	a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("app").WithTag(artifactTag(p.Keys[app].Unit.ID())))
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	held, err := parsePicture(a)
	if err != nil {
		t.Fatal(err)
	}
	img := w.made(t, res, app)
	recipe, _ := attachment(img.manifest.Annotations, annotationRecipe)
	files, _ := attachment(img.manifest.Annotations, annotationTailFiles)
	var holds []digest.Digest
	for _, l := range held.manifest.Layers {
		holds = append(holds, l.Digest)
	}
	if held.manifest.Subject == nil || held.manifest.Subject.Digest != img.desc.Digest || !slices.Equal(holds, []digest.Digest{files.Digest, recipe.Digest}) {
		t.Errorf("it holds %v of %v", held.manifest.Layers, held.manifest.Subject)
	}
}
