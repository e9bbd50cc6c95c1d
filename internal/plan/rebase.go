package plan

import (
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
)

// Values of a layer's on-parent-change.
const (
	PolicyRebase          = "rebase"
	PolicyRebaseOrRebuild = "rebase-or-rebuild"
)

// Rebases says whether a unit's layer lets its own blobs be put on a new parent.
func Rebases(u *graph.Unit) bool {
	return (u.OnParentChange == PolicyRebase || u.OnParentChange == PolicyRebaseOrRebuild) && !u.Build.Trunk.Empty
}

// rebases says whether a unit's trunk is the last one's on another parent: its
// recipe differs from that one's in nothing but the image that its Dockerfile
// starts from, and takes nothing else from that image.
func (m *maker) rebases(u *graph.Unit) bool {
	last := m.in.Trunks[u.ID]
	if !Rebases(u) || !last.Known || last.Recipe.IsZero() {
		return false
	}
	recipe := m.in.Keys[u.ID].Trunk
	if recipe.IsZero() {
		recipe = m.in.Keys[u.ID].Unit
	}
	changes := key.Diff(last.Recipe, recipe)
	for _, c := range changes {
		if c.Kind != key.Changed || !m.isParent(u, c) {
			return false
		}
	}
	return len(changes) > 0 && m.startsOnly(u)
}

// isParent says whether a change is that of the image behind the FROM that the
// trunk's stages stand on.
func (m *maker) isParent(u *graph.Unit, c key.Change) bool {
	from := u.Build.Trunk.From
	if up := m.parentOf(u, from); up != "" {
		return c.Parent() && c.What == up
	}
	return c.External() && c.What == from.Name()
}

// parentOf gives the unit behind a From; "" for an external image.
func (m *maker) parentOf(u *graph.Unit, f dockerfile.From) string {
	for _, p := range u.Parents {
		if p.Arg != "" && f.Context == "arg:"+p.Arg || p.Context != "" && f.Context == p.Context {
			return p.ID
		}
	}
	return ""
}

// startsOnly says whether the trunk takes nothing from the image that it stands
// on but by standing on it: no other FROM, COPY or mount names that image, and
// where several stages stand on each other none is copied from.
func (m *maker) startsOnly(u *graph.Unit) bool {
	t := u.Build.Trunk
	same := 0
	for _, f := range u.Build.Froms {
		if !f.Tail && f.Name() == t.From.Name() && f.Kind != "syntax" {
			same++
		}
	}
	if same > 1 {
		return false
	}
	if t.From.Stage == len(u.Build.StageNames)-1 {
		return true
	}
	for _, l := range u.Build.Lines[:t.Lines] {
		if strings.Contains(l.Text, "from=") {
			return false
		}
	}
	return true
}

// rebaseReason is what a step says beside what changed.
func rebaseReason(u *graph.Unit) string {
	if u.OnParentChange == PolicyRebase {
		return "its own layers go on the new parent"
	}
	return "its own layers go on the new parent, or it is rebuilt where both changed the same"
}
