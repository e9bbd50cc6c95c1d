package spec

import (
	"slices"
	"strings"
)

// Release is what a run publishes. A tag whose template names a value that is
// empty here is left out.
type Release struct {
	Version string // "1.4.0", "v1.3-2-gabc1234"
	Branch  string // "main"
	Sha     string // abbreviated commit
}

// tagCase is what the default tags hang on.
type tagCase struct {
	leaf  bool // no layer stands on it
	multi bool // the variant has several platforms
	named bool // the project has variants
	plain bool // the leaf's name is not needed to tell it from other leaves
}

// defaults gives the default tags. They are the names that the plan in whose
// place Strata stands gave by hand: cpu-base-amd64-latest, latest-cpu-amd64,
// latest-cpu; without the architecture where a variant has one platform:
// cuda-base-latest, cuda-amd64, cuda-latest.
func (c tagCase) defaults() Tags {
	layer := "-{layer}"
	if c.plain {
		layer = ""
	}
	switch {
	case !c.leaf && c.multi:
		return Tags{Image: []string{"{variant}-{layer}-{arch}-{version}", "{variant}-{layer}-{arch}-latest"}}
	case !c.leaf:
		return Tags{Image: []string{"{variant}-{layer}-{version}", "{variant}-{layer}-latest"}}
	case c.multi:
		return Tags{
			Image: []string{"latest" + layer + "-{variant}-{arch}", "{version}" + layer + "-{variant}-{arch}"},
			Index: []string{"latest" + layer + "-{variant}", "{version}" + layer + "-{variant}"},
		}
	case c.named:
		layer = strings.TrimPrefix(layer+"-", "-")
		return Tags{Image: []string{layer + "{variant}-{arch}", "{version}-" + layer + "{variant}-{arch}", layer + "{variant}-latest"}}
	}
	return Tags{Image: []string{"latest" + layer, "{version}" + layer}}
}

// templates gives the templates of a layer's manifests and indexes in a
// variant: the layer's own, the variant's, the project's, the default.
func (p *Project) templates(l Layer, v Variant) Tags {
	c := tagCase{leaf: l.Leaf, multi: p.multi(l.Name, v.Name), named: v.Name != "", plain: p.plain(l)}
	out := c.defaults()
	for _, t := range []Tags{p.Tags, v.Tags} {
		if !l.Leaf {
			t = Tags{Image: t.Layer}
		}
		out = out.overlay(t)
	}
	return out.overlay(l.Tags)
}

// multi reports whether a layer is built for several platforms in a variant.
func (p *Project) multi(layer, variant string) bool {
	return p.index.platforms[[2]string{layer, variant}] > 1
}

// overlay gives t with the lists that over has.
func (t Tags) overlay(over Tags) Tags {
	if over.Image != nil {
		t.Image = over.Image
	}
	if over.Index != nil {
		t.Index = over.Index
	}
	return t
}

// plain reports whether a leaf needs no layer name in its default tags: it is
// the only one of its image, or the last stage of the Dockerfile that is the
// whole project.
func (p *Project) plain(l Layer) bool {
	image := p.imageOf(l)
	if l.main {
		return but(p.index.mains[image], l.Name) == 0
	}
	return but(p.index.leaves[image], l.Name) == 0
}

func (p *Project) imageOf(l Layer) string {
	if l.Image != "" {
		return l.Image
	}
	return p.Image
}

// TagsFor gives the tags of a unit's own manifest in Unit.Image, in the order
// of their templates. Where the variant has one platform, these include the
// tags that an index would have had.
func (p *Project) TagsFor(u Unit, r Release) []string {
	l, _ := p.Layer(u.Layer)
	v, _ := p.Variant(u.Variant)
	t := p.templates(l, v)
	out := p.expandTags(t.Image, u, r)
	if !p.multi(u.Layer, u.Variant) {
		out = append(out, p.expandTags(t.Index, u, r)...)
	}
	return compact(out)
}

// IndexTags gives the tags of the index over a layer's platforms in a variant;
// nil where the variant has one platform, or the layer no index.
func (p *Project) IndexTags(layer, variant string, r Release) []string {
	l, ok := p.Layer(layer)
	v, found := p.Variant(variant)
	if !ok || !found || !p.multi(layer, variant) {
		return nil
	}
	return compact(p.expandTags(p.templates(l, v).Index, Unit{Layer: layer, Variant: variant}, r))
}

func compact(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (p *Project) expandTags(templates []string, u Unit, r Release) []string {
	version := p.Version
	if version == "" {
		version = r.Version
	}
	vars := map[string]string{
		"variant": u.Variant, "layer": u.Layer, "platform": u.Platform, "os": osOf(u.Platform),
		"arch": archOf(u.Platform), "version": version, "branch": r.Branch, "sha": r.Sha,
	}
	var out []string
	for _, t := range templates {
		if tag, ok := expandTag(t, vars); ok {
			out = append(out, tag)
		}
	}
	return out
}

// expandTag makes a tag, or reports that a value of the release is missing.
func expandTag(template string, vars map[string]string) (string, bool) {
	var b strings.Builder
	cut := false // the dash that follows goes with the variable before it
	for _, p := range pieces(template) {
		if !p.isVar {
			text := p.text
			if cut && strings.ContainsAny(text[:1], "-_.") {
				text = text[1:]
			}
			cut = false
			b.WriteString(text)
			continue
		}
		value := tagPart(vars[p.text])
		if value == "" && (p.text == "version" || p.text == "branch" || p.text == "sha") {
			return "", false
		}
		cut = value == ""
		b.WriteString(value)
	}
	out := b.String()
	if cut {
		out = strings.TrimRight(out, "-_.")
	}
	out = strings.TrimLeft(out, "-.")
	if len(out) > maxTag {
		out = out[:maxTag]
	}
	return out, out != ""
}

// maxTag is the longest tag of the OCI distribution specification.
const maxTag = 128

// tagPart replaces what a tag must not have: "feature/x" is "feature-x".
func tagPart(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, s)
}
