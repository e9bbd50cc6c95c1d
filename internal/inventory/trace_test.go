package inventory

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// listed makes a layer of names: "d/" is a directory, "-p" a whiteout of p,
// "p=>q" a hard link, others files with their own names in them.
func listed(t *testing.T, names ...string) Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(name))}
		switch from, to, link := strings.Cut(name, "=>"); {
		case link:
			h = &tar.Header{Name: from, Linkname: to, Typeflag: tar.TypeLink, Mode: 0o644}
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Size, h.Mode = tar.TypeDir, 0, 0o755
		case strings.HasPrefix(name, "-"):
			dir, base := "", name[1:]
			if i := strings.LastIndex(base, "/"); i >= 0 {
				dir, base = base[:i+1], base[i+1:]
			}
			h.Name, h.Size = dir+whiteoutPrefix+base, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	return Layer{Blob: digest.FromBytes(data), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

func traced(t *testing.T, base *Inventory, layers ...Layer) (*Inventory, *Trace) {
	t.Helper()
	v, trace, err := FromLayersTraced(t.Context(), base, layers)
	if err != nil {
		t.Fatal(err)
	}
	return v, trace
}

func TestTrace(t *testing.T) {
	base, _ := traced(t, nil, listed(t, "a", "b", "d/", "d/x", "etc/", "var/", "var/lib/", "var/lib/dpkg/"))
	_, trace := traced(t, base,
		listed(t, "new", "gone", "d/", "d/.wh..wh..opq", "d/y", "h=>a", "var/lib/dpkg/status", "etc/ld.so.cache", "f"),
		listed(t, "-gone", "-b", "-etc/ld.so.cache", "-f", "f/", "f/g"))
	want := &Trace{
		Blobs: trace.Blobs, Touched: []string{"a", "b", "etc/ld.so.cache", "f", "gone"},
		Hidden: []string{"b", "d", "etc/ld.so.cache", "f", "gone"}, Files: map[string][]byte{"var/lib/dpkg/status": []byte("var/lib/dpkg/status")},
	}
	if d := cmp.Diff(want, trace); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if len(trace.Blobs) != 2 {
		t.Errorf("it is of %d layers", len(trace.Blobs))
	}
}

func TestTraceIsReadBack(t *testing.T) {
	want := &Trace{
		Blobs: []digest.Digest{digest.FromString("x")}, Touched: []string{"a", "b\n"}, Hidden: []string{"b"},
		Files: map[string][]byte{"var/lib/dpkg/status": []byte("Package: a\n"), "etc/apk/world": {}},
		Merge: &Merge{Gone: []string{"c"}},
	}
	var b, again bytes.Buffer
	if err := want.Encode(&b); err != nil {
		t.Fatal(err)
	}
	got, err := DecodeTrace(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := got.Encode(&again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("written again it is another: %v", err)
	}
	for n := range b.Len() {
		if _, err := DecodeTrace(bytes.NewReader(b.Bytes()[:n])); err == nil {
			t.Fatalf("cut off after %d bytes it is read", n)
		}
	}
}

func FuzzTrace(f *testing.F) {
	var b bytes.Buffer
	t := &Trace{Blobs: []digest.Digest{digest.FromString("x")}, Touched: []string{"a"}, Files: map[string][]byte{"etc/apk/world": []byte("a\n")}}
	if err := t.Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := DecodeTrace(bytes.NewReader(data)); err == nil {
			for p := range got.Files {
				if !cleanPath(p) {
					t.Errorf("it holds %q", p)
				}
			}
		}
	})
}

func TestJoinedTraces(t *testing.T) {
	base, _ := traced(t, nil, listed(t, "a", "b"))
	lower, upper := listed(t, "x", "-a"), listed(t, "-x", "y")
	middle, first := traced(t, base, lower)
	_, second := traced(t, middle, upper)
	joined := first.Join(second)
	if d := cmp.Diff([]string{"a", "x"}, joined.Touched); d != "" {
		t.Errorf("touched (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]digest.Digest{lower.Blob, upper.Blob}, joined.Blobs); d != "" {
		t.Errorf("blobs (-want +got):\n%s", d)
	}
}

func TestOwnOfRefuses(t *testing.T) {
	base, _ := traced(t, nil, listed(t, "a"))
	child, trace := traced(t, base, listed(t, "b"))
	other, _ := traced(t, nil, listed(t, "c"))
	tests := []struct {
		name        string
		child, base *Inventory
		trace       *Trace
	}{
		{"another base", child, other, trace},
		{"a trace of other layers", child, base, &Trace{}},
		{"a small inventory", child.Small(), base, trace},
		{"a small base", child, base.Small(), trace},
		{"the base on the child", base, child, trace},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := OwnOf(tt.child, tt.base, tt.trace); err == nil {
				t.Error("no error")
			}
		})
	}
}
