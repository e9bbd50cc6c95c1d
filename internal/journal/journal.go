// Package journal keeps what promotions and rollbacks moved: which tags of which
// images, to what, and where they were before. A record is written before the
// first tag moves and again when the last one has, so that a crash in between is
// seen and finished by whoever comes next (docs/format.md).
//
// It takes records and gives their text, the state of a channel that follows
// from them, and what going back means. It has no I/O and no clock.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Where a record lies: an artifact under a tag of its own in the repository of
// the project's `image`, its text in one annotation.
const (
	Annotation   = "build.strata.journal"
	ArtifactType = "application/vnd.strata.journal.v1"
	tagPrefix    = "strata-j-"
)

// Version is the version of the format that this package writes.
const Version = 1

// Kind is what a record tells of.
type Kind string

// The kinds.
const (
	Promote  Kind = "promote"
	Rollback Kind = "rollback"
	// Run is a run's record taken as one that moved tags (see [History]). It is
	// never written.
	Run Kind = "run"
)

// State says how far it came.
type State string

// The states. A record is started until every tag stands; one is abandoned when
// what it moves to is gone and the user has said to go on without it.
const (
	Started   State = "started"
	Done      State = "done"
	Abandoned State = "abandoned"
)

// Record is one promotion or rollback. Moves names every member of the set,
// those that stood already included, so that a record alone says what the
// channel held.
type Record struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // as the id of a run: sorted as text, sorted by time
	Kind     Kind      `json:"kind"`
	State    State     `json:"state"`
	Project  string    `json:"project"`           // the project's image
	Channel  string    `json:"channel,omitempty"` // "" for a rollback of runs
	From     string    `json:"from,omitempty"`    // promote: version, channel or latest; rollback: the record whose state is back, "" for the one before all
	Undoes   []string  `json:"undoes,omitempty"`  // rollback: the records that do not count any more
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	Command  string    `json:"command"`
	Revision string    `json:"revision,omitempty"`
	Dirty    bool      `json:"dirty,omitempty"` // the work tree had changes over the revision
	Moves    []Move    `json:"moves"`           // manifests first, indexes behind them
}

// Move is one tag.
type Move struct {
	Image    string        `json:"image"` // "ghcr.io/user/app"
	Tag      string        `json:"tag"`
	Digest   digest.Digest `json:"digest"`             // where it goes
	Previous digest.Digest `json:"previous,omitempty"` // where it was; "" when it is new
}

// Name gives the tag with its image: "ghcr.io/user/app:stable-cpu".
func (m Move) Name() string { return m.Image + ":" + m.Tag }

// Moves says whether the tag was elsewhere before.
func (m Move) Moves() bool { return m.Digest != m.Previous }

// Tag gives the tag of a record's artifact.
func Tag(id string) string { return tagPrefix + id }

// ID gives the id of the record that a tag belongs to.
func ID(tag string) (string, bool) {
	id, ok := strings.CutPrefix(tag, tagPrefix)
	return id, ok && idForm.MatchString(id)
}

var idForm = regexp.MustCompile(`^\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}$`)

// Time gives the time in the id of a record or a run.
func Time(id string) (time.Time, error) {
	const form = "20060102T150405.000Z"
	if !idForm.MatchString(id) {
		return time.Time{}, fmt.Errorf("%q is no id of a record", id)
	}
	return time.Parse(form, id[:len(form)])
}

// ErrNewer is the cause when a record was written by a newer version of Strata.
var ErrNewer = errors.New("the record is of a newer format")

// Encode gives the text of a record, on one line.
func (r Record) Encode() ([]byte, error) {
	r.Version = Version
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("writing the journal: %w", err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the journal: %w", err)
	}
	return text, nil
}

// Decode reads a record. Members that it does not know are passed over, so that
// a version can grow.
func Decode(text []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("reading the journal: %w", err)
	}
	if r.Version > Version {
		return Record{}, fmt.Errorf("reading the journal: a record of version %d: %w", r.Version, ErrNewer)
	}
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("reading the journal: %w", err)
	}
	return r, nil
}

func (r Record) check() error {
	switch {
	case r.Version != Version:
		return errors.New("a record has no version")
	case !idForm.MatchString(r.ID):
		return fmt.Errorf("%q is no id of a record", r.ID)
	case r.Kind != Promote && r.Kind != Rollback:
		return fmt.Errorf("record %s: %q is no kind", r.ID, r.Kind)
	case !slices.Contains([]State{Started, Done, Abandoned}, r.State):
		return fmt.Errorf("record %s: %q is no state", r.ID, r.State)
	case len(r.Moves) == 0:
		return fmt.Errorf("record %s: it moves nothing", r.ID)
	}
	for _, m := range r.Moves {
		if err := m.check(); err != nil {
			return fmt.Errorf("record %s: the tag %q of %q: %w", r.ID, m.Tag, m.Image, err)
		}
	}
	return nil
}

func (m Move) check() error {
	if m.Image == "" || m.Tag == "" {
		return errors.New("a name is missing")
	}
	if err := m.Digest.Validate(); err != nil {
		return fmt.Errorf("%q is no digest: %w", m.Digest, err)
	}
	if m.Previous != "" {
		if err := m.Previous.Validate(); err != nil {
			return fmt.Errorf("%q is no digest: %w", m.Previous, err)
		}
	}
	return nil
}

// End gives the record in its last state.
func (r Record) End(s State, at time.Time) Record {
	r.State, r.Finished = s, at
	return r
}

// Sort puts records in the order of time.
func Sort(rs []Record) {
	slices.SortFunc(rs, func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
}

// Unfinished gives the records that were started and never ended, the oldest
// first.
func Unfinished(rs []Record) []Record {
	out := slices.DeleteFunc(slices.Clone(rs), func(r Record) bool { return r.State != Started })
	Sort(out)
	return out
}
