package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/view"
)

// rebaseKind is the kind of a rebase's record, which only this machine has.
const rebaseKind = "rebase"

type rebaseFlags struct {
	onto, from, tag string
	dryRun, json    bool
	force           bool
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

An image that stands on the parent already stays as it is. In the folder of a
project, its tags are guarded: one that the project protects moves with --force
alone, and one of a channel does not. A record is kept on this machine (strata
history).

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
	fl.BoolVar(&f.force, "force", false, "also move a tag that the project protects")
	fl.BoolVar(&f.json, "json", false, "write JSON")
	return cmd
}

func (a *app) rebase(ctx context.Context, word string, f rebaseFlags) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	req := strata.RebaseRequest{DryRun: f.dryRun}
	if req.To, err = f.target(); err != nil {
		return err
	}
	project, err := a.guarding()
	if err != nil {
		return err
	}
	if project != nil {
		req.Check = func(target registry.Ref, before, after digest.Digest) error {
			return strata.MayMove(project, target, before, after, f.force)
		}
	}
	if req.Image, err = a.imageRef(ctx, word); err != nil {
		return err
	}
	if req.Onto, err = a.parseParent(ctx, c, f.onto); err != nil {
		return err
	}
	if f.from != "" {
		if req.From, err = a.parseParent(ctx, c, f.from); err != nil {
			return err
		}
	}
	started := a.machine.Now()
	res, err := strata.RebaseImage(ctx, c, req)
	if err != nil {
		if errors.Is(err, registry.ErrNotFound) && diag.HintOf(err) == "" {
			err = diag.Hint(err, "`strata registry ls` lists the images of this machine, and `strata build` makes those of a project; others need a full name, such as ghcr.io/user/app:1.4")
		}
		return err
	}
	if !f.dryRun && !res.Already && res.Conflicts() == 0 {
		a.keepRebase(started, project, res, word+" onto "+f.onto)
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

// target gives what the result is called: a tag alone, a whole reference, or
// nothing.
func (f rebaseFlags) target() (registry.Ref, error) {
	hint := "a tag has letters, digits, '_', '.' and '-', 128 at most; a whole reference does, too: ghcr.io/user/app:1.4-patched"
	switch {
	case f.tag == "":
		return registry.Ref{}, nil
	case !strings.ContainsAny(f.tag, ":/"):
		if _, err := registry.ParseRef("image:" + f.tag); err != nil {
			return registry.Ref{}, diag.Hint(fmt.Errorf("reading --tag: %q is no tag", f.tag), "%s", hint)
		}
		return registry.Ref{Tag: f.tag}, nil
	}
	to, err := registry.ParseRef(f.tag)
	if err != nil || to.Digest != "" {
		return to, diag.Hint(fmt.Errorf("reading --tag: %q is no reference with a tag", f.tag), "%s", hint)
	}
	if !withHost(f.tag) {
		to.Host, to.Repo = registry.EmbeddedHost, strings.TrimPrefix(to.Repo, "library/")
	}
	return to, registry.CheckName(f.tag, to.Local())
}

// guarding gives the project whose folder this is, and nil where there is none.
func (a *app) guarding() (*spec.Project, error) {
	p, err := a.project()
	if errors.Is(err, spec.ErrNoProject) && a.flags.file == "" {
		return nil, nil
	}
	return p, err // with an error nobody knows what it protects
}

// keepRebase writes a record on this machine. One that can't be kept is a
// warning: the tag has moved.
func (a *app) keepRebase(started time.Time, project *spec.Project, res strata.RebaseResult, what string) {
	r := a.newRecord(started)
	r.Kind, r.From, r.Outcome, r.Finished, r.Engine, r.Units = rebaseKind, what, record.OK, a.machine.Now(), "", []record.Unit{}
	r.Project = res.Target.Repository().FamiliarString()
	if project != nil && strata.Holds(project, res.Target) {
		r.Project = project.Image
	}
	r.Tags = []record.Tag{{Tag: res.Target.FamiliarString(), Digest: res.Digest.String(), Previous: res.Previous.String()}}
	s, err := a.records()
	if err == nil {
		err = s.Write(r)
	}
	if err != nil {
		view.Fprintf(a.machine.Stderr, "strata: warning: keeping the record on this machine: %v\n", err)
	}
}

// showRebase writes the result for people: a line a conflict, or a line a
// platform.
func (a *app) showRebase(res strata.RebaseResult, dryRun bool) {
	w := a.machine.Stdout
	pal := a.palette(w)
	if res.Conflicts() > 0 {
		for _, p := range res.Platforms {
			for _, c := range p.Conflicts {
				view.Fprintln(w, pal.Paint(view.Red, p.Platform+" "+c.String()))
			}
		}
		return
	}
	if res.Already {
		for _, p := range res.Platforms {
			view.Fprintf(w, "%s %s stands on %s already\n", p.Platform, shortDigest(p.Old.String()), shortDigest(p.Onto.String()))
		}
		view.Fprintf(w, "\nNothing to do, and nothing was written.\n")
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
	if !slices.ContainsFunc(res.Platforms, func(p strata.RebasedPlatform) bool { return len(p.Merged) > 0 }) {
		t.Columns = t.Columns[:len(t.Columns)-1]
		for i, row := range t.Rows {
			t.Rows[i] = row[:len(t.Columns)]
		}
	}
	_ = t.Write(w, pal, a.width(w))
	verb := "now is"
	if dryRun {
		verb = "would be"
	}
	view.Fprintf(w, "\n%s %s %s\n", res.Target.FamiliarString(), verb, res.Digest)
}

type rebasedJSON struct {
	Target    string         `json:"target"`
	Digest    digest.Digest  `json:"digest,omitempty"`
	Previous  digest.Digest  `json:"previous,omitempty"`
	DryRun    bool           `json:"dryRun"`
	Already   bool           `json:"already,omitempty"` // it stands on that parent
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
		Target: res.Target.FamiliarString(), Digest: res.Digest, Previous: res.Previous, DryRun: dryRun, Already: res.Already, Platforms: []platformJSON{},
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
