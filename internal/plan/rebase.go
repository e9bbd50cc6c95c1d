package plan

import (
	"strings"

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
		if c.Kind != key.Changed || !isParent(u, c) {
			return false
		}
	}
	return len(changes) > 0 && startsOnly(u)
}

// isParent says whether a change is that of the image behind the FROM that the
// trunk's stages stand on.
func isParent(u *graph.Unit, c key.Change) bool {
	from := u.Build.Trunk.From
	for _, p := range u.Parents {
		if p.Arg != "" && from.Context == "arg:"+p.Arg || p.Context != "" && from.Context == p.Context {
			return c.Parent() && c.What == p.ID
		}
	}
	return c.External() && c.What == from.Name()
}

// startsOnly says whether the trunk takes nothing from the image that it stands
// on but by standing on it: no other FROM, COPY or mount names that image, and
// where several stages stand on each other none is copied from.
func startsOnly(u *graph.Unit) bool {
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
