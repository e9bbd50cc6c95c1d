package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// copyBuffer suits small files: larger ones gain nothing measurable.
const copyBuffer = 64 << 10

// emptyDigest is that of no bytes.
var emptyDigest = digest.FromBytes(nil)

// digest fills in what the listing does not tell: content digests, link
// targets, attributes. A bounded number of workers share the entries.
func (w *walker) digest(ctx context.Context, d *disk) error {
	var next atomic.Int64
	g, inner := errgroup.WithContext(ctx)
	for range min(w.t.workers, len(w.out)) {
		g.Go(func() error {
			h := hasher{w: w, disk: d, buf: make([]byte, copyBuffer)}
			for inner.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(w.out) {
					return nil
				}
				if err := h.complete(inner, &w.out[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// hasher is one worker.
type hasher struct {
	w    *walker
	disk *disk
	buf  []byte
	key  []byte
}

func (h *hasher) complete(ctx context.Context, it *item) (err error) {
	real := join(h.w.matches[it.Index].real, it.Rel)
	defer func() {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("reading %q: it was removed while the build context was being read: %w", it.Path, err)
		} else if err != nil {
			err = fmt.Errorf("reading %q: %w", it.Path, err)
		}
	}()
	if real == "." { // nothing has listed it
		top, err := h.disk.stat(real)
		if err != nil {
			return err
		}
		it.Modified = top.stamp.mtime
	}
	switch {
	case it.Kind == Symlink:
		it.Mode, it.Size = 0o777, 0
		it.Link, err = h.disk.readlink(real)
		return err
	case it.hollow:
		it.Digest = emptyDigest
		return nil
	case it.Kind == File:
		return h.file(ctx, it, real)
	case it.Kind == Dir && (it.Rel != "" || h.w.sel.Bind && real != "."):
		it.Xattrs, err = h.disk.xattrs(real)
		return err
	}
	return nil
}

// file takes the digest from the cache or hashes the content.
func (h *hasher) file(ctx context.Context, it *item, real string) error {
	t := h.w.t
	h.key = append(append(append(h.key[:0], t.dir...), '/'), real...)
	if r, ok := t.recall(h.key, it.stamp, it.Size); ok {
		it.Digest = digest.NewDigestFromBytes(digest.SHA256, r.sum[:])
		if r.plain {
			return nil
		}
		var err error
		it.Xattrs, err = h.disk.xattrs(real)
		return err
	}
	began := t.cache.clock()
	f, before, err := h.disk.open(real)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.CopyBuffer(sum, bounded(ctx, f, before.size+maxGrowth), h.buf)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if it.Xattrs, err = h.disk.xattrs(real); err != nil {
		return err
	}
	it.Size, it.Mode, it.Modified = size, before.mode, before.stamp.mtime
	r := record{stamp: before.stamp, size: size, plain: len(it.Xattrs) == 0}
	sum.Sum(r.sum[:0])
	it.Digest = digest.NewDigestFromBytes(digest.SHA256, r.sum[:])
	if after := nodeOf(fi); after.stamp == before.stamp && after.size == size {
		t.remember(string(h.key), r, began)
	}
	return nil
}

// maxGrowth is by how much a file may grow while it is read. One that is written
// faster than it is hashed would have no end.
const maxGrowth = 64 << 20

var errGrows = errors.New("it grows while it is read")

// bounded gives a file's content up to a size, and until nobody wants it any more.
func bounded(ctx context.Context, file io.Reader, left int64) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := file.Read(p)
		if left -= int64(n); left < 0 && err == nil {
			err = errGrows
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// memo keeps digests for the life of a Tree that are too young for the
// StatCache, so that one run hashes a file once and sees one content.
type memo struct {
	mu      sync.RWMutex
	records map[string]record
}

func newMemo() *memo { return &memo{records: map[string]record{}} }

func (t *Tree) recall(key []byte, s stamp, size int64) (record, bool) {
	if r, ok := t.cache.lookup(key); ok && r.stamp == s && r.size == size {
		return r, true
	}
	t.fresh.mu.RLock()
	defer t.fresh.mu.RUnlock()
	r, ok := t.fresh.records[string(key)]
	return r, ok && r.stamp == s && r.size == size
}

func (t *Tree) remember(key string, r record, began int64) {
	if t.cache.store(key, r, began) {
		return
	}
	t.fresh.mu.Lock()
	defer t.fresh.mu.Unlock()
	t.fresh.records[key] = r
}
