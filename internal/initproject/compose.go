package initproject

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// service is a service of a compose file that is built.
type service struct {
	name       string
	image      string // without tag; "" when it has none of its own
	context    string // relative to the repository
	dockerfile string // relative to the repository
	target     string
	args       [][2]string
	contexts   [][2]string
	platforms  []string
}

// builds reads the services of the compose file that have a build section. A
// compose file is read as plain YAML: includes, extends and profiles are not
// followed, and variables are not expanded.
func (r *repository) builds(g *guess) []service {
	if r.compose == "" {
		return nil
	}
	data, err := fs.ReadFile(r.fs, r.compose)
	if err != nil {
		return nil
	}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		g.unsuref("%s was left out because it can't be read: %v", r.compose, err)
		return nil
	}
	var out []service
	eachKey(lookup(doc.Content[0], "services"), func(name string, n *yaml.Node) {
		if build := lookup(n, "build"); build != nil {
			out = append(out, r.service(g, name, n, build))
		}
	})
	return out
}

func (r *repository) service(g *guess, name string, n, build *yaml.Node) service {
	s := service{name: plainName(name), context: ".", dockerfile: "Dockerfile"}
	if build.Kind == yaml.ScalarNode {
		s.context = build.Value
	} else {
		setText(&s.context, lookup(build, "context"))
		setText(&s.dockerfile, lookup(build, "dockerfile"))
		setText(&s.target, lookup(build, "target"))
		eachPair(lookup(build, "args"), func(key, value string, given bool) {
			if !given || strings.Contains(value, "$") {
				g.unsuref("service %q takes the build argument %s from the environment: write its value into `args:`", name, key)
				return
			}
			s.args = append(s.args, [2]string{key, value})
		})
		eachPair(lookup(build, "additional_contexts"), func(key, value string, _ bool) {
			if other, ok := strings.CutPrefix(value, "service:"); ok {
				value = "layer:" + plainName(other)
			}
			s.contexts = append(s.contexts, [2]string{key, value})
		})
		if list := lookup(build, "platforms"); list != nil {
			for _, item := range list.Content {
				s.platforms = append(s.platforms, item.Value)
			}
		}
		r.notCarried(g, name, build)
	}
	s.context = path.Clean(s.context)
	s.dockerfile = path.Join(s.context, s.dockerfile)
	if image := lookup(n, "image"); image != nil {
		s.image = imageOf(image.Value)
		if s.image == "" {
			g.unsuref("service %q: the image %q hangs on variables; its name is made up", name, image.Value)
		}
	}
	return s
}

// notCarried says which keys of a build section have no place in the project.
func (r *repository) notCarried(g *guess, name string, build *yaml.Node) {
	known := []string{"context", "dockerfile", "target", "args", "additional_contexts", "platforms", "cache_from", "cache_to", "tags"}
	eachKey(build, func(key string, _ *yaml.Node) {
		if !slices.Contains(known, key) {
			g.unsuref("service %q: build.%s of %s is not carried over", name, key, r.compose)
		}
	})
}

// imageOf gives a reference without its tag, "" when it has variables.
func imageOf(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	if strings.Contains(ref, "$") || !imageName.MatchString(ref) {
		return ""
	}
	return ref
}

// oneFile reports whether all builds are stages of one Dockerfile with nothing
// of their own: then its stages are the layers.
func (r *repository) oneFile(builds []service) bool {
	first := builds[0]
	for _, b := range builds {
		if b.dockerfile != first.dockerfile || b.context != "." || len(b.args) > 0 || len(b.contexts) > 0 {
			return false
		}
	}
	return len(r.sources) == 1 && r.sources[0].path == first.dockerfile && len(r.sources[0].stages) > 1
}

// fromCompose makes a layer of every service that is built.
func (r *repository) fromCompose(g *guess, builds []service) {
	g.kind = KindCompose
	var names []string
	var platforms []string
	for _, b := range builds {
		l := layer{name: b.name, image: b.image, target: b.target, args: b.args, contexts: b.contexts}
		if b.dockerfile != "Dockerfile" {
			l.dockerfile = [][2]string{{"", b.dockerfile}}
		}
		if b.context != "." {
			l.context = b.context
		}
		if l.image == "" && len(builds) > 1 {
			l.image = g.image + "/" + b.name
		}
		if len(builds) == 1 && b.image != "" {
			g.image, g.imageFrom, l.image = b.image, r.compose, ""
		}
		for _, p := range b.platforms {
			platforms = addOnce(platforms, p)
		}
		g.layers = append(g.layers, l)
		names = append(names, b.name)
	}
	if len(platforms) > 0 {
		g.platforms = platforms
	}
	g.foundf("%s builds %s: each is a layer", r.compose, joinAnd(names))
	for _, s := range r.sources {
		if !slices.ContainsFunc(builds, func(b service) bool { return b.dockerfile == s.path }) {
			g.unsuref("%s was left out: no service of %s is built from it", s.path, r.compose)
		}
	}
}

// lookup gives the value of a key of a mapping, following aliases, or nil.
func lookup(n *yaml.Node, key string) *yaml.Node {
	var out *yaml.Node
	eachKey(n, func(k string, v *yaml.Node) {
		if k == key {
			out = v
		}
	})
	return out
}

func eachKey(n *yaml.Node, f func(key string, v *yaml.Node)) {
	if n == nil || n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		v := n.Content[i+1]
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		f(n.Content[i].Value, v)
	}
}

// eachPair reads compose's two forms of a list of pairs: a mapping, and a list
// of KEY=VALUE. A key alone is not given a value.
func eachPair(n *yaml.Node, f func(key, value string, given bool)) {
	if n == nil {
		return
	}
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			key, value, given := strings.Cut(item.Value, "=")
			f(key, value, given)
		}
		return
	}
	eachKey(n, func(key string, v *yaml.Node) {
		f(key, fmt.Sprint(v.Value), v.ShortTag() != "!!null")
	})
}

func setText(dst *string, n *yaml.Node) {
	if n != nil && n.Kind == yaml.ScalarNode && n.Value != "" {
		*dst = n.Value
	}
}
