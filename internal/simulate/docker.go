package simulate

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/source"
)

// docker is the model of an instruction cache that keeps everything: an
// instruction is a hit when the same instruction was run before on the same
// instructions. What it is told from:
//
//   - a stage's chain starts with its base: an image's digest, or the end of the
//     chain of the stage or layer that it starts from;
//   - each instruction that makes or changes files, or changes what later ones
//     see (RUN, COPY, ADD, WORKDIR, ENV, ARG, USER, SHELL), goes on the chain with
//     its text, and with the contents that it copies or mounts;
//   - metadata (LABEL, CMD, EXPOSE and the like) changes nothing that follows;
//   - what comes from another stage counts as changed when that stage's chain is;
//   - a refresh slot that has turned starts a layer's chain anew, as a scheduled
//     build without cache does.
type docker struct {
	seed maphash.Seed
	seen map[string]bool
	// contents is what instructions take, by the first entry of the list; before
	// is that of the last run.
	contents, before map[*source.Entry]string
}

func newDocker() *docker {
	return &docker{seed: maphash.MakeSeed(), seen: map[string]bool{}, contents: map[*source.Entry]string{}}
}

// vertex is one instruction that the cache knows.
type vertex struct {
	key    string
	stage  int
	text   string
	inputs [][]source.Entry
	tail   bool // an append makes it
	hit    bool
}

// word is the instruction itself: "RUN".
func (v vertex) word() string {
	word, _, _ := strings.Cut(v.text, " ")
	return word
}

// chains is what the cache makes of one run.
type chains struct {
	end      map[string]string // of each unit's last stage, by unit
	vertices map[string][]vertex
}

// run looks up every instruction of every unit of a pass, and remembers it.
func (d *docker) run(p *strata.Pass, s *strata.Sketch) chains {
	c := chains{end: map[string]string{}, vertices: map[string][]vertex{}}
	d.before, d.contents = d.contents, map[*source.Entry]string{} // no list is kept longer than it is in use
	for _, u := range p.Units {
		c.vertices[u.ID], c.end[u.ID] = d.unit(p, s, u, c.end)
	}
	for _, vs := range c.vertices {
		for i := range vs {
			vs[i].hit = d.seen[vs[i].key]
		}
	}
	for _, vs := range c.vertices {
		for _, v := range vs {
			d.seen[v.key] = true
		}
	}
	return c
}

// stages is the chains of one unit's stages on their way.
type stages struct {
	ends  []string // by stage
	names []string
}

func (d *docker) unit(p *strata.Pass, s *strata.Sketch, u *graph.Unit, ends map[string]string) ([]vertex, string) {
	b := u.Build
	st := stages{ends: make([]string, len(b.StageNames)), names: b.StageNames}
	files := s.Files(u.ID)
	lines := slices.Clone(b.Lines)
	slices.SortStableFunc(lines, func(x, y dockerfile.Line) int {
		return cmp.Or(cmp.Compare(x.Stage, y.Stage), cmp.Compare(x.Line, y.Line))
	})
	var out []vertex
	for _, l := range lines {
		word, rest, _ := strings.Cut(l.Text, " ")
		if l.Stage < 0 || metadata[word] {
			continue
		}
		if word == "FROM" {
			st.ends[l.Stage] = contentID("from", p.Slot(u.ID), u.Platform, u.Network, d.base(p, s, u, l, rest, st, ends))
			continue
		}
		parts := []string{st.ends[l.Stage], l.Text}
		if word == "ARG" {
			name, _, _ := strings.Cut(rest, "=")
			for _, a := range b.Args {
				if a.Name == name && !a.Parent {
					parts = append(parts, a.Value)
				}
			}
		}
		v := vertex{stage: l.Stage, text: l.Text, tail: l.Tail}
		for i, in := range b.Inputs {
			if in.Line == l.Line && in.Stage == l.Stage {
				v.inputs = append(v.inputs, files[i])
				parts = append(parts, d.content(files[i]))
			}
		}
		parts = append(parts, d.others(p, s, u, l, st, ends)...)
		v.key = contentID(parts...)
		st.ends[l.Stage] = v.key
		if word == "RUN" || word == "COPY" || word == "ADD" || word == "WORKDIR" {
			out = append(out, v)
		}
	}
	if len(st.ends) == 0 {
		return out, ""
	}
	return out, st.ends[len(st.ends)-1]
}

// metadata are the instructions that change nothing that follows.
var metadata = map[string]bool{
	"LABEL": true, "CMD": true, "ENTRYPOINT": true, "EXPOSE": true, "HEALTHCHECK": true, "STOPSIGNAL": true,
	"VOLUME": true, "MAINTAINER": true, "ONBUILD": true,
}

// base gives what a stage starts from.
func (d *docker) base(p *strata.Pass, s *strata.Sketch, u *graph.Unit, l dockerfile.Line, rest string, st stages, ends map[string]string) string {
	for _, f := range u.Build.Froms {
		if f.Stage == l.Stage && f.Kind == dockerfile.KindFrom {
			return from(p, s, u, f, ends)
		}
	}
	for word := range strings.FieldsSeq(rest) {
		if !strings.HasPrefix(word, "--") {
			return st.end(word, l.Stage)
		}
	}
	return ""
}

func from(p *strata.Pass, s *strata.Sketch, u *graph.Unit, f dockerfile.From, ends map[string]string) string {
	if up := p.Graph.Parent(u, f); up != nil {
		return ends[up.ID]
	}
	return f.Name() + s.External(u, f).String()
}

// others gives what an instruction takes from stages, layers and images.
func (d *docker) others(p *strata.Pass, s *strata.Sketch, u *graph.Unit, l dockerfile.Line, st stages, ends map[string]string) []string {
	var out []string
	for _, f := range u.Build.Froms {
		if f.Stage == l.Stage && f.Line == l.Line && f.Kind != dockerfile.KindFrom {
			out = append(out, from(p, s, u, f, ends))
		}
	}
	if len(out) > 0 {
		return out
	}
	for word := range strings.FieldsSeq(l.Text) {
		if name, ok := strings.CutPrefix(word, "--from="); ok {
			out = append(out, st.end(name, l.Stage))
		}
		if opts, ok := strings.CutPrefix(word, "--mount="); ok {
			for o := range strings.SplitSeq(opts, ",") {
				if name, ok := strings.CutPrefix(o, "from="); ok {
					out = append(out, st.end(name, l.Stage))
				}
			}
		}
	}
	return out
}

// end gives the end of the chain of an earlier stage, by name. A number counts
// stages of the file, of which those that are not reached are not here: then all
// earlier ones count.
func (s stages) end(name string, before int) string {
	for i := before - 1; i >= 0; i-- {
		if s.names[i] != "" && strings.EqualFold(s.names[i], name) {
			return s.ends[i]
		}
	}
	if _, err := strconv.Atoi(name); err == nil {
		return contentID(s.ends[:before]...)
	}
	return ""
}

// content gives one text for what an instruction takes.
func (d *docker) content(entries []source.Entry) string {
	if len(entries) == 0 {
		return ""
	}
	id, ok := d.contents[&entries[0]]
	if !ok {
		id, ok = d.before[&entries[0]]
		d.contents[&entries[0]] = id
	}
	if !ok {
		var h maphash.Hash
		h.SetSeed(d.seed)
		for i := range entries {
			e := &entries[i]
			fmt.Fprintf(&h, "%d %o %d", e.Kind, e.Mode, len(e.Path)) // then texts of known length
			h.WriteString(e.Path)
			h.WriteString(e.Link)
			h.WriteString(e.Digest.String())
		}
		id = strconv.FormatUint(h.Sum64(), 16)
		d.contents[&entries[0]] = id
	}
	return id
}
