// Package record keeps what runs did: what each unit's step was, why, how
// long it took, and what moved. Records are JSON files of a versioned format
// (docs/format-record.md), one a run.
//
// It takes the events of a run and what the caller adds to them, and gives
// records, lists of them, and estimates of how long a unit will take. Output
// of builds is never kept, and texts are freed of credentials in URLs.
package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/printable"
)

// Version is the version of the format that this package writes.
const Version = 1

// maxRecord bounds what is read as one record, in bytes. A run of 1,000 units
// with 50 steps each takes about 8 MB.
const maxRecord = 64 << 20

// Outcome says how a run ended.
type Outcome string

// The outcomes.
const (
	OK        Outcome = "ok"
	Failed    Outcome = "failed"
	Cancelled Outcome = "cancelled"
	Running   Outcome = "running" // it had not ended when it was written
)

// Record is what one run did.
type Record struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"` // see [NewID]
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	Kind     string    `json:"kind,omitempty"`     // "" is a run; promote, rollback: only tags moved
	Channel  string    `json:"channel,omitempty"`  // of a promotion or rollback
	From     string    `json:"from,omitempty"`     // what was promoted; the record that is back
	Undoes   []string  `json:"undoes,omitempty"`   // of a rollback: the records that do not count any more
	Command  string    `json:"command"`            // see [CommandLine]
	Project  string    `json:"project"`            // the project's image, "ghcr.io/user/app"
	Revision string    `json:"revision,omitempty"` // commit that was built
	Dirty    bool      `json:"dirty,omitempty"`    // the work tree had changes over it
	Machine  Machine   `json:"machine"`
	Engine   string    `json:"engine,omitempty"` // "embedded", or the address without credentials
	Units    []Unit    `json:"units"`
	Tags     []Tag     `json:"tags,omitempty"` // that were moved
	Traffic  Traffic   `json:"traffic"`        // with registries, all in all
	Outcome  Outcome   `json:"outcome"`
	Error    string    `json:"error,omitempty"` // why the run as a whole failed
}

// Machine is where the run took place.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
}

// Unit is what was done with one unit.
type Unit struct {
	ID          string    `json:"id"` // "app/cpu/linux/amd64"
	Layer       string    `json:"layer"`
	Variant     string    `json:"variant,omitempty"`
	Platform    string    `json:"platform"` // "linux/amd64"
	Key         string    `json:"key,omitempty"`
	ContentKey  string    `json:"contentKey,omitempty"`
	Action      string    `json:"action,omitempty"` // reuse, append, rebase, build
	Reason      string    `json:"reason,omitempty"`
	Digest      string    `json:"digest,omitempty"` // of the manifest
	Started     time.Time `json:"started,omitzero"`
	Seconds     float64   `json:"seconds"`
	Size        int64     `json:"size,omitempty"`     // compressed bytes of all blobs
	Blobs       int       `json:"blobs,omitempty"`    // of the image
	NewBlobs    int       `json:"newBlobs,omitempty"` // that the registry did not have
	BytesPushed int64     `json:"bytesPushed,omitempty"`
	BytesPulled int64     `json:"bytesPulled,omitempty"`
	EngineSteps []Step    `json:"engineSteps,omitempty"` // in order of their end
	Error       string    `json:"error,omitempty"`
}

// Step is one step of the engine.
type Step struct {
	Name    string  `json:"name"`
	Cached  bool    `json:"cached,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Tag is a tag that the run set.
type Tag struct {
	Tag      string `json:"tag"` // "ghcr.io/user/app:latest-cpu"
	Digest   string `json:"digest"`
	Previous string `json:"previous,omitempty"` // digest before; "" when the tag is new
}

// Traffic counts what went between the run and registries.
type Traffic struct {
	Requests    int64 `json:"requests"`
	BytesPushed int64 `json:"bytesPushed"`
	BytesPulled int64 `json:"bytesPulled"`
}

// idTime is the time part of an ID: sorted as text, IDs are sorted by time.
const idTime = "20060102T150405.000Z"

var idForm = regexp.MustCompile(`^\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}$`)

// NewID gives an ID for a run that starts at t: the time in UTC to the
// millisecond, and four bytes read from random.
func NewID(t time.Time, random io.Reader) (string, error) {
	var b [4]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("making the id of a run: %w", err)
	}
	return t.UTC().Format(idTime) + "-" + hex.EncodeToString(b[:]), nil
}

// timeOf gives the time in an ID.
func timeOf(id string) (time.Time, error) {
	if !idForm.MatchString(id) {
		return time.Time{}, fmt.Errorf("%q is no id of a run", id)
	}
	return time.Parse(idTime, id[:len(idTime)])
}

// ErrNewer is the cause when a record was written by a newer version of
// Strata.
var ErrNewer = errors.New("the record is of a newer format")

// Decode reads a record. Members that it does not know are passed over, so
// that a version can grow.
func Decode(data []byte) (Record, error) {
	if len(data) > maxRecord {
		return Record{}, fmt.Errorf("reading a record: it has %d bytes, more than %d", len(data), maxRecord)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("reading a record: %w", err)
	}
	switch {
	case head.Version > Version:
		return Record{}, fmt.Errorf("reading a record of version %d: %w", head.Version, ErrNewer)
	case head.Version < 1:
		return Record{}, fmt.Errorf("reading a record: it has no version")
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("reading a record: %w", err)
	}
	if _, err := timeOf(r.ID); err != nil {
		return Record{}, fmt.Errorf("reading a record: %w", err)
	}
	return r, nil
}

// Encode gives the JSON of r, scrubbed (see [Record.Scrub]), with its version
// set and a newline at the end.
func (r Record) Encode() ([]byte, error) {
	r = r.Scrub()
	r.Version = Version
	if r.Units == nil {
		r.Units = []Unit{}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("writing record %q: %w", r.ID, err)
	}
	return printable.JSON(b.Bytes()), nil
}

// maxText bounds a text in a record, in bytes.
const maxText = 2000

// scrub takes credentials out of s and bounds its length.
func scrub(s string) string {
	s = strings.ToValidUTF8(printable.Redact(s), "�")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// Scrub gives a copy of r whose free texts hold no credentials and
// are bounded in length.
func (r Record) Scrub() Record {
	r.Command, r.Engine, r.Error, r.Project = scrub(r.Command), scrub(r.Engine), scrub(r.Error), scrub(r.Project)
	units := make([]Unit, len(r.Units))
	for i, u := range r.Units {
		u.Reason, u.Error = scrub(u.Reason), scrub(u.Error)
		steps := make([]Step, len(u.EngineSteps))
		for j, s := range u.EngineSteps {
			s.Name = scrub(s.Name)
			steps[j] = s
		}
		u.EngineSteps = steps
		if len(steps) == 0 {
			u.EngineSteps = nil
		}
		units[i] = u
	}
	r.Units = units
	return r
}

// CommandLine gives the text of a command for a record: every value of a
// NAME=VALUE argument is left out, since build args and secrets come that way.
func CommandLine(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		flag, rest := "", a
		if strings.HasPrefix(a, "--") {
			if f, v, ok := strings.Cut(a, "="); ok {
				flag, rest = f+"=", v
			}
		}
		if name, _, ok := strings.Cut(rest, "="); ok {
			rest = name + "=***"
		}
		out[i] = scrub(flag + rest)
	}
	return strings.Join(out, " ")
}
