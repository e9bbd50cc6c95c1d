package export

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/graph"
)

// Dockerfile writes one Dockerfile that builds a unit's image with everything
// that it stands on, and the ignore file that belongs to it, where there is one.
func (in Input) Dockerfile(u *graph.Unit) ([]File, error) {
	m := &monolith{
		Input: in, leaf: u, units: in.Graph.Closure([]string{u.ID}), names: names{dockerfile.Scratch: true, "context": true},
		stages: map[string]string{}, visible: map[string][]string{}, places: map[place]string{}, folders: map[string]string{},
		buildArgs: map[string]string{}, secrets: map[string]string{},
	}
	if err := m.write(); err != nil {
		return nil, diag.Hint(fmt.Errorf("writing %s as one Dockerfile: %w", u.ID, err), "%s", bakeInstead(err))
	}
	name := "Dockerfile." + short(u)
	files := []File{{Name: name, Data: m.file(name), Mark: "export dockerfile", Notes: m.notes}}
	if m.main.own != "" {
		files = append(files, File{Name: dockerfile.IgnoreFile(name), Data: []byte(generated.Place + m.main.ignore), Mark: "export dockerfile"})
	}
	return files, nil
}

func bakeInstead(err error) string {
	if hint := diag.HintOf(err); hint != "" {
		return hint
	}
	return "strata export bake keeps the layers apart, so that nothing has to be put into one file"
}

// monolith is the Dockerfile of a leaf with its parents.
type monolith struct {
	Input
	leaf    *graph.Unit
	units   []*graph.Unit // parents first
	names   names         // of stages and contexts
	stages  map[string]string
	visible map[string][]string // args in force at the end of each unit

	syntax, escape string
	main           place
	places         map[place]string  // build contexts but the main one -> named contexts
	folders        map[string]string // named contexts of the file -> folders
	buildArgs      map[string]string // that speak to BuildKit itself
	secrets        map[string]string // id -> flag
	body           bytes.Buffer
	notes          []string
}

// place is a build context: a folder and what is left out of it.
type place struct {
	folder string
	own    string // the Dockerfile that has an ignore file of its own, or ""
	ignore string // text of that file
}

func (m *monolith) write() error {
	if err := m.directives(); err != nil {
		return err
	}
	m.reserve()
	if err := m.findPlaces(); err != nil {
		return err
	}
	for _, u := range m.units {
		if err := m.machine(u); err != nil {
			return err
		}
		if err := m.graft(u); err != nil {
			return err
		}
	}
	return m.verify()
}

// directives finds the one syntax and the one escape character for all files.
func (m *monolith) directives() error {
	m.syntax, m.escape = "", ""
	first := true
	for _, u := range m.units {
		syntax, escape := u.File.Directives()
		if given := u.Args["BUILDKIT_SYNTAX"]; given != "" {
			syntax = given
		}
		switch {
		case first:
		case escape != m.escape:
			return diag.Hint(fmt.Errorf("%s has another escape character than the files that it stands on", u.Dockerfile),
				"give all of them the same `# escape=` line, or use strata export bake")
		case syntax != "" && m.syntax != "" && syntax != m.syntax:
			return diag.Hint(pair("`# syntax=`", m.syntax, syntax),
				"give all Dockerfiles the same `# syntax=` line, or use strata export bake")
		case (syntax == "") != (m.syntax == "") && !dockers(syntax+m.syntax):
			return diag.Hint(fmt.Errorf("only some of its Dockerfiles are read by the frontend %s", syntax+m.syntax),
				"give all of them the same `# syntax=` line, or use strata export bake")
		}
		if syntax != "" {
			m.syntax = syntax
		}
		m.escape, first = escape, false
	}
	return nil
}

// dockers says whether a frontend is Docker's own, which reads what the one
// that is built into BuildKit reads.
func dockers(syntax string) bool {
	return strings.HasPrefix(strings.TrimPrefix(syntax, "docker.io/"), "docker/dockerfile:")
}

// reserve keeps stages from taking the names of images: FROM would mean them.
func (m *monolith) reserve() {
	for _, u := range m.units {
		for _, f := range u.Build.Froms {
			if name := m.outside(u, f); name != "" {
				m.names[name] = true
				m.names[dockerfile.ContextName(name)] = true
			}
		}
	}
}

// findPlaces finds the main build context, and names for the others. Docker
// gives only the main one an ignore file that belongs to one Dockerfile.
func (m *monolith) findPlaces() error {
	var all []place
	for _, u := range m.units {
		p := m.placeOf(u)
		used := slices.ContainsFunc(u.Build.Inputs, func(i dockerfile.Input) bool { return i.Context == "" })
		if used && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	m.main = m.placeOf(m.leaf)
	if len(all) > 0 && !slices.Contains(all, m.main) {
		m.main = all[len(all)-1]
	}
	for _, p := range all {
		if p.own != "" {
			m.main = p
		}
	}
	for _, p := range all {
		switch {
		case p == m.main:
		case p.own != "":
			return diag.Hint(fmt.Errorf("%s and %s each have an ignore file of their own, and Docker takes only one for a build",
				m.main.own, p.own), "use one .dockerignore for both, or strata export bake")
		default:
			m.places[p] = m.folder(p.folder, "files")
		}
	}
	return nil
}

func (m *monolith) placeOf(u *graph.Unit) place {
	p := place{folder: u.Context}
	if text, ok := m.Ignore[u.Dockerfile]; ok {
		p.own, p.ignore = u.Dockerfile, string(text)
	}
	return p
}

// folder gives the named context of a folder.
func (m *monolith) folder(dir, want string) string {
	for name, d := range m.folders {
		if d == dir {
			return name
		}
	}
	name := m.names.take(stageName(want))
	m.folders[name] = dir
	return name
}

// machine collects what a unit's build is given beside its Dockerfile.
func (m *monolith) machine(u *graph.Unit) error {
	for name, value := range u.Args {
		if name == "BUILDKIT_SYNTAX" || name == "BUILDKIT_DOCKERFILE_CHECK" {
			continue
		}
		if !strings.HasPrefix(name, "BUILDKIT_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			continue
		}
		if have, ok := m.buildArgs[name]; ok && have != value {
			return pair("the argument "+name, have, value)
		}
		m.buildArgs[name] = value
	}
	for _, s := range u.Secrets {
		if !slices.Contains(u.Build.Secrets, s.ID) {
			continue
		}
		if have, ok := m.secrets[s.ID]; ok && have != secret(s) {
			return pair("the secret "+s.ID, have, secret(s))
		}
		m.secrets[s.ID] = secret(s)
	}
	return nil
}

// graft writes a unit's stages.
func (m *monolith) graft(u *graph.Unit) error {
	layer := stageName(u.Layer)
	g, err := u.File.Graft(u.Options, dockerfile.Graft{
		Network: u.Network, Labels: u.Labels,
		Stage: func(name string, final bool) string {
			switch {
			case final:
				m.stages[u.ID] = m.names.take(layer)
				return m.stages[u.ID]
			case name == "":
				name = "stage"
			}
			return m.names.take(layer + "-" + name)
		},
		Image: func(f dockerfile.From) string {
			if p := m.Graph.Parent(u, f); p != nil {
				return m.stages[p.ID]
			}
			return m.outside(u, f)
		},
		Folder: func(context string) string {
			if context == "" {
				return m.places[m.placeOf(u)]
			}
			return m.folder(u.Contexts[context], context)
		},
		Inherited: func(f dockerfile.From) []string {
			if p := m.Graph.Parent(u, f); p != nil {
				return m.visible[p.ID]
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if err := m.seen(u, g); err != nil {
		return err
	}
	m.visible[u.ID] = g.Visible
	fmt.Fprintf(&m.body, "\n# ---- %s, from %s\n", u.Layer, u.Dockerfile)
	m.body.Write(bytes.TrimLeft(g.Text, "\r\n"))
	return nil
}

// seen refuses what would mean something else because a parent's arguments go
// on in the stages that start from it, and notes what hardly would.
func (m *monolith) seen(u *graph.Unit, g dockerfile.Grafted) error {
	var problems diag.List
	quiet := map[string]bool{}
	for _, s := range g.Seen {
		if !s.Named || m.oneFile(u) {
			quiet[s.Name] = true
			continue
		}
		problems.Errorf(diag.Pos{File: u.Dockerfile, Line: s.Line},
			"give the ARG another name there, or use strata export bake, which keeps the layers apart",
			"%s names %s, an ARG of a layer below: in one file it would get its value", u.Layer, s.Name)
	}
	for _, p := range g.Parents {
		m.note("%s line %d: %s is the name of a stage here, not of an image", u.Dockerfile, p.Line, p.Name)
	}
	if len(quiet) > 0 {
		m.note("commands of %s find in their environment what is an ARG of a layer below: %s",
			u.Layer, strings.Join(slices.Sorted(maps.Keys(quiet)), ", "))
	}
	return problems.Err()
}

// oneFile says whether all units come from one Dockerfile: then it means what
// it says to Docker.
func (m *monolith) oneFile(u *graph.Unit) bool {
	return !slices.ContainsFunc(m.units, func(o *graph.Unit) bool { return o.Dockerfile != u.Dockerfile })
}

func (m *monolith) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

var renamed = regexp.MustCompile(` ?--from=\S+|,?from=[^,\s]+,?| ?--network=\S+`)

// verify reads the text back: every instruction of every unit has to be in it.
func (m *monolith) verify() error {
	text := append([]byte(m.head()), m.body.Bytes()...)
	f, err := dockerfile.Parse("the Dockerfile", text)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	o := dockerfile.Options{Target: m.stages[m.leaf.ID], Platform: m.leaf.Platform, BuildPlatform: m.leaf.Options.BuildPlatform, Folders: map[string]bool{}, OnBuild: m.triggers()}
	for name := range m.folders {
		o.Folders[name] = true
	}
	back, err := f.Analyze(o)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	count := map[string]int{}
	for _, u := range m.units {
		tally(count, u.Build, 1)
	}
	tally(count, back, -1)
	for _, line := range slices.Sorted(maps.Keys(count)) {
		if count[line] > 0 {
			return fmt.Errorf("internal error: the instruction %q was lost", line)
		}
	}
	return nil
}

// triggers gives the ONBUILD triggers of external images by the names that they
// have in the file.
func (m *monolith) triggers() map[string][]string {
	out := map[string][]string{}
	for _, u := range m.units {
		for _, f := range u.Build.Froms {
			if u.Options.Base == nil || m.outside(u, f) == "" {
				continue
			}
			if c, ok := u.Options.Base(f); ok {
				out[m.outside(u, f)] = c.OnBuild
			}
		}
	}
	return out
}

// tally counts instructions but for what an export changes in them.
func tally(count map[string]int, b *dockerfile.Build, by int) {
	for _, l := range b.Lines {
		if word, _, _ := strings.Cut(l.Text, " "); word != "FROM" && word != "ARG" && word != "#" {
			count[renamed.ReplaceAllString(l.Text, "")] += by
		}
	}
}

func (m *monolith) head() string {
	head := ""
	if m.syntax != "" {
		head += "# syntax=" + m.syntax + "\n"
	}
	if m.escape != "" {
		head += "# escape=" + m.escape + "\n"
	}
	return head
}

// file puts the Dockerfile together.
func (m *monolith) file(name string) []byte {
	var b bytes.Buffer
	b.WriteString(m.head())
	b.WriteString(generated.Place)
	fmt.Fprintf(&b, "#\n# The image of %s and all that it stands on, for builds without Strata. In the project's folder:\n#\n", m.leaf.ID)
	for _, line := range m.command(path.Join(m.Folder, name)) {
		fmt.Fprintf(&b, "#   %s\n", line)
	}
	for _, n := range m.notes {
		fmt.Fprintf(&b, "#\n# Note: %s.\n", n)
	}
	b.Write(m.body.Bytes())
	return b.Bytes()
}

// command gives the lines that build the file.
func (m *monolith) command(file string) []string {
	words := []string{"docker buildx build --platform " + m.leaf.Platform, "-f " + ShellWord(file)}
	for _, name := range slices.Sorted(maps.Keys(m.folders)) {
		words = append(words, "--build-context "+ShellWord(name+"="+m.folders[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(m.buildArgs)) {
		words = append(words, "--build-arg "+ShellWord(name+"="+m.buildArgs[name]))
	}
	for _, id := range slices.Sorted(maps.Keys(m.secrets)) {
		words = append(words, "--secret "+ShellWord(m.secrets[id]))
	}
	var ssh []string
	host := false
	for _, u := range m.units {
		ssh = append(ssh, u.SSH...)
		host = host || u.Network == "host"
	}
	slices.Sort(ssh)
	for _, s := range slices.Compact(ssh) {
		words = append(words, "--ssh "+ShellWord(s))
	}
	if host {
		words = append(words, "--allow network.host")
	}
	words = append(words, "-t "+ShellWord(m.leaf.Image+":"+m.tagOf(m.leaf, short(m.leaf))), ShellWord(m.main.folder))
	return wrap(words, 100)
}

// wrap joins words into lines that a shell reads as one.
func wrap(words []string, width int) []string {
	var lines []string
	line := ""
	for _, w := range words {
		if line != "" && len(line)+len(w) > width {
			lines = append(lines, line+" \\")
			line = " "
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return append(lines, line)
}
