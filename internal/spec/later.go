package spec

import (
	"fmt"

	"github.com/strata-build/strata/internal/diag"
)

// later gives a warning for each setting that is read and checked, but that
// this version does not act on.
func (p *Project) later() []diag.Finding {
	var list diag.List
	at := diag.Pos{File: p.File}
	warn := func(pos diag.Pos, text string) { list.Warnf(pos, "", "%s", text) }
	if p.Keep != (Keep{}) {
		warn(at, "`keep` has no effect in this version: it does not prune registries")
	}
	if len(p.Runners) > 0 {
		warn(at, "`runners` has no effect in this version: it does not write CI files")
	}
	for _, l := range p.Layers {
		if l.Keep != (Keep{}) {
			warn(l.Pos, fmt.Sprintf("`keep` of layer %q has no effect in this version: it does not prune registries", l.Name))
		}
	}
	return list.Sorted()
}
