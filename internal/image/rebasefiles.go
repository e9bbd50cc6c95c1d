package image

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// maxMerged bounds the size of a file that is merged or restored by content.
const maxMerged = 16 << 20

// compare looks at every path that differs between the parents, and decides
// what it means for the child.
func (r *Rebasing) compare() error {
	diffs, err := inventory.Diff(r.old.Inventory, r.new.Inventory)
	if err != nil {
		return err
	}
	drops := map[string]bool{}
	for _, d := range diffs {
		r.checkBelow(d)
		r.checkCompiled(d, drops)
		if r.own.Touched(d.Path) {
			r.decide(d, drops)
		}
	}
	if slices.ContainsFunc(r.merges, func(m merge) bool { return isDatabase(m.path) }) {
		// What apt has indexed is neither side's list of packages any more.
		for _, p := range []string{"var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin"} {
			drops[p] = drops[p] || r.child.Inventory.Lookup(p).Kind == inventory.File || r.new.Inventory.Lookup(p).Kind == inventory.File
		}
	}
	for p := range drops {
		if !drops[p] {
			delete(drops, p)
		}
	}
	r.drops = slices.Sorted(maps.Keys(drops))
	return nil
}

// checkBelow finds what the child has put into a directory that is none any
// more.
func (r *Rebasing) checkBelow(d inventory.Difference) {
	if d.Before.Kind != inventory.Dir || d.After.Kind == inventory.Dir || r.child.Inventory.Lookup(d.Path).Kind != inventory.Dir {
		return
	}
	for e := range r.child.Inventory.Below(d.Path) {
		if r.own.Has(e.Path) {
			r.conflict(DeletedUnder, d, fmt.Sprintf("the image has %s below it", "/"+e.Path))
			return
		}
	}
}

// checkCompiled finds what Python compiled in the child from a source that is
// another one now. Python tells that by time and size, which may be the same.
func (r *Rebasing) checkCompiled(d inventory.Difference, drops map[string]bool) {
	module, ok := strings.CutSuffix(d.Path, ".py")
	if !ok || r.own.Has(d.Path) {
		return
	}
	dir, name := path.Split(module)
	for e := range r.child.Inventory.Children(dir + "__pycache__") {
		if r.own.Has(e.Path) && compiled(e.Path) == dir+name {
			drops[e.Path] = true
		}
	}
}

// decide says what becomes of a path that the child has touched and that differs
// between the parents.
func (r *Rebasing) decide(d inventory.Difference, drops map[string]bool) {
	o, n, c := d.Before, d.After, r.child.Inventory.Lookup(d.Path)
	own := r.own.Has(d.Path)
	files := plainOrNone(o) && plainOrNone(n) && plainOrNone(c)
	switch {
	case own && inventory.Same(&c, &n), c.Kind == inventory.None && n.Kind == inventory.None:
	case own && inventory.Same(&c, &o) && r.restorable(o, n):
		if n.Kind == inventory.None {
			drops[d.Path] = true
		} else {
			r.restores = append(r.restores, d.Path)
		}
	case files && inventory.Volatile(d.Path) && stale(d.Path):
		drops[d.Path] = own
	case files && inventory.Volatile(d.Path): // a log: the child's stays
	case files && own && mergerOf(d.Path) != nil && max(o.Size, n.Size, c.Size) <= maxMerged:
		r.merges = append(r.merges, merge{d.Path, mergerOf(d.Path)})
	case !own && c.Kind != inventory.None:
		r.conflict(BothChanged, d, "the image has a hard link to it")
	case c.Kind == inventory.None || n.Kind == inventory.None && o.Kind != inventory.None:
		r.conflict(DeletedUnder, d, fmt.Sprintf("%s before, %s in the new parent, %s in the image", o.Kind, n.Kind, c.Kind))
	default:
		r.conflict(BothChanged, d, fmt.Sprintf("%s before, %s in the new parent", o.Kind, n.Kind))
	}
}

func plainOrNone(e inventory.Entry) bool {
	return e.Kind == inventory.None || e.Kind == inventory.File
}

// restorable says whether a path that the child wrote and left as it was can be
// made what the new parent has there.
func (r *Rebasing) restorable(o, n inventory.Entry) bool {
	for name := range n.Xattrs {
		if name != capabilityXattr {
			return false
		}
	}
	switch {
	case n.Kind == inventory.None:
		return o.Kind != inventory.Dir
	case n.Kind != o.Kind:
		return false
	}
	return n.Kind == inventory.Dir || n.Kind == inventory.Symlink || n.Kind == inventory.File && n.Size <= maxMerged
}

func (r *Rebasing) conflict(kind ConflictKind, d inventory.Difference, text string) {
	if isDatabase(d.Path) {
		kind = PackagesTouched
	}
	r.conflicts = append(r.conflicts, Conflict{Kind: kind, Path: "/" + d.Path, Text: text})
}
