package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// Repo is a repository, seen from a folder of its work tree. It must be closed.
type Repo struct {
	machine Machine
	dir     string // where commands run
	config  string // folder of the config that git reads
	literal bool
	place
}

// place is where a repository lies. All paths are absolute and without links.
type place struct {
	root   string // of the work tree
	gitDir string // what .git is or leads to
	common string // what linked work trees share; gitDir where there are none
}

// Root gives the top of the work tree, links followed.
func (r *Repo) Root() string { return r.root }

// Top gives the repository seen from its top. It must not be closed.
func (r *Repo) Top() *Repo {
	top := *r
	top.dir = r.root
	return &top
}

// Literal gives a repository in which no object stands for another, and paths are
// no patterns. It must not be closed.
func (r *Repo) Literal() *Repo {
	l := *r
	l.literal = true
	return &l
}

// Close removes what Open has made.
func (r *Repo) Close() error { return os.RemoveAll(r.config) }

func (r *Repo) objects() string { return filepath.Join(r.common, "objects") }

// Open finds the repository that a folder lies in: the nearest .git upwards. As
// git does it looks no further than the file system reaches, nor into the folders
// of GIT_CEILING_DIRECTORIES. The error is [ErrNone] where there is none.
//
// It must belong to this process's user, to root, to one of the machine's Owners,
// or to the owner of the folder, who decides over what is built there anyway; or
// the user has set safe.directory for it. Else its history may be somebody's who
// has no say, such as a .git that was put into /tmp.
func (m Machine) Open(ctx context.Context, dir string) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a git repository: %w", err)
	}
	at, err := m.find(dir)
	if err != nil {
		return nil, err
	}
	r := &Repo{machine: m, dir: dir, place: at}
	if err := r.configure(ctx); err != nil {
		if r.config != "" {
			_ = r.Close() // the first error counts
		}
		return nil, err
	}
	return r, nil
}

// Find gives the top of the work tree that holds a folder, without looking into
// the repository. The error is [ErrNone] where there is none.
func (m Machine) Find(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("looking for a git repository: %w", err)
	}
	at, err := m.find(dir)
	return at.root, err
}

// find walks upwards.
func (m Machine) find(dir string) (place, error) {
	stop := m.ceiling(dir)
	across := m.getenv("GIT_DISCOVERY_ACROSS_FILESYSTEM")
	for at := dir; ; at = filepath.Dir(at) {
		found, err := look(at)
		if err != nil || found.root != "" {
			return found, err
		}
		up := filepath.Dir(at)
		if up == at || up == stop || !truth(across) && !sameDevice(at, up) {
			return place{}, ErrNone
		}
	}
}

func truth(s string) bool {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

// ceiling gives the nearest folder above dir that is not looked into, "" for none.
func (m Machine) ceiling(dir string) string {
	nearest, follow := "", true
	for _, c := range filepath.SplitList(m.getenv("GIT_CEILING_DIRECTORIES")) {
		if c == "" { // links in what follows are not
			follow = false
			continue
		}
		if !filepath.IsAbs(c) {
			continue
		}
		if real, err := filepath.EvalSymlinks(c); err == nil && follow {
			c = real
		}
		c = filepath.Clean(c)
		if strings.HasPrefix(dir, strings.TrimSuffix(c, "/")+"/") && len(c) > len(nearest) {
			nearest = c
		}
	}
	return nearest
}

// look says whether a folder has a repository's .git.
func look(at string) (place, error) {
	dot := filepath.Join(at, ".git")
	info, err := os.Stat(dot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return place{}, nil
	case err != nil:
		return place{}, broken(at, err)
	case info.IsDir():
	case info.Mode().IsRegular():
		target, err := small(dot)
		if err != nil {
			return place{}, broken(at, err)
		}
		target, ok := strings.CutPrefix(target, "gitdir: ")
		if !ok || target == "" {
			return place{}, broken(at, fmt.Errorf("the file %q names no repository", dot))
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(at, target)
		}
		dot = target
	default:
		return place{}, nil
	}
	p := place{root: at}
	if p.gitDir, err = filepath.EvalSymlinks(dot); err == nil {
		p.common, err = commonDir(p.gitDir)
	}
	if err != nil {
		return place{}, broken(at, err)
	}
	for _, f := range []string{filepath.Join(p.gitDir, "HEAD"), filepath.Join(p.common, "objects"), filepath.Join(p.common, "refs")} {
		if _, err := os.Lstat(f); err != nil {
			// Some tools mark a folder by an empty .git.
			if entries, err := os.ReadDir(p.gitDir); err == nil && len(entries) == 0 && info.IsDir() {
				return place{}, nil
			}
			return place{}, broken(at, err)
		}
	}
	for _, dir := range []string{p.gitDir, filepath.Join(p.gitDir, "info"), p.common, filepath.Join(p.common, "info"), filepath.Join(p.common, "objects/info")} {
		if err := p.plain(dir); err != nil {
			return place{}, broken(at, err)
		}
	}
	return p, nil
}

// plain says whether what git opens by name in a folder of the repository is what
// git puts there. Git would wait for a FIFO for good; and of a file elsewhere that
// a link leads to, it quotes what it does not understand. No clone can bring
// either, an archive can.
func (p place) plain(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case e.Type()&fs.ModeNamedPipe != 0:
			return fmt.Errorf("%q is a FIFO", name)
		case e.Type()&fs.ModeSymlink != 0:
			real, err := filepath.EvalSymlinks(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && !within(real, p.gitDir) && !within(real, p.common) && !isRepository(filepath.Dir(real)) {
				return fmt.Errorf("the link %q leads out of the repository", name)
			}
		}
	}
	return nil
}

// isRepository says whether a folder is one that git keeps: work trees were made of
// links into another repository before git had a command for it.
func isRepository(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == filepath.Separator)
}

func broken(at string, err error) error {
	return diag.Hint(fmt.Errorf("reading the git repository at %q: %w", at, err),
		"git -C %s status says what git makes of it; without .git there, no history is looked for", at)
}

// commonDir gives what the work trees of a repository share.
func commonDir(gitDir string) (string, error) {
	target, err := small(filepath.Join(gitDir, "commondir"))
	if errors.Is(err, fs.ErrNotExist) {
		return gitDir, nil
	}
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(gitDir, target)
	}
	common, err := filepath.EvalSymlinks(target)
	if err != nil { // not quoted: it may be a line of any file that a link leads to
		return "", fmt.Errorf("%q names no folder", filepath.Join(gitDir, "commondir"))
	}
	return common, nil
}

// pointsBack says whether a repository outside of its work tree belongs to it: it
// names the work tree, as that of a linked one or of a submodule does. A file .git
// alone could name any repository of this machine.
func (p place) pointsBack(stored []setting) bool {
	if within(p.gitDir, p.root) {
		return true
	}
	if back, err := small(filepath.Join(p.gitDir, "gitdir")); err == nil {
		if real, err := filepath.EvalSymlinks(filepath.Dir(back)); err == nil && real == p.root {
			return true
		}
	}
	for _, s := range stored {
		if s.key != "core.worktree" {
			continue
		}
		tree := s.value
		if !filepath.IsAbs(tree) {
			tree = filepath.Join(p.gitDir, tree)
		}
		if real, err := filepath.EvalSymlinks(tree); err == nil && real == p.root {
			return true
		}
	}
	return false
}

// maxPath bounds the files of a repository that hold one path.
const maxPath = 8 << 10

// small reads a file of one line.
func small(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPath {
		return "", fmt.Errorf("the file %q is not one line of text", name)
	}
	data, err := os.ReadFile(name)
	return string(bytes.TrimRight(data, "\r\n")), err
}

// hasHead says whether the branch that is checked out has a file, whatever is in
// it.
func (r *Repo) hasHead() bool {
	head, err := small(filepath.Join(r.gitDir, "HEAD"))
	ref, symbolic := strings.CutPrefix(head, "ref: ")
	if err != nil || !symbolic || !filepath.IsLocal(ref) {
		return true
	}
	_, err = os.Lstat(filepath.Join(r.common, ref))
	return err == nil
}
