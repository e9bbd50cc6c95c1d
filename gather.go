package strata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/hostfile"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/slot"
	"github.com/strata-build/strata/internal/source"
)

// hasHost says whether an image name names a registry, by Docker's rule.
func hasHost(image string) bool {
	host, _, ok := strings.Cut(image, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// readDockerfiles parses every Dockerfile of the project once. Every mistake in
// any of them is told.
func (p *Pass) readDockerfiles() (map[string]*dockerfile.File, error) {
	files := map[string]*dockerfile.File{}
	p.sources = map[string][]byte{}
	var problems diag.List
	for _, u := range p.Config.Project.Units() {
		if _, ok := p.sources[u.Dockerfile]; ok {
			continue
		}
		data := u.Inline
		if data == nil {
			var err error
			if data, err = p.readFile(u.Dockerfile); err != nil {
				problems.Errorf(u.Pos, diag.HintOf(err), "%s: reading the Dockerfile: %v", u.ID(), named(u.Dockerfile, err))
				continue
			}
		}
		f, err := dockerfile.Parse(u.Dockerfile, data)
		if err != nil {
			addTo(&problems, u.Dockerfile, err)
		}
		files[u.Dockerfile], p.sources[u.Dockerfile] = f, data
	}
	return files, problems.Err()
}

// readFile reads a file of the project.
func (p *Pass) readFile(name string) ([]byte, error) {
	if p.Config.Files != nil {
		return p.Config.Files.ReadFile(name)
	}
	return p.Config.Project.Access.ReadFile(name, hostfile.MaxText)
}

func addTo(l *diag.List, file string, err error) {
	if es, ok := err.(*diag.Errors); ok {
		for _, f := range es.Findings {
			l.Add(f)
		}
		return
	}
	l.Errorf(diag.Pos{File: file}, diag.HintOf(err), "%v", err)
}

// named gives an error about a file with the name that the user gives it.
func named(name string, err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		err = pe.Err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// contextID names one reading of a folder: the same folder has other ignore
// rules for another Dockerfile.
type contextID struct{ dir, dockerfile string }

// contexts are the build contexts that the units read.
type contexts map[contextID]*source.Tree

// options are what changes a unit's image beyond its Dockerfile.
func (p *Pass) options(u *graph.Unit) map[string]string {
	o := map[string]string{"compression": p.Config.Project.Compression}
	if u.Network != "" {
		o["network"] = u.Network
	}
	if e := u.Build.Epoch; e.Value != "" {
		o["source-date-epoch"] = strings.TrimSuffix(e.Value+"\n"+e.Source, "\n")
	}
	return o
}

func (p *Pass) contextOf(u *graph.Unit, name string) contextID {
	if name == "" {
		return contextID{p.path(u.Context), p.path(u.Dockerfile)}
	}
	return contextID{p.path(u.Contexts[name]), ""}
}

func (p *Pass) path(rel string) string {
	if filepath.IsAbs(rel) {
		return rel
	}
	return filepath.Join(p.Config.Project.Access.Dir(), filepath.FromSlash(rel))
}

// readContexts finds and hashes every file that a unit takes from a build
// context.
func (p *Pass) readContexts(ctx context.Context) error {
	p.contexts = contexts{}
	p.slots, p.due = map[string]slot.Slot{}, map[string]string{}
	p.inputs = map[string]key.Input{}
	var problems diag.List
	for _, u := range p.Units {
		in := key.Input{
			Platform: u.Platform, Build: u.Build, Labels: u.Labels,
			Options: p.options(u),
			Files:   make([][]source.Entry, len(u.Build.Inputs)), Lines: &key.FileLines{},
		}
		in.External = func(f dockerfile.From) digest.Digest { return p.externals.digest(u, f) }
		for _, v := range u.Build.Unresolved {
			if v.Input {
				problems.Errorf(diag.Pos{File: u.Dockerfile, Line: v.Line}, "set it in this Dockerfile with ENV or ARG, or write the value",
					"what %s copies depends on the variable %s, which only the image of %s sets", u.ID, v.Name, v.From.Name())
			}
		}
		for i, input := range u.Build.Inputs {
			var err error
			in.Files[i], err = p.selectInput(ctx, u, input)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				addMissing(&problems, diag.Pos{File: u.Dockerfile, Line: input.Line}, u.Context, err)
			}
		}
		p.inputs[u.ID] = in
	}
	return problems.Err()
}

// addMissing tells of each source of an instruction that can't be taken.
func addMissing(l *diag.List, pos diag.Pos, context string, err error) {
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		var ignore *diag.Errors
		if errors.As(err, &ignore) { // of an ignore file, which has places of its own
			addTo(l, "", ignore)
			continue
		}
		hint := diag.HintOf(err)
		var missing *source.NoMatchError
		if hint == "" && errors.As(err, &missing) {
			hint = fmt.Sprintf("paths count from the build context, the folder %q", context)
		}
		l.Errorf(pos, hint, "%v", err)
	}
}

// selectInput gives what an instruction takes.
func (p *Pass) selectInput(ctx context.Context, u *graph.Unit, in dockerfile.Input) ([]source.Entry, error) {
	if p.Config.Files != nil {
		dir, own := cmp.Or(u.Contexts[in.Context], u.Context), u.Dockerfile
		if in.Context != "" {
			own = ""
		}
		return p.Config.Files.Select(ctx, dir, own, selection(in))
	}
	tree, err := p.open(p.contextOf(u, in.Context))
	if err != nil {
		return nil, err
	}
	return tree.Select(ctx, selection(in))
}

func selection(in dockerfile.Input) source.Selection {
	return source.Selection{
		Patterns: in.Patterns, Excludes: in.Excludes, Parents: in.Parents,
		Bind: in.Kind == dockerfile.InputBind || in.Kind == dockerfile.InputFrom,
	}
}

func (p *Pass) open(id contextID) (*source.Tree, error) {
	if t, ok := p.contexts[id]; ok {
		return t, nil
	}
	t, err := p.openContext(id)
	if err != nil {
		return nil, err
	}
	p.contexts[id] = t
	return t, nil
}

// openContext opens a build context that the project may read.
func (p *Pass) openContext(id contextID) (*source.Tree, error) {
	access := p.Config.Project.Access
	dir, err := access.Path(id.dir)
	if err != nil {
		return nil, fmt.Errorf("opening build context: %w", err)
	}
	return source.Open(dir, source.Options{Dockerfile: id.dockerfile, Cache: p.Config.Stat, ReadIgnore: func(path string) ([]byte, error) {
		return access.ReadFile(path, hostfile.MaxText)
	}})
}

// warnOfRemotes tells what can't be part of any key.
func (p *Pass) warnOfRemotes() {
	for _, u := range p.Units {
		for _, r := range u.Build.Remotes {
			if !r.Keyed {
				p.Warnings = append(p.Warnings, diag.Finding{
					Severity: diag.Warning, Pos: diag.Pos{File: u.Dockerfile, Line: r.Line},
					Text: fmt.Sprintf("%s: what %s holds can't be part of the key", u.ID, r.URL),
					Hint: "give ADD a --checksum, or a git URL a commit",
				})
			}
		}
	}
}

// warnOfGit tells, once, that a unit takes the repository itself: its index and
// logs differ from checkout to checkout, and with each command of git.
func (p *Pass) warnOfGit() {
	for _, u := range p.Units {
		for i, files := range p.inputs[u.ID].Files {
			for _, f := range files {
				if f.Path != ".git" && f.Path != ".git/HEAD" {
					continue
				}
				p.Warnings = append(p.Warnings, diag.Finding{
					Severity: diag.Warning, Pos: diag.Pos{File: u.Dockerfile, Line: u.Build.Inputs[i].Line},
					Text: fmt.Sprintf("%s takes the folder .git: two checkouts of one commit have different keys, and share nothing", u.ID),
					Hint: "echo .git >> .dockerignore, in the build context, unless it is needed in the image",
				})
				return
			}
		}
	}
}

// warnOfPins tells which external images the lock does not pin.
func (p *Pass) warnOfPins() {
	for _, name := range slices.Sorted(slices.Values(p.unpinned())) {
		p.Warnings = append(p.Warnings, diag.Finding{
			Severity: diag.Warning, Pos: diag.Pos{File: lock.Name},
			Text: name + ", and was looked up now", Hint: "strata lock",
		})
	}
}

// each runs do for every key of m, a few at a time, and gives the first error.
func each[K comparable, V any](ctx context.Context, m map[K]V, limit int, do func(context.Context, K, V) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	for k, v := range m {
		g.Go(func() error { return do(ctx, k, v) })
	}
	return g.Wait()
}
