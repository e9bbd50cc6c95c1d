package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/moby/patternmatcher"
)

// walker carries out one selection. It is for one goroutine until it hashes.
type walker struct {
	t       *Tree
	files   filesystem
	sel     Selection
	ignore  *rules
	include *rules // of the pattern that is being taken; nil takes all
	exclude *rules
	matches []*match
	out     []item
}

// state is what the rules found for the folder above.
type state struct {
	ignore, include, exclude patternmatcher.MatchInfo
}

// child is a name in a folder that the context has or may have.
type child struct {
	node
	below state
	// doubtful is a folder that is ignored, but may have something in it that
	// an exception lets in; only then is it in the context.
	doubtful bool
}

func newWalker(t *Tree, f filesystem, s Selection) *walker {
	return &walker{t: t, files: f, sel: s, ignore: t.ignore.rules()}
}

// list gives what the ignore rules leave of a folder's content.
func (w *walker) list(ctx context.Context, real string, above state) ([]child, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	nodes, err := w.files.list(real)
	if err != nil {
		return nil, fmt.Errorf("reading folder %q: %w", real, err)
	}
	kids := make([]child, 0, len(nodes))
	for _, n := range nodes {
		if ctx.Err() != nil { // a folder may be large, and the rules many
			return nil, context.Cause(ctx)
		}
		at := join(real, n.name)
		out, info := w.ignore.match(at, above.ignore)
		if out && (n.kind != Dir || !w.ignore.reopens(at)) {
			continue
		}
		if n.kind == File && w.ignore.hollow(at) {
			n.hollow, n.size = true, 0
		}
		kids = append(kids, child{node: n, below: state{ignore: info}, doubtful: out})
	}
	return kids, nil
}

// there settles a doubtful child: whether something below it is let in.
func (w *walker) there(ctx context.Context, real string, k *child) (bool, error) {
	if !k.doubtful {
		return true, nil
	}
	kids, err := w.list(ctx, real, k.below)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil // BuildKit does not look into ignored folders that it may not read either
	}
	if err != nil {
		return false, err
	}
	for i := range kids {
		if ok, err := w.there(ctx, join(real, kids[i].name), &kids[i]); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// children adds a folder's content as far as the selection takes it.
func (w *walker) children(ctx context.Context, m *match, rel string, above state) error {
	kids, err := w.list(ctx, join(m.real, rel), above)
	if err != nil {
		return err
	}
	for i := range kids {
		if err := w.visit(ctx, m, join(rel, kids[i].name), &kids[i], above); err != nil {
			return err
		}
	}
	return nil
}

// visit adds one child and what is below it. A folder that is not taken itself
// is added when something below it is.
func (w *walker) visit(ctx context.Context, m *match, rel string, k *child, above state) error {
	in := true
	if w.include != nil {
		in, k.below.include = w.include.match(rel, above.include)
	}
	out, info := w.exclude.match(rel, above.exclude)
	k.below.exclude = info
	taken := in && !out
	if k.kind != Dir {
		if taken {
			w.emit(m, rel, &k.node, false)
		}
		return nil
	}
	if !in && !w.include.reopens(rel) || out && !w.exclude.reopens(rel) {
		return nil
	}
	if ok, err := w.there(ctx, join(m.real, rel), k); !ok || err != nil {
		return err
	}
	at := len(w.out)
	w.emit(m, rel, &k.node, !taken)
	if err := w.children(ctx, m, rel, k.below); err != nil {
		return err
	}
	if !taken && len(w.out) == at+1 {
		w.out = w.out[:at]
	}
	return nil
}

// emit adds one entry; content is hashed later.
func (w *walker) emit(m *match, rel string, n *node, implied bool) {
	p := join(m.path, rel)
	if rel != "" {
		rel = p[len(p)-len(rel):] // share the memory
	}
	real := ""
	if m.real != m.path {
		real = join(m.real, rel)
	}
	w.out = append(w.out, item{
		Entry: Entry{
			Path: p, Real: real, Kind: n.kind, Mode: n.mode, Size: n.size, Major: n.major, Minor: n.minor,
			Source: m.pattern, Match: m.path, Rel: rel, MatchDir: m.node.kind == Dir,
			Index: m.index, Implied: implied, Modified: n.stamp.mtime,
		},
		stamp:  n.stamp,
		hollow: n.hollow,
	})
}

// goneError says that a path is not in the context.
type goneError struct {
	path string // the real path that is missing
	link string // the last link that was followed to it
}

func (e *goneError) Error() string { return fmt.Sprintf("%q is not in the build context", e.path) }
func (e *goneError) Unwrap() error { return fs.ErrNotExist }

// maxLinks is BuildKit's own limit (continuity's fs.RootPath).
const maxLinks = 255

// resolve follows every link on the way to p and p itself, as if the context
// were the root of the file system and only held what is not ignored. It gives
// a path without links.
func (w *walker) resolve(ctx context.Context, p string) (real string, n node, err error) {
	real, n = ".", node{name: ".", kind: Dir, mode: 0o755}
	var info patternmatcher.MatchInfo
	var link string
	ignored, links := false, 0
	for rest := elements(p); len(rest) > 0; {
		next := join(real, rest[0])
		if n.kind != Dir {
			return "", node{}, &goneError{path: next, link: link}
		}
		n, err = w.files.stat(next)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EINVAL) {
			return "", node{}, &goneError{path: join(next, strings.Join(rest[1:], "/")), link: link}
		}
		if err != nil {
			return "", node{}, fmt.Errorf("looking for %q: %w", p, err)
		}
		ignored, info = w.ignore.match(next, info)
		if n.kind != Symlink {
			real, rest = next, rest[1:]
			continue
		}
		if ignored {
			return "", node{}, &goneError{path: next, link: link}
		}
		if links++; links > maxLinks {
			return "", node{}, fmt.Errorf("looking for %q: more than %d links, the last is %q", p, maxLinks, next)
		}
		target, err := w.files.readlink(next)
		if err != nil {
			return "", node{}, fmt.Errorf("looking for %q: %w", p, err)
		}
		if !path.IsAbs(target) {
			target = path.Join("/", real, target)
		}
		rest = elements(path.Join("/", target, path.Join(rest[1:]...))[1:])
		link, real, n, info, ignored = next, ".", node{name: ".", kind: Dir, mode: 0o755}, patternmatcher.MatchInfo{}, false
	}
	if ignored {
		k := child{node: n, below: state{ignore: info}, doubtful: true}
		ok := false
		if n.kind == Dir && w.ignore.reopens(real) {
			if ok, err = w.there(ctx, real, &k); err != nil {
				return "", node{}, err
			}
		}
		if !ok {
			return "", node{}, &goneError{path: real, link: link}
		}
	}
	if n.kind == File && w.ignore.hollow(real) {
		n.hollow, n.size = true, 0
	}
	return real, n, nil
}

// exists says whether p is there, ignored or not.
func (w *walker) exists(p string) bool {
	_, err := w.files.stat(p)
	return err == nil
}

func elements(p string) []string {
	if p == "." || p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// fileID is what two hard links share.
type fileID struct {
	dev, ino uint64
	index    int
}

// markHardlinks notes which files of one match are the same file.
func (w *walker) markHardlinks() {
	var first map[fileID]string
	for i := range w.out {
		it := &w.out[i]
		if it.Kind != File || it.hollow || it.stamp.links < 2 || it.Rel == "" {
			continue
		}
		if first == nil {
			first = map[fileID]string{}
		}
		id := fileID{it.stamp.dev, it.stamp.ino, it.Index}
		if p, ok := first[id]; ok {
			it.HardlinkOf = p
			continue
		}
		first[id] = it.Path
	}
}
