package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// Repacking says how an archive that an engine made becomes a blob.
type Repacking struct {
	// Date gives the time of an entry in seconds, from its path and the time that
	// the archive says. Nil leaves it at that, in whole seconds.
	Date func(path string, archive time.Time) int64
	// Content gives what is to be done to the content of a file, which keeps its
	// size; nil, or a nil answer, leaves it as it is. Such a file is held in
	// memory.
	Content     func(path string) func([]byte)
	Compression string    // "gzip" (default) or "zstd"
	Plain       io.Writer // takes the new archive before it is compressed as well; may be nil
}

// whiteoutTime stands in the entries that take files away. No file system ever
// shows it; the time at which the difference was taken would make each blob
// another.
const whiteoutTime = 0

// MediaType gives the media type of the blob.
func (o Repacking) MediaType() string { return layerType(o.Compression) }

// Repack writes a layer, plain or compressed by gzip or zstd, to w with other
// file times, compressed by all processors, and gives what it became.
//
// Nothing else about the entries or their order changes. The blob is the same for
// any number of processors. One pass is made over r, in a few megabytes of
// memory. With an error, the blob's descriptor is that of what w has taken until
// then.
func Repack(w io.Writer, r io.Reader, o Repacking) (*Blob, error) {
	packed := &counter{w: w, hash: sha256.New()}
	plain := &counter{hash: sha256.New()}
	err := o.repack(packed, plain, r)
	if err != nil {
		err = fmt.Errorf("repacking a layer: %w", err)
	}
	return &Blob{
		Descriptor: ocispec.Descriptor{MediaType: o.MediaType(), Digest: packed.digest(), Size: packed.n},
		DiffID:     plain.digest(), Size: plain.n,
	}, err
}

func (o Repacking) repack(packed, plain *counter, r io.Reader) error {
	in, closeIn, err := inventory.Decompress(r)
	if err != nil {
		return err
	}
	defer closeIn()
	z, err := compressor(packed, o.Compression)
	if err != nil {
		return err
	}
	plain.w = z
	if o.Plain != nil {
		plain.w = io.MultiWriter(z, o.Plain)
	}
	buffered := bufio.NewWriterSize(plain, archiveBuffer)
	err = o.date(buffered, in)
	if err == nil {
		err = buffered.Flush()
	}
	return errors.Join(err, z.Close())
}

// date copies an archive with other times. What follows the archive's end is
// read and left out, as BuildKit does.
func (o Repacking) date(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	buf := make([]byte, archiveBuffer)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := o.entry(tw, tr, hdr, buf); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf)
	return err
}

func (o Repacking) entry(tw *tar.Writer, tr *tar.Reader, hdr *tar.Header, buf []byte) error {
	name := path.Clean("/" + hdr.Name)[1:]
	when := hdr.ModTime.Unix()
	switch {
	case strings.HasPrefix(path.Base(name), whiteoutPrefix):
		when = whiteoutTime
	case o.Date != nil:
		when = o.Date(name, hdr.ModTime)
	}
	hdr.ModTime = time.Unix(when, 0)
	for _, t := range []*time.Time{&hdr.AccessTime, &hdr.ChangeTime} {
		if !t.IsZero() {
			*t = hdr.ModTime
		}
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("writing %q: %w", hdr.Name, err)
	}
	content := io.Reader(struct{ io.Reader }{tr})
	if o.Content != nil && hdr.Typeflag == tar.TypeReg {
		if change := o.Content(name); change != nil {
			data, err := io.ReadAll(tr)
			if err != nil {
				return fmt.Errorf("reading %q: %w", hdr.Name, err)
			}
			change(data)
			content = bytes.NewReader(data)
		}
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{tw}, content, buf); err != nil {
		return fmt.Errorf("copying %q: %w", hdr.Name, err)
	}
	return nil
}
