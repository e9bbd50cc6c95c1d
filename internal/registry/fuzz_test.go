package registry

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// Whatever reads as a reference reads the same again from its own text, and
// has a place in the embedded registry.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{
		"debian", "debian:x", "localhost:5000/a/b:1", "[::1]:5000/a", "A.b/c", "ghcr.io/a__b/c--d:T.1",
		"0000-0.00_0/0000:0", "x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Errorf("%q reads as %+v, its text as %+v, %v", s, r, again, err)
		}
		if strings.HasPrefix(r.Host, "[") || len(r.Host)+len(r.Repo) > 250 {
			return // other IPv6 forms and names that are too long are refused by the registry
		}
		if m, err := ParseRef(r.Local().String()); err != nil || m != r.Local() {
			t.Errorf("%q: the local name %q reads as %+v, %v", s, r.Local(), m, err)
		}
		if m, err := ParseRef(r.Mirror().String()); err != nil || m != r.Mirror() || !m.IsMirror() && r.Host != EmbeddedHost {
			t.Errorf("%q: the mirror's name %q reads as %+v, %v", s, r.Mirror(), m, err)
		}
	})
}

// Whatever is imported is a tar archive that stays inside of itself and has
// nothing in it that depends on the machine.
func FuzzRewriteTar(f *testing.F) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir}, {Name: "./a/", Typeflag: tar.TypeDir, Uname: "u"},
		{Name: "a/b", Typeflag: tar.TypeLink, Linkname: "../x"}, {Name: "/c", Typeflag: tar.TypeReg, Size: 3},
		{Name: strings.Repeat("long/", 60), Typeflag: tar.TypeSymlink, Linkname: "/", PAXRecords: map[string]string{"SCHILY.xattr.a": "b"}},
	} {
		if err := errors.Join(tw.WriteHeader(h)); err != nil {
			f.Fatal(err)
		}
		tw.Write(make([]byte, h.Size))
	}
	tw.Close()
	f.Add(b.Bytes())
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		newest, err := rewriteTar(&out, bytes.NewReader(in))
		if err != nil {
			return
		}
		for tr := tar.NewReader(&out); ; {
			h, err := tr.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("the result is no archive: %v", err)
			}
			if strings.HasPrefix(h.Name, "/") || strings.Contains("/"+h.Name+"/", "/../") {
				t.Errorf("name %q", h.Name)
			}
			if h.Uname != "" || h.ModTime.Nanosecond() != 0 || h.ModTime.Unix() > newest && h.ModTime.Unix() <= latest {
				t.Errorf("%+v", h)
			}
		}
	})
}
