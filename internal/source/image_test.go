package source

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// imageOf gives the inventory of an image that holds a folder's files.
func imageOf(t *testing.T, dir string) *inventory.Inventory {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if fi.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		hdr, err := tar.FileInfoHeader(fi, link)
		if err != nil {
			return err
		}
		if hdr.Name, err = filepath.Rel(dir, p); err != nil {
			return err
		}
		if err := tw.WriteHeader(hdr); err != nil || !fi.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.FromLayers(t.Context(), nil, []inventory.Layer{{
		Blob: digest.FromBytes(b.Bytes()), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
	}})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// TestImageSelectsAsAFolder selects from a folder and from an image with the
// same files; what the folder gives is held against BuildKit elsewhere. The seed
// is fixed.
func TestImageSelectsAsAFolder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	dir := write(t, "a/a/a.x", "a/a/b.y", "a/b.x", "a/b/c.x", "b/a.x", "b/b/a/c.y", "c.x", "ab/a.x", "ab/c/", "b/e/", "a/d/e/f.x",
		"a/l -> b", "l -> a", "b/m -> ../a/b", "m -> l/b", "n -> none", "b/o -> /ab", "q/r -> ..", "a.x", "a-b/x")
	folder := open(t, dir, Options{})
	image, err := FromInventory(imageOf(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	patterns := []string{
		".", "/", "a", "/a/", "*", "*.x", "*/b", "*/*/*", "l", "l/b", "l/*", "m", "b/m", "b/o", "n", "a/l", "a*", "?", "a/a/b.y", "c.x", "b/./b", "a/./*/c.x",
		"none", "c.x/none", "../../a", "q/r/c.x", "[a-b]/*.x", "**/*.x", "b/**/c.y",
	}
	excludes := []string{"a", "*.x", "**/*.x", "*/b", "b/**", "!a/b.x", "!**/c.x"}
	some := func(from []string, n int) []string {
		var out []string
		for range n {
			out = append(out, from[r.IntN(len(from))])
		}
		return out
	}
	tried, inexact := 0, 0
	for range 2000 {
		s := Selection{Patterns: some(patterns, 1+r.IntN(2)), Excludes: some(excludes, r.IntN(3)), Parents: r.IntN(3) == 0}
		want, wantErr := folder.Select(t.Context(), s)
		got, err := image.Select(t.Context(), s)
		if errors.Is(err, ErrInexact) {
			inexact++
			continue
		}
		tried++
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%+v: the image gives %v, the folder %v", s, err, wantErr)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Entry{}, "Inode", "Real", "Modified"), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%+v (-folder +image):\n%s", s, d)
		}
	}
	if inexact > tried/4 {
		t.Errorf("%d selections were left to the engine, %d were made", inexact, tried)
	}
}

func TestImageInodes(t *testing.T) {
	image, err := FromInventory(imageOf(t, write(t, "usr/bin/tool", "bin -> usr/bin", "top")))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := image.Select(t.Context(), Selection{Patterns: []string{"/bin", "/top"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Path+"="+e.Inode)
	}
	if want := []string{"bin=usr/bin", "bin/tool=usr/bin/tool", "top=top"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := image.Open("top"); err == nil {
		t.Error("an inventory gave a content")
	}
}

func TestImageNeedsAFullInventory(t *testing.T) {
	if _, err := FromInventory(imageOf(t, write(t, "a")).Small()); !errors.Is(err, inventory.ErrNeedFull) {
		t.Errorf("a small inventory: %v", err)
	}
}
