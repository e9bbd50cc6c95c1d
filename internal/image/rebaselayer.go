package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// mergeLayer is the one blob that goes on top of a rebased image's own: merged
// and restored files, and whiteouts of caches.
type mergeLayer struct {
	outputs []output
	merged  []string          // paths, "/var/lib/dpkg/status"
	files   map[string][]byte // contents of what is merged, by path
	gone    []string
}

// mergeHistory begins the history entry of a merge layer.
const mergeHistory = "strata rebase: merge "

// carry finds out whether the child's last layer is one that an earlier rebase
// made, and whether a new one can hold all that it holds: then it is left out,
// so that layers do not pile up.
func (r *Rebasing) carry() {
	if r.trace.Merge == nil || len(r.trace.Blobs) == 0 || len(r.config.history) == 0 {
		return
	}
	last := r.config.history[len(r.config.history)-1]
	if last.EmptyLayer || !strings.HasPrefix(last.CreatedBy, mergeHistory) {
		return
	}
	done := map[string]bool{}
	for _, m := range r.merges {
		done[m.path] = true
	}
	for _, p := range append(slices.Clone(r.restores), r.drops...) {
		done[p] = true
	}
	top := len(r.child.Inventory.Blobs()) - 1
	var carried []string
	for e := range r.child.Inventory.All() {
		if e.Blob != top || done[e.Path] {
			continue
		}
		data, ok := r.trace.Files[e.Path]
		if e.Kind == inventory.File && (!ok || sha256.Sum256(data) != e.Content) || e.Path == "" {
			return
		}
		carried = append(carried, e.Path)
	}
	for _, p := range r.trace.Merge.Gone {
		if !done[p] && r.child.Inventory.Lookup(p).Kind == inventory.None {
			r.drops = append(r.drops, p)
		}
	}
	r.carried, r.replaces = carried, true
}

// names gives what the layer holds, for the history.
func (l *mergeLayer) names() []string {
	var out []string
	for _, o := range l.outputs {
		if o.node == nil || o.node.kind != inventory.Dir {
			out = append(out, "/"+o.path)
		}
	}
	return out
}

// layer merges what has to be merged. The conflicts are those that only contents
// show.
func (r *Rebasing) layer(c contents) (*mergeLayer, []Conflict) {
	l := &mergeLayer{files: map[string][]byte{}}
	nodes := map[string]*node{}
	var conflicts []Conflict
	for _, m := range r.merges {
		n, data, bad := r.merge(m, c)
		for _, text := range bad {
			kind := BothChanged
			if isDatabase(m.path) {
				kind = PackagesTouched
			}
			conflicts = append(conflicts, Conflict{Kind: kind, Path: "/" + m.path, Text: text})
		}
		if len(bad) == 0 {
			nodes[m.path], l.files[m.path] = n, data
			l.merged = append(l.merged, "/"+m.path)
		}
	}
	for _, p := range r.restores {
		e := r.new.Inventory.Lookup(p)
		n := nodeOf(e)
		if e.Kind == inventory.File {
			data, ok := c.new[p]
			if !ok {
				conflicts = append(conflicts, Conflict{Kind: BothChanged, Path: "/" + p, Text: "what the new parent has there could not be read"})
				continue
			}
			n.content, l.files[p] = literal(data), data
		}
		nodes[p] = n
	}
	for _, p := range r.carried {
		e := r.child.Inventory.Lookup(p)
		n := nodeOf(e)
		if e.Kind == inventory.File {
			n.content, l.files[p] = literal(r.trace.Files[p]), r.trace.Files[p]
		}
		nodes[p] = n
	}
	for _, p := range r.drops {
		nodes[p] = nil
		l.gone = append(l.gone, p)
	}
	if len(conflicts) == 0 {
		l.outputs = r.withParents(nodes)
	}
	return l, conflicts
}

func nodeOf(e inventory.Entry) *node {
	return &node{
		kind: e.Kind, mode: e.Mode, uid: e.UID, gid: e.GID, link: e.Link, size: e.Size, capability: e.Xattrs[capabilityXattr],
		shown: stampOf(e.Time, e.Kind),
	}
}

// withParents gives the outputs in order, with the directories above them, as
// they are in the child or, where the child has left them alone, in the new
// parent. All keep their times; a whiteout has that of its directory.
func (r *Rebasing) withParents(nodes map[string]*node) []output {
	all := map[string]*node{}
	for p, n := range nodes {
		all[p] = n
		for q := parent(p); q != ""; q = parent(q) {
			if _, ok := nodes[q]; ok {
				continue
			}
			e := r.new.Inventory.Lookup(q)
			if r.own.Has(q) || e.Kind != inventory.Dir {
				e = r.child.Inventory.Lookup(q)
			}
			all[q] = nodeOf(e)
		}
	}
	var newest int64
	for _, n := range all {
		if n != nil && n.shown.known {
			newest = max(newest, n.shown.time)
		}
	}
	var out []output
	for p, n := range all {
		o := output{path: p, node: n, time: newest} // of a directory that no layer names
		if n == nil {
			o.time, n = 0, all[parent(p)]
		}
		if n != nil && n.shown.known {
			o.time = n.shown.time
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b output) int { return strings.Compare(a.path, b.path) })
	return out
}

// merge merges one file: its content, and what is noted of it.
func (r *Rebasing) merge(m merge, c contents) (*node, []byte, []string) {
	o, n, e := r.old.Inventory.Lookup(m.path), r.new.Inventory.Lookup(m.path), r.child.Inventory.Lookup(m.path)
	for _, side := range []struct {
		entry inventory.Entry
		files map[string][]byte
	}{{o, c.old}, {n, c.new}, {e, c.child}} {
		if data, ok := side.files[m.path]; side.entry.Kind == inventory.File && (!ok || int64(len(data)) != side.entry.Size) {
			return nil, nil, []string{"its content could not be read"}
		}
	}
	data, bad := m.how(c.old[m.path], c.new[m.path], c.child[m.path])
	if len(bad) > 0 {
		return nil, nil, bad
	}
	strip := func(x inventory.Entry) inventory.Entry {
		x.Size, x.Content = 0, [32]byte{}
		return x
	}
	as, before, here := strip(n), strip(o), strip(e)
	switch {
	case n.Kind == inventory.None || inventory.Same(&as, &before):
		as = here
	case !inventory.Same(&here, &before) && !inventory.Same(&here, &as):
		return nil, nil, []string{"both changed its mode, owner or attributes"}
	}
	for name := range as.Xattrs {
		if name != capabilityXattr {
			return nil, nil, []string{fmt.Sprintf("it has the attribute %s", name)}
		}
	}
	out := nodeOf(as)
	out.size, out.content = int64(len(data)), literal(data)
	out.shown = mergedStamp(sha256.Sum256(data), o, n, e)
	return out, data, nil
}

// mergedStamp gives the time of a merged file: the newest of its sides', and a
// second more where its content is none of theirs, so that whoever remembers a
// side's time sees another one.
func mergedStamp(content [32]byte, sides ...inventory.Entry) stamp {
	s := stamp{known: true}
	fresh, first := true, true
	for _, e := range sides {
		if e.Kind == inventory.None {
			continue
		}
		if first || e.Time > s.time {
			s.time, first = e.Time, false
		}
		fresh = fresh && e.Content != content
	}
	if fresh {
		s.time++
	}
	return s
}

// write makes the blob and puts it on the inventory.
func (l *mergeLayer) write(r *Rebasing, out *Rebased) error {
	a := &Appended{files: l.outputs, compression: r.options.Compression}
	if a.compression == "" {
		a.compression = "gzip"
	}
	var buf bytes.Buffer
	blob, err := a.WriteBlob(&buf)
	if err != nil {
		return err
	}
	var changes []inventory.Change
	for _, o := range l.outputs {
		e := inventory.Entry{Path: o.path}
		if n := o.node; n != nil {
			e = inventory.Entry{Path: o.path, Kind: n.kind, Mode: n.mode, UID: n.uid, GID: n.gid, Link: n.link, Time: o.time}
			if n.kind == inventory.File {
				e.Size, e.Content = n.size, blob.sums[n]
			}
			if n.capability != "" {
				e.Xattrs = map[string]string{capabilityXattr: n.capability}
			}
		}
		changes = append(changes, inventory.Change{Entry: e})
	}
	if out.Inventory, err = out.Inventory.WithFiles(blob.Descriptor.Digest, changes, l.files); err != nil {
		return err
	}
	out.Layer, out.Data = blob, buf.Bytes()
	if r.replaces {
		if out.Inventory, err = out.Inventory.Without(len(out.Inventory.Blobs()) - 2); err != nil {
			return err
		}
		out.Trace.Blobs = out.Trace.Blobs[:len(out.Trace.Blobs)-1]
	}
	out.Trace = out.Trace.Join(&inventory.Trace{
		Blobs: []digest.Digest{blob.Descriptor.Digest}, Touched: l.gone, Hidden: l.gone, Files: l.files, Merge: &inventory.Merge{Gone: l.gone},
	})
	return nil
}
