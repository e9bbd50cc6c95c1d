package strata

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// scribe is an engine whose RUN instructions write files: RUN PATH=TEXT.
type scribe struct {
	t     *testing.T
	reg   *registrytest.Registry
	mu    sync.Mutex
	built []string // units
}

// Build makes a layer of each RUN.
func (s *scribe) Build(ctx context.Context, j build.Job, _ event.Sink) (build.Result, error) {
	s.mu.Lock()
	s.built = append(s.built, j.Unit)
	s.mu.Unlock()
	repo, err := registry.ParseRef(j.Repository)
	if err != nil {
		return build.Result{}, err
	}
	var img *picture
	var config ocispec.Image
	for line := range strings.Lines(string(j.Dockerfile)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "FROM":
			name := strings.Fields(rest)[0]
			if name == "a" && img != nil { // a stage, which goes on
				continue
			}
			if name == "${BASE_IMAGE}" {
				name = j.Args["BASE_IMAGE"]
			} else if d := j.Pins[name]; d != "" {
				name = strings.TrimSuffix(name, ":1") + "@" + d.String()
			}
			ref, err := registry.ParseRef(name)
			if err != nil {
				return build.Result{}, err
			}
			if img, err = loadPicture(ctx, s.reg.Client, ref); err != nil {
				return build.Result{}, err
			}
			if err := json.Unmarshal(img.config, &config); err != nil {
				return build.Result{}, err
			}
			if err := bringLayers(ctx, s.reg.Client, repo, img); err != nil {
				return build.Result{}, err
			}
		case "RUN":
			path, text, _ := strings.Cut(rest, "=")
			plain, packed := registrytest.Layer(s.t, map[string]string{path: strings.ReplaceAll(text, `\n`, "\n")})
			d, err := s.reg.Client.PushBytes(ctx, repo, ocispec.MediaTypeImageLayerGzip, packed)
			if err != nil {
				return build.Result{}, err
			}
			img.manifest.Layers = append(img.manifest.Layers, d)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
			config.History = append(config.History, ocispec.History{CreatedBy: "RUN " + rest})
		}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return build.Result{}, err
	}
	img.manifest.Annotations = nil
	if img.manifest.Config, err = s.reg.Client.PushBytes(ctx, repo, ocispec.MediaTypeImageConfig, raw); err != nil {
		return build.Result{}, err
	}
	body, err := json.Marshal(img.manifest)
	if err != nil {
		return build.Result{}, err
	}
	d, err := s.reg.Client.PutManifest(ctx, repo, ocispec.MediaTypeImageManifest, body)
	return build.Result{Manifest: d, Body: body, Config: raw}, err
}

const rebasing = `image: HOST/app
platforms: [linux/amd64]
layers:
  base: {dockerfile: base.Dockerfile}
  ml: {parent: base, dockerfile: ml.Dockerfile, on-parent-change: POLICY}
  app: {parent: ml, dockerfile: app.Dockerfile}
`

// shop is a workshop of three layers with an engine.
type shop struct {
	*workshop
	engine *scribe
}

func newShop(t *testing.T, policy string) *shop {
	t.Helper()
	w := newWorkshop(t, ordinary)
	s := &shop{w, &scribe{t: t, reg: w.reg}}
	w.write(t, "strata.yaml", strings.NewReplacer("HOST", w.reg.Host, "POLICY", policy).Replace(rebasing))
	w.write(t, "base.Dockerfile", "FROM "+w.reg.Host+"/parent:1\nRUN etc/base=1\n")
	w.write(t, "ml.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN etc/ml=1\nRUN etc/more=1\nCOPY src /ml\n")
	w.write(t, "app.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src /src\n")
	return s
}

func (s *shop) config(t *testing.T) Config {
	c := s.workshop.config(t)
	c.Engine = func(context.Context) (build.Engine, error) { return s.engine, nil }
	return c
}

// run builds everything and gives what was done: "base build, ml rebase".
func (s *shop) run(t *testing.T) (string, Result, error) {
	t.Helper()
	s.spans.take()
	s.engine.built = nil
	p, err := Prepare(t.Context(), s.config(t))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Execute(t.Context())
	var out []string
	for _, m := range res.Units {
		name, _, _ := strings.Cut(m.Unit, "/")
		out = append(out, name+" "+string(m.Action))
	}
	return strings.Join(out, ", "), res, err
}

func (s *shop) must(t *testing.T, want string) Result {
	t.Helper()
	got, res, err := s.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the run did: %s, want %s", got, want)
	}
	return res
}

// files gives the files of an image that lie in /etc, with their contents.
func (s *shop) files(t *testing.T, tag string) map[string]string {
	t.Helper()
	c := s.reg.Client
	img, err := loadPicture(t.Context(), c, s.reg.Ref("app:"+tag))
	if err != nil {
		t.Fatal(err)
	}
	var layers []inventory.Layer
	for _, l := range img.manifest.Layers {
		layers = append(layers, inventory.Layer{Blob: l.Digest, Open: func() (io.ReadCloser, error) { return c.Blob(t.Context(), img.ref, l) }})
	}
	inv, err := inventory.FromLayers(t.Context(), nil, layers)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for e := range inv.Below("etc") {
		if e.Kind == inventory.File && !strings.HasSuffix(e.Path, "passwd") && !strings.HasSuffix(e.Path, "group") {
			names = append(names, e.Path)
		}
	}
	data, err := contentsOf(t.Context(), c, img, inv, names)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, text := range data {
		out[strings.TrimPrefix(name, "etc/")] = string(text)
	}
	return out
}

// A change of the base, and of ml's tail at the same time: ml's trunk goes on the
// new base without an engine, and no blob of it is read.
func TestRebaseOfAUnit(t *testing.T) {
	s := newShop(t, "rebase")
	s.must(t, "base build, ml build, app append")
	s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=2\n")
	s.write(t, "src/main.py", "print(2)\n")
	p, err := Prepare(t.Context(), s.config(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := actions(p); got != "base build, ml rebase, app append" {
		t.Errorf("the plan is: %s", got)
	}
	p.endAhead()
	before, err := loadPicture(t.Context(), s.reg.Client, s.reg.Ref("app:ml-latest"))
	if err != nil {
		t.Fatal(err)
	}
	res := s.must(t, "base build, ml rebase, app append")
	if d := cmp.Diff([]string{baseID}, s.engine.built); d != "" {
		t.Errorf("the engine built (-want +got):\n%s", d)
	}
	for _, span := range s.spans.take() {
		for _, l := range before.manifest.Layers {
			if strings.HasPrefix(span.what, "GET") && strings.Contains(span.what, l.Digest.String()) {
				t.Errorf("a blob of the old image was read: %s", span.what)
			}
		}
	}
	if d := cmp.Diff(map[string]string{"base": "2", "ml": "1", "more": "1"}, s.files(t, "ml-latest")); d != "" {
		t.Errorf("the files (-want +got):\n%s", d)
	}
	if r := res.Units[1].Reason; r != "parent "+baseID+" is rebuilt" {
		t.Errorf("the reason is %q", r)
	}
	s.must(t, "base reuse, ml reuse, app reuse")

	// What was rebased is rebased again.
	s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=3\n")
	s.must(t, "base build, ml rebase, app append")
	if d := cmp.Diff(map[string]string{"base": "3", "ml": "1", "more": "1"}, s.files(t, "ml-latest")); d != "" {
		t.Errorf("the files (-want +got):\n%s", d)
	}
}

func TestRebaseOfAUnitWithoutATail(t *testing.T) {
	s := newShop(t, "rebase")
	s.write(t, "ml.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN etc/ml=1\n")
	s.must(t, "base build, ml build, app append")
	s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=2\n")
	s.must(t, "base build, ml rebase, app append")
	if d := cmp.Diff(map[string]string{"base": "2", "ml": "1"}, s.files(t, "ml-latest")); d != "" {
		t.Errorf("the files (-want +got):\n%s", d)
	}
	s.must(t, "base reuse, ml reuse, app reuse")
}

// An external image that moves is a new parent like any other.
func TestRebaseOntoAnExternalImage(t *testing.T) {
	s := newShop(t, "rebase")
	s.write(t, "strata.yaml", strings.ReplaceAll(strings.NewReplacer("HOST", s.reg.Host, "POLICY", "rebase").Replace(rebasing),
		"base.Dockerfile}", "base.Dockerfile, on-parent-change: rebase}"))
	s.must(t, "base build, ml build, app append")
	s.reg.PushImage(t, s.reg.Ref("parent:1"), registrytest.Image{Layers: []map[string]string{{
		"etc/": "", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/os": "2", "usr/": "", "usr/lib/": "",
	}}})
	s.must(t, "base rebase, ml rebase, app append")
	if d := cmp.Diff(map[string]string{"os": "2", "base": "1", "ml": "1", "more": "1"}, s.files(t, "ml-latest")); d != "" {
		t.Errorf("the files (-want +got):\n%s", d)
	}
}

func TestRebaseConflicts(t *testing.T) {
	status := func(name, version string) string {
		return "Package: " + name + `\nStatus: install ok installed\nArchitecture: all\nVersion: ` + version + `\n\n`
	}
	tests := []struct {
		name, policy      string
		before, after     string // of the base's instruction
		ml                string
		want, err, reason string
	}{
		{"a file, and the engine builds", "rebase-or-rebuild", "etc/base=1", "etc/ml=base", "etc/ml=1", "base build, ml build, app append", "",
			"; it could not be rebased: it and its new parent changed the same: /etc/ml: both changed (nothing before, file in the new parent)"},
		{"a file, and that is an error", "rebase", "etc/base=1", "etc/ml=base", "etc/ml=1", "base build, ml rebase, app skip",
			"it can't be rebased: it and its new parent changed the same:\n  /etc/ml: both changed (nothing before, file in the new parent)", ""},
		{"packages are merged", "rebase", "var/lib/dpkg/status=" + status("a", "1"), "var/lib/dpkg/status=" + status("a", "2"),
			"var/lib/dpkg/status=" + status("a", "1") + status("b", "1"), "base build, ml rebase, app append", "", "; merged /var/lib/dpkg/status"},
		{"a package of both", "rebase-or-rebuild", "var/lib/dpkg/status=" + status("a", "1"), "var/lib/dpkg/status=" + status("a", "2"),
			"var/lib/dpkg/status=" + status("a", "3"), "base build, ml build, app append", "",
			"; it could not be rebased: it and its new parent changed the same: /var/lib/dpkg/status: package database touched by both (a: it was 1, the new parent has 2, and the image 3)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t, tt.policy)
			base := "FROM " + s.reg.Host + "/parent:1\nRUN etc/first=%d\nRUN %s\n"
			s.write(t, "base.Dockerfile", fmt.Sprintf(base, 1, tt.before))
			s.write(t, "ml.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN "+tt.ml+"\nCOPY src /ml\n")
			s.must(t, "base build, ml build, app append")
			first := s.reg.Client.Lookup(t.Context(), s.reg.Ref("app:ml-latest"))
			s.write(t, "base.Dockerfile", fmt.Sprintf(base, 2, tt.after))
			got, res, err := s.run(t)
			if got != tt.want {
				t.Errorf("the run did: %s, want %s", got, tt.want)
			}
			if tt.err != "" {
				if err == nil || !strings.HasSuffix(err.Error(), tt.err) {
					t.Errorf("the error is %v, want %s", err, tt.err)
				}
				if now := s.reg.Client.Lookup(t.Context(), s.reg.Ref("app:ml-latest")); now.Desc.Digest != first.Desc.Digest {
					t.Error("a tag was moved")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, span := range s.spans.take() {
				if tt.want == "base build, ml rebase, app append" && strings.HasPrefix(span.what, "GET") && span.bytes > 100_000 {
					t.Errorf("a rebase reads no layers: %s (%d bytes)", span.what, span.bytes)
				}
			}
			if r := res.Units[1].Reason; r != "parent "+baseID+" is rebuilt"+tt.reason {
				t.Errorf("the reason is %q, want %q", r, tt.reason)
			}
		})
	}
}

// What the plan must not take for a rebase is built, whatever the policy.
func TestRebaseIsNotPlanned(t *testing.T) {
	const base = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN etc/ml=1\nCOPY src /ml\n"
	tests := []struct {
		name, before, after string
		policy              string
		want                plan.Action
	}{
		{"only the parent", base, base, "rebase", plan.Rebase},
		{"the tail, too", base, base + "LABEL a=b\n", "rebase", plan.Rebase},
		{"the policy", base, base, "rebuild", plan.Build},
		{"an instruction, too", base, strings.Replace(base, "ml=1", "ml=2", 1), "rebase", plan.Build},
		{"the tail has gone", base, "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN etc/ml=1\n", "rebase", plan.Build},
		{"a stage copies from the parent", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS a\nFROM ${BASE_IMAGE}\nRUN etc/ml=1\nCOPY --from=a /etc/base /x\nRUN etc/z=1\n",
			"", "rebase", plan.Build},
		{"the trunk's own stage is copied from", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS a\nRUN etc/a=1\nFROM a\nCOPY --from=a /etc/base /x\nRUN etc/z=1\n",
			"", "rebase", plan.Build},
		{"stages that stand on each other", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS a\nRUN etc/a=1\nFROM a\nRUN etc/z=1\n", "", "rebase", plan.Rebase},
		{"nothing for an engine", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src /ml\n", "", "rebase", plan.Append},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t, tt.policy)
			s.write(t, "ml.Dockerfile", tt.before)
			if _, _, err := s.run(t); err != nil {
				t.Fatal(err)
			}
			s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=2\n")
			if tt.after != "" {
				s.write(t, "ml.Dockerfile", tt.after)
			}
			p, err := Prepare(t.Context(), s.config(t))
			if err != nil {
				t.Fatal(err)
			}
			p.endAhead()
			if step, _ := p.Plan.Step(mlID); step.Action != tt.want {
				t.Errorf("the plan is to %s because of %q, want %s", step.Action, step.Reasons, tt.want)
			}
		})
	}
}

// Where the old parent is gone, or its list of files and the trace of the own
// layers, the rebase is refused or they are made again; it is never wrong.
func TestRebaseWithoutWhatItNeeds(t *testing.T) {
	t.Run("the old parent is gone", func(t *testing.T) {
		s := newShop(t, "rebase-or-rebuild")
		res := s.must(t, "base build, ml build, app append")
		s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=2\n")
		if err := s.reg.Client.Delete(t.Context(), res.Units[0].Ref); err != nil {
			t.Fatal(err)
		}
		res = s.must(t, "base build, ml build, app append")
		if r := res.Units[1].Reason; !strings.Contains(r, "its old parent sha256:") || !strings.HasSuffix(r, "is gone from the registry") {
			t.Errorf("the reason is %q", r)
		}
	})
	t.Run("the lists are gone", func(t *testing.T) {
		s := newShop(t, "rebase")
		s.must(t, "base build, ml build, app append")
		ml, err := loadPicture(t.Context(), s.reg.Client, s.reg.Ref("app:ml-latest"))
		if err != nil {
			t.Fatal(err)
		}
		trunk, err := loadPicture(t.Context(), s.reg.Client, s.reg.Ref("app").WithDigest(digest.Digest(ml.manifest.Annotations[annotationTrunk])))
		if err != nil {
			t.Fatal(err)
		}
		// The same images with annotations that lead to nothing.
		for _, name := range []string{annotationFull, annotationTrace} {
			trunk.body = bytes.ReplaceAll(trunk.body, []byte(trunk.manifest.Annotations[name]), []byte("sha256:"+strings.Repeat("0", 64)+" 100"))
		}
		d, err := s.reg.Client.PutManifest(t.Context(), s.reg.Ref("app"), ocispec.MediaTypeImageManifest, trunk.body)
		if err != nil {
			t.Fatal(err)
		}
		body := bytes.ReplaceAll(ml.body, []byte(ml.manifest.Annotations[annotationTrunk]), []byte(d.Digest))
		last := s.reg.Ref("app:strata-last-ml.linux.amd64")
		if _, err := s.reg.Client.PutManifest(t.Context(), last, ocispec.MediaTypeImageManifest, body); err != nil {
			t.Fatal(err)
		}
		s.write(t, "base.Dockerfile", "FROM "+s.reg.Host+"/parent:1\nRUN etc/base=2\n")
		s.must(t, "base build, ml rebase, app append")
		if d := cmp.Diff(map[string]string{"base": "2", "ml": "1", "more": "1"}, s.files(t, "ml-latest")); d != "" {
			t.Errorf("the files (-want +got):\n%s", d)
		}
	})
}
