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
	common  []common           // what entries have beside a brief's
	alike   map[likeness]int32 // numbers in common of those without attributes, the first mostAlike
}

// common is what entries have in common: all but what brief has.
type common struct {
	likeness
	xattrs map[string]string
}

// likeness is what tells those without attributes apart.
type likeness struct {
	uid, gid, blob int
	major, minor   int64
	mode           uint32
	kind           Kind
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
	c := common{likeness{uid: e.UID, gid: e.GID, blob: e.Blob, major: e.Major, minor: e.Minor, mode: e.Mode, kind: e.Kind}, e.Xattrs}
	if p.common >= 0 && len(d.common[p.common].xattrs) > 0 { // no other entry has those
		d.common[p.common] = c
		return
	}
	p.common = d.number(c)
}

// number gives the number of c.
func (d *draft) number(c common) int32 {
	plain := len(c.xattrs) == 0
	if plain {
		if n, ok := d.alike[c.likeness]; ok {
			return n
		}
	}
	n := int32(len(d.common))
	d.common = append(d.common, c)
	if plain && len(d.alike) < mostAlike {
		d.alike[c.likeness] = n
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
	c := &d.common[p.common]
	e := Entry{
		Path: path, Kind: c.kind, Mode: c.mode, UID: c.uid, GID: c.gid, Size: p.size, Link: p.link,
		Major: c.major, Minor: c.minor, Time: p.time, Blob: c.blob, Xattrs: c.xattrs,
	}
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
