package inventory

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// draft holds the entries of a layer while it is read, in half the memory
// that they take later: a layer of a few megabytes can name millions of files, and
// a slice that grows holds what it has twice.
type draft struct {
	chunks  [][]brief
	n       int
	gone    int
	scanned int                // entries that were looked at to find what stands below a path
	at      map[string]int32   // numbers of the entries by path
	common  []Entry            // what entries have in common: all but what brief has
	alike   map[likeness]int32 // numbers in common of those without attributes, the first mostAlike
}

// likeness is what tells entries in common apart.
type likeness struct {
	kind         Kind
	mode         uint32
	uid, gid     int
	major, minor int64
	blob         int
}

// mostAlike is how many of these are looked for again: layers have some dozens.
const mostAlike = 1 << 16

type brief struct {
	path, link string
	size, time int64
	content    *[32]byte // nil for none
	common     int32     // -1: the entry is gone
	inode      int32     // of names of one file: see below
}

// A file with more than one name is held with one of them, first, and the others
// have its number. It stays there when it loses that name.
const (
	alone    int32 = -iota // the only name
	first                  // the file itself
	nameless               // the file itself, under a name that it has no more
	// The number of the first and one is another name.
)

const draftChunk = 4096

var emptyContent = sha256.Sum256(nil)

func newDraft() *draft { return &draft{at: map[string]int32{}, alike: map[likeness]int32{}} }

func (d *draft) brief(i int) *brief { return &d.chunks[i/draftChunk][i%draftChunk] }

// put sets the entry of its path.
func (d *draft) put(e Entry) {
	p := d.slot(e.Path)
	p.path = e.Path
	d.set(p, e)
}

// slot gives the place of a path's entry. What it held is gone.
func (d *draft) slot(path string) *brief {
	i, ok := d.at[path]
	if ok && d.brief(int(i)).inode == first {
		d.leave(int(i))
		ok = false
	}
	if !ok {
		i = int32(d.n)
		if d.n++; int(i)%draftChunk == 0 {
			d.chunks = append(d.chunks, make([]brief, draftChunk))
		}
		d.at[path] = i
	}
	p := d.brief(int(i))
	*p = brief{common: -1}
	return p
}

// set makes p, which has its path, hold an entry.
func (d *draft) set(p *brief, e Entry) {
	p.link, p.size, p.time, p.content = e.Link, e.Size, e.Time, nil
	switch {
	case e.Content == emptyContent:
		p.content = &emptyContent
	case e.Content != [32]byte{}:
		content := e.Content
		p.content = &content
	}
	e.Path, e.Link, e.Size, e.Time, e.Content = "", "", 0, 0, [32]byte{}
	if p.common >= 0 && len(d.common[p.common].Xattrs) > 0 { // no other entry has those
		d.common[p.common] = e
		return
	}
	p.common = d.number(e)
}

// number gives the number in common of what e has beside a brief's.
func (d *draft) number(e Entry) int32 {
	like := likeness{e.Kind, e.Mode, e.UID, e.GID, e.Major, e.Minor, e.Blob}
	if len(e.Xattrs) == 0 {
		if n, ok := d.alike[like]; ok {
			return n
		}
	}
	n := int32(len(d.common))
	d.common = append(d.common, e)
	if len(e.Xattrs) == 0 && len(d.alike) < mostAlike {
		d.alike[like] = n
	}
	return n
}

// link makes the file at target one with more names, which is as e says, and gives
// its number for [draft.putName].
func (d *draft) link(target string, e Entry) int {
	i := int(d.at[target])
	p := d.brief(i)
	switch {
	case p.inode > 0:
		i = int(p.inode) - 1
		p = d.brief(i)
	case p.inode == alone:
		p.inode = first
	}
	d.set(p, e)
	return i
}

// putName makes path another name of a file.
func (d *draft) putName(path string, file int) {
	if i, ok := d.at[path]; ok && int(i) == file {
		return
	}
	p := d.slot(path)
	p.path, p.common, p.inode = path, 0, int32(file)+1
}

// drop takes away the entry at a path.
func (d *draft) drop(path string) {
	if i, ok := d.at[path]; ok {
		d.leave(int(i))
	}
}

// leave takes the name of an entry away, and the entry with its only name.
func (d *draft) leave(i int) {
	p := d.brief(i)
	delete(d.at, p.path)
	d.gone++
	if p.inode == first {
		p.path, p.inode = "", nameless
		return
	}
	*p = brief{common: -1}
}

// named reports whether there is an entry with this number.
func (d *draft) named(i int) bool {
	p := d.brief(i)
	return p.common >= 0 && p.inode != nameless
}

func (d *draft) entry(i int) Entry {
	p := d.brief(i)
	path := p.path
	if p.inode > 0 {
		p = d.brief(int(p.inode) - 1)
	}
	e := d.common[p.common]
	e.Path, e.Link, e.Size, e.Time = path, p.link, p.size, p.time
	if p.content != nil {
		e.Content = *p.content
	}
	return e
}

// get gives the entry at a path.
func (d *draft) get(path string) (Entry, bool) {
	i, ok := d.at[path]
	if !ok {
		return Entry{}, false
	}
	return d.entry(int(i)), true
}

// maxScanned bounds what is looked at for files that take the place of a
// directory of their own layer, which no tool writes.
const maxScanned = 1 << 26

// dropBelow takes away what stands below a directory.
func (d *draft) dropBelow(dir string) error {
	if d.scanned += d.n; d.scanned > maxScanned {
		return fmt.Errorf("%q and others before it take the place of a directory too often", dir)
	}
	for i := range d.n {
		if d.named(i) && strings.HasPrefix(d.brief(i).path, dir+"/") {
			d.leave(i)
		}
	}
	return nil
}

// sorted gives the entries in order. The draft is used up.
func (d *draft) sorted() []Entry {
	d.at = nil
	order := make([]int32, 0, d.n-d.gone)
	for i := range d.n {
		if d.named(i) {
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(d.brief(int(a)).path, d.brief(int(b)).path) })
	// Room for the few directories that a layer mostly implies.
	out := make([]Entry, 0, len(order)+16)
	for _, i := range order {
		out = append(out, d.entry(int(i)))
	}
	return out
}
