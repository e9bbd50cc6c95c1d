package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/strata-build/strata/internal/diag"
)

// bake reads a docker-bake file as a project: every target that the default
// group reaches is a layer, and a context "target:NAME" is another layer's
// image. What can't be carried over is a warning of the project.
func (l *loader) bake(file string) (*Project, error) {
	c := l.bakeConfig(file)
	if err := l.list.Err(); err != nil {
		return nil, err
	}
	b := &baker{loader: l, config: c, file: file, done: map[string]*bakeTarget{}, full: map[string]*bakeTarget{}}
	return l.finish(b.project())
}

// bakeConfig parses the file, with docker-bake.override.* beside it.
func (l *loader) bakeConfig(file string) *bakeConfig {
	parser := hclparse.NewParser()
	var files []*hcl.File
	for _, name := range []string{file, BakeOverride(file)} {
		if name == "" || name != file && !l.isFile(name) && l.refused(name) == nil {
			continue
		}
		data, err := l.project(name)
		if name != file {
			data, err = l.read(name)
		}
		if err != nil {
			l.list.Errorf(diag.Pos{File: name}, diag.HintOf(err), "reading project: %s", err)
			return nil
		}
		if !l.checkBakeShape(name, data) {
			return nil
		}
		parse := parser.ParseHCL
		if path.Ext(name) == ".json" {
			parse = parser.ParseJSON
		}
		f, diags := parse(data, name)
		l.hclErrors(name, diags)
		if f != nil && l.checkBakeBlocks(name, f.Body) {
			files = append(files, f)
		}
	}
	if l.list.Err() != nil {
		return nil
	}
	type parsed struct {
		config *bakeConfig
		meta   *hclparser.ParseMeta
		diags  hcl.Diagnostics
	}
	env, platform := l.opts.Env, l.platform()
	got, err := evaluated(func() parsed {
		out := parsed{config: &bakeConfig{}}
		out.meta, out.diags = hclparser.Parse(hclparser.MergeFiles(files), hclparser.Opt{
			LookupVar: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
			Vars:      map[string]string{"BAKE_CMD_CONTEXT": "cwd://", "BAKE_LOCAL_PLATFORM": platform},
		}, out.config)
		return out
	})
	if err != nil {
		l.list.Errorf(diag.Pos{File: file}, "", "reading bake file: %s", err)
		return nil
	}
	c, meta := got.config, got.meta
	l.hclErrors(file, got.diags)
	if meta == nil {
		return c
	}
	// A matrix target stands for all that it was made into. One that two files
	// have is there twice.
	for _, renamed := range meta.Renamed {
		for old, names := range renamed {
			if names = compact(names); len(names) > 1 || names[0] != old {
				c.Groups = append(c.Groups, &bakeGroup{Name: old, Targets: names})
			}
		}
	}
	return c
}

// BakeOverride gives the file that overrides a bake file of the standard name, read
// where it is there; "" for any other file.
func BakeOverride(file string) string {
	if base, ext := strings.TrimSuffix(file, path.Ext(file)), path.Ext(file); path.Base(base) == "docker-bake" {
		return base + ".override" + ext
	}
	return ""
}

func (l *loader) hclErrors(file string, diags hcl.Diagnostics) {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		pos := diag.Pos{File: file}
		if d.Subject != nil {
			pos = diag.Pos{File: d.Subject.Filename, Line: d.Subject.Start.Line, Col: d.Subject.Start.Column}
		}
		text := strings.TrimSuffix(strings.ReplaceAll(d.Detail, "\n", " "), ".")
		if text == "" {
			text = d.Summary
		}
		l.list.Errorf(pos, "", "reading bake file: %s", text)
	}
}

// baker turns a parsed bake file into a project.
type baker struct {
	*loader
	config *bakeConfig
	file   string
	done   map[string]*bakeTarget // resolved targets by name
	full   map[string]*bakeTarget // targets with what they inherit, by name
	byName map[string]*bakeTarget // targets as they are written
	order  []string               // names in the order in which they were reached
}

func (b *baker) project() *Project {
	p := &Project{Dir: b.dir, File: b.file, Kind: KindBake, Access: b.access, Cache: Cache{Type: "none"}, Variants: []Variant{{}}}
	for _, name := range b.roots() {
		b.reach(name, diag.Pos{File: b.file, Line: 1, Col: 1})
	}
	platforms := b.platforms()
	for _, name := range b.order {
		for _, platform := range platforms[name] {
			if !slices.Contains(p.Platforms, platform) {
				p.Platforms = append(p.Platforms, platform)
			}
		}
	}
	p.Variants[0].Platforms = p.Platforms
	for _, name := range b.order {
		layer := b.layer(name)
		if len(platforms[name]) < len(p.Platforms) {
			layer.Only = platforms[name]
		}
		p.Layers = append(p.Layers, layer)
		if p.Image == "" {
			p.Image = layer.Image
		}
	}
	if p.Image == "" {
		p.Image = b.imageName()
	}
	return p
}

// roots gives the targets that `docker buildx bake` builds: the group or target
// "default", or all where there is none.
func (b *baker) roots() []string {
	if names := b.group("default", map[string]bool{}); names != nil {
		return names
	}
	var all []string
	for _, t := range b.config.Targets {
		if t.Name == "default" {
			return []string{"default"}
		}
		all = append(all, t.Name)
	}
	if len(all) == 0 {
		b.list.Errorf(diag.Pos{File: b.file, Line: 1, Col: 1}, "add a target", "the bake file has no target")
	}
	return all
}

// group gives the targets of a group, of its groups too; nil when there is no
// group of that name.
func (b *baker) group(name string, seen map[string]bool) []string {
	var out []string
	for _, g := range b.config.Groups {
		if g.Name != name || seen[name] {
			continue
		}
		out = []string{}
		seen[name] = true
		for _, t := range g.Targets {
			if names := b.group(t, seen); names != nil {
				out = append(out, names...)
			} else if !seen[t] {
				out = append(out, t)
			}
		}
	}
	return compact(out)
}

// reach resolves a target and those that its contexts name, parents first.
func (b *baker) reach(name string, from diag.Pos) {
	if _, ok := b.done[name]; ok {
		return
	}
	t := b.resolve(name, from, nil)
	b.done[name] = t
	if t == nil {
		return
	}
	for _, context := range slices.Sorted(maps.Keys(t.Contexts)) {
		if parent, ok := strings.CutPrefix(t.Contexts[context], "target:"); ok {
			b.reach(parent, t.pos)
		}
	}
	b.order = append(b.order, name)
}

// resolve gives a target with what it inherits: later parents win over earlier
// ones, its own values over all.
func (b *baker) resolve(name string, from diag.Pos, path []string) *bakeTarget {
	if t := b.full[name]; t != nil {
		return t
	}
	if b.byName == nil {
		b.byName = map[string]*bakeTarget{}
		for _, t := range slices.Backward(b.config.Targets) { // the first of a name counts
			b.byName[t.Name] = t
		}
	}
	if t := b.byName[name]; t != nil {
		if slices.Contains(path, name) {
			b.list.Errorf(t.pos, "take one of these out", "targets inherit each other in a cycle: %s", strings.Join(append(path, name), " -> "))
			return nil
		}
		out := &bakeTarget{Name: name}
		for _, parent := range t.Inherits {
			if base := b.resolve(parent, t.pos, append(slices.Clone(path), name)); base != nil {
				out.Merge(base)
			}
		}
		out.Merge(t)
		out.pos, out.Inherits = t.pos, t.Inherits
		out.Secrets, out.SSH, out.more = out.Secrets.compact(), out.SSH.compact(), compact(out.more)
		b.full[name] = out
		return out
	}
	var names []string
	for _, t := range b.config.Targets {
		names = append(names, t.Name)
	}
	b.list.Errorf(from, suggest(name, names), "no target is named %q", name)
	return nil
}

// platforms gives each target's platforms. A target that names none is built
// for those of the targets that stand on it, or for this machine's.
func (b *baker) platforms() map[string][]string {
	out := map[string][]string{}
	for _, name := range slices.Backward(b.order) { // children before parents
		t := b.done[name]
		if t.Platforms != nil {
			out[name] = nil
			for _, platform := range t.Platforms {
				platform = strings.TrimSuffix(strings.TrimSpace(platform), "/v8")
				if !slices.Contains(Platforms, platform) {
					b.list.Errorf(t.pos, suggest(platform, Platforms), "target %q: unknown platform %q", name, platform)
					continue
				}
				out[name] = append(out[name], platform)
			}
		}
		if len(out[name]) == 0 {
			out[name] = []string{b.platform()}
		}
		for _, context := range slices.Sorted(maps.Keys(t.Contexts)) {
			if parent, ok := strings.CutPrefix(t.Contexts[context], "target:"); ok && b.done[parent] != nil && b.done[parent].Platforms == nil {
				out[parent] = compact(append(out[parent], out[name]...))
			}
		}
	}
	return out
}

// layer makes the layer of a target.
func (b *baker) layer(name string) Layer {
	t := b.done[name]
	if !targetFormat.re.MatchString(name) {
		b.list.Errorf(t.pos, "write "+targetFormat.words, "%q is no valid name of a target", name)
	}
	l := Layer{Name: name, Pos: t.pos, Stale: "allow", OnParentChange: "rebuild"}
	context := b.local(orElse(t.Context, "."))
	file := path.Join(context, orElse(t.Dockerfile, "Dockerfile"))
	if t.Inline != nil {
		file, l.inline = b.file+"#"+name, []byte(*t.Inline)
	}
	if path.IsAbs(orElse(t.Dockerfile, "")) {
		file = *t.Dockerfile
	}
	one := func(value string) Choice { return Choice{{Selector: "*", Value: value, Pos: t.pos}} }
	l.Dockerfile, l.Context = one(file), one(context)
	if t.Target != nil {
		l.Target = one(*t.Target)
	}
	l.Args, l.Labels = given(t.Args), given(t.Labels)
	l.Contexts = b.contexts(t)
	l.Image, l.Tags = b.tags(t)
	l.Secrets, l.SSH = b.secrets(t), b.ssh(t)
	switch network := orElse(t.Network, ""); network {
	case "", "default", "none", "host":
		l.Network = network
	default:
		b.list.Warnf(t.pos, "", "target %q: network %q is not carried over", name, network)
	}
	for _, key := range t.others() {
		b.list.Warnf(t.pos, "", "target %q: %s is not carried over", name, key)
	}
	return l
}

// local takes the mark off a folder of the working directory.
func (b *baker) local(context string) string {
	if rest, ok := strings.CutPrefix(context, "cwd://"); ok {
		context = rest
	}
	return clean(orElse(&context, "."))
}

// orElse gives the value, or other where it is missing or empty.
func orElse(s *string, other string) string {
	if s == nil || *s == "" {
		return other
	}
	return *s
}

// given drops the values that are null.
func given(in map[string]*string) map[string]string {
	var out map[string]string
	for k, v := range in {
		if v == nil {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = *v
	}
	return out
}

// contexts gives the named contexts; those that are targets become layers.
func (b *baker) contexts(t *bakeTarget) map[string]string {
	var out map[string]string
	for name, value := range t.Contexts {
		if parent, ok := strings.CutPrefix(value, "target:"); ok {
			if b.done[parent] == nil {
				continue // reported where it was looked for
			}
			value = layerScheme + parent
		} else if !strings.Contains(value, "://") || strings.HasPrefix(value, "cwd://") {
			value = b.local(value)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out
}

// tags gives the repository of a target's first tag, and the tags in it, as
// they are written. A target without tags gets none.
func (b *baker) tags(t *bakeTarget) (image string, tags Tags) {
	tags = Tags{Image: []string{}, Index: []string{}}
	for _, ref := range t.Tags {
		repo, tag := ref, "latest"
		if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
			repo, tag = ref[:i], ref[i+1:]
		}
		switch {
		case !imageFormat.re.MatchString(repo):
			b.list.Errorf(t.pos, "write "+imageFormat.words, "target %q: %q is no valid tag", t.Name, ref)
		case !bakeTagFormat.re.MatchString(tag):
			b.list.Errorf(t.pos, "write "+bakeTagFormat.words, "target %q: %q is no valid tag", t.Name, ref)
		case image == "" || image == repo:
			image = repo
			tags.Index = append(tags.Index, tag)
		default:
			b.list.Warnf(t.pos, "copy the image after the build", "target %q: the tag %q is not carried over: a layer has one repository", t.Name, ref)
		}
	}
	return image, tags
}

func (b *baker) secrets(t *bakeTarget) []Secret {
	var out []Secret
	for _, e := range t.Secrets {
		s := Secret{ID: e["id"], Env: e["env"], File: orElse(ptr(e["src"]), e["source"])}
		if s.Env == "" && s.File == "" {
			s.Env = s.ID
		}
		if e["type"] == "env" && s.Env == "" {
			s.Env, s.File = s.File, ""
		}
		if s.ID == "" {
			b.list.Errorf(t.pos, `write "id=NAME,env=VARIABLE"`, "target %q: a secret has no id", t.Name)
			continue
		}
		if s.Env != "" && !argFormat.re.MatchString(s.Env) {
			b.list.Errorf(t.pos, "write "+argFormat.words, "target %q: %q is no valid environment variable", t.Name, s.Env)
			continue
		}
		out = append(out, s)
	}
	return out
}

func ptr(s string) *string { return &s }

func (b *baker) ssh(t *bakeTarget) []string {
	var out []string
	for _, e := range t.SSH {
		switch {
		case e["id"] != "" && e["paths"] != "":
			out = append(out, e["id"]+"="+e["paths"])
		case e["id"] != "":
			out = append(out, e["id"])
		default: // "default", or "id=path"
			for _, k := range slices.Sorted(maps.Keys(e)) {
				out = append(out, strings.TrimSuffix(fmt.Sprintf("%s=%s", k, e[k]), "="))
			}
		}
	}
	return out
}
