package strata

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

const (
	noKey    = "a manifest without annotations"
	zeroKey  = "0000000000000000000000000000000000000000000000000000000000000000"
	otherApp = "other/linux/amd64"
)

// forged are the ways in which what lies under a tag can be another image. Each
// puts one there that has the key of the unit as far as it has any.
var forged = map[string]struct {
	put   func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest
	found string
}{
	noKey: {func(t *testing.T, reg *registrytest.Registry, tag, _ string, body []byte) digest.Digest {
		return plant(t, reg, tag, body, nil)
	}, "one without a key"},
	"another key": {func(t *testing.T, reg *registrytest.Registry, tag, _ string, body []byte) digest.Digest {
		return plant(t, reg, tag, body, map[string]string{annotationKey: zeroKey, annotationUnit: app, annotationContent: zeroKey})
	}, "key " + zeroKey},
	"a key that is none": {func(t *testing.T, reg *registrytest.Registry, tag, _ string, body []byte) digest.Digest {
		return plant(t, reg, tag, body, map[string]string{annotationKey: "yes", annotationUnit: app})
	}, "one without a key"},
	"another unit": {func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest {
		return plant(t, reg, tag, body, map[string]string{annotationKey: key, annotationUnit: otherApp})
	}, "the unit " + otherApp},
	"another platform": {func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest {
		return plant(t, reg, tag, body, map[string]string{annotationKey: key, annotationUnit: "app/linux/arm64"})
	}, "the unit app/linux/arm64"},
	"another platform of the config": {func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest {
		var m ocispec.Manifest
		json.Unmarshal(body, &m)
		m.Config.Platform = &ocispec.Platform{OS: "linux", Architecture: "riscv64"}
		body, _ = json.Marshal(m)
		return plant(t, reg, tag, body, map[string]string{annotationKey: key, annotationUnit: app})
	}, "linux/riscv64"},
	"an index": {func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest {
		d := plant(t, reg, tag, body, map[string]string{annotationKey: key, annotationUnit: app})
		idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Annotations: map[string]string{annotationKey: key, annotationUnit: app}}
		idx.SchemaVersion = 2
		_, image, err := reg.Client.Manifest(t.Context(), reg.Ref("app").WithDigest(d))
		if err != nil {
			t.Fatal(err)
		}
		idx.Manifests = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(image)), Platform: platformOf("linux/amd64")}}
		data, _ := json.Marshal(idx)
		put, err := reg.Client.PutManifest(t.Context(), reg.Ref("app:"+tag), idx.MediaType, data)
		if err != nil {
			t.Fatal(err)
		}
		return put.Digest
	}, "an index"},
	"an artifact": {func(t *testing.T, reg *registrytest.Registry, tag, key string, body []byte) digest.Digest {
		var m ocispec.Manifest
		json.Unmarshal(body, &m)
		m.ArtifactType = "application/vnd.example"
		body, _ = json.Marshal(m)
		return plant(t, reg, tag, body, map[string]string{annotationKey: key, annotationUnit: app})
	}, "an artifact of the type application/vnd.example"},
}

// somebody puts an image into the project's repository and gives its manifest.
func somebody(t *testing.T, reg *registrytest.Registry) []byte {
	t.Helper()
	return imageOf(t, reg, "app:somebody", map[string]string{"planted": "1"}).body
}

func warnings(p *Pass) string {
	var out []string
	for _, w := range p.Warnings {
		out = append(out, w.String())
	}
	return strings.Join(out, "\n")
}

// What lies under a unit's key and says itself that it is another image is no
// hit: it is told, the unit is made, and the tag put right.
func TestAHitIsWhatItsKeySays(t *testing.T) {
	for name, f := range forged {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t, ordinary)
			p, err := Prepare(t.Context(), w.config(t))
			if err != nil {
				t.Fatal(err)
			}
			p.endAhead()
			k := p.Keys[app].Unit.ID()
			planted := f.put(t, w.reg, k.Tag(), string(k), somebody(t, w.reg))
			p, res, _ := w.build(t)
			told := warnings(p)
			if !strings.Contains(told, "app:"+k.Tag()+" is another image than its tag is for: expected ") || !strings.Contains(told, "found ") || !strings.Contains(told, f.found) {
				t.Errorf("told: %s", told)
			}
			if s := p.Plan.Steps[0]; s.Action != plan.Append || s.Reasons[0] != "what the registry has under its key is another image" {
				t.Errorf("the plan was to %s: %q", s.Action, s.Reasons)
			}
			made := w.made(t, res, app)
			if made.desc.Digest == planted || made.manifest.Annotations[annotationKey] != string(k) {
				t.Errorf("it came to %s", made.desc.Digest)
			}
			for _, tag := range []string{k.Tag(), "latest"} {
				if d, err := w.reg.Client.Resolve(t.Context(), w.reg.Ref("app:"+tag)); err != nil || d.Digest != made.desc.Digest {
					t.Errorf("%s is %s, %v", tag, d.Digest, err)
				}
			}
			p, _, _ = w.build(t)
			if p.Plan.Work() != 0 || len(p.Warnings) > 0 {
				t.Errorf("then %d steps of work, and: %s", p.Plan.Work(), warnings(p))
			}
		})
	}
}

// So it is with the trunk's key.
func TestATrunkIsWhatItsKeySays(t *testing.T) {
	for name, f := range forged {
		w := newWorkshop(t, "FROM PARENT\nRUN true\nCOPY src/ /src/\n")
		p, err := Prepare(t.Context(), w.config(t))
		if err != nil {
			t.Fatal(err)
		}
		p.endAhead()
		k := p.Keys[app].Trunk.ID()
		f.put(t, w.reg, k.Tag(), string(k), somebody(t, w.reg))
		if p, err = Prepare(t.Context(), w.config(t)); err != nil {
			t.Fatal(err)
		}
		p.endAhead()
		if s := p.Plan.Steps[0]; s.Action != plan.Build || !strings.Contains(warnings(p), f.found) {
			t.Errorf("%s: the plan is to %s: %q; %s", name, s.Action, s.Reasons, warnings(p))
		}
	}
}

// The newest image of a unit is one of Strata's for its platform, or does not
// count; a run puts the tag right although nothing is to be made.
func TestTheNewestImageIsTheUnits(t *testing.T) {
	for _, name := range []string{noKey, "another platform", "another unit", "an index"} {
		w := newWorkshop(t, ordinary)
		p, res, _ := w.build(t)
		tag := lastTag(p.Units[0])
		forged[name].put(t, w.reg, tag, zeroKey, somebody(t, w.reg))
		p, _, _ = w.build(t)
		if p.answers.lastImages[app] != nil || !strings.Contains(warnings(p), "app:"+tag+" is another image") || p.Plan.Work() != 0 {
			t.Errorf("%s: %s", name, warnings(p))
		}
		if d, err := w.reg.Client.Resolve(t.Context(), w.reg.Ref("app:"+tag)); err != nil || d.Digest != res.Units[0].Ref.Digest {
			t.Errorf("%s: the tag is %s, %v", name, d.Digest, err)
		}
		if p, _, _ = w.build(t); len(p.Warnings) > 0 {
			t.Errorf("%s: afterwards: %s", name, warnings(p))
		}
	}
}

// An image that came out the same has further keys than the one that it names:
// under these it is a hit, and so are its children, with and without planted ones.
func TestAdoptedImagesStayHits(t *testing.T) {
	w := chain(t)
	_, first, _ := w.build(t)
	yaml, err := os.ReadFile(w.dir + "/strata.yaml")
	if err != nil {
		t.Fatal(err)
	}
	network := func(layers ...string) {
		text := string(yaml)
		for _, l := range layers {
			text = strings.Replace(text, "  "+l+": {", "  "+l+": {network: none, ", 1)
		}
		w.write(t, "strata.yaml", text)
	}
	network("ml") // another key and another content key, the same image
	p, res, _ := w.build(t)
	if steps(res) != "base reuse, ml append, app reuse" || len(p.Warnings) > 0 || res.Units[2].Ref != first.Units[2].Ref {
		t.Fatalf("%s (%s)", steps(res), warnings(p))
	}
	p, res, log := w.build(t)
	if steps(res) != "base reuse, ml reuse, app reuse" || len(p.Warnings) > 0 {
		t.Errorf("then %s (%s)", steps(res), warnings(p))
	}
	vouchers := 0
	for _, s := range log {
		if strings.Contains(s.what, "GET") && strings.Contains(s.what, "/strata-a-") {
			vouchers++
		}
	}
	if vouchers != 2 {
		t.Errorf("%d artifacts were asked for", vouchers)
	}
	network("base", "ml") // ml comes out the same once more, under a content key that it does not name
	p, res, _ = w.build(t)
	if steps(res) != "base append, ml reuse, app reuse" || len(p.Warnings) > 0 || res.Units[1].Ref != first.Units[1].Ref {
		t.Errorf("under its second content key: %s (%s)", steps(res), warnings(p))
	}
}

// A child is found under its content key only if it is that child.
func TestAChildIsWhatItsContentKeySays(t *testing.T) {
	for name, f := range forged {
		t.Run(name, func(t *testing.T) {
			w := chain(t)
			w.build(t)
			tags, err := w.reg.Client.Tags(t.Context(), w.reg.Ref("app"))
			if err != nil {
				t.Fatal(err)
			}
			planted := map[digest.Digest]bool{}
			for _, tag := range tags {
				if strings.HasPrefix(tag, "strata-c-") {
					planted[f.put(t, w.reg, tag, zeroKey, somebody(t, w.reg))] = true
				}
			}
			w.write(t, "strata.yaml", strings.Replace(read(t, w.dir+"/strata.yaml"), "base: {", "base: {network: none, ", 1))
			_, res, _ := w.build(t)
			for _, m := range res.Units {
				if planted[m.Ref.Digest] || m.Reason == "its parents came out the same" {
					t.Errorf("%s: %s %s", m.Unit, m.Action, m.Reason)
				}
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
