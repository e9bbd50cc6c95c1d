// Package inventory knows which files an image consists of, without holding
// the image: for every path its kind, mode, owner, size, time, link, content
// digest and the blob that brought it, and what stands in /etc/passwd and
// /etc/group.
//
// An inventory is made by streaming an image's layers once ([FromLayers]), or
// from the inventory of the parent and what was added ([Inventory.With]). It is
// kept in two parts: the small one answers what an append asks (what stands at
// a path, where does a link lead, who is "app") and leaves out sizes, contents
// and times of files; the full one holds everything. Their form is described in
// docs/format-inventory.md.
//
// The package works on readers, writers and values; it does no other I/O.
package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types of the two parts and the type of the artifact that holds them.
const (
	ArtifactType   = "application/vnd.strata.inventory.v1"
	MediaTypeSmall = "application/vnd.strata.inventory.small.v1+zstd"
	MediaTypeFull  = "application/vnd.strata.inventory.full.v1+zstd"
	// MediaTypeTail is that of a full inventory of one layer alone: an appended
	// image's newest.
	MediaTypeTail = "application/vnd.strata.inventory.tail.v1+zstd"
)

// ErrNeedFull says that a small inventory can't answer: the caller loads the
// full part and asks again.
var ErrNeedFull = errors.New("the full part of the inventory is needed")

// Kind is what stands at a path.
type Kind byte

// The kinds. None is the zero value: nothing stands there.
const (
	None    Kind = 0
	File    Kind = 'f'
	Dir     Kind = 'd'
	Symlink Kind = 'l'
	Char    Kind = 'c'
	Block   Kind = 'b'
	Fifo    Kind = 'p'
)

// String names the kind as a reader would.
func (k Kind) String() string {
	switch k {
	case None:
		return "nothing"
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "link"
	case Char, Block:
		return "device"
	case Fifo:
		return "named pipe"
	}
	return fmt.Sprintf("kind %q", byte(k))
}

// Entry is one path of an image. It is immutable.
type Entry struct {
	Path         string // relative to the root, without a leading slash; "" is the root itself
	Kind         Kind
	Mode         uint32 // permission bits and 04000, 02000, 01000
	UID, GID     int
	Size         int64    // of a regular file
	Link         string   // where a symbolic link leads
	Major, Minor int64    // of a device
	Content      [32]byte // SHA-256 of a regular file's content
	Time         int64    // of the last modification, as the layer states it: whole Unix seconds, rounded down; 0 for an implied directory
	Blob         int      // index into Inventory.Blobs; -1 when not known
	Xattrs       map[string]string
}

// Digest gives the digest of a regular file's content; "" for other kinds and
// for entries of a small inventory.
func (e *Entry) Digest() digest.Digest {
	if e.Kind != File || e.Content == [32]byte{} {
		return ""
	}
	return digest.NewDigestFromBytes(digest.SHA256, e.Content[:])
}

// Account is /etc/passwd or /etc/group of an image, links followed.
type Account struct {
	State AccountState
	Path  string // where the file stands after links were followed
	Data  []byte
}

// AccountState says what is known about an account file.
type AccountState byte

// The states. An unknown file was too large, no regular file, or not seen.
const (
	AccountAbsent AccountState = iota
	AccountPresent
	AccountUnknown
)

// Inventory is the sorted file list of an image. It is immutable.
type Inventory struct {
	entries []Entry // by Path, bytewise; entries[0] is the root
	blobs   []digest.Digest
	small   bool  // sizes, contents and blobs are not known, nor times but those of directories
	newest  int64 // of a small one: what Newest says of the full one
	passwd  Account
	group   Account
}

// Empty gives the inventory of an image without layers: a root directory.
func Empty() *Inventory {
	return &Inventory{entries: []Entry{emptyRoot()}}
}

func emptyRoot() Entry { return Entry{Kind: Dir, Mode: 0o755, Blob: -1} }

// Full reports whether the inventory knows sizes, contents, times and blobs of
// files.
func (v *Inventory) Full() bool { return !v.small }

// Blobs gives the digests of the image's compressed layers, in order.
func (v *Inventory) Blobs() []digest.Digest { return slices.Clone(v.blobs) }

// Len gives the number of entries, the root included.
func (v *Inventory) Len() int { return len(v.entries) }

// Passwd gives /etc/passwd.
func (v *Inventory) Passwd() Account { return v.passwd }

// Group gives /etc/group.
func (v *Inventory) Group() Account { return v.group }

// All gives every entry in order of path. Entries must not be changed.
func (v *Inventory) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for i := range v.entries {
			if !yield(&v.entries[i]) {
				return
			}
		}
	}
}

// Describes reports whether the inventory is that of an image with these
// compressed layers. An inventory that is not must not be used for it.
func (v *Inventory) Describes(layers []digest.Digest) bool {
	return slices.Equal(v.blobs, layers)
}

// Lookup gives what stands at path itself; links are not followed. The path is
// relative to the root, clean, without a leading slash. When nothing stands
// there, Kind is [None].
func (v *Inventory) Lookup(path string) Entry {
	if i, ok := v.find(path); ok {
		return v.entries[i]
	}
	return Entry{Path: path, Blob: -1}
}

// Below gives the entries strictly below the directory path, in order.
func (v *Inventory) Below(path string) iter.Seq[*Entry] {
	prefix := path + "/"
	if path == "" {
		prefix = ""
	}
	start, _ := v.find(prefix)
	return func(yield func(*Entry) bool) {
		for i := start; i < len(v.entries) && strings.HasPrefix(v.entries[i].Path, prefix); i++ {
			if v.entries[i].Path != path && !yield(&v.entries[i]) {
				return
			}
		}
	}
}

// Children gives the entries that stand in the directory path itself, in order.
func (v *Inventory) Children(path string) iter.Seq[*Entry] {
	prefix := path + "/"
	if path == "" {
		prefix = ""
	}
	return func(yield func(*Entry) bool) {
		i, _ := v.find(prefix)
		for i < len(v.entries) && strings.HasPrefix(v.entries[i].Path, prefix) {
			name := v.entries[i].Path[len(prefix):]
			if child, _, deeper := strings.Cut(name, "/"); deeper {
				i, _ = v.find(prefix + child + "0") // "0" follows "/": behind all that the child holds
				continue
			}
			if name != "" && !yield(&v.entries[i]) {
				return
			}
			i++
		}
	}
}

func (v *Inventory) find(path string) (int, bool) { return findEntry(v.entries, path) }

func findEntry(entries []Entry, path string) (int, bool) {
	return slices.BinarySearchFunc(entries, path, func(e Entry, p string) int { return cmp.Compare(e.Path, p) })
}

// parentOf gives the directory that holds path; "" is the root.
func parentOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

// Small gives the inventory without what only the full part holds.
func (v *Inventory) Small() *Inventory {
	if v.small {
		return v
	}
	s := &Inventory{small: true, newest: v.newestOf(1<<63 - 1), entries: slices.Clone(v.entries), blobs: v.blobs, passwd: v.passwd, group: v.group}
	forget(s.entries)
	return s
}

// forget takes out what only the full part holds.
func forget(entries []Entry) {
	for i := range entries {
		entries[i].Blob, entries[i].Size, entries[i].Content = -1, 0, [32]byte{}
		if entries[i].Kind != Dir {
			entries[i].Time = 0
		}
	}
}

// Newest gives the newest time of a file or link, in seconds, that is not after
// the limit; 0 for none. Directories do not count, nor what is volatile: nothing
// is made from it. A small inventory knows but one, which may be after the limit;
// then it gives the limit.
func (v *Inventory) Newest(limit int64) int64 {
	return min(max(v.newest, v.newestOf(limit)), limit)
}

func (v *Inventory) newestOf(limit int64) int64 {
	newest := int64(0)
	for i := range v.entries {
		if e := &v.entries[i]; e.Kind != Dir && e.Time > newest && e.Time <= limit && Lasting(e.Path) {
			newest = e.Time
		}
	}
	return newest
}
