package image

import (
	"encoding/hex"
	"errors"
	"slices"

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
	when := epochTime(a.options.Created)
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
	changes, err := a.changes(b)
	if err != nil {
		return nil, err
	}
	return a.inventory.With(b.Descriptor.Digest, changes, a.passwd, a.group)
}

// Tail gives the inventory of the new blob alone, directories above its files
// included. The blob need not have been written where every content was known
// beforehand.
func (a *Appended) Tail(b *Blob) (*inventory.Inventory, error) {
	changes, err := a.changes(b)
	if err != nil {
		return nil, err
	}
	return inventory.Empty().With(b.Descriptor.Digest, changes, inventory.Account{}, inventory.Account{})
}

func (a *Appended) changes(b *Blob) ([]inventory.Change, error) {
	changes := make([]inventory.Change, 0, len(a.files))
	for _, o := range a.files {
		if o.node == nil {
			return nil, errors.New("internal error: a tail removed " + o.path)
		}
		n := o.node
		e := inventory.Entry{
			Path: o.path, Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Link: n.link, Major: n.major, Minor: n.minor,
			Time: o.time,
		}
		if n.kind == inventory.File {
			e.Size, e.Content = n.size, b.sum(n)
		}
		if n.capability != "" {
			e.Xattrs = map[string]string{capabilityXattr: n.capability}
		}
		changes = append(changes, inventory.Change{Entry: e, Opaque: o.opaque})
	}
	return changes, nil
}

// sum gives the digest of a file's content: as it was read, or as it must be.
func (b *Blob) sum(n *node) (sum [32]byte) {
	if s, ok := b.sums[n]; ok {
		return s
	}
	if n.content != nil {
		if want, err := hex.DecodeString(n.content.want().Encoded()); err == nil {
			copy(sum[:], want)
		}
	}
	return sum
}
