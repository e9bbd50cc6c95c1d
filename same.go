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
	"github.com/strata-build/strata/internal/times"
)

// sameAsBefore gives the unit's last image, or the trunk of it, if what was
// built now is the same but for volatile files: then the old one stays, and
// what stands on it need not be made again. Nil means that it is another, or
// that it can't be told. Where the unit's own instructions or files have changed,
// a volatile file or a time that one sets may be what they are about, and so
// nothing may differ but the times that only say when the files were made.
func (r *runner) sameAsBefore(ctx context.Context, u *graph.Unit, built *picture, inv *inventory.Inventory, tables times.Tables, recipe key.Recipe, whole bool) *picture {
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
	recorded := r.pass.readRecipe(ctx, last.ref, last.manifest.Annotations)
	if recorded.IsZero() { // it may be of another version, under which recipes meant something else
		return nil
	}
	if changes := key.Diff(recorded, recipe); slices.ContainsFunc(changes, key.Change.Own) {
		if diffs, err := inventory.Diff(before, inv); err != nil || len(diffs) > 0 || !sameTimes(before, inv, tables, changes) {
			return nil
		}
		return last
	}
	if alike, err := inventory.Alike(before, inv); err != nil || !alike {
		return nil
	}
	return last
}

// sameTimes says whether two images of the same files agree in the times that
// these brought along or were given. Those in the tables were made out when the
// layers were published. A setting may be about any (SOURCE_DATE_EPOCH).
func sameTimes(before, now *inventory.Inventory, tables times.Tables, changes []key.Change) bool {
	decided := map[string]bool{}
	if !slices.ContainsFunc(changes, key.Change.Setting) {
		for _, t := range tables {
			for _, d := range t.Paths {
				decided[d.Path] = true
			}
		}
	}
	for e := range now.All() {
		if e.Kind != inventory.Dir && !decided[e.Path] && before.Lookup(e.Path).Time != e.Time {
			return false
		}
	}
	return true
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
