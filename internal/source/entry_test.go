package source

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestTreeDigestCountsEveryField(t *testing.T) {
	base := []Entry{
		{Path: "a", Mode: 0o644, Size: 1, Digest: digest.FromString("a")},
		{Path: "b", Kind: Dir, Mode: 0o755},
	}
	seen := map[digest.Digest]string{TreeDigest(base): "base"}
	changes := map[string]func(e []Entry) []Entry{
		"path":     func(e []Entry) []Entry { e[0].Path = "aa"; return e },
		"kind":     func(e []Entry) []Entry { e[1].Kind = FIFO; return e },
		"mode":     func(e []Entry) []Entry { e[0].Mode = 0o755; return e },
		"size":     func(e []Entry) []Entry { e[0].Size = 2; return e },
		"content":  func(e []Entry) []Entry { e[0].Digest = digest.FromString("b"); return e },
		"link":     func(e []Entry) []Entry { e[0].Link = "x"; return e },
		"hardlink": func(e []Entry) []Entry { e[0].HardlinkOf = "x"; return e },
		"major":    func(e []Entry) []Entry { e[0].Major = 1; return e },
		"minor":    func(e []Entry) []Entry { e[0].Minor = 1; return e },
		"implied":  func(e []Entry) []Entry { e[1].Implied = true; return e },
		"xattr":    func(e []Entry) []Entry { e[0].Xattrs = map[string]string{"user.a": ""}; return e },
		"xattr b":  func(e []Entry) []Entry { e[0].Xattrs = map[string]string{"user.a": "b"}; return e },
		"xattr 2":  func(e []Entry) []Entry { e[0].Xattrs = map[string]string{"user.a": "b", "user.b": ""}; return e },
		"no dir":   func(e []Entry) []Entry { return e[:1] },
		"none":     func(e []Entry) []Entry { return nil },
		"order":    func(e []Entry) []Entry { e[0], e[1] = e[1], e[0]; return e },
	}
	for name, change := range changes {
		d := TreeDigest(change(append([]Entry{}, base...)))
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[d] = name
	}
}

func TestTreeDigestLeavesOutTimes(t *testing.T) {
	plain := []Entry{{Path: "a", Mode: 0o644, Size: 1, Digest: digest.FromString("a")}}
	timed := []Entry{plain[0]}
	timed[0].Modified, timed[0].Real = 1, "b"
	if TreeDigest(plain) != TreeDigest(timed) {
		t.Error("a time is part of the digest")
	}
}

func TestTreeDigestIsStable(t *testing.T) {
	e := Entry{Path: "a", Xattrs: map[string]string{}}
	for c := 'a'; c < 'z'; c++ {
		e.Xattrs["user."+string(c)] = "x"
	}
	first := TreeDigest([]Entry{e})
	for range 50 {
		if TreeDigest([]Entry{e}) != first {
			t.Fatal("the order of a map shows")
		}
	}
	// The encoding is part of every key that was ever written.
	const want = "sha256:744abb77"
	if got := TreeDigest([]Entry{{Path: "a", Mode: 0o644, Size: 1, Digest: digest.FromString("a")}}); got[:15] != want {
		t.Errorf("the encoding changed: got %s, want %s...; then treeVersion must change too", got, want)
	}
}

// FuzzTreeDigest makes two lists of entries from bytes; unlike lists must have
// unlike digests.
func FuzzTreeDigest(f *testing.F) {
	f.Add([]byte("\x01ab\x00"), []byte("\x01a\x01b"))
	f.Add([]byte("\x03abc\x01\x02xx"), []byte("\x02ab\x02cx"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, y := entriesFrom(a), entriesFrom(b)
		if cmp.Equal(x, y) != (TreeDigest(x) == TreeDigest(y)) {
			t.Fatalf("%s\nand\n%s\nby digest: same %v", cmp.Diff(x, nil), cmp.Diff(y, nil), TreeDigest(x) == TreeDigest(y))
		}
	})
}

func entriesFrom(b []byte) []Entry {
	r := bytes.NewReader(b)
	text := func() string {
		n, _ := r.ReadByte()
		s := make([]byte, min(int(n)%16, r.Len()))
		r.Read(s)
		return string(s)
	}
	number := func() uint32 {
		n, _ := binary.ReadUvarint(r)
		return uint32(n)
	}
	var out []Entry
	for r.Len() > 0 {
		e := Entry{
			Path: text(), Kind: Kind(number() % 6), Mode: number(), Size: int64(number()), Digest: digest.Digest(text()), Link: text(),
			Major: number(), Minor: number(), HardlinkOf: text(), Implied: number()%2 == 1,
		}
		for range number() % 3 {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[text()] = text()
		}
		out = append(out, e)
	}
	return out
}
