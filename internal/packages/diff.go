package packages

import (
	"cmp"
	"slices"
)

// ChangeKind says what has become of a package.
type ChangeKind string

// The kinds of change.
const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Upgraded   ChangeKind = "upgraded"
	Downgraded ChangeKind = "downgraded"
	Changed    ChangeKind = "changed" // its version is the same, what is noted of it is not
)

// Change is a package that differs between two databases.
type Change struct {
	Kind ChangeKind `json:"kind"`
	Name string     `json:"name"`
	Arch string     `json:"arch,omitempty"`
	Old  string     `json:"old,omitempty"` // version
	New  string     `json:"new,omitempty"`
}

// Diff gives the packages whose installation differs, by name. Either database
// may be nil.
func Diff(old, new *DB) []Change {
	nat := native(old, new)
	before, after := old.ids(nat), new.ids(nat)
	kind := Dpkg
	if new != nil {
		kind = new.Kind
	} else if old != nil {
		kind = old.Kind
	}
	var out []Change
	for k, p := range before {
		if q := after[k]; p.Installed && (q == nil || !q.Installed) {
			out = append(out, Change{Kind: Removed, Name: p.Name, Arch: p.Arch, Old: p.Version})
		}
	}
	for k, q := range after {
		if !q.Installed {
			continue
		}
		p := before[k]
		if p == nil || !p.Installed {
			out = append(out, Change{Kind: Added, Name: q.Name, Arch: q.Arch, New: q.Version})
			continue
		}
		c := Change{Kind: Changed, Name: q.Name, Arch: q.Arch, Old: p.Version, New: q.Version}
		switch order := Compare(kind, p.Version, q.Version); {
		case order < 0:
			c.Kind = Upgraded
		case order > 0:
			c.Kind = Downgraded
		case p.same(q):
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}
