package initproject

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// group is the Dockerfiles of one layer, by the place they are for.
type group struct {
	name   string
	files  map[place]*source
	parent string // name of the group it stands on; "" for the first one
	child  bool   // starts from an argument that another image is handed over in
}

// place is what the folder of a Dockerfile says about where it is used: "cpu",
// "arm64", "cpu-arm64".
type place struct{ variant, arch string }

// archWords are the folder names that mean an architecture.
var archWords = map[string]string{
	"amd64": "amd64", "x86_64": "amd64", "x86-64": "amd64", "x64": "amd64",
	"arm64": "arm64", "aarch64": "arm64", "arm64v8": "arm64",
	"armv7": "arm/v7", "arm32v7": "arm/v7", "armhf": "arm/v7",
	"ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}

// isLayered reports whether Dockerfiles stand on each other through an
// argument.
func (r *repository) isLayered() bool {
	return len(r.sources) > 1 && slices.ContainsFunc(r.sources, r.isChild)
}

var parentArg = regexp.MustCompile(`(?i)base|parent|from`)

// isChild reports whether a Dockerfile starts from an image that must be handed
// over: an argument without a default, or one that is named like a parent and
// whose default is one of the project's own layers.
func (r *repository) isChild(s *source) bool {
	if s.arg == "" || s.preset == "" {
		return s.arg != ""
	}
	return parentArg.MatchString(s.arg) && r.namedIn(s.preset, s) != ""
}

// namedIn gives the layer that an image reference names, other than that of s:
// "base" for ghcr.io/user/app:cpu-base-amd64-latest. The tag says more than the
// repository.
func (r *repository) namedIn(ref string, s *source) string {
	repo, tag, _ := strings.Cut(path.Base(ref), ":")
	for _, text := range []string{tag, repo} {
		words := strings.FieldsFunc(strings.ToLower(text), func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9')
		})
		for _, o := range r.sources {
			if name := o.layerName(); name != s.layerName() && slices.Contains(words, name) {
				return name
			}
		}
	}
	return ""
}

// layered makes the project of Dockerfiles that stand on each other.
func (r *repository) layered(g *guess) {
	g.kind = KindLayered
	groups := r.groups(g)
	groups = r.chain(g, groups)
	r.platformsOf(g, groups)
	for _, gr := range groups {
		g.layers = append(g.layers, r.layerOf(g, gr, groups))
	}
	var names []string
	for _, gr := range groups {
		names = append(names, gr.name)
	}
	if open := slices.ContainsFunc(groups, func(gr *group) bool { return gr.child && gr.parent == "" }); open {
		g.foundf("layers: %s", strings.Join(names, ", "))
		return
	}
	g.foundf("layers that stand on each other: %s", strings.Join(names, " -> "))
}

// groups puts the Dockerfiles of one layer together, in order of their names.
func (r *repository) groups(g *guess) []*group {
	places := map[string]bool{}
	for _, s := range r.sources {
		if s.suffix != "" {
			places[path.Base(path.Dir(s.path))] = true
		}
	}
	byName := map[string]*group{}
	for _, s := range r.sources {
		name, dir := s.layerName(), path.Base(path.Dir(s.path))
		if s.suffix == "" && places[dir] && !slices.Contains(holders, dir) {
			g.unsuref("%s was left out: it builds %q by itself, beside the layers in its folder", s.path, dir)
			continue
		}
		if byName[name] == nil {
			byName[name] = &group{name: name, files: map[place]*source{}}
		}
		at := place{}
		if s.suffix != "" && !slices.Contains(holders, dir) {
			at = placeOf(dir)
		}
		if other := byName[name].files[at]; other != nil {
			g.unsuref("%s was left out: %s is layer %q already", s.path, other.path, name)
			continue
		}
		byName[name].files[at] = s
		byName[name].child = byName[name].child || r.isChild(s)
	}
	var out []*group
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}

// placeOf reads a folder's name: "cpu", "arm64", "cpu-arm64".
func placeOf(dir string) place {
	if arch, ok := archWords[dir]; ok {
		return place{arch: arch}
	}
	if i := strings.LastIndexAny(dir, "-_"); i > 0 {
		if arch, ok := archWords[dir[i+1:]]; ok {
			return place{variant: plainName(dir[:i]), arch: arch}
		}
	}
	return place{variant: plainName(dir)}
}

// ranks order layers by what their names mean, where nothing else says it.
var ranks = map[string]int{
	"os": 1, "system": 1, "base": 2, "core": 3, "common": 3, "runtime": 4, "python": 4, "node": 4,
	"deps": 5, "dependencies": 5, "requirements": 5, "packages": 5, "ml": 6, "models": 7, "tools": 7,
	"build": 8, "app": 9, "application": 9, "service": 9, "server": 9, "api": 9, "web": 9, "final": 10, "prod": 10,
}

// chain finds every layer's parent and gives the layers in order. Layers that
// stand by themselves beside the chain are left out.
func (r *repository) chain(g *guess, groups []*group) []*group {
	for _, gr := range groups {
		if !gr.child {
			continue
		}
		if gr.parent = r.parentOf(gr, groups); depth(gr, groups) == len(groups) {
			g.unsuref("layer %q would stand on itself by way of %q; the latter was not taken for its parent", gr.name, gr.parent)
			gr.parent = ""
		}
	}
	for _, gr := range groups {
		if gr.child && gr.parent == "" {
			gr.parent = byRank(gr, groups)
			if gr.parent == "" {
				g.unsuref("layer %q stands on an image that is handed over, but nothing says on which: add `parent:` to it", gr.name)
			} else {
				g.foundf("layer %q is taken to stand on %q because of their names", gr.name, gr.parent)
			}
		}
	}
	used, open := map[string]bool{}, false // open: any layer may be the one that another stands on
	for _, gr := range groups {
		used[gr.parent] = true
		open = open || gr.child && gr.parent == ""
	}
	groups = slices.DeleteFunc(groups, func(gr *group) bool {
		alone := !gr.child && !used[gr.name] && !open
		for _, s := range gr.files {
			if alone {
				g.unsuref("%s was left out: it starts from %s and no other Dockerfile stands on it; add a layer for it if it is still built", s.path, s.base)
			}
		}
		return alone
	})
	slices.SortStableFunc(groups, func(a, b *group) int { return depth(a, groups) - depth(b, groups) })
	return groups
}

// parentOf finds the parent that the Dockerfiles' defaults or the build scripts
// name.
func (r *repository) parentOf(gr *group, groups []*group) string {
	for _, at := range sortedPlaces(gr.files) {
		s := gr.files[at]
		for _, ref := range append([]string{s.preset}, r.buildArgs(s.path, s.arg)...) {
			name := r.namedIn(ref, s)
			if slices.ContainsFunc(groups, func(o *group) bool { return o.name == name && o != gr }) {
				return name
			}
		}
	}
	return ""
}

// byRank gives the nearest layer below gr by the meaning of names, or the only
// other layer.
func byRank(gr *group, groups []*group) string {
	best := ""
	for _, o := range groups {
		if o == gr || standsOn(o, gr, groups) {
			continue
		}
		if len(groups) == 2 {
			return o.name
		}
		if r := ranks[o.name]; r > 0 && r < ranks[gr.name] && (best == "" || r > ranks[best]) {
			best = o.name
		}
	}
	return best
}

// standsOn reports whether a stands on b, near or far.
func standsOn(a, b *group, groups []*group) bool {
	for range groups {
		i := slices.IndexFunc(groups, func(o *group) bool { return o.name == a.parent })
		if i < 0 {
			return false
		}
		if a = groups[i]; a == b {
			return true
		}
	}
	return true
}

// depth is how many layers a layer stands on; as many as there are layers when
// it stands on itself.
func depth(gr *group, groups []*group) int {
	n := 0
	for gr != nil && gr.parent != "" && n < len(groups) {
		i := slices.IndexFunc(groups, func(o *group) bool { return o.name == gr.parent })
		if i < 0 {
			break
		}
		gr, n = groups[i], n+1
	}
	return n
}

func sortedPlaces(files map[place]*source) []place {
	return slices.SortedFunc(maps.Keys(files), func(a, b place) int {
		return strings.Compare(a.variant+"/"+a.arch, b.variant+"/"+b.arch)
	})
}

// platformsOf finds the variants and the platforms of each.
func (r *repository) platformsOf(g *guess, groups []*group) {
	arches := map[string]map[string]bool{} // variant -> architectures with files of their own
	var bare []string                      // architectures without a variant
	for _, gr := range groups {
		for at := range gr.files {
			switch {
			case at.variant != "":
				if arches[at.variant] == nil {
					arches[at.variant] = map[string]bool{}
				}
				if at.arch != "" {
					arches[at.variant][at.arch] = true
				}
			case at.arch != "" && !slices.Contains(bare, at.arch):
				bare = append(bare, at.arch)
			}
		}
	}
	slices.Sort(bare)
	host := r.hostVariant(g, slices.Sorted(maps.Keys(arches)), bare)
	all := []string{"linux/amd64"}
	for _, name := range slices.Sorted(maps.Keys(arches)) {
		v := variant{name: name, platforms: []string{"linux/amd64"}}
		for _, arch := range slices.Sorted(maps.Keys(arches[name])) {
			v.platforms = addOnce(v.platforms, "linux/"+arch)
		}
		for _, arch := range bare {
			if name == host {
				v.platforms = addOnce(v.platforms, "linux/"+arch)
			}
		}
		for _, p := range v.platforms {
			all = addOnce(all, p)
		}
		g.variants = append(g.variants, v)
	}
	for _, arch := range bare {
		all = addOnce(all, "linux/"+arch)
	}
	if named := r.platforms(); len(all) == 1 && len(named) > 0 {
		all = named
		for i := range g.variants {
			g.variants[i].platforms = named
		}
	}
	g.platforms = all
	moveBare(groups, host)
}

func addOnce(in []string, s string) []string {
	if slices.Contains(in, s) {
		return in
	}
	return append(in, s)
}

// hostVariant gives the variant that folders named like an architecture belong
// to.
func (r *repository) hostVariant(g *guess, variants, bare []string) string {
	switch {
	case len(variants) == 0 || len(bare) == 0:
		return ""
	case len(variants) == 1:
		return variants[0]
	}
	host := variants[0]
	if slices.Contains(variants, "cpu") {
		host = "cpu"
	}
	g.unsuref("the Dockerfiles for %s are taken to be those of variant %q; if they are another's, change the selectors",
		joinAnd(bare), host)
	return host
}

// moveBare gives the Dockerfiles of a bare architecture to their variant.
func moveBare(groups []*group, host string) {
	for _, gr := range groups {
		for at, s := range maps.Clone(gr.files) {
			if to := (place{variant: host, arch: at.arch}); at.variant == "" && at.arch != "" && gr.files[to] == nil {
				delete(gr.files, at)
				gr.files[to] = s
			}
		}
	}
}

// layerOf writes one layer of the chain.
func (r *repository) layerOf(g *guess, gr *group, groups []*group) layer {
	l := layer{name: gr.name, parent: gr.parent, dockerfile: choices(g, gr)}
	here, there := r.units(g, gr, groups)
	if missing := without(there, here); len(missing) > 0 {
		l.only = selectors(g, here)
		if gr.parent == "" || len(without(r.parentUnits(g, gr, groups), here)) > 0 {
			g.unsuref("layer %q has no Dockerfile for %s: it and what stands on it is limited by `only:`; add one and take that out",
				gr.name, joinAnd(selectors(g, missing)))
		}
	}
	l.comment = gr.comment()
	switch depth(gr, groups) {
	case 0:
		l.refresh = `{every: week, at: "Mon 06:00"}   # UTC: built anew once a week, for system updates`
	case len(groups) - 1:
	default:
		l.refresh = "{every: 2d}"
	}
	return l
}

// comment says what a layer stands on.
func (gr *group) comment() []string {
	var bases []string
	for _, at := range sortedPlaces(gr.files) {
		s := gr.files[at]
		switch {
		case gr.parent != "" && s.arg != "":
			return []string{"FROM ${" + s.arg + "}: the image of " + gr.parent + " is handed over in it."}
		case s.base != "":
			bases = addOnce(bases, s.base)
		}
	}
	if len(bases) == 0 {
		return nil
	}
	return []string{"Stands on " + joinAnd(bases) + "."}
}

// unit is a variant and platform.
type unit struct{ variant, platform string }

// units gives the units that a layer has Dockerfiles for, along with its
// parents, and all that the project has.
func (r *repository) units(g *guess, gr *group, groups []*group) (have, all []unit) {
	variants := g.variants
	if len(variants) == 0 {
		variants = []variant{{platforms: g.platforms}}
	}
	parents := r.parentUnits(g, gr, groups)
	for _, v := range variants {
		for _, p := range v.platforms {
			u := unit{v.name, p}
			all = append(all, u)
			if gr.fileFor(u) != nil && (gr.parent == "" || slices.Contains(parents, u)) {
				have = append(have, u)
			}
		}
	}
	return have, all
}

func (r *repository) parentUnits(g *guess, gr *group, groups []*group) []unit {
	i := slices.IndexFunc(groups, func(o *group) bool { return o.name == gr.parent })
	if gr.parent == "" || i < 0 {
		return nil
	}
	have, _ := r.units(g, groups[i], groups)
	return have
}

// fileFor gives the Dockerfile of a unit: the most specific one.
func (gr *group) fileFor(u unit) *source {
	arch := strings.TrimPrefix(u.platform, "linux/")
	for _, at := range []place{{u.variant, arch}, {u.variant, ""}, {"", arch}, {}} {
		if s := gr.files[at]; s != nil {
			return s
		}
	}
	return nil
}

func without(in, out []unit) []unit {
	return slices.DeleteFunc(slices.Clone(in), func(u unit) bool { return slices.Contains(out, u) })
}

// selectors names units as shortly as can be: a whole variant by its name.
func selectors(g *guess, units []unit) []string {
	var out []string
	for _, v := range g.variants {
		whole := !slices.ContainsFunc(v.platforms, func(p string) bool { return !slices.Contains(units, unit{v.name, p}) })
		if whole {
			out = append(out, v.name)
			continue
		}
		for _, p := range v.platforms {
			if slices.Contains(units, unit{v.name, p}) {
				out = append(out, v.name+"/"+strings.TrimPrefix(p, "linux/"))
			}
		}
	}
	if len(g.variants) == 0 {
		for _, u := range units {
			out = append(out, strings.TrimPrefix(u.platform, "linux/"))
		}
	}
	return out
}

// choices gives a layer's Dockerfiles by selector: one for each architecture
// with a file of its own, and a pattern for the variants where their paths
// differ in nothing else.
func choices(g *guess, gr *group) [][2]string {
	var out [][2]string
	var plain []place
	for _, at := range sortedPlaces(gr.files) {
		switch {
		case at.arch != "":
			out = append(out, [2]string{strings.Trim(at.variant+"/"+at.arch, "/"), gr.files[at].path})
		case at.variant != "":
			plain = append(plain, at)
		}
	}
	pattern := ""
	for i, at := range plain {
		p := strings.Replace(gr.files[at].path, "/"+at.variant+"/", "/{variant}/", 1)
		if i > 0 && p != pattern || p == gr.files[at].path {
			pattern = ""
			break
		}
		pattern = p
	}
	switch rest := gr.files[place{}]; {
	case pattern != "" && rest == nil:
		out = append(out, [2]string{"*", pattern})
	default:
		for _, at := range plain {
			out = append(out, [2]string{at.variant, gr.files[at].path})
		}
		if rest != nil {
			out = append(out, [2]string{"*", rest.path})
		}
	}
	if len(out) == 1 && out[0][0] == "*" {
		out[0][0] = ""
	}
	return out
}
