package buildkit

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/times"
)

// dating decides the published times of a job's layers, one after the other, the
// lowest first.
type dating struct {
	job   build.Job
	work  *workTimes
	lower []*times.Table       // of the layers that have been dealt with
	below int64                // the newest published time so far
	last  *inventory.Inventory // of the unit's last image; nil without one
}

func newDating(ctx context.Context, j build.Job, w *localWorker) (*dating, error) {
	d := &dating{job: j, work: w.work}
	open := func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		return openBlob(ctx, w.ContentStore(), desc)
	}
	if j.Times.Below != nil {
		var err error
		if d.below, err = j.Times.Below(ctx, open); err != nil {
			return nil, fmt.Errorf("looking at what the image stands on: %w", err)
		}
	}
	if j.Times.Last != nil {
		var err error
		if d.last, err = j.Times.Last(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// add counts a layer as dealt with. It may have no table.
func (d *dating) add(t *times.Table) {
	if t == nil {
		return
	}
	d.lower = append(d.lower, t)
	d.below = max(d.below, t.Newest)
}

func (d *dating) layer(entries []times.Entry) times.Layer {
	return times.Layer{
		Entries: entries, Context: d.job.Times.Stamps.Known, Lower: d.lower, Below: d.below, Made: d.work.made,
		Now: time.Now().Unix(), Last: d.last, Latest: d.job.SourceDateEpoch,
	}
}

// snapshot reads a layer's files where overlayfs keeps them: in one folder a
// layer.
type snapshot struct {
	roots []*os.Root // the layer's own folder, then those below it, the topmost first
}

// openSnapshot gives the folders behind a mount. It is nil where a layer's own
// files have no folder to themselves.
func openSnapshot(mounts []mount.Mount) (*snapshot, error) {
	dirs, ok := folders(mounts)
	if !ok {
		return nil, nil
	}
	s := &snapshot{}
	for i := len(dirs) - 1; i >= 0; i-- {
		r, err := os.OpenRoot(dirs[i])
		if err != nil {
			s.close()
			return nil, err
		}
		s.roots = append(s.roots, r)
	}
	return s, nil
}

// folders gives the folders of a snapshot, the lowest first, from how it would be
// mounted.
func folders(mounts []mount.Mount) ([]string, bool) {
	if len(mounts) != 1 {
		return nil, false
	}
	m := mounts[0]
	if !overlay.IsOverlayMountType(m) {
		return []string{m.Source}, m.Type == "bind"
	}
	dirs, err := overlay.GetOverlayLayers(m)
	return dirs, err == nil && len(dirs) > 0
}

func (s *snapshot) close() {
	for _, r := range s.roots {
		r.Close()
	}
}

// entries lists the layer's own files. Whiteouts are left out.
func (s *snapshot) entries() ([]times.Entry, error) {
	var out []times.Entry
	top := s.roots[0].Name()
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == top {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !isWhiteout(info) {
			out = append(out, times.Entry{
				Path: filepath.ToSlash(p[len(top)+1:]), Kind: kindOf(info.Mode()), Size: info.Size(), Modified: info.ModTime().UnixNano(),
			})
		}
		return nil
	})
	return out, err
}

func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func kindOf(m fs.FileMode) inventory.Kind {
	switch {
	case m.IsRegular():
		return inventory.File
	case m.IsDir():
		return inventory.Dir
	case m&fs.ModeSymlink != 0:
		return inventory.Symlink
	case m&fs.ModeCharDevice != 0:
		return inventory.Char
	case m&fs.ModeDevice != 0:
		return inventory.Block
	}
	return inventory.Fifo
}

// find gives the folder in which a path's file lies, and what it is.
func (s *snapshot) find(p string) (*os.Root, fs.FileInfo, error) {
	for _, r := range s.roots {
		info, err := r.Lstat(p)
		if err == nil && isWhiteout(info) {
			break
		}
		if err == nil {
			return r, info, nil
		}
	}
	return nil, nil, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
}

func (s *snapshot) stat(p string) (size, ns int64, ok bool) {
	_, info, err := s.find(p)
	if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		return 0, 0, false
	}
	return info.Size(), info.ModTime().UnixNano(), true
}

// maxLinks is how many links are followed one after the other.
const maxLinks = 40

// follow gives the path that a path leads to; the folders in it are taken as they
// are.
func (s *snapshot) follow(p string) string {
	for range maxLinks {
		r, info, err := s.find(p)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			break
		}
		target, err := r.Readlink(p)
		if err != nil {
			break
		}
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(p), target)
		}
		p = path.Clean(target)[1:]
	}
	return p
}

var errNoFile = errors.New("it is no regular file")

func (s *snapshot) open(p string) (*os.File, error) {
	r, info, err := s.find(p)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNoFile
	}
	return r.Open(p)
}

func (s *snapshot) read(p string) ([]byte, error) {
	f, err := s.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func (s *snapshot) digest(p string) (digest.Digest, error) {
	f, err := s.open(p)
	if err != nil {
		return "", fmt.Errorf("reading a layer: %w", err)
	}
	defer f.Close()
	return sumOf(f, p)
}

func sumOf(r io.Reader, p string) (digest.Digest, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("reading %q of a layer: %w", p, err)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// date decides the times of the layer that a mount shows. It is nil where only
// the layer's archive can tell.
func (d *dating) date(mounts []mount.Mount) (*times.Dates, error) {
	s, err := openSnapshot(mounts)
	if err != nil || s == nil {
		return nil, err
	}
	defer s.close()
	entries, err := s.entries()
	if err != nil {
		return nil, fmt.Errorf("listing a layer: %w", err)
	}
	l := d.layer(entries)
	l.Digest, l.Read, l.Stat, l.Follow = s.digest, s.read, s.stat, s.follow
	return l.Date()
}

// dateArchive decides the times of a layer by its archive, which has whole
// seconds: where a snapshot's own files have no folder to themselves.
func (d *dating) dateArchive(f io.ReadSeeker) (*times.Dates, error) {
	a := &archived{entries: map[string]times.Entry{}, sums: map[string]digest.Digest{}, small: map[string][]byte{}}
	if err := a.list(f); err != nil {
		return nil, fmt.Errorf("listing a layer: %w", err)
	}
	var entries []times.Entry
	for _, p := range a.order {
		entries = append(entries, a.entries[p])
	}
	l := d.layer(entries)
	l.Context = times.Known{}
	for ns, t := range d.job.Times.Stamps.Known {
		second := ns - (ns%1e9+1e9)%1e9
		l.Context[second] = max(l.Context[second], t)
	}
	l.Lower = nil // of these, too, the nanoseconds are gone
	l.Made = func(ns int64) bool { return d.work.madeIn(ns / 1e9) }
	l.Digest = func(p string) (digest.Digest, error) { return a.sums[p], nil }
	l.Read = func(p string) ([]byte, error) {
		if data, ok := a.small[p]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}
	l.Stat = func(p string) (int64, int64, bool) {
		e, ok := a.entries[p]
		return e.Size, e.Modified, ok
	}
	dates, err := l.Date()
	if err != nil {
		return nil, err
	}
	dates.Table.Paths = nil // no engine can be given them back
	return dates, nil
}

// archived is what a layer's archive says.
type archived struct {
	order   []string
	entries map[string]times.Entry
	sums    map[string]digest.Digest
	small   map[string][]byte // contents that others are told by
}

func (a *archived) list(f io.ReadSeeker) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tr := tar.NewReader(bufio.NewReaderSize(f, 1<<20))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := path.Clean("/" + hdr.Name)[1:]
		if p == "" || strings.HasPrefix(path.Base(p), ".wh.") {
			continue
		}
		if _, ok := a.entries[p]; !ok {
			a.order = append(a.order, p)
		}
		a.entries[p] = times.Entry{Path: p, Kind: kindOf(hdr.FileInfo().Mode()), Size: hdr.Size, Modified: hdr.ModTime.Unix() * 1e9}
		if hdr.Typeflag != tar.TypeReg {
			continue
		}
		r := io.Reader(tr)
		if hdr.Size < 4<<20 && (times.Holds(p) || strings.HasSuffix(p, ".json") || path.Base(p) == "RECORD") {
			data, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			a.small[p] = data
			r = strings.NewReader(string(data))
		}
		if a.sums[p], err = sumOf(r, p); err != nil {
			return err
		}
	}
}

// repacking applies what was decided to a layer's archive.
func repacking(d *times.Dates, compression string) image.Repacking {
	records := map[string]times.Record{}
	for _, r := range d.Table.Records {
		records[r.Path] = r
	}
	return image.Repacking{
		Compression: compression,
		Date: func(p string, archive time.Time) int64 {
			if t, ok := d.Of(p); ok {
				return t
			}
			return archive.Unix()
		},
		Content: func(p string) func([]byte) {
			r, ok := records[p]
			if !ok {
				return nil
			}
			return func(data []byte) { r.Rewrite(data, true) }
		},
	}
}
