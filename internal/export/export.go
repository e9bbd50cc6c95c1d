// Package export writes plain files that build the images of a project without
// Strata: one Dockerfile for each image with all that it stands on, a bake
// file, a Makefile of docker buildx lines.
//
// It takes a graph, the lock and the ignore files that belong to one Dockerfile
// alone, and gives texts. It has no I/O. What can't be written so that it means
// the same is an error that says why.
package export

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/spec"
)

// Input is what files are written from. It is not changed.
type Input struct {
	Graph *graph.Graph
	Lock  *lock.File // nil pins nothing
	// Ignore holds the ignore files that belong to one Dockerfile alone, by the
	// Dockerfile.
	Ignore map[string][]byte
	Folder string // where the files go, relative to the project: "." or "build/plain"
}

// File is a file to write.
type File struct {
	Name string // relative to the folder
	Data []byte
	Mark string // the command that its mark names, as generated.Mark takes it; "" for a file without one
	// Notes is what to know of it beyond what it says.
	Notes []string
}

// Placeholders stand in tags, arguments and labels for what is known only when
// the files are used. They are valid in all of these.
const (
	versionHere = "STRATA-VERSION-HERE"
	branchHere  = "STRATA-BRANCH-HERE"
	shaHere     = "STRATA-SHA-HERE"
)

// Release is the release for which a bake file or a Makefile is written: its
// values are variables of these files.
var Release = spec.Release{Version: versionHere, Branch: branchHere, Sha: shaHere}

// variables names what a placeholder becomes.
var variables = map[string]string{versionHere: "VERSION", branchHere: "BRANCH", shaHere: "SHA"}

// fill puts references to variables in place of placeholders.
func fill(s string, reference func(name string) string) string {
	for _, here := range slices.Sorted(maps.Keys(variables)) {
		s = strings.ReplaceAll(s, here, reference(variables[here]))
	}
	return s
}

// names gives out names, each once.
type names map[string]bool

// take gives the name that was wanted, or that with a number.
func (n names) take(want string) string {
	name := want
	for i := 2; n[name]; i++ {
		name = want + "-" + strconv.Itoa(i)
	}
	n[name] = true
	return name
}

// short names a unit where slashes can't stand: "app-cpu-arm64".
func short(u *graph.Unit) string {
	parts := []string{u.Layer, u.Variant, u.Arch()}
	if !strings.HasPrefix(u.Platform, "linux/") {
		parts = []string{u.Layer, u.Variant, strings.SplitN(u.Platform, "/", 2)[0], u.Arch()}
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "-")
}

// pin gives an external image by name and digest, where the lock has it.
func (in Input) pin(name, platform string) string {
	if i, _, ok := in.Lock.Find(name, platform); ok && !strings.Contains(name, "@") {
		return name + "@" + i.Index.String()
	}
	return name
}

// outside gives the external image behind a From, pinned; "" for anything else.
func (in Input) outside(u *graph.Unit, f dockerfile.From) string {
	name := f.Image
	if f.Context != "" {
		name = strings.TrimPrefix(u.Contexts[f.Context], imageScheme)
		if name == u.Contexts[f.Context] {
			return ""
		}
	}
	if name == "" {
		return ""
	}
	platform := f.Platform
	if platform == "" {
		platform = u.Platform
	}
	return in.pin(name, platform)
}

const imageScheme = "docker-image://"

// target is a unit as docker buildx is asked to build it.
type target struct {
	unit     *graph.Unit
	args     map[string]string // given ones, without those of parents
	contexts map[string]string // folders and external images; parents are not among them
	parents  []handover
	secrets  []string // "id=npm,env=NPM_TOKEN"
	tags     []string
	cache    cache
}

// handover is a parent and how a target gets it. Where arg is set, the argument
// is given the name of the context.
type handover struct {
	unit         *graph.Unit
	arg, context string
}

func (in Input) target(u *graph.Unit) target {
	t := target{
		unit: u, args: maps.Clone(u.Args), contexts: map[string]string{}, cache: in.caches(u),
		tags: in.Graph.Project.TagsFor(u.Unit, Release),
	}
	handed := map[string]bool{}
	for _, p := range u.Parents {
		h := handover{unit: in.Graph.Unit(p.ID), arg: p.Arg, context: p.Context}
		if h.arg != "" {
			delete(t.args, h.arg)
			h.context = in.freeContext(u, h.unit.Layer)
		}
		handed[h.context] = true
		t.parents = append(t.parents, h)
	}
	for name, value := range u.Contexts {
		switch {
		case handed[name] || strings.HasPrefix(value, "layer:"):
		case strings.HasPrefix(value, imageScheme):
			t.contexts[name] = imageScheme + in.pin(strings.TrimPrefix(value, imageScheme), u.Platform)
		default:
			t.contexts[name] = value
		}
	}
	for _, f := range u.Build.Froms {
		if f.Image == "" || in.Graph.Parent(u, f) != nil {
			continue
		}
		if pinned := in.outside(u, f); pinned != f.Image && pinned != "" {
			t.contexts[dockerfile.ContextName(f.Image)] = imageScheme + pinned
		}
	}
	for _, s := range u.Secrets {
		t.secrets = append(t.secrets, secret(s))
	}
	return t
}

// freeContext gives a name for a context under which the Dockerfile of u knows
// nothing else.
func (in Input) freeContext(u *graph.Unit, want string) string {
	taken := names{dockerfile.Scratch: true, "context": true}
	for _, s := range u.File.Stages() {
		taken[s] = true
	}
	for name := range u.Contexts {
		taken[name] = true
	}
	for _, f := range u.Build.Froms {
		taken[dockerfile.ContextName(f.Image)] = true
	}
	for _, p := range u.Parents {
		taken[p.Context] = true
	}
	return taken.take(stageName(want))
}

func secret(s spec.Secret) string {
	if s.Env != "" {
		return "id=" + s.ID + ",env=" + s.Env
	}
	return "id=" + s.ID + ",src=" + s.File
}

// cache is BuildKit's instruction cache of a unit.
type cache struct{ from, to string }

// caches gives the cache that the project asks for, in the form of --cache-from
// and --cache-to. Its names are those that Strata uses, so that both share it.
func (in Input) caches(u *graph.Unit) cache {
	c := in.Graph.Project.Cache
	if c.Type == "" || c.Type == "none" {
		return cache{}
	}
	name := strings.NewReplacer("/", ".", "_", "__").Replace(u.ID)
	read, write := maps.Clone(c.Attrs), maps.Clone(c.Attrs)
	if read == nil {
		read, write = map[string]string{}, map[string]string{}
	}
	switch {
	case c.Type == "registry" && read["ref"] == "":
		read["ref"] = u.Image + ":strata-cache-" + name
		write["ref"] = read["ref"]
	case c.Type == "local":
		folder := ".strata-cache"
		for _, key := range []string{"src", "dest"} {
			if c.Attrs[key] != "" {
				folder = c.Attrs[key]
			}
		}
		read, write = map[string]string{"src": path.Join(folder, name)}, map[string]string{"dest": path.Join(folder, name)}
	case c.Type == "gha" && read["scope"] == "":
		read["scope"], write["scope"] = name, name
	}
	if c.Mode != "" {
		write["mode"] = c.Mode
	}
	return cache{from: attrs(c.Type, read), to: attrs(c.Type, write)}
}

func attrs(kind string, m map[string]string) string {
	out := []string{"type=" + kind}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._/:@%+,=-]+$`)

// ShellWord writes a word so that a shell reads it as it is.
func ShellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var stagePattern = regexp.MustCompile(`^[a-z][a-z0-9._-]*$`)

// stageName makes a name that a stage and a named context may have.
func stageName(s string) string {
	if s = strings.ToLower(s); stagePattern.MatchString(s) && s != dockerfile.Scratch && s != "context" {
		return s
	}
	return "layer-" + s
}

// pair refuses two values for one thing that a build has only once.
func pair(what string, a, b string) error {
	return fmt.Errorf("%s would have to be both %q and %q", what, a, b)
}
