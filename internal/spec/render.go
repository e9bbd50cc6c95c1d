package spec

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v4"
)

// Resolved is a project with everything decided, as `strata config` shows it.
type Resolved struct {
	File        string              `json:"file"`
	Image       string              `json:"image"`
	Version     string              `json:"version,omitempty"`
	Compression string              `json:"compression"`
	Protect     []string            `json:"protect,omitempty"`
	Channels    []string            `json:"channels,omitempty"`
	Cache       Cache               `json:"cache"`
	Engines     []Endpoint          `json:"engines,omitempty"`
	Runners     map[string][]string `json:"runners,omitempty"`
	Units       []ResolvedUnit      `json:"units"`
	Indexes     []ResolvedIndex     `json:"indexes,omitempty"`
}

// ResolvedUnit is a unit with its ID and tags.
type ResolvedUnit struct {
	ID string `json:"id"`
	Unit
	Inline string        `json:"inline,omitempty"` // text of the Dockerfile
	MaxAge string        `json:"maxAge,omitempty"` // as in strata.yaml: "3w"
	Test   *ResolvedTest `json:"test,omitempty"`
	Keep   *ResolvedKeep `json:"keep,omitempty"`
	Tags   []string      `json:"tags,omitempty"`
}

// ResolvedTest is a [Test] with its time limit as in strata.yaml.
type ResolvedTest struct {
	Test
	Timeout string `json:"timeout"`
}

// ResolvedKeep is a [Keep] with its age as in strata.yaml.
type ResolvedKeep struct {
	Age   string `json:"age,omitempty"`
	Count int    `json:"count,omitempty"`
}

// ResolvedIndex is a multi-platform index.
type ResolvedIndex struct {
	Layer   string   `json:"layer"`
	Variant string   `json:"variant,omitempty"`
	Tags    []string `json:"tags"`
}

// Resolve gives the project with everything decided. For what r does not
// name, tags have its name in capitals: "VERSION-cpu".
func (p *Project) Resolve(r Release) Resolved {
	keep := func(s *string, name string) {
		if *s == "" {
			*s = name
		}
	}
	keep(&r.Version, "VERSION")
	keep(&r.Branch, "BRANCH")
	keep(&r.Sha, "SHA")
	out := Resolved{
		File: p.File, Image: p.Image, Version: p.Version, Compression: p.Compression,
		Protect: p.Protect, Channels: p.Channels, Cache: p.Cache, Engines: p.Engines, Runners: p.Runners,
	}
	for _, u := range p.units {
		out.Units = append(out.Units, resolveUnit(u, p.TagsFor(u, r)))
	}
	for _, l := range p.Layers {
		for _, v := range p.Variants {
			if tags := p.IndexTags(l.Name, v.Name, r); len(tags) > 0 {
				out.Indexes = append(out.Indexes, ResolvedIndex{Layer: l.Name, Variant: v.Name, Tags: tags})
			}
		}
	}
	return out
}

func resolveUnit(u Unit, tags []string) ResolvedUnit {
	out := ResolvedUnit{ID: u.ID(), Unit: u, Inline: string(u.Inline), Tags: tags}
	if u.MaxAge > 0 {
		out.MaxAge = formatDuration(u.MaxAge)
	}
	if u.Test != nil {
		out.Test = &ResolvedTest{Test: *u.Test, Timeout: formatDuration(u.Test.Timeout)}
	}
	if u.Keep != (Keep{}) {
		out.Keep = &ResolvedKeep{Count: u.Keep.Count}
		if u.Keep.Age > 0 {
			out.Keep.Age = formatDuration(u.Keep.Age)
		}
	}
	return out
}

// Render gives the resolved project as YAML, the same bytes for the same
// project.
func Render(p *Project) []byte {
	data, err := json.Marshal(p.Resolve(Release{}))
	if err != nil {
		panic("internal error: rendering project: " + err.Error())
	}
	// JSON is YAML: reading it back as a node tree keeps the order of fields.
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		panic("internal error: rendering project: " + err.Error())
	}
	block(&doc)
	var out bytes.Buffer
	d, err := yaml.NewDumper(&out, yaml.WithIndent(2), yaml.WithCompactSeqIndent())
	if err == nil {
		err = d.Dump(&doc)
	}
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		panic("internal error: rendering project: " + err.Error())
	}
	return out.Bytes()
}

// block gives mappings and long lists a line for each entry, and texts no
// quotes where they need none.
func block(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		block(c)
	}
}
