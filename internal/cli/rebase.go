package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/view"
)

type rebaseFlags struct {
	onto, from, tag string
	dryRun, json    bool
}

func (a *app) rebaseCmd() *cobra.Command {
	var f rebaseFlags
	cmd := &cobra.Command{
		Use:   "rebase IMAGE --onto PARENT",
		Short: "Put an image on another parent, without building it",
		Long: `Rebase takes an image's own blobs, those that it has on top of its parent, and puts
them by reference on another parent: a security update of a base reaches an image in
seconds. It works on any image, whoever built it, and on all platforms of an index:
every one of them, or none.

It is a three-way merge of file lists. Where the image and its new parent have both
changed a file, or one has removed what the other changed, that is a conflict:
nothing is written, the conflicts are listed, and the exit code is 1. Package
databases of dpkg and apk that both have changed are merged package by package where
every dependency is still met; caches that would be stale are taken away.

The parent so far is what the image's annotations note
(org.opencontainers.image.base.name and .base.digest), or --from. Layers of a project
do this by themselves: see on-parent-change in strata.yaml.

` + exitCodesHelp(),
		Example: `  strata rebase ghcr.io/user/app:1.4 --onto debian:bookworm-slim --dry-run
  strata rebase ghcr.io/user/app:1.4 --onto debian:bookworm-slim --tag 1.4-patched
  strata rebase app:1.4 --from debian@sha256:0a1b... --onto debian:bookworm-slim --json`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.completeUnits,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.onto == "" {
				return usage("rebasing %q: --onto must name the new parent", args[0])
			}
			return a.rebase(cmd.Context(), args[0], f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.onto, "onto", "", "the new `parent`")
	fl.StringVar(&f.from, "from", "", "the `parent` so far (default: what the image notes)")
	fl.StringVar(&f.tag, "tag", "", "`name` of the result: a tag beside the image's, or a whole reference (default: the image's own tag)")
	fl.BoolVar(&f.dryRun, "dry-run", false, "find out whether it can be done, and stop")
	fl.BoolVar(&f.json, "json", false, "write JSON")
	return cmd
}

func (a *app) rebase(ctx context.Context, word string, f rebaseFlags) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	req := strata.RebaseRequest{DryRun: f.dryRun}
	if req.Image, err = a.imageRef(ctx, word); err != nil {
		return err
	}
	if req.Onto, err = a.parseImage(ctx, c, f.onto); err != nil {
		return err
	}
	if f.from != "" {
		if req.From, err = a.parseImage(ctx, c, f.from); err != nil {
			return err
		}
	}
	switch {
	case strings.ContainsAny(f.tag, ":/"):
		if req.To, err = registry.ParseRef(f.tag); err != nil {
			return err
		}
		if host, _, ok := strings.Cut(f.tag, "/"); !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
			req.To.Host, req.To.Repo = registry.EmbeddedHost, strings.TrimPrefix(req.To.Repo, "library/")
		}
	case f.tag != "":
		req.To.Tag = f.tag
	}
	res, err := strata.RebaseImage(ctx, c, req)
	if err != nil {
		return err
	}
	if f.json {
		if err := writeJSON(a.machine.Stdout, rebaseJSON(res, f.dryRun)); err != nil {
			return err
		}
	} else {
		a.showRebase(res, f.dryRun)
	}
	if n := res.Conflicts(); n > 0 {
		return diag.Hint(fmt.Errorf("rebasing %s onto %s: %s; nothing was written", word, f.onto, plural(n, "conflict")),
			"build the image on the new parent instead")
	}
	return nil
}

// showRebase writes the result for people: a line a conflict, or a line a
// platform.
func (a *app) showRebase(res strata.RebaseResult, dryRun bool) {
	w := a.machine.Stdout
	pal := a.palette(w)
	if res.Conflicts() > 0 {
		for _, p := range res.Platforms {
			for _, c := range p.Conflicts {
				fmt.Fprintln(w, pal.Paint(view.Red, printable(p.Platform+" "+c.String())))
			}
		}
		return
	}
	t := view.Table{Columns: []view.Column{
		{Title: "PLATFORM"}, {Title: "IMAGE"}, {Title: "BECOMES"}, {Title: "FROM"}, {Title: "ONTO"}, {Title: "OWN BLOBS", Right: true}, {Title: "MERGED", Shrink: true},
	}}
	for _, p := range res.Platforms {
		t.Rows = append(t.Rows, []view.Cell{
			{Text: p.Platform}, {Text: shortDigest(p.Old.String())}, {Text: shortDigest(p.New.String())}, {Text: shortDigest(p.From.String())}, {Text: shortDigest(p.Onto.String())},
			{Text: fmt.Sprint(p.Own)}, {Text: strings.Join(p.Merged, " ")},
		})
	}
	_ = t.Write(w, pal, a.width(w))
	verb := "now is"
	if dryRun {
		verb = "would be"
	}
	fmt.Fprintf(w, "\n%s %s %s\n", res.Target.FamiliarString(), verb, res.Digest)
}

type rebasedJSON struct {
	Target    string         `json:"target"`
	Digest    digest.Digest  `json:"digest,omitempty"`
	Previous  digest.Digest  `json:"previous,omitempty"`
	DryRun    bool           `json:"dryRun"`
	Platforms []platformJSON `json:"platforms"`
}

type platformJSON struct {
	Platform  string            `json:"platform"`
	Image     digest.Digest     `json:"image"`
	Becomes   digest.Digest     `json:"becomes,omitempty"`
	From      digest.Digest     `json:"from"`
	Onto      digest.Digest     `json:"onto"`
	OwnBlobs  int               `json:"ownBlobs"`
	Merged    []string          `json:"merged"`
	Conflicts []strata.Conflict `json:"conflicts"`
}

func rebaseJSON(res strata.RebaseResult, dryRun bool) rebasedJSON {
	out := rebasedJSON{
		Target: res.Target.FamiliarString(), Digest: res.Digest, Previous: res.Previous, DryRun: dryRun, Platforms: []platformJSON{},
	}
	for _, p := range res.Platforms {
		j := platformJSON{
			Platform: p.Platform, Image: p.Old, Becomes: p.New, From: p.From, Onto: p.Onto, OwnBlobs: p.Own,
			Merged: p.Merged, Conflicts: p.Conflicts,
		}
		if j.Merged == nil {
			j.Merged = []string{}
		}
		if j.Conflicts == nil {
			j.Conflicts = []strata.Conflict{}
		}
		out.Platforms = append(out.Platforms, j)
	}
	return out
}
