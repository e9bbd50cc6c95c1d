package inventory

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Limits on a coded inventory. A million files come to about 40 MB coded, and 80
// MB decompressed.
const (
	maxCoded = 128 << 20
	maxBody  = 256 << 20
	maxUID   = 1<<32 - 1
)

// ErrDamaged is wrapped by every error of [Decode] that is about the data: the
// inventory must be treated as if it were not there.
var ErrDamaged = errors.New("the inventory is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Decode reads what [Inventory.Encode] wrote. Data from a registry may be
// hostile: everything is checked, and nothing is allocated that the data does
// not pay for.
func Decode(r io.Reader) (*Inventory, error) {
	coded, err := io.ReadAll(io.LimitReader(r, maxCoded+1))
	if err != nil {
		return nil, fmt.Errorf("reading the inventory: %w", err)
	}
	if len(coded) > maxCoded {
		return nil, damaged("more than %d bytes", maxCoded)
	}
	part, body, err := openBody(coded)
	if err != nil {
		return nil, err
	}
	d := &decoder{buf: body}
	v := d.inventory(part)
	if d.err != nil {
		return nil, d.err
	}
	if len(d.buf) != 0 {
		return nil, damaged("%d bytes follow its end", len(d.buf))
	}
	return v, nil
}

// openBody checks the head and gives the decompressed body.
func openBody(coded []byte) (byte, []byte, error) {
	rest, ok := bytes.CutPrefix(coded, []byte(magic))
	if !ok || len(rest) < 1+sha256.Size {
		return 0, nil, damaged("it does not begin with %q", magic)
	}
	part, sum, rest := rest[0], [32]byte(rest[1:33]), rest[33:]
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > maxBody || (part != partSmall && part != partFull) {
		return 0, nil, damaged("bad head")
	}
	z, err := zstd.NewReader(bytes.NewReader(rest[n:]), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return 0, nil, damaged("%v", err)
	}
	defer z.Close()
	// What is much larger than what it came from grows with what really comes, so
	// that a false size costs nothing.
	var body bytes.Buffer
	if size < 32*uint64(len(coded)) {
		body.Grow(int(size) + bytes.MinRead)
	}
	if _, err := io.Copy(&body, io.LimitReader(z, int64(size)+1)); err != nil {
		return 0, nil, damaged("%v", err)
	}
	if uint64(body.Len()) != size || sha256.Sum256(body.Bytes()) != sum {
		return 0, nil, damaged("the content is not what its checksum says")
	}
	return part, body.Bytes(), nil
}

type decoder struct {
	buf []byte
	err error

	links, devices, xattrs bool // whether any entry has such
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = damaged(format, args...)
	}
	d.buf = nil
}

func (d *decoder) uvarint(limit uint64) uint64 {
	n, size := binary.Uvarint(d.buf)
	if size <= 0 || n > limit {
		d.fail("bad number")
		return 0
	}
	d.buf = d.buf[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.buf)
	if size <= 0 {
		d.fail("bad number")
		return 0
	}
	d.buf = d.buf[size:]
	return n
}

func (d *decoder) take(n int) []byte {
	if n > len(d.buf) {
		d.fail("it ends early")
		return nil
	}
	out := d.buf[:n]
	d.buf = d.buf[n:]
	return out
}

func (d *decoder) text(limit int) string { return string(d.take(int(d.uvarint(uint64(limit))))) }

func (d *decoder) inventory(part byte) *Inventory {
	v := &Inventory{}
	for range d.uvarint(maxBlobs) {
		dgst := digest.Digest(d.text(256))
		if d.err == nil && dgst.Validate() != nil {
			d.fail("bad digest %q", string(dgst))
		}
		v.blobs = append(v.blobs, dgst)
		if d.err != nil {
			return nil
		}
	}
	v.passwd, v.group = d.account(), d.account()
	n := int(d.uvarint(maxEntries))
	if d.err != nil || n > len(d.buf) || n == 0 {
		d.fail("bad number of entries")
		return nil
	}
	v.entries = make([]Entry, n)
	d.paths(v.entries)
	d.attributes(v.entries)
	d.specials(v.entries)
	v.small = part == partSmall
	d.times(v)
	if !v.small {
		d.contents(v)
	}
	if d.err == nil {
		d.checkTree(v.entries)
	}
	return v
}

func (d *decoder) account() Account {
	a := Account{State: AccountState(d.uvarint(uint64(AccountUnknown)))}
	a.Path = d.text(maxPath)
	a.Data = []byte(d.text(maxAccount))
	if a.State != AccountPresent && len(a.Data) > 0 {
		d.fail("an absent account file has content")
	}
	if len(a.Data) == 0 {
		a.Data = nil
	}
	return a
}

// paths reads the front-coded paths and checks that they are clean, sorted and
// not given twice. All of them share one piece of memory.
func (d *decoder) paths(entries []Entry) {
	shared := make([]int, len(entries))
	size := 0
	for i := range shared {
		shared[i] = int(d.uvarint(maxPath))
		size += shared[i]
	}
	text := d.take(int(d.uvarint(maxBody)))
	if size += len(text); d.err != nil || size > maxPaths {
		d.fail("bad paths")
		return
	}
	var all strings.Builder
	all.Grow(size)
	var path []byte // the one before, then this one
	for i, n := range shared {
		end := bytes.IndexByte(text, 0)
		// What follows the shared bytes must be greater than what stood there.
		if end < 0 || n > len(path) || i > 0 && bytes.Compare(text[:end], path[n:]) <= 0 {
			d.fail("bad path")
			return
		}
		path = append(path[:n], text[:end]...)
		text = text[end+1:]
		if (i == 0) != (len(path) == 0) || len(path) > maxPath || !cleanFrom(path, n) {
			d.fail("bad path %.80q", path)
			return
		}
		shared[i] = len(path)
		all.Write(path)
	}
	if len(text) > 0 {
		d.fail("too many paths")
		return
	}
	joined := all.String()
	for i, n := range shared {
		entries[i].Path, entries[i].Blob = joined[:n], -1
		joined = joined[n:]
	}
}

// maxPaths bounds what front-coded paths come to when each is written out, so
// that little data can't ask for much memory.
const maxPaths = maxText

// cleanPath reports whether p is relative, without empty, "." and ".."
// elements. The root, "", is clean.
func cleanPath(p string) bool { return cleanFrom([]byte(p), 0) }

// cleanFrom is [cleanPath] for a path whose first n bytes begin a clean one.
func cleanFrom(p []byte, n int) bool {
	if len(p) == 0 {
		return true
	}
	for rest := p[bytes.LastIndexByte(p[:n], '/')+1:]; ; {
		elem, more, found := bytes.Cut(rest, []byte{'/'})
		if len(elem) == 0 || len(elem) <= 2 && (string(elem) == "." || string(elem) == "..") {
			return false
		}
		if !found {
			return true
		}
		rest = more
	}
}

func (d *decoder) attributes(entries []Entry) {
	n := int(d.uvarint(uint64(len(entries))))
	table := make([]attributes, 0, min(n, 1024))
	for range n {
		kind := d.take(1)
		a := attributes{
			mode: uint32(d.uvarint(0o7777)), uid: int(d.uvarint(maxUID)), gid: int(d.uvarint(maxUID)),
			xattrs: d.uvarint(1) == 1,
		}
		if d.err != nil {
			return
		}
		a.kind = Kind(kind[0])
		table = append(table, a)
		d.links = d.links || a.kind == Symlink
		d.devices = d.devices || a.kind == Char || a.kind == Block
		d.xattrs = d.xattrs || a.xattrs
	}
	for i := range entries {
		at := int(d.uvarint(uint64(len(table))))
		if d.err != nil || at >= len(table) {
			d.fail("bad attributes")
			return
		}
		a, e := table[at], &entries[i]
		e.Kind, e.Mode, e.UID, e.GID = a.kind, a.mode, a.uid, a.gid
		if a.xattrs {
			e.Xattrs = map[string]string{}
		}
	}
}

func (d *decoder) specials(entries []Entry) {
	for i := range entries {
		if d.links && entries[i].Kind == Symlink {
			entries[i].Link = d.text(maxPath)
		}
	}
	for i := range entries {
		if e := &entries[i]; d.devices && (e.Kind == Char || e.Kind == Block) {
			e.Major, e.Minor = int64(d.uvarint(1<<32)), int64(d.uvarint(1<<32))
		}
	}
	for i := range entries {
		if !d.xattrs || entries[i].Xattrs == nil {
			continue
		}
		n := d.uvarint(maxXattrs)
		for range n {
			k := d.text(maxXattrs)
			entries[i].Xattrs[k] = d.text(maxXattrs)
			if d.err != nil {
				return
			}
		}
		if uint64(len(entries[i].Xattrs)) != n || n == 0 {
			d.fail("bad extended attributes")
		}
	}
}

// times reads the times of all entries, or, in a small part, of the directories.
func (d *decoder) times(v *Inventory) {
	n := int(d.uvarint(uint64(len(v.entries))))
	if n > len(d.buf) {
		d.fail("bad number of times")
		return
	}
	table := make([]int64, n)
	for i := range table {
		table[i] = d.varint()
	}
	for i := range v.entries {
		e := &v.entries[i]
		if v.small && e.Kind != Dir {
			continue
		}
		at := int(d.uvarint(uint64(n)))
		if d.err != nil || at >= n {
			d.fail("bad time")
			return
		}
		e.Time = table[at]
	}
	if v.small {
		v.newest = d.varint()
	}
}

func (d *decoder) contents(v *Inventory) {
	for i := range v.entries {
		v.entries[i].Blob = int(d.uvarint(uint64(len(v.blobs)))) - 1
	}
	for i := range v.entries {
		if v.entries[i].Kind == File {
			v.entries[i].Size = int64(d.uvarint(1<<63 - 1))
		}
	}
	for i := range v.entries {
		e := &v.entries[i]
		switch {
		case e.Kind != File:
		case e.Size == 0:
			e.Content = sha256.Sum256(nil)
		default:
			if sum := d.take(sha256.Size); sum != nil {
				e.Content = [32]byte(sum)
			}
		}
	}
}

// checkTree checks that every entry stands in a directory and is of a known
// kind.
func (d *decoder) checkTree(entries []Entry) {
	if entries[0].Kind != Dir {
		d.fail("the root is not a directory")
		return
	}
	last := ""
	for i := range entries {
		e := &entries[i]
		switch e.Kind {
		case File, Dir, Symlink, Char, Block, Fifo:
		default:
			d.fail("unknown kind %q", byte(e.Kind))
		}
		// Neighbours mostly share their parent: look it up once.
		if p := parentOf(e.Path); i > 0 && p != last {
			if at, ok := findEntry(entries, p); !ok || entries[at].Kind != Dir {
				d.fail("%.80q is not in a directory", e.Path)
			}
			last = p
		}
		if d.err != nil {
			return
		}
	}
}

// check checks what the coded form can hold.
func (e *Entry) check() error {
	switch {
	case e.UID < 0 || e.UID > maxUID || e.GID < 0 || e.GID > maxUID:
		return fmt.Errorf("%q has the owner %d:%d", e.Path, e.UID, e.GID)
	case len(e.Link) > maxPath || strings.IndexByte(e.Link, 0) >= 0:
		return fmt.Errorf("%q has a bad link", e.Path)
	case e.Major < 0 || e.Minor < 0 || e.Major > 1<<32 || e.Minor > 1<<32:
		return fmt.Errorf("%q has bad device numbers", e.Path)
	}
	return nil
}
