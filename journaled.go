package strata

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/registry"
)

// MoveOptions are what [Promote] and [Rollback] need beyond a [Config], of which
// Project, Client, Now, Push, Version and Force count.
type MoveOptions struct {
	DryRun  bool                            // say what would move, and move nothing
	NewID   func(time.Time) (string, error) // gives an id whose time is the given one
	Command string                          // as it is written into the journal
}

// Movement is what a promotion or rollback did.
type Movement struct {
	Record    journal.Record   // what moved, or, in a dry run or where all stood already, what was asked for
	Stays     []journal.Move   // tags without anything to go back to
	Finished  []journal.Record // of earlier commands that had been ended before they were done
	Abandoned []journal.Record // those that can't be finished any more
	Already   bool             // every tag stood where it was to go
	Resumed   bool             // an earlier rollback was finished, and that was all there was to do
	Warnings  []string
}

// mover moves whole sets of tags, and keeps the journal.
type mover struct {
	Config
	options  MoveOptions
	client   *registry.Client
	home     registry.Ref // where the journal is
	records  []journal.Record
	runs     []journal.Record                 // runs' records, where they matter
	answers  map[registry.Ref]registry.Answer // manifests by digest
	movement Movement
}

// newMover reads the journal and finishes what an earlier command had begun.
func newMover(ctx context.Context, c Config, o MoveOptions) (*mover, error) {
	home, err := repository(c.Project.Image, c.Push)
	if err != nil {
		return nil, err
	}
	m := &mover{Config: c, options: o, client: c.Client.Direct(), home: home, answers: map[registry.Ref]registry.Answer{}}
	if m.records, m.movement.Warnings, err = readJournal(ctx, m.client, home); err != nil {
		return nil, err
	}
	for _, r := range journal.Unfinished(m.records) {
		if err := m.finish(ctx, r); err != nil {
			return nil, fmt.Errorf("finishing %s, which was begun at %s: %w", r.ID, r.Started.Format(time.RFC3339), err)
		}
	}
	return m, nil
}

// readJournal reads the journal of a repository. What is no record is passed
// over with a warning; one that only a newer version can read is an error.
func readJournal(ctx context.Context, c *registry.Client, home registry.Ref) ([]journal.Record, []string, error) {
	tags, err := c.Tags(ctx, home)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, nil, fmt.Errorf("reading the journal of %s: %w", home.FamiliarString(), err)
	}
	var refs []registry.Ref
	for _, t := range tags {
		if _, ok := journal.ID(t); ok {
			refs = append(refs, home.WithTag(t))
		}
	}
	var records []journal.Record
	var warnings []string
	for i, a := range c.Probe(ctx, refs) {
		if a.State == registry.Miss {
			continue // pruned meanwhile
		}
		text, err := annotationOf(a, journal.Annotation)
		var r journal.Record
		if err == nil {
			r, err = journal.Decode([]byte(text))
		}
		switch {
		case errors.Is(err, journal.ErrNewer):
			return nil, nil, diag.Hint(fmt.Errorf("reading %s: %w", refs[i].FamiliarString(), err), "a newer strata has written it; this command needs one, too")
		case a.State == registry.Failed:
			return nil, nil, fmt.Errorf("reading the journal: %w", err)
		case err != nil:
			warnings = append(warnings, fmt.Sprintf("passing over %s: %v", refs[i].FamiliarString(), err))
		default:
			records = append(records, r)
		}
	}
	journal.Sort(records)
	return records, warnings, nil
}

// annotationOf gives an annotation of a manifest that was looked up.
func annotationOf(a registry.Answer, name string) (string, error) {
	if a.Err != nil {
		return "", a.Err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(a.Body, &m); err != nil {
		return "", fmt.Errorf("reading its manifest: %w", err)
	}
	if m.Annotations[name] == "" {
		return "", fmt.Errorf("it has no annotation %s", name)
	}
	return m.Annotations[name], nil
}

// at gives the place of a tag that a record names.
func (m *mover) at(move journal.Move) (registry.Ref, error) {
	repo, err := repository(move.Image, m.Push)
	return repo.WithTag(move.Tag), err
}

// refs gives the places of the tags that a set names.
func (m *mover) refs(set []journal.Move) ([]registry.Ref, error) {
	out := make([]registry.Ref, len(set))
	for i, move := range set {
		var err error
		if out[i], err = m.at(move); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// current gives where the tags of a set point now; "" where there is none.
func (m *mover) current(ctx context.Context, set []journal.Move) ([]digest.Digest, error) {
	refs, err := m.refs(set)
	if err != nil {
		return nil, err
	}
	want := map[int]registry.Ref{}
	for i, ref := range refs {
		want[i] = ref
	}
	out := make([]digest.Digest, len(set))
	err = each(ctx, want, 16, func(ctx context.Context, i int, ref registry.Ref) error {
		d, err := m.client.Resolve(ctx, ref)
		if errors.Is(err, registry.ErrNotFound) {
			return nil
		}
		out[i] = d.Digest
		return err
	})
	return out, err
}

// whole looks whether everything that a set points to is there, and keeps the
// manifests. Messages call an image by its name there, or by its digest.
func (m *mover) whole(ctx context.Context, set []journal.Move, names map[digest.Digest]string) ([]string, error) {
	refs, err := m.refs(set)
	if err != nil {
		return nil, err
	}
	var ask []registry.Ref
	for i, ref := range refs {
		at := ref.WithDigest(set[i].Digest)
		if _, known := m.answers[at]; !known && !slices.Contains(ask, at) {
			ask = append(ask, at)
		}
	}
	for i, a := range m.client.Probe(ctx, ask) {
		m.answers[ask[i]] = a
	}
	of := make([]manifest, len(set))
	for i, ref := range refs {
		name := cmp.Or(names[set[i].Digest], set[i].Image+"@"+set[i].Digest.String())
		of[i] = manifest{name, ref.Repository(), m.answers[ref.WithDigest(set[i].Digest)]}
	}
	return missing(ctx, m.client, of)
}

// finish does what is left of a record that was started, or gives it up where
// that is no longer right.
func (m *mover) finish(ctx context.Context, r journal.Record) error {
	now, err := m.current(ctx, r.Moves)
	if err != nil {
		return err
	}
	for i, move := range r.Moves {
		if now[i] != move.Digest && now[i] != move.Previous {
			return m.abandon(ctx, r, fmt.Sprintf("%s has been moved since", move.Name()))
		}
	}
	gone, err := m.whole(ctx, r.Moves, nil)
	if err != nil {
		return err
	}
	if len(gone) > 0 && !m.Force {
		return diag.Hint(fmt.Errorf("it can't be finished:\n  %s", strings.Join(gone, "\n  ")), "--force goes on without finishing it")
	}
	if len(gone) > 0 {
		return m.abandon(ctx, r, gone[0])
	}
	m.movement.Finished = append(m.movement.Finished, r)
	if m.options.DryRun {
		return m.note(r.End(journal.Done, m.Now))
	}
	return m.act(ctx, r, now)
}

// abandon gives a record up.
func (m *mover) abandon(ctx context.Context, r journal.Record, why string) error {
	m.movement.Abandoned = append(m.movement.Abandoned, r)
	m.movement.Warnings = append(m.movement.Warnings, fmt.Sprintf("%s, which was begun at %s, is not finished: %s", r.ID, r.Started.Format(time.RFC3339), why))
	r = r.End(journal.Abandoned, m.Now)
	if m.options.DryRun {
		return m.note(r)
	}
	return m.write(ctx, r)
}

// note puts a record into the journal as this command knows it.
func (m *mover) note(r journal.Record) error {
	m.records = slices.DeleteFunc(m.records, func(o journal.Record) bool { return o.ID == r.ID })
	m.records = append(m.records, r)
	journal.Sort(m.records)
	return nil
}

// write keeps a record.
func (m *mover) write(ctx context.Context, r journal.Record) error {
	text, err := r.Encode()
	if err != nil {
		return err
	}
	if err := m.client.EnsureEmpty(ctx, m.home); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	_, err = m.client.PutArtifact(ctx, m.home.WithTag(journal.Tag(r.ID)), ocispec.Descriptor{}, journal.ArtifactType, nil,
		map[string]string{journal.Annotation: string(text)})
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return m.note(r)
}

// begin writes a record before anything moves, and then moves it.
func (m *mover) begin(ctx context.Context, r journal.Record) error {
	m.movement.Record = r
	if !slices.ContainsFunc(r.Moves, journal.Move.Moves) {
		m.movement.Already = true
		return nil
	}
	if m.options.DryRun {
		return nil
	}
	if err := m.write(ctx, r); err != nil {
		return err
	}
	before := make([]digest.Digest, len(r.Moves))
	for i, move := range r.Moves {
		before[i] = move.Previous
	}
	if err := m.act(ctx, r, before); err != nil {
		return diag.Hint(err, "%s", hintOr(err, "the same command again goes on where this one has ended"))
	}
	m.movement.Record = m.records[slices.IndexFunc(m.records, func(o journal.Record) bool { return o.ID == r.ID })]
	return nil
}

func hintOr(err error, text string) string {
	if h := diag.HintOf(err); h != "" {
		return h
	}
	return text
}

// act sets the tags of a record that is in the journal, those of manifests before
// those of indexes, looks whether all of them stand, and ends the record. What
// points to the right place by now is left alone.
func (m *mover) act(ctx context.Context, r journal.Record, now []digest.Digest) error {
	refs, err := m.refs(r.Moves)
	if err != nil {
		return err
	}
	var manifests, indexes = map[registry.Ref]registry.Answer{}, map[registry.Ref]registry.Answer{}
	for i, ref := range refs {
		a := m.answers[ref.WithDigest(r.Moves[i].Digest)]
		switch {
		case now[i] == r.Moves[i].Digest:
		case registry.IsIndex(a.Desc.MediaType):
			indexes[ref] = a
		default:
			manifests[ref] = a
		}
	}
	for _, tags := range []map[registry.Ref]registry.Answer{manifests, indexes} {
		err := each(ctx, tags, 8, func(ctx context.Context, ref registry.Ref, a registry.Answer) error {
			if _, err := m.client.PutManifest(ctx, ref, a.Desc.MediaType, a.Body); err != nil {
				return fmt.Errorf("moving the tag %s: %w", ref.FamiliarString(), err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if now, err = m.current(ctx, r.Moves); err != nil {
		return err
	}
	for i, move := range r.Moves {
		if now[i] != move.Digest {
			return fmt.Errorf("moving the tag %s: someone else has moved it meanwhile", move.Name())
		}
	}
	return m.write(ctx, r.End(journal.Done, time.Now().UTC()))
}

// newRecord begins a record whose id is later than all that the journal has,
// whatever this machine's clock says: the order of ids is the order of what
// happened.
func (m *mover) newRecord(kind journal.Kind, channel string) (journal.Record, error) {
	at := m.Now.UTC()
	for _, r := range slices.Concat(m.records, m.runs) {
		if t, err := journal.Time(r.ID); err == nil && !t.Before(at.Truncate(time.Millisecond)) {
			at = t.Add(time.Millisecond)
		}
	}
	id, err := m.options.NewID(at)
	return journal.Record{
		Version: journal.Version, ID: id, Kind: kind, State: journal.Started, Project: m.Project.Image, Channel: channel,
		Started: at, Command: m.options.Command, Revision: m.Version.Revision, Dirty: m.Version.Dirty,
	}, err
}

// sheltered refuses to move a tag that the project protects and that points
// elsewhere.
func (m *mover) sheltered(set []journal.Move) error {
	var taken []string
	for _, move := range set {
		if move.Previous != "" && move.Moves() && protects(m.Project.Protect, move.Tag) {
			taken = append(taken, move.Tag)
		}
	}
	if len(taken) == 0 || m.Force {
		return nil
	}
	return diag.Hint(fmt.Errorf("moving tags: %s would be overwritten, and the project protects that", strings.Join(taken, ", ")),
		"take them out of `protect`, or use --force")
}

func protects(patterns []string, tag string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, tag)
		return ok
	})
}
