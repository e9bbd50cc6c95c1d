package inventory

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// packed makes a layer from lines "file PATH CONTENT", "hard PATH TARGET",
// "dir PATH" and counts how often it is opened and how much of it is read.
type packed struct {
	Layer
	opened, read int
}

func pack(t *testing.T, lines ...string) *packed {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	tw := tar.NewWriter(z)
	for _, l := range lines {
		w := strings.Fields(l)
		hdr := &tar.Header{Name: w[1], Mode: 0o644}
		content := ""
		switch w[0] {
		case "dir":
			hdr.Typeflag, hdr.Name = tar.TypeDir, w[1]+"/"
		case "hard":
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, w[2]
		case "file":
			content = w[2]
			if content == "NOISE" {
				noise := make([]byte, 8<<20)
				rand.Read(noise)
				content = string(noise)
			}
			hdr.Typeflag, hdr.Size = tar.TypeReg, int64(len(content))
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p := &packed{}
	p.Layer = Layer{Blob: digest.FromBytes(b.Bytes()), Open: func() (io.ReadCloser, error) {
		p.opened++
		return struct {
			io.Reader
			io.Closer
		}{io.TeeReader(bytes.NewReader(b.Bytes()), countTo{&p.read}), io.NopCloser(nil)}, nil
	}}
	return p
}

type countTo struct{ n *int }

func (c countTo) Write(p []byte) (int, error) {
	*c.n += len(p)
	return len(p), nil
}

func TestPick(t *testing.T) {
	tests := map[string]struct {
		layers [][]string
		want   []string
		got    map[string]string // content by path
		names  map[string]string
		miss   []string
		opened int
	}{
		"files": {
			layers: [][]string{{"dir a", "file a/x one", "file a/y two", "file a/z three"}},
			want:   []string{"a/x", "a/z"}, got: map[string]string{"a/x": "one", "a/z": "three"}, opened: 1,
		},
		"links to a wanted file": {
			layers: [][]string{{"file a one", "hard b a", "hard c b"}},
			want:   []string{"a", "b", "c"}, got: map[string]string{"a": "one", "b": "one", "c": "one"},
			names: map[string]string{"b": "a", "c": "a"}, opened: 1,
		},
		"links to a file that is not wanted": {
			layers: [][]string{{"file a one", "hard b a", "hard c b"}},
			want:   []string{"b", "c"}, got: map[string]string{"b": "one", "c": "one"},
			names: map[string]string{"b": "a", "c": "a"}, opened: 2,
		},
		"same content, two files": {
			layers: [][]string{{"file a one", "file b one"}},
			want:   []string{"a", "b"}, got: map[string]string{"a": "one", "b": "one"}, opened: 1,
		},
		"the last of two entries for a path": {
			layers: [][]string{{"file a one", "file a two"}},
			want:   []string{"a"}, got: map[string]string{"a": "two"}, opened: 1,
		},
		"a link that became a file": {
			layers: [][]string{{"file a one", "hard b a", "file b two"}},
			want:   []string{"a", "b"}, got: map[string]string{"a": "one", "b": "two"}, opened: 1,
		},
		"a link into a lower layer": {
			layers: [][]string{{"file a one"}, {"hard b a", "file c two"}},
			want:   []string{"b", "c"}, got: map[string]string{"c": "two"},
			names: map[string]string{"b": "a"}, miss: []string{"b"}, opened: 2,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			var last *packed
			for _, lines := range tt.layers {
				last = pack(t, lines...)
				layers = append(layers, last.Layer)
			}
			inv, err := FromLayers(t.Context(), nil, layers)
			if err != nil {
				t.Fatal(err)
			}
			last.opened = 0
			var want []*Entry
			for _, p := range tt.want {
				e := inv.Lookup(p)
				want = append(want, &e)
			}
			contents := map[[32]byte]string{}
			got, err := Pick(t.Context(), last.Layer, want, func(sum [32]byte, r io.Reader) error {
				b, err := io.ReadAll(r)
				contents[sum] = string(b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]string{}
			for _, e := range want {
				if c, ok := contents[e.Content]; ok {
					found[e.Path] = c
				}
			}
			if tt.names == nil {
				tt.names = map[string]string{}
			}
			if d := cmp.Diff(tt.got, found); d != "" {
				t.Errorf("contents (-want +got):\n%s", d)
			}
			if d := cmp.Diff(&Picked{Names: tt.names, Missing: tt.miss}, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if last.opened != tt.opened {
				t.Errorf("the layer was opened %d times, want %d", last.opened, tt.opened)
			}
		})
	}
}

// What stands behind the last wanted file is not fetched.
func TestPickStopsEarly(t *testing.T) {
	l := pack(t, "file a one", "file b NOISE")
	inv, err := FromLayers(t.Context(), nil, []Layer{l.Layer})
	if err != nil {
		t.Fatal(err)
	}
	l.read = 0
	e := inv.Lookup("a")
	if _, err := Pick(t.Context(), l.Layer, []*Entry{&e}, func(_ [32]byte, r io.Reader) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if l.read > 4<<20 {
		t.Errorf("%d bytes were read for the first file", l.read)
	}
}

func TestChildren(t *testing.T) {
	l := pack(t, "dir a", "file a.txt x", "file a/b x", "dir a/c", "file a/c/d x", "file a/c.d x", "file a/c0 x", "file b x")
	inv, err := FromLayers(t.Context(), nil, []Layer{l.Layer})
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"": "[a a.txt b]", "a": "[a/b a/c a/c.d a/c0]", "a/c": "[a/c/d]", "b": "[]", "none": "[]"} {
		var got []string
		for e := range inv.Children(dir) {
			got = append(got, e.Path)
		}
		slices.Sort(got)
		if s := fmt.Sprint(got); s != want {
			t.Errorf("%q holds %s, want %s", dir, s, want)
		}
	}
}
