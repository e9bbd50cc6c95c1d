package packages

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ConflictKind says why a package can't be merged.
type ConflictKind string

// The kinds of conflict.
const (
	BothChanged    ConflictKind = "both changed"
	RemovedChanged ConflictKind = "removed and changed" // by one side each
	IsDowngraded   ConflictKind = "downgraded"          // by the new parent
	Unsatisfied    ConflictKind = "unsatisfied"         // a demand that was met is not any more
	Unreadable     ConflictKind = "unreadable"
)

// Conflict is a package of which the merged database would not be right.
type Conflict struct {
	Kind    ConflictKind `json:"kind"`
	Package string       `json:"package"` // with the architecture where it has one: "libc6:amd64"
	Text    string       `json:"text"`    // one sentence without a full stop
}

// String gives the package and what is wrong with it.
func (c Conflict) String() string { return c.Package + ": " + c.Text }

// Merge puts what an image has changed in its old parent's database on that of a
// new parent: old and new are the parents', child is the image's. The result is
// meant only when there is no conflict.
//
// A stanza that only one side has changed is taken from that side. Every demand
// (Depends, Pre-Depends, Conflicts, Breaks and apk's) that was met where its
// package comes from, the child or the new parent, has to be met by the merged packages, by version and
// through what packages provide. Stanzas come in the order of the child's file;
// where that is sorted by name, the result is, and else what the new parent adds
// follows the package that it follows there.
func Merge(old, new, child *DB) (*DB, []Conflict) {
	m := &merging{kind: Dpkg, native: native(old, new, child)}
	for _, db := range []*DB{old, new, child} {
		if db == nil {
			continue
		}
		if m.kind = db.Kind; slices.ContainsFunc([]*DB{old, new, child}, func(o *DB) bool { return o != nil && o.Kind != db.Kind }) {
			return nil, []Conflict{{Unreadable, string(db.Kind), "the package databases are of different forms"}}
		}
	}
	m.old, m.new, m.child = old.ids(m.native), new.ids(m.native), child.ids(m.native)
	for _, db := range []*DB{old, new, child} {
		if seen := db.ids(m.native); len(seen) != len(db.list()) {
			m.conflict(Unreadable, id{name: string(m.kind)}, "a package stands in the database twice")
		}
	}
	merged := &DB{Kind: m.kind, end: "\n\n"}
	if child != nil {
		merged.end = child.end
	}
	for _, k := range m.order(new, child) {
		if p := m.choose(k); p != nil {
			merged.Packages = append(merged.Packages, *p)
		}
	}
	m.checkDemands(merged, new, child)
	slices.SortStableFunc(m.conflicts, func(a, b Conflict) int { return strings.Compare(a.Package, b.Package) })
	return merged, m.conflicts
}

// merging is one [Merge] at work.
type merging struct {
	kind            Kind
	native          string
	old, new, child map[id]*Package
	conflicts       []Conflict
}

func (m *merging) conflict(kind ConflictKind, k id, format string, args ...any) {
	name := k.name
	if k.arch != "" {
		name += ":" + k.arch
	}
	m.conflicts = append(m.conflicts, Conflict{kind, name, fmt.Sprintf(format, args...)})
}

// choose gives the stanza of a package in the merged database; nil for none.
func (m *merging) choose(k id) *Package {
	o, n, c := m.old[k], m.new[k], m.child[k]
	if o != nil && n != nil && o.Installed && n.Installed && Compare(m.kind, n.Version, o.Version) < 0 {
		m.conflict(IsDowngraded, k, "the new parent goes back from %s to %s", o.Version, n.Version)
	}
	switch {
	case c.same(o):
		return n
	case n.same(o), c.same(n):
		return c
	case c == nil:
		m.conflict(RemovedChanged, k, "the image removed %s, and the new parent has %s", o.Version, n.Version)
		return n
	case n == nil:
		m.conflict(RemovedChanged, k, "the new parent does without %s, and the image has %s", o.Version, c.Version)
	case o == nil:
		m.conflict(BothChanged, k, "the new parent added %s, and the image %s", n.Version, c.Version)
	default:
		m.conflict(BothChanged, k, "it was %s, the new parent has %s, and the image %s", o.Version, n.Version, c.Version)
	}
	return c
}

// order gives all packages in the order of the merged database.
func (m *merging) order(new, child *DB) []id {
	var out []id
	at := map[id]bool{}
	for i := range child.list() {
		k := child.Packages[i].id(m.kind, m.native)
		if !at[k] {
			at[k] = true
			out = append(out, k)
		}
	}
	sorted := slices.IsSortedFunc(out, compareIDs)
	after := map[id][]id{} // what the child does not have, by what it follows
	var last id
	for i := range new.list() {
		k := new.Packages[i].id(m.kind, m.native)
		if at[k] {
			last = k
			continue
		}
		at[k] = true
		after[last] = append(after[last], k)
	}
	if sorted {
		for _, more := range after {
			out = append(out, more...)
		}
		slices.SortFunc(out, compareIDs)
		return out
	}
	all := slices.Clone(after[id{}])
	for _, k := range out {
		all = append(append(all, k), after[k]...)
	}
	return all
}

func compareIDs(a, b id) int {
	return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.arch, b.arch))
}

// checkDemands finds the demands that are not met by the merged packages but
// were where their package comes from.
func (m *merging) checkDemands(merged, new, child *DB) {
	all, there, here := newWorld(merged, m.native), newWorld(new, m.native), newWorld(child, m.native)
	for i := range merged.Packages {
		p := &merged.Packages[i]
		if !p.Installed {
			continue
		}
		k := p.id(m.kind, m.native)
		for _, r := range p.rules(m.kind) {
			if all.holds(p, r) {
				continue
			}
			from := here // what the image itself has broken may stay so
			if !p.same(m.child[k]) {
				from = there
			}
			if !from.holds(p, r) {
				continue
			}
			if r.none {
				m.conflict(Unsatisfied, k, "%s %s: %s, which is there", p.Version, strings.ToLower(r.field), r.text(m.kind))
			} else {
				m.conflict(Unsatisfied, k, "%s %s: %s, which is not there", p.Version, strings.ToLower(r.field), r.text(m.kind))
			}
		}
	}
}
