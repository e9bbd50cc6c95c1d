package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// pack makes an archive of headers; a file's content is its name, repeated up
// to its size.
func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			text := strings.Repeat(h.Name, int(h.Size)/len(h.Name)+1)
			if _, err := io.WriteString(tw, text[:h.Size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t *testing.T, compression string, data []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	if compression == "zstd" {
		r, err = zstd.NewReader(bytes.NewReader(data))
	} else {
		r, err = gzip.NewReader(bytes.NewReader(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

const repackEpoch = 1_600_000_000

// at gives an entry with all three times; PAX holds what the old form can't.
func at(h tar.Header, when time.Time) tar.Header {
	h.ModTime, h.Format = when, tar.FormatPAX
	h.AccessTime, h.ChangeTime = when, when
	return h
}

var (
	before = time.Unix(repackEpoch-1000, 500_000_000)
	after  = time.Unix(repackEpoch+1000, 500_000_000)
	limit  = time.Unix(repackEpoch, 0)
)

// clampTo is the rule of BuildKit's rewrite-timestamp, in whole seconds.
func clampTo(_ string, archive time.Time) int64 { return min(archive.Unix(), repackEpoch) }

func TestRepackChangesTimesAndNothingElse(t *testing.T) {
	long := strings.Repeat("folder/", 40) + "ünïcode"
	entries := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o1777, Uid: 7, Gid: 8},
		{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o4755, Size: 5000, Uname: "someone", Gname: "some"},
		{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, Size: 10},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/file"},
		{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: long},
		{Typeflag: tar.TypeReg, Name: "d/.wh.gone"},
		{Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"},
		{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeReg, Name: "big-owner", Uid: 1 << 22, Gid: 1 << 23},
		{Typeflag: tar.TypeReg, Name: "xattr", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00"}},
	}
	var in, want []tar.Header
	for _, h := range entries {
		in = append(in, at(h, before), at(h, limit), at(h, after))
		early, late := before.Truncate(time.Second), limit
		if strings.Contains(h.Name, whiteoutPrefix) {
			early, late = time.Unix(whiteoutTime, 0), time.Unix(whiteoutTime, 0)
		}
		want = append(want, at(h, early), at(h, late), at(h, late))
	}
	for _, compression := range []string{"gzip", "zstd"} {
		for _, packed := range []string{"", "gzip", "zstd"} {
			t.Run(fmt.Sprintf("from %q to %s", packed, compression), func(t *testing.T) {
				var out, plain bytes.Buffer
				blob, err := Repack(&out, bytes.NewReader(recompress(t, packed, pack(t, in...))),
					Repacking{Date: clampTo, Compression: compression, Plain: &plain})
				if err != nil {
					t.Fatal(err)
				}
				expected := pack(t, want...)
				if !bytes.Equal(unpack(t, compression, out.Bytes()), expected) || !bytes.Equal(plain.Bytes(), expected) {
					t.Error("the archive is not the old one with other times")
				}
				got := Blob{Descriptor: blob.Descriptor, DiffID: blob.DiffID, Size: blob.Size}
				exp := Blob{DiffID: digest.FromBytes(expected), Size: int64(len(expected))}
				exp.Descriptor.MediaType = "application/vnd.oci.image.layer.v1.tar+" + compression
				exp.Descriptor.Digest, exp.Descriptor.Size = digest.FromBytes(out.Bytes()), int64(out.Len())
				if diff := cmp.Diff(exp, got, cmp.AllowUnexported(Blob{})); diff != "" {
					t.Errorf("blob (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func recompress(t *testing.T, compression string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch compression {
	case "":
		return data
	case "gzip":
		w = gzip.NewWriter(&b)
	default:
		w, _ = zstd.NewWriter(&b)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRepackLeavesOldArchivesAlone(t *testing.T) {
	plain := pack(t, tar.Header{Name: "a", Size: 3, ModTime: time.Unix(5, 0)}, tar.Header{Name: "b/", Typeflag: tar.TypeDir, ModTime: limit})
	blob, err := Repack(io.Discard, bytes.NewReader(plain), Repacking{Date: clampTo})
	if err != nil || blob.DiffID != digest.FromBytes(plain) {
		t.Errorf("got %s, %v; want %s", blob.DiffID, err, digest.FromBytes(plain))
	}
}

func TestRepackChangesContentsThatHoldTimes(t *testing.T) {
	in := pack(t, tar.Header{Name: "./a", Size: 6, ModTime: limit}, tar.Header{Name: "b", Size: 4, ModTime: limit})
	var plain bytes.Buffer
	_, err := Repack(io.Discard, bytes.NewReader(in), Repacking{Plain: &plain, Content: func(p string) func([]byte) {
		if p != "a" {
			return nil
		}
		return func(data []byte) { data[1] = '!' }
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Replace(in, []byte("./a./a"), []byte(".!a./a"), 1)
	if !bytes.Equal(plain.Bytes(), want) {
		t.Errorf("got %q", plain.Bytes())
	}
}

// noise makes an archive of several compression blocks.
func noise(t testing.TB, size int) []byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	line := make([]byte, 64)
	for i := 0; b.Len() < size; i++ {
		var content bytes.Buffer
		for range rnd.IntN(3000) {
			for k := range line {
				line[k] = "etaoin shrdlu\n(){}=,."[rnd.IntN(8+rnd.IntN(13))]
			}
			content.Write(line)
		}
		h := &tar.Header{Name: fmt.Sprintf("file-%d", i), Size: int64(content.Len()), ModTime: after, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := content.WriteTo(tw); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRepackIsTheSameForAnyNumberOfProcessors(t *testing.T) {
	data := noise(t, 8<<20)
	for _, compression := range []string{"gzip", "zstd"} {
		seen := map[digest.Digest]bool{}
		for _, n := range []int{1, 2, 8} {
			old := runtime.GOMAXPROCS(n)
			// Reads of any size give the same.
			blob, err := Repack(io.Discard, &dribble{data, n * 1111}, Repacking{Date: clampTo, Compression: compression})
			runtime.GOMAXPROCS(old)
			if err != nil {
				t.Fatal(err)
			}
			seen[blob.Descriptor.Digest] = true
		}
		if len(seen) != 1 {
			t.Errorf("%s: %d different blobs", compression, len(seen))
		}
	}
}

// dribble gives data in pieces of n bytes.
type dribble struct {
	data []byte
	n    int
}

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), d.n)], d.data)
	d.data = d.data[n:]
	return n, nil
}

// fullAfter takes n bytes.
type fullAfter struct{ n int }

func (f *fullAfter) Write(p []byte) (int, error) {
	n := min(len(p), f.n)
	f.n -= n
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

func TestRepackErrors(t *testing.T) {
	data := noise(t, 4<<20)
	tests := []struct {
		name string
		in   []byte
		out  io.Writer
		want string
	}{
		{"cut in a file", data[:len(data)/2], io.Discard, "unexpected EOF"},
		{"cut in a compressed stream", recompress(t, "gzip", data)[:100_000], io.Discard, "unexpected EOF"},
		{"not an archive", bytes.Repeat([]byte("not an archive"), 100), io.Discard, "archive/tar: invalid tar header"},
		{"disk full", data, &fullAfter{1000}, "no space left on device"},
		{"disk full at once", data[:2048], &fullAfter{0}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Repack(tt.out, bytes.NewReader(tt.in), Repacking{Date: clampTo})
			if err == nil || !strings.HasPrefix(err.Error(), "repacking a layer: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestRepackNeedsLittleMemory(t *testing.T) {
	data := noise(t, 64<<20)
	// What is live is to be measured, not how long garbage beside data may lie.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	var base, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&base)
	peak := uint64(0)
	watch := &watcher{func() {
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapInuse)
	}, 0}
	if _, err := Repack(watch, bytes.NewReader(data), Repacking{Date: clampTo}); err != nil {
		t.Fatal(err)
	}
	if used := int64(peak) - int64(base.HeapInuse); used > 60<<20 {
		t.Errorf("%d MB of heap", used>>20)
	}
}

// watcher calls look for every few hundred kilobytes.
type watcher struct {
	look func()
	n    int
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.n += len(p); w.n > 256<<10 {
		w.n = 0
		w.look()
	}
	return len(p), nil
}

func BenchmarkRepack(b *testing.B) {
	data := noise(b, 64<<20)
	for _, compression := range []string{"gzip", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Repack(io.Discard, bytes.NewReader(data), Repacking{Date: clampTo, Compression: compression}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
