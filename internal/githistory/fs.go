package githistory

import (
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/strata-build/strata/internal/source"
)

// FS gives the tree below a folder as a file system of which files and folders
// are read by name. Names with ".." lead out of the folder, not out of the tree.
func (t *Tree) FS(dir string) fs.FS { return &treeFS{t, dir} }

type treeFS struct {
	tree *Tree
	dir  string
}

// Open is not needed by what reads a project.
func (f *treeFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("a tree of a commit is read by name only")}
}

// ReadFile gives the content of a file.
func (f *treeFS) ReadFile(name string) ([]byte, error) {
	return f.tree.ReadFile(path.Join(f.dir, name))
}

// Stat looks at a file, links followed.
func (f *treeFS) Stat(name string) (fs.FileInfo, error) {
	e, _, err := f.tree.resolve(path.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	return info{e.node()}, nil
}

// ReadDir gives the content of a folder, sorted by name.
func (f *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	d, err := f.tree.Dir(path.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	nodes, err := d.List(".")
	if err != nil {
		return nil, err
	}
	out := make([]fs.DirEntry, len(nodes))
	for i, n := range nodes {
		out[i] = fs.FileInfoToDirEntry(info{n})
	}
	return out, nil
}

// info is a node as the standard library names it.
type info struct{ source.Node }

func (i info) Name() string       { return i.Node.Name }
func (i info) Size() int64        { return 0 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.Kind == source.Dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	m := fs.FileMode(i.Node.Mode)
	switch i.Kind {
	case source.Dir:
		m |= fs.ModeDir
	case source.Symlink:
		m |= fs.ModeSymlink
	}
	return m
}
