// Package hostfile reads the files of this machine that a project names: its own
// file, Dockerfiles, ignore files, the lock, secrets, the folders of build
// contexts.
//
// A project is foreign: it may come with a pull request. It takes paths as the
// project writes them, and gives what is there if it lies, after all links, in
// the project's repository or where the user has allowed it; otherwise an error
// that shows nothing of what is there, nor whether anything is. What it reads
// into memory are regular files of a bounded size, and it waits for no FIFO.
package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

const (
	// MaxText bounds a file that is read as text: a project's file, a Dockerfile,
	// an ignore file, a lock, a pipeline. People write a hundredth of it.
	MaxText = 4 << 20
	// MaxSecret is BuildKit's limit of a secret (secretsprovider.MaxSecretSize).
	MaxSecret = 500 << 10

	// mostLinks is how many links one path may lead through, as in Linux.
	mostLinks = 40
)

// Options say what a project may read.
type Options struct {
	Dir  string // the project's folder, absolute
	File string // the project's file as the user named it, absolute or relative to Dir; "" if he named none
	// Allow are places outside of the repository, as --allow takes them:
	// "fs.read=PATH", or "fs=PATH" for writing as well. PATH is absolute, a folder
	// or a file, or "*" for all.
	Allow []string
	// Ceilings are folders whose .git is not that of a project below them: the
	// user's home.
	Ceilings []string
}

// Access is what a project may read. It is immutable. The nil Access allows
// nothing.
type Access struct {
	dir      string   // the project's folder, links resolved
	given    string   // the same as it was given
	own      []string // the tops of the project's repositories, links resolved
	allowed  []place
	ceilings []string
}

// place is what the user has allowed.
type place struct {
	path  string // "" is everything
	write bool
}

// New finds the project's repository: the nearest folder above it that is the top
// of a git work tree, or the project's own where there is none.
func New(o Options) (*Access, error) {
	a := &Access{given: filepath.Clean(o.Dir), ceilings: o.Ceilings}
	for _, text := range o.Allow {
		p, err := parse(text)
		if err != nil {
			return nil, err
		}
		a.allowed = append(a.allowed, p)
	}
	dir, err := a.typed(a.given, false)
	if err != nil {
		return nil, fmt.Errorf("opening the folder %q: %w", o.Dir, cause(err))
	}
	a.dir = dir
	a.own = []string{Repository(dir, o.Ceilings)}
	if o.File == "" {
		return a, nil
	}
	// A file that the user names from elsewhere brings its own repository along.
	// It is the only one where the folder at hand is none, such as a workspace of
	// many clones, /tmp or the user's home.
	file := a.abs(o.File)
	_, repository := worktree(dir, o.Ceilings)
	alone := !repository && a.standsAlone(filepath.Dir(file))
	if !alone && (below(file, a.own[0]) || below(file, a.given)) {
		return a, nil
	}
	if alone {
		a.own = nil
	}
	real, err := a.typed(file, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil // whoever reads it says so
	case err != nil:
		return nil, fmt.Errorf("reading project: %w", err)
	}
	a.own = append(a.own, Repository(filepath.Dir(real), o.Ceilings))
	return a, nil
}

// standsAlone says whether a file of this folder is of another project than the
// one at hand, which is in no repository: it has a repository of its own, or the
// folder at hand is one for everything.
func (a *Access) standsAlone(folder string) bool {
	real, err := filepath.EvalSymlinks(folder)
	if err != nil || real == a.dir {
		return false
	}
	_, repository := worktree(real, a.ceilings)
	return repository || common(a.dir, a.ceilings)
}

// parse reads one value of --allow.
func parse(text string) (place, error) {
	kind, path, _ := strings.Cut(text, "=")
	p := place{path: path, write: kind == "fs"}
	switch {
	case kind != "fs.read" && kind != "fs":
		return p, diag.Hint(fmt.Errorf("reading --allow: %q is nothing that can be allowed", text),
			"write --allow fs.read=PATH for a file or folder outside of the project's repository")
	case path == "":
		return p, diag.Hint(fmt.Errorf("reading --allow: %q names no path", text), `write --allow %s=PATH, or %s=* for all`, kind, kind)
	case path == "*":
		p.path = ""
		return p, nil
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	p.path = filepath.Clean(path)
	return p, nil
}

// OutsideError says that a project names a place that it may not read.
type OutsideError struct {
	Path  string // where it leads
	Write bool
}

func (e *OutsideError) Error() string {
	return fmt.Sprintf("%q is outside of the project's repository", e.Path)
}

// outside gives the error with the flag that allows it.
func outside(path string, write bool) error {
	kind := "fs.read"
	if write {
		kind = "fs"
	}
	return diag.Hint(&OutsideError{path, write}, "if this project may have it: --allow %s", quoted(kind+"="+path))
}

// quoted writes a word as a shell takes it.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-=+:,@%", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Dir gives the project's folder, links resolved.
func (a *Access) Dir() string {
	if a == nil {
		return ""
	}
	return a.dir
}

// Root gives the top of the project's repository, or the project's folder where
// there is none.
func (a *Access) Root() string { return a.own[0] }

// Path gives the place that a path of the project leads to, links resolved. The
// error is an [*OutsideError] if the project may not read there.
func (a *Access) Path(path string) (string, error) {
	if a == nil {
		return "", outside(path, false)
	}
	return a.resolve(a.abs(path), false)
}

// ForWriting checks that a file which a project names, and which need not be
// there, may be made and written, and gives the place that its path leads to.
func (a *Access) ForWriting(path string) (string, error) {
	if a == nil {
		return "", outside(path, true)
	}
	return a.resolve(a.abs(path), true)
}

// Stat looks at what a path of the project leads to.
func (a *Access) Stat(path string) (fs.FileInfo, error) {
	real, err := a.Path(path)
	if err != nil {
		return nil, err
	}
	return os.Lstat(real)
}

// ReadFile gives the content of a regular file of at most so many bytes. What git
// keeps for itself, a token in .git/config among it, is not read.
func (a *Access) ReadFile(path string, most int64) ([]byte, error) {
	real, err := a.Path(path)
	if err != nil {
		return nil, err
	}
	if a.ofGit(real) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errOfGit}
	}
	return Read(real, most)
}

var errOfGit = errors.New("what lies in .git is no file of a project")

func (a *Access) ofGit(real string) bool {
	for _, top := range a.own {
		if rel, err := filepath.Rel(top, real); err == nil && slices.Contains(strings.Split(rel, string(filepath.Separator)), ".git") {
			return true
		}
	}
	return false
}

// Names gives up to a thousand names in a folder, sorted; none where it can't be
// read. It is for hints.
func (a *Access) Names(path string) []string {
	const most = 1000
	real, err := a.Path(path)
	if err != nil {
		return nil
	}
	f, err := open(real)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(most)
	slices.Sort(names)
	return names
}

var (
	errNotRegular = errors.New("it is not a regular file")
	errFolder     = errors.New("it is a folder")
)

// Read gives the content of the regular file at path, which may have at most so
// many bytes. Anything else there is an error, and none is waited for. It is for
// files that the user has named, and for those that an [Access] has resolved.
func Read(path string, most int64) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := ReadFrom(f, most)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: cause(err)}
	}
	return data, nil
}

// open opens a file and waits for nobody: not for the other end of a FIFO, nor
// for a device.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|nonblock, 0)
}

// Check says whether [Read] would give the file, and reads nothing.
func Check(path string, most int64) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return check(f, most)
}

func check(f *os.File, most int64) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return errFolder
	case !info.Mode().IsRegular():
		return errNotRegular
	case info.Size() > most:
		return ErrTooLarge(most)
	}
	return nil
}

// ReadFrom is [Read] of a file that is open, but must not be one that opening or
// reading waits for.
func ReadFrom(f *os.File, most int64) ([]byte, error) {
	if err := check(f, most); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1)) // a file of /proc says that it has 0 bytes
	if err == nil && int64(len(data)) > most {
		err = ErrTooLarge(most)
	}
	return data, err
}

// ErrTooLarge says that a file has more than so many bytes.
func ErrTooLarge(most int64) error {
	return fmt.Errorf("it is larger than the %d KiB that such a file may have", most>>10)
}

// cause gives an error about a file without the file's name.
func cause(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}
