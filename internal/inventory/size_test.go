package inventory

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// endless gives a layer's archive that is made while it is read.
func endless(write func(w *tar.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := write(tw)
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// What a layer of a few megabytes can ask for has a bound, and the error says which.
func TestLayerTooLarge(t *testing.T) {
	entry := func(w *tar.Writer, h tar.Header, content string) error {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
	long := strings.Repeat("d/", 2000)
	for name, c := range map[string]struct {
		header func(i int) (tar.Header, string)
		want   string
	}{
		"files":     {func(i int) (tar.Header, string) { return tar.Header{Name: fmt.Sprint(i)}, "" }, "more than 2097152 files"},
		"one file":  {func(i int) (tar.Header, string) { return tar.Header{Name: "f"}, "" }, "more than 2097152 files"},
		"whiteouts": {func(i int) (tar.Header, string) { return tar.Header{Name: fmt.Sprint(".wh.", i)}, "" }, "more than 2097152 files"},
		"links": {func(i int) (tar.Header, string) {
			return tar.Header{Typeflag: tar.TypeLink, Name: fmt.Sprint("l", i), Linkname: fmt.Sprint("l", i-1)}, ""
		}, "more than 2097152 files"},
		"names": {func(i int) (tar.Header, string) { return tar.Header{Name: fmt.Sprint(long, i)}, "" }, "names, links and extended attributes of more than 256 MB"},
		"attributes": {func(i int) (tar.Header, string) {
			return tar.Header{Name: fmt.Sprint(i), PAXRecords: map[string]string{xattrPrefix + "user.a": strings.Repeat("x", 60<<10)}}, ""
		}, "names, links and extended attributes of more than 256 MB"},
		"databases": {func(i int) (tar.Header, string) {
			return tar.Header{Name: fmt.Sprint("var/lib/dpkg/triggers/", i)}, fmt.Sprint(i, strings.Repeat("x", 4<<20))
		}, "package databases and account files of more than 64 MB"},
		"directories": {func(i int) (tar.Header, string) {
			if i < 50_000 {
				return tar.Header{Name: fmt.Sprint(i)}, ""
			}
			return tar.Header{Name: "d", Typeflag: []byte{tar.TypeDir, tar.TypeReg}[i%2]}, ""
		}, "take the place of a directory too often"},
	} {
		t.Run(name, func(t *testing.T) {
			r := endless(func(w *tar.Writer) error {
				for i := 0; ; i++ {
					h, content := c.header(i)
					if err := entry(w, h, content); err != nil {
						return err
					}
				}
			})
			var used budget // by layers before this one
			used.entries.Store(maxEntries / 2)
			if name != "directories" {
				used.entries.Store(maxEntries - 5000)
			}
			used.text.Store(maxText - 5<<20)
			_, err := readTar(r, &used)
			r.Close()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Copies of an account file are not held without a bound, and the one that counts
// is still known.
func TestManyAccountFiles(t *testing.T) {
	list, err := ReadList(endless(func(w *tar.Writer) error {
		for i := range 200 {
			name, content := fmt.Sprintf("backup/%d/passwd", i), fmt.Sprint(i, strings.Repeat("x", 900<<10))
			if i == 199 {
				name, content = "etc/passwd", "root:x:0:0::/root:/bin/sh\n"
			}
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content))}); err != nil {
				return err
			}
			if _, err := io.WriteString(w, content); err != nil {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, data := range list.list.accounts {
		held += len(data)
	}
	if held > maxContents+1<<20 {
		t.Errorf("%d bytes are held", held)
	}
	v, err := FromLayers(t.Context(), nil, []Layer{{Blob: large().blobs[0], List: list}})
	if err != nil {
		t.Fatal(err)
	}
	if p := v.Passwd(); p.State != AccountPresent || !strings.HasPrefix(string(p.Data), "root:") {
		t.Errorf("the account file is %v", p.State)
	}
}

// A million entries may not take more while they are read than in the end.
func TestDraftIsSmall(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 200_000
	before := heap()
	d := newDraft()
	for i := range n {
		// In few layers all files are alike, one after the other.
		d.put(Entry{Path: fmt.Sprintf("d/%08d", i), Kind: File, Mode: 0o644 | uint32(i%3)<<6, UID: i % 7, Content: emptyContent, Blob: -1})
	}
	if each := (heap() - before) / n; each > 140 {
		t.Errorf("an entry takes %d bytes", each)
	}
	runtime.KeepAlive(d)
}

// Neither do names of one file, nor files that have two each.
func TestDraftOfLinksIsSmall(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 200_000
	before := heap()
	l := newLayerList(&budget{})
	put := func(h tar.Header) {
		h.Mode = 0o644
		if err := l.add(&h, strings.NewReader(""), nil); err != nil {
			t.Fatal(err)
		}
	}
	put(tar.Header{Name: "d/0", Typeflag: tar.TypeReg})
	for i := range n / 4 {
		put(tar.Header{Name: fmt.Sprintf("d/%08d", i), Typeflag: tar.TypeReg})
		put(tar.Header{Name: fmt.Sprintf("e/%08d", i), Typeflag: tar.TypeLink, Linkname: fmt.Sprintf("d/%08d", i)})
		put(tar.Header{Name: fmt.Sprintf("f/%08d", i), Typeflag: tar.TypeLink, Linkname: "d/0"})
		put(tar.Header{Name: fmt.Sprintf("d/%08d", i), Typeflag: tar.TypeReg}) // e alone is left
	}
	if each := (heap() - before) / n; each > 140 {
		t.Errorf("an entry takes %d bytes", each)
	}
	runtime.KeepAlive(l)
}

// Little data can name one link or attribute, and imply folders, so often that a
// list of it is too long.
func TestLayerImpliesTooMuch(t *testing.T) {
	deep := func(i, n int) string { return fmt.Sprint(i, strings.Repeat("/d", n)) }
	for name, c := range map[string]struct {
		n      int
		header func(i int) tar.Header
	}{
		"folders":   {200, func(i int) tar.Header { return tar.Header{Name: deep(i, 2000), Typeflag: tar.TypeReg} }},
		"whiteouts": {200, func(i int) tar.Header { return tar.Header{Name: deep(i, 2000) + "/.wh.x", Typeflag: tar.TypeReg} }},
		"links": {80_000, func(i int) tar.Header {
			if i == 0 {
				return tar.Header{Name: "0", Linkname: strings.Repeat("x", 4000), Typeflag: tar.TypeSymlink}
			}
			return tar.Header{Name: fmt.Sprint(i), Linkname: "0", Typeflag: tar.TypeLink}
		}},
		"attributes": {80_000, func(i int) tar.Header {
			if i == 0 {
				return tar.Header{Name: "0", Typeflag: tar.TypeReg, PAXRecords: map[string]string{xattrPrefix + "user.a": strings.Repeat("x", 4000)}}
			}
			return tar.Header{Name: fmt.Sprint(i), Linkname: "0", Typeflag: tar.TypeLink}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := endless(func(w *tar.Writer) error {
				for i := range c.n {
					h := c.header(i)
					if err := w.WriteHeader(&h); err != nil {
						return err
					}
				}
				return nil
			})
			list, err := ReadList(r)
			if err != nil {
				t.Fatal(err)
			}
			_, err = FromLayers(t.Context(), nil, []Layer{{Blob: large().blobs[0], List: list}})
			if err == nil || !errors.Is(err, errTooMuchText) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEncodeSmall(t *testing.T) {
	for _, v := range []*Inventory{large(), large().Small(), Empty()} {
		var got, want bytes.Buffer
		if err := v.EncodeSmall(&got); err != nil {
			t.Fatal(err)
		}
		if err := v.Small().Encode(&want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.Bytes(), got.Bytes()); d != "" {
			t.Error("they differ")
		}
	}
}

// The implied parent of a file may not stand below a file of its own layer.
func TestImpliedBelowFile(t *testing.T) {
	list, err := ReadList(endless(func(w *tar.Writer) error {
		for _, name := range []string{"a", "a/b/c"} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name}); err != nil {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromLayers(t.Context(), nil, []Layer{{Blob: large().blobs[0], List: list}}); err == nil || !strings.Contains(err.Error(), "stands below") {
		t.Errorf("got %v", err)
	}
}

// A sparse file in a trace costs its maker nothing, and the reader as little.
func TestTraceWithSparseFile(t *testing.T) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: traceHeadName, Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := readTrace(&b); err == nil || !strings.Contains(err.Error(), "1099511627776 bytes") {
		t.Errorf("got %v", err)
	}
}
