// Package prune decides what of a repository may go: everything that no tag of
// a user, no index, no attachment's image, no promotion within the kept time and
// no build of the project as it is leads to, once it is older than the project
// keeps it.
//
// It takes what was found in the repositories, the policy and the time, and
// gives a [Plan]: every manifest with the reason for which it stays or goes, the
// bytes that are freed, and the deletions in an order that a crash can't break.
// It has no I/O and no clock. What it does not understand stays.
package prune

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// ID names a manifest in a repository.
type ID struct {
	Repo   string        `json:"repository"`
	Digest digest.Digest `json:"digest"`
}

// Manifest is one manifest of a repository, tagged or not. Digests that it names
// are looked for among the other manifests; those that are not there don't
// matter.
type Manifest struct {
	ID
	Size     int64 // of its text
	Blobs    []Blob
	Index    bool
	Children []digest.Digest // of an index
	Subject  digest.Digest   // what it is attached to
	Ours     bool            // an artifact that Strata has put there with an image
	Unit     string          // "app/cpu/linux/amd64" for an image of ours
	// Needs are other images that this one is used with: its trunk and its
	// parent, in any of the repositories.
	Needs []digest.Digest
	// Bases are images from elsewhere that went in; their inventories may be
	// kept beside ours.
	Bases []digest.Digest
	Trunk digest.Digest // one of Needs: the image that the tail was put on
	Made  time.Time     // when it was published; zero when that is not known
}

// Blob is a blob that a manifest names.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// Tag is one tag.
type Tag struct {
	Repo   string
	Name   string
	Digest digest.Digest
	Set    time.Time // when it was set; zero when the registry does not tell
}

// Move is a tag that a run or a promotion has set.
type Move struct {
	Tag      string // without its repository
	Digest   digest.Digest
	Previous digest.Digest // "" when it was new
}

// Log is the record of a run or of a promotion, and the manifest that holds it.
type Log struct {
	ID
	At        time.Time
	Promotion bool
	Units     []digest.Digest // images that a run has made or reused
	Moves     []Move
	// Hold keeps what it names whatever its age: it is not finished, or the way
	// back leads over it.
	Hold bool
}

// Keep is how long an image stays that nothing leads to: as long as it is
// younger than Age or one of the Count newest of its unit.
type Keep struct {
	Age   time.Duration
	Count int
}

// Default is what a layer keeps for which the project says nothing.
var Default = Keep{Age: 30 * 24 * time.Hour}

// DefaultHistory is how long the records of runs and promotions stay, and with a
// promotion what it names.
const DefaultHistory = 90 * 24 * time.Hour

// DefaultGrace is how long everything stays that was made or used just now,
// whatever the policy: longer than a build that has seen an image and not yet
// tagged what it makes of it is likely to take.
const DefaultGrace = time.Hour

// Policy says what may go.
type Policy struct {
	Keep    map[string]Keep // by layer
	Other   Keep            // of layers that Keep does not name
	Layers  []string        // only images of these go; none: all, and what belongs to no layer
	History time.Duration
	Grace   time.Duration
	Expire  []string      // patterns of the user's tags that may go
	After   time.Duration // once they were set longer ago than this
	Protect []string      // patterns of tags that never go
}

// Input is what is known when it is decided.
type Input struct {
	Now       time.Time
	Tags      []Tag
	Manifests []Manifest
	Logs      []Log
	Keys      map[string]bool // tags of keys under which a build of the project would look now
	Units     map[string]bool // names of the project's units as they stand in tags: "app.cpu.linux.amd64"
	Policy    Policy
}

// Kind sorts manifests.
type Kind string

// The kinds.
const (
	Image      Kind = "image"
	Index      Kind = "index"
	Attachment Kind = "attachment"
	Inventory  Kind = "inventory" // of an image from elsewhere
	Record     Kind = "record"    // of a run
	Promotion  Kind = "promotion"
	Cache      Kind = "cache" // of the engine
	Other      Kind = "other"
)

// Item is what becomes of one manifest.
type Item struct {
	ID
	Kind   Kind      `json:"kind"`
	Unit   string    `json:"unit,omitempty"`
	Tags   []string  `json:"tags,omitempty"`
	Goes   bool      `json:"goes"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"` // the tag or image that the reason is about
	Used   time.Time `json:"used,omitzero"`    // when it was last made or used, as far as is known
	Frees  int64     `json:"frees,omitempty"`  // bytes that nothing which stays needs; counted once, at the first item
}

// Plan is what goes and what stays. It is immutable.
type Plan struct {
	Items   []Item // what goes first; by repository, kind, unit, age
	Expired []Tag  // the user's tags that go, whether or not what they point to does
	Freed   int64  // bytes
	Stays   int64  // bytes of what stays

	foreign map[ID]bool // attachments that are not ours
}

// Going counts what goes.
func (p Plan) Going() (manifests int) {
	for _, i := range p.Items {
		if i.Goes {
			manifests++
		}
	}
	return manifests
}

// Empty says whether there is nothing to do.
func (p Plan) Empty() bool { return p.Going() == 0 && len(p.Expired) == 0 }
