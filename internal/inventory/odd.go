package inventory

import (
	"fmt"
	"maps"
)

// What honest tools do not write is unpacked all the same, and an inventory has to
// say what comes of it: an image whose list shows less than it has could bring a
// program with other rights past whoever reads the list. What overlayfs and plain
// folders would make different things of has no inventory.

// relink gives what a file is when e is a hard link to it: whoever unpacks one
// gives the file the mode and owner that stand with the link. The attributes are
// changed in place.
func relink(file, e Entry) Entry {
	if file.Kind != Symlink { // whose mode can't be set
		file.Mode = e.Mode
	}
	file.Path, file.UID, file.GID, file.Time = e.Path, e.UID, e.GID, e.Time
	// A new owner takes the capabilities away; other attributes stay.
	delete(file.Xattrs, "security.capability")
	if len(file.Xattrs) == 0 {
		file.Xattrs = e.Xattrs
		return file
	}
	maps.Copy(file.Xattrs, e.Xattrs)
	return file
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
	seen, text := map[string]bool{"": true}, 0
	look := func(dir string) error {
		for p := dir; !seen[p]; p = parentOf(p) {
			seen[p] = true
			e := l.get(p)
			if e == nil {
				i, found := findEntry(lower, p)
				if !found {
					implied = append(implied, p)
					if text += len(p); text > maxText { // a long name implies thousands
						return errTooMuchText
					}
					continue
				}
				e = &lower[i]
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
