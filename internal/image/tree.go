package image

import (
	"errors"
	"path"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// node is a file, directory or link of the tree: an inode. Paths that share one
// are hard links.
type node struct {
	kind         inventory.Kind
	mode         uint32
	uid, gid     int
	link         string
	major, minor int64
	size         int64
	capability   string  // security.capability, the one attribute that layers keep
	content      content // of a file that the tail brings
	fresh        bool    // made by the tail: nothing of the parent is in it
	now          stamp   // its time after the instruction at work
	shown        stamp   // its time in the last layer that BuildKit would have it in
	old          stamp   // of a file of the parent
	turn         int     // of the instruction that put it in its place last
}

// tree is the parent's file system with what the tail does to it on top. It
// answers from the parent's inventory and keeps the changes.
//
// Paths are relative to the root, clean, without a leading slash.
type tree struct {
	base    *inventory.Inventory
	nodes   map[string]*node // changed or new; nil where something was removed
	hidden  map[string]bool  // directories of the base whose content can't be seen any more
	turn    int              // number of the instruction at work, from 1
	before  []change         // what stood where it has changed something
	gone    map[string]bool  // where it has removed something
	touched bool             // any instruction wrote, though perhaps nothing changed
}

func newTree(base *inventory.Inventory) *tree {
	return &tree{base: base, nodes: map[string]*node{}, hidden: map[string]bool{}, gone: map[string]bool{}, turn: 1}
}

// at gives what stands at a path itself, nil for nothing. What it gives for a
// path of the base is a copy; put makes a change of it count.
func (t *tree) at(p string) *node {
	if n, ok := t.nodes[p]; ok {
		return n
	}
	for dir := p; dir != ""; {
		dir = parent(dir)
		if t.hidden[dir] {
			return nil
		}
		if n, ok := t.nodes[dir]; ok && (n == nil || n.kind != inventory.Dir || n.fresh) {
			return nil
		}
	}
	return t.below(p)
}

// below gives what the base has at a path, hidden or not.
func (t *tree) below(p string) *node {
	e := t.base.Lookup(p)
	if e.Kind == inventory.None {
		return nil
	}
	when := stampOf(e.Time, e.Kind)
	return &node{
		kind: e.Kind, mode: e.Mode, uid: e.UID, gid: e.GID, link: e.Link, major: e.Major, minor: e.Minor,
		size: e.Size, capability: e.Xattrs[capabilityXattr], now: when, shown: when, old: when,
	}
}

const capabilityXattr = "security.capability"

// put makes a change count. What stood there must be remembered before it is
// changed in place.
func (t *tree) put(p string, n *node) {
	t.remember(p)
	t.touched = true
	t.nodes[p] = n
	if n == nil {
		t.gone[p] = true
	} else {
		n.turn = t.turn
	}
}

// remove takes away whatever stands at a path, with everything below it.
func (t *tree) remove(p string) {
	if t.at(p) != nil {
		t.drop(p)
		t.touch(parent(p))
	}
}

// drop is remove that leaves the directory's time alone.
func (t *tree) drop(p string) {
	n := t.at(p)
	if n == nil {
		return
	}
	if n.kind == inventory.Dir {
		for q := range t.nodes {
			if strings.HasPrefix(q, p+"/") {
				t.remember(q)
				delete(t.nodes, q)
			}
		}
	}
	if b := t.below(p); b != nil && b.kind == inventory.Dir {
		t.hidden[p] = true
	}
	t.put(p, nil)
}

// resolve follows every link in a path inside of the root.
func (t *tree) resolve(p string) (string, error) {
	at, err := inventory.Resolve(p, func(q string) (inventory.Kind, string, error) {
		n := t.at(q)
		if n == nil {
			return inventory.None, "", nil
		}
		return n.kind, n.link, nil
	})
	switch {
	case errors.Is(err, inventory.ErrNotDir):
		return "", inexact("a file stands where %q needs a directory", p)
	case err != nil:
		return "", inexact("%s", err)
	}
	return at, nil
}

// mkdirAll makes a directory and its parents as fsutil's copy.MkdirAll does.
// The path is resolved. A nil owner leaves new directories to root.
//
// Below a directory with the setgid bit the kernel hands on group and bit, and
// builds of BuildKit differ in what they do about it: not exact.
func (t *tree) mkdirAll(p string, mode uint32, owner *owner) error {
	if n := t.at(p); n != nil {
		if n.kind != inventory.Dir {
			return inexact("%q is a %s, not a directory", "/"+p, n.kind)
		}
		return nil
	}
	if err := t.mkdirAll(parent(p), mode, owner); err != nil {
		return err
	}
	if t.at(parent(p)).mode&0o2000 != 0 {
		return inexact("%q would be made in a directory with the setgid bit", "/"+p)
	}
	n := &node{kind: inventory.Dir, mode: mode & 0o777, fresh: true}
	if owner != nil {
		n.uid, n.gid = owner.uid, owner.gid
	}
	t.create(p, n)
	return nil
}

// changed reports whether a path has to be in the blob for its own sake.
func (t *tree) changed(p string, n *node) bool {
	b := t.below(p)
	if n == nil {
		return b != nil && !t.masked(p)
	}
	if n.kind != inventory.Dir || t.hidden[p] || t.masked(p) || b == nil {
		return true
	}
	return b.kind != inventory.Dir || b.mode != n.mode || b.uid != n.uid || b.gid != n.gid
}

// masked reports whether a directory above hides what the base has at a path.
func (t *tree) masked(p string) bool {
	for p != "" {
		p = parent(p)
		if t.hidden[p] {
			return true
		}
		if n, ok := t.nodes[p]; ok && (n == nil || n.kind != inventory.Dir) {
			return true
		}
	}
	return false
}

// parent gives the directory of a path; "" is the root.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func join(dir, name string) string {
	return strings.TrimPrefix(path.Join("/", dir, name), "/")
}
