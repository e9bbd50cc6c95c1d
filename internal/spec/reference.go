package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Reference gives docs/config.md: every key of strata.yaml with its meaning and
// default, made from the shapes that the loader checks a file against.
func Reference() []byte {
	r := &reference{seen: map[*shape]string{}}
	r.out.WriteString(referenceHead)
	r.plan("", projectShape)
	for len(r.todo) > 0 {
		s := r.todo[0]
		r.todo = r.todo[1:]
		r.section(s)
	}
	r.out.WriteString(referenceTail)
	return []byte(r.out.String())
}

// reference writes one section for every object in the tree of shapes, the
// ones near the root first.
type reference struct {
	out  strings.Builder
	seen map[*shape]string // path of the section that describes a shape
	todo []*shape
}

// plan puts the objects that a value holds on the list of sections.
func (r *reference) plan(at string, s *shape) {
	switch s.kind {
	case object:
		if _, ok := r.seen[s]; !ok {
			r.seen[s] = at
			r.todo = append(r.todo, s)
		}
	case mapping:
		r.plan(at+".NAME", s.of)
	case list:
		r.plan(at+"[]", s.of)
	case union:
		for _, a := range s.any {
			r.plan(at, a)
		}
	}
}

func (r *reference) section(s *shape) {
	at, title := r.seen[s], "The project"
	if at != "" {
		title = "`" + at + "`"
	}
	for _, f := range s.fields {
		r.plan(strings.TrimPrefix(at+"."+f.name, "."), f.shape)
	}
	fmt.Fprintf(&r.out, "\n## %s\n\n| key | value | default | |\n|---|---|---|---|\n", title)
	for _, f := range s.fields {
		def := f.def
		if f.required {
			def = "required"
		}
		fmt.Fprintf(&r.out, "| `%s` | %s | %s | %s |\n", f.name, cell(r.value(f.shape)), cell(def), cell(f.doc))
	}
}

// value says what a shape takes.
func (r *reference) value(s *shape) string {
	switch s.kind {
	case object:
		return "a mapping, see `" + r.seen[s] + "`"
	case mapping:
		return "a mapping of " + s.noun + r.further(s.of)
	case list:
		return "a list of " + s.noun + r.further(s.of)
	case union:
		var out []string
		for _, a := range s.any {
			if v := r.value(a); !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
		return joinOr(out, "or")
	}
	if len(s.enum) > 0 {
		var out []string
		for _, e := range s.enum {
			out = append(out, "`"+e+"`")
		}
		return joinOr(out, "or")
	}
	return s.words()
}

// further points to the section of the objects that a mapping or list holds.
func (r *reference) further(s *shape) string {
	if s.kind != object {
		return ""
	}
	return ", see `" + r.seen[s] + "`"
}

// cell makes text fit for a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

const referenceHead = `# strata.yaml

<!-- Generated from internal/spec: go test ./internal/spec -update -->

A project is described by ` + "`strata.yaml`" + ` in its folder. Editors complete and check it with
[strata.schema.json](strata.schema.json): put this line first.

` + "```yaml" + `
# yaml-language-server: $schema=./strata.schema.json
image: ghcr.io/user/app
platforms: [linux/amd64, linux/arm64]
variants:
  cpu: {}
  cuda: {platforms: [linux/amd64]}
layers:
  base:
    dockerfile:
      cpu/arm64: docker/arm64/Dockerfile.base
      "*": docker/{variant}/Dockerfile.base
    refresh: {every: week, at: "Mon 06:00"}
  ml:
    parent: base
    dockerfile: docker/{variant}/Dockerfile.ml
  app:
    parent: ml
    dockerfile: docker/app/Dockerfile
    test: [python, -c, "import src.server"]
` + "```" + `

What stands in a Dockerfile is not repeated here: the inputs of a layer come from its Dockerfile. ` + "`strata config`" + ` shows
what a file comes to. Unknown keys, values that fit nothing and files that are not there are errors, all told at once with
line and column. Anchors and aliases are read, merge keys (` + "`<<`" + `) are not.

Without a strata.yaml, Strata reads ` + "`docker-bake.hcl`, `docker-bake.json` or `Dockerfile`" + `, in this order.
`

const referenceTail = `
## Files of this machine

A project may have come with a pull request, so it does not get at the rest of the machine. Whatever names a file or folder (the project's
file itself, ` + "`dockerfile`, `context`, `contexts`, `secrets`, `ssh`" + `, the folder of a local ` + "`cache`" + `, their likes in bake files, ` + "`strata.lock`" + `,
ignore files) has to lead into the project's repository, links followed. What lies outside is refused, and nothing is said about it, unless it
is allowed by whoever runs strata:

` + "```sh" + `
strata build --allow fs.read=../shared --allow fs.read=/run/secrets/token     # as with docker buildx bake
` + "```" + `

` + "`fs=PATH`" + ` allows writing as well, for a local cache; ` + "`*`" + ` is everything. What git keeps in ` + "`.git`" + ` is read as a build context alone.

The repository is the git work tree around the project's folder (a submodule is one of its own), or that folder where there is none. Neither ` + "`/`" + `, nor ` + "`$HOME`" + ` or a
folder of ` + "`$GIT_CEILING_DIRECTORIES`" + `, nor a folder like ` + "`/tmp`" + ` (sticky) makes one of what lies below it. The folder of ` + "`-C`" + ` and the file of
` + "`-f`" + ` are yours to choose, and a file from elsewhere brings its own repository along; but a link in a repository leads nobody out of it, be it
named on the command line, nor is anything written through one.

Files that are read as text (all but secrets and what is in a context) are regular files of at most 4 MiB, secrets of at most 500 KiB.

## Selectors

A selector names some of the project's variants and platforms: ` + "`\"*\"`" + ` (all), ` + "`cuda`" + ` (a variant), ` + "`arm64`, `linux/arm64`" + ` (a
platform), ` + "`cpu/arm64`, `cpu/linux/arm/v7`" + ` (both), ` + "`\"*/arm64\"`" + ` (the same as ` + "`arm64`" + `). Where several match, the one that names the
variant wins over one that does not, then the one that names more of the platform. A selector that matches nothing is an
error, as is a unit that none matches.

## Variables

| where | variables |
|---|---|
| ` + "`dockerfile`, `context`, `contexts`, `target`" + ` | ` + "`{variant}` `{layer}` `{platform}` `{os}` `{arch}`" + ` |
| ` + "`args`, `labels`" + ` | these and ` + "`{version}`" + ` |
| ` + "`tags`" + ` | these and ` + "`{branch}` `{sha}`" + ` |

` + "`{arch}` is `amd64`, `arm64`, `armv7`" + `. Braces around anything but a lower-case word, and ` + "`${word}`" + `, are left alone. In tags,
what a tag must not have becomes a dash (` + "`feature/x` is `feature-x`" + `).

## SOURCE_DATE_EPOCH

The time of an image and the newest that a file in its new layers may have, in seconds since 1970, as BuildKit takes it: the build
argument of that name, else the variable in the environment of whoever runs Strata, else the value of an ` + "`ARG`" + ` before the first
` + "`FROM`" + `. A RUN sees it only where its stage declares the ` + "`ARG`" + `; a default that stands there is that stage's alone and no time of the
image. An empty argument is none, whatever environment and Dockerfile say. Where nobody asks for a time, none is handed to an engine, and
an image says when the newest refresh slot in it began or, if that is newer, when its base was created; 1980-02-01 where neither is known.

It is an input: another value gives every unit another key. One that changes with each commit (` + "`git log -1 --format=%ct`" + `)
therefore makes every layer anew with each commit, and an environment that sets the variable (a Nix shell, a packaging tool) has keys that
other machines do not have. Set a constant, or leave it out.

## Default tags

| image | tags |
|---|---|
| a layer that others stand on | ` + "`cpu-base-amd64-VERSION`, `cpu-base-amd64-latest`" + ` |
| the same, in a variant with one platform | ` + "`cuda-base-VERSION`, `cuda-base-latest`" + ` |
| a layer that none stands on | ` + "`latest-cpu-amd64`, `VERSION-cpu-amd64`" + `; index ` + "`latest-cpu`, `VERSION-cpu`" + ` |
| the same, in a variant with one platform | ` + "`cuda-amd64`, `VERSION-cuda-amd64`, `cuda-latest`" + ` |
| the same, in a project without variants | ` + "`latest`, `VERSION`" + ` |

Where several such layers share an image, their names stand in the tags (` + "`latest-dev`" + `), but for the last stage of the
Dockerfile, which is what ` + "`docker build`" + ` makes.

## docker-bake.hcl and docker-bake.json

Every target that the group or target ` + "`default`" + ` reaches is a layer; a context ` + "`target:NAME`" + ` is another layer, handed over as
the named context that the file gives it. Variables take their values from the environment; functions, ` + "`inherits`" + `, ` + "`matrix`" + ` and
` + "`docker-bake.override.*`" + ` work as they do in bake. Tags are kept as they are written; a target without platforms is built for
those of the targets that stand on it. What has no place in a project (outputs, caches, attestations, tags in a second
repository) is a warning.
`
