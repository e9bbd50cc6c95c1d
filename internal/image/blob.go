package image

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// Blob is the layer that was written.
type Blob struct {
	Descriptor ocispec.Descriptor // what a manifest says of it
	DiffID     digest.Digest      // of the uncompressed archive
	Size       int64              // of the uncompressed archive

	sums map[*node][32]byte // of file contents
}

// output is one entry of the blob.
type output struct {
	path   string
	node   *node // nil for a whiteout
	linkTo string
	opaque bool
	time   int64 // seconds
}

// Names of whiteouts, from the OCI image specification (layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// outputs gives what the blob has to hold, sorted, with the directories above
// each entry, as a difference of two snapshots has them. Names that share an
// inode follow at the end as hard links to the first.
func (t *tree) outputs() []output {
	paths := map[string]bool{}
	for p, n := range t.nodes {
		if t.changed(p, n) {
			for q := p; q != ""; q = parent(q) {
				paths[q] = true
			}
		}
	}
	first := map[*node]string{}
	var out, links []output
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		n := t.at(p)
		if n != nil && n.kind != inventory.Dir {
			if target, ok := first[n]; ok {
				links = append(links, output{path: p, node: n, linkTo: target})
				continue
			}
			first[n] = p
		}
		out = append(out, output{path: p, node: n, opaque: n != nil && n.kind == inventory.Dir && t.hidden[p]})
	}
	return append(out, links...)
}

// HasBlob reports whether the tail changes any file. A tail that does not has
// nothing to write.
func (a *Appended) HasBlob() bool { return len(a.files) > 0 }

// MediaType gives the media type of the blob.
func (a *Appended) MediaType() string { return layerType(a.compression) }

func layerType(compression string) string {
	if compression == "zstd" {
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayerGzip
}

// Compression settings. The bytes must not depend on the machine, so the block
// size is fixed; blocks are compressed independently of how many at a time.
//
// Measured on 200 MB of Python and Go (klauspost/compress 1.20), seconds of
// processor time and part of the size left: gzip 1: 0.91, 32.2 %; 3: 1.11,
// 30.4 %; 4: 1.34, 29.3 %; 6: 1.80, 27.8 %; zstd fastest: 0.81, 27.7 %;
// default: 0.99, 25.5 %; better: 1.57, 23.8 %. Blocks of 1 MB save nothing.
const (
	gzipLevel     = 3
	gzipBlock     = 512 << 10
	gzipAtOnce    = 4
	zstdLevel     = zstd.SpeedDefault
	archiveBuffer = 256 << 10
)

// WriteBlob streams the blob, compressed, and gives what it became. It may be
// called again, with the same result. A file of the context that is not what it
// was when it was selected is an error.
func (a *Appended) WriteBlob(w io.Writer) (*Blob, error) {
	if !a.HasBlob() {
		return nil, errors.New("writing the new layer: there is nothing to write")
	}
	packed := &counter{w: w, hash: sha256.New()}
	z, err := compressor(packed, a.compression)
	if err != nil {
		return nil, fmt.Errorf("writing the new layer: %w", err)
	}
	plain := &counter{w: z, hash: sha256.New()}
	b := &Blob{sums: map[*node][32]byte{}}
	buffered := bufio.NewWriterSize(plain, archiveBuffer)
	err = a.writeTar(buffered, b)
	if err == nil {
		err = buffered.Flush()
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("writing the new layer: %w", err)
	}
	b.Descriptor = ocispec.Descriptor{MediaType: a.MediaType(), Digest: packed.digest(), Size: packed.n}
	b.DiffID, b.Size = plain.digest(), plain.n
	return b, nil
}

func compressor(w io.Writer, compression string) (io.WriteCloser, error) {
	if compression == "zstd" {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstdLevel), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(4<<20))
	}
	z, err := pgzip.NewWriterLevel(w, gzipLevel)
	if err != nil {
		return nil, err
	}
	return z, z.SetConcurrency(gzipBlock, gzipAtOnce)
}

// counter hashes and counts what passes.
type counter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (c *counter) digest() digest.Digest { return digest.NewDigest(digest.SHA256, c.hash) }

// writeTar writes the archive: everything but the members of archives in order
// of path, then those in the order of their archives, hard links last.
func (a *Appended) writeTar(w io.Writer, b *Blob) error {
	tw := tar.NewWriter(w)
	packed := map[*node]output{}
	buf := make([]byte, 128<<10)
	var links []output
	small := newFetcher(a.files)
	defer small.close()
	for _, o := range a.files {
		switch _, is := memberOf(o.node); {
		case o.linkTo != "":
			links = append(links, o)
		case is:
			packed[o.node] = o
		default:
			if err := a.writeEntry(tw, o, b, small, buf); err != nil {
				return err
			}
		}
	}
	for _, ar := range a.archives {
		if err := a.writeMembers(tw, ar, packed, b, buf); err != nil {
			return err
		}
	}
	for _, o := range links {
		hdr := header(o)
		hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, o.linkTo, 0
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
	}
	return tw.Close()
}

func memberOf(n *node) (*member, bool) {
	if n == nil {
		return nil, false
	}
	m, ok := n.content.(*member)
	return m, ok
}

// header gives the header of an entry. Times are whole seconds, names of owners
// are left out, PAX records appear only where the old form can't say it.
func header(o output) *tar.Header {
	n, when := o.node, epochTime(o.time)
	if n == nil {
		return &tar.Header{Typeflag: tar.TypeReg, Name: join(parent(o.path), whiteoutPrefix+base(o.path)), ModTime: when}
	}
	hdr := &tar.Header{Name: o.path, Mode: int64(n.mode), Uid: n.uid, Gid: n.gid, ModTime: when}
	switch n.kind {
	case inventory.Dir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, o.path+"/"
	case inventory.Symlink:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, n.link
	case inventory.Char:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, n.major, n.minor
	case inventory.Block:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeBlock, n.major, n.minor
	case inventory.Fifo:
		hdr.Typeflag = tar.TypeFifo
	default:
		hdr.Typeflag, hdr.Size = tar.TypeReg, n.size
	}
	if n.capability != "" {
		hdr.PAXRecords = map[string]string{"SCHILY.xattr." + capabilityXattr: n.capability}
	}
	return hdr
}

func base(p string) string { return p[len(p)-len(trimDir(p)):] }

func trimDir(p string) string {
	if d := parent(p); d != "" {
		return p[len(d)+1:]
	}
	return p
}

func (a *Appended) writeEntry(tw *tar.Writer, o output, b *Blob, small *fetcher, buf []byte) error {
	if err := tw.WriteHeader(header(o)); err != nil {
		return err
	}
	if o.opaque {
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: join(o.path, opaqueMarker), ModTime: epochTime(o.time)}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
	}
	switch {
	case o.node == nil || o.node.content == nil:
		return nil
	case ahead(o):
		return small.write(tw, o, b)
	}
	r, err := o.node.content.open()
	if err != nil {
		return fmt.Errorf("opening %q: %w", "/"+o.path, err)
	}
	defer r.Close()
	return copyContent(tw, r, o.node, o.path, b, buf)
}

// copyContent writes a file's bytes, hashes them and checks that they are as
// many and the ones that were promised.
func copyContent(tw io.Writer, r io.Reader, n *node, name string, b *Blob, buf []byte) error {
	h := sha256.New()
	var total int64
	for total < n.size {
		got, err := r.Read(buf[:min(int64(len(buf)), n.size-total)])
		h.Write(buf[:got])
		if _, werr := tw.Write(buf[:got]); werr != nil {
			return werr
		}
		total += int64(got)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", "/"+name, err)
		}
	}
	var sum [32]byte
	h.Sum(sum[:0])
	if want := n.content.want(); total != n.size || (want != "" && want != digest.NewDigestFromBytes(digest.SHA256, sum[:])) {
		return changedWhileReading(name)
	}
	b.sums[n] = sum
	return nil
}

// writeMembers writes the files of one archive that are still where it put
// them.
func (a *Appended) writeMembers(tw *tar.Writer, ar *archive, packed map[*node]output, b *Blob, buf []byte) error {
	r, closeAll, err := ar.reader()
	if err != nil || r == nil {
		return errors.Join(err, fmt.Errorf("reading the archive %q: it changed while the image was being made", ar.file.path))
	}
	defer closeAll()
	tr := tar.NewReader(r)
	for _, n := range ar.nodes {
		hdr, err := tr.Next()
		if err != nil {
			return fmt.Errorf("reading the archive %q: %w", ar.file.path, err)
		}
		o, ok := packed[n]
		if n == nil || !ok {
			continue
		}
		if hdr.Size != n.size {
			return fmt.Errorf("reading the archive %q: it changed while the image was being made", ar.file.path)
		}
		if err := tw.WriteHeader(header(o)); err != nil {
			return err
		}
		if err := copyContent(tw, tr, n, o.path, b, buf); err != nil {
			return err
		}
	}
	return nil
}
