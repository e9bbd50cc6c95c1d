package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// Conflict is a path or a config field that both the child and the new parent
// changed.
type Conflict struct {
	Path  string          // "/etc/passwd"; "" for a config field
	Field string          // "Env FOO"; "" for a path
	Old   inventory.Entry // in the old parent
	New   inventory.Entry // in the new parent
}

// String says what is in conflict, and how.
func (c Conflict) String() string {
	if c.Field != "" {
		return "config " + c.Field
	}
	return fmt.Sprintf("%s (%s before, %s now)", c.Path, c.Old.Kind, c.New.Kind)
}

// ConflictError says that a child can't be put on a new parent.
type ConflictError struct {
	Conflicts []Conflict // sorted, not empty
}

// Error names the first few conflicts.
func (e *ConflictError) Error() string {
	const shown = 3
	var words []string
	for _, c := range e.Conflicts[:min(shown, len(e.Conflicts))] {
		words = append(words, c.String())
	}
	if more := len(e.Conflicts) - shown; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return "the unit and its new parent changed the same: " + strings.Join(words, ", ")
}

// Side is an image with its full inventory.
type Side struct {
	Image     *Image
	Inventory *inventory.Inventory
}

// Rebase puts the child's own blobs, by reference, on a new parent in place of
// the old one. It is a three-way merge without contents: no path that the child
// wrote, removed or hid may differ between the parents, and no config field may
// have been changed by both. Otherwise the error is a [*ConflictError], or a
// [*NotExact] where the images don't fit together at all.
//
// Whether a RUN of the child would do the same on the new parent is not known
// here; that is for the layer's policy.
func Rebase(child, old, new Side) (*Image, error) {
	for _, s := range []Side{child, old, new} {
		if !s.Inventory.Full() {
			return nil, fmt.Errorf("rebasing: %w", inventory.ErrNeedFull)
		}
		if !s.Inventory.Describes(s.Image.Layers()) {
			return nil, inexact("an inventory is not that of its image")
		}
	}
	n := len(old.Image.Manifest.Layers)
	if len(child.Image.Manifest.Layers) < n || !slices.Equal(child.Image.Layers()[:n], old.Image.Layers()) {
		return nil, inexact("the image does not stand on its old parent's layers")
	}
	own := child.Image.Manifest.Layers[n:]
	if len(new.Image.Manifest.Layers)+len(own) > defaultMaxLayers {
		return nil, inexact("the image would have more than %d layers", defaultMaxLayers)
	}
	conflicts := fileConflicts(child.Inventory, old.Inventory, new.Inventory, n)
	c, more, err := rebaseConfig(child.Image, old.Image, new.Image)
	if err != nil {
		return nil, err
	}
	if conflicts = append(conflicts, more...); len(conflicts) > 0 {
		return nil, &ConflictError{conflicts}
	}
	layers := append(slices.Clone(new.Image.Manifest.Layers), own...)
	return assemble(c, layers, child.Image.Manifest.Annotations)
}

// fileConflicts compares the parents wherever the child's own layers, those
// from number n on, did something.
func fileConflicts(child, old, new *inventory.Inventory, n int) []Conflict {
	paths := map[string]bool{}
	for e := range child.All() {
		if e.Blob < n {
			continue
		}
		paths[e.Path] = true
		// An inventory doesn't tell opaque directories. One in which nothing of
		// the parent is left may be one: what the new parent put there would be
		// hidden.
		if e.Kind == inventory.Dir && old.Lookup(e.Path).Kind == inventory.Dir && !anyBelow(child, e.Path, n) {
			for x := range new.Below(e.Path) {
				if old.Lookup(x.Path).Kind == inventory.None {
					paths[x.Path] = true
				}
			}
		}
	}
	for e := range old.All() {
		if child.Lookup(e.Path).Kind == inventory.None {
			paths[e.Path] = true
		}
	}
	var out []Conflict
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		a, b := old.Lookup(p), new.Lookup(p)
		if !inventory.Same(&a, &b) {
			out = append(out, Conflict{Path: "/" + p, Old: a, New: b})
		}
		// What replaces or removes a directory hides what the new parent has below.
		if e := child.Lookup(p); e.Kind != inventory.Dir && b.Kind == inventory.Dir {
			for x := range new.Below(p) {
				if y := old.Lookup(x.Path); !inventory.Same(&y, x) {
					out = append(out, Conflict{Path: "/" + x.Path, Old: y, New: *x})
				}
			}
		}
	}
	return slices.CompactFunc(out, func(a, b Conflict) bool { return a.Path == b.Path })
}

// anyBelow reports whether anything of the layers before number n is left below
// a directory.
func anyBelow(v *inventory.Inventory, dir string, n int) bool {
	for e := range v.Below(dir) {
		if e.Blob < n {
			return true
		}
	}
	return false
}

// rebaseConfig merges what the child's config adds to the old parent's into the
// new parent's.
func rebaseConfig(child, old, new *Image) (*config, []Conflict, error) {
	var cs [3]*config
	for i, img := range []*Image{child, old, new} {
		c, err := parseConfig(img.Config)
		if err != nil {
			return nil, nil, err
		}
		cs[i] = c
	}
	c, o, out := cs[0], cs[1], cs[2].clone()
	if len(c.history) < len(o.history) || len(c.rootFS.DiffIDs) < len(o.rootFS.DiffIDs) {
		return nil, nil, inexact("the image's history is not that of its old parent and more")
	}
	for _, key := range []string{"architecture", "os", "variant", "os.version"} {
		if !bytes.Equal(c.top[key], cs[2].top[key]) {
			return nil, nil, inexact("the new parent is for another platform")
		}
	}
	var conflicts []Conflict
	keys := map[string]bool{}
	for k := range c.run {
		keys[k] = true
	}
	for k := range o.run {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		merged, bad := mergeField(k, c.run[k], o.run[k], out.run[k])
		for _, f := range bad {
			conflicts = append(conflicts, Conflict{Field: f})
		}
		if merged == nil {
			delete(out.run, k)
		} else {
			out.run[k] = merged
		}
	}
	own := c.history[len(o.history):]
	out.rootFS.DiffIDs = append(out.rootFS.DiffIDs, c.rootFS.DiffIDs[len(o.rootFS.DiffIDs):]...)
	out.history = append(out.history, own...)
	out.balance(epochTime(0))
	out.setCreated(epochTime(0))
	return out, conflicts, nil
}

// mergeField merges one field: Env by variable, maps by key, the rest as a
// whole. It gives the names of what both sides changed differently.
func mergeField(key string, child, old, new json.RawMessage) (json.RawMessage, []string) {
	if bytes.Equal(child, old) {
		return new, nil
	}
	if bytes.Equal(new, old) || bytes.Equal(new, child) {
		return child, nil
	}
	var c, o, n map[string]json.RawMessage
	var order []string
	if key == "Env" {
		order, c, o, n = envOrder(new, child), envMap(child), envMap(old), envMap(new)
	} else if json.Unmarshal(child, &c) != nil || (old != nil && json.Unmarshal(old, &o) != nil) || (new != nil && json.Unmarshal(new, &n) != nil) {
		return new, []string{key}
	}
	out := map[string]json.RawMessage{}
	var bad []string
	for k := range merged(c, o, n) {
		v, conflict := mergeField("", c[k], o[k], n[k])
		if len(conflict) > 0 {
			bad = append(bad, key+" "+k)
		}
		if v != nil {
			out[k] = v
		}
	}
	slices.Sort(bad)
	if key != "Env" {
		return marshal(out), bad
	}
	var env []string
	for _, k := range order {
		var v string
		if out[k] != nil {
			unmarshal(out[k], &v)
			env = append(env, k+"="+v)
		}
	}
	return marshal(env), bad
}

func merged(ms ...map[string]json.RawMessage) map[string]bool {
	out := map[string]bool{}
	for _, m := range ms {
		for k := range m {
			out[k] = true
		}
	}
	return out
}

// envMap gives an Env field as a map of JSON strings.
func envMap(raw json.RawMessage) map[string]json.RawMessage {
	var env []string
	unmarshal(raw, &env)
	out := map[string]json.RawMessage{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = marshal(v)
	}
	return out
}

// envOrder gives the names of variables in the order of the first list, then of
// the second.
func envOrder(lists ...json.RawMessage) []string {
	var out []string
	for _, raw := range lists {
		var env []string
		unmarshal(raw, &env)
		for _, kv := range env {
			if k, _, _ := strings.Cut(kv, "="); !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}
