package initproject

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
)

// guess is a project in the making.
type guess struct {
	kind       Kind
	image      string
	imageFrom  string // where the image's name comes from
	platforms  []string
	variants   []variant
	auto       bool   // layers: auto
	dockerfile string // of auto layers, when it is not ./Dockerfile
	comment    []string
	layers     []layer
	found      []string
	unsure     []string
}

// variant is a flavour with its platforms.
type variant struct {
	name      string
	platforms []string
}

// layer is one layer to write.
type layer struct {
	name       string
	comment    []string
	image      string
	parent     string
	context    string
	target     string
	dockerfile [][2]string // selector and path; one with the selector "" stands alone
	args       [][2]string
	contexts   [][2]string
	only       []string
	refresh    string // suggestion, written as a comment
}

func (g *guess) foundf(format string, args ...any) {
	g.found = append(g.found, fmt.Sprintf(format, args...))
}
func (g *guess) unsuref(format string, args ...any) {
	g.unsure = append(g.unsure, fmt.Sprintf(format, args...))
}

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// guess decides what kind of repository this is, and makes the project.
func (r *repository) guess() *guess {
	g := &guess{platforms: []string{"linux/amd64"}}
	g.image, g.imageFrom = r.image()
	for _, b := range r.broken {
		g.unsuref("a Dockerfile was left out because it can't be read: %s", b)
	}
	builds := r.builds(g)
	switch {
	case r.bake != "" && !r.strata:
		g.kind = KindBake
		g.foundf("%s is read as it is: there is nothing to write. Try: strata plan", r.bake)
		return g
	case r.isLayered():
		r.layered(g)
	case len(builds) > 0 && !r.oneFile(builds):
		r.fromCompose(g, builds)
	case len(r.sources) == 1:
		r.single(g, r.sources[0])
	case len(r.sources) > 1:
		r.many(g)
	default:
		g.kind = KindNothing
		g.unsuref("no Dockerfile, compose file or docker-bake file was found, so it can't be guessed what to build")
	}
	if r.strata {
		g.kind = KindStrata
		g.foundf("strata.yaml is there already; strata init --force replaces it")
	}
	return g
}

// single makes the project of one Dockerfile: its stages are the layers.
func (r *repository) single(g *guess, s *source) {
	text := strings.Join(normal(s), "\n")
	if strings.Contains(text, "BUILDPLATFORM") || strings.Contains(text, "TARGETARCH") || strings.Contains(text, "TARGETPLATFORM") {
		g.platforms = []string{"linux/amd64", "linux/arm64"}
		g.foundf("%s cross-builds, so it is built for linux/amd64 and linux/arm64", s.path)
	}
	if named := r.platforms(); len(named) > 0 {
		g.platforms = named
		g.foundf("build scripts name %s", strings.Join(named, ", "))
	}
	if len(s.stages) == 0 || len(s.file.Stages()) < 2 {
		g.kind = KindSingle
		g.foundf("%s has one stage: one layer", s.path)
		name := "app"
		if len(s.stages) == 1 {
			name = s.stages[0]
		}
		l := layer{name: name}
		if s.path != "Dockerfile" {
			l.dockerfile = [][2]string{{"", s.path}}
		}
		g.layers = append(g.layers, l)
		return
	}
	g.kind, g.auto = KindStages, true
	if s.path != "Dockerfile" {
		g.dockerfile = s.path
	}
	leaves := leavesOf(s)
	g.comment = []string{
		"Every named stage of " + s.path + " is a layer, kept and reused by itself:",
		strings.Join(s.stages, ", ") + ".",
		"No stage stands on " + joinAnd(leaves) + ": that is what is published.",
	}
	g.foundf("%s has the stages %s: each is a layer; published: %s", s.path, strings.Join(s.stages, ", "), joinAnd(leaves))
}

func normal(s *source) []string { return strings.Split(string(s.file.Normal()), "\n") }

// leavesOf gives the stages of a Dockerfile that no other stage uses.
func leavesOf(s *source) []string {
	used := map[string]bool{}
	for i, name := range s.file.Stages() {
		b, err := s.file.Analyze(dockerfile.Options{Target: fmt.Sprint(i), Platform: "linux/amd64"})
		if err != nil {
			continue
		}
		for _, other := range b.StageNames {
			if other != name {
				used[other] = true
			}
		}
	}
	var out []string
	stages := s.file.Stages()
	for i, name := range stages {
		switch {
		case name == "" && i == len(stages)-1:
			out = append(out, "the last stage")
		case name != "" && !used[name]:
			out = append(out, name)
		}
	}
	return out
}

// many makes a layer of each Dockerfile, with an image of its own.
func (r *repository) many(g *guess) {
	g.kind = KindMany
	if named := r.platforms(); len(named) > 0 {
		g.platforms = named
	}
	names := r.layerNames()
	for _, s := range r.sources {
		l := layer{name: names[s], image: g.image + "/" + names[s], dockerfile: [][2]string{{"", s.path}}}
		l.context = r.contextOf(g, s)
		for _, o := range r.sources {
			if o != s && s.base != "" && lastWord(s.base) == names[o] {
				l.contexts = append(l.contexts, [2]string{s.base, "layer:" + names[o]})
				g.foundf("%s starts from %s, which is taken to be what %s builds", s.path, s.base, o.path)
			}
		}
		if s.arg != "" && s.preset == "" {
			g.unsuref("%s starts from ${%s}, which has no default: name the layer with `parent:`, or the image with `args: {%s: IMAGE}`", s.path, s.arg, s.arg)
		}
		g.layers = append(g.layers, l)
	}
	g.foundf("%d Dockerfiles that do not stand on each other by an argument: each is a layer with an image of its own", len(r.sources))
}

// lastWord gives "base" of "ghcr.io/user/base:1.0".
func lastWord(image string) string {
	image, _, _ = strings.Cut(image, "@")
	name, _, _ := strings.Cut(path.Base(image), ":")
	return name
}

// layerNames gives each Dockerfile a name that no other one has.
func (r *repository) layerNames() map[*source]string {
	out := map[*source]string{}
	count := map[string]int{}
	for _, s := range r.sources {
		out[s] = s.layerName()
		count[out[s]]++
	}
	for _, s := range r.sources {
		if count[out[s]] > 1 {
			out[s] = plainName(path.Dir(s.path) + "-" + s.suffix)
		}
	}
	return out
}

// holders are folders that hold Dockerfiles and say nothing about them.
var holders = []string{".", "docker", ".docker", "build", "deploy", "container", "containers", "images", "dockerfiles", "ci"}

// layerName gives the name that a Dockerfile's path suggests.
func (s *source) layerName() string {
	switch dir := path.Base(path.Dir(s.path)); {
	case s.suffix != "":
		return plainName(s.suffix)
	case slices.Contains(holders, dir) && slices.Contains(holders, path.Base(path.Dir(path.Dir(s.path)))):
		return "app"
	case slices.Contains(holders, dir):
		return plainName(path.Base(path.Dir(path.Dir(s.path)))) // services/api/docker/Dockerfile
	default:
		return plainName(dir)
	}
}

// contextOf guesses which folder a Dockerfile's COPY instructions mean: the one
// that has more of the files.
func (r *repository) contextOf(g *guess, s *source) string {
	dir := path.Dir(s.path)
	b, err := s.file.Analyze(dockerfile.Options{Platform: "linux/amd64"})
	if dir == "." || err != nil {
		return ""
	}
	here, above, total := 0, 0, 0
	for _, in := range b.Inputs {
		if in.Context != "" {
			continue
		}
		for _, p := range in.Patterns {
			p = strings.TrimPrefix(path.Clean(p), "/")
			if p == "." {
				continue
			}
			total++
			here += r.matches(path.Join(dir, p))
			above += r.matches(p)
		}
	}
	switch {
	case here > above, total == 0:
		return dir
	case above < total:
		g.unsuref("%s copies files that are neither below %s nor below the repository: look at its `context:`", s.path, dir)
	}
	return ""
}

// matches gives 1 if a path or pattern of the repository is there, 0 if not.
func (r *repository) matches(pattern string) int {
	if _, err := fs.Stat(r.fs, pattern); err == nil {
		return 1
	}
	if names, err := fs.Glob(r.fs, pattern); err == nil && len(names) > 0 {
		return 1
	}
	return 0
}

func joinAnd(in []string) string {
	if len(in) < 2 {
		return strings.Join(in, "")
	}
	return strings.Join(in[:len(in)-1], ", ") + " and " + in[len(in)-1]
}
