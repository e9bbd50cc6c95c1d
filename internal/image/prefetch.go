package image

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Small files are opened, read and hashed ahead by one goroutine, while others
// pack and compress: opening 6,600 files costs as much as compressing a
// quarter of them. At most prefetchCount*prefetchSize bytes wait.
const (
	prefetchSize  = 256 << 10
	prefetchCount = 32
)

// fetched is a small file that was read ahead.
type fetched struct {
	buffer *[prefetchSize]byte // what data lies in; goes back to the pool
	data   []byte
	sum    [32]byte
	err    error
}

// fetcher reads small files ahead, in the order of the outputs.
type fetcher struct {
	files chan fetched
	stop  chan struct{}
	done  sync.WaitGroup
	pool  sync.Pool
}

// ahead reports whether a file is read ahead.
func ahead(o output) bool {
	if o.node == nil || o.linkTo != "" || o.node.size > prefetchSize {
		return false
	}
	_, ok := o.node.content.(*contextFile)
	return ok
}

func newFetcher(files []output) *fetcher {
	f := &fetcher{files: make(chan fetched, prefetchCount), stop: make(chan struct{})}
	f.done.Go(func() {
		for _, o := range files {
			if !ahead(o) {
				continue
			}
			select {
			case f.files <- f.read(o):
			case <-f.stop:
				return
			}
		}
	})
	return f
}

// close ends the goroutine and waits for it.
func (f *fetcher) close() {
	close(f.stop)
	f.done.Wait()
}

func (f *fetcher) read(o output) (out fetched) {
	buf, _ := f.pool.Get().(*[prefetchSize]byte)
	if buf == nil {
		buf = new([prefetchSize]byte)
	}
	out.buffer = buf
	r, err := o.node.content.open()
	if err != nil {
		return fetched{err: fmt.Errorf("opening %q: %w", "/"+o.path, err)}
	}
	defer r.Close()
	out.data = buf[:o.node.size]
	if n, err := io.ReadFull(r, out.data); err == io.EOF || err == io.ErrUnexpectedEOF {
		out.data = out.data[:n]
	} else if err != nil {
		return fetched{err: fmt.Errorf("reading %q: %w", "/"+o.path, err)}
	}
	out.sum = sha256.Sum256(out.data)
	return out
}

// write writes the next file that was read ahead, which must be o.
func (f *fetcher) write(w io.Writer, o output, b *Blob) error {
	got := <-f.files
	if got.err != nil {
		return got.err
	}
	defer f.pool.Put(got.buffer)
	want := o.node.content.want()
	if int64(len(got.data)) != o.node.size || (want != "" && want != digest.NewDigestFromBytes(digest.SHA256, got.sum[:])) {
		return changedWhileReading(o.path)
	}
	if _, err := w.Write(got.data); err != nil {
		return err
	}
	b.sums[o.node] = got.sum
	return nil
}

func changedWhileReading(name string) error {
	return fmt.Errorf("reading %q: it changed while the image was being made", "/"+name)
}
