package corpus

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
)

// linked gives the lines with mode and owner of hard links as a layer's headers
// have them: those of the target, as is the time. Archives in a context have
// others.
func linked(items []item) []item {
	out, inodes := slices.Clone(items), map[string]item{}
	for i, it := range out {
		if it.kind == "hard" {
			first := inodes[it.text]
			out[i].mode, out[i].uid, out[i].gid, out[i].inode = first.mode, first.uid, first.gid, true
		}
		inodes[it.path] = out[i]
	}
	return out
}

// expand gives the lines with "many" written out.
func expand(items []item) []item {
	var out []item
	for _, it := range items {
		if it.kind != "many" {
			out = append(out, it)
			continue
		}
		for i := range it.count {
			out = append(out, item{
				kind: "file", mode: 0o644, path: fmt.Sprintf("%s/d%02d/f%05d", it.path, i%50, i), text: fmt.Sprintf("file %d\n", i),
			})
		}
	}
	return out
}

// Times are all different, and tell where a file comes from.
const (
	baseTime    = 1500000000 // and a minute for each file, as all of them
	imageTime   = 1450000000
	archiveTime = 1300000000
	contextTime = 1400000000
)

// writeTar writes a layer or an archive. Every third time has a part of a
// second.
func writeTar(w io.Writer, items []item, first int64) error {
	tw := tar.NewWriter(w)
	times := map[string]time.Time{}
	for i, it := range expand(items) {
		hdr := &tar.Header{
			Name: strings.TrimPrefix(it.path, "/"), Mode: int64(it.mode), Uid: it.uid, Gid: it.gid,
			ModTime: time.Unix(first+60*int64(i), 0),
		}
		if i%3 == 2 {
			hdr.ModTime, hdr.Format = hdr.ModTime.Add(987654321), tar.FormatPAX
		}
		if at, ok := times[it.text]; it.kind == "hard" && it.inode && ok {
			hdr.ModTime, hdr.Format = at, tar.FormatPAX
		}
		times[it.path] = hdr.ModTime
		switch it.kind {
		case "dir":
			hdr.Typeflag, hdr.Name = tar.TypeDir, hdr.Name+"/"
		case "file":
			hdr.Typeflag, hdr.Size = tar.TypeReg, int64(len(it.text))
		case "link":
			hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, it.text, 0o777
		case "hard":
			hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeLink, strings.TrimPrefix(it.text, "/"), int64(cmp.Or(it.mode, 0o644))
		case "fifo":
			hdr.Typeflag = tar.TypeFifo
		case "char":
			hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, it.major, it.minor
		}
		if it.capability != "" {
			raw, err := hex.DecodeString(it.capability)
			if err != nil {
				return err
			}
			hdr.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(raw)}
		}
		if it.xattr != "" {
			hdr.PAXRecords = map[string]string{"SCHILY.xattr." + it.xattr: "x"}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
		if it.kind == "file" {
			if _, err := io.WriteString(tw, it.text); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// WriteContext writes the build context and the Dockerfile into a folder. Every
// file, link and folder has a time of its own. It needs root, for owners and
// device nodes.
func (c *Case) WriteContext(dir string) error {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, it := range expand(c.context) {
		if err := it.write(dir); err != nil {
			return fmt.Errorf("writing the context of %s: %w", c.Name, err)
		}
	}
	for _, a := range c.archives {
		raw, err := a.bytes()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, a.name), raw, 0o644)
		}
		if err != nil {
			return fmt.Errorf("writing the context of %s: %w", c.Name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(c.Dockerfile), 0o644); err != nil {
		return err
	}
	next := int64(contextTime)
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		next += 60
		t := unix.Timespec{Sec: next, Nsec: 987654321}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// timesIn fills in the times of files of the context in dir.
func timesIn(dir string, files []image.File) error {
	for i := range files {
		at := files[i].Path
		if files[i].Kind != inventory.Symlink {
			var err error
			if at, err = inventory.Resolve(at, func(p string) (inventory.Kind, string, error) { return onDisk(dir, p) }); err != nil {
				return fmt.Errorf("following %q: %w", files[i].Path, err)
			}
		}
		fi, err := os.Lstat(filepath.Join(dir, at))
		if err != nil {
			return err
		}
		files[i].Time = fi.ModTime().Unix()
	}
	return nil
}

func onDisk(dir, p string) (inventory.Kind, string, error) {
	p = filepath.Join(dir, p)
	fi, err := os.Lstat(p)
	switch {
	case err != nil:
		return inventory.None, "", nil
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		return inventory.Symlink, target, err
	case fi.IsDir():
		return inventory.Dir, "", nil
	}
	return inventory.File, "", nil
}

func (it item) write(dir string) error {
	p := filepath.Join(dir, filepath.FromSlash(it.path))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	var err error
	switch it.kind {
	case "dir":
		if err = os.Mkdir(p, 0o755); os.IsExist(err) {
			err = nil
		}
	case "file":
		err = os.WriteFile(p, []byte(it.text), 0o644)
	case "link":
		return os.Symlink(it.text, p)
	case "hard":
		return os.Link(filepath.Join(dir, it.text), p)
	case "fifo":
		err = syscall.Mkfifo(p, 0o644)
	case "char":
		err = syscall.Mknod(p, syscall.S_IFCHR|0o644, int(it.major<<8|it.minor))
	}
	if err == nil {
		err = os.Chown(p, it.uid, it.gid)
	}
	if err == nil {
		err = syscall.Chmod(p, it.mode)
	}
	return err
}

func (a archive) bytes() ([]byte, error) {
	if a.raw != nil {
		return a.raw, nil
	}
	var b bytes.Buffer
	var w io.WriteCloser = nopCloser{&b}
	switch filepath.Ext(a.name) {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			return nil, err
		}
		w = z
	}
	if err := writeTar(w, a.items, archiveTime); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
