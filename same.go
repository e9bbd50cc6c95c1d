package strata

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/key"
)

// sameAsBefore gives the unit's last image, or the trunk of it, if what was
// built now is the same but for volatile files: then the old one stays, and
// what stands on it need not be made again. Nil means that it is another, or
// that it can't be told. Where the unit's own instructions or files have changed,
// a volatile file may be what they are about, and so nothing may differ.
func (r *runner) sameAsBefore(ctx context.Context, u *graph.Unit, built *picture, inv *inventory.Inventory, recipe key.Recipe, whole bool) *picture {
	last := r.pass.lastImage(u)
	if last == nil {
		return nil
	}
	c := r.pass.Config.Client
	trunk := digest.Digest(last.manifest.Annotations[annotationTrunk])
	switch {
	case whole && trunk != "", !whole && trunk == "":
		return nil // the cut between trunk and tail has moved
	case !whole:
		img, err := loadPicture(ctx, c, last.ref.WithDigest(trunk))
		if err != nil {
			return nil
		}
		last = img
	}
	if err := last.loadConfig(ctx, c); err != nil || !sameConfig(last.config, built.config) {
		return nil
	}
	before := ownInventory(ctx, c, last, true)
	if before == nil {
		return nil
	}
	if r.changedItself(ctx, last, recipe) {
		if diffs, err := inventory.Diff(before, inv); err != nil || len(diffs) > 0 {
			return nil
		}
		return last
	}
	if alike, err := inventory.Alike(before, inv); err != nil || !alike {
		return nil
	}
	return last
}

// changedItself says whether a recipe differs from that of an image in more than
// what they stand on; so it does where the image's can't be read.
func (r *runner) changedItself(ctx context.Context, img *picture, recipe key.Recipe) bool {
	before := r.pass.readRecipe(ctx, img.ref, img.manifest.Annotations)
	return before.IsZero() || slices.ContainsFunc(key.Diff(before, recipe), key.Change.Own)
}

// sameConfig compares what two configs say about running the image, not when
// and how its layers were made.
func sameConfig(a, b []byte) bool {
	type told struct {
		Config       any    `json:"config"`
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant"`
	}
	var texts [2][]byte
	for i, data := range [][]byte{a, b} {
		var t told
		if json.Unmarshal(data, &t) != nil {
			return false
		}
		var err error
		if texts[i], err = json.Marshal(t); err != nil {
			return false
		}
	}
	return bytes.Equal(texts[0], texts[1])
}
