package strata

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// Holds says whether a repository is one of a project's, on this machine or
// elsewhere.
func Holds(p *spec.Project, repo registry.Ref) bool {
	return slices.ContainsFunc(p.Units(), func(u spec.Unit) bool {
		for _, push := range []bool{false, true} {
			if ref, err := repository(u.Image, push); err == nil && ref.Repository() == repo.Repository() {
				return true
			}
		}
		return false
	})
}

// MayMove says whether a single tag of a project's repository may be moved by
// hand: one of a channel moves with all the others of its release, and a
// protected one by force alone.
func MayMove(p *spec.Project, target registry.Ref, before, after digest.Digest, force bool) error {
	if before == "" || before == after || !Holds(p, target) {
		return nil
	}
	for _, channel := range p.Channels {
		for _, u := range p.Units() {
			if slices.Contains(p.ReleaseTags(u, channel), target.Tag) || slices.Contains(p.ReleaseIndexTags(u.Layer, u.Variant, channel), target.Tag) {
				return diag.Hint(fmt.Errorf("moving the tag %s: it is one of the channel %s, whose tags move together", target.FamiliarString(), channel),
					"give the result a tag of its own with --tag; `strata promote VERSION %s` moves the channel to a whole release", channel)
			}
		}
	}
	if protects(p.Protect, target.Tag) && !force {
		return diag.Hint(fmt.Errorf("moving the tag %s: the project protects it", target.FamiliarString()),
			"give the result a tag of its own with --tag, or use --force")
	}
	return nil
}
