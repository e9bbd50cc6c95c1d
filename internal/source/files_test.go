package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
)

// held is a folder on disk as Files: what a commit's tree is to a checkout.
type held struct{ *disk }

func (h held) List(dir string) ([]Node, error) {
	nodes, err := h.list(dir)
	var out []Node
	for _, n := range nodes {
		out = append(out, Node{Name: n.name, Kind: n.kind, Mode: n.mode})
	}
	return out, err
}

func (h held) Stat(p string) (Node, error) {
	n, err := h.stat(p)
	return Node{Name: n.name, Kind: n.kind, Mode: n.mode}, err
}

func (h held) Readlink(p string) (string, error) { return h.readlink(p) }
func (h held) ReadFile(p string) ([]byte, error) { return os.ReadFile(filepath.Join(h.dir, p)) }
func (h held) Sums(paths []string) ([]Sum, error) {
	var out []Sum
	for _, p := range paths {
		data, err := h.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, Sum{Digest: digest.FromBytes(data), Size: int64(len(data))})
	}
	return out, nil
}

// TestFilesAsOnDisk holds selections from Files against those from the same
// folder on disk, and what Renew makes of them after contents have changed.
func TestFilesAsOnDisk(t *testing.T) {
	files := []string{"a/a.x\t1", "a/b/c.x\t2", "b/a.x\t3", "c.x\t4", "ab/c.y\t5", "a/l -> b", "l -> a", "b/m -> ../a/b/c.x", "n -> none"}
	ignores := []string{"", "**/*.y\n", "a\n!a/b\n", "*\n!b\nb/*.x\n", "a/*\n!a/b\na\n"}
	sources := []string{".", "a", "*", "*.x", "l", "l/b", "b/m", "a*/*", "ab", "n", "nope"}
	r := rand.New(rand.NewPCG(7, 8))
	for _, ignore := range ignores {
		dir := write(t, append(slices.Clone(files), ".dockerignore\t#\n"+ignore)...)
		d, err := openDisk(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		for range 12 {
			s := Selection{Patterns: []string{sources[r.IntN(len(sources))], sources[r.IntN(len(sources))]}, Parents: r.IntN(4) == 0}
			name := fmt.Sprintf("%q %q parents %t", ignore, s.Patterns, s.Parents)
			onDisk, entries, err := selectBoth(t, dir, held{d}, s)
			if err != nil {
				continue
			}
			same := cmp.Options{cmpopts.IgnoreFields(Entry{}, "Inode", "Modified"), cmpopts.EquateEmpty()}
			if diff := cmp.Diff(onDisk, entries, same); diff != "" {
				t.Errorf("%s (-disk +files):\n%s", name, diff)
			}
			if err := os.WriteFile(filepath.Join(dir, "a/b/c.x"), []byte(fmt.Sprint(r.IntN(1000))), 0o644); err != nil {
				t.Fatal(err)
			}
			tree, err := FromFiles(held{d}, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			renewed, ok, err := tree.Over(held{d}).Renew(entries, map[string]bool{"a/b/c.x": true})
			if err != nil {
				t.Fatal(err)
			}
			want, _, err := selectBoth(t, dir, held{d}, s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, renewed, same); ok && diff != "" {
				t.Errorf("%s, renewed (-disk +files):\n%s", name, diff)
			}
			if mixed := ignore == ignores[3] || ignore == ignores[4]; ok == mixed {
				t.Errorf("%s: renewed %t", name, ok)
			}
		}
	}
}

// selectBoth selects from a folder and from Files over it. Both fail, or none.
func selectBoth(t *testing.T, dir string, f Files, s Selection) (onDisk, entries []Entry, err error) {
	t.Helper()
	tree, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	onDisk, diskErr := tree.Select(t.Context(), s)
	other, err := FromFiles(f, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	entries, err = other.Select(t.Context(), s)
	if fmt.Sprint(err) != fmt.Sprint(diskErr) {
		t.Errorf("%q: the errors are %v and %v", s.Patterns, diskErr, err)
	}
	return onDisk, entries, errors.Join(err, diskErr)
}

func TestFilesOwnIgnoreFile(t *testing.T) {
	dir := write(t, "a\t1", "b\t2", ".dockerignore\ta\n")
	d, err := openDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	tree, err := FromFiles(held{d}, "x.Dockerfile.dockerignore", []byte("b\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ignored := tree.Ignored("a"); ignored {
		t.Error("the context's ignore file is in force")
	}
	if _, ignored := tree.Ignored("b"); !ignored || tree.IgnoreFile() != "x.Dockerfile.dockerignore" {
		t.Errorf("the Dockerfile's own is not, but %q", tree.IgnoreFile())
	}
	if _, err := FromFiles(held{d}, "x.Dockerfile.dockerignore", []byte("[\n")); err == nil {
		t.Error("a bad pattern is taken")
	}
	f, err := tree.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(f); err != nil || !bytes.Equal(data, []byte("1")) {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if _, err := tree.Open("b"); err == nil {
		t.Error("an ignored file is opened")
	}
}
