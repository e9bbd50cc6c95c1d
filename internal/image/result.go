package image

import (
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// Image gives the manifest and the config with the blob that WriteBlob wrote; nil
// when there is none to write.
//
// All instructions that work on files share the blob. In the history the first
// of them has it and the others are marked empty, so that history and layers
// agree in number.
func (a *Appended) Image(b *Blob) (*Image, error) {
	if (b != nil) != a.HasBlob() {
		return nil, errors.New("finishing the image: the new layer was not written")
	}
	c := a.config.clone()
	layers := slices.Clone(a.parent.Manifest.Layers)
	when := epochTime(a.options.SourceDateEpoch)
	c.balance(when)
	wanting := b != nil
	for _, r := range a.records {
		c.record(r.createdBy, r.layer && wanting, when)
		if r.layer {
			wanting = false
		}
	}
	if b != nil {
		layers = append(layers, b.Descriptor)
		c.rootFS.DiffIDs = append(slices.Clone(c.rootFS.DiffIDs), b.DiffID)
		c.balance(when)
	}
	c.rootFS.Type = "layers"
	c.setCreated(when)
	return assemble(c, layers, a.options.Annotations)
}

// Inventory gives the new image's inventory: full when the parent's was, small
// otherwise. The blob is not read again.
func (a *Appended) Inventory(b *Blob) (*inventory.Inventory, error) {
	if (b != nil) != a.HasBlob() {
		return nil, errors.New("listing the image's files: the new layer was not written")
	}
	if b == nil {
		return a.inventory, nil
	}
	changes := make([]inventory.Change, 0, len(a.files))
	for _, o := range a.files {
		if o.node == nil {
			return nil, errors.New("internal error: a tail removed " + o.path)
		}
		n := o.node
		e := inventory.Entry{
			Path: o.path, Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Link: n.link, Major: n.major, Minor: n.minor,
		}
		if n.kind == inventory.File {
			e.Size, e.Content = n.size, b.sums[n]
		}
		if n.capability != "" {
			e.Xattrs = map[string]string{capabilityXattr: n.capability}
		}
		changes = append(changes, inventory.Change{Entry: e, Opaque: o.opaque})
	}
	return a.inventory.With(digest.Digest(b.Descriptor.Digest), changes, a.passwd, a.group)
}
