package export

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/printable"
)

// Bake writes a docker-bake file with a target for each of the units, which the
// graph gives parents first. The units' project must have been given [Release].
func (in Input) Bake(units []*graph.Unit) File {
	b := &bake{Input: in, units: units, targets: map[string]string{}}
	taken := names{"default": true}
	for _, g := range b.groups() {
		taken[g.name] = true
	}
	for _, u := range units {
		b.targets[u.ID] = taken.take(targetName(short(u)))
	}
	b.file()
	return File{Name: "docker-bake.hcl", Data: b.text.Bytes(), Mark: "export bake"}
}

type bake struct {
	Input
	units   []*graph.Unit
	targets map[string]string // by unit
	text    bytes.Buffer
}

var notTarget = regexp.MustCompile(`[^A-Za-z0-9_-]`)

func targetName(s string) string { return notTarget.ReplaceAllString(s, "-") }

func (b *bake) line(format string, args ...any) { fmt.Fprintf(&b.text, format+"\n", args...) }

func (b *bake) file() {
	b.text.WriteString(generated.Place)
	b.line("#")
	b.line("# The images of this project for builds without Strata. In the project's folder:")
	b.line("#")
	b.line("#   docker buildx bake -f %s --push", ShellWord(pathJoin(b.Folder, "docker-bake.hcl")))
	b.line("#")
	b.line("# A target that starts from another one (target:...) has to be built by the same builder: one builder for all")
	b.line("# platforms, with nodes or emulation for each. Groups: default (all), and each layer and variant by its name.")
	if indexes := indexes(b.Graph.Project, b.units); len(indexes) > 0 {
		b.line("# Bake makes no index over targets; when all are pushed:")
		b.line("#")
		for _, x := range indexes {
			b.line("#   docker buildx imagetools create %s", fill(x.words(), func(name string) string { return "$" + name }))
		}
	}
	b.variables()
	for _, g := range b.groups() {
		var members []string
		for _, u := range g.units {
			members = append(members, b.targets[u.ID])
		}
		b.line("\ngroup %s {\n  targets = %s\n}", hcl(g.name), list(members, "  "))
	}
	for _, u := range b.units {
		b.target(b.Input.target(u))
	}
}

// variables declares what the units' values name.
func (b *bake) variables() {
	b.line("\nvariable \"IMAGE\" {\n  default = %s\n}", hcl(b.Graph.Project.Image))
	b.line("\nvariable \"VERSION\" {\n  default = \"dev\"\n}")
	used := ""
	for _, u := range b.units {
		used += strings.Join(b.Graph.Project.TagsFor(u.Unit, Release), " ") + " "
	}
	for _, here := range []string{branchHere, shaHere} {
		if strings.Contains(used, here) {
			b.line("\nvariable %q {\n  default = \"\" # tags that name it are left out\n}", variables[here])
		}
	}
}

// group is a name for several units.
type group struct {
	name  string
	units []*graph.Unit
}

// groups gives the group of all, one for each layer, and one for each variant
// that has not the name of a layer.
func (b *bake) groups() []group {
	all := group{name: "default"}
	by := map[string]*group{}
	var order []string
	add := func(name string, u *graph.Unit) {
		if by[name] == nil {
			by[name] = &group{name: name}
			order = append(order, name)
		}
		by[name].units = append(by[name].units, u)
	}
	layers := map[string]bool{"default": true}
	for _, u := range b.units {
		layers[targetName(u.Layer)] = true
	}
	for _, u := range b.units {
		all.units = append(all.units, u)
		if name := targetName(u.Layer); name != "default" {
			add(name, u)
		}
	}
	for _, u := range b.units {
		if name := targetName(u.Variant); name != "" && !layers[name] {
			add(name, u)
		}
	}
	out := []group{all}
	for _, name := range order {
		out = append(out, *by[name])
	}
	return out
}

func (b *bake) target(t target) {
	u := t.unit
	b.line("\ntarget %s {", hcl(b.targets[u.ID]))
	b.line("  context    = %s", hcl(u.Context))
	if u.Inline != nil {
		b.line("  dockerfile-inline = %s", hcl(string(u.Inline)))
	} else {
		b.line("  dockerfile = %s", hcl(underContext(u.Context, u.Dockerfile)))
	}
	if u.Target != "" {
		b.line("  target     = %s", hcl(u.Target))
	}
	b.line("  platforms  = [%s]", hcl(u.Platform))
	contexts, args := maps.Clone(t.contexts), maps.Clone(t.args)
	if args == nil {
		args = map[string]string{}
	}
	for _, p := range t.parents {
		contexts[p.context] = "target:" + b.targets[p.unit.ID]
		if p.arg != "" {
			args[p.arg] = p.context
		}
	}
	b.object("contexts", contexts)
	b.object("args", args)
	b.object("labels", u.Labels)
	b.strings("secret", t.secrets)
	b.strings("ssh", u.SSH)
	if u.Network != "" {
		b.line("  network    = %s", hcl(u.Network))
	}
	if u.Network == "host" {
		b.line("  entitlements = [\"network.host\"]")
	}
	if t.cache.from != "" {
		b.strings("cache-from", []string{t.cache.from})
		b.strings("cache-to", []string{t.cache.to})
	}
	b.tags(t)
	b.line("}")
}

func (b *bake) tags(t target) {
	var out []string
	open, end := "[", "]"
	for _, tag := range t.tags {
		image := hcl(t.unit.Image)
		if t.unit.Image == b.Graph.Project.Image {
			image = `"${IMAGE}"`
		}
		ref := strings.TrimSuffix(image, `"`) + ":" + strings.TrimPrefix(hcl(tag), `"`)
		for _, here := range []string{branchHere, shaHere} {
			if strings.Contains(tag, here) {
				ref = fmt.Sprintf("notequal(%q, %s) ? %s : \"\"", "", variables[here], ref)
				open, end = "compact([", "])"
			}
		}
		out = append(out, ref)
	}
	if len(out) > 0 {
		b.line("  tags = %s\n    %s,\n  %s", open, strings.Join(out, ",\n    "), end)
	}
}

func (b *bake) strings(name string, values []string) {
	if len(values) > 0 {
		b.line("  %s = %s", name, list(values, "  "))
	}
}

// object writes a map that has any entries.
func (b *bake) object(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	b.line("  %s = {", name)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b.line("    %s = %s", hcl(k), hcl(m[k]))
	}
	b.line("  }")
}

func list(values []string, indent string) string {
	var quoted []string
	for _, v := range values {
		quoted = append(quoted, hcl(v))
	}
	if one := "[" + strings.Join(quoted, ", ") + "]"; len(one) < 90 {
		return one
	}
	return "[\n" + indent + "  " + strings.Join(quoted, ",\n"+indent+"  ") + ",\n" + indent + "]"
}

// hcl writes a string as HCL reads it, with references to variables in place of
// what is known only later.
func hcl(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(s)
	if utf8.ValidString(s) && !printable.Clean(s) {
		var b strings.Builder
		for _, r := range s {
			switch {
			case !printable.Hidden(r):
				b.WriteRune(r)
			case r > 0xffff:
				fmt.Fprintf(&b, `\U%08x`, r)
			default:
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		}
		s = b.String()
	}
	return `"` + fill(s, func(name string) string { return "${" + name + "}" }) + `"`
}
