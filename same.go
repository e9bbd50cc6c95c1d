package strata

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
)

// sameAsBefore gives the unit's last image, or the trunk of it, if what was
// built now is the same but for volatile files: then the old one stays, and
// what stands on it need not be made again. Nil means that it is another, or
// that it can't be told.
func (r *runner) sameAsBefore(ctx context.Context, u *graph.Unit, built *picture, inv *inventory.Inventory, whole bool) *picture {
	last := r.pass.answers.lastImages[u.ID]
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
	if alike, err := inventory.Alike(before, inv); err != nil || !alike {
		return nil
	}
	return last
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
