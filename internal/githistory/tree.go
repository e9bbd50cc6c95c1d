package githistory

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/source"
)

// The modes of git's tree entries.
const (
	modeFile      = 0o100644
	modeProgram   = 0o100755
	modeLink      = 0o120000
	modeSubmodule = 0o160000
)

// submoduleFile stands for all of a submodule: its content is not in this
// repository, but which commit it is at is.
const submoduleFile = "submodule.commit"

// folder is an immutable folder of a tree.
type folder struct {
	entries []entry // by name
}

// entry is a name in a folder; one of dir and blob is set.
type entry struct {
	name string
	mode uint32 // git's
	dir  *folder
	blob *Blob
}

func (f *folder) find(name string) (entry, bool) {
	i, ok := slices.BinarySearchFunc(f.entries, name, func(e entry, n string) int { return strings.Compare(e.name, n) })
	if !ok {
		return entry{}, false
	}
	return f.entries[i], true
}

// Change is one path that a commit changed against its first parent. A renamed
// file is one that went and one that came.
type Change struct {
	Path    string // from the repository's root, slashes
	OldMode uint32 // git's; 0 when the path is new
	Mode    uint32 // 0 when the path is gone
	blob    *Blob
}

// Content says whether nothing but the content of a regular file changed.
func (c Change) Content() bool {
	return c.OldMode == c.Mode && c.Mode>>12 == modeFile>>12
}

// Submodule says whether the path is a submodule, before or after.
func (c Change) Submodule() bool { return c.Mode == modeSubmodule || c.OldMode == modeSubmodule }

// apply gives the folder with the changes made. They are sorted by path; a path
// stands there once. An empty folder is gone, as in git. The paths are read from
// byte at on.
func (f *folder) apply(changes []Change, at int) *folder {
	var old []entry
	if f != nil {
		old = f.entries
	}
	out := make([]entry, 0, len(old)+len(changes))
	for i := 0; i < len(changes); {
		name, _, deep := strings.Cut(changes[i].Path[at:], "/")
		n := i + 1
		for n < len(changes) && strings.HasPrefix(changes[n].Path[at:], name) &&
			(len(changes[n].Path) == at+len(name) || changes[n].Path[at+len(name)] == '/') {
			n++
		}
		group := changes[i:n]
		i = n
		for len(old) > 0 && old[0].name < name {
			out, old = append(out, old[0]), old[1:]
		}
		var e entry
		if len(old) > 0 && old[0].name == name {
			e, old = old[0], old[1:]
		}
		// A file that became a folder, or the other way round, is a path that went
		// and others that came: the name itself stands first.
		if !deep {
			e = group[0].entry(name)
			group = group[1:]
		}
		if len(group) > 0 {
			if dir := e.dir.apply(group, at+len(name)+1); dir != nil {
				e = entry{name: name, dir: dir}
			} else if e.dir != nil {
				e = entry{}
			}
		}
		if e.name != "" {
			out = append(out, e)
		}
	}
	out = append(out, old...)
	if len(out) == 0 {
		return nil
	}
	return &folder{entries: out}
}

// entry gives what a change leaves under its name.
func (c Change) entry(name string) entry {
	switch c.Mode {
	case 0:
		return entry{}
	case modeSubmodule:
		stand := entry{name: submoduleFile, mode: modeFile, blob: &Blob{
			known: true, digest: digest.FromString("submodule at " + c.blob.ID), data: []byte{},
		}}
		return entry{name: name, dir: &folder{entries: []entry{stand}}}
	}
	return entry{name: name, mode: c.Mode, blob: c.blob}
}

// sortChanges puts changes in the order that apply takes them in: a name before
// what lies below it, and nothing in between.
func sortChanges(changes []Change) {
	slices.SortFunc(changes, func(a, b Change) int {
		x, y := a.Path, b.Path
		n := min(len(x), len(y))
		for i := range n {
			if x[i] != y[i] {
				return cmp.Compare(rank(x[i]), rank(y[i]))
			}
		}
		return cmp.Compare(len(x), len(y))
	})
}

// rank puts the slash before every other byte.
func rank(c byte) int {
	if c == '/' {
		return -1
	}
	return int(c)
}

// Tree is everything that a commit holds. It is immutable.
type Tree struct {
	root  *folder
	store *store
}

// With gives the tree with other contents of the files at some paths; those
// that are not there are added.
func (t *Tree) With(files map[string]*Blob) *Tree {
	var changes []Change
	for p, b := range files {
		mode := uint32(modeFile)
		if e, err := t.lookup(p); err == nil && e.blob != nil {
			mode = e.mode
		}
		changes = append(changes, Change{Path: p, Mode: mode, blob: b})
	}
	sortChanges(changes)
	return &Tree{root: t.root.apply(changes, 0), store: t.store}
}

// Same says whether both trees hold the same at a path: a file or a folder.
func (t *Tree) Same(o *Tree, p string) bool {
	a, errA := t.lookup(p)
	b, errB := o.lookup(p)
	return errA == nil && errB == nil && a.dir == b.dir && a.blob == b.blob && a.mode == b.mode
}

// lookup gives what stands at a clean path, links not followed.
func (t *Tree) lookup(p string) (entry, error) {
	e := entry{name: ".", dir: t.root}
	if p == "." {
		return e, nil
	}
	for name := range strings.SplitSeq(p, "/") {
		if e.dir == nil {
			return entry{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
		}
		next, ok := e.dir.find(name)
		if !ok {
			return entry{}, &fs.PathError{Op: "stat", Path: p, Err: fs.ErrNotExist}
		}
		e = next
	}
	return e, nil
}

// maxLinks is how many links are followed on the way to a file, as Linux has it.
const maxLinks = 40

// resolve gives what stands at a path, links followed inside of the tree.
func (t *Tree) resolve(p string) (entry, string, error) {
	rest := strings.Split(clean(p), "/")
	at := "."
	e := entry{name: ".", dir: t.root}
	for links := 0; len(rest) > 0; {
		if rest[0] == "." {
			rest = rest[1:]
			continue
		}
		next := path.Join(at, rest[0])
		var err error
		if e, err = t.lookup(next); err != nil {
			return e, "", &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
		}
		if e.mode != modeLink {
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > maxLinks {
			return e, "", &fs.PathError{Op: "open", Path: p, Err: fmt.Errorf("more than %d links", maxLinks)}
		}
		target, err := t.store.read(e.blob)
		if err != nil {
			return e, "", err
		}
		rest = append(strings.Split(clean(path.Join(at, string(target))), "/"), rest[1:]...)
		at, e = ".", entry{name: ".", dir: t.root}
	}
	return e, at, nil
}

// clean gives a path from the repository's root; ".." does not leave it.
func clean(p string) string {
	if p = path.Join("/", p); p == "/" {
		return "."
	}
	return p[1:]
}

// ReadFile gives the content of a file as git has it.
func (t *Tree) ReadFile(p string) ([]byte, error) {
	e, _, err := t.resolve(p)
	if err != nil {
		return nil, err
	}
	if e.blob == nil {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("is a directory")}
	}
	return t.store.read(e.blob)
}

// Dir gives a folder of the tree as what a build context is read from.
func (t *Tree) Dir(p string) (*Dir, error) {
	e, at, err := t.resolve(p)
	if err != nil {
		return nil, err
	}
	if e.dir == nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fmt.Errorf("not a directory")}
	}
	return &Dir{tree: &Tree{root: e.dir, store: t.store}, at: at}, nil
}

// Dir is a folder of a tree; it is a [source.Files].
type Dir struct {
	tree *Tree
	at   string
}

// Path gives where the folder is in the repository, links followed.
func (d *Dir) Path() string { return d.at }

// List gives the content of a folder.
func (d *Dir) List(p string) ([]source.Node, error) {
	e, err := d.tree.lookup(p)
	if err != nil {
		return nil, err
	}
	if e.dir == nil {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("not a directory")}
	}
	nodes := make([]source.Node, len(e.dir.entries))
	for i, c := range e.dir.entries {
		nodes[i] = c.node()
	}
	return nodes, nil
}

// Stat looks at a path without following it.
func (d *Dir) Stat(p string) (source.Node, error) {
	e, err := d.tree.lookup(p)
	return e.node(), err
}

// Readlink gives the target of a link.
func (d *Dir) Readlink(p string) (string, error) {
	e, err := d.tree.lookup(p)
	if err != nil {
		return "", err
	}
	data, err := d.tree.store.read(e.blob)
	return string(data), err
}

// ReadFile gives the content of the file at a path without links.
func (d *Dir) ReadFile(p string) ([]byte, error) {
	e, err := d.tree.lookup(p)
	if err != nil {
		return nil, err
	}
	if e.blob == nil {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("is a directory")}
	}
	return d.tree.store.read(e.blob)
}

// Sums gives digest and size of the files at the paths.
func (d *Dir) Sums(paths []string) ([]source.Sum, error) {
	blobs := make([]*Blob, len(paths))
	for i, p := range paths {
		e, err := d.tree.lookup(p)
		if err != nil {
			return nil, err
		}
		if e.blob == nil {
			return nil, &fs.PathError{Op: "read", Path: p, Err: fmt.Errorf("is a directory")}
		}
		blobs[i] = e.blob
	}
	if err := d.tree.store.load(blobs); err != nil {
		return nil, err
	}
	sums := make([]source.Sum, len(blobs))
	for i, b := range blobs {
		sums[i] = source.Sum{Digest: b.digest, Size: b.size}
	}
	return sums, nil
}

// node gives an entry as a checkout would have it, under the umask 022.
func (e entry) node() source.Node {
	n := source.Node{Name: e.name, Mode: 0o644}
	switch {
	case e.dir != nil:
		n.Kind, n.Mode = source.Dir, 0o755
	case e.mode == modeLink:
		n.Kind, n.Mode = source.Symlink, 0o777
	case e.mode == modeProgram:
		n.Mode = 0o755
	}
	return n
}
