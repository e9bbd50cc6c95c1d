package source

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// filesystem is where a tree stands. Paths are clean and relative to it; "." is
// the whole.
type filesystem interface {
	// list gives the content of a folder, sorted by name.
	list(dir string) ([]node, error)
	// stat looks at a path without following it, if it is a link. What is not
	// there is an fs.ErrNotExist.
	stat(p string) (node, error)
	readlink(p string) (string, error)
}

// disk is the only part of this package that touches files.
type disk struct {
	dir  string
	root *os.Root
}

// node is what a folder's listing tells about one name in it.
type node struct {
	name   string
	kind   Kind
	hollow bool // a file whose content BuildKit's transfer does not send: sockets
	mode   uint32
	size   int64
	stamp  stamp
	major  uint32
	minor  uint32
}

// stamp changes whenever a file's content, mode or attributes do, except for
// changes within one tick of the file system's clock.
type stamp struct {
	dev, ino     uint64
	mtime, ctime int64 // ns since 1970; ctime 0: unknown on this system
	mode         uint32
	links        uint32
}

func openDisk(dir string) (*disk, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &disk{dir: dir, root: root}, nil
}

func (d *disk) close() { d.root.Close() }

// list gives the content of a folder, sorted by name.
func (d *disk) list(dir string) ([]node, error) {
	f, err := d.root.OpenFile(filepath.FromSlash(dir), os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	nodes := make([]node, 0, len(found))
	for _, e := range found {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile: it was never there
		}
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, nodeOf(fi))
	}
	slices.SortFunc(nodes, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	return nodes, nil
}

// stat looks at a path without following it, if it is a link.
func (d *disk) stat(p string) (node, error) {
	fi, err := d.root.Lstat(filepath.FromSlash(p))
	if err != nil {
		return node{}, err
	}
	return nodeOf(fi), nil
}

func (d *disk) readlink(p string) (string, error) {
	return d.root.Readlink(filepath.FromSlash(p))
}

// errNotRegular says that a file became something else after it was listed.
var errNotRegular = errors.New("it is no longer a regular file")

// open opens a regular file and gives its present stamp. It does not wait for
// the other end of a FIFO that took the file's place.
func (d *disk) open(p string) (*os.File, node, error) {
	f, err := d.root.OpenFile(filepath.FromSlash(p), os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, node{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, node{}, err
	}
	return f, nodeOf(fi), nil
}

// nodeOf translates what the system says. Sockets become empty files.
func nodeOf(fi fs.FileInfo) node {
	m := fi.Mode()
	n := node{name: fi.Name(), mode: uint32(m.Perm())}
	switch {
	case m.IsDir():
		n.kind = Dir
	case m&fs.ModeSymlink != 0:
		n.kind = Symlink
	case m&fs.ModeNamedPipe != 0:
		n.kind = FIFO
	case m&fs.ModeCharDevice != 0:
		n.kind = CharDevice
	case m&fs.ModeDevice != 0:
		n.kind = BlockDevice
	case m&fs.ModeSocket != 0:
		n.hollow = true
	default:
		n.size = fi.Size()
	}
	n.mode |= specialBits(m)
	systemStat(fi, &n)
	n.stamp.mode = uint32(m)
	return n
}

func specialBits(m fs.FileMode) uint32 {
	var bits uint32
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
