package inventory

import (
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Difference is one path that two images do not have in common. Before.Kind is
// [None] for an added path, After.Kind for a removed one.
type Difference struct {
	Path          string
	Before, After Entry
}

// Diff gives the paths in which b differs from a, in order: kind, mode, owner,
// link, device, content and extended attributes, not the blob and not the time.
// Both must be full.
func Diff(a, b *Inventory) ([]Difference, error) {
	if !a.Full() || !b.Full() {
		return nil, fmt.Errorf("comparing inventories: %w", ErrNeedFull)
	}
	var out []Difference
	x, y := a.entries, b.entries
	for len(x) > 0 || len(y) > 0 {
		switch {
		case len(y) == 0 || (len(x) > 0 && x[0].Path < y[0].Path):
			out = append(out, Difference{Path: x[0].Path, Before: x[0]})
			x = x[1:]
		case len(x) == 0 || y[0].Path < x[0].Path:
			out = append(out, Difference{Path: y[0].Path, After: y[0]})
			y = y[1:]
		default:
			if !Same(&x[0], &y[0]) {
				out = append(out, Difference{Path: x[0].Path, Before: x[0], After: y[0]})
			}
			x, y = x[1:], y[1:]
		}
	}
	return out, nil
}

// Same reports whether two entries are the same file, wherever it came from and
// whenever it was made: a build that is done again gives other times.
func Same(a, b *Entry) bool {
	return a.Kind == b.Kind && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size &&
		a.Link == b.Link && a.Major == b.Major && a.Minor == b.Minor && a.Content == b.Content &&
		maps.Equal(a.Xattrs, b.Xattrs)
}

// Change is what something put on an image did to one path. One whose Kind is
// [None] took away what stood there.
type Change struct {
	Entry
	Opaque bool // a directory that shows nothing of what stood below it before
}

// With gives the inventory of the image with one more blob that makes the
// changes, without reading that blob. It works on full and on small
// inventories and gives one of the same part. The account files are those given,
// since a change may replace them.
func (v *Inventory) With(blob digest.Digest, changes []Change, passwd, group Account) (*Inventory, error) {
	l := newLayerList(nil)
	for _, c := range changes {
		if !cleanPath(c.Path) || len(c.Path) > maxPath {
			return nil, fmt.Errorf("adding %q to an inventory: the path is not clean", c.Path)
		}
		if c.Kind == None {
			l.whiteouts[c.Path] = true
			continue
		}
		l.draft.put(c.Entry)
		if c.Opaque {
			l.opaques[c.Path] = true
		}
	}
	l.seal()
	next, err := v.apply(l, blob)
	if err != nil {
		return nil, fmt.Errorf("adding %s to an inventory: %w", blob, err)
	}
	if next.small = v.small; next.small {
		next.newest = max(v.newest, next.newestOf(1<<63-1))
		forget(next.entries)
	}
	next.passwd, next.group = passwd, group
	return next, nil
}

// BlobSizes gives the sum of the sizes of regular files by the blob that
// brought them.
func (v *Inventory) BlobSizes() []int64 {
	out := make([]int64, len(v.blobs))
	for i := range v.entries {
		if e := &v.entries[i]; e.Kind == File && e.Blob >= 0 {
			out[e.Blob] += e.Size
		}
	}
	return out
}

// String gives "kind mode uid:gid path", for tables and tests.
func (e *Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %04o %d:%d /%s", e.Kind, e.Mode, e.UID, e.GID, e.Path)
	switch e.Kind {
	case File:
		fmt.Fprintf(&b, " %d", e.Size)
	case Symlink:
		fmt.Fprintf(&b, " -> %s", e.Link)
	case Char, Block:
		fmt.Fprintf(&b, " %d:%d", e.Major, e.Minor)
	}
	return b.String()
}
