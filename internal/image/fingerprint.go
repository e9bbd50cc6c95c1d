package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/strata-build/strata/internal/inventory"
)

// Fingerprint names what WriteBlob would write, without reading or compressing
// it: two plans with the same fingerprint give the same blob. It is "" where
// that can't be told beforehand (an archive that is unpacked, a content whose
// digest is not known) and where there is nothing to write.
func (a *Appended) Fingerprint() string {
	if !a.HasBlob() || len(a.archives) > 0 {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "tail 2 %s %d %d %d\n", a.compression, gzipLevel, gzipBlock, zstdLevel)
	for _, o := range a.files {
		fmt.Fprintf(h, "%q %q %t %d ", o.path, o.linkTo, o.opaque, o.time)
		if !printNode(h, o.node) {
			return ""
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// printNode writes everything of a node that reaches the blob. It is false when
// the content is not known.
func printNode(w io.Writer, n *node) bool {
	if n == nil {
		fmt.Fprintln(w, "gone")
		return true
	}
	sum := ""
	if n.kind == inventory.File && n.content != nil {
		if sum = n.content.want().String(); sum == "" {
			return false
		}
	} else if n.kind == inventory.File {
		return false // a file of the parent that the tail writes again
	}
	fmt.Fprintf(w, "%c %o %d %d %q %d %d %d %q %s\n", n.kind, n.mode, n.uid, n.gid, n.link, n.major, n.minor, n.size, n.capability, sum)
	return true
}
