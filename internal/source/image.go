package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/strata-build/strata/internal/inventory"
)

// ErrInexact says that what a COPY takes from an image can't be told from its
// inventory.
var ErrInexact = errors.New("only the engine can tell what it copies")

// FromInventory gives the tree of an image's files, of which COPY --from takes:
// Select means what it means for a build context without an ignore file. The
// inventory must be full. A tree over an inventory has no contents to Open, and
// its entries have no hard links and attributes: the image's layers and its
// inventory have them, by [Entry.Inode].
//
// Errors of Select wrap [ErrInexact] where BuildKit follows links in its own
// way.
func FromInventory(inv *inventory.Inventory) (*Tree, error) {
	if !inv.Full() {
		return nil, fmt.Errorf("selecting from an image: %w", inventory.ErrNeedFull)
	}
	return &Tree{ignore: &ignoreFile{}, image: &imageFiles{inv}}, nil
}

// imageFiles is an image's file system.
type imageFiles struct{ inv *inventory.Inventory }

func (i *imageFiles) list(dir string) ([]node, error) {
	var nodes []node
	for e := range i.inv.Children(imagePath(dir)) {
		nodes = append(nodes, imageNode(e))
	}
	return nodes, nil
}

func (i *imageFiles) stat(p string) (node, error) {
	e := i.inv.Lookup(imagePath(p))
	if e.Kind == inventory.None {
		return node{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
	}
	return imageNode(&e), nil
}

func (i *imageFiles) readlink(p string) (string, error) {
	return i.inv.Lookup(imagePath(p)).Link, nil
}

// imagePath gives the path by which an inventory knows p.
func imagePath(p string) string {
	if p == "." {
		return ""
	}
	return p
}

var imageKinds = map[inventory.Kind]Kind{
	inventory.File: File, inventory.Dir: Dir, inventory.Symlink: Symlink,
	inventory.Fifo: FIFO, inventory.Char: CharDevice, inventory.Block: BlockDevice,
}

func imageNode(e *inventory.Entry) node {
	return node{
		name: path.Base(e.Path), kind: imageKinds[e.Kind], mode: e.Mode, size: e.Size,
		major: uint32(e.Major), minor: uint32(e.Minor),
	}
}

func (t *Tree) selectFromImage(ctx context.Context, s Selection) ([]Entry, error) {
	w := newWalker(t, t.image, s)
	if err := w.selection(ctx); err != nil {
		return nil, err
	}
	for _, m := range w.matches {
		// The walker follows links as the kernel does; BuildKit does not always.
		real, err := t.image.inv.ResolveInRoot(m.path)
		if err != nil || real != imagePath(m.real) {
			return nil, fmt.Errorf("following the links of %q: %w", m.path, ErrInexact)
		}
	}
	for i := range w.out {
		it := &w.out[i]
		it.Inode = imagePath(join(w.matches[it.Index].real, it.Rel))
		switch e := t.image.inv.Lookup(it.Inode); it.Kind {
		case Symlink:
			it.Mode, it.Size, it.Link = 0o777, 0, e.Link
		case File:
			it.Digest = e.Digest()
		}
	}
	return w.entries(), nil
}
