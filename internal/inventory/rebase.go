package inventory

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Own says what an image's layers above its base change, as far as its
// inventory, that of the base and the trace of those layers tell.
type Own struct {
	child, base *Inventory
	first       int // number of the first own layer
	touched     map[string]bool
	hidden      map[string]bool
}

// OwnOf gives what the child's layers above those of its base change. Both must
// be full, and the trace must be that of those layers.
func OwnOf(child, base *Inventory, t *Trace) (*Own, error) {
	n := len(base.blobs)
	switch {
	case !child.Full() || !base.Full():
		return nil, fmt.Errorf("telling an image from its base: %w", ErrNeedFull)
	case len(child.blobs) < n || !slices.Equal(child.blobs[:n], base.blobs):
		return nil, fmt.Errorf("telling an image from its base: it does not stand on it")
	case !slices.Equal(child.blobs[n:], t.Blobs):
		return nil, fmt.Errorf("telling an image from its base: the trace is of other layers")
	}
	o := &Own{child: child, base: base, first: n, touched: map[string]bool{}, hidden: map[string]bool{}}
	for _, p := range t.Touched {
		o.touched[p] = true
	}
	for _, p := range t.Hidden {
		o.hidden[p] = true
	}
	for i := range child.entries {
		e := &child.entries[i]
		if e.Blob < n {
			continue
		}
		o.touched[e.Path] = true
		if e.Kind != Dir { // it hides what any base has below
			o.hidden[e.Path] = true
		}
	}
	for i := range base.entries {
		p := base.entries[i].Path
		if _, ok := child.find(p); !ok {
			o.touched[p], o.hidden[p] = true, true
		}
	}
	return o, nil
}

// Touched says whether the own layers wrote, removed or covered a path: what the
// base has there does not show through them, or matters to them.
func (o *Own) Touched(p string) bool { return o.touched[p] || o.below(p) }

// below says whether a path lies below what the own layers hide.
func (o *Own) below(p string) bool {
	for p != "" {
		if p = parentOf(p); o.hidden[p] {
			return true
		}
	}
	return false
}

// Has says whether what stands at a path in the child is its own.
func (o *Own) Has(p string) bool {
	e := o.child.Lookup(p)
	return e.Kind != None && e.Blob >= o.first
}

// On gives the inventory of the own layers on another base.
func (o *Own) On(base *Inventory) (*Inventory, error) {
	if !base.Full() {
		return nil, fmt.Errorf("putting layers on an inventory: %w", ErrNeedFull)
	}
	var lower, upper []Entry
	for i := range base.entries {
		e := base.entries[i]
		if o.Touched(e.Path) {
			if at := o.child.Lookup(e.Path); at.Kind == None || at.Blob >= o.first {
				continue
			}
		}
		lower = append(lower, e)
	}
	shift := len(base.blobs) - o.first
	for i := range o.child.entries {
		if e := o.child.entries[i]; e.Blob >= o.first {
			e.Blob += shift
			upper = append(upper, e)
		}
	}
	v := &Inventory{blobs: append(slices.Clone(base.blobs), o.child.blobs[o.first:]...), entries: mergeEntries(lower, upper)}
	for i := range v.entries {
		e := &v.entries[i]
		if p := parentOf(e.Path); e.Path != "" && v.Lookup(p).Kind != Dir {
			return nil, fmt.Errorf("putting layers on an inventory: %q would stand in no directory", e.Path)
		}
	}
	v.passwd = v.accountOf("etc/passwd", o.child.passwd, base.passwd)
	v.group = v.accountOf("etc/group", o.child.group, base.group)
	return v, nil
}

// Without gives the inventory without a blob that nothing is left of: every path
// that it brought is another blob's now.
func (v *Inventory) Without(blob int) (*Inventory, error) {
	if blob < 0 || blob >= len(v.blobs) {
		return nil, fmt.Errorf("leaving out blob %d of %d: it is not there", blob, len(v.blobs))
	}
	out := &Inventory{entries: slices.Clone(v.entries), blobs: slices.Delete(slices.Clone(v.blobs), blob, blob+1), small: v.small, newest: v.newest, passwd: v.passwd, group: v.group}
	for i := range out.entries {
		switch e := &out.entries[i]; {
		case e.Blob == blob:
			return nil, fmt.Errorf("leaving out blob %d: it holds %q", blob, "/"+e.Path)
		case e.Blob > blob:
			e.Blob--
		}
	}
	return out, nil
}

// accountOf is account with what two inventories know.
func (v *Inventory) accountOf(path string, known ...Account) Account {
	seen := map[[32]byte][]byte{}
	for _, a := range known {
		if a.State == AccountPresent {
			seen[sha256.Sum256(a.Data)] = a.Data
		}
	}
	return v.account(path, Account{}, seen)
}

// WithFiles is [Inventory.With] for changes that may replace the account files:
// contents gives what the changed files hold.
func (v *Inventory) WithFiles(blob digest.Digest, changes []Change, contents map[string][]byte) (*Inventory, error) {
	next, err := v.With(blob, changes, Account{}, Account{})
	if err != nil {
		return nil, err
	}
	seen := []Account{v.passwd}
	for _, data := range contents {
		seen = append(seen, Account{State: AccountPresent, Data: data})
	}
	next.passwd = next.accountOf("etc/passwd", seen...)
	next.group = next.accountOf("etc/group", append(seen, v.group)...)
	return next, nil
}
