package inventory

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
)

// large gives an inventory of 135,000 files in 13,500 directories, as many as
// the largest images have, with 40,000 times.
func large() *Inventory {
	v := &Inventory{entries: []Entry{emptyRoot()}, blobs: []digest.Digest{digest.FromString("layer")}}
	for i := range 135 {
		top := fmt.Sprintf("opt%03d", i)
		v.entries = append(v.entries, Entry{Path: top, Kind: Dir, Mode: 0o755})
		for j := range 100 {
			dir := fmt.Sprintf("%s/package-%02d", top, j)
			v.entries = append(v.entries, Entry{Path: dir, Kind: Dir, Mode: 0o755, Time: 1.7e9 + int64(i*100+j)*977})
			for k := range 10 {
				name := fmt.Sprintf("%s/file_%d_%x.py", dir, k, (i*1009+j*31+k*7)%4093)
				v.entries = append(v.entries, Entry{Path: name, Kind: File, Mode: 0o644, Size: int64(k), Time: 1.7e9 + int64(i*100+j)*977 - int64(k%3), Content: [32]byte{byte(i), byte(j), byte(k)}})
			}
		}
	}
	return v
}

func BenchmarkDecode(b *testing.B) {
	full := large()
	for name, v := range map[string]*Inventory{"small": full.Small(), "full": full} {
		var coded bytes.Buffer
		if err := v.Encode(&coded); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(coded.Len()), "bytes")
			for b.Loop() {
				if _, err := Decode(bytes.NewReader(coded.Bytes())); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(coded.Len()), "bytes")
		})
	}
}
