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
	List      *List         // what the layer says where it is known already; Open isn't called then
	DiffID    digest.Digest // what the image's config says of the uncompressed archive; "" is not checked
}

// DiffIDError says that a layer is not what its image's config says: no container
// runtime would unpack it.
type DiffIDError struct {
	Want, Got digest.Digest
}

// Error names both.
func (e *DiffIDError) Error() string {
	return fmt.Sprintf("it is not what the image's config says: uncompressed it is %s, the config's diff_ids name %s", e.Got, e.Want)
}

// Limits on what an image's layers may hold. They are far above what images have
// (the largest of Docker Hub's official images has about 200,000 files) and keep
// hostile layers from filling the memory: two million empty files, which are 15 MB
// of gzip, take some 600 MB.
const (
	maxEntries  = 2 << 20
	maxText     = 256 << 20 // bytes of names, links and extended attributes
	maxContents = 64 << 20  // bytes of files that are kept
	// xattrOverhead is about what one attribute takes beside its name and value.
	xattrOverhead = 256
	maxPath       = 4096 // PATH_MAX
	maxAccount    = 1 << 20
	maxXattrs     = 64 << 10 // a file
	maxBlobs      = 1 << 12
	parallelism   = 2
)

var errTooMuchText = fmt.Errorf("names, links and extended attributes of more than %d MB", maxText>>20)

// FromLayers gives the inventory of base with layers on top, reading every
// layer once. The base must be full; nil is an image without layers. Layers are
// read two at a time and merged in order.
//
// The digests of the blobs and of what they hold are verified. An error means that there is no
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
	var used budget
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(parallelism)
	for i, l := range layers {
		g.Go(func() (err error) {
			lists[i], err = readLayer(reading, l, &used)
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
	if len(lower) == 1 && lower[0].Path == "" { // nothing but the root is left
		if len(upper) == 0 || upper[0].Path != "" {
			upper = insert(upper, lower)
		}
		next.entries = upper
	} else {
		next.entries = mergeEntries(lower, upper)
	}
	if len(next.entries) > maxEntries {
		return nil, fmt.Errorf("more than %d files", maxEntries)
	}
	// Names of one file each have its link and attributes.
	text := 0
	for i := range next.entries {
		e := &next.entries[i]
		text += len(e.Path) + len(e.Link)
		for k, v := range e.Xattrs {
			text += len(k) + len(v) + xattrOverhead
		}
		if text > maxText {
			return nil, errTooMuchText
		}
	}
	return next, nil
}

// visible gives the lower entries that the layer neither hides nor replaces as
// a whole: the same slice where that is all.
func (l *layerList) visible(lower []Entry) []Entry {
	var out []Entry
	last, hidden := "", l.hidesBelow("") // neighbours mostly share their parent
	for i := range lower {
		p := lower[i].Path
		if parent := parentOf(p); parent != last {
			last, hidden = parent, l.hidesBelow(parent)
		}
		switch hides := p != "" && (hidden || l.whiteouts[p]); {
		case hides && out == nil:
			out = append(make([]Entry, 0, len(lower)), lower[:i]...)
		case !hides && out != nil:
			out = append(out, lower[i])
		}
	}
	if out == nil {
		return lower
	}
	return out
}

// hidesBelow reports whether what lower layers have in a directory can't be seen
// through this one.
func (l *layerList) hidesBelow(dir string) bool {
	for p := dir; ; p = parentOf(p) {
		if l.opaques[p] || p != "" && l.whiteouts[p] {
			return true
		}
		if e := l.get(p); e != nil && e.Kind != Dir {
			return true
		}
		if p == "" {
			return false
		}
	}
}

// sorted gives the layer's entries in order, with hard links into lower layers
// resolved and implied directories added. Lower is what it leaves of all.
func (l *layerList) sorted(all, lower []Entry, blob int) ([]Entry, error) {
	folders, err := l.odd(lower, all)
	if err != nil {
		return nil, err
	}
	out := l.entries
	if l.shared {
		out = slices.Clone(out)
	}
	var implied []Entry
	known, text := map[string]bool{}, 0
	imply := func(p string) error {
		known[p] = true
		implied = append(implied, Entry{Path: p, Kind: Dir, Mode: 0o755, Blob: blob})
		if text += len(p); text > maxText { // a long name implies thousands
			return errTooMuchText
		}
		return nil
	}
	for _, p := range folders {
		if err := imply(p); err != nil {
			return nil, err
		}
	}
	last := "\x00"
	for i := range out {
		e := &out[i]
		path := e.Path
		if e.Kind == hardLink {
			at, ok := findEntry(lower, e.Link)
			if !ok || lower[at].Kind == Dir {
				return nil, fmt.Errorf("hard link %q leads to %q, which is not there", path, e.Link)
			}
			t := &lower[at]
			if t.Kind != Symlink && t.Mode != e.Mode || t.UID != e.UID || t.GID != e.GID || !maps.Equal(t.Xattrs, e.Xattrs) {
				return nil, fmt.Errorf("hard link %q changes the mode, owner or attributes of %q in a lower layer", path, e.Link)
			}
			*e = *t
			e.Path = path
		}
		e.Blob = blob
		if path == "" {
			continue
		}
		parent := parentOf(path)
		if parent == last { // neighbours mostly share their parent
			continue
		}
		last = parent
		for p := parent; !known[p]; p = parentOf(p) {
			if e := l.get(p); e != nil {
				if e.Kind != Dir {
					return nil, fmt.Errorf("%q stands below %q, which is a %s", path, p, e.Kind)
				}
				break
			}
			if at, ok := findEntry(lower, p); ok {
				if lower[at].Kind != Dir {
					return nil, fmt.Errorf("%q stands below %q, which is a %s", path, p, lower[at].Kind)
				}
				break
			}
			if err := imply(p); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(implied, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return insert(out, implied), nil
}

// insert puts entries among others, both sorted and without a path in common,
// where possible without another copy of what may be millions.
func insert(into, entries []Entry) []Entry {
	if len(entries) == 0 {
		return into
	}
	n := len(into)
	out := append(into, entries...)
	for at, k := len(out)-1, len(entries)-1; k >= 0; at-- {
		if n > 0 && out[n-1].Path > entries[k].Path {
			n--
			out[at] = out[n]
		} else {
			out[at] = entries[k]
			k--
		}
	}
	return out
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
