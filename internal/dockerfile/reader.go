package dockerfile

import "github.com/moby/buildkit/frontend/dockerfile/instructions"

// GlobalArg is an ARG before the first FROM.
type GlobalArg struct {
	Name       string
	Default    string // as written, variables not expanded
	HasDefault bool
	Line       int
}

// GlobalArgs gives the ARGs before the first FROM, in order.
func (f *File) GlobalArgs() []GlobalArg {
	var out []GlobalArg
	for _, in := range f.meta {
		for _, kv := range in.cmd.(*instructions.ArgCommand).Args {
			out = append(out, GlobalArg{Name: kv.Key, Default: kv.ValueString(), HasDefault: kv.Value != nil, Line: in.line})
		}
	}
	return out
}

// StageBase is what one stage stands on.
type StageBase struct {
	Stage int
	Name  string // of the stage; "" when unnamed
	Text  string // the base as written in FROM
	Image string // the base with variables expanded; "" when it is a stage
	Base  int    // the stage it stands on; -1 when it is an image
	Arg   string // the arg that the base consists of, as in FROM ${BASE_IMAGE}; "" when it is more or none
	Line  int
}

// Bases gives the base of every stage in order, reachable or not, with the
// given build args. An empty base is no error here: its Image is "".
func (f *File) Bases(args map[string]string) []StageBase {
	a := f.newAnalysis(Options{Args: args})
	out := make([]StageBase, len(a.stages))
	for i, n := range a.stages {
		out[i] = StageBase{Stage: i, Name: n.name, Text: n.def.BaseName, Base: -1, Line: n.from.line, Image: n.base.image.Image}
		if n.base.scratch {
			out[i].Image = Scratch
		}
		if n.base.stage != nil {
			out[i].Base = n.base.stage.index
		}
		if m := oneArg.FindStringSubmatch(n.def.BaseName); m != nil {
			out[i].Arg = m[1] + m[2]
		}
	}
	return out
}
