package spec

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// validate checks what only the whole project can tell, orders the layers, and
// resolves the units.
func (l *loader) validate(p *Project) {
	if !l.checkSize(p) {
		return
	}
	before := l.list.Err()
	l.checkVariants(p)
	l.checkParents(p)
	r := resolver{p: p, list: &l.list}
	r.checkSelectors()
	l.markLeaves(p)
	p.Layers = order(p.Layers)
	if p.units = r.units(); len(p.units) > maxUnits {
		l.list.Errorf(diag.Pos{File: p.File}, "split it into several projects", "the project has %d units; at most %d can be planned", len(p.units), maxUnits)
		return
	}
	p.index = p.makeIndex()
	l.checkUnits(p, r.from)
	if before == nil && l.list.Err() == nil {
		l.checkTags(p) // names of a broken project are noise
	}
}

// checkVariants reports variants that read like a platform.
func (l *loader) checkVariants(p *Project) {
	for _, v := range p.Variants {
		if machinePart(v.Name) {
			l.list.Errorf(v.Pos, "selectors name platforms by themselves: \""+v.Name+": PATH\"",
				"variant %q has the name of a platform", v.Name)
		}
	}
}

// edges gives the layers that each layer names as parents.
func edges(layers []Layer) map[string][]string {
	out := map[string][]string{}
	for _, l := range layers {
		var to []string
		if l.Parent != "" {
			to = append(to, l.Parent)
		}
		to = append(to, contextLayers(l.Contexts)...)
		for _, o := range l.For {
			to = append(to, contextLayers(o.Contexts)...)
		}
		out[l.Name] = compact(to)
	}
	return out
}

// contextLayers gives the layers among named contexts, in order.
func contextLayers(contexts map[string]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(contexts)) {
		if layer, ok := strings.CutPrefix(contexts[name], layerScheme); ok {
			out = append(out, layer)
		}
	}
	return out
}

// checkParents reports parents that are no layer, and cycles.
func (l *loader) checkParents(p *Project) {
	var names []string
	known := map[string]bool{}
	for _, layer := range p.Layers {
		names = append(names, layer.Name)
		known[layer.Name] = true
	}
	to := edges(p.Layers)
	for _, layer := range p.Layers {
		for _, parent := range to[layer.Name] {
			if !known[parent] {
				l.list.Errorf(layer.Pos, suggest(parent, without(names, layer.Name)),
					"layer %q stands on %q, which no layer is named", layer.Name, parent)
			}
		}
	}
	reported := map[string]bool{} // layers of the cycles so far
	_, left := peel(p.Layers, to)
	for _, layer := range left {
		if reported[layer.Name] {
			continue
		}
		if cycle := findCycle(to, layer.Name); cycle != nil {
			for _, name := range cycle {
				reported[name] = true
			}
			l.list.Errorf(layer.Pos, "take one of these parents out", "layers stand on each other in a cycle: %s", strings.Join(cycle, " -> "))
		}
	}
}

func without(in []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(in), func(s string) bool { return s == name })
}

// findCycle gives a way from start back to it, start at both ends, or nil.
func findCycle(to map[string][]string, start string) []string {
	seen := map[string]bool{}
	var walk func(at string) []string
	walk = func(at string) []string {
		for _, next := range to[at] {
			if next == start {
				return []string{at, start}
			}
			if seen[next] {
				continue
			}
			seen[next] = true
			if rest := walk(next); rest != nil {
				return append([]string{at}, rest...)
			}
		}
		return nil
	}
	return walk(start)
}

// order gives the layers with parents before children, as declared otherwise.
// It leaves layers of a cycle at the end.
func order(layers []Layer) []Layer {
	sorted, cyclic := peel(layers, edges(layers))
	return append(sorted, cyclic...)
}

// peel is order, with what stands on a cycle, or is on one, apart.
func peel(layers []Layer, to map[string][]string) (sorted, cyclic []Layer) {
	known := map[string]bool{}
	for _, l := range layers {
		known[l.Name] = true
	}
	waits := make([]int, len(layers)) // for so many parents
	children := map[string][]int{}
	ready := &ints{}
	for i, l := range layers {
		for _, parent := range to[l.Name] {
			if known[parent] {
				waits[i]++
				children[parent] = append(children[parent], i)
			}
		}
		if waits[i] == 0 {
			heap.Push(ready, i)
		}
	}
	placed := map[string]bool{}
	sorted = make([]Layer, 0, len(layers))
	for ready.Len() > 0 {
		l := layers[heap.Pop(ready).(int)]
		if placed[l.Name] {
			continue
		}
		placed[l.Name] = true
		sorted = append(sorted, l)
		for _, child := range children[l.Name] {
			if waits[child]--; waits[child] == 0 {
				heap.Push(ready, child)
			}
		}
	}
	return sorted, slices.DeleteFunc(slices.Clone(layers), func(l Layer) bool { return placed[l.Name] })
}

// ints is a heap of numbers, the least first.
type ints []int

func (h ints) Len() int           { return len(h) }
func (h ints) Less(i, j int) bool { return h[i] < h[j] }
func (h ints) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ints) Push(x any)        { *h = append(*h, x.(int)) }
func (h *ints) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// checkSelectors reports selectors that match nothing, or mean the same.
func (r *resolver) checkSelectors() {
	choices := func(c Choice) {
		var texts []string
		var at []diag.Pos
		for _, one := range c {
			if one.Selector != "*" && !r.checkSelector(one.Pos, one.Selector) {
				continue
			}
			texts, at = append(texts, one.Selector), append(at, one.Pos)
		}
		r.checkSame(texts, at)
	}
	for _, l := range r.p.Layers {
		choices(l.Dockerfile)
		choices(l.Context)
		choices(l.Target)
		overrides := Choice{}
		for _, o := range l.For {
			overrides = append(overrides, Chosen{Selector: o.Selector, Pos: o.Pos})
		}
		choices(overrides)
		for _, s := range without(l.Only, "") {
			r.checkSelector(l.Pos, s)
		}
	}
}

// checkUnits reports files that are not there, contexts that can't be used,
// and parents that a unit's variant or platform does not have. What several
// units share is said once.
func (l *loader) checkUnits(p *Project, from map[string]diag.Pos) {
	said := map[string]bool{}
	once := func(pos diag.Pos, what, hint, format string, args ...any) {
		if key := pos.String() + what; !said[key] {
			said[key] = true
			l.list.Errorf(pos, hint, format, args...)
		}
	}
	layers := map[string]bool{}
	for _, layer := range p.Layers {
		layers[layer.Name] = true
	}
	if p.Cache.Type == "local" && l.access != nil {
		if _, err := l.access.ForWriting(p.Cache.Folder()); err != nil {
			once(diag.Pos{File: p.File}, "cache", diag.HintOf(err), "the folder of the cache %q: %s", p.Cache.Folder(), err)
		}
	}
	for _, u := range p.units {
		pos := at(from["dockerfile "+u.ID()], u.Pos)
		if u.Dockerfile != "" && u.Inline == nil && remote(u.Dockerfile) == "" && len(unknownVars(u.Dockerfile, nil)) == 0 {
			if err := l.refused(u.Dockerfile); err != nil {
				once(pos, u.Dockerfile, diag.HintOf(err), "layer %q for %s: the Dockerfile %q: %s", u.Layer, place(u), u.Dockerfile, err)
			} else if !l.isFile(u.Dockerfile) {
				once(pos, u.Dockerfile, l.nearFile(u.Dockerfile), "layer %q for %s: no Dockerfile at %q", u.Layer, place(u), u.Dockerfile)
			}
		}
		pos = at(from["context "+u.ID()], u.Pos)
		if hint := remote(u.Context); hint != "" {
			once(pos, u.Context, hint, "layer %q for %s: the context %q is not a folder of this machine", u.Layer, place(u), u.Context)
		} else if err := l.refused(u.Context); err != nil {
			once(pos, u.Context, diag.HintOf(err), "layer %q for %s: the context %q: %s", u.Layer, place(u), u.Context, err)
		} else if u.Context != "" && len(unknownVars(u.Context, nil)) == 0 && !l.isDir(u.Context) {
			once(pos, u.Context, "name a folder relative to the project's", "layer %q for %s: no folder at context %q", u.Layer, place(u), u.Context)
		}
		for _, name := range slices.Sorted(maps.Keys(u.Contexts)) {
			l.checkContext(u, name, once)
		}
		for _, file := range u.hostFiles() {
			if err := l.refused(file.path); err != nil {
				once(u.Pos, file.path, diag.HintOf(err), "layer %q: %s: %s", u.Layer, file.what, err)
			}
		}
		for _, h := range u.Parents() {
			id := Unit{Layer: h.Layer, Variant: u.Variant, Platform: u.Platform}.ID()
			if _, ok := p.Unit(id); !ok && layers[h.Layer] {
				once(u.Pos, h.Layer, fmt.Sprintf("add `only:` to layer %q as well, or take the limit from %q", u.Layer, h.Layer),
					"layer %q for %s stands on %q, which is not built for %s", u.Layer, place(u), h.Layer, place(u))
			}
		}
	}
}

// hostFile is a file that a unit takes beside its Dockerfile and contexts.
type hostFile struct{ what, path string }

func (u Unit) hostFiles() []hostFile {
	var out []hostFile
	for _, s := range u.Secrets {
		if s.File != "" {
			out = append(out, hostFile{fmt.Sprintf("the secret %q", s.ID), s.File})
		}
	}
	for _, text := range u.SSH {
		for _, path := range SSHPaths(text) {
			out = append(out, hostFile{"an SSH agent", path})
		}
	}
	return out
}

// SSHPaths gives the sockets and keys in an SSH agent as a layer names it; none
// where it is the one of the environment.
func SSHPaths(agent string) []string {
	if _, paths, ok := strings.Cut(agent, "="); ok && paths != "" {
		return strings.Split(paths, ",")
	}
	return nil
}

// at gives pos, or other where pos is unknown.
func at(pos, other diag.Pos) diag.Pos {
	if pos == (diag.Pos{}) {
		return other
	}
	return pos
}

// remote gives a hint for a context that is not a folder, "" for a folder.
func remote(context string) string {
	if strings.Contains(context, ":/") || strings.HasPrefix(context, "git@") || strings.HasPrefix(context, "github.com/") {
		return "clone it and name the folder, so that what goes in is known before the build"
	}
	return ""
}

// checkContext reports a named context that is neither a folder, an image nor
// a layer.
func (l *loader) checkContext(u Unit, name string, once func(pos diag.Pos, what, hint, format string, args ...any)) {
	value := u.Contexts[name]
	switch {
	case strings.HasPrefix(value, "docker-image://"), strings.HasPrefix(value, layerScheme):
	case remote(value) != "" || strings.Contains(value, "://"):
		once(u.Pos, value, "use a folder, docker-image://REFERENCE or layer:NAME",
			"layer %q: named context %q: %q can't be used", u.Layer, name, value)
	case l.refused(value) != nil:
		err := l.refused(value)
		once(u.Pos, value, diag.HintOf(err), "layer %q: named context %q: %s", u.Layer, name, err)
	case !l.isDir(value):
		once(u.Pos, value, "use a folder, docker-image://REFERENCE or layer:NAME",
			"layer %q: named context %q: no folder at %q", u.Layer, name, value)
	}
}

// checkTags reports two units, or a unit and an index, with the same tag.
func (l *loader) checkTags(p *Project) {
	r := Release{Version: "VERSION", Branch: "BRANCH", Sha: "SHA"}
	owner := map[string]string{}
	claim := func(image, tag, who string, pos diag.Pos) {
		key := image + ":" + tag
		if other, ok := owner[key]; ok && other != who {
			l.list.Errorf(pos, "tell them apart with {layer}, {variant} or {arch} in `tags`", "%s and %s both get the tag %q", other, who, tag)
			return
		}
		owner[key] = who
	}
	for _, u := range p.units {
		for _, tag := range p.TagsFor(u, r) {
			claim(u.Image, tag, u.ID(), u.Pos)
		}
	}
	for _, layer := range p.Layers {
		for _, v := range p.Variants {
			for _, tag := range p.IndexTags(layer.Name, v.Name, r) {
				claim(p.imageOf(layer), tag, "the index of "+strings.TrimSuffix(layer.Name+"/"+v.Name, "/"), layer.Pos)
			}
		}
	}
}
