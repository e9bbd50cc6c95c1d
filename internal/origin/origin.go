// Package origin brings the files that COPY --from takes from images.
//
// It takes an image's full inventory, what opens the image's layers, and the
// instructions, and gives the files in the form in which package image appends
// them, with owner, capabilities and hard links as BuildKit's copy keeps them.
// Only the layers that hold wanted files are read, each once; their contents are
// verified and kept in memory or in one temporary file until [Set.Close].
package origin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/source"
)

// Image is what files are taken from.
type Image struct {
	Name   string // for messages
	Digest digest.Digest
	Files  *inventory.Inventory // full
	Layers []inventory.Layer    // as many as the inventory has blobs
}

// Set is the images that the instructions of one tail take files from.
type Set struct {
	images map[digest.Digest]*origin
	order  []*origin
	spool  spool
}

// origin is one of the images. Its files are selected for all instructions of
// the tail before any is fetched, so that each of its layers is read once.
type origin struct {
	Image
	tree   *source.Tree
	wanted map[int]map[string]*inventory.Entry // by layer and path in the image
	names  map[string]string                   // of hard links: the name of the file in its layer
	taken  []taken
}

// taken is what one instruction takes: files[i] stands for entries[i].
type taken struct {
	entries []source.Entry
	files   []image.File
}

// NewSet gives a set without images. Contents too large for memory are kept in
// a file in dir, which is made; "" is the system's folder for such files.
func NewSet(dir string) *Set {
	return &Set{images: map[digest.Digest]*origin{}, spool: spool{dir: dir}}
}

// Close lets go of the contents.
func (s *Set) Close() { s.spool.close() }

// Take gives the files that a COPY --from of the image takes. Their contents are
// there, and hard links are marked, once [Set.Fetch] was called. An error that is
// an [*image.NotExact] means that only an engine can tell.
func (s *Set) Take(ctx context.Context, img Image, command instructions.Command) ([]image.File, error) {
	c, ok := command.(*instructions.CopyCommand)
	if !ok {
		return nil, inexact("%s takes no files from an image", command.Name())
	}
	o, err := s.origin(img)
	if err != nil {
		return nil, err
	}
	entries, err := o.tree.Select(ctx, source.Selection{Patterns: c.SourcePaths, Excludes: c.ExcludePatterns, Parents: c.Parents})
	var none *source.NoMatchError
	switch {
	case errors.As(err, &none):
		return nil, inexact("%q is not in %s", none.Pattern, img.Name)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, inexact("copying from %s: %s", img.Name, err)
	}
	out := Files(entries)
	for i, e := range entries {
		if err := o.complete(&out[i], e); err != nil {
			return nil, err
		}
		out[i].Open = s.spool.opener(e.Digest)
	}
	o.taken = append(o.taken, taken{entries, out})
	return out, nil
}

func inexact(format string, args ...any) error {
	return &image.NotExact{Reason: fmt.Sprintf(format, args...)}
}

func (s *Set) origin(img Image) (*origin, error) {
	if o := s.images[img.Digest]; o != nil {
		return o, nil
	}
	if len(img.Layers) != len(img.Files.Blobs()) {
		return nil, inexact("the inventory of %s is another image's", img.Name)
	}
	tree, err := source.FromInventory(img.Files)
	if err != nil {
		return nil, err
	}
	o := &origin{Image: img, tree: tree, wanted: map[int]map[string]*inventory.Entry{}, names: map[string]string{}}
	s.images[img.Digest], s.order = o, append(s.order, o)
	return o, nil
}

// complete adds what only an image's file has, and notes where its content is.
func (o *origin) complete(f *image.File, e source.Entry) error {
	at := o.Files.Lookup(e.Inode)
	f.UID, f.GID, f.Time = at.UID, at.GID, at.Time
	for name, value := range at.Xattrs {
		switch {
		case name == "security.capability":
			f.Capability = value
		case !strings.HasPrefix(name, "user."): // those are copied, but no layer keeps them
			return inexact("%q of %s has the attribute %s", "/"+e.Inode, o.Name, name)
		}
	}
	if e.Kind != source.File {
		return nil
	}
	if at.Blob < 0 || at.Blob >= len(o.Layers) {
		return inexact("which layer of %s holds %q is not known", o.Name, "/"+e.Inode)
	}
	if o.wanted[at.Blob] == nil {
		o.wanted[at.Blob] = map[string]*inventory.Entry{}
	}
	o.wanted[at.Blob][at.Path] = &at
	return nil
}

// Fetch reads the layers that hold what was taken, and no others.
func (s *Set) Fetch(ctx context.Context) error {
	var size int64
	for _, o := range s.order {
		for _, files := range o.wanted {
			for _, e := range files {
				size += e.Size
			}
		}
	}
	if err := s.spool.prepare(size); err != nil {
		return fmt.Errorf("making room for %d bytes of files: %w", size, err)
	}
	for _, o := range s.order {
		for _, blob := range slices.Sorted(maps.Keys(o.wanted)) {
			if err := s.fetchLayer(ctx, o, blob); err != nil {
				return fmt.Errorf("fetching files of %s: %w", o.Name, err)
			}
		}
		for _, t := range o.taken {
			o.markHardlinks(t)
		}
	}
	return nil
}

func (s *Set) fetchLayer(ctx context.Context, o *origin, blob int) error {
	want := slices.Collect(maps.Values(o.wanted[blob]))
	picked, err := inventory.Pick(ctx, o.Layers[blob], want, s.spool.put)
	if err != nil {
		return err
	}
	if len(picked.Missing) > 0 {
		return inexact("the layer that brought %q does not hold its content", "/"+slices.Min(picked.Missing))
	}
	maps.Copy(o.names, picked.Names)
	return nil
}

// inode is what two hard links share.
type inode struct {
	blob    int
	name    string
	content [32]byte
	match   int
}

// markHardlinks notes which files of one copied folder are the same file.
func (o *origin) markHardlinks(t taken) {
	first := map[inode]string{}
	for i, e := range t.entries {
		if e.Kind != source.File || e.Rel == "" {
			continue
		}
		at := o.Files.Lookup(e.Inode)
		id := inode{at.Blob, at.Path, at.Content, e.Index}
		if name, ok := o.names[at.Path]; ok {
			id.name = name
		}
		if path, ok := first[id]; ok {
			t.files[i].HardlinkOf = path
		} else {
			first[id] = e.Path
		}
	}
}

var kinds = map[source.Kind]inventory.Kind{
	source.File: inventory.File, source.Dir: inventory.Dir, source.Symlink: inventory.Symlink,
	source.FIFO: inventory.Fifo, source.CharDevice: inventory.Char, source.BlockDevice: inventory.Block,
}

// Files gives selected files in the form in which they are appended.
func Files(entries []source.Entry) []image.File {
	out := make([]image.File, len(entries))
	for i, e := range entries {
		out[i] = image.File{
			Path: e.Path, Kind: kinds[e.Kind], Mode: e.Mode, Size: e.Size, Digest: e.Digest, Link: e.Link,
			Major: int64(e.Major), Minor: int64(e.Minor), HardlinkOf: e.HardlinkOf, Match: e.Match, Rel: e.Rel,
			MatchDir: e.MatchDir, Index: e.Index, Implied: e.Implied,
		}
	}
	return out
}
