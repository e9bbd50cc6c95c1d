package inventory

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The head of a coded inventory; see docs/format-inventory.md.
const (
	magic     = "STRATAi2"
	partSmall = 's'
	partFull  = 'f'
)

// Encode writes the inventory: its full part when it is full, the small part
// otherwise. The same inventory gives the same bytes.
func (v *Inventory) Encode(w io.Writer) error {
	body := v.body()
	sum := sha256.Sum256(body)
	head := append([]byte(magic), partFull)
	if !v.Full() {
		head[len(head)-1] = partSmall
	}
	head = append(head, sum[:]...)
	head = binary.AppendUvarint(head, uint64(len(body)))
	z, err := encoder()
	if err != nil {
		return fmt.Errorf("encoding the inventory: %w", err)
	}
	if _, err := w.Write(z.EncodeAll(body, head)); err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	return nil
}

// EncodeSmall writes the small part of the inventory, which may be full.
func (v *Inventory) EncodeSmall(w io.Writer) error {
	small := *v
	if !v.small { // what only the full part holds is not written
		small.small, small.newest = true, v.newestOf(1<<63-1)
	}
	return small.Encode(w)
}

// encoder is made once: that takes 5 ms and 21 MB, more than most inventories.
// One goroutine: the blocks, and so the bytes, do not depend on the machine.
var encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
})

// attributes are what many entries have in common.
type attributes struct {
	kind     Kind
	mode     uint32
	uid, gid int
	xattrs   bool
}

func (e *Entry) attributes() attributes {
	return attributes{e.Kind, e.Mode, e.UID, e.GID, len(e.Xattrs) > 0}
}

// body gives the sections one after the other. Columns in place of records
// make it a third smaller once compressed.
func (v *Inventory) body() []byte {
	var b buffer
	b.uvarint(uint64(len(v.blobs)))
	for _, d := range v.blobs {
		b.text(d.String())
	}
	for _, a := range []Account{v.passwd, v.group} {
		b.uvarint(uint64(a.State))
		b.text(a.Path)
		b.text(string(a.Data))
	}
	b.uvarint(uint64(len(v.entries)))
	v.putPaths(&b)
	v.putAttributes(&b)
	v.putSpecials(&b)
	v.putTimes(&b)
	if !v.Full() {
		b.buf = binary.AppendVarint(b.buf, v.newest)
		return b.buf
	}
	for i := range v.entries {
		b.uvarint(uint64(v.entries[i].Blob + 1))
	}
	for i := range v.entries {
		if v.entries[i].Kind == File {
			b.uvarint(uint64(v.entries[i].Size))
		}
	}
	for i := range v.entries {
		if e := &v.entries[i]; e.Kind == File && e.Size > 0 {
			b.buf = append(b.buf, e.Content[:]...)
		}
	}
	return b.buf
}

// putPaths writes the paths front-coded: first how many bytes each shares with
// the one before, then what follows, each ended by a zero byte.
func (v *Inventory) putPaths(b *buffer) {
	prev := ""
	suffixes := make([]byte, 0, len(v.entries)*16)
	for i := range v.entries {
		p := v.entries[i].Path
		n := 0
		for n < len(p) && n < len(prev) && p[n] == prev[n] {
			n++
		}
		b.uvarint(uint64(n))
		suffixes = append(append(suffixes, p[n:]...), 0)
		prev = p
	}
	b.text(string(suffixes))
}

// putAttributes writes a table of kind, mode and owner in order of first
// appearance, then an index into it for every entry.
func (v *Inventory) putAttributes(b *buffer) {
	index := map[attributes]int{}
	var table []attributes
	for i := range v.entries {
		a := v.entries[i].attributes()
		if _, ok := index[a]; !ok {
			index[a] = len(table)
			table = append(table, a)
		}
	}
	b.uvarint(uint64(len(table)))
	for _, a := range table {
		b.buf = append(b.buf, byte(a.kind))
		b.uvarint(uint64(a.mode))
		b.uvarint(uint64(a.uid))
		b.uvarint(uint64(a.gid))
		b.bool(a.xattrs)
	}
	for i := range v.entries {
		b.uvarint(uint64(index[v.entries[i].attributes()]))
	}
}

// putSpecials writes the targets of links, device numbers and extended
// attributes, each for the entries that have them, in order.
func (v *Inventory) putSpecials(b *buffer) {
	for i := range v.entries {
		if v.entries[i].Kind == Symlink {
			b.text(v.entries[i].Link)
		}
	}
	for i := range v.entries {
		if e := &v.entries[i]; e.Kind == Char || e.Kind == Block {
			b.uvarint(uint64(e.Major))
			b.uvarint(uint64(e.Minor))
		}
	}
	for i := range v.entries {
		x := v.entries[i].Xattrs
		if len(x) == 0 {
			continue
		}
		b.uvarint(uint64(len(x)))
		for _, k := range slices.Sorted(maps.Keys(x)) {
			b.text(k)
			b.text(x[k])
		}
	}
}

// putTimes writes a table of the times in order of first appearance, then an
// index into it for every entry, in the small part for every directory: files
// of one package mostly share theirs.
func (v *Inventory) putTimes(b *buffer) {
	index := map[int64]int{}
	var table []int64
	var which []int
	for i := range v.entries {
		e := &v.entries[i]
		if v.small && e.Kind != Dir {
			continue
		}
		at, ok := index[e.Time]
		if !ok {
			at = len(table)
			index[e.Time] = at
			table = append(table, e.Time)
		}
		which = append(which, at)
	}
	b.uvarint(uint64(len(table)))
	for _, t := range table {
		b.buf = binary.AppendVarint(b.buf, t)
	}
	for _, at := range which {
		b.uvarint(uint64(at))
	}
}

type buffer struct{ buf []byte }

func (b *buffer) uvarint(n uint64) { b.buf = binary.AppendUvarint(b.buf, n) }

func (b *buffer) text(s string) {
	b.uvarint(uint64(len(s)))
	b.buf = append(b.buf, s...)
}

func (b *buffer) bool(v bool) {
	n := byte(0)
	if v {
		n = 1
	}
	b.buf = append(b.buf, n)
}
