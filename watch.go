package strata

import (
	"context"
	"slices"

	"github.com/strata-build/strata/internal/spec"
)

// Refreshed is a layer that is built anew by time alone.
type Refreshed struct {
	Layer   string
	Refresh spec.Refresh
	Units   []string // the layer's, and those that stand on them; parents first
}

// Refreshing gives the layers of the project that have a refresh, parents first.
// It asks no registry.
func Refreshing(ctx context.Context, c Config) ([]Refreshed, error) {
	p := &Pass{Config: c, known: newShared()}
	files, err := p.readDockerfiles()
	if err != nil {
		return nil, err
	}
	if err := p.order(files, c.Project.Units(), nil); err != nil {
		return nil, err
	}
	var out []Refreshed
	own := map[string][]string{} // layer -> units
	for _, u := range p.Units {
		if u.Refresh == nil {
			continue
		}
		if own[u.Layer] == nil {
			out = append(out, Refreshed{Layer: u.Layer, Refresh: *u.Refresh})
		}
		own[u.Layer] = append(own[u.Layer], u.ID)
	}
	for i := range out {
		on := p.Graph.On(own[out[i].Layer])
		for _, u := range p.Units {
			if slices.Contains(on, u.ID) {
				out[i].Units = append(out[i].Units, u.ID)
			}
		}
	}
	return out, context.Cause(ctx)
}
