package times

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func someTables(r *rand.Rand) Tables {
	out := Tables{}
	for n := r.IntN(4); n > 0; n-- {
		t := &Table{Newest: r.Int64N(2e9) - 1e9, Paths: []Dated{}}
		names := map[string]bool{}
		for range r.IntN(50) {
			names[strings.Repeat("folder/", r.IntN(4))+string(rune('a'+r.IntN(26)))+strings.Repeat("x", r.IntN(3))] = true
		}
		for name := range names {
			t.Paths = append(t.Paths, Dated{name, r.Int64() - 1<<62, r.Int64N(2e9) - 1e9})
		}
		slices.SortFunc(t.Paths, func(a, b Dated) int { return strings.Compare(a.Path, b.Path) })
		for _, d := range t.Paths {
			if r.IntN(3) == 0 {
				t.Records = append(t.Records, Record{d.Path, r.Int64(), r.Int64N(2e9)})
			}
		}
		out[digest.FromString(string(rune(n)))] = t
	}
	return out
}

func TestTablesComeBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		want := someTables(r)
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(data, again) {
			t.Fatalf("other bytes for the same tables: %v", err)
		}
	}
}

// coded packs a body as Encode would.
func coded(t testing.TB, body []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(body, []byte(tableMagic))
}

func TestDamagedTablesAreRefused(t *testing.T) {
	good := Tables{only: {Paths: []Dated{{"a/b", 1, 2}, {"a/c", 3, 4}}}}
	data, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	one := func(paths ...string) []byte {
		b := appendText([]byte{1}, only.String())
		b = append(b, 0, byte(len(paths)))
		for _, p := range paths {
			b = appendText(append(b, 0), p)
		}
		return append(b, make([]byte, 2*len(paths)+1)...)
	}
	if _, err := Decode(coded(t, one("a", "b"))); err != nil {
		t.Fatalf("the test's own form: %v", err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "magic": []byte("STRATAt2"), "cut": data[:len(data)-1], "more": coded(t, append(one("a"), 0)),
		"above": coded(t, one("../etc/passwd")), "inside": coded(t, one("a/../../b")), "absolute": coded(t, one("/etc/passwd")),
		"empty path": coded(t, one("")), "twice": coded(t, one("a", "a")), "order": coded(t, one("b", "a")),
		"zero": coded(t, one("a\x00b")), "digest": coded(t, []byte{1, 3, 'a', 'b', 'c', 0, 0, 0}),
		"number": coded(t, []byte{1}), "many": coded(t, append(appendText([]byte{1}, only.String()), 0, 0xff, 0xff, 0xff, 1)),
	} {
		if _, err := Decode(bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		data, err := someTables(r).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tables, err := Decode(data)
		if err != nil {
			return
		}
		for _, table := range tables {
			for _, d := range table.Paths {
				if !clean(d.Path) {
					t.Fatalf("path %q", d.Path)
				}
			}
		}
	})
}
