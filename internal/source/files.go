package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/hostfile"
)

// Node is one name of a folder that is not on disk.
type Node struct {
	Name string
	Kind Kind
	Mode uint32 // as in [Entry]
}

// Sum is what the content of a file comes to.
type Sum struct {
	Digest digest.Digest // sha256
	Size   int64         // in bytes
}

// Files is a build context that is not on disk: the tree of a commit. Paths are
// clean and relative to it, "." is the whole; none leads through a link.
type Files interface {
	// List gives the content of a folder, sorted by name.
	List(dir string) ([]Node, error)
	// Stat looks at a path without following it. What is not there is an
	// fs.ErrNotExist.
	Stat(path string) (Node, error)
	Readlink(path string) (string, error)
	ReadFile(path string) ([]byte, error)
	// Sums gives what the files at the paths come to, in their order.
	Sums(paths []string) ([]Sum, error)
}

// FromFiles gives the tree of a build context that is not on disk. Own is the
// content of the Dockerfile's own ignore file, which is called name; nil means
// that it has none, and that the context's is in force. Its entries have no hard
// links and no attributes, and each names by [Entry.Inode] where it lies.
func FromFiles(f Files, name string, own []byte) (*Tree, error) {
	t := &Tree{files: f, ignore: &ignoreFile{}, fresh: newMemo()}
	var err error
	if own == nil {
		name = ".dockerignore"
		real, _, e := newWalker(t, view{f}, Selection{}).resolve(context.Background(), name)
		var gone *goneError
		if errors.As(e, &gone) {
			return t, nil
		}
		if e == nil {
			own, e = f.ReadFile(real)
		}
		if e == nil && len(own) > hostfile.MaxText {
			e = hostfile.ErrTooLarge(hostfile.MaxText)
		}
		if e != nil {
			return nil, fmt.Errorf("reading ignore file %q: %w", name, e)
		}
	}
	t.ignore, err = parseIgnoreFile(name, own)
	return t, err
}

// Over gives the same rules over other files. The ignore file must be the same in
// both.
func (t *Tree) Over(f Files) *Tree { return &Tree{files: f, ignore: t.ignore, fresh: newMemo()} }

// view is Files as the walker sees them.
type view struct{ Files }

func (v view) list(dir string) ([]node, error) {
	found, err := v.List(dir)
	if err != nil {
		return nil, err
	}
	nodes := make([]node, len(found))
	for i, n := range found {
		nodes[i] = node{name: n.Name, kind: n.Kind, mode: n.Mode}
	}
	return nodes, nil
}

func (v view) stat(p string) (node, error) {
	n, err := v.Stat(p)
	return node{name: n.Name, kind: n.Kind, mode: n.Mode}, err
}

func (v view) readlink(p string) (string, error) { return v.Readlink(p) }

func (t *Tree) selectFromFiles(ctx context.Context, s Selection) ([]Entry, error) {
	w := newWalker(t, view{t.files}, s)
	if err := w.selection(ctx); err != nil {
		return nil, err
	}
	var at []int
	var paths []string
	for i := range w.out {
		it := &w.out[i]
		it.Inode = join(w.matches[it.Index].real, it.Rel)
		switch {
		case it.Kind == Symlink:
			target, err := t.files.Readlink(it.Inode)
			if err != nil {
				return nil, fmt.Errorf("reading %q: %w", it.Path, err)
			}
			it.Mode, it.Size, it.Link = 0o777, 0, target
		case it.hollow:
			it.Digest = emptyDigest
		case it.Kind == File:
			at, paths = append(at, i), append(paths, it.Inode)
		}
	}
	sums, err := t.files.Sums(paths)
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		w.out[i].Digest, w.out[i].Size = sums[n].Digest, sums[n].Size
	}
	return w.entries(), nil
}

// openFile opens a file of a tree that is not on disk.
func (t *Tree) openFile(path string) (io.ReadCloser, error) {
	w := newWalker(t, view{t.files}, Selection{})
	real, n, err := w.resolve(context.Background(), cleanPath(path))
	var data []byte
	if err == nil && !n.hollow {
		data, err = t.files.ReadFile(real)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Renew gives what a Select of an earlier tree over other [Files] gave, as it is
// in this one, where between the two nothing but the contents of regular files
// changed, and not those of the ignore file. Changed holds their paths. It says
// no where that is not enough to tell; Select then is.
func (t *Tree) Renew(entries []Entry, changed map[string]bool) ([]Entry, bool, error) {
	if r := t.ignore.rules(); r != nil && r.mixed {
		return nil, false, nil // a file may arrive empty whatever it holds
	}
	var at []int
	var paths []string
	for i := range entries {
		if entries[i].Kind == File && changed[entries[i].Inode] {
			at, paths = append(at, i), append(paths, entries[i].Inode)
		}
	}
	if len(at) == 0 {
		return entries, true, nil
	}
	sums, err := t.files.Sums(paths)
	if err != nil {
		return nil, false, err
	}
	out := slices.Clone(entries)
	for n, i := range at {
		out[i].Digest, out[i].Size = sums[n].Digest, sums[n].Size
	}
	return out, true, nil
}
