// Package source reads a build context: the folder that COPY, ADD and bind
// mounts take files from.
//
// It takes a folder, its ignore rules and the patterns of an instruction, and
// gives the files that the instruction takes, each with path, kind, mode and
// content digest, in an order that depends on nothing else. What a pattern
// means is what BuildKit makes of it: the context is first filtered by the
// ignore file as BuildKit's transfer does it, and the patterns are resolved in
// what is left. A test holds this against BuildKit's own transfer and copy.
//
// Content is hashed in parallel and remembered in a [StatCache]. Nothing
// outside of the context is ever read: links are resolved inside of it, and
// files are opened through [os.Root].
package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Options say how a context is read. The zero value is ready for use.
type Options struct {
	// Dockerfile is the path of the Dockerfile, absolute or relative to the
	// context. Where DOCKERFILE.dockerignore exists, it is used in place of the
	// context's .dockerignore.
	Dockerfile string
	// ReadIgnore reads that file, which may lie outside of the context; nil reads
	// a regular file, wherever it is.
	ReadIgnore func(path string) ([]byte, error)
	// Cache keeps digests between runs; nil hashes every file anew.
	Cache *StatCache
	// Workers bounds how many files are hashed at once; 0 means one for each
	// CPU, and at least four, so that a disk is kept busy.
	Workers int
}

// Tree is a build context after its ignore rules. It is immutable and may be
// used by several goroutines; the files below it are read when asked for.
type Tree struct {
	dir        string                            // absolute, without links
	dockerfile string                            // as in Options
	readIgnore func(path string) ([]byte, error) // as in Options
	ignore     *ignoreFile
	cache      *StatCache
	workers    int
	fresh      *memo // digests that are too young for the cache

	image *imageFiles // in place of dir
	files Files       // in place of dir
}

// Open reads the ignore rules of the context in dir. A Dockerfile or an ignore
// file that the rules exclude is no hindrance: both are read directly.
func Open(dir string, o Options) (*Tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", dir, err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", dir, err)
	}
	t := &Tree{dir: abs, dockerfile: o.Dockerfile, readIgnore: o.ReadIgnore, cache: o.Cache, workers: o.Workers, fresh: newMemo()}
	if t.workers <= 0 {
		t.workers = max(4, runtime.GOMAXPROCS(0))
	}
	return t.Again()
}

// Again gives the tree of a context on disk as it is now, its ignore rules
// included. What has been hashed and still looks the same is not read again.
func (t *Tree) Again() (*Tree, error) {
	d, err := openDisk(t.dir)
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", t.dir, err)
	}
	defer d.close()
	now := *t
	if now.ignore, err = readIgnoreFile(d, t.dir, Options{Dockerfile: t.dockerfile, ReadIgnore: t.readIgnore}); err != nil {
		return nil, err
	}
	return &now, nil
}

// Dir gives the context's absolute path, links resolved.
func (t *Tree) Dir() string { return t.dir }

// IgnoreFile names the ignore file that is in force, relative to the context
// where it lies below it; "" when there is none.
func (t *Tree) IgnoreFile() string { return t.ignore.name }

// Ignored says whether the ignore rules keep path out of the context, and the
// pattern that does it, as written. A folder that is ignored may still have
// files in it that an exception ("!") lets in.
func (t *Tree) Ignored(path string) (pattern string, ignored bool) {
	p := cleanPath(path)
	if p == "." {
		return "", false
	}
	if _, out := t.ignore.rules().chain(p); !out {
		return "", false
	}
	pattern, _ = t.ignore.reason(p)
	return pattern, true
}

// Open opens the file at an [Entry]'s Path for reading. Links are resolved as
// Select resolves them, never to a place outside of the context. A socket reads
// as an empty file, as in BuildKit.
func (t *Tree) Open(path string) (io.ReadCloser, error) {
	if t.image != nil {
		return nil, fmt.Errorf("opening %q: an inventory has no contents", path)
	}
	if t.files != nil {
		return t.openFile(path)
	}
	d, err := openDisk(t.dir)
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", t.dir, err)
	}
	defer d.close()
	w := newWalker(t, d, Selection{})
	real, n, err := w.resolve(context.Background(), cleanPath(path))
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	if n.hollow {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	f, _, err := d.open(real)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", path, err)
	}
	return f, nil
}

// relativeTo gives p relative to dir with slashes where p lies below dir, and
// p itself elsewhere.
func relativeTo(dir, p string) string {
	rel, err := filepath.Rel(dir, p)
	if err != nil || rel == ".." || len(rel) > 2 && rel[:3] == ".."+string(os.PathSeparator) {
		return p
	}
	return filepath.ToSlash(rel)
}
