package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/source"
)

// trees gives the trees of a history to the replay, one after the other. What
// instructions take is kept from one to the next: a commit that touches none of
// it costs nothing, and one that changes contents alone costs these files.
type trees struct {
	prefix string // of the project's folder in the repository
	edit   Edit
	edited map[editKey]*githistory.Blob

	tree  *githistory.Tree
	taken map[string]*taken
}

// gitFile stands for git's own folder.
const gitFile = ".git/HEAD"

type editKey struct{ path, text string }

// taken is what a selection gave, and what has changed since.
type taken struct {
	tree    *source.Tree
	own     []byte // the Dockerfile's own ignore file
	at      string // the context in the repository, links followed
	entries []source.Entry

	changed map[string]bool // paths from the repository's root
	moved   []string        // that came, went, or became something else
}

func newTrees(prefix string, edit Edit) *trees {
	return &trees{prefix: prefix, edit: edit, edited: map[editKey]*githistory.Blob{}, taken: map[string]*taken{}}
}

// next goes on to a commit's tree and gives what changed since the last one.
func (t *trees) next(c githistory.Commit) (changed []string, moved bool, err error) {
	first := t.tree == nil
	// A clone has git's own folder beside the files, and it is another one at each
	// commit: a build context that takes it in changes every time.
	t.tree = c.Tree.With(map[string]*githistory.Blob{gitFile: githistory.Content([]byte(c.ID))})
	for _, s := range t.taken {
		s.changed[gitFile] = true
	}
	if t.edit != nil {
		if err := t.apply(); err != nil {
			return nil, false, err
		}
	}
	for _, ch := range c.Changes {
		changed = append(changed, ch.Path)
		moved = moved || !ch.Content()
		for _, s := range t.taken {
			if ch.Content() {
				s.changed[ch.Path] = true
			} else {
				s.moved = append(s.moved, ch.Path)
			}
		}
	}
	return changed, moved || first, nil
}

// apply puts the edit's files into the tree.
func (t *trees) apply() error {
	files := map[string]*githistory.Blob{}
	for _, name := range t.edit.Paths() {
		at := t.path(name)
		old, err := t.tree.ReadFile(at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		text, ok := t.edit.File(name, old)
		if !ok || old != nil && bytes.Equal(text, old) {
			continue
		}
		k := editKey{at, string(text)}
		if t.edited[k] == nil {
			t.edited[k] = githistory.Content(text)
		}
		files[at] = t.edited[k]
	}
	if len(files) > 0 {
		t.tree = t.tree.With(files)
	}
	return nil
}

func (t *trees) path(name string) string {
	return strings.TrimPrefix(path.Join("/", t.prefix, name), "/")
}

// ReadFile reads a file of the project.
func (t *trees) ReadFile(name string) ([]byte, error) { return t.tree.ReadFile(t.path(name)) }

// Select gives what an instruction takes from a build context.
func (t *trees) Select(ctx context.Context, dir, file string, s source.Selection) ([]source.Entry, error) {
	id := fmt.Sprintf("%q %q %q %q %t %t", dir, file, s.Patterns, s.Excludes, s.Parents, s.Bind)
	d, err := t.tree.Dir(t.path(dir))
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", dir, err)
	}
	var own []byte
	name := ""
	if file != "" {
		name = dockerfile.IgnoreFile(file)
		if own, err = t.ReadFile(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading ignore file %q: %w", name, err)
		}
	}
	was := t.taken[id]
	delete(t.taken, id)
	if was != nil && was.at == d.Path() && bytes.Equal(was.own, own) && (was.own == nil) == (own == nil) {
		if entries, ok, err := was.renew(d); ok || err != nil {
			if err == nil {
				was.entries, was.changed, was.moved = entries, map[string]bool{}, nil
				t.taken[id] = was
			}
			return entries, err
		}
	}
	tree, err := source.FromFiles(d, name, own)
	if err != nil {
		return nil, err
	}
	entries, err := tree.Select(ctx, s)
	if err != nil {
		return nil, err
	}
	t.taken[id] = &taken{tree: tree, own: own, at: d.Path(), entries: entries, changed: map[string]bool{}}
	return entries, nil
}

// renew gives what the selection gives now, where that follows from what it gave.
func (s *taken) renew(d *githistory.Dir) ([]source.Entry, bool, error) {
	for _, p := range s.moved {
		if _, in := below(p, s.at); in {
			return nil, false, nil
		}
	}
	changed := map[string]bool{}
	for p := range s.changed {
		if rel, in := below(p, s.at); in {
			changed[rel] = true
		}
	}
	if changed[".dockerignore"] && s.own == nil {
		return nil, false, nil
	}
	if len(changed) == 0 {
		return s.entries, true, nil
	}
	s.tree = s.tree.Over(d)
	return s.tree.Renew(s.entries, changed)
}

// below gives a path from a folder on, and whether it lies there.
func below(p, dir string) (string, bool) {
	if dir == "." {
		return p, true
	}
	if p == dir {
		return ".", true
	}
	return strings.CutPrefix(p, dir+"/")
}
