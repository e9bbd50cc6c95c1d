package image

import (
	"maps"
	"slices"

	"github.com/strata-build/strata/internal/inventory"
)

// overlay puts what a COPY --link made of nothing on the tree, as a layer goes
// on another: links on the way are not followed but replaced, directories get
// the upper one's mode and owner.
func (t *tree) overlay(upper *tree) {
	for _, p := range slices.Sorted(maps.Keys(upper.nodes)) {
		n := upper.nodes[p]
		if n == nil || p == "" {
			continue
		}
		old := t.at(p)
		if old != nil && old.kind == inventory.Dir && n.kind == inventory.Dir {
			old.mode, old.uid, old.gid = n.mode, n.uid, n.gid
			t.put(p, old)
			continue
		}
		t.remove(p)
		t.put(p, n)
	}
}
