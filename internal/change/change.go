// Package change says what class a change is of: of code, of dependencies, or of
// the system under them. The classes are those by which a hotfix is given its
// time.
//
// It takes the differences between the recipes of units, as internal/key tells
// them, and the places of the units in the graph, and gives a class with the
// reasons. It has no I/O.
package change

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
)

// Class is how far a change reaches.
type Class string

// The classes, from the one that reaches least. None is that of no change.
const (
	None         Class = ""
	Code         Class = "code"
	Dependencies Class = "dependencies"
	System       Class = "system"
)

// Classes are all that a change can have, in order.
var Classes = []Class{Code, Dependencies, System}

// Parse reads a class.
func Parse(s string) (Class, error) {
	if c := Class(s); slices.Contains(Classes, c) {
		return c, nil
	}
	return None, fmt.Errorf("%q is no class of a change: code, dependencies or system", s)
}

// Beyond says whether c reaches further than other.
func (c Class) Beyond(other Class) bool {
	return slices.Index(Classes, c) > slices.Index(Classes, other)
}

// Budget is how long an urgent change of the class may take until it is
// published. The figures are those of the plan that Strata takes the place of:
// "only final layers rebuild" two minutes, "middle layers" five, "full rebuild"
// ten.
func (c Class) Budget() time.Duration {
	switch c {
	case System:
		return 10 * time.Minute
	case Dependencies:
		return 5 * time.Minute
	}
	return 2 * time.Minute
}

// Place is where a unit stands in the graph.
type Place struct {
	Root   bool // it stands on no other unit
	Base   bool // others start from it
	Needed bool // others start from it or take files from it
}

// Places gives the place of every unit of a graph, by its ID.
func Places(g *graph.Graph) map[string]Place {
	out := make(map[string]Place, len(g.Units))
	for _, u := range g.Units {
		p := out[u.ID]
		p.Root = len(u.Parents) == 0
		out[u.ID] = p
		for _, up := range u.Parents {
			p := out[up.ID]
			p.Needed = true
			out[up.ID] = p
		}
		for _, f := range u.Build.Froms {
			if up := g.Parent(u, f); up != nil && f.Kind == dockerfile.KindFrom {
				p := out[up.ID]
				p.Base = true
				out[up.ID] = p
			}
		}
	}
	return out
}

// Fact is what is known of one unit's change.
type Fact struct {
	Unit    string
	Place   Place
	Changes []key.Change // against its newest image; those of parents do not count
	// Unknown says why a unit is made although no change of it is known: "never
	// built", "its image is gone from the registry". It then counts by its place.
	Unknown string
}

// Reason is one input that changed, and how far that reaches.
type Reason struct {
	Class Class  `json:"class"`
	What  string `json:"what"` // "requirements/app.txt changed"
	Why   string `json:"why"`  // "it lists dependencies"
}

// Unit is the class of one unit's own change.
type Unit struct {
	Unit    string   `json:"unit"`
	Class   Class    `json:"class"`
	Reasons []Reason `json:"reasons"`
}

// Result is the class of a whole change: that of the unit whose change reaches
// furthest. Units that only follow their parents are not in it.
type Result struct {
	Class Class  `json:"class"`
	Units []Unit `json:"units"`
}

// Classify gives the class of a change.
func Classify(facts []Fact) Result {
	r := Result{Units: []Unit{}}
	for _, f := range facts {
		u := Unit{Unit: f.Unit, Reasons: f.reasons()}
		for _, why := range u.Reasons {
			if why.Class.Beyond(u.Class) {
				u.Class = why.Class
			}
		}
		if u.Class == None {
			continue
		}
		r.Units = append(r.Units, u)
		if u.Class.Beyond(r.Class) {
			r.Class = u.Class
		}
	}
	return r
}

// Beyond gives of each unit the reasons that reach further than c.
func (r Result) Beyond(c Class) []Unit {
	var out []Unit
	for _, u := range r.Units {
		u.Reasons = slices.DeleteFunc(slices.Clone(u.Reasons), func(w Reason) bool { return !w.Class.Beyond(c) })
		if len(u.Reasons) > 0 {
			out = append(out, u)
		}
	}
	return out
}

func (f Fact) reasons() []Reason {
	if f.Unknown != "" {
		c, why := f.Place.instruction()
		return []Reason{{c, f.Unknown, why}}
	}
	var out []Reason
	for _, c := range f.Changes {
		if c.Parent() {
			continue
		}
		class, why := f.Place.of(c)
		out = append(out, Reason{class, c.String(), why})
	}
	return out
}

// The labels of recipe lines that matter here (docs/format.md); any other is
// part of what the unit is told to do.
const (
	labelImage = "image"
	labelSlot  = "slot"
	labelFile  = "file"
)

// of gives the class of one change of a unit.
func (p Place) of(c key.Change) (Class, string) {
	switch c.Label {
	case labelImage:
		return System, "an external image"
	case labelSlot:
		if p.Root {
			return System, "a refresh of what the others stand on"
		}
		return Dependencies, "a refresh"
	case labelFile:
		return p.file(c.What)
	}
	return p.instruction()
}

// file gives the class of a changed file. What only gives files to others, such
// as a stage that compiles, has code in it even where it stands on no other unit.
func (p Place) file(name string) (Class, string) {
	switch {
	case Manifest(name):
		return Dependencies, "it lists dependencies"
	case p.Root && p.Base:
		return System, "a file of what the others start from"
	}
	return Code, "a file"
}

func (p Place) instruction() (Class, string) {
	switch {
	case p.Root && (p.Base || !p.Needed):
		return System, "it stands on an external image alone"
	case p.Needed:
		return Dependencies, "other units stand on it"
	}
	return Code, "no other unit stands on it"
}

// manifests are the files by which package managers are told what to fetch.
var manifests = []string{
	"package.json", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "pnpm-workspace.yaml", "bun.lock", "bun.lockb", ".npmrc", ".yarnrc.yml", "deno.lock",
	"requirements*.txt", "requirements*.in", "constraints*.txt", "pyproject.toml", "poetry.lock", "Pipfile", "Pipfile.lock", "uv.lock", "pdm.lock", "setup.py", "setup.cfg",
	"environment.yml", "environment.yaml", "conda-lock.yml",
	"go.mod", "go.sum", "go.work", "go.work.sum", "Cargo.toml", "Cargo.lock", "Gemfile", "Gemfile.lock", "*.gemspec", "composer.json", "composer.lock",
	"pom.xml", "build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts", "gradle.lockfile", "libs.versions.toml",
	"mix.exs", "mix.lock", "*.csproj", "*.fsproj", "Directory.Packages.props", "packages.lock.json", "Package.swift", "Package.resolved", "pubspec.yaml", "pubspec.lock",
}

// Manifest says whether a file lists dependencies, by its name. The name may
// have the build context that it is from in front, as in "web:package.json".
func Manifest(name string) bool {
	dir, base := path.Split(name)
	if dir == "" {
		base = base[strings.LastIndexByte(base, ':')+1:]
	}
	for _, m := range manifests {
		if ok, _ := path.Match(m, base); ok {
			return true
		}
	}
	folder := path.Base(dir)
	return folder[strings.LastIndexByte(folder, ':')+1:] == "requirements" && (path.Ext(base) == ".txt" || path.Ext(base) == ".in")
}
