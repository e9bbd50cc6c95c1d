package simulate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/source"
)

// notes says what a reader has to know about the history and the figures.
func (s *simulation) notes() []string {
	h, r := s.history, s.result
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if h.Shallow {
		add("The clone is shallow: no more than these %s of the line are here. `git fetch --unshallow` gets the rest.", plural(len(h.Commits)+h.Older, "commit"))
	}
	if h.Line == "" {
		add("HEAD is detached: the line that ends in %s was read.", short(h.Commits[len(h.Commits)-1].ID))
	}
	if h.Unsorted > 0 {
		add("%s to be older than the parent; the parent's time was taken.", claims(h.Unsorted))
	}
	if n := r.Commits - r.Planned(); n > 0 {
		add("%d of %s can't be planned and are left out of all sums.", n, plural(r.Commits, "commit"))
	}
	if s.borrowed > 0 {
		add("%s no %s: today's was taken.", have(s.borrowed), s.options.File)
	}
	if s.versioned > 0 {
		add("The version is part of what this project builds: every commit changes it.")
	}
	if units := r.takesGit(); len(units) > 0 {
		add("What %s copies takes git's own folder in, so that every commit changes it. Write .git into .dockerignore.", strings.Join(units, ", "))
	}
	if len(r.Unpinned) > 0 {
		add("Not pinned by strata.lock, and taken as never moving: %s.", strings.Join(r.Unpinned, ", "))
	}
	for _, layer := range slices.Sorted(maps.Keys(s.options.Estimates.Seconds)) {
		if r.appends(layer) {
			add("The time that is given for %s is that of a build; an append to it takes what appends take.", layer)
		}
	}
	if h.Submodules > 0 {
		add("%s: what is in it is not in this history; it counts as changed when its commit does.", plural(h.Submodules, "submodule"))
	}
	if n := h.Pointers(); n > 0 {
		add("%s of large files (LFS): known by the digest in the pointer.", plural(n, "content"))
	}
	if h.Attributes > 0 {
		add("%s in .gitattributes may write other bytes on checkout (eol, ident, filter): contents count as git holds them.", plural(h.Attributes, "rule"))
	}
	return out
}

// appends says whether any run appends to a layer.
func (r *Result) appends(layer string) bool {
	return slices.ContainsFunc(r.Rows, func(row Row) bool {
		return slices.ContainsFunc(row.Steps, func(s Step) bool { return s.Layer == layer && s.Action == plan.Append })
	})
}

// takesGit names the units whose files have git's own folder among them.
func (r *Result) takesGit() []string {
	var out []string
	for _, u := range r.last.Graph().Units {
		if slices.ContainsFunc(r.last.Files(u.ID), func(files []source.Entry) bool {
			return slices.ContainsFunc(files, func(e source.Entry) bool { return e.Inode == gitFile })
		}) {
			out = append(out, u.ID)
		}
	}
	return out
}

func claims(n int) string {
	if n == 1 {
		return "1 commit claims"
	}
	return fmt.Sprintf("%d commits claim", n)
}

func have(n int) string {
	if n == 1 {
		return "1 commit has"
	}
	return fmt.Sprintf("%d commits have", n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func short(id string) string { return id[:min(len(id), 10)] }
