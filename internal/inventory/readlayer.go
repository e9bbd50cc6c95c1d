package inventory

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// hardLink marks an entry of a layerList that is a hard link to Link in a lower
// layer.
const hardLink Kind = 'h'

// layerList is what one layer says, in the order-free form that apply wants.
type layerList struct {
	entries   map[string]Entry
	whiteouts map[string]bool
	opaques   map[string]bool
	accounts  map[[32]byte][]byte   // contents of files that may be passwd or group, or are kept
	kept      map[[32]byte][]string // paths of the files that a trace keeps
	inodes    inodes                // of hard links within the layer
	remade    map[string]bool       // folders that stand where it had a file before
	sparse    int64                 // bytes of sparse files so far, holes included
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
)

// readLayer streams one layer and verifies its digest.
func readLayer(ctx context.Context, layer Layer) (_ *layerList, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading layer %s: %w", layer.Blob, err)
		}
	}()
	if err := layer.Blob.Validate(); err != nil {
		return nil, err
	}
	if layer.List != nil {
		return layer.List.list, nil
	}
	blob, err := layer.Open()
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	verifier := layer.Blob.Verifier()
	raw := io.TeeReader(&contextReader{ctx, blob}, verifier)
	plain, closePlain, err := decompress(raw)
	if err != nil {
		return nil, err
	}
	list, err := readTar(plain)
	if err == nil {
		// What follows the archive's end belongs to the blob's digest too.
		_, err = io.Copy(io.Discard, plain)
	}
	closePlain() // before raw is read here: the decompressor reads ahead
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return nil, err
	}
	if !verifier.Verified() {
		return nil, errors.New("the content is not what the digest says")
	}
	return list, nil
}

// Decompress gives what a layer holds, whether it is compressed by gzip, by zstd
// or not at all. The returned function ends it; r is not closed.
func Decompress(r io.Reader) (io.Reader, func(), error) { return decompress(r) }

// decompress detects gzip, zstd and plain data by their first bytes.
// Decompression runs in a goroutine of its own, which ends when the returned
// function is called.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := pgzip.NewReaderN(br, 512<<10, 4)
		if err != nil {
			return nil, nil, fmt.Errorf("decompressing: %w", err)
		}
		return z, func() { z.Close() }, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("decompressing: %w", err)
		}
		return z, z.Close, nil
	}
	return br, func() {}, nil
}

// List is what one layer says of its files.
type List struct{ list *layerList }

// ReadList reads a layer's uncompressed archive to its end. It is for layers
// that are being made, whose blob has no digest yet; see [Layer].
func ReadList(archive io.Reader) (*List, error) {
	list, err := readTar(archive)
	if err == nil {
		_, err = io.Copy(io.Discard, archive)
	}
	if err != nil {
		return nil, fmt.Errorf("listing a layer's files: %w", err)
	}
	return &List{list}, nil
}

// contextReader ends a long read when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// readTar reads the entries of a layer.
func readTar(r io.Reader) (*layerList, error) {
	l := &layerList{
		entries: map[string]Entry{}, whiteouts: map[string]bool{}, opaques: map[string]bool{},
		accounts: map[[32]byte][]byte{}, kept: map[[32]byte][]string{},
	}
	tr := tar.NewReader(r)
	buf := make([]byte, 128<<10)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			l.inodes.settle(l.entries)
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		if len(l.entries)+len(l.whiteouts)+len(l.opaques) > maxEntries {
			return nil, fmt.Errorf("more than %d files", maxEntries)
		}
		if err := l.add(hdr, tr, buf); err != nil {
			return nil, err
		}
	}
}

// add takes one tar entry.
func (l *layerList) add(hdr *tar.Header, content io.Reader, buf []byte) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if base := path.Base(p); strings.HasPrefix(base, whiteoutPrefix) {
		return l.addWhiteout(parentOf(p), base)
	}
	e, err := entryOf(hdr, p)
	if err != nil {
		return err
	}
	switch e.Kind {
	case File:
		if err := l.checkSparse(hdr); err != nil {
			return err
		}
		if err := l.readContent(&e, content, buf); err != nil {
			return err
		}
		l.inodes.forget(p)
	case hardLink:
		e, err = l.linked(e)
		if err != nil {
			return err
		}
	default:
		l.inodes.forget(p)
	}
	old, ok := l.entries[p]
	switch {
	case ok && old.Kind == Dir && e.Kind != Dir:
		l.dropBelow(p)
	case ok && old.Kind != Dir && e.Kind == Dir:
		l.covered(p)
	}
	l.entries[p] = e
	return nil
}

// maxSparse bounds the sparse files of a layer: their holes are hashed like any
// content, and cost the layer's maker nothing.
const maxSparse = 4 << 30

func (l *layerList) checkSparse(hdr *tar.Header) error {
	sparse := hdr.Typeflag == tar.TypeGNUSparse
	for k := range hdr.PAXRecords {
		sparse = sparse || strings.HasPrefix(k, "GNU.sparse.")
	}
	if !sparse {
		return nil
	}
	if hdr.Size > maxSparse-l.sparse {
		return fmt.Errorf("%q and sparse files before it have more than %d bytes", hdr.Name, int64(maxSparse))
	}
	l.sparse += hdr.Size
	return nil
}

func (l *layerList) addWhiteout(dir, base string) error {
	switch name := strings.TrimPrefix(base, whiteoutPrefix); {
	case base == opaqueMarker:
		l.opaques[dir] = true
	case strings.HasPrefix(name, whiteoutPrefix): // aufs' own bookkeeping (.wh..wh.plnk)
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("whiteout %q names no file", base)
	default: // it takes away what the layer has brought there before, too
		p := join(dir, name)
		if l.entries[p].Kind == Dir {
			return fmt.Errorf("it takes away the folder %q, which it has brought itself", p)
		}
		delete(l.entries, p)
		l.inodes.forget(p)
		l.whiteouts[p] = true
	}
	return nil
}

// linked gives the entry of a hard link: a copy of its target when that is in
// this layer, a mark for apply when it is not.
func (l *layerList) linked(e Entry) (Entry, error) {
	target, err := cleanName(e.Link)
	if err != nil {
		return e, err
	}
	if target == e.Path {
		return e, fmt.Errorf("hard link %q leads to itself", e.Path)
	}
	l.inodes.forget(e.Path)
	if t, ok := l.entries[target]; ok {
		if t.Kind == Dir {
			return e, fmt.Errorf("hard link %q leads to the directory %q", e.Path, target)
		}
		return l.inodes.link(e, target, t), nil
	}
	e.Link = target
	return e, nil
}

func (l *layerList) dropBelow(dir string) {
	for p := range l.entries {
		if strings.HasPrefix(p, dir+"/") {
			delete(l.entries, p)
			l.inodes.forget(p)
		}
	}
}

// readContent hashes a regular file, and keeps it when a trace does or when it
// may be an account file: links from /etc/passwd keep the name in every
// distribution seen.
func (l *layerList) readContent(e *Entry, r io.Reader, buf []byte) error {
	h := sha256.New()
	w := io.Writer(h)
	var kept *strings.Builder
	keep := Kept(e.Path) && e.Size <= maxKept
	if base := path.Base(e.Path); keep || (base == "passwd" || base == "group") && e.Size <= maxAccount {
		kept = &strings.Builder{}
		w = io.MultiWriter(h, kept)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, buf); err != nil {
		return err
	}
	h.Sum(e.Content[:0])
	if kept != nil {
		l.accounts[e.Content] = []byte(kept.String())
	}
	if keep {
		l.kept[e.Content] = append(l.kept[e.Content], e.Path)
	}
	return nil
}

// entryOf translates a tar header.
func entryOf(hdr *tar.Header, p string) (Entry, error) {
	// Unix rounds down, as a tool does that asks for whole seconds.
	e := Entry{Path: p, Mode: uint32(hdr.Mode) & 0o7777, UID: hdr.Uid, GID: hdr.Gid, Time: hdr.ModTime.Unix(), Blob: -1}
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeGNUSparse, tar.TypeCont:
		e.Kind, e.Size = File, hdr.Size
	case tar.TypeDir:
		e.Kind = Dir
	case tar.TypeSymlink:
		e.Kind, e.Link, e.Mode = Symlink, hdr.Linkname, 0o777
	case tar.TypeLink:
		e.Kind, e.Link = hardLink, hdr.Linkname
	case tar.TypeChar:
		e.Kind, e.Major, e.Minor = Char, hdr.Devmajor, hdr.Devminor
	case tar.TypeBlock:
		e.Kind, e.Major, e.Minor = Block, hdr.Devmajor, hdr.Devminor
	case tar.TypeFifo:
		e.Kind = Fifo
	default:
		return e, fmt.Errorf("%q has the unknown type %q", p, hdr.Typeflag)
	}
	size := 0
	for k, val := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = val
			size += len(name) + len(val)
		}
	}
	if err := e.check(); err != nil {
		return e, err
	}
	if p == "" && e.Kind != Dir {
		return e, errors.New("the root is not a directory")
	}
	if size > maxXattrs {
		return e, fmt.Errorf("%q has more than %d bytes of extended attributes", p, maxXattrs)
	}
	return e, nil
}

// cleanName gives the path of a tar entry relative to the root.
func cleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("the name %q holds a zero byte", name)
	}
	p := strings.TrimPrefix(path.Join("/", name), "/")
	if len(p) > maxPath {
		return "", fmt.Errorf("a name is longer than %d bytes", maxPath)
	}
	return p, nil
}
