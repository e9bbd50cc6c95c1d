package spec

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/diag"
)

// Unit is one layer for one variant and platform: what is planned, built,
// reused and timed. Everything that selectors, defaults and templates decide is
// decided. It is immutable; its maps and slices must not be changed.
type Unit struct {
	Layer    string `json:"layer"`
	Variant  string `json:"variant,omitempty"`
	Platform string `json:"platform"` // "linux/arm64"
	Image    string `json:"image"`    // repository as written, without tag
	Parent   string `json:"parent,omitempty"`
	Leaf     bool   `json:"leaf,omitempty"` // no other layer stands on it

	Dockerfile string `json:"dockerfile"`       // relative to the project's Dir, slashes
	Inline     []byte `json:"inline,omitempty"` // text of the Dockerfile where a bake file holds it; Dockerfile is then only a name
	Context    string `json:"context"`          // folder relative to the project's Dir, slashes
	Target     string `json:"target,omitempty"` // "" is the last stage
	// Stage says that the layer is a stage of a multi-stage Dockerfile, whose
	// parents are those of the Dockerfile's other stages that are layers.
	Stage bool `json:"stage,omitempty"`

	Args     map[string]string `json:"args,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Contexts map[string]string `json:"contexts,omitempty"` // a folder relative to Dir, docker-image://REF, or layer:NAME
	Secrets  []Secret          `json:"secrets,omitempty"`
	SSH      []string          `json:"ssh,omitempty"`     // "default" or "id=path"
	Network  string            `json:"network,omitempty"` // of RUN: "" for the default, "none" or "host"

	Refresh        *Refresh      `json:"refresh,omitempty"`
	Stale          string        `json:"stale,omitempty"`  // "allow" or "deny"
	MaxAge         time.Duration `json:"maxAge,omitempty"` // nanoseconds; 0: no limit
	OnParentChange string        `json:"onParentChange"`   // "rebuild", "rebase" or "rebase-or-rebuild"
	Test           *Test         `json:"test,omitempty"`
	Keep           Keep          `json:"keep,omitzero"`

	Pos diag.Pos `json:"-"` // of the layer in the project's file
}

// ID names a unit: "app/cpu/linux/amd64", and "app/linux/amd64" in a project
// without variants.
func (u Unit) ID() string {
	if u.Variant == "" {
		return u.Layer + "/" + u.Platform
	}
	return u.Layer + "/" + u.Variant + "/" + u.Platform
}

// Arch names the architecture as tags do: "arm64", "armv7".
func (u Unit) Arch() string { return archOf(u.Platform) }

// Handover is a parent of a unit and the way in which the unit gets it.
type Handover struct {
	Layer   string
	Context string // named context; "" for Unit.Parent, where the Dockerfile decides: BASE_IMAGE, or a context named like the layer
}

// Parents gives the layers whose images the project's file hands to the unit,
// sorted by context. The parents of a stage come from its Dockerfile besides.
func (u Unit) Parents() []Handover {
	var out []Handover
	if u.Parent != "" {
		out = append(out, Handover{Layer: u.Parent})
	}
	for _, name := range slices.Sorted(maps.Keys(u.Contexts)) {
		if layer, ok := strings.CutPrefix(u.Contexts[name], layerScheme); ok {
			out = append(out, Handover{Layer: layer, Context: name})
		}
	}
	return out
}

// layerScheme marks a named context that is another layer's image.
const layerScheme = "layer:"

// Units gives every unit of the project: parents' layers before children's,
// then variants and platforms as declared. Templates with {version} take the
// version from [Project.With].
func (p *Project) Units() []Unit { return slices.Clone(p.units) }

// Unit gives the unit with the given ID.
func (p *Project) Unit(id string) (Unit, bool) {
	if i, ok := p.index.units[id]; ok {
		return p.units[i], true
	}
	return Unit{}, false
}

// Layer gives the layer with the given name.
func (p *Project) Layer(name string) (Layer, bool) {
	if i, ok := p.index.layers[name]; ok {
		return p.Layers[i], true
	}
	return Layer{}, false
}

// Variant gives the variant with the given name.
func (p *Project) Variant(name string) (Variant, bool) {
	for _, v := range p.Variants {
		if v.Name == name {
			return v, true
		}
	}
	return Variant{}, false
}

// With gives the project with units whose {version} is that of r. A version
// that the project's file states wins.
func (p *Project) With(r Release) *Project {
	q := *p
	if q.Version == "" {
		q.Version = r.Version
	}
	res := resolver{p: &q, list: &diag.List{}}
	q.units = res.units()
	q.index = q.makeIndex()
	return &q
}

// resolver turns layers into units and reports what does not resolve.
type resolver struct {
	p    *Project
	list *diag.List
	from map[string]diag.Pos // "dockerfile ID", "context ID" -> where the value was written
}

func (r *resolver) units() []Unit {
	r.from = map[string]diag.Pos{}
	var out []Unit
	size := 0
	for _, l := range r.p.Layers {
		for _, v := range r.p.Variants {
			for _, platform := range v.Platforms {
				if !r.exists(l, v.Name, platform) {
					continue
				}
				u := r.unit(l, v, platform)
				out = append(out, u)
				if size += u.size(); size > maxValues {
					r.list.Errorf(l.Pos, "split the project into several, or set fewer for all layers",
						"arguments, labels and contexts of all units come to more than %d MB", maxValues>>20)
					return out
				}
			}
		}
	}
	return out
}

// size is about what the maps of a unit take in memory.
func (u *Unit) size() int {
	n := 0
	for _, m := range []map[string]string{u.Args, u.Labels, u.Contexts} {
		for k, v := range m {
			n += len(k) + len(v) + 64
		}
	}
	return n
}

// exists reports whether a layer has a unit for a variant and platform.
func (r *resolver) exists(l Layer, variant, platform string) bool {
	if len(l.Only) == 0 {
		return true
	}
	return slices.ContainsFunc(l.Only, func(s string) bool { return r.matches(s, variant, platform) })
}

func (r *resolver) matches(text, variant, platform string) bool {
	s, err := parseSelector(text, r.p.variantNames())
	return err == nil && s.matches(variant, platform)
}

func (p *Project) variantNames() []string {
	var out []string
	for _, v := range p.Variants {
		if v.Name != "" {
			out = append(out, v.Name)
		}
	}
	return out
}

func (r *resolver) unit(l Layer, v Variant, platform string) Unit {
	u := Unit{
		Layer: l.Name, Variant: v.Name, Platform: platform, Image: l.Image, Parent: l.Parent, Leaf: l.Leaf,
		Stage: l.Stage != "" || l.isStage, Target: strings.ToLower(l.Stage), Inline: l.inline,
		Secrets: l.Secrets, SSH: l.SSH, Refresh: l.Refresh, Stale: l.Stale, MaxAge: l.MaxAge,
		OnParentChange: l.OnParentChange, Keep: l.Keep, Test: l.Test, Network: l.Network, Pos: l.Pos,
	}
	if u.Image == "" {
		u.Image = r.p.Image
	}
	if u.Keep == (Keep{}) {
		u.Keep = r.p.Keep
	}
	var vars map[string]string // only strata.yaml has these templates
	if r.p.Kind == KindStrata {
		vars = r.vars(u)
	}
	args, labels, contexts := overlay(r.p.Args, v.Args, l.Args), overlay(r.p.Labels, v.Labels, l.Labels), overlay(l.Contexts)
	r.choose(&u.Dockerfile, l.Dockerfile, u, "dockerfile")
	r.choose(&u.Context, l.Context, u, "context")
	r.choose(&u.Target, l.Target, u, "target")
	for _, o := range r.overrides(l, u) {
		r.apply(&u, o)
		args, labels, contexts = overlay(args, o.Args), overlay(labels, o.Labels), overlay(contexts, o.Contexts)
	}
	u.Dockerfile = clean(expand(u.Dockerfile, vars))
	u.Context = clean(expand(u.Context, vars))
	u.Target = expand(u.Target, vars)
	u.Args, u.Labels, u.Contexts = expandAll(args, vars), expandAll(labels, vars), expandAll(contexts, vars)
	if u.Network == "default" {
		u.Network = ""
	}
	return u
}

// apply lets an override's values that are not maps replace the unit's.
func (r *resolver) apply(u *Unit, o Override) {
	set := func(dst *string, value, what string) {
		if value != "" {
			*dst = value
			r.from[what+" "+u.ID()] = o.Pos
		}
	}
	set(&u.Dockerfile, o.Dockerfile, "dockerfile")
	set(&u.Context, o.Context, "context")
	set(&u.Target, o.Target, "target")
	set(&u.Network, o.Network, "network")
	if o.Test != nil {
		u.Test = o.Test
	}
}

// choose sets dst to the value of the most specific selector that matches u.
func (r *resolver) choose(dst *string, c Choice, u Unit, what string) {
	best := -1
	for _, one := range c {
		s, err := parseSelector(one.Selector, r.p.variantNames())
		if err == nil && s.matches(u.Variant, u.Platform) && s.weight() > best {
			best = s.weight()
			*dst = one.Value
			r.from[what+" "+u.ID()] = one.Pos
		}
	}
	if len(c) > 0 && best < 0 && what != "target" {
		r.list.Errorf(u.Pos, `add a selector for it, or "*" for all`, "layer %q has no %s for %s", u.Layer, what, place(u))
	}
}

// place names a unit's variant and platform as a selector does.
func place(u Unit) string {
	if u.Variant == "" {
		return u.Platform
	}
	return u.Variant + "/" + u.Platform
}

// overrides gives the overrides of l that match u, the most specific one last.
func (r *resolver) overrides(l Layer, u Unit) []Override {
	var out []Override
	weights := map[string]int{}
	for _, o := range l.For {
		s, err := parseSelector(o.Selector, r.p.variantNames())
		if err == nil && s.matches(u.Variant, u.Platform) {
			out = append(out, o)
			weights[o.Selector] = s.weight()
		}
	}
	slices.SortStableFunc(out, func(a, b Override) int { return weights[a.Selector] - weights[b.Selector] })
	return out
}

// overlay merges maps; the later one wins. It gives nil for nothing.
func overlay(in ...map[string]string) map[string]string {
	var out map[string]string
	for _, m := range in {
		if len(m) > 0 && out == nil {
			out = map[string]string{}
		}
		maps.Copy(out, m)
	}
	return out
}
