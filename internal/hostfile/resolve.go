package hostfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// abs gives a path of the project from the root of the file system.
func (a *Access) abs(path string) string {
	if path = filepath.FromSlash(path); filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(a.dir, path)
}

// resolve follows a path to what it leads to. Nothing of what is outside shows in
// the error, not even whether it is there.
func (a *Access) resolve(path string, write bool) (string, error) {
	first := "" // the first place outside that a link on the way led to
	real, err := follow(path, func(link, rest string) {
		if first == "" && !a.allows(link, write) {
			first = filepath.Join(link, rest)
		}
	})
	if errors.Is(err, fs.ErrNotExist) && write {
		err = nil
	}
	if a.allows(real, write) {
		return real, err
	}
	if first == "" {
		first = real
	}
	return "", outside(first, write)
}

func (a *Access) allows(path string, write bool) bool {
	for _, top := range a.own {
		if below(path, top) {
			return true
		}
	}
	for _, p := range a.allowed {
		if (p.path == "" || below(path, p.path)) && (p.write || !write) {
			return true
		}
	}
	return false
}

// below says whether path is dir, or lies in it. Both are clean and absolute.
func below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == filepath.Separator || strings.HasSuffix(dir, string(filepath.Separator)))
}

// typed follows a path that the user himself has named, from wherever. A link on
// the way that a repository holds is the repository's word, not the user's: it
// must not lead out of there.
func (a *Access) typed(path string, write bool) (string, error) {
	if below(path, "/dev") || below(path, "/proc") { // /dev/stdout is a link to wherever the shell has led it
		return path, nil
	}
	var tops []string
	file := ""
	real, err := follow(path, func(link, rest string) {
		at := filepath.Dir(link)
		if top, ok := worktree(at, a.ceilings); ok {
			tops = append(tops, top)
			return
		}
		for _, top := range a.own { // such as an archive that was unpacked
			if below(at, top) {
				tops = append(tops, top)
			}
		}
		if rest == "" && file == "" {
			file = at
		}
	})
	if info, e := os.Stat(real); file != "" && len(tops) == 0 && (e != nil || !info.IsDir()) {
		tops = append(tops, file) // a file of no repository: only its folder is known to belong to it
	}
	for _, top := range tops {
		if !below(real, top) && !a.allows(real, write) {
			return "", outside(real, write)
		}
	}
	if write && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return real, err
}

// Typed gives the place that a path leads to which the user has named on the
// command line. It may be anywhere, but no link of a repository may lead out of
// it, unless allowed.
func (a *Access) Typed(path string) (string, error) { return a.typed(a.abs(path), false) }

// TypedForWriting is [Access.Typed] of a file that is to be written, and need not
// be there.
func (a *Access) TypedForWriting(path string) (string, error) { return a.typed(a.abs(path), true) }

// follow gives the path without links of what path, which is absolute and clean,
// leads to. It calls onLink for each link on the way, with its own place and what
// of the path is left after it. With an error it gives how far it would have come.
func follow(path string, onLink func(link, rest string)) (string, error) {
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at, todo := root, split(path[len(root)-1:])
	links := 0
	for len(todo) > 0 {
		next, rest := filepath.Join(at, todo[0]), filepath.Join(todo[1:]...)
		if todo[0] == ".." { // of a link's target
			at, todo = next, todo[1:]
			continue
		}
		info, err := os.Lstat(next)
		if err != nil {
			return filepath.Join(next, rest), err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at, todo = next, todo[1:]
			continue
		}
		onLink(next, rest)
		target, err := os.Readlink(next)
		if links++; err == nil && links > mostLinks {
			err = &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		if err != nil {
			return filepath.Join(next, rest), err
		}
		if filepath.IsAbs(target) {
			at = root
		}
		todo = append(split(target), todo[1:]...)
	}
	return at, nil
}

// split gives the names in a path, ".." among them.
func split(path string) []string {
	var out []string
	for name := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		if name != "" && name != "." {
			out = append(out, name)
		}
	}
	return out
}

// Repository gives the top of the git work tree that holds dir, or dir where
// there is none. Dir is absolute and without links.
//
// Whoever widens it gives a project more of the machine, so it is told by .git
// alone, which no commit can hold, and which must look like git's; and neither
// the root of the file system, nor a ceiling, nor a folder where everybody may
// put things, such as /tmp, is the top of what lies below it.
func Repository(dir string, ceilings []string) string {
	if top, ok := worktree(dir, ceilings); ok {
		return top
	}
	return dir
}

func worktree(dir string, ceilings []string) (string, bool) {
	for at := dir; at == dir || !common(at, ceilings); at = filepath.Dir(at) {
		if isTop(at) {
			return at, true
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return "", false
}

// common says whether a folder holds more than one project's things.
func common(dir string, ceilings []string) bool {
	if dir == filepath.Dir(dir) {
		return true
	}
	here, err := os.Lstat(dir)
	if err != nil || here.Mode()&fs.ModeSticky != 0 {
		return true
	}
	for _, c := range ceilings {
		if there, err := os.Stat(c); c != "" && err == nil && os.SameFile(here, there) {
			return true
		}
	}
	return false
}

// isTop says whether a folder is the top of a git work tree: its .git is a folder
// with a HEAD, or the file of a linked work tree or submodule.
func isTop(dir string) bool {
	git := filepath.Join(dir, ".git")
	info, err := os.Lstat(git)
	switch {
	case err != nil:
		return false
	case info.IsDir():
		_, err := os.Lstat(filepath.Join(git, "HEAD"))
		return err == nil
	case info.Mode().IsRegular():
		text, err := Read(git, 64<<10)
		return err == nil && strings.HasPrefix(string(text), "gitdir: ")
	}
	return false
}
