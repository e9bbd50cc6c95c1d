package vcs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/git"
)

// LastTouched gives, by path, the time of the last commit that changed it: the
// committer's, in seconds since 1970, whatever it says. Paths are relative to
// dir, with slashes; dir may be any folder of a repository. Only files and links
// are in the answer that are tracked and are, as git sees it, in the work tree
// what HEAD says; those that git was told not to look at (assume-unchanged,
// skip-worktree) are not. A file of a submodule goes by the submodule's own
// HEAD and history.
//
// The answer is a function of HEAD's history alone. A commit changed a path if
// kind, mode or content differ there from what they are in each of its parents:
// a merge that takes over what one parent has did not, one that mixes two did.
// A renamed file is a new one, and a commit without parents, or whose parents a
// shallow clone left out, changed all that it has. The last is the first in the order
// of git log: of the commits of which a child was seen the one with the newest
// time comes next. Changes on a branch count even if its merge gave them up, so
// that an answer is rather too new than too old.
//
// No more than 50,000 commits are looked at. What none of them changed has the
// time of the last of them.
//
// Where there is no history to ask (no repository, no commit, no git command)
// the answer is empty.
func LastTouched(ctx context.Context, m git.Machine, dir string, paths []string) (map[string]int64, error) {
	found, err := lastTouched(ctx, m, dir, paths, usual)
	switch {
	case errors.Is(none(err), ErrNoGit), errors.Is(err, git.ErrMissing):
		return map[string]int64{}, nil
	case err != nil:
		return nil, fmt.Errorf("reading the history of the files in %q: %w", dir, err)
	}
	return found, nil
}

// bounds are those of one question. Measured over moby's 57,000 commits and
// 13,000 files: a walk of all the history takes 1.5 s, one in which git looks for
// named paths alone 1.0 s for 20 of them and 12 s for 200, as each is compared
// with each name of each tree. In a history of 14,000 commits with large folders
// it is 0.45 s, 0.8 s and 5 s.
type bounds struct {
	walk    int // up to this many paths are named to git log, and else the folder that holds them
	files   int // the same for git's other commands
	commits int // looked at
}

var usual = bounds{walk: 10, files: 200, commits: 50_000}

// maxArguments keeps the paths in a command line well below every system's limit.
const maxArguments = 96 << 10

func lastTouched(ctx context.Context, m git.Machine, dir string, paths []string, b bounds) (map[string]int64, error) {
	own, inner := split(dir, paths)
	s := &search{bounds: b, open: map[string]bool{}, found: map[string]int64{}}
	for _, p := range own {
		s.open[p] = true
	}
	for sub := range inner {
		own = append(own, sub) // whether it is a submodule is asked with the rest
	}
	if len(own) == 0 {
		return s.found, nil
	}
	r, err := m.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s.r, s.dir = r.Literal(), dir
	if err := s.run(ctx, own); err != nil {
		return nil, err
	}
	for sub, below := range inner {
		if !s.modules[sub] {
			continue
		}
		times, err := lastTouched(ctx, m, filepath.Join(dir, filepath.FromSlash(sub)), below, b)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil: // a damaged submodule has no history, the rest does
			continue
		}
		for p, t := range times {
			s.found[sub+"/"+p] = t
		}
	}
	return s.found, nil
}

// split tells the paths of the repository at dir from those that lie in another
// one below it, by its folder. What is no path below dir is in neither.
func split(dir string, paths []string) (own []string, inner map[string][]string) {
	inner = map[string][]string{}
	outermost := map[string]string{".": ""} // folder -> the repository that holds it, "" for dir's
	var holder func(folder string) string
	holder = func(folder string) string {
		if h, ok := outermost[folder]; ok {
			return h
		}
		h := holder(path.Dir(folder))
		if h == "" {
			if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(folder), ".git")); err == nil {
				h = folder
			}
		}
		outermost[folder] = h
		return h
	}
	for _, p := range paths {
		if p == "." || path.Clean(p) != p || !filepath.IsLocal(filepath.FromSlash(p)) || strings.ContainsRune(p, 0) {
			continue
		}
		if h := holder(path.Dir(p)); h != "" {
			inner[h] = append(inner[h], p[len(h)+1:])
			continue
		}
		own = append(own, p)
	}
	return own, inner
}

// search is one question on its way.
type search struct {
	r   *git.Repo
	dir string
	bounds
	prefix  func() (string, error) // dir's path in the repository, "" or with a slash at the end
	modules map[string]bool        // submodules among what was asked

	mu     sync.Mutex
	open   map[string]bool  // no answer yet
	found  map[string]int64 // answers
	enough context.CancelFunc
}

// run asks three commands at once: for the history, for what is tracked and for
// what is changed. Each path that the latter two rule out is one less to look
// for in the history, which is read only as far as it must be.
func (s *search) run(ctx context.Context, asked []string) error {
	specs := pathspecs(asked, s.files)
	var tracked map[string]bool
	var changed []string
	g, ctx := errgroup.WithContext(ctx)
	history, enough := context.WithCancel(ctx)
	defer enough()
	s.enough = enough
	if len(s.open) == 0 {
		enough()
	}
	// Not --relative: merges are told without it.
	s.prefix = sync.OnceValues(func() (string, error) { return s.r.Output(ctx, "rev-parse", "--show-prefix") })
	g.Go(func() error {
		err := s.history(history, pathspecs(asked, s.walk))
		if ctx.Err() == nil && s.complete() {
			return nil // it was ended because all is found
		}
		return err
	})
	g.Go(func() (err error) {
		tracked, err = s.tracked(ctx, specs)
		if err == nil {
			s.keep(func(p string) bool { return tracked[p] })
		}
		return err
	})
	g.Go(func() (err error) {
		changed, err = s.changed(ctx, specs)
		if err == nil && len(changed) > 0 {
			s.drop(changed)
		}
		return err
	})
	return g.Wait()
}

// pathspecs says what git shall look at: the paths, or the folder that
// holds them all, where there are more than limit.
func pathspecs(paths []string, limit int) []string {
	length := 0
	for _, p := range paths {
		length += len(p) + 1
	}
	if len(paths) <= limit && length <= maxArguments {
		return paths
	}
	common := path.Dir(paths[0])
	for _, p := range paths {
		for common != "." && !strings.HasPrefix(p, common+"/") {
			common = path.Dir(common)
		}
	}
	return []string{common}
}

// keep leaves only those paths that fit, in what is found as in what is looked for.
func (s *search) keep(fits func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.open {
		if !fits(p) {
			delete(s.open, p)
		}
	}
	for p := range s.found {
		if !fits(p) {
			delete(s.found, p)
		}
	}
	if len(s.open) == 0 {
		s.enough()
	}
}

func (s *search) drop(paths []string) {
	gone := make(map[string]bool, len(paths))
	for _, p := range paths {
		gone[p] = true
	}
	s.keep(func(p string) bool { return !gone[p] })
}

// tracked gives the files and links that git tracks and looks at. It notes the
// submodules.
func (s *search) tracked(ctx context.Context, specs []string) (map[string]bool, error) {
	out, err := s.r.Output(ctx, append([]string{"ls-files", "-z", "-v", "--stage", "--"}, specs...)...)
	if err != nil {
		return nil, err
	}
	tracked, modules := map[string]bool{}, map[string]bool{}
	for line := range strings.SplitSeq(out, "\x00") {
		head, p, ok := strings.Cut(line, "\t") // "H 100644 HASH 0"
		fields := strings.Fields(head)
		if !ok || len(fields) != 4 || fields[0] != "H" { // S: skip-worktree, h: assume-unchanged, M: in conflict
			continue
		}
		if fields[1] == "160000" {
			modules[p] = true
			continue
		}
		tracked[p] = true
	}
	s.modules = modules
	return tracked, nil
}

// changed gives the paths that are not what HEAD says, in the index or in the
// work tree. Submodules answer for themselves.
func (s *search) changed(ctx context.Context, specs []string) ([]string, error) {
	entries, err := changes(ctx, s.r, append([]string{"--ignore-submodules=all", "--"}, specs...)...)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	prefix, err := s.prefix()
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, e := range entries {
		changed = append(changed, strings.TrimPrefix(e.path, prefix))
	}
	return changed, nil
}

// history reads what the commits changed, until every path is found.
func (s *search) history(ctx context.Context, specs []string) error {
	if slices.Equal(specs, []string{"."}) {
		if _, err := os.Lstat(filepath.Join(s.dir, ".git")); err == nil {
			specs = nil // the whole repository is faster told by no path at all
		}
	}
	// Every commit is told of (--sparse), on all branches (--full-history): so
	// what is looked at is the same whether or not paths are named, and the bound
	// counts the same commits. "/" can't begin a path.
	args := []string{"log", "-z", "--format=/%ct", "--name-only", "-c", "--no-renames", "--no-relative",
		"--full-history", "--sparse", "--max-count=" + strconv.Itoa(s.commits),
		"--no-color", "--no-show-signature", "--no-ext-diff", "-O/dev/null", "HEAD", "--"}
	commits, last := 0, int64(0)
	err := s.r.Stream(ctx, func(out *bufio.Reader) (enough bool, err error) {
		prefix, err := s.prefix()
		if err == nil {
			commits, last, err = s.read(out, prefix)
		}
		return s.complete(), err
	}, append(args, specs...)...)
	if err != nil {
		return err
	}
	if commits == s.commits {
		s.rest(last)
	}
	return nil
}

// read takes the log in: for each commit "/TIME", and then what it changed, all
// ended by NUL. Between the two git puts a line break, or for merges a NUL.
func (s *search) read(r *bufio.Reader, prefix string) (commits int, now int64, err error) {
	var long []byte
	first := false // the next text stands right after a commit's head
	for {
		text, err := r.ReadSlice(0)
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, text...)
			continue
		}
		if err == io.EOF {
			return commits, now, nil
		}
		if err != nil {
			return commits, now, fmt.Errorf("reading git log: %w", err)
		}
		if long != nil {
			text, long = append(long, text...), nil
		}
		text = text[:len(text)-1]
		switch {
		case len(text) > 0 && text[0] == '/':
			// A date that can't be read is 0.
			now, _ = strconv.ParseInt(string(text[1:]), 10, 64)
			commits++
			first = true
			continue
		case first:
			text = bytes.TrimPrefix(text, []byte("\n"))
		}
		first = false
		if p, ok := bytes.CutPrefix(text, []byte(prefix)); ok && len(p) > 0 && s.answer(p, now) {
			return commits, now, nil
		}
	}
}

// answer notes that a path was changed, and says whether that was the last.
func (s *search) answer(p []byte, at int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[string(p)] {
		delete(s.open, string(p))
		s.found[string(p)] = at
	}
	if len(s.open) > 0 {
		return false
	}
	s.enough()
	return true
}

// complete says whether there is nothing left to look for.
func (s *search) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) == 0
}

// rest answers for what no commit within the bound changed.
func (s *search) rest(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.open {
		s.found[p] = at
	}
	clear(s.open)
}
