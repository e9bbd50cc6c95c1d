package initproject

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// text writes the project as a commented strata.yaml.
func (g *guess) text() string {
	w := &writer{}
	w.line(0, "# yaml-language-server: $schema=https://raw.githubusercontent.com/strata-build/strata/main/docs/strata.schema.json")
	w.line(0, "#")
	w.line(0, "# Written by strata init. See what it comes to: strata config; what would be built: strata plan.")
	kept := ""
	if host, _, found := strings.Cut(g.image, "/"); !found || !strings.ContainsAny(host, ".:") {
		kept = "; no registry's host, so images are kept in the embedded registry"
	}
	w.line(0, "image: %s   # from %s%s", scalar(g.image), g.imageFrom, kept)
	w.line(0, "platforms: %s", flow(g.platforms))
	g.variantsText(w)
	w.line(0, "")
	for _, c := range g.comment {
		w.line(0, "# %s", c)
	}
	if g.dockerfile != "" {
		w.line(0, "dockerfile: %s", scalar(g.dockerfile))
	}
	if g.auto {
		w.line(0, "layers: auto")
	} else {
		w.line(0, "layers:")
		for _, l := range g.layers {
			l.text(w)
		}
	}
	if len(g.unsure) > 0 {
		w.line(0, "")
		w.line(0, "# What could not be told from the files:")
		for _, u := range g.unsure {
			w.line(0, "# - %s", strings.ReplaceAll(u, "\n", " "))
		}
	}
	return w.String()
}

func (g *guess) variantsText(w *writer) {
	if len(g.variants) == 0 {
		return
	}
	w.line(0, "variants:")
	for _, v := range g.variants {
		if slices.Equal(v.platforms, g.platforms) {
			w.line(1, "%s: {}", scalar(v.name))
		} else {
			w.line(1, "%s: {platforms: %s}", scalar(v.name), flow(v.platforms))
		}
	}
}

func (l layer) text(w *writer) {
	body := &writer{}
	for _, c := range l.comment {
		body.line(2, "# %s", c)
	}
	keep := func(key, value string) {
		if value != "" {
			body.line(2, "%s: %s", key, scalar(value))
		}
	}
	keep("parent", l.parent)
	keep("image", l.image)
	if len(l.dockerfile) == 1 && l.dockerfile[0][0] == "" {
		keep("dockerfile", l.dockerfile[0][1])
	} else {
		body.pairs("dockerfile", l.dockerfile)
	}
	keep("context", l.context)
	keep("target", l.target)
	body.pairs("args", l.args)
	body.pairs("contexts", l.contexts)
	if len(l.only) > 0 {
		body.line(2, "only: %s", flow(l.only))
	}
	if l.refresh != "" {
		body.line(2, "# refresh: %s", l.refresh)
	}
	if strings.TrimSpace(body.String()) == "" {
		w.line(1, "%s: {}", scalar(l.name))
		return
	}
	w.line(1, "%s:", scalar(l.name))
	w.WriteString(body.String())
}

// writer writes indented lines.
type writer struct{ strings.Builder }

func (w *writer) line(depth int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text != "" {
		text = strings.Repeat("  ", depth) + text
	}
	w.WriteString(strings.TrimRight(text, " ") + "\n")
}

func (w *writer) pairs(key string, in [][2]string) {
	if len(in) == 0 {
		return
	}
	w.line(2, "%s:", key)
	for _, p := range in {
		w.line(3, "%s: %s", scalar(p[0]), scalar(p[1]))
	}
}

// scalar writes a text so that YAML reads it back as that text.
func scalar(s string) string {
	n := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	out, err := yaml.Marshal(&n)
	text := strings.TrimSuffix(string(out), "\n")
	if err != nil || strings.Contains(text, "\n") || strings.HasPrefix(text, "'") {
		return fmt.Sprintf("%q", s)
	}
	return text
}

func flow(in []string) string {
	var out []string
	for _, s := range in {
		if strings.ContainsAny(s, "{}[],") {
			s = fmt.Sprintf("%q", s)
		} else {
			s = scalar(s)
		}
		out = append(out, s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}
