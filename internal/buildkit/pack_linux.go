package buildkit

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/moby/buildkit/util/compression"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/times"
)

// format is a compression of BuildKit's that gives one layer of a job its
// published times and compresses it on all processors.
type format struct {
	compression.Type
	job  build.Job
	made *madeLayers
	// date decides the layer's times by its snapshot; it gives nil where only the
	// archive can tell, and dating does.
	date   func() (*times.Dates, error)
	dating *dating
	keep   func(*times.Table) (digest.Digest, error) // puts a table into the content store
}

func newFormat(j build.Job, made *madeLayers) *format {
	f := &format{Type: compression.Gzip, job: j, made: made}
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
	dates, err := f.date()
	if err != nil {
		return err
	}
	if dates == nil {
		spool, err := os.CreateTemp("", "strata-layer-")
		if err != nil {
			return fmt.Errorf("keeping a layer: %w", err)
		}
		defer os.Remove(spool.Name())
		defer spool.Close()
		if dates, err = f.dateByArchive(spool, archive); err != nil {
			return err
		}
		archive = spool
	}
	table, err := f.keep(dates.Table)
	if err != nil {
		return err
	}
	return f.write(dest, archive, dates, table)
}

// dateByArchive keeps an archive in a file while its times are decided.
func (f *format) dateByArchive(spool *os.File, archive io.Reader) (*times.Dates, error) {
	if _, err := io.Copy(spool, archive); err != nil {
		return nil, fmt.Errorf("keeping a layer: %w", err)
	}
	dates, err := f.dating.dateArchive(spool)
	if err != nil {
		return nil, err
	}
	_, err = spool.Seek(0, io.SeekStart)
	return dates, err
}

func (f *format) write(dest io.Writer, archive io.Reader, dates *times.Dates, table digest.Digest) error {
	o := repacking(dates, f.job.Compression)
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
	f.made.note(d, madeLayer{diffID: blob.DiffID, epoch: epochText(f.job.SourceDateEpoch), table: table})
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
