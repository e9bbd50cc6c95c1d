package buildkit

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/image"
)

// format is a compression of BuildKit's that clamps the times of a job's layers
// and compresses them on all processors.
type format struct {
	compression.Type
	job  build.Job
	made *madeLayers

	mu    sync.Mutex
	blobs map[digest.Digest]bool // that were made
}

func newFormat(j build.Job, made *madeLayers) *format {
	f := &format{Type: compression.Gzip, job: j, made: made, blobs: map[digest.Digest]bool{}}
	if j.Compression == "zstd" {
		f.Type = compression.Zstd
	}
	return f
}

// Compress implements compression.Type.
func (f *format) Compress(context.Context, compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(dest io.Writer, _ string) (io.WriteCloser, error) { return f.pack(dest), nil }, nil
}

// NeedsComputeDiffBySelf makes BuildKit use Compress with every snapshotter.
func (f *format) NeedsComputeDiffBySelf(compression.Config) bool { return true }

func (f *format) packed(blob digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blobs[blob]
}

// packer is one layer that is being made.
type packer struct {
	*io.PipeWriter
	done chan struct{}
	err  error
}

func (f *format) pack(dest io.Writer) *packer {
	r, w := io.Pipe()
	p := &packer{PipeWriter: w, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = f.run(dest, r)
		r.CloseWithError(p.err)
	}()
	return p
}

// Close ends the archive and waits for its last compressed byte.
func (p *packer) Close() error {
	p.PipeWriter.Close()
	<-p.done
	return p.err
}

func (f *format) run(dest io.Writer, archive io.Reader) error {
	o := image.Repacking{Epoch: f.job.SourceDateEpoch, Compression: f.job.Compression}
	listed := func(digest.Digest) {}
	if f.job.List != nil {
		o.Plain, listed = f.list()
	}
	blob, err := image.Repack(dest, archive, o)
	d := blob.Descriptor.Digest
	if err != nil {
		listed("")
		f.made.refuse(d) // not every differ asks whether the end went well
		return err
	}
	f.made.note(d, madeLayer{diffID: blob.DiffID, epoch: o.Epoch})
	f.mu.Lock()
	f.blobs[d] = true
	f.mu.Unlock()
	listed(d)
	return nil
}

// list lets the job read the archive that is written to w. The returned
// function ends the archive and hands the digest on; "" says that there will be
// no blob.
func (f *format) list() (w io.Writer, listed func(digest.Digest)) {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	var take func(digest.Digest)
	go func() {
		defer close(done)
		var err error
		if take, err = f.job.List(pr); err != nil {
			take = nil
		}
		_, _ = io.Copy(io.Discard, pr) // the layer is made all the same
	}()
	return pw, func(blob digest.Digest) {
		if blob == "" {
			pw.CloseWithError(io.ErrUnexpectedEOF)
		} else {
			pw.Close()
		}
		<-done
		if blob != "" && take != nil {
			take(blob)
		}
	}
}

// clampSnapshot does to the files of a layer's snapshot what was done to them
// in its blob: whole seconds, and none after the epoch. Only overlayfs keeps a
// layer's own files apart; elsewhere they stay as they are.
func clampSnapshot(ctx context.Context, layer cache.ImmutableRef, g session.Group, epoch int64) error {
	m, err := layer.Mount(ctx, true, g)
	if err != nil {
		return err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	if release != nil {
		defer release()
	}
	dir, ok := ownFolder(mounts)
	if !ok {
		return nil
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || path == dir || st.Mtim.Sec < epoch && st.Mtim.Nsec == 0 {
			return nil
		}
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: min(st.Mtim.Sec, epoch)}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("clamping the times of a layer: %w", err)
	}
	return nil
}

// ownFolder gives the folder with a snapshot's own files, from how it would be
// mounted.
func ownFolder(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 {
		return "", false
	}
	m := mounts[0]
	if !overlay.IsOverlayMountType(m) {
		return m.Source, m.Type == "bind"
	}
	dirs, err := overlay.GetOverlayLayers(m)
	if err != nil || len(dirs) == 0 {
		return "", false
	}
	return dirs[len(dirs)-1], true
}
