package ci

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/export"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/spec"
)

// Model is what pipelines are written from: a project, seen from its repository.
// It is immutable.
type Model struct {
	Image      string
	Registries []string // hosts that images go to, sorted
	Folder     string   // of the project in the repository, slashes; "" is the top
	File       string   // the project's file, relative to Folder
	Layers     []Layer  // parents first
	Stages     int      // of the longest chain of units: a plan never has more
	Platforms  []string
	Runners    map[string][]string // labels by platform, where the project says them
	Cache      string              // kind of BuildKit's cache: "", "none", "registry", "gha", "s3", "local"
	Secrets    []string            // environment variables that builds take secrets from, sorted
	Keep       bool                // the project says what pruning keeps
	Submodules bool                // the repository has some
	LFS        bool                // and files that git LFS keeps
	Targets    []export.MakeTarget // of a Makefile, parents first

	homeless string // the first image that names no registry
	remote   string
}

// Layer is a layer of the project and what a pipeline has to know of it.
type Layer struct {
	Name    string
	Leaf    bool
	Units   []string // IDs
	Paths   []string // what its own units read: patterns of the repository, sorted, see [Model.Whole]
	Refresh *spec.Refresh
	Tested  bool

	dockerfiles []string
}

// Source is the repository as far as a model needs it.
type Source struct {
	Remote string                // URL of its git remote, "" where it has none
	Folder string                // of the project in the repository, slashes; "" is the top
	IsDir  func(rel string) bool // whether a path, or a pattern as COPY has it, names a folder
	// Links gives, for such a path or pattern, the symbolic links on the way to
	// what it names, and where they lead, relative to the project's folder. It may
	// be nil.
	Links           func(rel string) []string
	Submodules, LFS bool // whether the repository has any
}

// New gives the model of a project.
func New(g *graph.Graph, src Source) (*Model, error) {
	p := g.Project
	m := &Model{
		Image: p.Image, Folder: src.Folder, File: p.File, Runners: p.Runners, Cache: p.Cache.Type,
		Keep: p.Keep != (spec.Keep{}), Stages: Depth(g),
		Submodules: src.Submodules, LFS: src.LFS,
		Targets: export.MakeTargets(g.Units), remote: src.Remote,
	}
	hosts, secrets := map[string]bool{}, map[string]bool{}
	for _, u := range g.Units {
		if host := hostOf(u.Image); host != "" {
			hosts[host] = true
		} else if m.homeless == "" {
			m.homeless = u.Image
		}
		for _, s := range u.Secrets {
			if s.Env != "" {
				secrets[s.Env] = true
			}
		}
		if !slices.Contains(m.Platforms, u.Platform) {
			m.Platforms = append(m.Platforms, u.Platform)
		}
	}
	m.Registries, m.Secrets = slices.Sorted(maps.Keys(hosts)), slices.Sorted(maps.Keys(secrets))
	for _, l := range p.Layers {
		if layer := newLayer(g, l, src); len(layer.Units) > 0 {
			m.Layers = append(m.Layers, layer)
		}
	}
	return m, nil
}

// shared refuses a project whose images name no registry: it has no pipeline, since
// runners share nothing else.
func (m *Model) shared() error {
	if m.homeless == "" {
		return m.inert()
	}
	image := "ghcr.io/user/" + m.homeless
	if name := githubRemote.FindStringSubmatch(m.remote); name != nil {
		image = "ghcr.io/" + strings.ToLower(name[1])
	}
	err := fmt.Errorf("the image %q names no registry, and runners have nothing else to share", m.homeless)
	if !slices.Contains([]string{"strata.yaml", "strata.yml"}, path.Base(m.File)) {
		return diag.Hint(err, "strata init writes a strata.yaml in which image: is set; give it a host, for example image: %s", image)
	}
	return diag.Hint(err, "write it with a host, for example image: %s", image)
}

// githubRemote takes OWNER/NAME from the URL of a git remote.
var githubRemote = regexp.MustCompile(`^(?:https?://|ssh://git@|git@)github\.com[:/]([A-Za-z0-9._-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?$`)

// Depth gives the number of units in the longest chain of parents: no plan has
// more stages.
func Depth(g *graph.Graph) int {
	depth, most := map[string]int{}, 0
	for _, u := range g.Units {
		for _, parent := range u.Parents {
			depth[u.ID] = max(depth[u.ID], depth[parent.ID])
		}
		depth[u.ID]++
		most = max(most, depth[u.ID])
	}
	return most
}

// hostOf gives the registry's host of an image, "" for one without.
func hostOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return ""
	}
	return host
}

func newLayer(g *graph.Graph, l spec.Layer, src Source) Layer {
	out := Layer{Name: l.Name, Leaf: l.Leaf, Refresh: l.Refresh}
	paths := map[string]bool{}
	for _, u := range g.Units {
		if u.Layer != l.Name {
			continue
		}
		out.Units = append(out.Units, u.ID)
		out.Tested = out.Tested || u.Test != nil
		out.dockerfiles = append(out.dockerfiles, u.Dockerfile)
		for _, p := range unitPaths(u, src) {
			paths[p] = true
		}
	}
	out.Paths = slices.Sorted(maps.Keys(paths))
	if slices.Contains(out.Paths, everything(src.Folder)) {
		out.Paths = []string{everything(src.Folder)}
	}
	return out
}

// unitPaths gives what a unit itself reads: its Dockerfile, the ignore files, and
// what COPY, ADD and mounts take.
func unitPaths(u *graph.Unit, src Source) []string {
	var out []string
	add := func(rel string) {
		if rel == ".." || strings.HasPrefix(rel, "../") && src.Folder == "" {
			return // outside of the repository
		}
		out = append(out, path.Join(src.Folder, rel))
	}
	follow := func(rel string) {
		if src.Links == nil {
			return
		}
		for _, to := range src.Links(rel) {
			add(escape(to))
			add(path.Join(escape(to), "**"))
		}
	}
	if u.Inline == nil {
		add(escape(u.Dockerfile))
		follow(u.Dockerfile)
		add(escape(u.Dockerfile + ".dockerignore")) // one that is made later counts as well
	}
	for _, v := range u.Build.Unresolved {
		if v.Input { // only the base's image knows what is taken
			add(path.Join(escape(u.Context), "**"))
		}
	}
	for _, in := range u.Build.Inputs {
		context := u.Context
		if in.Context != "" {
			context = u.Contexts[in.Context]
		}
		add(escape(path.Join(context, ".dockerignore")))
		for _, pattern := range in.Patterns {
			for _, p := range globs(context, pattern, src.IsDir) {
				add(p)
			}
			follow(path.Join(context, path.Clean("/"+pattern)))
		}
	}
	return out
}

// everything is the pattern of all files of the project.
func everything(folder string) string { return path.Join(folder, "**") }

// Whole says whether a layer reads the whole project, so that its paths tell
// nothing.
func (m *Model) Whole(l Layer) bool { return slices.Contains(l.Paths, everything(m.Folder)) }

// WithLeaves says whether a layer is better started together with the leaves: what
// changes it starts them in any case, since it is a stage of one of their
// Dockerfiles, or reads the whole project.
func (m *Model) WithLeaves(l Layer) bool {
	return m.Whole(l) || slices.ContainsFunc(m.Layers, func(leaf Layer) bool {
		return leaf.Leaf && slices.ContainsFunc(leaf.dockerfiles, func(f string) bool { return slices.Contains(l.dockerfiles, f) })
	})
}

// globs gives the patterns of a CI host for what a source of COPY means: a folder
// takes all that is in it, and is named itself, as a submodule is that moves on. Where Docker's pattern language has more (?, [a-z]),
// the result takes more: a pipeline may start in vain, never stay away.
func globs(context, pattern string, isDir func(string) bool) []string {
	pattern = path.Clean("/" + pattern)[1:]
	out := path.Join(escape(context), widen(pattern))
	switch base := path.Base(out); {
	case pattern == "":
	case base == "*" || base == "**":
		out = path.Dir(out)
	case !isDir(path.Join(context, pattern)):
		return []string{out}
	}
	if out == "." {
		return []string{"**"}
	}
	return []string{out, out + "/**"}
}

// widen writes one of Docker's patterns with no other wildcards than stars.
func widen(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*', '?':
			b.WriteByte('*')
		case '[':
			b.WriteByte('*')
			if end := strings.IndexByte(pattern[i:], ']'); end > 0 {
				i += end
			}
		case '\\':
			if i++; i < len(pattern) {
				b.WriteString(escape(pattern[i : i+1]))
			}
		default:
			b.WriteString(escape(pattern[i : i+1]))
		}
	}
	return b.String()
}

// escape takes the meaning from the characters that CI hosts' patterns give one.
func escape(s string) string {
	if !strings.ContainsAny(s, `*?+[]!\`) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`*?+[]!\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
