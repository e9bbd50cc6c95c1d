package times

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// MediaType is that of coded tables.
const MediaType = "application/vnd.strata.times.v1+zstd"

// Table says of one layer which times were published in place of the engine's.
// With it another machine's engine sees the layer as the one that made it.
type Table struct {
	Newest  int64    // published time, in seconds, of all that counts in this layer and below it
	Paths   []Dated  // sorted by path
	Records []Record // sorted by path
}

// Dated is one path of a table.
type Dated struct {
	Path      string
	Real      int64 // the engine's time, in ns since 1970
	Published int64 // the layer's, in seconds
}

// Tables are those of an image's layers, by the digest of the compressed blob.
type Tables map[digest.Digest]*Table

const (
	tableMagic = "STRATAt1"
	maxCoded   = 64 << 20
	maxBody    = 512 << 20
	maxPath    = 4096
	maxLayers  = 4096
	maxPaths   = 4 << 20
)

// ErrDamaged is wrapped by every error of [Decode]: the tables must be treated
// as if they were not there.
var ErrDamaged = errors.New("the table of times is damaged")

// Encode gives the coded form: the magic, then zstd over the number of layers
// and for each its digest, newest time, paths and records; numbers are varints,
// signed ones zigzag, times differences from the one before, paths share what
// they have in common with the one before. Equal tables give equal bytes.
func (t Tables) Encode() ([]byte, error) {
	var b []byte
	b = binary.AppendUvarint(b, uint64(len(t)))
	for _, d := range slices.Sorted(maps.Keys(t)) {
		b = appendText(b, d.String())
		b = t[d].append(b)
	}
	z, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("encoding a table of times: %w", err)
	}
	return z.EncodeAll(b, []byte(tableMagic)), nil
}

// encoder is made once: that takes 4 ms and 21 MB, more than most tables.
var encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
})

func (t *Table) append(b []byte) []byte {
	b = binary.AppendVarint(b, t.Newest)
	b = binary.AppendUvarint(b, uint64(len(t.Paths)))
	last := Dated{}
	for _, d := range t.Paths {
		b = appendPath(b, last.Path, d.Path)
		last.Path = d.Path
	}
	for _, d := range t.Paths {
		b = binary.AppendVarint(b, d.Real-last.Real)
		last.Real = d.Real
	}
	for _, d := range t.Paths {
		b = binary.AppendVarint(b, d.Published-last.Published)
		last.Published = d.Published
	}
	b = binary.AppendUvarint(b, uint64(len(t.Records)))
	for _, r := range t.Records {
		b = appendText(b, r.Path)
		b = binary.AppendVarint(b, r.Real)
		b = binary.AppendVarint(b, r.Published)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendPath(b []byte, last, p string) []byte {
	n := 0
	for n < len(p) && n < len(last) && p[n] == last[n] {
		n++
	}
	return appendText(binary.AppendUvarint(b, uint64(n)), p[n:])
}

// Decode reads what Encode wrote. The data may be hostile: paths are clean and
// sorted, and no memory is taken that the data does not pay for.
func Decode(coded []byte) (Tables, error) {
	rest, ok := bytes.CutPrefix(coded, []byte(tableMagic))
	if !ok || len(coded) > maxCoded {
		return nil, fmt.Errorf("%w: bad head", ErrDamaged)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	defer z.Close()
	body, err := z.DecodeAll(rest, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	r := &tableReader{buf: body}
	out := Tables{}
	for n := r.number(maxLayers); n > 0 && r.err == nil; n-- {
		d := digest.Digest(r.text(256))
		if r.err == nil && d.Validate() != nil {
			r.fail("bad digest")
		}
		out[d] = r.table()
	}
	if r.err == nil && len(r.buf) > 0 {
		r.fail("more follows its end")
	}
	if r.err != nil {
		return nil, r.err
	}
	return out, nil
}

type tableReader struct {
	buf []byte
	err error
}

func (r *tableReader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrDamaged, why)
	}
	r.buf = nil
}

func (r *tableReader) number(limit uint64) uint64 {
	n, size := binary.Uvarint(r.buf)
	if size <= 0 || n > limit {
		r.fail("bad number")
		return 0
	}
	r.buf = r.buf[size:]
	return n
}

func (r *tableReader) signed() int64 {
	n, size := binary.Varint(r.buf)
	if size <= 0 {
		r.fail("bad number")
		return 0
	}
	r.buf = r.buf[size:]
	return n
}

func (r *tableReader) text(limit uint64) string {
	n := r.number(limit)
	if n > uint64(len(r.buf)) {
		r.fail("it ends early")
		return ""
	}
	s := string(r.buf[:n])
	r.buf = r.buf[n:]
	return s
}

func (r *tableReader) table() *Table {
	t := &Table{Newest: r.signed()}
	n := r.number(min(maxPaths, uint64(len(r.buf)))) // a path takes a byte at least
	t.Paths = make([]Dated, n)
	last, total := "", 0
	for i := range t.Paths {
		shared := r.number(maxPath)
		if shared > uint64(len(last)) {
			r.fail("bad path")
			return t
		}
		p := last[:shared] + r.text(maxPath)
		if total += len(p); r.err != nil || !clean(p) || i > 0 && p <= last || total > maxBody {
			r.fail("bad path")
			return t
		}
		t.Paths[i].Path, last = p, p
	}
	at := int64(0)
	for i := range t.Paths {
		at += r.signed()
		t.Paths[i].Real = at
	}
	at = 0
	for i := range t.Paths {
		at += r.signed()
		t.Paths[i].Published = at
	}
	last = ""
	for n := r.number(min(maxPaths, uint64(len(r.buf)))); n > 0 && r.err == nil; n-- {
		rec := Record{Path: r.text(maxPath), Real: r.signed(), Published: r.signed()}
		if !clean(rec.Path) || rec.Path <= last {
			r.fail("bad path")
		}
		t.Records, last = append(t.Records, rec), rec.Path
	}
	return t
}

// clean says whether a path is relative, without empty, "." and ".." elements.
func clean(p string) bool {
	if p == "" || len(p) > maxPath || strings.IndexByte(p, 0) >= 0 {
		return false
	}
	for elem := range strings.SplitSeq(p, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return false
		}
	}
	return true
}

// only names the layer of a table that stands alone.
var only = digest.FromBytes(nil)

// Encode gives the coded form of a table that stands alone.
func (t *Table) Encode() ([]byte, error) { return Tables{only: t}.Encode() }

// DecodeTable reads what [Table.Encode] wrote.
func DecodeTable(coded []byte) (*Table, error) {
	all, err := Decode(coded)
	if err != nil {
		return nil, err
	}
	if all[only] == nil {
		return nil, fmt.Errorf("%w: it is not of one layer", ErrDamaged)
	}
	return all[only], nil
}
