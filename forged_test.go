package strata

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// forge gives an image another config, and puts it under its name again.
func forge(t *testing.T, reg *registrytest.Registry, ref registry.Ref, change func(*ocispec.Image)) digest.Digest {
	t.Helper()
	img, err := loadPicture(t.Context(), reg.Client, ref)
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(img.config, &config); err != nil {
		t.Fatal(err)
	}
	change(&config)
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m := img.manifest
	if m.Config, err = reg.Client.PushBytes(t.Context(), ref, m.Config.MediaType, data); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := reg.Client.PutManifest(t.Context(), ref, m.MediaType, body)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest
}

var configs = map[string]func(*ocispec.Image){
	"another layer":   func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = digest.FromString("another") },
	"a layer more":    func(c *ocispec.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("more")) },
	"a layer less":    func(c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:len(c.RootFS.DiffIDs)-1] },
	"no layers":       func(c *ocispec.Image) { c.RootFS.DiffIDs = nil },
	"no digest":       func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = "none" },
	"the blob itself": nil,
}

// A base whose layers are not what its config says is refused, with its name, and
// nothing is published on it: as a parent, and as what a COPY --from takes from.
func TestABaseThatIsNotWhatItsConfigSays(t *testing.T) {
	for name, change := range configs {
		for how, dockerfile := range map[string]string{
			"parent": "FROM PARENT\nCOPY src/ /src/\n",
			"copied": "FROM scratch\nCOPY --from=PARENT /etc/passwd /etc/passwd\n",
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				w := newWorkshop(t, dockerfile)
				layer := w.layer
				if change == nil {
					change = func(c *ocispec.Image) { c.RootFS.DiffIDs[0] = layer }
				}
				base := forge(t, w.reg, w.reg.Ref("parent:1"), change)
				p, err := Prepare(t.Context(), w.config(t))
				if err == nil {
					_, err = p.Execute(t.Context())
				}
				if err == nil {
					t.Fatal("it was built")
				}
				if text := err.Error(); !strings.Contains(text, base.String()) {
					t.Errorf("it does not name the base: %s", text)
				}
				var forged *inventory.DiffIDError
				if errors.As(err, &forged) && (!strings.Contains(err.Error(), layer.String()) || !strings.Contains(diag.HintOf(err), "broken or forged")) {
					t.Errorf("it does not say what is wrong: %v (hint %q)", err, diag.HintOf(err))
				}
				tags, err := w.reg.Client.Tags(t.Context(), w.reg.Ref("app"))
				if err != nil && !errors.Is(err, registry.ErrNotFound) || len(tags) > 0 {
					t.Errorf("it left %q, %v", tags, err)
				}
			})
		}
	}
}

// A list of a base's files that was made without looking at what its config says
// does not count.
func TestAnUncheckedInventoryDoesNotCount(t *testing.T) {
	w := newWorkshop(t, ordinary)
	w.build(t)
	base := forge(t, w.reg, w.reg.Ref("parent:1"), configs["another layer"])
	// The list is right: the layers are the same.
	kept := w.reg.Ref("app").WithTag(inventoryTag(w.parent))
	_, body, err := w.reg.Client.Manifest(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if m.Annotations[annotationChecked] == "" {
		t.Fatal("a list of layers that were read does not say that they were checked")
	}
	delete(m.Annotations, annotationChecked)
	if body, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if _, err := w.reg.Client.PutManifest(t.Context(), kept.WithTag(inventoryTag(base)), m.MediaType, body); err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Execute(t.Context()); err == nil || !strings.Contains(err.Error(), "not what the image's config says") {
		t.Errorf("%v", err)
	}
}

// An image under a unit's key whose config is for another platform is not built on.
func TestAParentForAnotherPlatform(t *testing.T) {
	w := chain(t)
	_, res, _ := w.build(t)
	ml := w.made(t, res, "ml/linux/amd64")
	key := ml.manifest.Annotations[annotationKey]
	forge(t, w.reg, w.reg.Ref("app:strata-"+key), func(c *ocispec.Image) { c.Architecture = "riscv64" })
	w.write(t, "app.txt", "after\n")
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Execute(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is for linux/riscv64 in place of linux/amd64") || !strings.Contains(diag.HintOf(err), "--rebuild") {
		t.Errorf("%v (hint %q)", err, diag.HintOf(err))
	}
}
