package image_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/image/corpus"
	"github.com/strata-build/strata/internal/inventory"
)

var update = flag.Bool("update", false, "rewrite the golden files; run test/differential afterwards")

// made is a corpus case carried out.
type made struct {
	base  *corpus.Base
	plan  *image.Appended
	blob  *image.Blob
	raw   []byte
	image *image.Image
	tree  *inventory.Inventory // unpacked from the blobs
}

func appendCase(t *testing.T, c *corpus.Case, o image.Options) (*made, error) {
	t.Helper()
	dir := t.TempDir()
	if err := c.WriteContext(dir); err != nil {
		t.Fatal(err)
	}
	m := &made{}
	var err error
	if m.base, err = c.Base(t.Context(), "amd64"); err != nil {
		t.Fatal(err)
	}
	images, err := c.Images(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	trunk, tail, err := c.Tail(t.Context(), m.base, images, dir)
	if err != nil {
		return nil, &image.NotExact{Reason: err.Error()}
	}
	if !trunk.Empty {
		return nil, &image.NotExact{Reason: "the Dockerfile has a trunk"}
	}
	o.DropOnBuild = trunk.DropOnBuild
	if m.plan, err = image.Append(m.base.Image, m.base.Inventory, tail, o); err != nil {
		return nil, err
	}
	if m.plan.HasBlob() {
		var out bytes.Buffer
		if m.blob, err = m.plan.WriteBlob(&out); err != nil {
			t.Fatal(err)
		}
		m.raw = out.Bytes()
	}
	if m.image, err = m.plan.Image(m.blob); err != nil {
		t.Fatal(err)
	}
	m.tree, err = corpus.Unpack(t.Context(), m.image, func(d digest.Digest) []byte {
		if m.blob != nil && d == m.blob.Descriptor.Digest {
			return m.raw
		}
		return m.base.Blobs[d]
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, nil
}

// TestCorpus holds what append does with every case against golden listings of
// what the case changes. That those are what BuildKit does is tested in
// test/differential.
func TestCorpus(t *testing.T) {
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*strings.Builder{}
	for _, c := range cases {
		file, _, _ := strings.Cut(c.Name, "/")
		if got[file] == nil {
			got[file] = &strings.Builder{}
		}
		t.Run(c.Name, func(t *testing.T) {
			fmt.Fprintf(got[file], "== %s\n", c.Name)
			m, err := appendCase(t, &c, image.Options{})
			if notExact := (*image.NotExact)(nil); errors.As(err, &notExact) {
				if !c.Fails && !c.Inexact {
					t.Errorf("left to the engine: %v", err)
				}
				fmt.Fprintf(got[file], "engine: %s\n", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Fails || c.Inexact {
				t.Error("append decided what it should leave to the engine")
			}
			checkInventory(t, m)
			diff, err := inventory.Diff(m.base.Inventory, m.tree)
			if err != nil {
				t.Fatal(err)
			}
			if len(diff) > 100 {
				fmt.Fprintf(got[file], "%d changes\n", len(diff))
				return
			}
			for _, d := range diff {
				fmt.Fprintf(got[file], "%s %.8s\n", d.After.String(), strings.TrimPrefix(d.After.Digest().String(), "sha256:"))
			}
		})
	}
	for file, text := range got {
		golden(t, filepath.Join("testdata", file+".golden"), text.String())
	}
}

// checkInventory checks that the inventory that append foretells is the one
// that reading the blobs gives.
func checkInventory(t *testing.T, m *made) {
	t.Helper()
	inv, err := m.plan.Inventory(m.blob)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := inventory.Diff(m.tree, inv)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diff {
		t.Errorf("inventory: unpacked %s, foretold %s", d.Before.String(), d.After.String())
	}
	for e := range inv.All() {
		if is := m.tree.Lookup(e.Path); is.Time != e.Time {
			t.Errorf("inventory: %s is of %d, foretold %d", e.Path, is.Time, e.Time)
		}
	}
	if d := cmp.Diff(m.tree.Passwd(), inv.Passwd()); d != "" {
		t.Errorf("passwd (-unpacked +foretold):\n%s", d)
	}
	if d := cmp.Diff(m.tree.Group(), inv.Group()); d != "" {
		t.Errorf("group (-unpacked +foretold):\n%s", d)
	}
	if !inv.Describes(m.image.Layers()) {
		t.Error("the inventory names other layers than the manifest")
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// TestSameBytesEverywhere writes a blob with different numbers of threads.
func TestSameBytesEverywhere(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			m, err := appendCase(t, named(t, "many/ten-thousand"), image.Options{Compression: compression})
			if err != nil {
				t.Fatal(err)
			}
			for _, threads := range []int{1, 2, 7} {
				old := runtime.GOMAXPROCS(threads)
				blob, err := m.plan.WriteBlob(io.Discard)
				runtime.GOMAXPROCS(old)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(m.blob.Descriptor, blob.Descriptor); d != "" {
					t.Errorf("with %d threads:\n%s", threads, d)
				}
			}
		})
	}
}

func named(t testing.TB, name string) *corpus.Case {
	t.Helper()
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Name == name {
			return &c
		}
	}
	t.Fatalf("no case %q", name)
	return nil
}
