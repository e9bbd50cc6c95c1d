package buildkit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
)

// sending is what one job hands over of its build contexts. The files were hashed
// for the job's key a while ago; what has become of them since must not be
// published under that key. BuildKit's transfer sees none of it: it follows a link
// that has taken a file's place, wherever it leads, and sends an empty file in place of
// one that it can't open. Nor does it get over a file that can't be read: it tells
// nobody, and both sides wait for each other, so the solve is stopped.
type sending struct {
	job   build.Job
	stop  func()
	mu    sync.Mutex
	first error
	roots []*os.Root
}

// err gives the first reason not to use what was sent.
func (s *sending) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

func (s *sending) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first = err
		if s.stop != nil {
			s.stop()
		}
	}
	return err
}

func (s *sending) close() {
	for _, r := range s.roots {
		r.Close()
	}
}

// errChanged says that a file is not what it was when the key was made.
var errChanged = errors.New("it changed after the key was made")

// changedError is that of a build whose context did not hold still: BuildKit would
// have taken half of the one and half of the other.
func changedError(name string, err error) error {
	return diag.Hint(fmt.Errorf("sending the build context: reading %q: %w", name, err),
		"run it again when nothing writes there any more; what is not needed keep out with .dockerignore")
}

// from gives a context's files through base, checked.
func (s *sending) from(context, dir string, base fsutil.FS) (fsutil.FS, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s.roots = append(s.roots, root)
	return &sentFS{FS: base, sending: s, context: context, root: root}, nil
}

// sentFS is one of the contexts.
type sentFS struct {
	fsutil.FS // tells what there is
	sending   *sending
	context   string
	root      *os.Root
}

// Walk tells what there is, and then makes sure that it is what the key was made of:
// contents are looked at when they are asked for, all else here.
func (f *sentFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	if err := f.FS.Walk(ctx, target, fn); err != nil {
		return err
	}
	same := f.sending.job.Unchanged
	if same == nil {
		return nil
	}
	if err := same(ctx, f.context); err != nil {
		return f.sending.fail(err)
	}
	return nil
}

// Open opens a file inside of the context. It gives every error to whoever
// reads, since the transfer takes one of Open for an empty file.
func (f *sentFS) Open(name string) (io.ReadCloser, error) {
	file, err := openRegular(f.root, name)
	if err != nil {
		return brokenFile{f.sending.fail(changedError(name, err))}, nil
	}
	want, known := f.sending.job.Files[f.context][filepath.ToSlash(name)]
	if !known {
		return file, nil
	}
	return &sentFile{File: file, sending: f.sending, name: name, want: want, sum: sha256.New()}, nil
}

// openRegular opens a regular file, and waits for nobody.
func openRegular(root *os.Root, name string) (*os.File, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	fi, err := file.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no longer a regular file")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// brokenFile can't be read.
type brokenFile struct{ err error }

func (b brokenFile) Read([]byte) (int, error) { return 0, b.err }
func (b brokenFile) Close() error             { return nil }

// sentFile compares what is read with what the key was made of.
type sentFile struct {
	*os.File
	sending *sending
	name    string
	want    digest.Digest
	sum     hash.Hash
}

func (f *sentFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.sum.Write(p[:n])
	if err == io.EOF && digest.NewDigest(digest.SHA256, f.sum) != f.want {
		err = errChanged
	}
	if err != nil && err != io.EOF {
		err = f.sending.fail(changedError(f.name, err))
	}
	return n, err
}
