package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/strata-build/strata/internal/diag"
)

// stage is a stage of a Dockerfile and the indexes of the stages it uses.
type stage struct {
	name string // lower case; "" when unnamed
	uses []int
	line int
}

// maxReference bounds what the variables of a name in FROM come to: no image and no
// stage has so long a name.
const maxReference = 4096

// maxStages is as internal/dockerfile has it.
const maxStages = 1000

// stagesOf reads the stages of a Dockerfile and which of them use which:
// through FROM, COPY --from and RUN --mount from=.
func stagesOf(data []byte) ([]stage, error) {
	tree, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	parsed, global, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		return nil, err
	}
	if n := len(parsed); n > maxStages {
		return nil, fmt.Errorf("%d stages; at most %d can be read", n, maxStages)
	}
	defaults := map[string]string{}
	for _, cmd := range global {
		for _, arg := range cmd.Args {
			defaults[arg.Key] = arg.ValueString()
		}
	}
	var out []stage
	for i, s := range parsed {
		one := stage{name: strings.ToLower(s.Name)}
		if len(s.Location) > 0 {
			one.line = s.Location[0].Start.Line
		}
		for _, ref := range references(s) {
			left := maxReference
			ref = strings.ToLower(os.Expand(ref, func(name string) string {
				if left -= len(defaults[name]); left < 0 {
					return ""
				}
				return defaults[name]
			}))
			if j := stageIndex(out, ref); j >= 0 && j < i {
				one.uses = append(one.uses, j)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// references gives the names that a stage may take from other stages.
func references(s instructions.Stage) []string {
	out := []string{s.BaseName}
	for _, cmd := range s.Commands {
		switch cmd := cmd.(type) {
		case *instructions.CopyCommand:
			if cmd.From != "" {
				out = append(out, cmd.From)
			}
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(cmd) {
				if m.From != "" {
					out = append(out, m.From)
				}
			}
		}
	}
	return out
}

// stageIndex finds a stage by name, or by number as COPY --from=0 does.
func stageIndex(stages []stage, ref string) int {
	for i := len(stages) - 1; i >= 0; i-- {
		if stages[i].name == ref && ref != "" || fmt.Sprint(i) == ref {
			return i
		}
	}
	return -1
}

// auto makes a layer of every named stage, and of the last one if it has no
// name.
func (l *loader) auto(p *Project, from Chosen) {
	file := clean(from.Value)
	data, err := l.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.list.Errorf(from.Pos, l.nearFile(file), "layers: auto: no Dockerfile at %q", file)
		return
	case err != nil:
		l.list.Errorf(from.Pos, diag.HintOf(err), "layers: auto: reading the Dockerfile: %s", err)
		return
	}
	stages := l.stagesIn(file, data)
	for i, s := range stages {
		name, last := s.name, i == len(stages)-1
		switch {
		case name != "" && !nameFormat.re.MatchString(name):
			l.list.Errorf(diag.Pos{File: file, Line: s.line}, "write "+nameFormat.words, "layers: auto: stage %q can't be a layer's name", name)
			continue
		case name == "" && !last:
			continue
		case name == "":
			name = unnamedStage(stages)
		}
		p.Layers = append(p.Layers, Layer{
			Name: name, Stage: s.name, isStage: true, main: last, Stale: "allow", OnParentChange: "rebuild",
			Dockerfile: Choice{from}, Pos: diag.Pos{File: file, Line: s.line},
		})
	}
}

// unnamedStage names the layer of a last stage without a name.
func unnamedStage(stages []stage) string {
	for _, name := range []string{"app", "final", "image"} {
		if stageIndex(stages, name) < 0 {
			return name
		}
	}
	return "last-stage"
}

// stagesIn reads a Dockerfile's stages and reports why it can't be parsed; nil
// then.
func (l *loader) stagesIn(file string, data []byte) []stage {
	stages, err := stagesOf(data)
	if err == nil {
		return stages
	}
	pos := diag.Pos{File: file}
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		pos.Line, err = located.Locations[0][0].Start.Line, located.Unwrap()
	}
	l.list.Errorf(pos, "", "reading Dockerfile: %s", err)
	return nil
}

// markLeaves finds the layers that no other layer stands on: by parents and
// contexts, and for stages by what the Dockerfile says.
func (l *loader) markLeaves(p *Project) {
	used := map[string]bool{}
	for _, to := range edges(p.Layers) {
		for _, parent := range to {
			used[parent] = true
		}
	}
	files := map[string][]stage{}
	for i := range p.Layers {
		layer := &p.Layers[i]
		if layer.Stage == "" && !layer.isStage {
			continue
		}
		for _, file := range l.filesOf(p, *layer) {
			if _, ok := files[file]; !ok {
				data, err := l.read(file)
				if err != nil {
					continue
				}
				files[file] = l.stagesIn(file, data)
			}
			l.checkStage(layer, file, files[file])
		}
	}
	for file, stages := range files {
		for _, s := range stages {
			for _, j := range s.uses {
				for _, name := range l.layersOf(p, file, stages[j].name) {
					used[name] = true
				}
			}
		}
	}
	for i := range p.Layers {
		p.Layers[i].Leaf = !used[p.Layers[i].Name]
	}
}

// filesOf gives the Dockerfiles of a layer's units.
func (l *loader) filesOf(p *Project, layer Layer) []string {
	r := resolver{p: p, list: &diag.List{}, from: map[string]diag.Pos{}}
	var out []string
	for _, v := range p.Variants {
		for _, platform := range v.Platforms {
			if r.exists(layer, v.Name, platform) {
				out = append(out, r.unit(layer, v, platform).Dockerfile)
			}
		}
	}
	return compact(out)
}

// layersOf gives the layers that are the stage of a Dockerfile.
func (l *loader) layersOf(p *Project, file, stage string) []string {
	var out []string
	for _, layer := range p.Layers {
		if layer.Stage != "" && strings.EqualFold(layer.Stage, stage) && slices.Contains(l.filesOf(p, layer), file) {
			out = append(out, layer.Name)
		}
	}
	return out
}

// checkStage reports a stage that its Dockerfile does not have, and notes the
// last one.
func (l *loader) checkStage(layer *Layer, file string, stages []stage) {
	if layer.Stage == "" || stages == nil {
		return
	}
	i := stageIndex(stages, strings.ToLower(layer.Stage))
	if i < 0 {
		var names []string
		for _, s := range stages {
			if s.name != "" {
				names = append(names, s.name)
			}
		}
		l.list.Errorf(layer.Pos, suggest(layer.Stage, names), "layer %q: %s has no stage %q", layer.Name, file, layer.Stage)
		return
	}
	layer.main = i == len(stages)-1
}

// nearFile gives a hint for a file that is not there: what its folder has.
func (l *loader) nearFile(file string) string {
	dir := path.Dir(file)
	var names []string
	for _, name := range l.names(dir) {
		if strings.Contains(strings.ToLower(name), "dockerfile") {
			names = append(names, path.Join(dir, name))
		}
	}
	if len(names) == 0 {
		return "name the Dockerfile relative to the project's folder"
	}
	return suggest(file, names)
}
