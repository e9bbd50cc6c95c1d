package inventory

import (
	"fmt"
	"maps"
)

// What honest tools do not write is unpacked all the same, and an inventory has to
// say what comes of it: an image whose list shows less than it has could bring a
// program with other rights past whoever reads the list. What overlayfs and plain
// folders would make different things of has no inventory.

// inodes are the files of a layer that have more than one name. Whoever unpacks a
// hard link gives the file that it leads to the mode and owner that stand with the
// link.
type inodes struct {
	of   map[string]int // by path
	last []Entry        // what was said last of each
}

// link notes that e is another name of the file at target, as t is known, and
// gives what e is then.
func (n *inodes) link(e Entry, target string, t Entry) Entry {
	if n.of == nil {
		n.of = map[string]int{}
	}
	id, ok := n.of[target]
	if !ok {
		id = len(n.last)
		n.of[target], n.last = id, append(n.last, t)
	}
	last := n.last[id]
	if last.Kind != Symlink { // whose mode can't be set
		last.Mode = e.Mode
	}
	last.UID, last.GID, last.Time = e.UID, e.GID, e.Time
	// A new owner takes the capabilities away; other attributes stay.
	attrs := maps.Clone(last.Xattrs)
	delete(attrs, "security.capability")
	for name, value := range e.Xattrs {
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[name] = value
	}
	if len(attrs) == 0 {
		attrs = nil
	}
	last.Xattrs = attrs
	n.of[e.Path], n.last[id] = id, last
	last.Path = e.Path
	return last
}

// forget notes that a path is a file of its own from here on.
func (n *inodes) forget(path string) { delete(n.of, path) }

// settle gives all names of a file what was said last.
func (n *inodes) settle(entries map[string]Entry) {
	for path, id := range n.of {
		if _, ok := entries[path]; ok {
			e := n.last[id]
			e.Path = path
			entries[path] = e
		}
	}
}

// covered notes a folder that stands where the layer had a file before.
func (l *layerList) covered(path string) {
	if l.remade == nil {
		l.remade = map[string]bool{}
	}
	l.remade[path] = true
}

// odd says what makes a layer one that can't be told, on top of what lower layers
// leave, and gives the folders that whiteouts imply.
func (l *layerList) odd(lower []Entry, all []Entry) (implied []string, err error) {
	for path := range l.remade {
		if i, ok := findEntry(all, path); ok && all[i].Kind == Dir {
			return nil, fmt.Errorf("%q is a folder below, then a file, and a folder again", path)
		}
	}
	seen := map[string]bool{"": true}
	look := func(dir string) error {
		for p := dir; !seen[p]; p = parentOf(p) {
			seen[p] = true
			e, ok := l.entries[p]
			if !ok {
				i, found := findEntry(lower, p)
				if !found {
					implied = append(implied, p)
					continue
				}
				e = lower[i]
			}
			if e.Kind != Dir {
				return fmt.Errorf("it takes away what is below %q, which is a %s", p, e.Kind)
			}
		}
		return nil
	}
	for path := range l.whiteouts {
		if err := look(parentOf(path)); err != nil {
			return nil, err
		}
	}
	for dir := range l.opaques {
		if err := look(dir); err != nil {
			return nil, err
		}
	}
	return implied, nil
}
