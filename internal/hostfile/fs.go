package hostfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// FS gives the project's folder as a file system of which files and folders are
// read by name, under the same rules.
func (a *Access) FS() fs.FS { return dirFS{a} }

type dirFS struct{ a *Access }

var errByName = errors.New("files of a project are read by name only")

// Open is not needed by what reads a project.
func (d dirFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errByName}
}

// ReadFile gives the content of a regular file of no more than [MaxText]. Git's
// own configuration is read where it is asked for by its name.
func (d dirFS) ReadFile(name string) ([]byte, error) {
	if name == ".git/config" {
		real, err := d.a.Path(name)
		if err != nil {
			return nil, err
		}
		return Read(real, MaxText)
	}
	return d.a.ReadFile(name, MaxText)
}

// Stat looks at a file, links followed.
func (d dirFS) Stat(name string) (fs.FileInfo, error) { return d.a.Stat(name) }

// ReadDir gives the content of a folder, sorted by name.
func (d dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	real, err := d.a.Path(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	return os.ReadDir(real)
}
