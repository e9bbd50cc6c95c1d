package simulate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/spec"
)

// Suggestion is a change of a Dockerfile, or of the project's file, that would
// have saved work: it was replayed.
type Suggestion struct {
	Title string   `json:"title"`
	File  string   `json:"file"`
	Why   string   `json:"why"`
	Check string   `json:"check,omitempty"` // what only a person can tell
	Diff  string   `json:"diff"`            // of the newest version
	Text  string   `json:"text"`            // the newest version, changed
	Units []string `json:"units"`           // that are made from the file
	Saves Costs    `json:"saves"`
}

// mostTried bounds how many changes are replayed.
const mostTried = 24

// leastSaved is the time below which a change is not worth a line, in seconds.
const leastSaved = 1

// idea is a change that may save something.
type idea struct {
	Suggestion
	edit chain
	file string // the project's file that it asks for; "": the same
}

// rewrite is an [Edit] that changes each version of one Dockerfile, where that
// can be done.
type rewrite struct {
	path   string
	change func([]block) ([]block, bool)
	text   func([]byte) ([]byte, bool) // in place of change, for what is no Dockerfile
	others Files
}

// Paths are the Dockerfile and what comes with it.
func (r rewrite) Paths() []string {
	paths := r.others.Paths()
	if r.path != "" {
		paths = append(paths, r.path)
	}
	return paths
}

// File gives a version of the Dockerfile, changed.
func (r rewrite) File(path string, old []byte) ([]byte, bool) {
	if data, ok := r.others[path]; ok {
		return data, true
	}
	if r.text != nil {
		return r.text(old)
	}
	blocks, ok := split(string(old))
	if !ok || old == nil {
		return nil, false
	}
	blocks, ok = r.change(blocks)
	return []byte(join(blocks)), ok
}

// chain makes one edit after the other.
type chain []rewrite

// Paths are the files of all of them.
func (c chain) Paths() []string {
	var out []string
	for _, r := range c {
		for _, p := range r.Paths() {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// File gives a version of a file after all edits.
func (c chain) File(path string, old []byte) ([]byte, bool) {
	text, any := old, false
	for _, r := range c {
		if !slices.Contains(r.Paths(), path) {
			continue
		}
		if next, ok := r.File(path, text); ok {
			text, any = next, true
		}
	}
	return text, any
}

// Suggest looks for changes of the newest commit's Dockerfiles that would have
// saved work. It replays the history with each, in every version of a file that
// has the same instructions, takes the one that saves most, and goes on from
// there: a suggestion's figures are what it saves on top of those before it. Base
// is the replay without any.
func Suggest(ctx context.Context, h *githistory.History, o Options, base *Result) ([]Suggestion, error) {
	var out []Suggestion
	var done chain
	tried := 0
	for {
		var best idea
		var with *Result
		for _, i := range o.ideas(base) {
			if tried == mostTried {
				break
			}
			tried++
			got, err := i.try(ctx, h, o, done)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil || got.Planned() < base.Planned() {
				continue // it can't be built that way
			}
			if i.Saves = base.Totals.less(got.Totals); with == nil || i.better(best) {
				best, with = i, got
			}
		}
		if with == nil || best.Saves.Strata.Seconds < leastSaved && best.Saves.Warm.Seconds < leastSaved {
			return out, nil
		}
		best.Why += fmt.Sprintf(" Builds of units: %d instead of %d.", with.Totals.Strata.Built, base.Totals.Strata.Built)
		out, done, base = append(out, best.Suggestion), append(done, best.edit...), with
		if best.file != "" {
			o.File, o.Fallback = best.file, nil
		}
	}
}

// try replays the history with one more edit.
func (i idea) try(ctx context.Context, h *githistory.History, o Options, done chain) (*Result, error) {
	o.Edit = append(slices.Clone(done), i.edit...)
	if i.file != "" {
		o.File, o.Fallback = i.file, nil
	}
	return Run(ctx, h, o)
}

// better says whether an idea saves more than another: with Strata, or else with
// an instruction cache, which a later cut may turn into the first.
func (i idea) better(o idea) bool {
	a, b := i.Saves, o.Saves
	if a.Strata.Seconds >= leastSaved || b.Strata.Seconds >= leastSaved {
		return a.Strata.Seconds > b.Strata.Seconds
	}
	return a.Warm.Seconds > b.Warm.Seconds
}

func (c Costs) less(o Costs) Costs {
	return Costs{
		Strata: minus(c.Strata, o.Strata), Rebuild: minus(c.Rebuild, o.Rebuild), Warm: minus(c.Warm, o.Warm), Cold: minus(c.Cold, o.Cold),
	}
}

// ideas gives what could be changed in the newest Dockerfiles.
func (o Options) ideas(base *Result) []idea {
	g := base.last.Graph()
	var out []idea
	seen := map[string]bool{}
	for _, u := range g.Units {
		if seen[u.Dockerfile] || u.Inline != nil {
			continue
		}
		seen[u.Dockerfile] = true
		text := base.last.Dockerfile(u.Dockerfile)
		blocks, ok := split(string(text))
		if !ok {
			continue
		}
		for _, i := range o.ideasFor(base, u, blocks) {
			i.File = u.Dockerfile
			for _, other := range g.Units {
				if other.Dockerfile == u.Dockerfile {
					i.Units = append(i.Units, other.ID)
				}
			}
			if change := i.edit[0].change; change != nil {
				changed, ok := change(blocks)
				if !ok {
					continue
				}
				i.Text = join(changed)
			}
			i.Diff += diffLines(string(text), i.Text)
			out = append(out, i)
		}
	}
	return out
}

func (o Options) ideasFor(base *Result, u *graph.Unit, blocks []block) []idea {
	var out []idea
	add := func(title, why, check string, change func([]block) ([]block, bool)) {
		out = append(out, idea{
			Suggestion: Suggestion{Title: title, Why: why, Check: check},
			edit:       chain{{path: u.Dockerfile, change: change}},
		})
	}
	for _, l := range laters(blocks) {
		add(fmt.Sprintf("%s:%d: move `%s` behind line %d", u.Dockerfile, l.copy.line, brief(l.copy), l.after.line),
			fmt.Sprintf("`%s` does not read what is copied, and runs again whenever that changes.", brief(l.after)), "", l.apply)
	}
	taken := func(line int) []source.Entry {
		for _, other := range base.last.Graph().Units { // a stage is reached by some of them
			for i, in := range other.Build.Inputs {
				if in.Line == line && other.Dockerfile == u.Dockerfile {
					return base.last.Files(other.ID)[i]
				}
			}
		}
		return nil
	}
	for _, m := range manifestsFirst(blocks, taken) {
		add(fmt.Sprintf("%s:%d: copy what lists the dependencies, install, and only then `%s`", u.Dockerfile, m.all.line, brief(m.all)),
			fmt.Sprintf("`%s` runs again with every file that changes.", brief(m.install)),
			"that the install step needs no other file of the project (as scripts that run after it do)", m.apply)
	}
	return append(out, o.cutIdeas(base, u, blocks)...)
}

// cutIdeas gives the ways to make more layers of a Dockerfile. They are tried
// where its stages are layers by themselves, or can become so.
func (o Options) cutIdeas(base *Result, u *graph.Unit, blocks []block) []idea {
	p := base.last.Graph().Project
	var auto Files
	file, diff := "", ""
	switch {
	case p.Kind == spec.KindDockerfile:
		file = strataFile
		text := fmt.Sprintf("image: %q\ndockerfile: %q\nlayers: auto\n", p.Image, u.Dockerfile)
		auto = Files{file: []byte(text)}
		diff = strataFile + "\n" + plus(text)
	case u.Stage: // every stage is a layer already
	default:
		return o.layerIdeas(base, u, blocks)
	}
	var out []idea
	if len(u.File.Stages()) > 1 && file != "" {
		out = append(out, idea{
			Suggestion: Suggestion{
				Title: fmt.Sprintf("make each stage of %s a layer", u.Dockerfile), Diff: diff, Text: string(base.last.Dockerfile(u.Dockerfile)),
				Why: "A stage that did not change is then found in the registry by itself.",
			},
			edit: chain{{others: auto}}, file: file,
		})
	}
	for _, c := range cuts(blocks) {
		out = append(out, idea{
			Suggestion: Suggestion{
				Title: fmt.Sprintf("%s:%d: end the stage before `%s`, and make what stands above a layer", u.Dockerfile, c.before.line, brief(c.before)), Diff: diff,
				Why: "What stands above is then found in the registry by itself, whatever is copied below.",
			},
			edit: chain{{path: u.Dockerfile, change: c.apply, others: auto}}, file: file,
		})
	}
	return out
}

// brief is an instruction in a few words.
func brief(b block) string {
	text := b.word + " " + strings.Join(strings.Fields(b.args), " ")
	if r := []rune(text); len(r) > 60 {
		text = string(r[:57]) + "..."
	}
	return text
}

func plus(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		b.WriteString("+" + l)
	}
	return b.String()
}

// diffLines gives the lines that went and came, with one line around them.
func diffLines(old, new string) string {
	a, b := strings.Split(strings.TrimSuffix(old, "\n"), "\n"), strings.Split(strings.TrimSuffix(new, "\n"), "\n")
	// The longest common subsequence; a Dockerfile is short.
	long := make([][]int, len(a)+1)
	for i := range long {
		long[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				long[i][j] = long[i+1][j+1] + 1
			} else {
				long[i][j] = max(long[i+1][j], long[i][j+1])
			}
		}
	}
	var lines []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, " "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && long[i+1][j] >= long[i][j+1]:
			lines = append(lines, "-"+a[i])
			i++
		default:
			lines = append(lines, "+"+b[j])
			j++
		}
	}
	var out strings.Builder
	for n, l := range lines {
		near := func(k int) bool { return k >= 0 && k < len(lines) && lines[k][0] != ' ' }
		if near(n) || near(n-1) || near(n+1) {
			out.WriteString(l + "\n")
		}
	}
	return out.String()
}
