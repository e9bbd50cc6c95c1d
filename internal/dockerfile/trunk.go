package dockerfile

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// cut is where the engine's part of the final stage ends. The chain of the final
// stage is its own instructions after those of the stages that it starts from.
type cut struct {
	head  []*op // the chain's instructions that are trunk; FROM is the first
	tail  []*op
	final *node
	root  *node // the first stage of the chain
	last  *instr
}

// cut splits the chain of the final stage after the last instruction that needs
// the engine.
func (a *analysis) cut(final *node) *cut {
	ops, root := a.chain(final)
	at := 0 // index of the last instruction of the trunk
	for i, o := range ops {
		if o.why != "" {
			at = i
		}
	}
	for at = a.wholeTriggers(ops, at); ; {
		bad := strayChmod(ops, at, root.base.scratch)
		if bad < 0 {
			break
		}
		at = a.wholeTriggers(ops, bad)
	}
	return &cut{head: ops[:at+1], tail: ops[at+1:], final: final, root: root, last: ops[at].in}
}

// chain gives the instructions of the final stage after those of the stages that
// it stands on.
func (a *analysis) chain(final *node) (ops []*op, root *node) {
	for n := final; n != nil; n = n.base.stage {
		root = n
		var own []*op
		for _, o := range a.ops {
			if o.node == n {
				own = append(own, o)
			}
		}
		ops = append(own, ops...)
	}
	return ops, root
}

// wholeTriggers moves a cut among ONBUILD triggers behind the last of them:
// they stand on one line and can't be told apart in a Dockerfile's text.
func (a *analysis) wholeTriggers(ops []*op, at int) int {
	for ops[at].in.trigger && at+1 < len(ops) && ops[at+1].in.trigger && ops[at+1].node == ops[at].node {
		at++
	}
	return at
}

// strayChmod gives the index of the last RUN behind at that changes the mode or
// owner of anything that the tail did not copy, or -1. On nothing there is no
// program to run, and the engine has to say so.
func strayChmod(ops []*op, at int, scratch bool) int {
	bad := -1
	var dests []string
	for i := at + 1; i < len(ops); i++ {
		o := ops[i]
		if o.dest != "" {
			dests = append(dests, o.dest)
		}
		for _, m := range o.chmod {
			for _, p := range m.Paths {
				if !below(p, dests) || scratch && at == 0 {
					bad = i
				}
			}
		}
	}
	return bad
}

func below(p string, dirs []string) bool {
	for _, d := range dirs {
		if p == d || strings.HasPrefix(p, strings.TrimSuffix(d, "/")+"/") {
			return true
		}
	}
	return false
}

// dest gives the absolute destination of a copy as far as this file alone says,
// or "".
func (s *scope) dest(o *op, to string) string {
	switch {
	case o.base || !path.IsAbs(to) && s.dirHere == "":
		return ""
	case path.IsAbs(to):
		return path.Clean(to)
	}
	return path.Join(s.dirHere, to)
}

// again gives the same cut over newly evaluated instructions.
func (c *cut) again(a *analysis) *cut {
	ops, root := a.chain(c.final)
	for i, o := range ops {
		if o.in == c.last {
			return &cut{head: ops[:i+1], tail: ops[i+1:], final: c.final, root: root, last: c.last}
		}
	}
	panic("internal error: the trunk's last instruction is gone")
}

// trunk describes the cut to the caller.
func (c *cut) trunk(a *analysis) *Trunk {
	end := c.head[len(c.head)-1]
	t := &Trunk{From: c.root.base.image}
	if c.root.base.scratch {
		t.From = From{Image: Scratch, Platform: c.root.platform, Stage: c.root.ordinal, Line: c.root.from.line, Kind: KindFrom}
	}
	t.Empty = len(c.head) == 1 && end.why == "" && a.engine == ""
	if !t.Empty {
		t.Source = a.file.source(end.in.end)
	}
	t.DropOnBuild = t.Empty || end.node != c.final
	for _, o := range c.tail {
		if o.cmd == nil { // FROM a stage of this file
			continue
		}
		if _, ok := o.cmd.(*instructions.OnbuildCommand); ok && o.node != c.final {
			continue // triggers do not outlive the next FROM
		}
		inputs := slices.Clone(o.inputs)
		for i := range inputs {
			inputs[i].Tail = true
		}
		t.Tail = append(t.Tail, TailCommand{Line: o.in.line, Stage: o.node.ordinal, Command: o.cmd, Inputs: inputs,
			Copy: o.copy, Chmod: o.chmod, History: o.history, Layer: o.layer, CmdSet: o.cmdSet})
	}
	return t
}
