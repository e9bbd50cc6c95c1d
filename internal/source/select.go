package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// Selection is what one instruction takes from a context.
type Selection struct {
	// Patterns are the sources as in COPY: wildcards of [filepath.Match],
	// rooted at the context, ".." clamped to it.
	Patterns []string
	// Excludes are those of --exclude: patterns of an ignore file that count
	// from the source folder. They don't apply to a source that is a file.
	Excludes []string
	// Parents is COPY --parents: patterns may have "**", the path from the
	// context's root, or from a "/./" in the pattern, is kept.
	Parents bool
	// Bind is for the source of a bind mount: a path, not a pattern. The empty
	// path is the whole context.
	Bind bool
}

// NoMatchError says that a source isn't in the context. BuildKit fails in the
// same cases: a path without wildcards that is missing or ignored, and a link
// that leads nowhere. A wildcard that finds nothing is no error to it.
type NoMatchError struct {
	Pattern   string   // as written
	IgnoredBy string   // the ignore pattern that is the reason, if one is
	Pos       diag.Pos // where IgnoredBy stands
	Match     string   // the path that was looked for, where it isn't Pattern
	Link      string   // the link on the way that leads nowhere, if one is
}

// Error says which source is missing, and why.
func (e *NoMatchError) Error() string {
	what := fmt.Sprintf("%q", e.Pattern)
	if e.Match != "" && e.Match != cleanPath(e.Pattern) {
		what = fmt.Sprintf("%q (which matches %q)", e.Pattern, e.Match)
	}
	switch {
	case e.IgnoredBy != "" && e.Link != "":
		return fmt.Sprintf("%s leads through the link %q to what %q in %s keeps out of the build context", what, e.Link, e.IgnoredBy, e.Pos)
	case e.IgnoredBy != "":
		return fmt.Sprintf("%s is kept out of the build context by %q in %s", what, e.IgnoredBy, e.Pos)
	case e.Link != "":
		return fmt.Sprintf("%s leads through the link %q to nothing in the build context", what, e.Link)
	}
	return what + " is not in the build context"
}

// match is one path that a pattern matched.
type match struct {
	pattern string
	path    string // as named
	real    string // where it is, links followed
	node    node
	index   int
}

// item is an entry on its way, with what is needed to hash it.
type item struct {
	Entry
	stamp  stamp
	hollow bool
}

// Select gives what an instruction takes: every file, folder and link, sorted
// by path. A folder means itself and its content; links that are named as
// sources, or lie on the way to one, are followed inside of the context, links
// inside of a folder stay links.
//
// All sources are tried; the error joins one [*NoMatchError] for each that is
// missing. A file that vanishes or can't be read is an error.
func (t *Tree) Select(ctx context.Context, s Selection) ([]Entry, error) {
	if t.image != nil {
		return t.selectFromImage(ctx, s)
	}
	if t.files != nil {
		return t.selectFromFiles(ctx, s)
	}
	d, err := openDisk(t.dir)
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", t.dir, err)
	}
	defer d.close()
	w := newWalker(t, d, s)
	if err := w.selection(ctx); err != nil {
		return nil, err
	}
	if err := w.digest(ctx, d); err != nil {
		return nil, err
	}
	w.markHardlinks()
	return w.entries(), nil
}

// selection finds what is selected, sorted.
func (w *walker) selection(ctx context.Context) (err error) {
	if w.exclude, err = newRules(w.sel.Excludes, true); err != nil {
		return fmt.Errorf("reading exclude patterns %q: %w", w.sel.Excludes, err)
	}
	var errs []error
	for _, p := range w.sel.Patterns {
		if err := w.take(ctx, p); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slices.SortFunc(w.out, func(a, b item) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Index, b.Index))
	})
	return nil
}

func (w *walker) entries() []Entry {
	entries := make([]Entry, len(w.out))
	for i := range w.out {
		entries[i] = w.out[i].Entry
	}
	return entries
}

// take adds what one pattern takes.
func (w *walker) take(ctx context.Context, pattern string) error {
	if w.sel.Bind {
		return w.takeMatch(ctx, pattern, cleanPath(pattern), nil)
	}
	base, inner, required := pattern, "", false
	var include *rules
	if w.sel.Parents {
		var pivoted bool
		if base, inner, pivoted = strings.Cut(pattern, "/./"); !pivoted {
			base, inner = "/", pattern
		}
		inner = strings.TrimPrefix(path.Join("/", inner), "/")
		required = !hasWildcard(base) && !hasWildcard(inner)
		if inner == "" {
			return &NoMatchError{Pattern: pattern}
		}
		var err error
		if include, err = newRules([]string{inner}, false); err != nil {
			return fmt.Errorf("reading pattern %q: %w", pattern, err)
		}
	}
	if _, err := filepath.Match(base, "."); err != nil {
		return fmt.Errorf("reading pattern %q: %w", pattern, err)
	}
	paths, err := w.expand(ctx, pattern, cleanPath(base))
	if err != nil {
		return err
	}
	before := len(w.out)
	for _, p := range paths {
		if err := w.takeMatch(ctx, pattern, p, include); err != nil {
			return err
		}
	}
	if required && len(w.out) == before+len(paths) {
		return w.noMatch(pattern, join(cleanPath(base), inner), &goneError{path: join(cleanPath(base), inner)})
	}
	return nil
}

// takeMatch adds the file or folder at one path.
func (w *walker) takeMatch(ctx context.Context, pattern, p string, include *rules) error {
	real, n, err := w.resolve(ctx, p)
	if err != nil {
		return w.noMatch(pattern, p, err)
	}
	m := &match{pattern: pattern, path: p, real: real, node: n, index: len(w.matches)}
	w.matches = append(w.matches, m)
	top := n
	if n.kind == Dir && (!w.sel.Bind || real == ".") {
		top.mode = 0o755
	}
	w.emit(m, "", &top, false)
	if n.kind != Dir {
		return nil
	}
	w.include = include
	ign, _ := w.ignore.chain(real)
	return w.children(ctx, m, "", state{ignore: ign})
}

// expand gives the paths that a pattern without "/./" matches, in the order of
// a walk. A folder that matches is not searched for more.
func (w *walker) expand(ctx context.Context, pattern, clean string) ([]string, error) {
	fixed, wild := splitWildcard(clean)
	if wild == "" {
		return []string{clean}, nil
	}
	real, n, err := w.resolve(ctx, fixed)
	if err != nil {
		return nil, w.noMatch(pattern, fixed, err)
	}
	if n.kind != Dir {
		return nil, nil
	}
	g := glob{w: w, pattern: wild, fixed: fixed, real: real}
	if !strings.ContainsAny(wild, `[\`) { // a class may match "/", an escape may hide one
		g.elements = strings.Split(wild, "/")
	}
	ign, _ := w.ignore.chain(real)
	err = g.walk(ctx, "", 0, state{ignore: ign})
	return g.found, err
}

// glob looks for what a pattern matches below a folder.
type glob struct {
	w        *walker
	pattern  string
	elements []string // nil when the pattern can't be split
	fixed    string
	real     string
	found    []string
}

func (g *glob) walk(ctx context.Context, rel string, depth int, st state) error {
	kids, err := g.w.list(ctx, join(g.real, rel), st)
	if err != nil {
		return err
	}
	for _, k := range kids {
		if g.elements != nil {
			if ok, _ := filepath.Match(g.elements[depth], k.name); !ok {
				continue
			}
		}
		at := join(rel, k.name)
		here := join(g.real, at)
		ok, _ := filepath.Match(g.pattern, at)
		deeper := k.kind == Dir && !ok && (g.elements == nil || depth+1 < len(g.elements))
		if !ok && !deeper {
			continue
		}
		if there, err := g.w.there(ctx, here, &k); err != nil || !there {
			if err != nil {
				return err
			}
			continue
		}
		if ok {
			g.found = append(g.found, join(g.fixed, at))
			continue
		}
		if err := g.walk(ctx, at, depth+1, k.below); err != nil {
			return err
		}
	}
	return nil
}

// splitWildcard cuts a clean path before its first element with a wildcard.
func splitWildcard(p string) (fixed, wild string) {
	elements := strings.Split(p, "/")
	i := slices.IndexFunc(elements, hasWildcard)
	if i < 0 {
		return p, ""
	}
	return join(strings.Join(elements[:i], "/"), "."), strings.Join(elements[i:], "/")
}

// hasWildcard says whether BuildKit expands a path: "\" takes the meaning from
// the next character.
func hasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// noMatch explains why a path isn't there, with a hint where an ignore pattern
// is the reason. Other errors are handed on.
func (w *walker) noMatch(pattern, p string, err error) error {
	var gone *goneError
	if !errors.As(err, &gone) {
		return err
	}
	e := &NoMatchError{Pattern: pattern, Match: p, Link: gone.link}
	if _, ignored := w.ignore.chain(gone.path); ignored && w.exists(gone.path) {
		e.IgnoredBy, e.Pos = w.t.ignore.reason(gone.path)
		return diag.Hint(e, "add the line %q at the end of %s, or take the source out of the Dockerfile", "!"+gone.path, e.Pos.File)
	}
	return e
}
