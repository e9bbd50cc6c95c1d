package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/hostfile"
)

// ignoreFile is a parsed ignore file: what moby's ignorefile reads, with the
// line of each pattern.
type ignoreFile struct {
	name     string
	patterns []string
	lines    []int
}

// readIgnoreFile reads the Dockerfile's own ignore file or, where there is
// none, the context's. An empty one of the first kind still wins.
func readIgnoreFile(d *disk, dir string, o Options) (*ignoreFile, error) {
	read := o.ReadIgnore
	if read == nil {
		read = func(path string) ([]byte, error) { return hostfile.Read(path, hostfile.MaxText) }
	}
	if dockerfile := o.Dockerfile; dockerfile != "" {
		if !filepath.IsAbs(dockerfile) {
			dockerfile = filepath.Join(dir, dockerfile)
		}
		p := dockerfile + ".dockerignore"
		data, err := read(p)
		if err == nil {
			return parseIgnoreFile(relativeTo(dir, p), data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading ignore file %q: %w", relativeTo(dir, p), pathCause(err))
		}
	}
	const name = ".dockerignore"
	w := newWalker(&Tree{dir: dir, ignore: &ignoreFile{}}, d, Selection{})
	real, n, err := w.resolve(context.Background(), name)
	var gone *goneError
	if errors.As(err, &gone) {
		return &ignoreFile{}, nil
	}
	if err == nil && n.kind != File {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("reading ignore file %q: %w", name, err)
	}
	f, _, err := d.open(real)
	if err != nil {
		return nil, fmt.Errorf("reading ignore file %q: %w", name, pathCause(err))
	}
	defer f.Close()
	data, err := hostfile.ReadFrom(f, hostfile.MaxText)
	if err != nil {
		return nil, fmt.Errorf("reading ignore file %q: %w", name, pathCause(err))
	}
	return parseIgnoreFile(name, data)
}

// pathCause gives an error about a file without the file's name.
func pathCause(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}

// maxPatterns bounds the lines of an ignore file: each file of a context is compared
// with each pattern.
const maxPatterns = 10_000

// parseIgnoreFile reads the lines one by one, so that each pattern keeps its
// line, and checks each pattern by itself. All bad lines are reported.
func parseIgnoreFile(name string, data []byte) (*ignoreFile, error) {
	f := &ignoreFile{name: name}
	var bad diag.List
	if n := bytes.Count(data, []byte("\n")); n > maxPatterns {
		bad.Errorf(diag.Pos{File: name}, "leave out whole folders, or copy only what is needed", "it has %d lines, more than %d", n, maxPatterns)
		return f, bad.Err()
	}
	for i, line := range strings.Split(string(data), "\n") {
		pos := diag.Pos{File: name, Line: i + 1}
		if i > 0 {
			line = "#\n" + line // a byte order mark counts only in the first line
		}
		ps, err := ignorefile.ReadAll(strings.NewReader(line))
		if err == nil {
			_, err = patternmatcher.New(ps)
		}
		if err != nil {
			bad.Errorf(pos, "", "%s", err)
			continue
		}
		for _, p := range ps {
			f.patterns = append(f.patterns, p)
			f.lines = append(f.lines, i+1)
		}
	}
	return f, bad.Err()
}

// rules gives a matcher for one goroutine: moby's compiles lazily.
func (f *ignoreFile) rules() *rules {
	r, err := newRules(f.patterns, true)
	if err != nil {
		panic("internal error: ignore pattern changed its mind: " + err.Error())
	}
	return r
}

// reason gives the pattern that ignores p, and where it stands: the last one
// without "!" that matches p or a folder above it.
func (f *ignoreFile) reason(p string) (string, diag.Pos) {
	for i := len(f.patterns) - 1; i >= 0; i-- {
		if strings.HasPrefix(f.patterns[i], "!") {
			continue
		}
		if ok, err := patternmatcher.MatchesOrParentMatches(p, f.patterns[i:i+1]); err == nil && ok {
			return f.patterns[i], diag.Pos{File: f.name, Line: f.lines[i]}
		}
	}
	return "", diag.Pos{File: f.name}
}

// rules is a list of patterns with what is known of the folders that can hold
// matches. A nil *rules matches nothing. It is for one goroutine.
type rules struct {
	m     *patternmatcher.PatternMatcher
	leads []lead // of the patterns that can let something in
	// mixed lists have a pattern after an exception; only those can let a file
	// in hollow.
	mixed bool
}

// lead is the part of a pattern before its first wildcard, as a folder.
type lead struct {
	dir     string
	literal bool // nothing but a "*" or "**" as last element follows
}

// newRules compiles patterns. With keepOut the patterns exclude, and it is the
// exceptions among them that can let something in.
func newRules(patterns []string, keepOut bool) (*rules, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	r := &rules{m: m}
	excepted := false
	for _, p := range m.Patterns() {
		r.mixed = r.mixed || excepted && !p.Exclusion()
		excepted = excepted || p.Exclusion()
		if p.Exclusion() == keepOut {
			r.leads = append(r.leads, leadOf(filepath.ToSlash(p.String())))
		}
	}
	return r, nil
}

// leadOf finds the fixed part of a pattern. Once a pattern has a wildcard, moby
// makes a regular expression of it in which "|" and its like keep their meaning: then
// it may match anywhere.
func leadOf(pattern string) lead {
	if strings.ContainsAny(pattern, `*?[]\^`) && strings.ContainsAny(pattern, `|(){}+`) {
		return lead{}
	}
	p := strings.TrimSuffix(strings.TrimSuffix(pattern, "/**"), "/*")
	i := strings.IndexAny(p, `*?[]\^`)
	if i < 0 {
		return lead{dir: p, literal: true}
	}
	return lead{dir: p[:strings.LastIndexByte(p[:i], '/')+1]}
}

// match says whether p matches, given what was found for the folder above it.
func (r *rules) match(p string, above patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo) {
	if r == nil {
		return false, patternmatcher.MatchInfo{}
	}
	ok, info, err := r.m.MatchesUsingParentResults(p, above)
	if err != nil {
		// Patterns were checked when they were compiled, and above always
		// comes from the same list.
		return false, patternmatcher.MatchInfo{}
	}
	return ok, info
}

// chain matches every folder above p from the root down, and then p, as a walk
// would have done.
func (r *rules) chain(p string) (patternmatcher.MatchInfo, bool) {
	var info patternmatcher.MatchInfo
	var ok bool
	if p == "." || r == nil {
		return info, false
	}
	for i := 0; i <= len(p); i++ {
		if i == len(p) || p[i] == '/' {
			ok, info = r.match(p[:i], info)
		}
	}
	return info, ok
}

// hollow says whether a file that is let in arrives empty: BuildKit asks once
// for a file's name and once for its content, and where a pattern after an
// exception matches a folder above, the two answers differ.
func (r *rules) hollow(p string) bool {
	if r == nil || !r.mixed {
		return false
	}
	ignored, err := r.m.MatchesOrParentMatches(p)
	return err == nil && ignored
}

// reopens says whether something below dir can be let in although dir itself
// is not. A pattern whose fixed part leads elsewhere can't match there.
func (r *rules) reopens(dir string) bool {
	if r == nil {
		return false
	}
	dir += "/"
	for _, l := range r.leads {
		if strings.HasPrefix(l.dir+"/", dir) || !l.literal && strings.HasPrefix(dir, l.dir) {
			return true
		}
	}
	return false
}

// cleanPath gives p as a path relative to the context, ".." clamped to the
// root, which is ".".
func cleanPath(p string) string {
	if p = path.Join("/", filepath.ToSlash(p)); p == "/" {
		return "."
	}
	return p[1:]
}

// join joins two clean relative paths.
func join(dir, name string) string {
	switch {
	case name == "." || name == "":
		return cmp.Or(dir, ".")
	case dir == "." || dir == "":
		return name
	}
	return dir + "/" + name
}
