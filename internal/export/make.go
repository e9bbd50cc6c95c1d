package export

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/printable"
)

// MakeTarget is a target of a Makefile: a layer of a variant, for all of its
// platforms.
type MakeTarget struct {
	Name           string // "cpu-base-layered", "cpu-layered" for the leaf
	Layer, Variant string
	Leaf           bool
	Units          []*graph.Unit
}

// Help says what the target makes, for `make help`.
func (t MakeTarget) Help() string {
	var platforms []string
	for _, u := range t.Units {
		platforms = append(platforms, u.Platform)
	}
	of := t.Layer
	if t.Variant != "" {
		of = t.Variant + " " + t.Layer
	}
	return fmt.Sprintf("%s (%s)", of, strings.Join(platforms, ", "))
}

// MakeTargets gives the targets for the given units, parents first: named by
// variant and layer, or by the variant alone for its only leaf.
func MakeTargets(units []*graph.Unit) []MakeTarget {
	leaves := map[string]map[string]bool{} // layers that are leaves, by variant
	for _, u := range units {
		if u.Leaf {
			if leaves[u.Variant] == nil {
				leaves[u.Variant] = map[string]bool{}
			}
			leaves[u.Variant][u.Layer] = true
		}
	}
	at := map[[2]string]int{}
	taken := names{}
	var out []MakeTarget
	for _, u := range units {
		key := [2]string{u.Layer, u.Variant}
		if i, ok := at[key]; ok {
			out[i].Units = append(out[i].Units, u)
			continue
		}
		at[key] = len(out)
		parts := []string{u.Variant, u.Layer, "layered"}
		if u.Leaf && len(leaves[u.Variant]) == 1 {
			parts[1] = ""
		}
		name := strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "-")
		out = append(out, MakeTarget{Name: taken.take(name), Layer: u.Layer, Variant: u.Variant, Leaf: u.Leaf, Units: []*graph.Unit{u}})
	}
	return out
}

// Make writes a Makefile of docker buildx lines for the units, which the graph
// gives parents first. The units' project must have been given [Release].
func (in Input) Make(units []*graph.Unit) (File, error) {
	m := &makefile{Input: in, units: units, targets: MakeTargets(units), of: map[string]MakeTarget{}}
	for _, t := range m.targets {
		for _, u := range t.Units {
			if u.Inline != nil {
				return File{}, diag.Hint(fmt.Errorf("writing a Makefile: the Dockerfile of %s stands in the bake file", u.ID),
					"give it a file of its own, or use strata export bake")
			}
			for _, values := range []map[string]string{u.Args, u.Labels} {
				for name, value := range values {
					if strings.ContainsAny(value, "\r\n") {
						return File{}, diag.Hint(fmt.Errorf("writing a Makefile: the value of %s, for %s, has a line break", name, u.ID),
							"use strata export bake")
					}
					if !printable.Clean(strings.ReplaceAll(name+value, "\t", "")) { // make shows what it runs
						return File{}, diag.Hint(fmt.Errorf("writing a Makefile: %q, for %s, has characters that control a terminal: %q", name, u.ID, value),
							"use strata export bake")
					}
				}
			}
			m.of[u.ID] = t
		}
	}
	m.head()
	for _, t := range m.targets {
		m.target(t)
	}
	return File{Name: "Makefile", Data: m.text.Bytes(), Mark: "export make"}, nil
}

type makefile struct {
	Input
	units   []*graph.Unit
	targets []MakeTarget
	of      map[string]MakeTarget // by unit
	text    bytes.Buffer
}

func (m *makefile) line(format string, args ...any) { fmt.Fprintf(&m.text, format+"\n", args...) }

// HelpRecipe lists the targets of a Makefile that say what they do.
const HelpRecipe = "\t@awk -F ':.*## ' '/^[A-Za-z0-9_.-]+:.*## / { printf \"  make %-32s %s\\n\", $$1, $$2 }' $(MAKEFILE_LIST)\n"

func (m *makefile) head() {
	host, name := m.registry()
	m.text.WriteString(generated.Place)
	m.line("#")
	m.line("# The images of this project for builds without Strata, by docker buildx alone. In the project's folder:")
	m.line("#")
	m.line("#   make -f %s help", ShellWord(pathJoin(m.Folder, "Makefile")))
	m.line("")
	m.line("%s", strings.TrimSpace("REGISTRY ?= "+makeText(host)))
	m.line("IMAGE_NAME ?= %s", makeText(name))
	m.line("# Of these, what the environment has does not count: make publish VERSION=1.4.0")
	m.variable(versionHere, "{ git describe --tags --always --dirty 2>/dev/null || echo dev; } | tr -c 'A-Za-z0-9._\\n-' -")
	if m.names(branchHere) {
		m.variable(branchHere, "git rev-parse --abbrev-ref HEAD | tr -c 'A-Za-z0-9._\\n-' -")
	}
	if m.names(shaHere) {
		m.variable(shaHere, "git rev-parse --short HEAD")
	}
	m.line("BUILDX ?= docker buildx")
	m.line("IMAGE := $(if $(REGISTRY),$(REGISTRY)/)$(IMAGE_NAME)")
	m.line("\n.DEFAULT_GOAL := help")
	m.line(".PHONY: help publish registry")
	m.line("\nhelp: ## This list")
	m.text.WriteString(HelpRecipe)
	var all []string
	for _, t := range m.targets {
		all = append(all, "publish-"+t.Name)
	}
	m.line("\n# A layer before those that stand on it: with -j, too.")
	m.line("publish: ## Build and publish everything, parents first")
	for _, name := range all {
		m.line("\t$(MAKE) -f $(firstword $(MAKEFILE_LIST)) %s", name)
	}
	m.line("\nregistry:")
	m.line("\t@test -n '$(REGISTRY)' || { echo 'name a registry: make ... REGISTRY=ghcr.io/user' >&2; exit 2; }")
}

// variable sets what a placeholder becomes by a command, where make's command
// line does not set it: other programs have a VERSION in the environment, too.
func (m *makefile) variable(here, command string) {
	name := variables[here]
	m.line("ifeq ($(filter "+FromMake+",$(firstword $(origin %[1]s))),)\n%[1]s := $(shell %[2]s)\nendif", name, command)
}

// FromMake are the first words of the origins of variables that were set for
// make itself, and not in its environment.
const FromMake = "command file override"

// names says whether any tag names what a placeholder stands for.
func (m *makefile) names(here string) bool {
	return slices.ContainsFunc(m.units, func(u *graph.Unit) bool {
		return slices.ContainsFunc(m.Graph.Project.TagsFor(u.Unit, Release), func(t string) bool { return strings.Contains(t, here) })
	})
}

// registry gives the project's image in two parts; the first is "" for an image
// without a host.
func (m *makefile) registry() (host, name string) {
	image := m.Graph.Project.Image
	if i := strings.LastIndexByte(image, '/'); i >= 0 {
		return image[:i], image[i+1:]
	}
	return "", image
}

// image gives a unit's repository as the Makefile names it.
func (m *makefile) image(u *graph.Unit) string {
	if u.Image == m.Graph.Project.Image {
		return "$(IMAGE)"
	}
	return makeText(u.Image)
}

// reference gives the name of a unit's image by a tag, after a prefix, as a word
// of a recipe line.
func (m *makefile) reference(prefix string, u *graph.Unit, tag string) string {
	word := prefix + m.image(u) + ":" + makeText(tag)
	if lasting(tag) {
		return word
	}
	return "'" + word + "'"
}

// tagOf gives the tag under which others find a unit; one that lasts where it
// has any.
func (m *makefile) tagOf(u *graph.Unit) string {
	if tags := m.Graph.Project.TagsFor(u.Unit, Release); len(tags) > 0 {
		return choose(tags, true)
	}
	return "layered-" + short(u)
}

func (m *makefile) target(t MakeTarget) {
	var needs []string
	for _, u := range t.Units {
		for _, p := range u.Parents {
			if of, ok := m.of[p.ID]; ok {
				needs = append(needs, "ensure-"+of.Name)
			}
		}
	}
	slices.Sort(needs)
	needs = slices.Compact(needs)
	m.line("\n.PHONY: publish-%s ensure-%s", t.Name, t.Name)
	m.line("publish-%s: %s ## Build and publish %s", t.Name, strings.Join(append([]string{"registry"}, needs...), " "), t.Help())
	for _, u := range t.Units {
		m.build(m.Input.target(u))
	}
	for _, x := range indexes(m.Graph.Project, t.Units) {
		for _, tag := range x.tags {
			words := []string{"\t$(BUILDX) imagetools create -t " + m.reference("", t.Units[0], tag)}
			for _, member := range x.members[tag] {
				words = append(words, m.reference("", t.Units[0], member))
			}
			m.line("%s", strings.Join(words, " \\\n\t\t"))
		}
	}
	m.line("\nensure-%s: registry", t.Name)
	for _, u := range t.Units {
		m.line("\t@$(BUILDX) imagetools inspect %s >/dev/null 2>&1 || $(MAKE) -f $(firstword $(MAKEFILE_LIST)) publish-%s",
			m.reference("", u, m.tagOf(u)), t.Name)
	}
}

// build writes the recipe line of one unit.
func (m *makefile) build(t target) {
	u := t.unit
	words := []string{"\t$(BUILDX) build --push --platform " + u.Platform, "-f " + MakeWord(u.Dockerfile)}
	add := func(flag string, values map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			words = append(words, flag+" "+MakeWord(name+"="+values[name]))
		}
	}
	if u.Target != "" {
		words = append(words, "--target "+MakeWord(u.Target))
	}
	for _, p := range t.parents {
		flag, prefix := "--build-context ", p.context+"="+imageScheme
		if p.arg != "" {
			flag, prefix = "--build-arg ", p.arg+"="
		}
		words = append(words, flag+m.reference(prefix, p.unit, m.tagOf(p.unit)))
	}
	add("--build-arg", t.args)
	add("--build-context", t.contexts)
	add("--label", u.Labels)
	for _, s := range t.secrets {
		words = append(words, "--secret "+MakeWord(s))
	}
	for _, s := range u.SSH {
		words = append(words, "--ssh "+MakeWord(s))
	}
	if u.Network != "" {
		words = append(words, "--network "+u.Network)
	}
	if u.Network == "host" {
		words = append(words, "--allow network.host")
	}
	if t.cache.from != "" {
		words = append(words, "--cache-from "+MakeWord(t.cache.from), "--cache-to "+MakeWord(t.cache.to))
	}
	tags := t.tags
	if len(tags) == 0 {
		tags = []string{m.tagOf(u)}
	}
	for _, tag := range tags {
		words = append(words, "-t "+m.reference("", u, tag))
	}
	m.line("%s", strings.Join(append(words, MakeWord(u.Context)), " \\\n\t\t"))
}

// makeText writes a string into a Makefile, outside of a shell's quotes.
func makeText(s string) string {
	return fill(strings.ReplaceAll(s, "$", "$$"), func(name string) string { return "$(" + name + ")" })
}

// MakeWord writes a word of a recipe line. What names a variable is quoted, since
// its value may be anything.
func MakeWord(s string) string {
	word := ShellWord(s)
	if word == s && !lasting(s) {
		word = "'" + s + "'"
	}
	return makeText(word)
}
