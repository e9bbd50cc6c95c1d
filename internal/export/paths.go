package export

import (
	"path"
	"path/filepath"
	"strings"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/spec"
)

// pathJoin names a file in the folder of the export as it is written in a
// command.
func pathJoin(folder, name string) string { return path.Join(filepath.ToSlash(folder), name) }

// underContext gives a Dockerfile's path as bake takes it: relative to the build
// context.
func underContext(context, file string) string {
	rel, err := filepath.Rel(filepath.FromSlash(context), filepath.FromSlash(file))
	if err != nil {
		return file
	}
	return filepath.ToSlash(rel)
}

// index is an image index over the platforms of a layer in a variant.
type index struct {
	layer, variant, image string
	tags                  []string
	of                    []*graph.Unit
	members               map[string][]string // by tag: those of the units that it is made of
}

// words gives the index as arguments of `docker buildx imagetools create`: one
// command a tag.
func (x index) words() string {
	var cmds []string
	for _, tag := range x.tags {
		words := []string{"-t", ShellWord(x.image + ":" + tag)}
		for _, m := range x.members[tag] {
			words = append(words, ShellWord(x.image+":"+m))
		}
		cmds = append(cmds, strings.Join(words, " "))
	}
	return strings.Join(cmds, "\n#   docker buildx imagetools create ")
}

// indexes gives the indexes of a project over the given units, in their order.
// One whose members have no tags to name them by is left out.
func indexes(p *spec.Project, units []*graph.Unit) []index {
	at := map[[2]string]int{}
	var out []index
	for _, u := range units {
		key := [2]string{u.Layer, u.Variant}
		if _, ok := at[key]; !ok {
			at[key] = len(out)
			out = append(out, index{layer: u.Layer, variant: u.Variant, image: u.Image, members: map[string][]string{}})
		}
		out[at[key]].of = append(out[at[key]].of, u)
	}
	var full []index
	for _, x := range out {
		for _, tag := range p.IndexTags(x.layer, x.variant, Release) {
			members := membersOf(p, x.of, tag)
			if members == nil {
				continue
			}
			x.tags = append(x.tags, tag)
			x.members[tag] = members
		}
		if len(x.tags) > 0 {
			full = append(full, x)
		}
	}
	return full
}

// membersOf chooses a tag of each unit for an index: one that names the version
// where the index does, else one that does not.
func membersOf(p *spec.Project, units []*graph.Unit, tag string) []string {
	var out []string
	for _, u := range units {
		tags := p.TagsFor(u.Unit, Release)
		if len(tags) == 0 {
			return nil
		}
		out = append(out, choose(tags, lasting(tag)))
	}
	return out
}

// tagOf gives the first of a unit's tags that lasts, or other where it has none.
func (in Input) tagOf(u *graph.Unit, other string) string {
	for _, t := range in.Graph.Project.TagsFor(u.Unit, Release) {
		if lasting(t) {
			return t
		}
	}
	return other
}

// lasting says whether a tag names nothing that is another one in each release.
func lasting(tag string) bool {
	return fill(tag, func(string) string { return "" }) == tag
}

func choose(tags []string, last bool) string {
	for _, t := range tags {
		if lasting(t) == last {
			return t
		}
	}
	return tags[0]
}
