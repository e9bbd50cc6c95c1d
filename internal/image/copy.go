package image

import (
	"cmp"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/strata-build/strata/internal/inventory"
)

// File is one file that a COPY or ADD takes from a build context or an image, as
// package source selects them: with the pattern's match that it belongs to.
type File struct {
	Path         string // in the context; what the opener is asked for
	Open         Opener // nil: that of the options
	Kind         inventory.Kind
	Mode         uint32 // permission bits and 04000, 02000, 01000
	Size         int64
	Time         int64         // of the last modification, in whole Unix seconds; 0 for a directory that has none
	Modified     int64         // the time on disk of a build context's file, in ns; 0 of an image's
	Digest       digest.Digest // of the content; verified while it is read
	Link         string
	Major, Minor int64
	UID, GID     int    // what it keeps without --chown; 0 in a build context
	Capability   string // security.capability of an image's file
	HardlinkOf   string // Path of the first file of the same match with the same inode
	Match        string // the path that the pattern matched
	Rel          string // below Match; "" for the match itself
	MatchDir     bool   // Match is a directory: Rel goes below the destination
	Index        int    // matches are copied in this order
	Implied      bool   // a directory that is there for what is in it
}

// copying is one COPY or ADD at work: the rules of fsutil's copy package, which
// BuildKit copies with.
type copying struct {
	tree   *tree
	owner  *owner // nil: new directories are root's, files keep theirs
	mode   *uint32
	modes  *mode.Set
	dest   string // absolute; a trailing slash or "/." counts
	unpack bool
	open   Opener
	links  map[string]*node // by path in the context

	archives []*archive // unpacked
}

// chmod reads --chmod.
func (c *copying) chmod(spec string) error {
	if spec == "" {
		return nil
	}
	if m, err := strconv.ParseUint(spec, 8, 32); err == nil {
		if m > 0o7777 {
			return inexact("--chmod=%s is no mode", spec)
		}
		bits := uint32(m)
		c.mode = &bits
		return nil
	}
	if _, err := mode.Parse(spec); err != nil {
		return inexact("--chmod=%s is no mode: %s", spec, err)
	}
	set, err := mode.ParseWithUmask(spec, 0)
	if err != nil {
		return inexact("--chmod=%s is no mode: %s", spec, err)
	}
	c.modes = &set
	return nil
}

// files copies everything that was selected, match by match.
func (c *copying) files(files []File) error {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), strings.Compare(a.Rel, b.Rel))
	})
	for len(files) > 0 {
		n := slices.IndexFunc(files, func(f File) bool { return f.Index != files[0].Index })
		if n < 0 {
			n = len(files)
		}
		if err := c.match(files[:n]); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// match copies one match of a pattern: a file, or a directory's content.
func (c *copying) match(files []File) error {
	top := files[0]
	if top.Rel != "" {
		return inexact("the selection of %q lacks the match itself", top.Match)
	}
	if c.unpack && top.Kind == inventory.File {
		if done, err := c.tryUnpack(top); done || err != nil {
			return err
		}
	}
	target, err := c.prepare(path.Base(path.Join("/", top.Match)), top.MatchDir)
	if err != nil {
		return err
	}
	c.links = map[string]*node{}
	if !top.MatchDir {
		return c.entry(target, top)
	}
	if n := c.tree.at(target); n == nil || n.kind != inventory.Dir {
		return inexact("a directory can't be copied onto the %s %q", kindAt(n), "/"+target)
	}
	for _, f := range files[1:] {
		if err := c.entry(join(target, f.Rel), f); err != nil {
			return err
		}
	}
	for _, f := range files {
		if f.Kind == inventory.Dir && !f.Implied {
			c.tree.date(join(target, f.Rel), dirStamp(f))
		}
	}
	return nil
}

// dirStamp gives the time of a directory that is copied.
func dirStamp(f File) stamp {
	if path.Clean(f.Path) == "." { // the root of a context or an image
		return stamp{}
	}
	return fileStamp(f)
}

// fileStamp gives the time of what is copied. That of a file of an image is its
// own; that of a build context's may be published as another.
func fileStamp(f File) stamp {
	s := stampOf(f.Time, f.Kind)
	s.disk = f.Modified
	return s
}

func kindAt(n *node) inventory.Kind {
	if n == nil {
		return inventory.None
	}
	return n.kind
}

// prepare makes the directories that the destination needs and gives the path
// that the source is copied to.
func (c *copying) prepare(name string, dir bool) (string, error) {
	ensure := c.dest
	if d, f := path.Split(c.dest); f != "" && f != "." {
		ensure = d
	}
	if err := c.mkdir(ensure); err != nil {
		return "", err
	}
	target, err := c.tree.resolve(path.Clean(c.dest))
	if err != nil {
		return "", err
	}
	n := c.tree.at(target)
	if !dir && n != nil && n.kind == inventory.Dir {
		target = join(target, name)
	}
	holder := parent(target)
	if dir && n == nil {
		holder = target
	}
	return target, c.tree.mkdirAll(holder, c.dirMode(), c.owner)
}

func (c *copying) mkdir(p string) error {
	at, err := c.tree.resolve(p)
	if err != nil {
		return err
	}
	return c.tree.mkdirAll(at, c.dirMode(), c.owner)
}

// dirMode is the mode of directories on the way to the destination: that of an
// octal --chmod, or 0755.
func (c *copying) dirMode() uint32 {
	if c.mode != nil {
		return *c.mode
	}
	return 0o755
}

// entry copies one entry to its place.
func (c *copying) entry(target string, f File) error {
	old := c.tree.at(target)
	if f.Kind == inventory.Dir {
		return c.dir(target, old, f)
	}
	if old != nil && old.kind == inventory.Dir {
		return inexact("a file can't replace the directory %q", "/"+target)
	}
	if n := c.links[f.HardlinkOf]; f.HardlinkOf != "" && n != nil {
		c.tree.remove(target)
		c.tree.create(target, n)
		return nil
	}
	n := &node{
		kind: f.Kind, mode: c.apply(f.Mode, f.Kind), link: f.Link, major: f.Major, minor: f.Minor, size: f.Size, fresh: true,
		capability: f.Capability, now: fileStamp(f),
	}
	c.own(n, f)
	switch f.Kind {
	case inventory.File:
		n.content = c.content(f)
		c.links[f.Path] = n
	case inventory.Symlink:
		n.mode = 0o777
	}
	c.tree.remove(target)
	c.tree.create(target, n)
	return nil
}

// content gives what a file's bytes are read from.
func (c *copying) content(f File) *contextFile {
	open := c.open
	if f.Open != nil {
		open = f.Open
	}
	return &contextFile{open_: open, path: f.Path, digest: f.Digest}
}

// dir makes a directory below the destination, or gives one that is there the
// source's mode and owner. An implied one keeps its owner.
func (c *copying) dir(target string, old *node, f File) error {
	switch {
	case old == nil:
		old = &node{kind: inventory.Dir, fresh: true}
		c.tree.create(target, old)
	case old.kind != inventory.Dir:
		return inexact("a directory can't be copied onto the %s %q", old.kind, "/"+target)
	default:
		c.tree.remember(target)
		if f.Implied {
			old.mode = f.Mode
			c.tree.put(target, old)
			return nil
		}
	}
	old.mode = c.apply(f.Mode, inventory.Dir)
	c.own(old, f)
	c.tree.put(target, old)
	return nil
}

// own gives a copy its owner: that of --chown, or the source's.
func (c *copying) own(n *node, f File) {
	n.uid, n.gid = f.UID, f.GID
	if c.owner != nil {
		n.uid, n.gid = c.owner.uid, c.owner.gid
	}
}

// apply gives the mode that a copy gets.
func (c *copying) apply(bits uint32, kind inventory.Kind) uint32 {
	switch {
	case c.modes != nil:
		return bitsOf(c.modes.Apply(fileMode(bits, kind)))
	case c.mode != nil:
		return *c.mode
	}
	return bits
}

// text copies a heredoc.
func (c *copying) text(name, data string) error {
	target, err := c.prepare(path.Base(name), false)
	if err != nil {
		return err
	}
	if n := c.tree.at(target); n != nil && n.kind == inventory.Dir {
		return inexact("a file can't replace the directory %q", "/"+target)
	}
	n := &node{kind: inventory.File, mode: c.apply(0o644, inventory.File), size: int64(len(data)), content: literal(data), fresh: true}
	c.own(n, File{})
	c.tree.remove(target)
	c.tree.create(target, n)
	return nil
}

// fileMode turns Unix bits into Go's mode.
func fileMode(bits uint32, kind inventory.Kind) os.FileMode {
	m := os.FileMode(bits & 0o777)
	for bit, flag := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if bits&bit != 0 {
			m |= flag
		}
	}
	if kind == inventory.Dir {
		m |= os.ModeDir
	}
	return m
}

// bitsOf turns Go's mode into Unix bits.
func bitsOf(m os.FileMode) uint32 {
	bits := uint32(m.Perm())
	for bit, flag := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// cleanDest gives a destination relative to the working directory in the form
// in which BuildKit hands it to the copy: absolute, with a trailing slash or
// "/." kept, because they say "a directory".
func cleanDest(workdir, dest string) string {
	if dest == "." || dest == "" {
		dest = "./"
	}
	full := dest
	if !path.IsAbs(dest) {
		full = path.Join("/", workdir, dest)
	}
	clean := path.Join("/", full)
	switch {
	case strings.HasSuffix(dest, "/."):
		return strings.TrimSuffix(clean, "/") + "/."
	case strings.HasSuffix(dest, "/") && clean != "/":
		return clean + "/"
	}
	return clean
}
