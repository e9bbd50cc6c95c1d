package dockerfile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"mvdan.cc/sh/v3/syntax"
)

// needs says what forces the engine in the final stage, and of each whether
// changed files of the context make it run again, and what to write instead.
func (a *analysis) needs(c *cut) []Need {
	var out []Need
	var copies []*op // so far, of files of the context that no RUN is known to be about
	for _, o := range c.head {
		if o.why == "" && o.chmod != nil {
			o.why = "it changes files that were not copied by the tail"
		}
		if o.why != "" {
			out = append(out, a.need(o, copies))
		}
		if o.copies() && !meantForAny(o, c.head) {
			copies = append(copies, o)
		}
	}
	if a.engine != "" && len(out) == 0 {
		out = append(out, Need{Line: c.final.from.line, Instruction: short(c.final.from.text), Why: a.engine})
	}
	return out
}

func (a *analysis) need(o *op, copies []*op) Need {
	n := Need{Line: o.in.line, Instruction: short(o.in.text), Why: o.why}
	if a.engine != "" {
		return n
	}
	if src := a.readBy(o); src != nil {
		n.Rerun = true
		n.Why = fmt.Sprintf("%s, which is built again on every change of %s because of %s at line %d",
			o.why, what(src), short(src.in.text), src.in.line)
		n.Instead = a.insteadOfStage(o)
		return n
	}
	if len(copies) == 0 {
		return n
	}
	first := copies[0]
	n.Rerun = true
	n.Why = fmt.Sprintf("%s at line %d runs again on every change of %s because %s at line %d stands before it",
		n.Instruction, n.Line, what(first), short(first.in.text), first.in.line)
	n.Instead = instead(o, first)
	return n
}

// insteadOfStage says how files of a stage come to be there without an engine:
// as those of a layer's image.
func (a *analysis) insteadOfStage(o *op) string {
	if o.copy == nil || o.copy.Stage < 0 {
		return ""
	}
	if a.stages[o.copy.Stage].name == "" {
		return "give the stage a name, and make every named stage a layer: `layers: auto` in strata.yaml"
	}
	return "make every named stage a layer: `layers: auto` in strata.yaml"
}

// copies says whether the instruction puts files of a context into the image.
func (o *op) copies() bool {
	return len(o.inputs) > 0 && (o.inputs[0].Kind == InputCopy || o.inputs[0].Kind == InputAdd)
}

// readBy gives an instruction that copies files of the context into the stage
// that o copies from, or nil.
func (a *analysis) readBy(o *op) *op {
	seen := map[*node]bool{}
	var find func(n *node) *op
	find = func(n *node) *op {
		if n == nil || seen[n] {
			return nil
		}
		seen[n] = true
		for _, p := range a.ops {
			if p.node == n && len(p.inputs) > 0 && !meantForAny(p, a.ops) {
				return p
			}
		}
		for _, d := range append([]*node{n.base.stage}, n.deps...) {
			if p := find(d); p != nil {
				return p
			}
		}
		return nil
	}
	for _, r := range a.refs[o.in] {
		if p := find(r.stage); p != nil {
			return p
		}
	}
	return nil
}

// short gives an instruction's first line, cut where it gets long.
func short(text string) string {
	const limit = 60
	line, _, more := strings.Cut(text, "\n")
	if r := []rune(line); len(r) > limit {
		return strings.TrimRight(string(r[:limit]), " ") + "..."
	}
	if more {
		line += "..."
	}
	return line
}

// what names the files that an instruction copies.
func what(o *op) string {
	p := o.inputs[0].Patterns
	if len(p) == 1 && (p[0] == "." || p[0] == "./" || p[0] == "/") {
		return "any file of the context"
	}
	return strings.Join(p, ", ")
}

// manifests are the files that a dependency installer reads, by the words that
// start it.
var manifests = []struct{ call, files string }{
	{"pip install", "requirements*.txt constraints*.txt"},
	{"pip3 install", "requirements*.txt constraints*.txt"},
	{"python -m pip", "requirements*.txt constraints*.txt"},
	{"python3 -m pip", "requirements*.txt constraints*.txt"},
	{"uv pip", "requirements*.txt pyproject.toml uv.lock"},
	{"uv sync", "pyproject.toml uv.lock"},
	{"poetry install", "pyproject.toml poetry.lock"},
	{"pipenv install", "Pipfile Pipfile.lock"},
	{"conda env", "environment.yml environment.yaml"},
	{"npm ci", "package.json package-lock.json .npmrc"},
	{"npm install", "package.json package-lock.json .npmrc"},
	{"yarn install", "package.json yarn.lock .yarnrc.yml .yarn"},
	{"yarn", "package.json yarn.lock .yarnrc.yml .yarn"},
	{"pnpm install", "package.json pnpm-lock.yaml pnpm-workspace.yaml .npmrc"},
	{"go mod", "go.mod go.sum"},
	{"cargo fetch", "Cargo.toml Cargo.lock"},
	{"bundle install", "Gemfile Gemfile.lock"},
	{"composer install", "composer.json composer.lock"},
	{"mvn dependency:go-offline", "pom.xml"},
	{"dotnet restore", "*.csproj *.sln *.fsproj"},
}

// free are programs that read no file of a build context as they are usually
// called: they may stand above every COPY.
const free = " apt-get apt apk dnf yum microdnf zypper pacman useradd adduser groupadd addgroup usermod" +
	" mkdir ln curl wget locale-gen update-ca-certificates ldconfig "

// neutral are programs that say nothing about what a RUN is for.
const neutral = " cd set echo true : export test rm [ "

func listed(list, word string) bool { return strings.Contains(list, " "+word+" ") }

// calls gives the programs that a RUN calls, none of them without a word; words
// that are not literal are empty. It gives nil for what is no shell script.
func (o *op) calls() [][]string {
	c, ok := o.cmd.(*instructions.RunCommand)
	if !ok || len(c.CmdLine) == 0 {
		return nil
	}
	if !c.PrependShell {
		return [][]string{c.CmdLine}
	}
	text := strings.Join(c.CmdLine, " ")
	if len(c.Files) > 0 {
		text = c.Files[0].Data
	}
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil
	}
	var out [][]string
	syntax.Walk(f, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		var argv []string
		for _, w := range call.Args {
			lit, _ := literal(w)
			argv = append(argv, lit)
		}
		out = append(out, argv)
		return true
	})
	return out
}

// installer gives the manifests of a dependency installer's call.
func installer(argv []string) []string {
	line := strings.Join(argv, " ")
	for _, m := range manifests {
		if line == m.call || strings.HasPrefix(line, m.call+" ") {
			return strings.Fields(m.files)
		}
	}
	return nil
}

// meantForAny says whether everything that c copies is there for one RUN behind
// it to read.
func meantForAny(c *op, ops []*op) bool {
	return slices.ContainsFunc(ops, func(o *op) bool {
		_, run := o.cmd.(*instructions.RunCommand)
		return run && o.node == c.node && o.key > c.key && meant(c, o)
	})
}

// meant says whether everything that c copies is there for o to read: it is
// named in o, or it is what o's installer reads.
func meant(c, o *op) bool {
	var globs []string
	for _, argv := range o.calls() {
		globs = append(globs, installer(argv)...)
	}
	for _, p := range c.inputs[0].Patterns {
		base := path.Base(p)
		known := slices.ContainsFunc(globs, func(g string) bool {
			ok, _ := path.Match(g, base)
			covers, _ := path.Match(base, g)
			return ok || covers && base != "*"
		})
		named := base != "." && base != "/" && !strings.ContainsAny(base, "*?[") && strings.Contains(o.in.text, base)
		if !known && !named {
			return false
		}
	}
	return true
}

// instead gives the smallest edit after which copied no longer makes o run
// again.
func instead(o, copied *op) string {
	calls := o.calls()
	up := fmt.Sprintf("move it above line %d", copied.in.line)
	if edit := insteadOfChmod(o, copied); len(o.chmod) > 0 && edit != "" {
		return edit
	}
	if _, run := o.cmd.(*instructions.RunCommand); !run {
		return up + ": it reads no file of the context"
	}
	var files []string
	others, freed := 0, 0
	for _, argv := range calls {
		switch m := installer(argv); {
		case m != nil:
			files = append(files, named(argv, m, copied)...)
		case listed(free, path.Base(argv[0])):
			freed++
		case !listed(neutral, argv[0]):
			others++
		}
	}
	switch {
	case others == 0 && len(files) > 0:
		return fmt.Sprintf("copy only %s before it, and move %s (line %d) below it",
			strings.Join(unique(files), ", "), short(copied.in.text), copied.in.line)
	case others == 0 && freed == 1 && oneFolder(calls) != "":
		return fmt.Sprintf("write WORKDIR %s in place of it, or %s", oneFolder(calls), up)
	case others == 0 && freed > 0:
		return up + ": it reads none of the copied files"
	}
	return up + " if it reads none of the copied files; otherwise do it in a stage of its own, and take the result from there with COPY --from"
}

// insteadOfChmod writes the mode or owner into the COPY that brings the files,
// or into one of their own behind it. It gives "" when they come from elsewhere.
func insteadOfChmod(o, copied *op) string {
	flags, whole := "", true
	var paths []string
	for _, m := range o.chmod {
		if m.Mode != "" {
			flags += " --chmod=" + m.Mode
		} else {
			flags += " --chown=" + m.Owner
		}
		for _, p := range m.Paths {
			if copied.dest == "" || !below(p, []string{copied.dest}) {
				return ""
			}
			whole = whole && p == copied.dest
			paths = append(paths, p)
		}
	}
	word, rest, _ := strings.Cut(copied.in.text, " ")
	if whole && len(o.chmod) == 1 {
		return fmt.Sprintf("drop it, and write %s at line %d", short(word+flags+" "+rest), copied.in.line)
	}
	if paths = unique(paths); len(paths) != 1 || len(o.chmod) > 2 {
		return ""
	}
	return fmt.Sprintf("drop it, and write COPY%s %s %s below line %d", flags, inContext(paths[0], copied), paths[0], copied.in.line)
}

// named gives the files that an installer is told to read, as they are called in
// the context that copied takes them from, or what it reads when it is told
// nothing.
func named(argv, manifests []string, copied *op) []string {
	var out []string
	for i, w := range argv {
		if (w == "-r" || w == "-c" || w == "--requirement" || w == "--constraint") && i+1 < len(argv) && argv[i+1] != "" {
			out = append(out, inContext(argv[i+1], copied))
		}
	}
	if out == nil {
		return manifests
	}
	return out
}

// inContext gives the name that a file of the image had in the context.
func inContext(p string, copied *op) string {
	if from := copied.inputs[0].Patterns; copied.dest != "" && len(from) == 1 {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(copied.dest, "/")+"/"); ok {
			return path.Join(from[0], rest)
		}
	}
	return p
}

// unique leaves out what stands in list before.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// oneFolder gives the folder that a RUN makes, if it makes one and does nothing
// else.
func oneFolder(calls [][]string) string {
	if len(calls) != 1 || calls[0][0] != "mkdir" {
		return ""
	}
	rest := slices.DeleteFunc(slices.Clone(calls[0][1:]), func(w string) bool { return w == "-p" })
	if len(rest) != 1 || rest[0] == "" || strings.HasPrefix(rest[0], "-") {
		return ""
	}
	return rest[0]
}
