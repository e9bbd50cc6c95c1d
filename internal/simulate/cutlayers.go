package simulate

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/spec"
)

// layerCut makes a layer of the upper part of another layer's Dockerfile, where
// strata.yaml names the layers one by one: the new layer builds the stage that a
// [cut] has made, and is handed to the old one in place of that stage.
type layerCut struct {
	layer string // that is cut
	stage string // the new stage
	arg   string // the build argument that hands the layer its parent, if one does
}

// name is what the new layer is called.
func (c layerCut) name() string { return c.layer + "-" + c.stage }

// canCutLayer says whether all that is made from a Dockerfile is one layer that
// builds its last stage, so that nobody else minds another one.
func canCutLayer(g *graph.Graph, u *graph.Unit) bool {
	if g.Project.Kind != spec.KindStrata || u.Stage || u.Target != "" || u.Inline != nil {
		return false
	}
	for _, other := range g.Units {
		if (other.Layer == u.Layer) != (other.Dockerfile == u.Dockerfile) {
			return false
		}
	}
	return true
}

// settingsBelow are what the upper part takes over from the layer: what it starts
// from and is built with.
var settingsBelow = []string{"dockerfile", "context", "parent", "args", "only", "contexts", "secrets", "ssh", "network", "refresh", "stale", "max-age", "on-parent-change", "image", "keep"}

// settingsMoved are those that only the upper part needs from then on.
var settingsMoved = []string{"parent", "refresh", "stale", "max-age"}

// apply adds the layer to a version of strata.yaml.
func (c layerCut) apply(text []byte) ([]byte, bool) {
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil || len(doc.Content) == 0 {
		return nil, false
	}
	layers := member(doc.Content[0], "layers")
	own := member(layers, c.layer)
	if own == nil || own.Kind != yaml.MappingNode || member(layers, c.name()) != nil || member(own, "contexts") != nil || member(own, "for") != nil {
		return nil, false
	}
	upper := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	rest := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(own.Content); i += 2 {
		k, v := own.Content[i], own.Content[i+1]
		if slices.Contains(settingsBelow, k.Value) {
			upper.Content = append(upper.Content, k, v)
		}
		if !slices.Contains(settingsMoved, k.Value) && (k.Value != "args" || c.arg == "") {
			rest.Content = append(rest.Content, k, v)
		}
	}
	upper.Content = append(upper.Content, scalar("target"), scalar(c.stage))
	if c.arg != "" { // the stage above still says FROM it, though nobody builds that stage there
		args := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if old := member(own, "args"); old != nil {
			args.Content = slices.Clone(old.Content)
		}
		args.Content = append(args.Content, scalar(c.arg), scalar("scratch"))
		rest.Content = append(rest.Content, scalar("args"), args)
	}
	rest.Content = append(rest.Content, scalar("contexts"),
		&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{scalar(c.stage), scalar("layer:" + c.name())}})
	at := slices.Index(layers.Content, own)
	layers.Content[at] = rest
	layers.Content = slices.Insert(layers.Content, at-1, scalar(c.name()), upper)
	out, err := yaml.Dump(doc.Content[0])
	return out, err == nil
}

// member gives the value of a mapping's key, or nil.
func member(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// normal is a YAML text as apply writes it, so that a diff shows nothing else.
func normal(text []byte) string {
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil || len(doc.Content) == 0 {
		return string(text)
	}
	out, err := yaml.Dump(doc.Content[0])
	if err != nil {
		return string(text)
	}
	return string(out)
}

// layerIdeas gives the cuts that make a new layer of a named one.
func (o Options) layerIdeas(base *Result, u *graph.Unit, blocks []block) []idea {
	if !canCutLayer(base.last.Graph(), u) {
		return nil
	}
	var out []idea
	for _, c := range cuts(blocks) {
		l := layerCut{layer: u.Layer, stage: c.name}
		if len(u.Parents) > 0 {
			l.arg = u.Parents[0].Arg
		}
		now, ok := l.apply(base.text)
		if !ok {
			continue
		}
		out = append(out, idea{
			Suggestion: Suggestion{
				Title: fmt.Sprintf("%s:%d: end the stage before `%s`, and make what stands above the layer %s", u.Dockerfile, c.before.line, brief(c.before), l.name()),
				Why:   "What stands above is then found in the registry by itself, whatever is copied below.",
				Diff:  o.File + "\n" + diffLines(normal(base.text), string(now)) + u.Dockerfile + "\n",
			},
			edit: chain{
				{path: u.Dockerfile, change: c.apply},
				{path: o.File, text: func(old []byte) ([]byte, bool) {
					if old == nil {
						old = o.Fallback
					}
					return l.apply(old)
				}},
			},
		})
	}
	return out
}
