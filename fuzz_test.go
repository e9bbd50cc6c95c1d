package strata

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/registry"
)

// No manifest and no config of a registry makes a run panic, whatever stands in the
// annotations that are Strata's own, and a blob that an annotation names has a digest
// and a size.
func FuzzPicture(f *testing.F) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	manifest, err := json.Marshal(ocispec.Manifest{
		Config: ocispec.Descriptor{Digest: empty}, Layers: []ocispec.Descriptor{{Digest: empty, Size: -1}},
		Annotations: map[string]string{
			annotationSmall: empty + " 3", annotationFull: empty + " -3", annotationTrunk: empty, annotationListed: `{"digest":"` + empty + `","small":"x"}`,
			annotationTail: `{"fingerprint":"x","blob":{"digest":"` + empty + `"},"diffID":"` + empty + `"}`,
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(manifest, []byte(`{"config":{"Env":["A=b"]}}`), "x")
	f.Add([]byte(`{"annotations":null,"layers":null,"config":null}`), []byte(`null`), "")
	f.Add([]byte(`null`), []byte(`{"config":null}`), "null")
	f.Add([]byte(`{"layers":[null]}`), []byte(`{"config":{"Env":null}}`), "{}")
	f.Fuzz(func(t *testing.T, body, config []byte, text string) {
		p, err := readPicture(registry.Ref{Host: "h", Repo: "r"}, ocispec.Descriptor{Digest: digest.FromBytes(body)}, body)
		if err != nil {
			return
		}
		p.config = config
		_, _ = p.dockerfileConfig()
		_, _ = p.parent("linux/amd64")
		p.size()
		if !p.sameContent(p.manifest) {
			t.Error("a manifest is not the same as itself")
		}
		for _, name := range []string{annotationSmall, annotationFull} {
			if d, ok := attachment(p.manifest.Annotations, name); ok && (d.Digest.Validate() != nil || d.Size < 0) {
				t.Errorf("the blob %+v", d)
			}
		}
		if d, ok := parseBlob(text); ok && (d.Digest.Validate() != nil || d.Size < 0) {
			t.Errorf("%q gives the blob %+v", text, d)
		}
		u := &graph.Unit{ID: "app/linux/amd64"}
		pass := &Pass{}
		pass.answers.lastImages = map[string]*picture{u.ID: p}
		pass.trunkFacts(u)
		r := &runner{pass: pass}
		if b := r.knownTail(u, text); b != nil && (b.DiffID.Validate() != nil || b.Descriptor.Digest != p.manifest.Layers[len(p.manifest.Layers)-1].Digest) {
			t.Errorf("the tail %+v", b)
		}
	})
}
