package strata

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// inventoryOf gives the inventory of an image for a unit on top of it: the one
// that is kept with it, or, for an image that has none, one that is made once
// and kept beside the unit's images.
func (p *Pass) inventoryOf(ctx context.Context, u *graph.Unit, img *picture, full bool) (*inventory.Inventory, error) {
	if img.desc.Digest == "" {
		return inventory.Empty(), nil
	}
	return p.known.inventory(img.desc.Digest, full, func() (*inventory.Inventory, error) {
		return p.findInventory(ctx, u, img, full)
	})
}

func (p *Pass) findInventory(ctx context.Context, u *graph.Unit, img *picture, full bool) (*inventory.Inventory, error) {
	c, repo := p.Config.Client, p.repos[u.ID]
	if inv := ownInventory(ctx, c, img, full); inv != nil {
		return inv, nil
	}
	for _, x := range p.externals {
		if x.digest != img.desc.Digest || x.facts.Digest != x.digest || x.facts.Checked != checkedDiffIDs {
			continue
		}
		text := x.facts.Small
		if full {
			text = x.facts.Full
		}
		if d, ok := parseBlob(text); ok {
			if inv := fetchInventory(ctx, c, repo, d, img); inv != nil {
				return inv, nil
			}
		}
	}
	if f := p.trunkFacts(u); f.Digest == img.desc.Digest {
		if d, ok := parseBlob(f.part(full)); ok {
			if inv := fetchInventory(ctx, c, repo, d, img); inv != nil {
				p.known.noteParts(f.Digest, f.Small, f.Full)
				return inv, nil
			}
		}
	}
	defer p.known.lock("list", img.desc.Digest)()
	ref := repo.WithTag(inventoryTag(img.desc.Digest))
	inv, blobs, err := keptInventory(ctx, c, ref, img, full)
	if err != nil {
		return nil, err
	}
	if inv == nil {
		open := func(l ocispec.Descriptor) (io.ReadCloser, error) { return p.known.openBlob(ctx, c, img, l) }
		var trace *inventory.Trace
		if inv, trace, err = listLayers(ctx, c, img, open); err != nil {
			return nil, err
		}
		p.known.keep(trace)
		if blobs, err = keepTraced(ctx, c, ref, inv, trace); err != nil {
			return nil, err
		}
	}
	p.known.noteInventory(img.desc.Digest, blobs)
	return inv, nil
}

// trunkFacts is what a unit's image remembers of the inventory of the image that
// it was appended to, where that has none of its own: "DIGEST SIZE" of its parts
// beside the unit's images.
type trunkFacts struct {
	Digest  digest.Digest `json:"digest"` // of the image
	Small   string        `json:"small"`
	Full    string        `json:"full"`
	Checked string        `json:"checked"` // what was: checkedDiffIDs
}

func (f trunkFacts) part(full bool) string {
	if full {
		return f.Full
	}
	return f.Small
}

// trunkFacts are those of the unit's newest image; zero without.
func (p *Pass) trunkFacts(u *graph.Unit) (f trunkFacts) {
	last := p.answers.lastImages[u.ID]
	if last == nil || json.Unmarshal([]byte(last.manifest.Annotations[annotationListed]), &f) != nil || f.Checked != checkedDiffIDs {
		return trunkFacts{}
	}
	return f
}

// readInventory gives the full inventory of an image: the one that is kept with
// it, or one that is made now.
func readInventory(ctx context.Context, c *registry.Client, img *picture) (*inventory.Inventory, error) {
	if inv := ownInventory(ctx, c, img, true); inv != nil {
		return inv, nil
	}
	if inv, _, err := keptInventory(ctx, c, img.ref.WithTag(inventoryTag(img.desc.Digest)), img, true); inv != nil && err == nil {
		return inv, nil
	}
	return makeInventory(ctx, c, img, func(l ocispec.Descriptor) (io.ReadCloser, error) { return c.Blob(ctx, img.ref, l) })
}

// ownInventory fetches the inventory that an image names. One that is missing,
// broken, or another image's counts as none.
func ownInventory(ctx context.Context, c *registry.Client, img *picture, full bool) *inventory.Inventory {
	name := annotationSmall
	if full {
		name = annotationFull
	}
	d, ok := attachment(img.manifest.Annotations, name)
	if !ok {
		return nil
	}
	return fetchInventory(ctx, c, img.ref, d, img)
}

// fetchInventory reads an inventory; one that is not the image's counts as none.
func fetchInventory(ctx context.Context, c *registry.Client, repo registry.Ref, d ocispec.Descriptor, img *picture) *inventory.Inventory {
	inv := decodeInventory(ctx, c, repo, d)
	if inv == nil || !inv.Describes(img.layerDigests()) {
		return nil
	}
	return inv
}

func decodeInventory(ctx context.Context, c *registry.Client, repo registry.Ref, d ocispec.Descriptor) *inventory.Inventory {
	inv, err := readInventoryBlob(ctx, c, repo, d)
	if err != nil {
		return nil
	}
	return inv
}

func readInventoryBlob(ctx context.Context, c *registry.Client, repo registry.Ref, d ocispec.Descriptor) (*inventory.Inventory, error) {
	b, err := c.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return inventory.Decode(b)
}

// inventoryTag is the tag of the artifact that holds the inventory of an image
// that has none with it.
func inventoryTag(d digest.Digest) string { return "strata-i-" + d.Encoded() }

// keptInventory finds the inventory of an image that is kept under a tag, and
// the blobs of its two parts.
func keptInventory(ctx context.Context, c *registry.Client, ref registry.Ref, img *picture, full bool) (*inventory.Inventory, []ocispec.Descriptor, error) {
	held, err := keptParts(ctx, c, ref)
	if held == nil || err != nil {
		return nil, nil, err
	}
	d := held.manifest.Layers[0]
	if full {
		d = held.manifest.Layers[1]
	}
	return fetchInventory(ctx, c, held.ref, d, img), held.manifest.Layers[:2], nil
}

// keptParts gives the artifact under a tag that holds the two parts of an
// inventory, and the trace of the layers that were listed for it; nil when there
// is none.
func keptParts(ctx context.Context, c *registry.Client, ref registry.Ref) (*picture, error) {
	a := c.Lookup(ctx, ref)
	if a.State == registry.Failed {
		return nil, a.Err
	}
	if a.State == registry.Miss {
		return nil, nil
	}
	held, err := parsePicture(a)
	if err != nil || len(held.manifest.Layers) < 2 || held.manifest.Annotations[annotationChecked] != checkedDiffIDs {
		return nil, nil // whatever it is, it is no inventory, or of layers that were not checked
	}
	return held, nil
}

// makeInventory lists the files of an image from its layers; those of a trunk
// whose list is known are not read again.
func makeInventory(ctx context.Context, c *registry.Client, img *picture,
	open func(ocispec.Descriptor) (io.ReadCloser, error),
) (*inventory.Inventory, error) {
	inv, _, err := listLayers(ctx, c, img, open)
	return inv, err
}

// listLayers is makeInventory with the trace of the layers that were read.
func listLayers(ctx context.Context, c *registry.Client, img *picture,
	open func(ocispec.Descriptor) (io.ReadCloser, error),
) (*inventory.Inventory, *inventory.Trace, error) {
	base, err := trunkInventory(ctx, c, img)
	if err != nil {
		return nil, nil, err
	}
	from := 0
	if base != nil {
		from = len(base.Blobs())
	}
	read, err := img.layersFrom(ctx, c, from, open)
	if err != nil {
		return nil, nil, fmt.Errorf("listing the files of %s: %w", img.name(), err)
	}
	inv, trace, err := inventory.FromLayersTraced(ctx, base, read)
	if err != nil {
		err = fmt.Errorf("listing the files of %s: %w", img.name(), err) // its registry may be at fault
		return nil, nil, forgedLayer(img, err)
	}
	return inv, trace, nil
}

// trunkInventory gives the full inventory of the image that a tail was put on,
// nil when it isn't known. A trunk in the same repository has its own; that of
// an image from elsewhere was kept there when the tail was put on.
func trunkInventory(ctx context.Context, c *registry.Client, img *picture) (*inventory.Inventory, error) {
	t := digest.Digest(img.manifest.Annotations[annotationTrunk])
	if t.Validate() != nil {
		return nil, nil
	}
	if a := c.Lookup(ctx, img.ref.WithDigest(t)); a.State == registry.Hit {
		trunk, err := parsePicture(a)
		if err != nil || !startsWith(img.manifest.Layers, trunk.manifest.Layers) {
			return nil, nil
		}
		return readInventory(ctx, c, trunk)
	}
	held, err := keptParts(ctx, c, img.ref.WithTag(inventoryTag(t)))
	if held == nil || err != nil {
		return nil, nil // it only saves reading
	}
	inv := decodeInventory(ctx, c, held.ref, held.manifest.Layers[1])
	if inv == nil || !inv.Full() || !hasPrefix(img.layerDigests(), inv.Blobs()) {
		return nil, nil
	}
	return inv, nil
}

func hasPrefix(all, prefix []digest.Digest) bool {
	return len(prefix) <= len(all) && slices.Equal(all[:len(prefix)], prefix)
}

// keepTraced publishes an inventory under a tag of its own, with a trace beside
// its two parts where there is one, and gives the blobs.
func keepTraced(ctx context.Context, c *registry.Client, ref registry.Ref, inv *inventory.Inventory, trace *inventory.Trace) ([]ocispec.Descriptor, error) {
	blobs, err := publication{inventory: inv, trace: trace}.attachments()
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: inventory.ArtifactType, Config: ocispec.DescriptorEmptyJSON, Annotations: published()}
	m.SchemaVersion = 2
	m.Annotations[annotationChecked] = checkedDiffIDs
	if err := c.EnsureEmpty(ctx, ref); err != nil {
		return nil, err
	}
	for _, b := range blobs[1:] {
		d, err := c.PushBytes(ctx, ref, b.MediaType, b.Data)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	_, err = c.PutManifest(ctx, ref, m.MediaType, body)
	return m.Layers[:2], err
}
