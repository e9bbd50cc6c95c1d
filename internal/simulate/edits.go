package simulate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/change"
	"github.com/strata-build/strata/internal/source"
)

// block is one instruction of a Dockerfile with the comments before it.
type block struct {
	text  string // as written, with its line ends
	word  string // the instruction, in capitals; "" for what stands after the last
	args  string // the rest, continued lines joined
	stage int    // -1 before the first FROM
	line  int    // of the instruction itself, from 1
}

// split takes a Dockerfile's text apart. It says no where that can't be done by
// lines alone: heredocs, and another escape character.
func split(text string) ([]block, bool) {
	if strings.Contains(text, "<<") || strings.Contains(strings.ToLower(text), "escape=") {
		return nil, false
	}
	var out []block
	b, n, stage := block{}, 0, -1
	open := false // inside of an instruction
	for l := range strings.Lines(text) {
		n++
		b.text += l
		trimmed := strings.TrimSpace(l)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		if !open {
			word, rest, _ := strings.Cut(trimmed, " ")
			b.word, b.line = strings.ToUpper(word), n
			trimmed = rest
		}
		open = strings.HasSuffix(trimmed, `\`)
		b.args = strings.TrimSpace(b.args + " " + strings.TrimSpace(strings.TrimSuffix(trimmed, `\`)))
		if !open {
			if b.word == "FROM" {
				stage++
			}
			b.stage = stage
			out, b = append(out, b), block{}
		}
	}
	if b.text != "" {
		out = append(out, block{text: b.text, stage: stage})
	}
	return out, !open
}

func join(blocks []block) string {
	var b strings.Builder
	for i, bl := range blocks {
		b.WriteString(bl.text)
		if i < len(blocks)-1 && !strings.HasSuffix(bl.text, "\n") {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// same says whether two blocks are the same instruction.
func (b block) same(o block) bool {
	return b.word == o.word && strings.Join(strings.Fields(b.args), " ") == strings.Join(strings.Fields(o.args), " ")
}

// copied gives sources and destination of a COPY or ADD from the build context,
// and its flags.
func (b block) copied() (flags, sources []string, dest string, ok bool) {
	if b.word != "COPY" && b.word != "ADD" || strings.ContainsAny(b.args, `["$`) {
		return nil, nil, "", false
	}
	words := strings.Fields(b.args)
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		flags, words = append(flags, words[0]), words[1:]
	}
	if len(words) < 2 || slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "--from") }) {
		return nil, nil, "", false
	}
	return flags, words[:len(words)-1], words[len(words)-1], true
}

// harmless are commands that read nothing that a build context holds, unless
// they are told a path of it.
var harmless = []string{
	"apt-get", "apt", "apk", "dnf", "microdnf", "yum", "zypper", "apt-mark", "apt-cache", "update-ca-certificates", "ldconfig", "locale-gen", "dpkg-reconfigure",
	"useradd", "groupadd", "adduser", "addgroup", "usermod", "passwd", "curl", "wget", "gpg", "mkdir", "rm", "ln", "echo", "printf", "true", "set", "export", "cd", "tee", "install", "corepack",
}

// needsNothing says whether a RUN surely reads none of the files that a COPY
// takes: each of its commands is one of the harmless, or installs packages by
// name, and none is told a name that the COPY brings.
func needsNothing(run block, sources []string, dest string) bool {
	if strings.Contains(run.args, "--mount=type=bind") {
		return false
	}
	all := commands(run.args)
	if len(all) == 0 {
		return false
	}
	names := []string{path.Clean(dest)}
	for _, s := range sources {
		names = append(names, path.Base(path.Clean(s)))
	}
	for _, words := range all {
		words = module(words)
		if !slices.Contains(harmless, words[0]) && !byName(words) {
			return false
		}
		for _, w := range words[1:] {
			for _, n := range names {
				if n != "." && n != "/" && (w == n || strings.HasPrefix(w, n+"/") || strings.HasSuffix(w, "/"+n)) {
					return false
				}
			}
		}
	}
	return true
}

// byName says whether a command installs packages by their names alone.
func byName(words []string) bool {
	switch words[0] {
	case "pip", "pip3":
	case "npm":
		if !slices.Contains(words, "-g") && !slices.Contains(words, "--global") {
			return false
		}
	default:
		return false
	}
	if len(words) < 3 || words[1] != "install" {
		return false
	}
	return !slices.ContainsFunc(words[2:], func(w string) bool {
		return strings.HasPrefix(w, ".") || strings.HasPrefix(w, "/") || strings.ContainsAny(w, "$") ||
			slices.Contains([]string{"-r", "--requirement", "-e", "--editable", "-c", "--constraint"}, w) || strings.HasSuffix(w, ".txt")
	})
}

// later moves a COPY of the Dockerfile behind the last RUN that surely does not
// need it. It gives the index of the COPY and of the block that it then follows.
type later struct {
	copy, after block
}

// laters gives every such move.
func laters(blocks []block) []later {
	var out []later
	for i, b := range blocks {
		_, sources, dest, ok := b.copied()
		if !ok {
			continue
		}
		last := -1
		for j := i + 1; j < len(blocks) && blocks[j].stage == b.stage; j++ {
			next := blocks[j]
			if next.word == "RUN" {
				if !needsNothing(next, sources, dest) {
					break
				}
				last = j
				continue
			}
			if !passes(next, dest) {
				break
			}
		}
		if last > 0 {
			out = append(out, later{b, blocks[last]})
		}
	}
	return out
}

// passes says whether a COPY to dest may change places with an instruction that
// follows it.
func passes(next block, dest string) bool {
	switch next.word {
	case "COPY", "ADD":
		_, _, other, ok := next.copied()
		if !ok {
			return false
		}
		a, b := path.Clean(dest), path.Clean(other)
		return path.IsAbs(a) && path.IsAbs(b) && a != b && !strings.HasPrefix(a, b+"/") && !strings.HasPrefix(b, a+"/") && a != "/" && b != "/"
	case "WORKDIR":
		return path.IsAbs(dest) && path.Clean(dest) != path.Clean(next.args)
	case "ENV", "ARG", "LABEL", "EXPOSE", "CMD", "ENTRYPOINT", "HEALTHCHECK", "STOPSIGNAL", "USER":
		return true
	}
	return false
}

// apply makes the move in a version of the Dockerfile.
func (l later) apply(blocks []block) ([]block, bool) {
	i := slices.IndexFunc(blocks, l.copy.same)
	if i < 0 {
		return nil, false
	}
	j := i + 1
	for j < len(blocks) && !(blocks[j].same(l.after) && blocks[j].stage == blocks[i].stage) {
		j++
	}
	if j == len(blocks) {
		return nil, false
	}
	out := slices.Clone(blocks)
	moved := out[i]
	copy(out[i:j], out[i+1:j+1])
	out[j] = moved
	return out, true
}

// manifests copies the files that list dependencies, and installs these, before
// a COPY brings everything else.
type manifests struct {
	all, install block
	first        []string // COPY instructions
}

// manifestsFirst gives every place where that can be done. Taken gives what the COPY on
// a line takes.
func manifestsFirst(blocks []block, taken func(line int) []source.Entry) []manifests {
	var out []manifests
	for i, b := range blocks {
		flags, _, dest, ok := b.copied()
		if !ok || len(flags) > 0 {
			continue
		}
		j := i + 1
		for j < len(blocks) && blocks[j].stage == b.stage && slices.Contains([]string{"ENV", "ARG", "LABEL"}, blocks[j].word) {
			j++
		}
		if j == len(blocks) || blocks[j].stage != b.stage || blocks[j].word != "RUN" || !installsListed(blocks[j].args) {
			continue
		}
		m := manifests{all: b, install: blocks[j], first: copies(taken(b.line), dest, blocks[j].args)}
		if len(m.first) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// installsListed says whether a RUN does nothing but install what a file lists.
func installsListed(args string) bool {
	all := commands(args)
	for _, words := range all {
		words = module(words)
		text := strings.Join(words, " ")
		listed := slices.ContainsFunc([]string{"npm ci", "npm install", "yarn install", "pnpm install", "bun install", "go mod download", "bundle install",
			"composer install", "cargo fetch", "uv sync", "poetry install", "pipenv install", "pip install -r", "pip3 install -r", "pip install --no-cache-dir -r", "pip3 install --no-cache-dir -r"},
			func(p string) bool { return strings.HasPrefix(text, p) }) || text == "yarn"
		if !listed && !slices.Contains(harmless, words[0]) {
			return false
		}
	}
	return len(all) > 0
}

// copies gives the instructions that copy the manifests among some files: those
// in the top folder, and those that the RUN names.
func copies(entries []source.Entry, dest, run string) []string {
	byDir := map[string][]string{}
	var dirs []string
	others := false
	for _, e := range entries {
		if e.Kind != source.File || !e.MatchDir {
			continue
		}
		if !change.Manifest(e.Rel) || strings.Contains(e.Rel, "/") && !strings.Contains(run, e.Rel) {
			others = true
			continue
		}
		if strings.ContainsAny(e.Path, " *?[$") {
			return nil
		}
		dir := path.Dir(e.Rel)
		if byDir[dir] == nil {
			dirs = append(dirs, dir)
		}
		byDir[dir] = append(byDir[dir], e.Path)
	}
	if !others {
		return nil // nothing else is copied
	}
	var out []string
	for _, dir := range dirs {
		to := strings.TrimSuffix(dest, "/") + "/"
		if dir != "." {
			to += dir + "/"
		}
		out = append(out, "COPY "+strings.Join(byDir[dir], " ")+" "+to+"\n")
	}
	return out
}

func (m manifests) apply(blocks []block) ([]block, bool) {
	i := slices.IndexFunc(blocks, m.all.same)
	if i < 0 {
		return nil, false
	}
	j := i + 1
	for j < len(blocks) && !(blocks[j].same(m.install) && blocks[j].stage == blocks[i].stage) {
		j++
	}
	if j == len(blocks) {
		return nil, false
	}
	out := slices.Clone(blocks[:i])
	for _, c := range m.first {
		out = append(out, block{text: c, word: "COPY"})
	}
	out = append(out, blocks[i+1:j+1]...)
	out = append(out, blocks[i])
	return append(out, blocks[j+1:]...), true
}

// cut ends a stage before a COPY and goes on in a new one, so that what stands
// before it is a layer of its own.
type cut struct {
	before block
	name   string
}

// cuts gives every COPY from the context that has dear work before and after it
// in its stage.
func cuts(blocks []block) []cut {
	var out []cut
	for i, b := range blocks {
		if _, _, _, ok := b.copied(); !ok {
			continue
		}
		dear := func(o block) bool { return o.stage == b.stage && o.word == "RUN" && classify(o.args) != other }
		if slices.ContainsFunc(blocks[:i], dear) && slices.ContainsFunc(blocks[i:], func(o block) bool { return o.stage == b.stage && o.word == "RUN" }) {
			out = append(out, cut{b, freeName(blocks)})
		}
	}
	return out
}

// freeName gives a name that no stage has.
func freeName(blocks []block) string {
	for n := 1; ; n++ {
		name := "prepared"
		if n > 1 {
			name = fmt.Sprintf("prepared%d", n)
		}
		if !slices.ContainsFunc(blocks, func(b block) bool { return b.word == "FROM" && slices.Contains(strings.Fields(b.args), name) }) {
			return name
		}
	}
}

func (c cut) apply(blocks []block) ([]block, bool) {
	i := slices.IndexFunc(blocks, c.before.same)
	if i < 0 || blocks[i].stage < 0 {
		return nil, false
	}
	from := slices.IndexFunc(blocks, func(b block) bool { return b.word == "FROM" && b.stage == blocks[i].stage })
	words := strings.Fields(blocks[from].args)
	name, as := "", slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, "as") })
	if as >= 0 {
		if as+1 >= len(words) {
			return nil, false
		}
		name, words = words[as+1], words[:as]
	}
	head := strings.Join(words, " ")
	again := "\nFROM " + c.name
	if name != "" {
		again += " AS " + name
	}
	out := slices.Clone(blocks[:from])
	out = append(out, block{text: "FROM " + head + " AS " + c.name + "\n", word: "FROM"})
	out = append(out, blocks[from+1:i]...)
	out = append(out, block{text: again + "\n", word: "FROM"})
	for _, b := range blocks[from+1 : i] { // ARGs end with their stage
		if b.word == "ARG" {
			out = append(out, block{text: "ARG " + b.args + "\n", word: "ARG"})
		}
	}
	return append(out, blocks[i:]...), true
}
