package image

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// Repacking says how an archive that an engine made becomes a blob.
type Repacking struct {
	Epoch       int64     // seconds; later file times become this one
	Compression string    // "gzip" (default) or "zstd"
	Plain       io.Writer // takes the new archive before it is compressed as well; may be nil
}

// MediaType gives the media type of the blob.
func (o Repacking) MediaType() string { return layerType(o.Compression) }

// Repack writes a layer, plain or compressed by gzip or zstd, to w with its
// file times clamped, compressed by all processors, and gives what it became.
//
// The uncompressed archive is byte for byte what BuildKit's rewrite-timestamp
// makes: modification times, and access and change times where there are any,
// that lie after the epoch become the epoch; nothing else about the entries or
// their order changes. The blob is the same for any number of processors. One
// pass is made over r, in a few megabytes of memory. With an error, the blob's
// descriptor is that of what w has taken until then.
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
	err = clamp(buffered, in, epochTime(o.Epoch))
	if err == nil {
		err = buffered.Flush()
	}
	return errors.Join(err, z.Close())
}

// clamp copies an archive with its times clamped. What follows the archive's
// end is read and left out, as BuildKit does.
func clamp(w io.Writer, r io.Reader, epoch time.Time) error {
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
		for _, t := range []*time.Time{&hdr.ModTime, &hdr.AccessTime, &hdr.ChangeTime} {
			if t.After(epoch) {
				*t = epoch
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("writing %q: %w", hdr.Name, err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{tr}, buf); err != nil {
			return fmt.Errorf("copying %q: %w", hdr.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf)
	return err
}
