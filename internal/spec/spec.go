// Package spec reads what a project says about itself: strata.yaml, a
// docker-bake file, or a plain Dockerfile, and gives one typed, immutable
// [Project].
//
// It takes a folder and gives either a project or a [diag.Errors] with every
// mistake at once, each at its file, line and column. [Project.Units] resolves
// selectors, defaults and templates into the things that are planned and built;
// [Project.TagsFor] and [Project.IndexTags] name what is published. Beyond
// reading files of the project it has no I/O, no environment and no clock.
package spec

import (
	"cmp"
	"time"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/hostfile"
)

// Project is a project as its file describes it. It is immutable.
type Project struct {
	Dir  string // folder that all paths are relative to, as given to Load
	File string // the file that was read, relative to Dir, slashes: "strata.yaml"
	Kind Kind   // what File is
	// Access is what of this machine the project may read; nil, which is nothing,
	// for one that was not read from disk.
	Access  *hostfile.Access `json:"-"`
	Image   string           // repository as written, without tag: "ghcr.io/user/app", "app"
	Version string           // as written; "" means: from git

	Platforms []string  // "linux/arm64", as declared
	Variants  []Variant // as declared; one with the name "" when none is
	Layers    []Layer   // parents before children, otherwise as declared

	Args   map[string]string // of all layers, templates not expanded
	Labels map[string]string
	Tags   Tags // templates; a nil list means: the default

	Protect     []string // patterns of tags that are never moved without force
	Channels    []string // names of promotion steps, in order
	Keep        Keep
	Cache       Cache
	Engines     []Endpoint          // empty: the caller's choice
	Runners     map[string][]string // platform -> labels
	Compression string              // "gzip" or "zstd"

	// Warnings are findings that do not stop a build: what a docker-bake file
	// says and Strata does not carry over.
	Warnings []diag.Finding

	units []Unit // resolved when the project was loaded
	index index  // made along with them
}

// Kind names the form of a project's file.
type Kind string

// The kinds of project file.
const (
	KindStrata     Kind = "strata.yaml"
	KindBake       Kind = "docker-bake"
	KindDockerfile Kind = "Dockerfile"
)

// Variant is a flavour of the images: "cpu", "cuda".
type Variant struct {
	Name      string // "" for the only variant of a project without variants
	Platforms []string
	Args      map[string]string
	Labels    map[string]string
	Tags      Tags
	Pos       diag.Pos
}

// Layer is a named step of the chain.
type Layer struct {
	Name   string
	Image  string // repository of its own; "" means the project's
	Parent string // layer that it stands on; "" for none, and for stages
	Stage  string // stage of a multi-stage Dockerfile that the layer is; "" for none
	Leaf   bool   // no other layer stands on it

	Dockerfile Choice // empty: the project's
	Context    Choice
	Target     Choice
	Only       []string // selectors; empty: every variant and platform
	Settings
	For []Override

	Secrets        []Secret
	SSH            []string // "default", "id=path"
	Refresh        *Refresh
	Stale          string        // "allow" or "deny"
	MaxAge         time.Duration // 0: no limit
	OnParentChange string        // "rebuild", "rebase" or "rebase-or-rebuild"
	Keep           Keep          // zero: the project's
	Tags           Tags          // Image and Index alone
	Pos            diag.Pos

	inline  []byte // text of the Dockerfile where a bake file holds it
	isStage bool   // of an auto layer for the unnamed last stage, whose Stage is ""
	main    bool   // the last stage of its Dockerfile: what `docker build` makes
}

// Settings are what a layer says, and may say again for some of its units.
type Settings struct {
	Args     map[string]string
	Labels   map[string]string
	Contexts map[string]string
	Network  string // "", "default", "none" or "host"
	Test     *Test
}

// Override is what a layer says for the units that Selector matches.
type Override struct {
	Selector string
	Settings
	Dockerfile, Context, Target string
	Pos                         diag.Pos
}

// Choice is a value for each selector; the most specific one wins.
type Choice []Chosen

// Chosen is one value of a [Choice].
type Chosen struct {
	Selector string // "*" for a value without a selector
	Value    string // template
	Pos      diag.Pos
}

// Secret is one secret that RUN --mount=type=secret may read; one of Env and
// File is set.
type Secret struct {
	ID   string `json:"id"`
	Env  string `json:"env,omitempty"`
	File string `json:"file,omitempty"`
}

// Test is a gate: what must pass before a tag moves. One of Run and Stage is
// set.
type Test struct {
	Run     []string      `json:"run,omitempty"`
	Stage   string        `json:"stage,omitempty"`
	Timeout time.Duration `json:"timeout"` // 10 minutes unless given
	Network string        `json:"network"` // "default", "none" or "host"
}

// Keep says what pruning leaves; zero values mean no rule.
type Keep struct {
	Age   time.Duration `json:"age,omitempty"`
	Count int           `json:"count,omitempty"`
}

// Cache is BuildKit's instruction cache.
type Cache struct {
	Type  string            `json:"type"` // "none", "registry", "gha", "s3" or "local"
	Mode  string            `json:"mode,omitempty"`
	Attrs map[string]string `json:"attrs,omitempty"`
}

// Folder gives the folder of a local cache, relative to the project's.
func (c Cache) Folder() string { return cmp.Or(c.Attrs["dest"], c.Attrs["src"], ".strata-cache") }

// Endpoint is one BuildKit.
type Endpoint struct {
	URL       string   `json:"endpoint"` // "embedded" or an address
	Platforms []string `json:"platforms,omitempty"`
}

// Tags are templates of tags. A nil list means the default, an empty one none.
type Tags struct {
	Layer []string // manifests of layers that others stand on
	Image []string // manifests of leaves
	Index []string // indexes of leaves, one a variant
}
