package spec

import (
	"github.com/strata-build/strata/internal/diag"
)

// index is where the layers and units of a project stand, and what default tags
// hang on, so that asking for each unit of a project takes no longer a unit when
// there are many.
type index struct {
	layers    map[string]int             // by name
	units     map[string]int             // by ID
	platforms map[[2]string]int          // number of units of a layer in a variant
	leaves    map[string]map[string]bool // by image, the names of its leaves
	mains     map[string]map[string]bool // those of them that are the last stage of their Dockerfile
}

func (p *Project) makeIndex() index {
	x := index{
		layers: make(map[string]int, len(p.Layers)), units: make(map[string]int, len(p.units)), platforms: map[[2]string]int{},
		leaves: map[string]map[string]bool{}, mains: map[string]map[string]bool{},
	}
	for i, l := range p.Layers {
		if _, ok := x.layers[l.Name]; !ok {
			x.layers[l.Name] = i
		}
		if !l.Leaf {
			continue
		}
		note(x.leaves, p.imageOf(l), l.Name)
		if l.main {
			note(x.mains, p.imageOf(l), l.Name)
		}
	}
	for i, u := range p.units {
		x.units[u.ID()] = i
		x.platforms[[2]string{u.Layer, u.Variant}]++
	}
	return x
}

func note(m map[string]map[string]bool, key, name string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][name] = true
}

// but gives how many names there are beside one.
func but(names map[string]bool, name string) int {
	if names[name] {
		return len(names) - 1
	}
	return len(names)
}

// Limits on a project. The largest that were seen have some hundred units. A
// plan of so many takes some seconds and half a gigabyte of memory.
const (
	maxUnits    = 10_000
	maxVariants = 1_000
	// maxPlaces bounds what has to be looked at to find the units: layers times
	// the platforms of all variants, whatever `only` leaves of them.
	maxPlaces = 20 * maxUnits
	// maxValues bounds what the arguments, labels and contexts of all units come
	// to, in bytes: each unit has those of the project.
	maxValues = 256 << 20
)

// checkSize reports a project that is too large to be planned. It has to come
// before anything that takes its time for each unit.
func (l *loader) checkSize(p *Project) bool {
	places := 0
	for _, v := range p.Variants {
		places += len(v.Platforms)
	}
	pos, hint := diag.Pos{File: p.File}, "split it into several projects"
	switch {
	case len(p.Layers) > maxUnits:
		l.list.Errorf(pos, hint, "the project has %d layers; at most %d can be planned", len(p.Layers), maxUnits)
	case len(p.Variants) > maxVariants:
		l.list.Errorf(pos, hint, "the project has %d variants; at most %d can be planned", len(p.Variants), maxVariants)
	case len(p.Layers)*places > maxPlaces:
		l.list.Errorf(pos, hint, "the project has %d layers for %d variants and platforms; at most %d units can be planned", len(p.Layers), places, maxUnits)
	default:
		return true
	}
	return false
}
