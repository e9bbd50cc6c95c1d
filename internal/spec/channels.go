package spec

import "slices"

// A release is a set of tags, one for each unit and index, that differ from
// those of another release in the version alone; a channel is a release whose
// name moves on. Both are found through the templates that have {version} and
// neither {branch} nor {sha}.

// ReleaseTags gives the tags of a unit's own manifest in the release of a
// version or channel, in the order of their templates.
func (p *Project) ReleaseTags(u Unit, version string) []string {
	return p.unitTags(u, version, versioned)
}

// ReleaseIndexTags does so for the index over the platforms of a layer in a
// variant.
func (p *Project) ReleaseIndexTags(layer, variant, version string) []string {
	return p.indexTags(layer, variant, version, versioned)
}

// LatestTags gives the tags of a unit's own manifest that every run moves:
// those that name neither version, branch nor commit.
func (p *Project) LatestTags(u Unit) []string {
	return p.unitTags(u, "", unnamed)
}

// LatestIndexTags does so for an index.
func (p *Project) LatestIndexTags(layer, variant string) []string {
	return p.indexTags(layer, variant, "", unnamed)
}

func versioned(vars []string) bool {
	return slices.Contains(vars, "version") && !slices.Contains(vars, "branch") && !slices.Contains(vars, "sha")
}

func unnamed(vars []string) bool {
	return !slices.ContainsFunc(vars, func(v string) bool { return v == "version" || v == "branch" || v == "sha" })
}

func (p *Project) unitTags(u Unit, version string, want func(vars []string) bool) []string {
	l, _ := p.Layer(u.Layer)
	v, _ := p.Variant(u.Variant)
	t := p.templates(l, v)
	templates := slices.Clone(t.Image)
	if !p.multi(u.Layer, u.Variant) {
		templates = append(templates, t.Index...)
	}
	return p.named(templates, u, version, want)
}

func (p *Project) indexTags(layer, variant, version string, want func(vars []string) bool) []string {
	l, ok := p.Layer(layer)
	v, found := p.Variant(variant)
	if !ok || !found || !p.multi(layer, variant) {
		return nil
	}
	return p.named(p.templates(l, v).Index, Unit{Layer: layer, Variant: variant}, version, want)
}

// named fills the wanted templates with a version, whatever the project's own is.
func (p *Project) named(templates []string, u Unit, version string, want func(vars []string) bool) []string {
	templates = slices.DeleteFunc(slices.Clone(templates), func(t string) bool { return !want(variables(t)) })
	q := *p
	q.Version = version
	return compact(q.expandTags(templates, u, Release{Version: version}))
}

// variables names the variables of a template.
func variables(template string) []string {
	var out []string
	for _, p := range pieces(template) {
		if p.isVar {
			out = append(out, p.text)
		}
	}
	return out
}
