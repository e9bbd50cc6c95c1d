package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/times"
)

// restoring unpacks layers, and gives the files of those that Strata has
// published the times that they had where they were made. So a step sees of its
// parent on every machine what it would see on the one that built it, whatever a
// published layer says.
type restoring struct {
	diff.Applier

	mu     sync.Mutex
	tables map[digest.Digest]*used
}

// used is a table that is in use by a number of builds.
type used struct {
	table *times.Table
	count int
}

func newRestoring(a diff.Applier) *restoring {
	return &restoring{Applier: a, tables: map[digest.Digest]*used{}}
}

// use makes tables known until done is called.
func (r *restoring) use(tables times.Tables) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, t := range tables {
		if r.tables[d] == nil {
			r.tables[d] = &used{table: t}
		}
		r.tables[d].count++
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for d := range tables {
			if r.tables[d].count--; r.tables[d].count == 0 {
				delete(r.tables, d)
			}
		}
	}
}

func (r *restoring) table(d digest.Digest) *times.Table {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.tables[d]; u != nil {
		return u.table
	}
	return nil
}

// Apply implements diff.Applier.
func (r *restoring) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	out, err := r.Applier.Apply(ctx, desc, mounts, opts...)
	t := r.table(desc.Digest)
	if err != nil || t == nil {
		return out, err
	}
	dir, ok := upper(mounts)
	if !ok {
		return out, nil // it shows the published times
	}
	if err := restore(dir, t); err != nil {
		return out, fmt.Errorf("giving the files of a layer their times: %w", err)
	}
	return out, nil
}

// upper gives the folder that a layer is unpacked into, if it has one to itself.
func upper(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 {
		return "", false
	}
	if mounts[0].Type == "bind" {
		return mounts[0].Source, true
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir, true
		}
	}
	return "", false
}

// restore writes the engine's times into the files below dir. The table comes
// from a registry: nothing outside of dir is reached, and nothing but times, and
// the records of times, is written.
func restore(dir string, t *times.Table) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, r := range t.Records {
		if err := restoreRecord(root, r); err != nil {
			return err
		}
	}
	folders := openFolders{root: root}
	defer folders.close()
	for _, d := range t.Paths {
		f, err := folders.open(path.Dir(d.Path))
		if err != nil {
			continue // a link of a lower layer stands above it
		}
		when := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(d.Real)}
		err = unix.UtimesNanoAt(int(f.Fd()), path.Base(d.Path), when, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q: %w", d.Path, err)
		}
	}
	return nil
}

// openFolders holds the folder that was used last: neighbours share it.
type openFolders struct {
	root *os.Root
	path string
	file *os.File
}

func (o *openFolders) open(p string) (*os.File, error) {
	if o.file != nil && o.path == p {
		return o.file, nil
	}
	o.close()
	f, err := o.root.Open(p)
	if err != nil {
		return nil, err
	}
	o.path, o.file = p, f
	return f, nil
}

func (o *openFolders) close() {
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}

// restoreRecord writes into a file the time of another that it held where it was
// made.
func restoreRecord(root *os.Root, r times.Record) error {
	info, err := root.Lstat(r.Path)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := root.OpenFile(r.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !r.Rewrite(data, false) {
		return nil
	}
	if _, err = f.WriteAt(data, 0); err != nil {
		return err
	}
	when := unix.NsecToTimespec(info.ModTime().UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, when}, 0)
}

// workTimesFile is in the engine's folder.
const workTimesFile = "work-times"

// dropUndated removes the state of an engine of before there were work times:
// the times in its snapshots were set to 1970, and a step that found such a file
// in the instruction cache would take it for older than anything.
func dropUndated(root string) error {
	marker := filepath.Join(root, workTimesFile)
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	stores, err := filepath.Glob(filepath.Join(root, "runc-*"))
	if err != nil {
		return err
	}
	for _, p := range append(stores, filepath.Join(root, "cache.db"), filepath.Join(root, "history.db")) {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("removing the state of an earlier version: %w", err)
		}
	}
	return os.WriteFile(marker, nil, 0o600)
}
