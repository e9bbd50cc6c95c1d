package inventory

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// entry is a line of a test's layer: "kind path [more]".
type entry = tar.Header

func dir(name string, mode int64) entry { return entry{Typeflag: tar.TypeDir, Name: name, Mode: mode} }

func link(name, to string) entry {
	return entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}

// hard says of the file what text says of it, as archives of one folder do.
func hard(name, to string) entry {
	return entry{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
}

// text is a file whose content stands in Uname, which layers don't have.
func text(name, content string) entry {
	return entry{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Uname: content}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range entries {
		content := h.Uname
		h.Uname = ""
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(data []byte) Layer {
	return Layer{Blob: digest.FromBytes(data), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(data, nil)
}

func lines(v *Inventory) string {
	var b strings.Builder
	for e := range v.All() {
		fmt.Fprintf(&b, "%s [%d]\n", e, e.Blob)
	}
	return b.String()
}

func TestFromLayers(t *testing.T) {
	base := []entry{dir("a/", 0o755), text("a/x", "x"), text("a/y", "y"), dir("b/", 0o700), text("b/z", "z"), link("l", "a"), text("f", "file")}
	tests := []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"one", [][]entry{base}, `directory 0755 0:0 / [-1]
directory 0755 0:0 /a [0]
file 0644 0:0 /a/x 1 [0]
file 0644 0:0 /a/y 1 [0]
directory 0700 0:0 /b [0]
file 0644 0:0 /b/z 1 [0]
file 0644 0:0 /f 4 [0]
link 0777 0:0 /l -> a [0]
`},
		{"whiteouts", [][]entry{base, {text("a/.wh.x", ""), text(".wh.b", ""), text("a/.wh..wh.plnk", ""), text(".wh.nothing", "")}}, `directory 0755 0:0 / [-1]
directory 0755 0:0 /a [0]
file 0644 0:0 /a/y 1 [0]
file 0644 0:0 /f 4 [0]
link 0777 0:0 /l -> a [0]
`},
		{"opaque", [][]entry{base, {dir("a/", 0o711), text("a/new", "n"), text("a/.wh..wh..opq", "")}}, `directory 0755 0:0 / [-1]
directory 0711 0:0 /a [1]
file 0644 0:0 /a/new 1 [1]
directory 0700 0:0 /b [0]
file 0644 0:0 /b/z 1 [0]
file 0644 0:0 /f 4 [0]
link 0777 0:0 /l -> a [0]
`},
		{"whiteout and made again", [][]entry{base, {text(".wh.a", ""), dir("a/", 0o700), text("a/y", "new")}, {text(".wh.b", "")}}, `directory 0755 0:0 / [-1]
directory 0700 0:0 /a [1]
file 0644 0:0 /a/y 3 [1]
file 0644 0:0 /f 4 [0]
link 0777 0:0 /l -> a [0]
`},
		{"file over directory, directory over file and link", [][]entry{base, {text("a", "now a file"), dir("f/", 0o755), dir("l/", 0o755), text("l/in", "")}}, `directory 0755 0:0 / [-1]
file 0644 0:0 /a 10 [1]
directory 0700 0:0 /b [0]
file 0644 0:0 /b/z 1 [0]
directory 0755 0:0 /f [1]
directory 0755 0:0 /l [1]
file 0644 0:0 /l/in 0 [1]
`},
		{"hard links", [][]entry{{text("f", "file"), hard("g", "f"), hard("h", "./g")}, {hard("i", "/f"), hard("j", "i")}}, `directory 0755 0:0 / [-1]
file 0644 0:0 /f 4 [0]
file 0644 0:0 /g 4 [0]
file 0644 0:0 /h 4 [0]
file 0644 0:0 /i 4 [1]
file 0644 0:0 /j 4 [1]
`},
		{"implied directories and the root", [][]entry{{dir("./", 0o711), text("p/q/r", "")}, {text("p/q/s", "")}}, `directory 0711 0:0 / [0]
directory 0755 0:0 /p [0]
directory 0755 0:0 /p/q [0]
file 0644 0:0 /p/q/r 0 [0]
file 0644 0:0 /p/q/s 0 [1]
`},
		{"bits and specials", [][]entry{{
			{Typeflag: tar.TypeReg, Name: "s", Mode: 0o106755, Uid: 7, Gid: 3000000},
			{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3},
			{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
		}}, `directory 0755 0:0 / [-1]
device 0666 0:0 /null 1:3 [0]
named pipe 0600 0:0 /pipe [0]
file 6755 7:3000000 /s 0 [0]
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var layers []Layer
			for i, l := range tt.layers {
				raw := tarOf(t, l...)
				switch i {
				case 0:
					raw = gzipped(t, raw)
				case 1:
					raw = zstded(t, raw)
				}
				layers = append(layers, layerOf(raw))
			}
			v, err := FromLayers(t.Context(), nil, layers)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, lines(v)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			// Layer by layer gives the same.
			var step *Inventory
			for i := range layers {
				if step, err = FromLayers(t.Context(), step, layers[i:i+1]); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(lines(v), lines(step)); d != "" {
				t.Errorf("layer by layer (-at once +step by step):\n%s", d)
			}
			checkRoundTrip(t, v)
		})
	}
}

func checkRoundTrip(t *testing.T, v *Inventory) {
	t.Helper()
	for _, part := range []*Inventory{v, v.Small()} {
		var b bytes.Buffer
		if err := part.Encode(&b); err != nil {
			t.Fatal(err)
		}
		got, err := Decode(&b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(part, got, cmp.AllowUnexported(Inventory{}), cmp.Comparer(func(a, b Account) bool {
			return a.State == b.State && a.Path == b.Path && bytes.Equal(a.Data, b.Data)
		})); d != "" {
			t.Errorf("decoded (-want +got):\n%s", d)
		}
	}
}

func TestFromLayersRefuses(t *testing.T) {
	tests := []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"through a link", [][]entry{{dir("d/", 0o755), link("l", "d")}, {text("l/x", "")}}, "stands below"},
		{"below a file", [][]entry{{text("f", "")}, {text("f/x", "")}}, "stands below"},
		{"below a file of its own", [][]entry{{text("f", ""), text("f/x", "")}}, "stands below"},
		{"hard link to nothing", [][]entry{{hard("a", "b")}}, "which is not there"},
		{"hard link to a directory", [][]entry{{dir("b/", 0o755), hard("a", "b")}}, "directory"},
		{"root is a file", [][]entry{{text(".", "")}}, "the root is not a directory"},
		{"whiteout of nothing", [][]entry{{text("a/.wh.", "")}}, "names no file"},
		{"long name", [][]entry{{text(strings.Repeat("x/", 3000)+"y", "")}}, "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var layers []Layer
			for _, l := range tt.layers {
				layers = append(layers, layerOf(tarOf(t, l...)))
			}
			_, err := FromLayers(t.Context(), nil, layers)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("other content than the digest says", func(t *testing.T) {
		l := layerOf(gzipped(t, tarOf(t, text("a", ""))))
		l.Blob = digest.FromString("else")
		if _, err := FromLayers(t.Context(), nil, []Layer{l}); err == nil || !strings.Contains(err.Error(), "digest") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		raw := gzipped(t, tarOf(t, text("a", strings.Repeat("x", 9000))))
		if _, err := FromLayers(t.Context(), nil, []Layer{layerOf(raw[:len(raw)-20])}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := FromLayers(ctx, nil, []Layer{layerOf(tarOf(t, text("a", "")))}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("small base", func(t *testing.T) {
		if _, err := FromLayers(t.Context(), Empty().Small(), []Layer{layerOf(tarOf(t, text("a", "")))}); !errors.Is(err, ErrNeedFull) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAccounts(t *testing.T) {
	passwd, group := "root:x:0:0:::\n", "root:x:0:\n"
	tests := []struct {
		name   string
		layers [][]entry
		want   Account
	}{
		{"none", [][]entry{{text("x", "")}}, Account{}},
		{"file", [][]entry{{text("etc/passwd", passwd), text("etc/group", group)}}, Account{State: AccountPresent, Path: "etc/passwd", Data: []byte(passwd)}},
		{"kept by a later layer", [][]entry{{text("etc/passwd", passwd)}, {text("x", "")}}, Account{State: AccountPresent, Path: "etc/passwd", Data: []byte(passwd)}},
		{"replaced", [][]entry{{text("etc/passwd", "old")}, {text("etc/passwd", passwd)}}, Account{State: AccountPresent, Path: "etc/passwd", Data: []byte(passwd)}},
		{"removed", [][]entry{{text("etc/passwd", passwd)}, {text("etc/.wh.passwd", "")}}, Account{}},
		{"link", [][]entry{{link("etc/passwd", "/usr/share/passwd"), text("usr/share/passwd", passwd)}}, Account{State: AccountPresent, Path: "usr/share/passwd", Data: []byte(passwd)}},
		{"hard link to another name", [][]entry{{text("other", passwd), hard("etc/passwd", "other")}}, Account{State: AccountUnknown, Path: "etc/passwd"}},
		{"too large", [][]entry{{text("etc/passwd", strings.Repeat("x", maxAccount+1))}}, Account{State: AccountUnknown, Path: "etc/passwd"}},
		{"a directory", [][]entry{{dir("etc/passwd/", 0o755)}}, Account{State: AccountUnknown, Path: "etc/passwd"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v *Inventory
			for _, l := range tt.layers {
				var err error
				if v, err = FromLayers(t.Context(), v, []Layer{layerOf(tarOf(t, l...))}); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(tt.want, v.Passwd()); d != "" {
				t.Errorf("passwd (-want +got):\n%s", d)
			}
		})
	}
}

func TestResolveInRoot(t *testing.T) {
	v, err := FromLayers(t.Context(), nil, []Layer{layerOf(tarOf(t,
		dir("usr/bin/", 0o755), link("bin", "usr/bin"), link("abs", "/usr/bin/../bin"), link("up", "../../../usr"), link("loop", "loop"),
		link("usr/back", "../bin"), link("dangling", "no/where"), text("file", ""), link("tofile", "file"),
		dir("deep/er/", 0o755), link("hop1", "hop2"), link("hop2", "deep/er"), link("deep/er/out", "../x"), link("self", "."),
	))})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path, want string
		err        error
	}{
		{"/", "", nil},
		{"bin/x", "usr/bin/x", nil},
		{"/bin/", "usr/bin", nil},
		{"/abs/x/y", "usr/bin/x/y", nil},
		{"/up/bin", "usr/bin", nil},
		{"/usr/back/x", "usr/bin/x", nil},
		{"/dangling/x", "no/where/x", nil},
		{"/new/../bin", "usr/bin", nil},
		{"../../bin", "usr/bin", nil},
		{"/tofile", "file", nil},
		{"/self/self/bin", "usr/bin", nil},
		{"/hop1/x", "deep/er/x", nil},
		{"/file/x", "", ErrNotDir},
		{"/tofile/x", "", ErrNotDir},
		{"/loop", "", ErrLoop},
		{"/hop1/out", "", ErrAmbiguous},
		{"/hop2/out", "deep/x", nil},
	}
	for _, tt := range tests {
		got, err := v.ResolveInRoot(tt.path)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v; want %q, %v", tt.path, got, err, tt.want, tt.err)
		}
	}
}

func TestDiff(t *testing.T) {
	a, err := FromLayers(t.Context(), nil, []Layer{layerOf(tarOf(t, text("a", "1"), text("b", "1"), dir("d/", 0o755), link("l", "x")))})
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromLayers(t.Context(), a, []Layer{layerOf(tarOf(t, text("a", "2"), text(".wh.b", ""), dir("d/", 0o700), text("e", "")))})
	if err != nil {
		t.Fatal(err)
	}
	diff, err := Diff(a, b)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range diff {
		got = append(got, fmt.Sprintf("%s: %s -> %s", d.Path, d.Before.Kind, d.After.Kind))
	}
	want := []string{"a: file -> file", "b: file -> nothing", "d: directory -> directory", "e: nothing -> file"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := Diff(a.Small(), b); !errors.Is(err, ErrNeedFull) {
		t.Errorf("small: %v", err)
	}
	if d := cmp.Diff([]int64{2, 1}, b.BlobSizes()); d != "" && b.BlobSizes()[1] != 1 {
		t.Errorf("sizes by blob: %v", b.BlobSizes())
	}
}

func TestDecodeRefuses(t *testing.T) {
	v, err := FromLayers(t.Context(), nil, []Layer{layerOf(tarOf(t, text("a/b", "1"), link("l", "a")))})
	if err != nil {
		t.Fatal(err)
	}
	bad := func(change func(*Inventory)) []byte {
		w := &Inventory{entries: append([]Entry(nil), v.entries...), blobs: v.blobs}
		change(w)
		var b bytes.Buffer
		if err := w.Encode(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good := bad(func(*Inventory) {})
	if _, err := Decode(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	tests := map[string][]byte{
		"empty":        nil,
		"other magic":  append([]byte("STRATAi9"), good[8:]...),
		"old magic":    append([]byte("STRATAi1"), good[8:]...),
		"cut off":      good[:len(good)-3],
		"flipped bit":  append(append([]byte(nil), good[:20]...), append([]byte{good[20] ^ 1}, good[21:]...)...),
		"two dots":     bad(func(v *Inventory) { v.entries[2].Path = "a/.." }),
		"absolute":     bad(func(v *Inventory) { v.entries[1].Path = "/a" }),
		"no parent":    bad(func(v *Inventory) { v.entries = append(v.entries[:1], v.entries[2:]...) }),
		"unsorted":     bad(func(v *Inventory) { v.entries[1], v.entries[3] = v.entries[3], v.entries[1] }),
		"twice":        bad(func(v *Inventory) { v.entries[3] = v.entries[2] }),
		"no root":      bad(func(v *Inventory) { v.entries = v.entries[1:] }),
		"unknown kind": bad(func(v *Inventory) { v.entries[3].Kind = 'z' }),
		"below a link": bad(func(v *Inventory) { v.entries[1].Kind = Symlink }),
		"bad digest":   bad(func(v *Inventory) { v.blobs = []digest.Digest{"sha256:x"} }),
		"bad blob":     bad(func(v *Inventory) { v.entries[1].Blob = 7 }),
		"long path":    bad(func(v *Inventory) { v.entries[3].Path = strings.Repeat("x", maxPath+1) }),
		"empty name":   bad(func(v *Inventory) { v.entries[3].Path = "l//x" }),
		"bad mode":     bad(func(v *Inventory) { v.entries[3].Mode = 0o10000 }),
		"large owner":  bad(func(v *Inventory) { v.entries[3].UID = 1 << 40 }),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode(bytes.NewReader(data)); !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v, want one about damage", err)
			}
		})
	}
}

// FuzzDecode checks that no data makes the reader panic, and that what it
// accepts is sound: it encodes to something that decodes to the same.
func FuzzDecode(f *testing.F) {
	v, err := FromLayers(f.Context(), nil, []Layer{layerOf(tarOf(f,
		text("etc/passwd", "x"), link("l", "a"), entry{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1}, at(text("t", ""), -5, 0),
	))})
	if err != nil {
		f.Fatal(err)
	}
	for _, part := range []*Inventory{v, v.Small(), Empty()} {
		f.Add(part.body(), part.Full())
	}
	f.Fuzz(func(t *testing.T, body []byte, full bool) {
		part := byte(partSmall)
		if full {
			part = partFull
		}
		d := &decoder{buf: body}
		v := d.inventory(part)
		if d.err != nil || len(d.buf) != 0 {
			return
		}
		for i, e := range v.entries {
			if i > 0 && (e.Path <= v.entries[i-1].Path || v.Lookup(parentOf(e.Path)).Kind != Dir) {
				t.Fatalf("entry %q is out of place", e.Path)
			}
		}
		again := (&decoder{buf: v.body()}).inventory(part)
		if d := cmp.Diff(lines(v), lines(again)); d != "" {
			t.Fatalf("it changed:\n%s", d)
		}
		if d := cmp.Diff(timesOf(v), timesOf(again)); d != "" {
			t.Fatalf("its times changed:\n%s", d)
		}
	})
}

// FuzzReadLayer checks that no tar stream makes the reader panic, and that the
// tree that it accepts can be encoded and read again.
func FuzzReadLayer(f *testing.F) {
	f.Add(tarOf(f, text("etc/passwd", "x"), link("l", "a"), hard("h", "etc/passwd")))
	f.Add(tarOf(f, text("a/.wh.b", ""), text("a/.wh..wh..opq", ""), dir("x/", 0o755)))
	base, err := FromLayers(f.Context(), nil, []Layer{layerOf(tarOf(f, text("a/b", "x"), text("x", "")))})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := FromLayers(t.Context(), base, []Layer{layerOf(raw)})
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := v.Encode(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(&b); err != nil {
			t.Fatalf("%v\n%s", err, lines(v))
		}
	})
}
