package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/hostfile"
)

const allowHelp = "let the project read outside of its repository: fs.read=`PATH`, a file or folder; fs=PATH to write there as well; PATH may be *"

// allow gives the places of --allow with absolute paths.
func (a *app) allow() []string {
	out := slices.Clone(a.flags.allow)
	for i, text := range out {
		if kind, path, ok := strings.Cut(text, "="); ok && path != "" && path != "*" && !filepath.IsAbs(path) {
			out[i] = kind + "=" + filepath.Join(a.machine.Dir, path)
		}
	}
	return out
}

// ceilings are the folders whose own .git does not make a project below them part
// of a repository: the user's home, which may be kept in git, and those that git
// takes for such.
func (a *app) ceilings() []string {
	return append(filepath.SplitList(a.machine.Getenv("GIT_CEILING_DIRECTORIES")), a.machine.Getenv("HOME"))
}

// repository gives the top of the repository that pipelines are written to, and
// the project's folder; both without links. The user's home may be that repository,
// though a project below may not read all of it; a folder where everybody may put
// things, such as /tmp, is none.
func (a *app) repository() (root, dir string, err error) {
	if dir, err = filepath.Abs(a.dir()); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", "", fmt.Errorf("finding the project's folder: %w", err)
	}
	return hostfile.Repository(dir, nil), dir, nil
}

// access gives what the project in the folder may read.
func (a *app) access() (*hostfile.Access, error) {
	dir, err := filepath.Abs(a.dir())
	if err != nil {
		return nil, fmt.Errorf("finding the project's folder: %w", err)
	}
	return hostfile.New(hostfile.Options{Dir: dir, File: a.flags.file, Allow: a.allow(), Ceilings: a.ceilings()})
}

// typed gives the place of a file that the user has named, for reading: no link in
// a repository may lead out of it.
func (a *app) typed(path string) (string, error) {
	access, err := a.access()
	if err != nil {
		return "", err
	}
	return access.Typed(a.fromHere(path))
}

// target is the same for writing; the file need not be there.
func (a *app) target(path string) (string, error) {
	access, err := a.access()
	if err != nil {
		return "", err
	}
	return access.TypedForWriting(a.fromHere(path))
}

// fromDir gives a path that counts from the folder of -C.
func (a *app) fromDir(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(a.dir(), path)
}

func (a *app) fromHere(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(a.machine.Dir, path)
}

// isOutside says whether an error is that of a place which may not be read.
func isOutside(err error) bool {
	var out *hostfile.OutsideError
	return errors.As(err, &out)
}
