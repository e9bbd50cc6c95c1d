package spec

import "github.com/strata-build/strata/internal/diag"

// later gives a warning for each setting that is read and checked, but that
// this version does not act on.
func (p *Project) later() []diag.Finding {
	var list diag.List
	if len(p.Runners) > 0 {
		list.Warnf(diag.Pos{File: p.File}, "", "`runners` has no effect in this version: it does not write CI files")
	}
	return list.Sorted()
}
