package source

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Kind is what an entry is.
type Kind uint8

// The kinds of entries. There are no sockets: BuildKit's transfer turns them
// into empty files, and so does this package.
const (
	File Kind = iota
	Dir
	Symlink
	FIFO
	CharDevice
	BlockDevice
)

// String gives the kind in a word.
func (k Kind) String() string {
	return [...]string{"file", "dir", "link", "fifo", "char", "block"}[k]
}

// Entry is one file, folder or link that an instruction takes. The owner is left
// out: COPY sets it.
type Entry struct {
	// Path is relative to the context, with slashes, named as the pattern named
	// it: content of a linked folder is below the link's name. The context's
	// root is ".".
	Path string
	Kind Kind
	// Mode has the permissions with setuid 04000, setgid 02000, sticky 01000.
	// A folder that is itself the source of a COPY has 0755, since COPY takes
	// its content and not its mode.
	Mode   uint32
	Size   int64         // of files, in bytes
	Digest digest.Digest // of files: sha256 of the content
	Link   string        // of links: the target as it stands in the link
	Major  uint32        // of devices
	Minor  uint32        // of devices
	// Xattrs holds the extended attributes of the user namespace. A bind mount
	// shows them; an image layer does not keep them. Those of other namespaces
	// (capabilities, labels) do not survive BuildKit's transfer.
	Xattrs map[string]string
	// HardlinkOf is the Path of the first entry of the same source that shares
	// this file's content on disk: BuildKit keeps hard links inside of one
	// copied folder, and breaks them between sources.
	HardlinkOf string

	// Modified is the time on disk, of links their own, in ns since 1970; 0 in a
	// tree that is not on disk. It is part of no digest and of no key: a
	// checkout sets it to whenever it was made.
	Modified int64
	// Real is the path in the context that Path leads to, links resolved; ""
	// when it is Path.
	Real string

	// Inode is the file's path in an image, links resolved, for trees over an
	// inventory; "" in a build context and for the root.
	Inode string

	Source string // the pattern that took the entry
	// Match is the path that the pattern matched: this entry's own, or the
	// folder above it. Rel is the path below Match, "" for the match itself.
	// A COPY puts Rel below its target if MatchDir, else the last element of
	// Match into or onto the target.
	Match    string
	Rel      string
	MatchDir bool
	// Index counts the matches of a selection in the order in which they are
	// copied: where two land on one path, the higher one wins.
	Index int
	// Implied marks a folder that is there only because something in it was
	// taken (--parents, --exclude with an exception). It is made with this mode
	// where it is missing, and keeps its owner where it is there.
	Implied bool
}

// treeVersion stands at the start of what is hashed; a change of the encoding
// changes it.
const treeVersion = "strata.tree.v1"

// TreeDigest gives one digest for entries in their order. Two lists have the
// same digest only if paths, kinds, modes, sizes, contents, links, devices and
// attributes are the same; times don't count.
func TreeDigest(entries []Entry) digest.Digest {
	e := encoder{h: sha256.New()}
	e.text(treeVersion)
	for i := range entries {
		e.entry(&entries[i])
		e.flush()
	}
	e.flush()
	return digest.NewDigest(digest.SHA256, e.h)
}

// encoder writes fields so that no two sequences of fields give the same
// bytes: numbers are varints, texts have their length before them.
type encoder struct {
	h   hash.Hash
	buf []byte
}

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) number(n uint64) { e.buf = binary.AppendUvarint(e.buf, n) }

func (e *encoder) flush() {
	e.h.Write(e.buf)
	e.buf = e.buf[:0]
}

func (e *encoder) entry(n *Entry) {
	e.text(n.Path)
	e.number(uint64(n.Kind))
	e.number(uint64(n.Mode))
	e.number(uint64(n.Size))
	e.text(string(n.Digest))
	e.text(n.Link)
	e.number(uint64(n.Major))
	e.number(uint64(n.Minor))
	e.text(n.HardlinkOf)
	implied := uint64(0)
	if n.Implied {
		implied = 1
	}
	e.number(implied)
	e.number(uint64(len(n.Xattrs)))
	for _, k := range slices.Sorted(maps.Keys(n.Xattrs)) {
		e.text(k)
		e.text(n.Xattrs[k])
	}
}
