package image

import (
	"maps"
	"slices"

	"github.com/strata-build/strata/internal/inventory"
)

// overlay puts what a COPY --link made of nothing on the tree, as a layer goes
// on another: links on the way are not followed but replaced, directories get
// the upper one's mode, owner and time. BuildKit makes a layer of the upper tree
// as it is.
func (t *tree) overlay(upper *tree) {
	for _, p := range slices.Sorted(maps.Keys(upper.nodes)) {
		n := upper.nodes[p]
		if n == nil || p == "" {
			continue
		}
		n.shown = n.now
		old := t.at(p)
		if old != nil && old.kind == inventory.Dir && n.kind == inventory.Dir {
			t.remember(p)
			old.mode, old.uid, old.gid, old.now, old.shown = n.mode, n.uid, n.gid, n.now, n.now
			t.put(p, old)
			continue
		}
		t.drop(p)
		t.put(p, n)
	}
}
