package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// archive is an archive of the build context that an ADD unpacks. It is read
// twice: for its headers when the tail is decided, for its files when the blob
// is written, both in its own order, so that any size needs no memory.
type archive struct {
	file  contextFile
	nodes []*node // of its regular files, by number of the entry; nil for others
}

// member marks the content of a file that stands in an archive. It is written
// with the archive and can't be opened alone.
type member struct{ archive *archive }

func (m *member) open() (io.ReadCloser, error) {
	return nil, inexact("a file of the archive %q would have to be read first", m.archive.file.path)
}
func (m *member) want() digest.Digest { return "" }

// tryUnpack unpacks a file when it is an archive in the eyes of Docker: its
// first bytes name a compression or none, and a tar header follows.
func (c *copying) tryUnpack(f File) (bool, error) {
	a := &archive{file: *c.content(f)}
	r, closeAll, err := a.reader()
	if err != nil || r == nil {
		return false, err
	}
	defer closeAll()
	tr := tar.NewReader(r)
	hdr, err := tr.Next()
	if err != nil {
		return false, nil
	}
	at, err := c.tree.resolve(path.Clean(c.dest))
	if err != nil {
		return false, err
	}
	if err := c.tree.mkdirAll(at, 0o755, c.owner); err != nil {
		return false, err
	}
	u := &unpacking{copying: c, archive: a, root: at}
	for ; err == nil; hdr, err = tr.Next() {
		if err := u.entry(hdr); err != nil {
			return false, err
		}
	}
	if err != io.EOF {
		return false, inexact("the archive %q can't be read to its end: %s", f.Path, err)
	}
	// Untar enters its destination by pivot_root, for which it makes a directory
	// there and removes it.
	c.tree.touch(at)
	for _, d := range u.dirs {
		c.tree.date(d.path, d.time)
	}
	c.archives = append(c.archives, a)
	return true, nil
}

// reader gives the archive decompressed; nil when it can't be one.
func (a *archive) reader() (io.Reader, func(), error) {
	file, err := a.file.open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening %q: %w", a.file.path, err)
	}
	br := bufio.NewReaderSize(file, 256<<10)
	head, err := br.Peek(10)
	if err != nil && err != io.EOF {
		file.Close()
		return nil, nil, fmt.Errorf("reading %q: %w", a.file.path, err)
	}
	r, stop, err := decompressor(head, br)
	if err != nil || r == nil {
		file.Close()
		return nil, nil, err
	}
	return r, func() { stop(); file.Close() }, nil
}

// decompressor detects what Docker detects. A reader of nil means that the data
// is no archive.
func decompressor(head []byte, r io.Reader) (io.Reader, func(), error) {
	switch {
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), func() {}, nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, nil
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return nil, nil, inexact("the archive is compressed with xz")
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 8 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, nil
		}
		return z, z.Close, nil
	}
	return r, func() {}, nil
}

// unpacking is one archive at work: the rules of Docker's Untar, which sees the
// destination as its root directory.
type unpacking struct {
	*copying
	archive *archive
	root    string // resolved destination
	dirs    []dated
}

// dated is a path with the time that it gets when everything is in place.
type dated struct {
	path string
	time stamp
}

// maxMembers bounds the entries of an archive that are held: a few megabytes can
// name millions. The engine unpacks one that has more.
var maxMembers = 500_000 // a test lowers it

// entry unpacks one entry.
func (u *unpacking) entry(hdr *tar.Header) error {
	if len(u.archive.nodes) >= maxMembers {
		return inexact("the archive %q has more than %d entries", u.archive.file.path, maxMembers)
	}
	u.archive.nodes = append(u.archive.nodes, nil)
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	rel, err := u.place(hdr.Name)
	if err != nil {
		return err
	}
	p := join(u.root, rel)
	isDir := hdr.Typeflag == tar.TypeDir
	if rel == "" {
		if isDir {
			return nil
		}
		return inexact("the archive %q replaces its destination", u.archive.file.path)
	}
	old := u.tree.at(p)
	if old != nil && (old.kind != inventory.Dir || !isDir) {
		// A hard link to itself would be gone before it is made.
		u.tree.remove(p)
		old = nil
	}
	n, err := u.make(hdr, old)
	if err != nil {
		return err
	}
	if old != nil {
		u.tree.remember(p)
	}
	when := stamp{time: memberTime(hdr), known: true}
	if isDir { // what comes into it changes its time
		u.dirs = append(u.dirs, dated{p, when})
	}
	// A hard link dates the file that it shares; one to a symbolic link doesn't.
	if hdr.Typeflag != tar.TypeLink || n.kind != inventory.Symlink {
		n.now = when
	}
	n.uid, n.gid = hdr.Uid, hdr.Gid
	if u.owner != nil {
		n.uid, n.gid = u.owner.uid, u.owner.gid
	}
	if hdr.Typeflag != tar.TypeSymlink && n.kind != inventory.Symlink {
		n.mode = uint32(hdr.Mode) & 0o7777
	}
	if v := hdr.PAXRecords["SCHILY.xattr."+capabilityXattr]; v != "" {
		n.capability = v
	}
	if old == nil {
		u.tree.create(p, n)
	} else {
		u.tree.put(p, n)
	}
	return nil
}

// memberTime gives the time that an entry is unpacked with: Docker dates what
// lies before 1970, or beyond what 64 bits of nanoseconds hold, to 1970.
func memberTime(hdr *tar.Header) int64 {
	t := hdr.ModTime.Unix()
	if t < 0 || t > math.MaxInt64/1_000_000_000 {
		return 0
	}
	return t
}

// place cleans a name and makes the directories that it implies. A way through
// a link is left to the engine.
func (u *unpacking) place(name string) (string, error) {
	rel := strings.TrimPrefix(path.Join("/", name), "/")
	at := u.root
	dir := parent(rel)
	if dir == "" {
		return rel, nil
	}
	for elem := range strings.SplitSeq(dir, "/") {
		at = join(at, elem)
		n := u.tree.at(at)
		switch {
		case n == nil:
			if err := u.tree.mkdirAll(at, 0o755, nil); err != nil {
				return "", err
			}
		case n.kind == inventory.Symlink:
			return "", inexact("the archive %q writes through the link %q", u.archive.file.path, "/"+at)
		case n.kind != inventory.Dir:
			return "", inexact("the archive %q writes below the %s %q", u.archive.file.path, n.kind, "/"+at)
		}
	}
	return rel, nil
}

// make gives the inode of an entry, without owner and mode.
func (u *unpacking) make(hdr *tar.Header, old *node) (*node, error) {
	n := &node{mode: 0o777, fresh: true}
	switch hdr.Typeflag {
	case tar.TypeDir:
		if old != nil {
			return old, nil
		}
		n.kind = inventory.Dir
	case tar.TypeReg:
		n.kind, n.size, n.content = inventory.File, hdr.Size, &member{u.archive}
		u.archive.nodes[len(u.archive.nodes)-1] = n
	case tar.TypeSymlink:
		n.kind, n.link = inventory.Symlink, hdr.Linkname
	case tar.TypeLink:
		return u.hardLink(hdr)
	case tar.TypeChar:
		n.kind, n.major, n.minor = inventory.Char, hdr.Devmajor, hdr.Devminor
	case tar.TypeBlock:
		n.kind, n.major, n.minor = inventory.Block, hdr.Devmajor, hdr.Devminor
	case tar.TypeFifo:
		n.kind = inventory.Fifo
	default:
		return nil, inexact("the archive %q holds an entry of the unknown type %q", u.archive.file.path, hdr.Typeflag)
	}
	return n, nil
}

// hardLink gives the inode that a hard link shares.
func (u *unpacking) hardLink(hdr *tar.Header) (*node, error) {
	rel := strings.TrimPrefix(path.Join("/", hdr.Linkname), "/")
	if at, err := u.tree.resolve(parent(join(u.root, rel))); err != nil || at != parent(join(u.root, rel)) {
		return nil, errors.Join(err, inexact("the archive %q links through a link", u.archive.file.path))
	}
	n := u.tree.at(join(u.root, rel))
	switch {
	case n == nil || n.kind == inventory.Dir:
		return nil, inexact("the archive %q has a hard link to %q, which is not a file", u.archive.file.path, hdr.Linkname)
	case !n.fresh:
		return nil, inexact("the archive %q has a hard link to the parent's file %q", u.archive.file.path, hdr.Linkname)
	}
	return n, nil
}
