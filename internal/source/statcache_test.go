package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// aged gives a cache whose clock is an hour ahead, so that files which a test
// has just written are old enough to be kept.
func aged(path string) *StatCache {
	c := OpenStatCache(path)
	c.now = func() time.Time { return time.Now().Add(time.Hour) }
	return c
}

func digestOf(t testing.TB, tree *Tree, p string) digest.Digest {
	t.Helper()
	entries, err := tree.Select(t.Context(), Selection{Patterns: []string{p}})
	if err != nil {
		t.Fatal(err)
	}
	return entries[0].Digest
}

func TestStatCacheSeesEdits(t *testing.T) {
	edits := map[string]func(p string) error{
		"same size, same mtime": func(p string) error {
			fi, err := os.Stat(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(p, []byte("two"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(p, fi.ModTime(), fi.ModTime())
		},
		"replaced, same size, same mtime": func(p string) error {
			fi, err := os.Stat(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(p+".new", []byte("two"), 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(p+".new", fi.ModTime(), fi.ModTime()); err != nil {
				return err
			}
			return os.Rename(p+".new", p)
		},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			dir, file := write(t, "a\tone"), filepath.Join(t.TempDir(), "sub", "stat")
			cache := aged(file)
			if got := digestOf(t, open(t, dir, Options{Cache: cache}), "a"); got != digest.FromString("one") {
				t.Fatalf("got %s", got)
			}
			if err := cache.Save(); err != nil {
				t.Fatal(err)
			}
			if len(OpenStatCache(file).records) != 1 {
				t.Fatal("the digest was not kept")
			}
			time.Sleep(20 * time.Millisecond) // more than a tick of the kernel's clock
			if err := edit(filepath.Join(dir, "a")); err != nil {
				t.Fatal(err)
			}
			if got := digestOf(t, open(t, dir, Options{Cache: aged(file)}), "a"); got != digest.FromString("two") {
				t.Errorf("the edit was not seen: got %s", got)
			}
		})
	}
}

func TestStatCacheIsUsed(t *testing.T) {
	dir, file := write(t, "a\tone"), filepath.Join(t.TempDir(), "stat")
	cache := aged(file)
	digestOf(t, open(t, dir, Options{Cache: cache}), "a")
	for i := range cache.records {
		cache.records[i].sum[0] ^= 0xff // a mark that shows where a digest comes from
	}
	if err := cache.Save(); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, open(t, dir, Options{Cache: aged(file)}), "a"); got == digest.FromString("one") {
		t.Error("the file was hashed again")
	}
	if err := os.Chmod(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, open(t, dir, Options{Cache: aged(file)}), "a"); got != digest.FromString("one") {
		t.Errorf("a digest of before chmod was trusted: %s", got)
	}
}

func TestStatCacheDistrustsYoungFiles(t *testing.T) {
	dir, file := write(t, "a\tone"), filepath.Join(t.TempDir(), "stat")
	cache := OpenStatCache(file)
	tree := open(t, dir, Options{Cache: cache})
	first := digestOf(t, tree, "a")
	if err := cache.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file that was written this moment was kept: %v", err)
	}
	// One Tree still hashes it only once.
	if _, ok := tree.fresh.records[filepath.Join(dir, "a")]; !ok || digestOf(t, tree, "a") != first {
		t.Error("the run does not remember what it hashed")
	}
}

func TestConcurrentSelects(t *testing.T) {
	dir := write(t, "a/b.go", "a/c.go", "d/e/f.md", ".dockerignore\t*\n!**/*.go\n!d/**\nx")
	cache := aged(filepath.Join(t.TempDir(), "stat"))
	tree := open(t, dir, Options{Cache: cache})
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			_, err := tree.Select(t.Context(), Selection{Patterns: []string{".", "a/*.go"}})
			tree.Ignored("d/e/f.md")
			return errors.Join(err, cache.Save())
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestStatCacheBrokenFiles(t *testing.T) {
	dir, file := write(t, "a\tone", "b\ttwo"), filepath.Join(t.TempDir(), "stat")
	cache := aged(file)
	tree := open(t, dir, Options{Cache: cache})
	if _, err := tree.Select(t.Context(), Selection{Patterns: []string{"."}}); err != nil {
		t.Fatal(err)
	}
	if err := cache.Save(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(OpenStatCache(file).records); n != 2 {
		t.Fatalf("%d records were read back, want 2", n)
	}
	bad := map[string][]byte{"empty": nil, "torn": good[:len(good)-9], "longer": append(good[:len(good):len(good)], 0)}
	for i := range good {
		b := append([]byte{}, good...)
		b[i] ^= 0x40
		bad[fmt.Sprint("flipped bit in byte ", i)] = b
	}
	for name, data := range bad {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if n := len(OpenStatCache(file).records); n != 0 {
			t.Errorf("%s: %d records were taken from a broken file", name, n)
		}
	}
}

func TestStatCacheWritesOnlyChangesAndForgets(t *testing.T) {
	dir, file := write(t, "a\tone", "b\ttwo"), filepath.Join(t.TempDir(), "stat")
	day := func(n int) *StatCache {
		c := OpenStatCache(file)
		c.now = func() time.Time { return time.Now().Add(time.Duration(n)*24*time.Hour + time.Hour) }
		return c
	}
	use := func(c *StatCache, p string) os.FileInfo {
		t.Helper()
		digestOf(t, open(t, dir, Options{Cache: c}), p)
		if err := c.Save(); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	use(day(0), "a")
	first := use(day(0), "b")
	if !os.SameFile(first, use(day(0), "b")) || !os.SameFile(first, use(day(1), "a")) {
		t.Error("the cache was written although nothing had changed")
	}
	use(day(20), "a")
	use(day(40), "a")
	c := OpenStatCache(file)
	if _, ok := c.index[filepath.Join(dir, "b")]; ok || len(c.records) != 1 {
		t.Errorf("a digest that nobody used for 40 days is still there: %q", c.paths)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func FuzzStatCacheDecode(f *testing.F) {
	c := &StatCache{now: time.Now, index: map[string]int32{}}
	c.put("/a/b", record{size: 3, day: c.today()})
	good := c.encode()
	f.Add(good)
	f.Add(good[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &StatCache{now: time.Now}
		if c.decode(data) && len(c.index) > len(c.records) {
			t.Fatal("more paths than records")
		}
	})
}
