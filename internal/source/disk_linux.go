package source

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const openNonblock = syscall.O_NONBLOCK

// systemStat adds what only the system's own record holds.
func systemStat(fi fs.FileInfo, n *node) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	n.stamp = stamp{
		dev: st.Dev, ino: st.Ino, links: uint32(st.Nlink),
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
	}
	if n.kind == CharDevice || n.kind == BlockDevice {
		n.major, n.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
}

// xattrs reads the attributes of the user namespace; nil when there are none
// or the file system has no attributes.
func (d *disk) xattrs(p string) (map[string]string, error) {
	full := filepath.Join(d.dir, filepath.FromSlash(p))
	names, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(full, b) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: p, Err: err}
	}
	var out map[string]string
	for name := range strings.SplitSeq(string(names), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		v, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(full, name, b) })
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: p, Err: err}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(v)
	}
	return out, nil
}

// growing calls a system call that fills a buffer, with a larger buffer while
// it does not suffice.
func growing(call func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := call(b)
		if !errors.Is(err, unix.ERANGE) {
			return b[:max(n, 0)], err
		}
	}
}
