package inventory

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
)

// Seen is one entry of a layer as it stands there, nothing followed.
type Seen struct {
	Path     string // clean, without a leading slash; of a whiteout what it takes away
	Kind     Kind   // None for a whiteout and for a hard link
	Size     int64  // of a regular file
	Whiteout bool
	Opaque   bool // a whiteout of everything that lower layers have below Path
}

// Scan streams a layer and shows each of its entries to see, with the content of
// a regular file, until see wants no more. For one who looks for a file or two
// in an image of which no inventory is known, from the top layer down. The layer
// is read to its end, so that its digest is verified.
func Scan(ctx context.Context, layer Layer, see func(s Seen, content io.Reader) (more bool, err error)) error {
	blob, err := layer.Open()
	if err != nil {
		return err
	}
	defer blob.Close()
	plain, closePlain, err := decompress(&contextReader{ctx, blob})
	if err != nil {
		return fmt.Errorf("reading layer %s: %w", layer.Blob, err)
	}
	defer closePlain()
	tr := tar.NewReader(plain)
	for more := true; more; {
		hdr, err := tr.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, plain) // so that the digest is checked
			return err
		}
		var s Seen
		if err == nil {
			s, err = seen(hdr)
		}
		if err == nil {
			more, err = see(s, tr)
		}
		if err == nil && !more {
			_, err = io.Copy(io.Discard, plain)
		}
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", layer.Blob, err)
		}
	}
	return nil
}

var tarKinds = map[byte]Kind{
	tar.TypeReg: File, tar.TypeCont: File, tar.TypeGNUSparse: File, tar.TypeDir: Dir, tar.TypeSymlink: Symlink,
	tar.TypeChar: Char, tar.TypeBlock: Block, tar.TypeFifo: Fifo,
}

func seen(hdr *tar.Header) (Seen, error) {
	p, err := cleanName(hdr.Name)
	if err != nil {
		return Seen{}, err
	}
	dir, base := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	name, whiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueMarker:
		return Seen{Path: dir, Whiteout: true, Opaque: true}, nil
	case whiteout:
		return Seen{Path: join(dir, name), Whiteout: true}, nil
	}
	return Seen{Path: p, Kind: tarKinds[hdr.Typeflag], Size: hdr.Size}, nil
}
