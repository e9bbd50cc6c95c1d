package corpus

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// linked gives the lines with mode and owner of hard links as a layer's headers
// have them: those of the target. Archives in a context leave them out.
func linked(items []item) []item {
	out, inodes := slices.Clone(items), map[string]item{}
	for i, it := range out {
		if it.kind == "hard" {
			first := inodes[it.text]
			out[i].mode, out[i].uid, out[i].gid = first.mode, first.uid, first.gid
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

func writeTar(w io.Writer, items []item) error {
	tw := tar.NewWriter(w)
	for _, it := range expand(items) {
		hdr := &tar.Header{
			Name: strings.TrimPrefix(it.path, "/"), Mode: int64(it.mode), Uid: it.uid, Gid: it.gid,
			ModTime: time.Unix(1500000000, 0),
		}
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

// WriteContext writes the build context and the Dockerfile into a folder. It
// needs root, for owners and device nodes.
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
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(c.Dockerfile), 0o644)
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
	if err := writeTar(w, a.items); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
