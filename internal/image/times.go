package image

import (
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// Dated is a file that a tail brings or changes, as [Options.Published] is asked
// about it.
type Dated struct {
	Path     string // in the image, without a leading slash
	Kind     inventory.Kind
	Digest   digest.Digest // of a file's content; "" when it is not known beforehand
	Link     string        // where a symbolic link leads
	Size     int64         // of a file
	Time     int64         // of its source, or that of the options where the tail makes it; seconds
	Modified int64         // of a file of a build context: its time on disk, in ns; 0 of others
	Made     bool          // by the tail: it has no source, or its content is the tail's
}

// stamp is a modification time. The zero value is that of what is made now.
//
// BuildKit's copy gives files and links the times of their sources, and
// directories too, once everything in them is there. That goes for the
// destination of a directory's content as well, new or not, unless the source is
// the root of a context or an image, which has no time of its own. Directories
// on the way, those of WORKDIR, those that an archive or an include pattern
// implies, and heredocs are made now; and a directory in which a name is made or
// removed is changed now. chmod and chown leave times alone.
type stamp struct {
	time  int64 // seconds
	known bool  // it is that of a source or of the parent's
	disk  int64 // ns, of a file of a build context
}

// stampOf gives the stamp of a source or of a file of the parent. A directory
// whose time is 0 is one that no layer names: engines date it when they unpack
// the image.
func stampOf(time int64, kind inventory.Kind) stamp {
	if time == 0 && kind == inventory.Dir {
		return unnamed
	}
	return stamp{time: time, known: true}
}

// unnamed is not known, and yet not what a change now gives.
var unnamed = stamp{time: -1}

// create puts something where nothing stands.
func (t *tree) create(p string, n *node) {
	t.put(p, n)
	t.touch(parent(p))
}

// touch dates a directory now: a name in it was made or removed.
func (t *tree) touch(dir string) { t.date(dir, stamp{}) }

// date gives what stands at a path a time. What has no other change is no change
// to BuildKit, so it is none here.
func (t *tree) date(p string, s stamp) {
	n, ok := t.nodes[p]
	if !ok {
		if n = t.at(p); n == nil {
			return
		}
		t.nodes[p] = n
	}
	if n != nil {
		n.now = s
	}
}

// change is what stood at a path before an instruction changed it.
type change struct {
	path string
	was  *node // a copy; nil for nothing
}

// remember notes what stood at a path before the instruction at work. To note it
// again, as it is then, does no harm.
func (t *tree) remember(p string) {
	old, ok := t.nodes[p]
	switch {
	case ok && old == nil && t.gone[p], old != nil && old.turn == t.turn:
		return
	case !ok:
		old = t.at(p)
	}
	if old != nil {
		was := *old
		old = &was
	}
	t.before = append(t.before, change{p, old})
}

// settle ends an instruction. BuildKit makes a layer of what it changed, with
// the directories above; a directory of which only the time is another one is
// not in it, and shows the time of the last layer that has it.
func (t *tree) settle() {
	seen := map[string]bool{}
	for _, c := range t.before {
		n := t.at(c.path)
		if c.was.same(n) {
			if n != nil && n.kind != inventory.Dir {
				n.shown = c.was.shown
			}
			continue
		}
		if n != nil {
			n.shown = n.now
		}
		for q := parent(c.path); !seen[q]; q = parent(q) {
			seen[q] = true
			if above := t.nodes[q]; above != nil {
				above.shown = above.now
			}
		}
	}
	t.before, t.gone = t.before[:0], map[string]bool{}
	t.turn++
}

// same reports whether BuildKit sees no difference between what stood somewhere
// and what stands there now.
func (n *node) same(o *node) bool {
	if n == nil || o == nil {
		return n == o
	}
	if n.kind != o.kind || n.mode != o.mode || n.uid != o.uid || n.gid != o.gid || n.link != o.link ||
		n.major != o.major || n.minor != o.minor || n.capability != o.capability {
		return false
	}
	return n.kind == inventory.Dir || n.now == o.now && n.size == o.size && sameContent(n.content, o.content)
}

func sameContent(a, b content) bool {
	return a == b || a != nil && b != nil && a.want() != "" && a.want() == b.want()
}

// publish fixes the times of what the blob holds: of files first, those with a
// source before those that the tail makes, then of directories, the deepest
// first, so that each may follow those before.
func (a *Appended) publish() {
	known := map[*node]int64{}
	for _, made := range []bool{false, true} {
		for i := range a.files {
			n := a.files[i].node
			if n == nil && !made || n != nil && n.kind != inventory.Dir && n.shown.known != made {
				a.publishOne(&a.files[i], known)
			}
		}
	}
	for i := len(a.files) - 1; i >= 0; i-- {
		if n := a.files[i].node; n != nil && n.kind == inventory.Dir {
			a.publishOne(&a.files[i], known)
		}
	}
}

func (a *Appended) publishOne(o *output, known map[*node]int64) {
	n := o.node
	if n == nil {
		o.time = a.options.Made
		return
	}
	if t, ok := known[n]; ok { // hard links are one file
		o.time = t
		return
	}
	o.time = a.options.Made
	if n.shown.known {
		o.time = n.shown.time
	}
	if a.options.Published != nil && (n.shown != n.old || a.tree.changed(o.path, n)) {
		o.time = a.options.Published(a.dated(*o))
	}
	known[n] = o.time
}

// dated describes what the tail brings or changes.
func (a *Appended) dated(o output) Dated {
	n := o.node
	d := Dated{Path: o.path, Kind: n.kind, Link: n.link, Time: o.time, Modified: n.shown.disk, Made: !n.shown.known}
	if n.kind == inventory.File {
		d.Size = n.size
		if n.content != nil {
			d.Digest = n.content.want()
		}
	}
	return d
}

// Dates gives what the tail brings or changes with the times that were decided.
func (a *Appended) Dates() []Dated {
	var out []Dated
	for _, o := range a.files {
		if n := o.node; n != nil && (n.shown != n.old || a.tree.changed(o.path, n)) {
			out = append(out, a.dated(o))
		}
	}
	return out
}
