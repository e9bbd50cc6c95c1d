package spec

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
)

// decoder turns nodes into values. The nodes were compared with their shapes
// before; what did not fit is reported already, and is left out here.
type decoder struct {
	checker
}

// each calls f for every key of a mapping, in order, the first of duplicates
// alone.
func (d *decoder) each(n *yaml.Node, f func(k, v *yaml.Node)) {
	if n = deref(n); n == nil || n.Kind != yaml.MappingNode {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Kind == yaml.ScalarNode && !seen[k.Value] {
			seen[k.Value] = true
			f(k, n.Content[i+1])
		}
	}
}

// get gives the value of a key, or nil.
func (d *decoder) get(n *yaml.Node, key string) *yaml.Node {
	var out *yaml.Node
	d.each(n, func(k, v *yaml.Node) {
		if k.Value == key {
			out = v
		}
	})
	return out
}

// text gives a scalar as it is written, "" for anything else.
func (d *decoder) text(n *yaml.Node) string {
	if n = deref(n); n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return ""
	}
	return n.Value
}

// word gives a text that was meant as one, "" for anything else.
func (d *decoder) word(n *yaml.Node) string {
	if n = deref(n); n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return ""
	}
	return n.Value
}

// at gives the text under a key.
func (d *decoder) at(n *yaml.Node, key string) string { return d.text(d.get(n, key)) }

// texts gives a list of texts, or the one text that stands in its place; nil
// for nothing.
func (d *decoder) texts(n *yaml.Node) []string {
	if n = deref(n); n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return []string{d.text(n)}
	}
	out := []string{}
	for _, item := range n.Content {
		out = append(out, d.text(item))
	}
	return out
}

// platforms gives the known ones of a list of platforms.
func (d *decoder) platforms(n *yaml.Node) []string {
	return slices.DeleteFunc(d.texts(n), func(p string) bool { return !slices.Contains(Platforms, p) })
}

// strings gives a mapping of texts, checking their templates; nil for nothing.
func (d *decoder) strings(n *yaml.Node, known []string) map[string]string {
	var out map[string]string
	d.each(n, func(k, v *yaml.Node) {
		if out == nil {
			out = map[string]string{}
		}
		out[k.Value] = d.template(v, known)
	})
	return out
}

// template gives a text after a look at its variables.
func (d *decoder) template(n *yaml.Node, known []string) string {
	s := d.text(n)
	for _, name := range unknownVars(s, known) {
		d.list.Errorf(d.pos(deref(n)), suggest(name, known), "unknown variable {%s} in %q", name, s)
	}
	return s
}

func (d *decoder) templates(n *yaml.Node, known []string) []string {
	out := d.texts(n)
	if n = deref(n); n != nil && n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			d.template(item, known)
		}
	} else if n != nil {
		d.template(n, known)
	}
	return out
}

func (d *decoder) duration(n *yaml.Node) time.Duration {
	s := d.text(n)
	if s == "" || !durationFormat.re.MatchString(s) {
		return 0
	}
	out, err := parseDuration(s)
	if err != nil {
		d.list.Errorf(d.pos(deref(n)), "", "%s", err)
	}
	return out
}

// project reads the whole file.
func (d *decoder) project(n *yaml.Node) *Project {
	p := &Project{
		Image: d.at(n, "image"), Version: d.at(n, "version"),
		Platforms: d.platforms(d.get(n, "platforms")),
		Args:      d.strings(d.get(n, "args"), valueVars), Labels: d.strings(d.get(n, "labels"), valueVars),
		Tags: d.tags(d.get(n, "tags")), Protect: d.texts(d.get(n, "protect")), Channels: d.channels(d.get(n, "channels")),
		Keep: d.keep(d.get(n, "keep")), Cache: d.cache(d.get(n, "cache")), Engines: d.engines(d.get(n, "engine")),
		Compression: d.at(n, "compression"),
	}
	d.each(d.get(n, "runners"), func(k, v *yaml.Node) {
		if p.Runners == nil {
			p.Runners = map[string][]string{}
		}
		p.Runners[k.Value] = d.texts(v)
	})
	d.each(d.get(n, "variants"), func(k, v *yaml.Node) {
		p.Variants = append(p.Variants, Variant{
			Name: k.Value, Platforms: d.platforms(d.get(v, "platforms")), Args: d.strings(d.get(v, "args"), valueVars),
			Labels: d.strings(d.get(v, "labels"), valueVars), Tags: d.tags(d.get(v, "tags")), Pos: d.pos(k),
		})
	})
	d.each(d.get(n, "layers"), func(k, v *yaml.Node) { p.Layers = append(p.Layers, d.layer(k, v)) })
	d.inherit(p, n)
	return p
}

// channels reads the names of channels, which must not mean something else where
// promote takes a name, nor give tags that are kept for records.
func (d *decoder) channels(n *yaml.Node) []string {
	names := d.texts(n)
	for i, name := range names {
		at := deref(n)
		if at.Kind == yaml.SequenceNode {
			at = deref(at.Content[i])
		}
		switch {
		case name == "latest":
			d.list.Errorf(d.pos(at), "give the channel another name, such as stable: latest is what the last build has published, for promote and in the tags that every build sets",
				"no channel can be named %q", name)
		case strings.HasPrefix(name, "strata-"):
			d.list.Errorf(d.pos(at), "give the channel another name: tags that begin with strata- hold records", "no channel can be named %q", name)
		}
	}
	return names
}

// inherit gives layers the project's Dockerfile and context where they have
// none of their own.
func (d *decoder) inherit(p *Project, n *yaml.Node) {
	dockerfile := d.choice(d.get(n, "dockerfile"), pathVars)
	if dockerfile == nil {
		dockerfile = Choice{{Selector: "*", Value: "Dockerfile"}}
	}
	context := d.choice(d.get(n, "context"), pathVars)
	if context == nil {
		context = Choice{{Selector: "*", Value: "."}}
	}
	for i := range p.Layers {
		l := &p.Layers[i]
		if l.Dockerfile == nil {
			l.Dockerfile = slices.Clone(dockerfile)
			if dockerfile[0].Pos.Line == 0 {
				l.Dockerfile[0].Pos = l.Pos
			}
		}
		if l.Context == nil {
			l.Context = context
		}
	}
}

func (d *decoder) layer(k, n *yaml.Node) Layer {
	l := Layer{
		Name: k.Value, Pos: d.pos(k),
		Image: d.at(n, "image"), Parent: d.word(d.get(n, "parent")), Stage: d.at(n, "stage"),
		Dockerfile: d.choice(d.get(n, "dockerfile"), pathVars), Context: d.choice(d.get(n, "context"), pathVars),
		Target: d.choice(d.get(n, "target"), pathVars), Only: d.texts(d.get(n, "only")), Settings: d.settings(n),
		SSH: d.texts(d.get(n, "ssh")), Refresh: d.refresh(d.get(n, "refresh")), Stale: d.at(n, "stale"),
		MaxAge: d.duration(d.get(n, "max-age")), OnParentChange: d.at(n, "on-parent-change"),
		Keep: d.keep(d.get(n, "keep")), Tags: d.layerTags(d.get(n, "tags")),
	}
	if l.Stale == "" {
		l.Stale = "allow"
	}
	if l.OnParentChange == "" {
		l.OnParentChange = "rebuild"
	}
	if s := deref(d.get(n, "secrets")); s != nil {
		for _, item := range s.Content {
			l.Secrets = append(l.Secrets, Secret{ID: d.at(item, "id"), Env: d.at(item, "env"), File: d.at(item, "file")})
		}
	}
	d.each(d.get(n, "for"), func(k, v *yaml.Node) {
		l.For = append(l.For, Override{
			Selector: k.Value, Settings: d.settings(v), Pos: d.pos(k), Dockerfile: d.template(d.get(v, "dockerfile"), pathVars),
			Context: d.template(d.get(v, "context"), pathVars), Target: d.template(d.get(v, "target"), pathVars),
		})
	})
	d.layerRules(l, n)
	return l
}

// layerRules reports keys of one layer that do not go together.
func (d *decoder) layerRules(l Layer, n *yaml.Node) {
	conflict := func(key, hint string) {
		if v := d.get(n, key); v != nil && l.Stage != "" {
			d.list.Errorf(d.pos(v), hint, "layer %q is a stage and has a %s as well", l.Name, key)
		}
	}
	conflict("parent", "leave it out: the parents of a stage come from its Dockerfile")
	conflict("target", "keep `stage`, or `target` for a layer that is not shared with other stages")
	if v := d.get(n, "max-age"); v != nil && l.Stale == "deny" {
		d.list.Errorf(d.pos(v), "leave one of them out", "layer %q has a max-age, which stale: deny makes meaningless", l.Name)
	}
	for _, key := range []string{"stale", "max-age"} {
		if v := d.get(n, key); v != nil && d.get(n, "refresh") == nil {
			d.list.Errorf(d.pos(v), "add `refresh: week` or so", "layer %q has %s but no refresh", l.Name, key)
		}
	}
}

func (d *decoder) settings(n *yaml.Node) Settings {
	return Settings{
		Args: d.strings(d.get(n, "args"), valueVars), Labels: d.strings(d.get(n, "labels"), valueVars),
		Contexts: d.strings(d.get(n, "contexts"), pathVars), Network: d.at(n, "network"), Test: d.test(d.get(n, "test")),
	}
}

// choice reads a value, or a value for each selector; nil for nothing.
func (d *decoder) choice(n *yaml.Node, known []string) Choice {
	m := deref(n)
	if m == nil {
		return nil
	}
	if m.Kind == yaml.ScalarNode {
		return Choice{{Selector: "*", Value: d.template(n, known), Pos: d.pos(n)}}
	}
	out := Choice{}
	d.each(m, func(k, v *yaml.Node) {
		out = append(out, Chosen{Selector: k.Value, Value: d.template(v, known), Pos: d.pos(k)})
	})
	return out
}

func (d *decoder) tags(n *yaml.Node) Tags {
	return Tags{
		Layer: d.templates(d.get(n, "layer"), tagVars),
		Image: d.templates(d.get(n, "image"), tagVars),
		Index: d.templates(d.get(n, "index"), tagVars),
	}
}

// layerTags reads the tags of one layer: a list stands for its index, and takes
// the manifests' tags away.
func (d *decoder) layerTags(n *yaml.Node) Tags {
	if m := deref(n); m != nil && m.Kind == yaml.SequenceNode {
		return Tags{Image: []string{}, Index: d.templates(n, tagVars)}
	}
	return d.tags(n)
}

func (d *decoder) keep(n *yaml.Node) Keep {
	count, _ := strconv.Atoi(d.at(n, "count"))
	return Keep{Age: d.duration(d.get(n, "age")), Count: count}
}

func (d *decoder) refresh(n *yaml.Node) *Refresh {
	if n == nil {
		return nil
	}
	from, at := n, d.get(n, "at")
	if deref(n).Kind == yaml.MappingNode {
		from = d.get(n, "every")
	}
	every := d.text(from)
	if !everyFormat.re.MatchString(every) || at != nil && !atFormat.re.MatchString(d.text(at)) {
		return nil
	}
	r, err := parseRefresh(every, d.text(at))
	if err != nil {
		if at != nil {
			from = at
		}
		d.list.Errorf(d.pos(deref(from)), diag.HintOf(err), "refresh: %s", err)
		return nil
	}
	return &r
}

// testTimeout is how long a gate may take unless the project says otherwise.
const testTimeout = 10 * time.Minute

func (d *decoder) test(n *yaml.Node) *Test {
	m := deref(n)
	if m == nil {
		return nil
	}
	t := &Test{Timeout: testTimeout, Network: "default"}
	if m.Kind != yaml.MappingNode {
		t.Run = d.command(m)
		return t
	}
	t.Run, t.Stage = d.command(d.get(m, "run")), d.at(m, "stage")
	if timeout := d.duration(d.get(m, "timeout")); timeout > 0 {
		t.Timeout = timeout
	}
	if network := d.at(m, "network"); network != "" {
		t.Network = network
	}
	return t
}

// command reads arguments, or a text for a shell.
func (d *decoder) command(n *yaml.Node) []string {
	if m := deref(n); m != nil && m.Kind == yaml.ScalarNode {
		return []string{"/bin/sh", "-c", d.text(m)}
	}
	return d.texts(n)
}

func (d *decoder) cache(n *yaml.Node) Cache {
	m := deref(n)
	switch {
	case m == nil:
		return Cache{Type: "none"}
	case m.Kind == yaml.ScalarNode:
		return Cache{Type: d.text(m), Mode: "max"}
	}
	c := Cache{Type: d.at(m, "type"), Mode: d.at(m, "mode"), Attrs: d.strings(d.get(m, "attrs"), nil)}
	if c.Mode == "" {
		c.Mode = "max"
	}
	return c
}

func (d *decoder) engines(n *yaml.Node) []Endpoint {
	m := deref(n)
	if m == nil {
		return nil
	}
	if m.Kind == yaml.ScalarNode {
		return []Endpoint{{URL: d.text(m)}}
	}
	var out []Endpoint
	for _, item := range m.Content {
		e := Endpoint{URL: d.text(item)}
		if deref(item).Kind == yaml.MappingNode {
			e = Endpoint{URL: d.at(item, "endpoint"), Platforms: d.platforms(d.get(item, "platforms"))}
		}
		out = append(out, e)
	}
	return out
}
