package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Layer is one compressed layer of an image.
type Layer struct {
	Blob      digest.Digest
	MediaType string // informative: the compression is read from the data
	Open      func() (io.ReadCloser, error)
	List      *List // what the layer says where it is known already; Open isn't called then
}

// Limits on what a layer may hold. They are far above what images have (the
// largest of Docker Hub's official images has about 200,000 files) and keep a
// hostile layer from filling the memory.
const (
	maxEntries  = 4 << 20
	maxPath     = 4096 // PATH_MAX
	maxAccount  = 1 << 20
	maxXattrs   = 64 << 10 // a file
	maxBlobs    = 1 << 12
	parallelism = 2
)

// FromLayers gives the inventory of base with layers on top, reading every
// layer once. The base must be full; nil is an image without layers. Layers are
// read two at a time and merged in order.
//
// The digests of the blobs are verified. An error means that there is no
// inventory for this image; it wraps [ErrNeedFull] when the base is a small
// one.
func FromLayers(ctx context.Context, base *Inventory, layers []Layer) (*Inventory, error) {
	if base == nil {
		base = Empty()
	}
	v, _, err := fromLayers(ctx, base, layers)
	return v, err
}

func fromLayers(ctx context.Context, base *Inventory, layers []Layer) (*Inventory, []*layerList, error) {
	if !base.Full() {
		return nil, nil, fmt.Errorf("adding layers to an inventory: %w", ErrNeedFull)
	}
	lists := make([]*layerList, len(layers))
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(parallelism)
	for i, l := range layers {
		g.Go(func() (err error) {
			lists[i], err = readLayer(reading, l)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	v := base
	accounts := map[[32]byte][]byte{}
	for i, l := range lists {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		next, err := v.apply(l, layers[i].Blob)
		if err != nil {
			return nil, nil, fmt.Errorf("applying layer %s: %w", layers[i].Blob, err)
		}
		for sum, data := range l.accounts {
			accounts[sum] = data
		}
		v = next
	}
	if v == base {
		return v, lists, nil
	}
	v.passwd = v.account("etc/passwd", base.passwd, accounts)
	v.group = v.account("etc/group", base.group, accounts)
	return v, lists, nil
}

// account finds the content of an account file among what was read. What the
// base knew stays valid while the content's digest is the same.
func (v *Inventory) account(path string, base Account, seen map[[32]byte][]byte) Account {
	at, err := v.ResolveInRoot(path)
	if err != nil {
		return Account{State: AccountUnknown}
	}
	e := v.Lookup(at)
	switch {
	case e.Kind == None:
		return Account{State: AccountAbsent}
	case e.Kind != File:
		return Account{State: AccountUnknown, Path: at}
	}
	if data, ok := seen[e.Content]; ok {
		return Account{State: AccountPresent, Path: at, Data: data}
	}
	if base.State == AccountPresent && digest.FromBytes(base.Data) == e.Digest() {
		return Account{State: AccountPresent, Path: at, Data: base.Data}
	}
	return Account{State: AccountUnknown, Path: at}
}

// apply gives the inventory with one layer on top, as the OCI image
// specification (layer.md, "Applying Changesets") wants it: whiteouts hide
// what lower layers have, then the layer's own entries are added.
func (v *Inventory) apply(l *layerList, blob digest.Digest) (*Inventory, error) {
	lower := l.visible(v.entries)
	if len(v.blobs) >= maxBlobs {
		return nil, errors.New("too many layers")
	}
	next := &Inventory{blobs: append(slices.Clone(v.blobs), blob)}
	upper, err := l.sorted(v.entries, lower, len(v.blobs))
	if err != nil {
		return nil, err
	}
	next.entries = mergeEntries(lower, upper)
	if len(next.entries) > maxEntries {
		return nil, fmt.Errorf("more than %d files", maxEntries)
	}
	return next, nil
}

// visible gives the lower entries that the layer neither hides nor replaces as
// a whole. The result is fresh.
func (l *layerList) visible(lower []Entry) []Entry {
	out := make([]Entry, 0, len(lower)+len(l.entries))
	for i := range lower {
		if !l.hides(lower[i].Path) {
			out = append(out, lower[i])
		}
	}
	return out
}

// hides reports whether a path of a lower layer can't be seen through this one.
// Entries that the layer sets itself are not asked for here: the merge replaces
// them.
func (l *layerList) hides(path string) bool {
	if path == "" {
		return false
	}
	if l.whiteouts[path] {
		return true
	}
	for p := path; p != ""; {
		p = parentOf(p)
		if l.opaques[p] || (p != "" && l.whiteouts[p]) {
			return true
		}
		if e, ok := l.entries[p]; ok && e.Kind != Dir {
			return true
		}
	}
	return false
}

// sorted gives the layer's entries in order, with hard links into lower layers
// resolved and implied directories added. Lower is what it leaves of all.
func (l *layerList) sorted(all, lower []Entry, blob int) ([]Entry, error) {
	out := make([]Entry, 0, len(l.entries))
	implied := map[string]bool{}
	folders, err := l.odd(lower, all)
	if err != nil {
		return nil, err
	}
	for _, p := range folders {
		implied[p] = true
		out = append(out, Entry{Path: p, Kind: Dir, Mode: 0o755, Blob: blob})
	}
	for path, e := range l.entries {
		if e.Kind == hardLink {
			i, ok := findEntry(lower, e.Link)
			if !ok || lower[i].Kind == Dir {
				return nil, fmt.Errorf("hard link %q leads to %q, which is not there", path, e.Link)
			}
			if t := lower[i]; t.Kind != Symlink && t.Mode != e.Mode || t.UID != e.UID || t.GID != e.GID || !maps.Equal(t.Xattrs, e.Xattrs) {
				return nil, fmt.Errorf("hard link %q changes the mode, owner or attributes of %q in a lower layer", path, e.Link)
			}
			e = lower[i]
			e.Path = path
		}
		e.Blob = blob
		out = append(out, e)
		for p := path; p != ""; {
			p = parentOf(p)
			if _, ok := l.entries[p]; ok || implied[p] {
				break
			}
			if i, ok := findEntry(lower, p); ok {
				if lower[i].Kind != Dir {
					return nil, fmt.Errorf("%q stands below %q, which is a %s", path, p, lower[i].Kind)
				}
				break
			}
			implied[p] = true
			out = append(out, Entry{Path: p, Kind: Dir, Mode: 0o755, Blob: blob})
		}
	}
	for path := range l.entries {
		if p := parentOf(path); path != "" && l.entries[p].Kind != Dir && l.entries[p].Kind != None {
			return nil, fmt.Errorf("%q stands below %q, which is a %s", path, p, l.entries[p].Kind)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// mergeEntries merges two sorted lists; upper wins.
func mergeEntries(lower, upper []Entry) []Entry {
	out := make([]Entry, 0, len(lower)+len(upper))
	i := 0
	for _, e := range upper {
		for i < len(lower) && lower[i].Path < e.Path {
			out = append(out, lower[i])
			i++
		}
		if i < len(lower) && lower[i].Path == e.Path {
			i++
		}
		out = append(out, e)
	}
	return append(out, lower[i:]...)
}
