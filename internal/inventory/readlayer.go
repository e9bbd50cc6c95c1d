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
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
)

// hardLink marks an entry of a layerList that is a hard link to Link in a lower
// layer.
const hardLink Kind = 'h'

// layerList is what one layer says. While it is read its entries are in draft;
// [layerList.seal] makes a sorted list of them.
type layerList struct {
	entries   []Entry
	draft     *draft
	links     []string // what hard links to lower layers lead to
	shared    bool     // may be put on several inventories, so that they can't have the entries themselves
	used      *budget
	whiteouts map[string]bool
	opaques   map[string]bool
	accounts  map[[32]byte][]byte   // contents of files that may be passwd or group, or are kept
	kept      map[[32]byte][]string // paths of the files that a trace keeps
	remade    map[string]bool       // folders that stand where it had a file before
	sparse    int64                 // bytes of sparse files so far, holes included
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	xattrPrefix    = "SCHILY.xattr."
)

// readLayer streams one layer and verifies its digest, and that of what it holds.
func readLayer(ctx context.Context, layer Layer, used *budget) (_ *layerList, err error) {
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
	var whole digest.Digester
	if layer.DiffID != "" {
		if err := layer.DiffID.Validate(); err != nil {
			closePlain()
			return nil, fmt.Errorf("the config's diff_ids name %q: %w", layer.DiffID, err)
		}
		whole = layer.DiffID.Algorithm().Digester()
		plain = io.TeeReader(plain, whole.Hash())
	}
	list, err := readTar(plain, used)
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
	if whole != nil && whole.Digest() != layer.DiffID {
		return nil, &DiffIDError{Want: layer.DiffID, Got: whole.Digest()}
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
	list, err := readTar(archive, &budget{})
	if err == nil {
		_, err = io.Copy(io.Discard, archive)
	}
	if err != nil {
		return nil, fmt.Errorf("listing a layer's files: %w", err)
	}
	list.shared = true
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

// budget is what layers that are read together have used of what they may: they
// are all held until the last one is read.
type budget struct{ entries, text, contents atomic.Int64 }

// take counts one name with what is kept of it.
func (b *budget) take(text int) error {
	if b.entries.Add(1) > maxEntries {
		return fmt.Errorf("more than %d files", maxEntries)
	}
	if b.text.Add(int64(text)) > maxText {
		return errTooMuchText
	}
	return nil
}

func newLayerList(used *budget) *layerList {
	return &layerList{
		draft: newDraft(), used: used, whiteouts: map[string]bool{}, opaques: map[string]bool{},
		accounts: map[[32]byte][]byte{}, kept: map[[32]byte][]string{},
	}
}

// get gives the entry at a path, or nil, of a list that is whole.
func (l *layerList) get(path string) *Entry {
	if i, ok := findEntry(l.entries, path); ok {
		return &l.entries[i]
	}
	return nil
}

// seal sorts the entries when all are there.
func (l *layerList) seal() { l.entries, l.draft = l.draft.sorted(), nil }

// readTar reads the entries of a layer.
func readTar(r io.Reader, used *budget) (*layerList, error) {
	l := newLayerList(used)
	tr := tar.NewReader(r)
	buf := make([]byte, 128<<10)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			l.seal()
			return l, nil
		}
		if err != nil {
			return nil, err
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
	if err := l.used.take(len(p) + len(hdr.Linkname)); err != nil {
		return err
	}
	if base := path.Base(p); strings.HasPrefix(base, whiteoutPrefix) {
		return l.addWhiteout(parentOf(p), base)
	}
	e, err := entryOf(hdr, p)
	if err != nil {
		return err
	}
	for k, v := range e.Xattrs {
		if l.used.text.Add(int64(len(k)+len(v)+xattrOverhead)) > maxText {
			return errTooMuchText
		}
	}
	first := -1
	switch e.Kind {
	case File:
		if err := l.checkSparse(hdr); err != nil {
			return err
		}
		if err := l.readContent(&e, content, buf); err != nil {
			return err
		}
	case hardLink:
		first, err = l.linked(&e)
		if err != nil {
			return err
		}
	}
	old, ok := l.draft.get(p)
	switch {
	case ok && old.Kind == Dir && e.Kind != Dir:
		if err := l.draft.dropBelow(p); err != nil {
			return err
		}
	case ok && old.Kind != Dir && e.Kind == Dir:
		l.covered(p)
	}
	if first >= 0 {
		l.draft.putName(p, first)
	} else {
		l.draft.put(e)
	}
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
		if old, ok := l.draft.get(p); ok && old.Kind == Dir {
			return fmt.Errorf("it takes away the folder %q, which it has brought itself", p)
		}
		l.draft.drop(p)
		l.whiteouts[p] = true
	}
	return nil
}

// linked gives the number of the file that a hard link is another name of, and
// makes e what the file is then, when that is in this layer. When it is not, it
// makes e a mark for apply and gives -1.
func (l *layerList) linked(e *Entry) (int, error) {
	target, err := cleanName(e.Link)
	if err != nil {
		return 0, err
	}
	if target == e.Path {
		return 0, fmt.Errorf("hard link %q leads to itself", e.Path)
	}
	if t, ok := l.draft.get(target); ok {
		if t.Kind == Dir {
			return 0, fmt.Errorf("hard link %q leads to the directory %q", e.Path, target)
		}
		*e = relink(t, *e)
		return l.draft.link(target, *e), nil
	}
	e.Link = target
	l.links = append(l.links, target)
	return -1, nil
}

// readContent hashes a regular file, and keeps it when a trace does or when it
// may be an account file: links from /etc/passwd keep the name in every
// distribution seen.
func (l *layerList) readContent(e *Entry, r io.Reader, buf []byte) error {
	h := sha256.New()
	w := io.Writer(h)
	var kept *strings.Builder
	keep := Kept(e.Path) && e.Size <= maxKept
	base := path.Base(e.Path)
	account := (base == "passwd" || base == "group") && e.Size <= maxAccount
	if keep || account {
		// A copy of an account file is not worth an error; one that is used and
		// was not held makes the account unknown.
		if room := l.used.contents.Add(e.Size) <= maxContents; !room && keep {
			return fmt.Errorf("package databases and account files of more than %d MB", maxContents>>20)
		} else if !room {
			account = e.Path == "etc/"+base
		}
	}
	if keep || account {
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
