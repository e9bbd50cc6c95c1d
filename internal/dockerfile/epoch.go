package dockerfile

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// EpochArg is the build argument by which BuildKit takes the time of what it
// makes: https://reproducible-builds.org/specs/source-date-epoch/.
const EpochArg = "SOURCE_DATE_EPOCH"

// Epoch is the SOURCE_DATE_EPOCH in force, as BuildKit's frontend takes it: the
// one that is given, else the value of an ARG before the first FROM. The default
// of an ARG in a stage is seen by that stage's RUNs and counts for nothing else.
type Epoch struct {
	Value string // seconds, or a name; "" when there is none
	Line  int    // of the ARG whose default it is; 0 when it is given
	// Source is the text of the stage that Value names: the engine asks where
	// its ADD leads for the time.
	Source string
	// None says that Value names a build context. Those that Strata has are
	// folders and images, which tell BuildKit no time.
	None bool
}

// withoutEmptyEpoch takes an empty SOURCE_DATE_EPOCH out of the build args, as
// BuildKit does: it takes that of the Dockerfile along, and leaves the stages'
// own.
func (a *analysis) withoutEmptyEpoch() {
	if v, ok := a.opts.Args[EpochArg]; ok && v == "" {
		a.opts.Args = maps.Clone(a.opts.Args)
		delete(a.opts.Args, EpochArg)
		a.noEpoch = true
	}
}

// epoch gives the SOURCE_DATE_EPOCH in force.
func (a *analysis) epoch() Epoch {
	e := Epoch{Value: a.opts.Args[EpochArg]}
	if b := a.globals.vars[EpochArg]; e.Value == "" && b.arg != nil {
		e.Value, e.Line = b.value, b.arg.line
	}
	if _, err := strconv.ParseInt(e.Value, 10, 64); err == nil || e.Value == "" {
		return e
	}
	if e.None = e.Value == "context"; e.None {
		return e
	}
	for _, n := range a.stages {
		if n.name != "" && strings.EqualFold(n.name, e.Value) {
			lines := []string{n.from.text}
			for _, in := range n.cmds {
				lines = append(lines, in.text)
			}
			e.Source = strings.Join(lines, "\n")
			return e
		}
	}
	e.None = a.opts.Folders[e.Value] || a.opts.Contexts[e.Value]
	return e
}

// oddEpoch says why the engine has to say which time is meant.
func (a *analysis) oddEpoch() string {
	e := a.epoch()
	n, err := strconv.ParseInt(e.Value, 10, 64)
	if e.Value == "" || err == nil && strconv.FormatInt(n, 10) == e.Value {
		return ""
	}
	return EpochArg + " is " + strconv.Quote(e.Value)
}

// epochStage refuses a stage of times that the trunk's Dockerfile would not
// have.
func (a *analysis) epochStage(final *node) {
	e := a.epoch()
	if e.Source == "" {
		return
	}
	i := slices.IndexFunc(a.stages, func(n *node) bool { return n.name != "" && strings.EqualFold(n.name, e.Value) })
	if i > final.index {
		a.errorf(a.stages[i].from.line, "move the stage up", "%s=%s: the stage stands behind the one that is built", EpochArg, e.Value)
	}
}
