package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func loader(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "loader", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The caches in testdata are glibc 2.36's ldconfig's own: of a base, of one with
// two libraries more and one less, of a child with three more, and of all.
func TestMergeLoaderCache(t *testing.T) {
	other := func(data []byte, version string) []byte {
		c, err := readLoaderCache(data)
		if err != nil {
			t.Fatal(err)
		}
		c.generator = version
		return c.encode()
	}
	old, next, child := loader(t, "old"), loader(t, "new"), loader(t, "child")
	tests := []struct {
		name            string
		old, new, child []byte
		want            []byte
		conflict        string
	}{
		{"libraries of both", old, next, child, loader(t, "both"), ""},
		{"another glibc", old, other(old, "ldconfig of another length"), child, other(child, "ldconfig of another length"), ""},
		{"another glibc and libraries", old, other(next, "ldconfig 2"), child, other(loader(t, "both"), "ldconfig 2"), ""},
		{"nothing of the child's", old, next, old, next, ""},
		{"two versions", old, other(old, "1"), other(child, "2"), nil, "both changed the version of ldconfig"},
		{"one library in both", old, next, loader(t, "both"), loader(t, "both"), ""},
		{"cut off", old, next, child[:len(child)-30], nil, "it is not"},
		{"no cache", old, next, []byte("text"), nil, "it is not a loader's cache"},
		{"none before", nil, next, child, nil, "it is not a loader's cache"},
		{"other bytes", old, next, append(bytes.Clone(child), 0), nil, "it is not written as ldconfig"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, bad := mergeLoaderCache(tt.old, tt.new, tt.child)
			if tt.conflict != "" {
				if len(bad) != 1 || !strings.HasPrefix(bad[0], tt.conflict) {
					t.Errorf("conflicts %q, want %q", bad, tt.conflict)
				}
				return
			}
			if len(bad) > 0 || !bytes.Equal(got, tt.want) {
				t.Errorf("conflicts %q, %d bytes, want %d", bad, len(got), len(tt.want))
			}
		})
	}
}

func FuzzLoaderCache(f *testing.F) {
	for _, name := range []string{"old", "both"} {
		data, err := os.ReadFile(filepath.Join("testdata", "loader", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := readLoaderCache(data); err == nil {
			c.encode()
		}
	})
}
