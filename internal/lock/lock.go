// Package lock reads and writes strata.lock: every external image of a project
// pinned to its digest, per platform, so that a base image moves when the user
// says so.
//
// It takes and gives bytes and values; reading the file and asking registries is
// the caller's. The form is JSON, sorted, one image an entry, so that a diff of
// it reads well and bots can change it.
package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Name is the file's name, in the project's folder.
const Name = "strata.lock"

// Version is the form that this package writes.
const Version = 1

// File is the content of a lock. It is immutable; the zero value pins nothing.
type File struct {
	Version int     `json:"version"`
	Images  []Image `json:"images"` // by Name
}

// Image is one external image.
type Image struct {
	Name      string              `json:"image"`    // as the Dockerfile writes it: "debian:bookworm-slim"
	From      string              `json:"from"`     // repository: "docker.io/library/debian"
	Index     digest.Digest       `json:"digest"`   // what the tag pointed to
	Resolved  time.Time           `json:"resolved"` // when, in UTC, to the second
	Platforms map[string]Platform `json:"platforms"`
	// Of is the digest whose platforms those are. Where it is another than Index,
	// a bot has moved Index alone; the platforms are to be looked up below it.
	Of digest.Digest `json:"platformsOf,omitempty"`
}

// Stale says whether the platforms are those of another digest than the image's.
func (i Image) Stale() bool { return i.Of != "" && i.Of != i.Index }

// Platform is what an image is on one platform, with what its config
// contributes to a Dockerfile on top of it.
type Platform struct {
	Digest     digest.Digest `json:"digest"` // of the manifest
	Env        []string      `json:"env,omitempty"`
	WorkingDir string        `json:"workingDir,omitempty"`
	Shell      []string      `json:"shell,omitempty"`
	OnBuild    []string      `json:"onBuild,omitempty"`
}

// ErrConflict is what is wrong with a lock that git could not merge.
var ErrConflict = errors.New("git's conflict markers are in it")

// Parse reads a lock. Members that it does not know are an error: they would be
// lost when the lock is written again.
func Parse(data []byte) (*File, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, badJSON(data, err)
	}
	if f.Version != Version {
		return nil, fmt.Errorf("reading %s: its version is %d, this program knows %d", Name, f.Version, Version)
	}
	for _, i := range f.Images {
		if err := i.check(); err != nil {
			return nil, fmt.Errorf("reading %s: image %q: %w", Name, i.Name, err)
		}
	}
	return f.sorted(), nil
}

// badJSON says in which line reading ended.
func badJSON(data []byte, err error) error {
	for n, l := range bytes.Split(data, []byte("\n")) {
		if bytes.HasPrefix(l, []byte("<<<<<<< ")) {
			return fmt.Errorf("reading %s: line %d: %w", Name, n+1, ErrConflict)
		}
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var at int64
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		at, err = int64(len(bytes.TrimRight(data, "\n"))), errors.New("the file ends in the midst of it")
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	default: // of a member that is not known no place is told
		return fmt.Errorf("reading %s: %w", Name, err)
	}
	at = min(max(at, 0), int64(len(data)))
	return fmt.Errorf("reading %s: line %d: %w", Name, 1+bytes.Count(data[:at], []byte("\n")), err)
}

func (i Image) check() error {
	if i.Name == "" {
		return fmt.Errorf("it has no name")
	}
	if err := i.Index.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", i.Index, err)
	}
	if i.Of != "" {
		if err := i.Of.Validate(); err != nil {
			return fmt.Errorf("digest %q of the platforms: %w", i.Of, err)
		}
	}
	for name, p := range i.Platforms {
		if err := p.Digest.Validate(); err != nil {
			return fmt.Errorf("digest %q for %s: %w", p.Digest, name, err)
		}
	}
	return nil
}

// sorted gives the lock with its images by name.
func (f *File) sorted() *File {
	out := &File{Version: Version, Images: slices.Clone(f.Images)}
	slices.SortFunc(out.Images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Encode writes the lock. The same lock gives the same bytes.
func (f *File) Encode() ([]byte, error) {
	out := f.sorted()
	if out.Images == nil {
		out.Images = []Image{}
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", Name, err)
	}
	return append(data, '\n'), nil
}

// Find gives what an image is pinned to on a platform. There may be no lock.
// Platforms of another digest than the image's pin nothing.
func (f *File) Find(name, platform string) (Image, Platform, bool) {
	if f == nil {
		return Image{}, Platform{}, false
	}
	for _, i := range f.Images {
		if p, ok := i.Platforms[platform]; ok && i.Name == name && !i.Stale() {
			return i, p, true
		}
	}
	return Image{}, Platform{}, false
}

// Index gives the digest that an image is pinned to, whatever the platform.
func (f *File) Index(name string) (digest.Digest, bool) {
	i, ok := f.image(name)
	return i.Index, ok
}

// Without gives the lock without the images that drop names. There may be none.
func (f *File) Without(drop func(name string) bool) *File {
	if f == nil {
		return nil
	}
	out := f.sorted()
	out.Images = slices.DeleteFunc(out.Images, func(i Image) bool { return drop(i.Name) })
	return out
}

// Keep gives fresh with the pins of f in place of its own wherever f pins all
// platforms that fresh has: only what is new to f moves, and what fresh does not
// have is dropped. Images that move names are taken from fresh.
func (f *File) Keep(fresh *File, move func(name string) bool) *File {
	out := &File{Version: Version}
	for _, i := range fresh.Images {
		if old, ok := f.image(i.Name); ok && !move(i.Name) && covers(old, i) {
			i = Image{Name: old.Name, From: old.From, Index: old.Index, Resolved: old.Resolved, Of: old.Index, Platforms: map[string]Platform{}}
			for name := range platformsOf(fresh, i.Name) {
				i.Platforms[name] = old.Platforms[name]
			}
		} else if ok && old.Index == i.Index && !old.Stale() {
			i.Resolved = old.Resolved // it has not moved: the file stays as it is
		}
		out.Images = append(out.Images, i)
	}
	return out.sorted()
}

func (f *File) image(name string) (Image, bool) {
	if f == nil {
		return Image{}, false
	}
	i := slices.IndexFunc(f.Images, func(i Image) bool { return i.Name == name })
	if i < 0 {
		return Image{}, false
	}
	return f.Images[i], true
}

func platformsOf(f *File, name string) map[string]Platform {
	i, _ := f.image(name)
	return i.Platforms
}

func covers(old, fresh Image) bool {
	if old.Stale() {
		return false
	}
	for name := range fresh.Platforms {
		if _, ok := old.Platforms[name]; !ok {
			return false
		}
	}
	return true
}

// Change is an image whose pin differs between two locks.
type Change struct {
	Name     string        `json:"image"`
	Old      digest.Digest `json:"old,omitempty"` // "" for an image that was not pinned
	New      digest.Digest `json:"new,omitempty"` // "" for one that is no longer used
	OldSince time.Time     `json:"oldSince,omitzero"`
}

// Diff gives the images whose pins differ, by name.
func Diff(old, new *File) []Change {
	var out []Change
	for _, i := range new.Images {
		was, ok := old.image(i.Name)
		if !ok || was.Index != i.Index {
			out = append(out, Change{Name: i.Name, Old: was.Index, New: i.Index, OldSince: was.Resolved})
		}
	}
	if old != nil {
		for _, i := range old.Images {
			if _, ok := new.image(i.Name); !ok {
				out = append(out, Change{Name: i.Name, Old: i.Index, OldSince: i.Resolved})
			}
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return out
}
