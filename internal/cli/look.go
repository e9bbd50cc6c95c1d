package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/printable"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) configCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the resolved project",
		Long: `Config shows the project as Strata understands it: every unit with all selectors,
defaults and templates resolved.`,
		Example: "  strata config\n  strata config --json",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.project()
			if err != nil {
				return err
			}
			v, err := a.version(cmd.Context())
			if err != nil {
				return err
			}
			a.warnOfVersion(v)
			p = p.With(v.Release())
			if asJSON {
				return writeJSON(a.machine.Stdout, p.Units())
			}
			_, err = a.machine.Stdout.Write(spec.Render(p))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) tagsCmd() *cobra.Command {
	var asJSON bool
	var push bool
	cmd := &cobra.Command{
		Use:   "tags",
		Short: "List the tags of the project's images in the registry",
		Long: `Tags lists the tags that builds have set for people to use. Those that Strata keeps
for itself, such as strata-KEY, are left out.`,
		Example: `  strata tags
  strata tags --push     # in the registry that the image names`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.tags(cmd.Context(), push, asJSON) },
	}
	cmd.Flags().BoolVar(&push, "push", false, "ask the registry that the image names instead of the one on this machine")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

type tagJSON struct {
	Image    string `json:"image"`
	Digest   string `json:"digest"`
	Platform string `json:"platforms"`
	Size     int64  `json:"size"`
}

func (a *app) tags(ctx context.Context, push, asJSON bool) error {
	c, err := a.config(ctx)
	if err != nil {
		return err
	}
	c.Push = push
	listed, err := strata.Tags(ctx, c)
	if err != nil {
		return err
	}
	rows := []tagJSON{}
	t := view.Table{Columns: []view.Column{{Title: "IMAGE", Shrink: true}, {Title: "DIGEST"}, {Title: "PLATFORMS"}, {Title: "SIZE", Right: true}}}
	for _, l := range listed {
		name := l.Ref.FamiliarString()
		rows = append(rows, tagJSON{name, l.Digest.String(), l.Platforms, l.Size})
		t.Row(name, l.Digest.Encoded()[:12], l.Platforms, view.Bytes(l.Size))
	}
	if asJSON {
		return writeJSON(a.machine.Stdout, rows)
	}
	where := "on this machine"
	if push {
		where = "in the registry that the image names"
	}
	return a.writeTable(t, c.Project.Image+" has no tag "+where+" yet")
}

// writeTable writes a table, or, where it is empty, says so: beside the output,
// which is empty as well.
func (a *app) writeTable(t view.Table, none string) error {
	if len(t.Rows) == 0 {
		view.Fprintln(a.machine.Stderr, none)
		return nil
	}
	w := a.machine.Stdout
	return t.Write(w, a.palette(w), a.width(w))
}

func (a *app) graphCmd() *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Show the units and what they stand on",
		Long: `Graph draws every unit under what it stands on, with the step that build would take
now.`,
		Example: `  strata graph
  strata graph --format dot | dot -Tpng > graph.png
  strata graph --format svg -o graph.svg`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.prepare(cmd.Context(), passFlags{}, nil, nil)
			if err != nil {
				return err
			}
			var text []byte
			switch format {
			case "text":
				text = []byte(a.graphText(p))
			case "dot":
				text = []byte(graphDot(p))
			case "svg":
				text = graphSVG(p)
			default:
				return usage("drawing the graph: %q is none of text, dot, svg", format)
			}
			if output == "" {
				_, err = a.machine.Stdout.Write(text)
				return err
			}
			path, err := a.target(output)
			if err != nil {
				return fmt.Errorf("writing %q: %w", output, err)
			}
			return os.WriteFile(path, text, 0o644)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "`form`: text, dot or svg")
	completesFlag(cmd, "format", "text", "dot", "svg")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this `file`")
	return cmd
}

// graphText draws the units as trees, a unit under the first of its parents.
func (a *app) graphText(p *strata.Pass) string {
	children := map[string][]*graph.Unit{}
	for _, u := range p.Units {
		up := ""
		if len(u.Parents) > 0 {
			up = u.Parents[0].ID
		}
		children[up] = append(children[up], u)
	}
	pal := a.palette(a.machine.Stdout)
	var b strings.Builder
	var draw func(u *graph.Unit, first, rest string)
	draw = func(u *graph.Unit, first, rest string) {
		s, _ := p.Plan.Step(u.ID)
		more := ""
		for _, up := range u.Parents[min(1, len(u.Parents)):] {
			more += ", also on " + up.ID
		}
		view.Fprintf(&b, "%s%s  %s%s\n", first, u.ID, pal.Paint(actionStyle[s.Action], string(s.Action)), more)
		for i, c := range children[u.ID] {
			if i == len(children[u.ID])-1 {
				draw(c, rest+"└─ ", rest+"   ")
			} else {
				draw(c, rest+"├─ ", rest+"│  ")
			}
		}
	}
	for _, u := range children[""] {
		draw(u, "", "")
	}
	return b.String()
}

func graphDot(p *strata.Pass) string {
	var b strings.Builder
	b.WriteString("digraph strata {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n")
	for _, u := range p.Units {
		s, _ := p.Plan.Step(u.ID)
		view.Fprintf(&b, "  %s [label=%s];\n", dotText(u.ID), dotText(u.ID, string(s.Action)))
		for _, up := range u.Parents {
			view.Fprintf(&b, "  %s -> %s;\n", dotText(up.ID), dotText(u.ID))
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText gives lines of text as DOT has them in quotes: a backslash of their
// own begins no escape of its.
func dotText(texts ...string) string {
	for i, s := range texts {
		texts[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable.Line(s))
	}
	return `"` + strings.Join(texts, `\n`) + `"`
}

func graphSVG(p *strata.Pass) []byte {
	var nodes []view.Node
	var edges [][2]string
	for _, u := range p.Units {
		s, _ := p.Plan.Step(u.ID)
		nodes = append(nodes, view.Node{ID: u.ID, Label: u.ID, Sub: string(s.Action), Class: string(s.Action)})
		for _, up := range u.Parents {
			edges = append(edges, [2]string{up.ID, u.ID})
		}
	}
	return view.GraphSVG(nodes, edges)
}

func (a *app) inventoryCmd() *cobra.Command {
	var asJSON bool
	var platform string
	cmd := &cobra.Command{
		Use:   "inventory IMAGE|UNIT",
		Short: "List the files of an image",
		Long: `Inventory lists the files of an image: kind and mode, owner, size, content and path.
The list is read from beside the image where Strata made it, and is made once for
any other image.`,
		Example: `  strata inventory app/cpu/amd64
  strata inventory debian:bookworm-slim --platform linux/arm64`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			inv, err := a.inventoryOf(cmd.Context(), args[0], platform)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(a.machine.Stdout, inventoryJSON(inv))
			}
			return writeInventory(a.machine.Stdout, inv)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	cmd.Flags().StringVar(&platform, "platform", "", "`platform` of an image that is there for several")
	return cmd
}

func (a *app) diffCmd() *cobra.Command {
	var asJSON bool
	var platform string
	cmd := &cobra.Command{
		Use:   "diff IMAGE|UNIT IMAGE|UNIT",
		Short: "Show which files two images differ in",
		Long: `Diff compares two images file by file: kind, mode, owner, size and content, not
times. Blobs are only read for an image that has no list of its files beside it.`,
		Example: `  strata diff ml/cpu/amd64 app/cpu/amd64
  strata diff ghcr.io/user/app:1.0 ghcr.io/user/app:1.1`,
		Args:              takes(2, 2),
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.diff(cmd.Context(), args, platform, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	cmd.Flags().StringVar(&platform, "platform", "", "`platform` of images that are there for several")
	return cmd
}

// imageRef finds the image that a user's word means: a unit of the project as it
// is now, or any image.
func (a *app) imageRef(ctx context.Context, word string) (registry.Ref, error) {
	if p, err := a.project(); err == nil {
		if us, err := p.Select(word); err == nil && len(us) == 1 {
			pass, err := a.prepare(ctx, passFlags{}, []string{word}, nil)
			if err != nil {
				return registry.Ref{}, err
			}
			return pass.Image(us[0].ID())
		}
	}
	c, err := a.client()
	if err != nil {
		return registry.Ref{}, err
	}
	return a.parseImage(ctx, c, word)
}

// parseImage reads an image's name. It is first looked for among what was built
// on this machine, where one without a host is shown without.
func (a *app) parseImage(ctx context.Context, c *registry.Client, word string) (registry.Ref, error) {
	ref, err := registry.ParseRef(word)
	if err != nil {
		return ref, err
	}
	own, err := builtHere(ref, word)
	if err != nil {
		return ref, nil
	}
	if _, err := c.Resolve(ctx, own); err != nil {
		return ref, nil
	}
	return own, nil
}

// builtHere gives the place where this machine keeps what was built under a name.
func builtHere(ref registry.Ref, word string) (registry.Ref, error) {
	if withHost(word) {
		return ref.Local(), nil
	}
	return registry.ParseRef(registry.EmbeddedHost + "/" + word)
}

// withHost says whether an image name names a registry, by Docker's rule.
func withHost(name string) bool {
	host, _, ok := strings.Cut(name, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// parseParent reads the name of an image that something is to stand on. Like a
// FROM it means the registry's, or what was imported here for it, and never what
// was built here under a registry's name. A name without a host may be that of an
// image of this machine alone; then that is told.
func (a *app) parseParent(ctx context.Context, c *registry.Client, word string) (registry.Ref, error) {
	ref, err := registry.ParseRef(word)
	if err != nil || withHost(word) {
		return ref, err
	}
	if _, err := c.Resolve(ctx, ref.Mirror()); err == nil {
		return ref, nil
	}
	own, err := a.parseImage(ctx, c, word)
	if err == nil && own != ref {
		a.warn(diag.Finding{
			Text: fmt.Sprintf("%s is taken from this machine, where it was built", word),
			Hint: fmt.Sprintf("%s means the one of %s", ref, ref.Host),
		})
	}
	return own, err
}
