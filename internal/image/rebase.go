package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// ConflictKind says how a child and its new parent are in each other's way.
type ConflictKind string

// The kinds of conflict.
const (
	BothChanged     ConflictKind = "both changed"
	DeletedUnder    ConflictKind = "deleted under" // one removed or covered what the other has changed
	PackagesTouched ConflictKind = "package database touched by both"
	ConfigChanged   ConflictKind = "config changed by both"
)

// Conflict is one thing that a child and its new parent changed differently.
type Conflict struct {
	Kind ConflictKind `json:"kind"`
	Path string       `json:"path,omitempty"` // "/etc/passwd"; "" for a config field
	Text string       `json:"text"`           // what is in the way: "file before, directory now"
}

// String says what is in conflict, and how.
func (c Conflict) String() string {
	if c.Path == "" {
		return fmt.Sprintf("%s: %s", c.Kind, c.Text)
	}
	return fmt.Sprintf("%s: %s (%s)", c.Path, c.Kind, c.Text)
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
	return "it and its new parent changed the same: " + strings.Join(words, "; ")
}

// Side is an image with its full inventory.
type Side struct {
	Image     *Image
	Inventory *inventory.Inventory
}

// RebaseOptions say how to write what a rebase adds. The zero value makes gzip
// blobs. Files keep the times that they have in the image that they come from.
type RebaseOptions struct {
	Created     int64  // seconds: time of the config and of its new history
	Compression string // "gzip" (default) or "zstd"
	MaxLayers   int    // default 127
}

// Rebasing is a child that fits on a new parent but for what the contents of a
// few files tell. It is immutable.
type Rebasing struct {
	child, old, new Side
	own             *inventory.Own
	trace           *inventory.Trace
	options         RebaseOptions
	config          *config
	conflicts       []Conflict
	merges          []merge  // files to merge by content
	restores        []string // paths at which the new parent's entry counts again
	drops           []string // paths that are taken away: caches that would be stale
	carried         []string // what the merge layer of the last rebase holds and still counts
	replaces        bool     // that layer is left out, since a new one holds all of it
}

// merge is a file that both sides changed and that can be merged by content.
type merge struct {
	path string
	how  merger
}

// Rebase decides whether the child's own blobs can be put, by reference, on a
// new parent in place of the old one. It is a three-way merge: no path that the
// child wrote, removed or hid may differ between the parents, and no config
// field may have been changed by both. Exceptions are caches, which are left or
// taken away, and files such as package databases, which are merged by content:
// see [Rebasing.Wants] and [Rebasing.Finish].
//
// The trace is that of the child's layers above the old parent's. Images that do
// not fit together at all are a [*NotExact]; conflicts show in Finish.
//
// Whether a RUN of the child would do the same on the new parent is not known
// here; that is for the layer's policy.
func Rebase(child, old, new Side, trace *inventory.Trace, o RebaseOptions) (*Rebasing, error) {
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
	if o.MaxLayers == 0 {
		o.MaxLayers = defaultMaxLayers
	}
	if all := len(new.Image.Manifest.Layers) + len(child.Image.Manifest.Layers) - n + 1; all > o.MaxLayers {
		return nil, inexact("the image would have up to %d layers, and %d is the limit", all, o.MaxLayers)
	}
	own, err := inventory.OwnOf(child.Inventory, old.Inventory, trace)
	if err != nil {
		return nil, inexact("%s", err)
	}
	r := &Rebasing{child: child, old: old, new: new, own: own, trace: trace, options: o}
	var conflicts []Conflict
	if r.config, conflicts, err = rebaseConfig(child.Image, old.Image, new.Image); err != nil {
		return nil, err
	}
	if err := r.compare(); err != nil {
		return nil, err
	}
	r.conflicts = append(r.conflicts, conflicts...)
	r.carry()
	return r, nil
}

// Rebased is a child on its new parent.
type Rebased struct {
	Image     *Image
	Inventory *inventory.Inventory
	Trace     *inventory.Trace // of all layers above the new parent's
	Layer     *Blob            // what was merged; nil when nothing had to be
	Data      []byte           // the blob of Layer
	Merged    []string         // paths that were merged by content: "/var/lib/dpkg/status"
	Replaces  bool             // Layer stands in place of the child's last one, which an earlier rebase made
}

// contents of the files of the three sides, by path; a file that is not there
// has none.
type contents struct{ child, old, new map[string][]byte }

// Wants gives the files whose contents [Rebasing.Finish] needs, of the child, of
// its old and of its new parent. They are regular files of those inventories.
func (r *Rebasing) Wants() (child, old, new []string) {
	ask := func(list *[]string, s Side, p string) {
		if s.Inventory.Lookup(p).Kind == inventory.File {
			*list = append(*list, p)
		}
	}
	for _, m := range r.merges {
		ask(&child, r.child, m.path)
		ask(&old, r.old, m.path)
		ask(&new, r.new, m.path)
	}
	for _, p := range r.restores {
		ask(&new, r.new, p)
	}
	return child, old, new
}

// Conflicts gives the conflicts that are known without any content, sorted.
func (r *Rebasing) Conflicts() []Conflict { return sortConflicts(r.conflicts) }

func sortConflicts(cs []Conflict) []Conflict {
	cs = slices.Clone(cs)
	slices.SortStableFunc(cs, func(a, b Conflict) int {
		if (a.Path == "") != (b.Path == "") { // the config last
			return strings.Compare(b.Path, a.Path)
		}
		return strings.Compare(a.Path, b.Path)
	})
	return slices.Compact(cs)
}

// Finish merges the files that both sides changed and makes the image. The maps
// hold what Wants asked for. All conflicts together are a [*ConflictError].
func (r *Rebasing) Finish(child, old, new map[string][]byte) (*Rebased, error) {
	l, conflicts := r.layer(contents{child, old, new})
	if conflicts = sortConflicts(append(slices.Clone(r.conflicts), conflicts...)); len(conflicts) > 0 {
		return nil, &ConflictError{conflicts}
	}
	inv, err := r.own.On(r.new.Inventory)
	if err != nil {
		return nil, inexact("%s", err)
	}
	out := &Rebased{Inventory: inv, Replaces: r.replaces}
	out.Trace = &inventory.Trace{Blobs: r.trace.Blobs, Touched: r.trace.Touched, Hidden: r.trace.Hidden, Files: l.files, Merge: r.trace.Merge}
	for p, data := range r.trace.Files {
		if _, ok := l.files[p]; !ok && inventory.Kept(p) {
			l.files[p] = data
		}
	}
	if len(l.outputs) > 0 {
		if err := l.write(r, out); err != nil {
			return nil, fmt.Errorf("rebasing: %w", err)
		}
	}
	out.Merged = l.merged
	own := r.child.Image.Manifest.Layers[len(r.old.Image.Manifest.Layers):]
	c := r.config.clone()
	if r.replaces {
		own = own[:len(own)-1]
		c.rootFS.DiffIDs = c.rootFS.DiffIDs[:len(c.rootFS.DiffIDs)-1]
		c.history = c.history[:len(c.history)-1]
	}
	layers := append(slices.Clone(r.new.Image.Manifest.Layers), own...)
	when := epochTime(r.options.Created)
	c.balance(when)
	if out.Layer != nil {
		layers = append(layers, out.Layer.Descriptor)
		c.rootFS.DiffIDs = append(c.rootFS.DiffIDs, out.Layer.DiffID)
		c.record(mergeHistory+strings.Join(l.names(), " "), true, when)
	}
	c.setCreated(when)
	if out.Image, err = assemble(c, layers, r.child.Image.Manifest.Annotations); err != nil {
		return nil, err
	}
	if !out.Inventory.Describes(out.Image.Layers()) {
		return nil, errors.New("rebasing: internal error: the inventory is not that of the image")
	}
	return out, nil
}
