package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// zeros is a file that never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAFileThatGrowsHasAnEnd(t *testing.T) {
	n, err := io.Copy(io.Discard, bounded(context.Background(), zeros{}, 10<<20))
	if !errors.Is(err, errGrows) || n > 11<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if got, err := io.ReadAll(bounded(context.Background(), bytes.NewReader(make([]byte, 100)), 100)); err != nil || len(got) != 100 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A terabyte of nothing is hashed for half an hour; whoever ends the run does not
// wait for it.
func TestHashingEndsWithTheRun(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	time.AfterFunc(100*time.Millisecond, func() { stop(why) })
	began := time.Now()
	_, err = tree.Select(ctx, Selection{Patterns: []string{"."}})
	if !errors.Is(err, why) || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// A context reads nothing that its links lead to outside: they are resolved as if
// the context were the root of everything.
func TestLinksOutOfTheContext(t *testing.T) {
	top := t.TempDir()
	for name, text := range map[string]string{"outside/key": "secret", "context/f": "own", "context/etc/in": "own"} {
		at := filepath.Join(top, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(top, "context")
	for name, target := range map[string]string{
		"file": "../outside/key", "absolute": filepath.Join(top, "outside/key"), "dir": "../outside", "root": "/", "up": "..",
		"etc/deep": "../../outside/key", "proc": "/proc/self/environ", ".dockerignore": "../outside/key",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if tree.IgnoreFile() != "" {
		t.Errorf("the ignore file %q was read through a link", tree.IgnoreFile())
	}
	for _, s := range []Selection{
		{Patterns: []string{"file"}}, {Patterns: []string{"absolute"}}, {Patterns: []string{"dir/key"}}, {Patterns: []string{"dir/"}},
		{Patterns: []string{"etc/deep"}}, {Patterns: []string{"proc"}}, {Patterns: []string{"up/outside/key"}},
		{Patterns: []string{"../outside/key"}}, {Patterns: []string{"dir/*"}}, {Patterns: []string{"d*/key"}},
		{Patterns: []string{"root/etc/passwd"}}, {Patterns: []string{"dir/key"}, Parents: true}, {Patterns: []string{"up/../../outside/./key"}, Parents: true},
		{Patterns: []string{"dir"}, Bind: true},
	} {
		entries, err := tree.Select(context.Background(), s)
		for _, e := range entries {
			if e.Kind == File && (e.Digest != digest.FromString("own") || e.Size != 3) {
				t.Errorf("%v: %s has another content: %v", s.Patterns, e.Path, e)
			}
		}
		if err == nil && len(entries) == 0 && !strings.Contains(s.Patterns[0], "*") {
			t.Errorf("%v: neither an entry nor an error", s.Patterns)
		}
	}
	// As the source, the root and what is above it are the context itself.
	for _, p := range []string{"root", "up"} {
		entries, err := tree.Select(context.Background(), Selection{Patterns: []string{p + "/"}})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Path)
		}
		if got := strings.Join(names, " "); !strings.Contains(got, "f") || strings.Contains(got, "passwd") {
			t.Errorf("%s: %s", p, got)
		}
	}
	for _, p := range []string{"file", "absolute", "dir/key", "etc/deep", "proc", "../outside/key", "up/outside/key"} {
		f, err := tree.Open(p)
		if err != nil {
			continue
		}
		data, _ := io.ReadAll(f)
		f.Close()
		t.Errorf("%s was opened: %q", p, data)
	}
}

func TestIgnoreFilesAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"lines": strings.Repeat("a\n", maxPatterns+1),
		"bytes": strings.Repeat("a", 5<<20),
	} {
		for _, file := range []string{".dockerignore", "Dockerfile.dockerignore"} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir, Options{Dockerfile: "Dockerfile"})
			if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "than") || len(err.Error()) > 200 {
				t.Errorf("%s, %s: %.300v", name, file, err)
			}
		}
	}
}
