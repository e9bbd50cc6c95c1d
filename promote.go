package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// latest names, as what is promoted, the set that the last run has made.
const latest = "latest"

// Promotion is what is promoted, and where to.
type Promotion struct {
	From string // a version, a channel, or latest
	To   string // a channel of the project
	// Units bounds the set to these units and to the indexes over them; nil is
	// the whole set.
	Units map[string]bool
	// Direct goes to a channel without having been in the one before it.
	Direct bool
}

// member is one image or index of a release, with its tags there and where it
// goes.
type member struct {
	name  string // "app/cpu/linux/amd64", "app/cpu"
	image string // as the project names it
	repo  registry.Ref
	index bool
	units []string // of which it is made
	from  []string
	to    []string

	answer registry.Answer // of the first of `from` that is there
	tag    string          // that one
}

// Promote gives a whole release the tags of a channel: every layer, variant,
// platform and index, in every repository that the project has. Nothing moves
// unless all of it is there, complete, and has been in the channel before.
func Promote(ctx context.Context, c Config, p Promotion, o MoveOptions) (Movement, error) {
	what := fmt.Sprintf("promoting %s to %s", p.From, p.To)
	if err := p.check(c.Project); err != nil {
		return Movement{}, fmt.Errorf("%s: %w", what, err)
	}
	members, err := releaseMembers(c, p)
	if err != nil {
		return Movement{}, fmt.Errorf("%s: %w", what, err)
	}
	m, err := newMover(ctx, c, o)
	if err != nil {
		return Movement{}, err
	}
	if err := m.promote(ctx, p, members); err != nil {
		return m.movement, fmt.Errorf("%s: %w", what, err)
	}
	return m.movement, nil
}

func (p Promotion) check(project *spec.Project) error {
	if p.From == p.To {
		return errors.New("both are the same")
	}
	return CheckChannel(project, p.To)
}

// CheckChannel refuses what is no channel of a project.
func CheckChannel(project *spec.Project, name string) error {
	switch {
	case len(project.Channels) == 0:
		return diag.Hint(errors.New("the project has no channels"),
			"declare them in strata.yaml, in the order that a release goes through them: channels: [dev, staging, stable]")
	case !slices.Contains(project.Channels, name):
		return diag.Hint(fmt.Errorf("%q is no channel of the project", name), "it has: %s", strings.Join(project.Channels, ", "))
	}
	return nil
}

// CheckVersion refuses a version that is a channel's name: what is published under
// it would get the channel's tags without a promotion.
func CheckVersion(project *spec.Project) error {
	if !slices.Contains(project.Channels, project.Version) {
		return nil
	}
	return fmt.Errorf("the version %q is the name of a channel, whose tags only promotions move", project.Version)
}

// releaseMembers gives the members of a release, images before indexes.
func releaseMembers(c Config, p Promotion) ([]*member, error) {
	project := c.Project
	fromLatest := p.From == latest && !slices.Contains(project.Channels, latest)
	var images, indexes []*member
	groups := map[string]*member{}
	for _, u := range project.Units() {
		repo, err := repository(u.Image, c.Push)
		if err != nil {
			return nil, err
		}
		one := &member{name: u.ID(), image: u.Image, repo: repo, units: []string{u.ID()}, to: project.ReleaseTags(u, p.To), from: project.ReleaseTags(u, p.From)}
		if tags := project.LatestTags(u); fromLatest && len(tags) > 0 {
			one.from = tags
		}
		images = append(images, one)
		name := strings.TrimSuffix(u.Layer+"/"+u.Variant, "/")
		if g := groups[name]; g != nil {
			g.units = append(g.units, u.ID())
			continue
		}
		over := &member{name: name, image: u.Image, repo: repo, index: true, units: []string{u.ID()}, to: project.ReleaseIndexTags(u.Layer, u.Variant, p.To), from: project.ReleaseIndexTags(u.Layer, u.Variant, p.From)}
		if tags := project.LatestIndexTags(u.Layer, u.Variant); fromLatest && len(tags) > 0 {
			over.from = tags
		}
		groups[name] = over
		indexes = append(indexes, over)
	}
	all := slices.DeleteFunc(append(images, indexes...), func(m *member) bool { return len(m.to) == 0 || !m.within(p.Units) })
	if len(all) == 0 {
		return nil, diag.Hint(errors.New("no tag of the project has a version in it"),
			"a channel's tags are those with {version} in their template, with the channel's name in place of the version")
	}
	return all, distinct(all)
}

func (m *member) within(units map[string]bool) bool {
	return units == nil || !slices.ContainsFunc(m.units, func(id string) bool { return !units[id] })
}

// distinct refuses a channel in which two images would have one tag.
func distinct(members []*member) error {
	owner := map[registry.Ref]string{}
	for _, m := range members {
		for _, tag := range m.to {
			ref := m.repo.WithTag(tag)
			if other := owner[ref]; other != "" {
				return diag.Hint(fmt.Errorf("%s and %s would both get the tag %s", other, m.name, tag), "their templates with {version} have to differ: {variant}, {layer}, {arch}")
			}
			owner[ref] = m.name
		}
	}
	return nil
}

func (m *mover) promote(ctx context.Context, p Promotion, members []*member) error {
	if err := m.findMembers(ctx, p, members); err != nil {
		return err
	}
	set := setOf(members, func(mb *member) []string { return mb.to })
	names := map[digest.Digest]string{}
	for _, mb := range members {
		names[mb.answer.Desc.Digest] = mb.image + ":" + mb.tag
		m.answers[mb.repo.WithDigest(mb.answer.Desc.Digest)] = mb.answer
	}
	gone, err := m.whole(ctx, set, names)
	if err != nil {
		return err
	}
	if gone = append(gone, halves(members)...); len(gone) > 0 {
		return m.incomplete(p, gone)
	}
	if err := m.inOrder(ctx, p, members); err != nil {
		return err
	}
	now, err := m.current(ctx, set)
	if err != nil {
		return err
	}
	for i := range set {
		set[i].Previous = now[i]
	}
	if err := m.sheltered(set); err != nil {
		return err
	}
	r, err := m.newRecord(journal.Promote, p.To)
	if err != nil {
		return err
	}
	r.From, r.Moves = p.From, set
	return m.begin(ctx, r)
}

// findMembers looks up every member under all tags that it has where it comes
// from.
func (m *mover) findMembers(ctx context.Context, p Promotion, members []*member) error {
	var refs []registry.Ref
	for _, mb := range members {
		for _, tag := range mb.from {
			refs = append(refs, mb.repo.WithTag(tag))
		}
	}
	answers := m.client.Probe(ctx, refs)
	var gone []string
	found := 0
	for _, mb := range members {
		for _, tag := range mb.from {
			a := answers[0]
			answers = answers[1:]
			switch {
			case a.State == registry.Failed:
				return fmt.Errorf("looking up %s:%s: %w", mb.image, tag, a.Err)
			case a.State == registry.Miss:
			case mb.tag == "":
				mb.tag, mb.answer = tag, a
				found++
			case a.Desc.Digest != mb.answer.Desc.Digest:
				gone = append(gone, fmt.Sprintf("%s: %s and %s point to different images", mb.name, mb.tag, tag))
			}
		}
		if mb.tag == "" && len(mb.from) > 0 {
			gone = append(gone, fmt.Sprintf("%s: there is no %s:%s", mb.name, mb.image, mb.from[0]))
		}
	}
	if found == 0 {
		return diag.Hint(fmt.Errorf("there is no version and no channel %q in %s", p.From, m.where()), "strata tags%s lists what there is", m.pushFlag())
	}
	if len(gone) > 0 {
		return m.incomplete(p, gone)
	}
	return nil
}

// incomplete says what is missing, and how it is made: from the commit that the
// release was made from, which need not be the one that is checked out.
func (m *mover) incomplete(p Promotion, gone []string) error {
	err := fmt.Errorf("it is not complete, so nothing has moved:\n  %s", strings.Join(gone, "\n  "))
	push := m.pushFlag()
	switch {
	case slices.Contains(m.Project.Channels, p.From):
		return diag.Hint(err, "strata promote%s VERSION %s sets all tags of the channel %s", push, p.From, p.From)
	case p.From == latest, p.From == m.Project.Version:
		return diag.Hint(err, "strata build%s publishes what is missing", push)
	}
	return diag.Hint(err, "check out %[1]s (git checkout %[1]s, where it is a git tag), and publish what is missing from there: strata build%[2]s --tag-version %[1]s", p.From, push)
}

// where names the registry that is worked in, as a user calls it.
func (m *mover) where() string {
	if m.Push {
		return m.Project.Image
	}
	return m.Project.Image + " (on this machine)"
}

func (m *mover) pushFlag() string {
	if m.Push {
		return " --push"
	}
	return ""
}

// setOf gives the tags that the members have, with what they point to.
func setOf(members []*member, tags func(*member) []string) []journal.Move {
	var set []journal.Move
	for _, m := range members {
		for _, tag := range tags(m) {
			set = append(set, journal.Move{Image: m.image, Tag: tag, Digest: m.answer.Desc.Digest})
		}
	}
	return set
}

// halves finds indexes that do not hold the images of the same release: a run
// over part of the project has moved the images' tags and not the index's.
func halves(members []*member) []string {
	var out []string
	for _, over := range members {
		var idx ocispec.Index
		if !over.index || json.Unmarshal(over.answer.Body, &idx) != nil {
			continue
		}
		for _, one := range members {
			if one.index || !slices.Contains(over.units, one.name) {
				continue
			}
			if !slices.ContainsFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == one.answer.Desc.Digest }) {
				out = append(out, fmt.Sprintf("%s:%s does not hold the image that %s points to", over.image, over.tag, one.tag))
			}
		}
	}
	return out
}

// inOrder refuses a set that has not been in the channel before.
func (m *mover) inOrder(ctx context.Context, p Promotion, members []*member) error {
	i := slices.Index(m.Project.Channels, p.To)
	if i <= 0 || m.Force || p.Direct {
		return nil
	}
	before := m.Project.Channels[i-1]
	in, err := releaseMembers(m.Config, Promotion{From: p.From, To: before, Units: p.Units})
	if err != nil {
		return err
	}
	byName := map[string]digest.Digest{}
	for _, mb := range members {
		byName[mb.name+fmt.Sprint(mb.index)] = mb.answer.Desc.Digest
	}
	for _, mb := range in {
		mb.answer.Desc.Digest = byName[mb.name+fmt.Sprint(mb.index)]
	}
	set := setOf(in, func(mb *member) []string { return mb.to })
	now, err := m.current(ctx, set)
	if err != nil {
		return err
	}
	stands := true
	for i := range set {
		stands = stands && now[i] == set[i].Digest
	}
	if stands || journal.HistoryOf(m.records, before).Stood(set) {
		return nil
	}
	return diag.Hint(fmt.Errorf("these images have never been together in %s, which comes before", before),
		"strata promote%s %s %s comes first; --force leaves it out", m.pushFlag(), p.From, before)
}
