package strata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/packages"
	"github.com/strata-build/strata/internal/registry"
)

// maxContent bounds one file that is held in memory: package databases of large
// images are about 10 MB.
const maxContent = 128 << 20

// contentsOf gives the contents of files of an image by the names that are asked
// for. Links are followed inside of the image; what does not exist is not in the
// answer; what is no regular file is an error. The inventory has to be full.
// Only the layers that hold a file are read, no further than that, and what is
// given was verified.
func contentsOf(ctx context.Context, c *registry.Client, img *picture, inv *inventory.Inventory, names []string) (map[string][]byte, error) {
	want, at := map[int][]*inventory.Entry{}, map[string]*inventory.Entry{}
	for _, name := range names {
		e, err := fileAt(img, inv, name)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		at[name] = e
		if !slices.ContainsFunc(want[e.Blob], func(o *inventory.Entry) bool { return o.Path == e.Path }) {
			want[e.Blob] = append(want[e.Blob], e)
		}
	}
	var mu sync.Mutex
	contents := map[[32]byte][]byte{}
	err := each(ctx, want, 4, func(ctx context.Context, blob int, files []*inventory.Entry) error {
		l := img.manifest.Layers[blob]
		layer := inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, Open: func() (io.ReadCloser, error) { return c.Blob(ctx, img.ref, l) }}
		picked, err := inventory.Pick(ctx, layer, files, func(content [32]byte, r io.Reader) error {
			data, err := io.ReadAll(r)
			mu.Lock()
			defer mu.Unlock()
			contents[content] = data
			return err
		})
		if err == nil && len(picked.Missing) > 0 {
			err = fmt.Errorf("the layer %s does not hold the content of %q", l.Digest, "/"+picked.Missing[0])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading files of %s: %w", img.desc.Digest, err)
	}
	out := map[string][]byte{}
	for name, e := range at {
		out[name] = contents[e.Content]
	}
	return out, nil
}

// fileAt gives the regular file that a name leads to; nil when there is none.
func fileAt(img *picture, inv *inventory.Inventory, name string) (*inventory.Entry, error) {
	if !inv.Full() || !inv.Describes(img.layerDigests()) {
		return nil, fmt.Errorf("reading files of %s: %w", img.desc.Digest, inventory.ErrNeedFull)
	}
	path, err := inv.ResolveInRoot(name)
	if errors.Is(err, inventory.ErrNotDir) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := inv.Lookup(path)
	switch {
	case e.Kind == inventory.None:
		return nil, nil
	case e.Kind != inventory.File:
		return nil, fmt.Errorf("reading %q of %s: it is a %s", "/"+path, img.desc.Digest, e.Kind)
	case e.Size > maxContent:
		return nil, fmt.Errorf("reading %q of %s: %d bytes are too many to hold in memory", "/"+path, img.desc.Digest, e.Size)
	case e.Blob < 0 || e.Blob >= len(img.manifest.Layers):
		return nil, fmt.Errorf("reading %q of %s: which layer holds it is not known", "/"+path, img.desc.Digest)
	}
	return &e, nil
}

// installed is what an image's package database says.
type installed struct {
	db     *packages.DB
	unread string // why there is none although there may be packages; "" when it was read, or there is none
}

// readPackages gives what an image has installed. It looks through the layers
// from the top down until it comes to a database, so that no more of an image is
// pulled than that. The answer belongs to the digest and is kept.
func readPackages(ctx context.Context, c Config, img *picture) (installed, error) {
	file := ""
	if c.Cache != "" {
		file = filepath.Join(c.Cache, "packages", img.desc.Digest.Encoded()+".json")
		if kept, ok := keptPackages(file); ok {
			return kept.read()
		}
	}
	found, err := findDatabases(ctx, c.Client, img)
	if err != nil {
		return installed{}, fmt.Errorf("reading the packages of %s: %w", img.desc.Digest, err)
	}
	if file != "" {
		if data, err := json.Marshal(found); err == nil {
			_ = WriteFile(file, data) // only a cache
		}
	}
	return found.read()
}

// databases are the package databases of an image, as they are.
type databases struct {
	Files map[string][]byte `json:"files"`
	Rpm   bool              `json:"rpm,omitempty"`
}

func keptPackages(file string) (databases, bool) {
	var kept databases
	data, err := os.ReadFile(file)
	return kept, err == nil && json.Unmarshal(data, &kept) == nil && kept.Files != nil
}

func (d databases) read() (installed, error) {
	var in installed
	var all []*packages.DB
	for _, path := range slices.Sorted(maps.Keys(d.Files)) {
		kind, _ := packages.Recognise(path)
		db, err := packages.Parse(kind, d.Files[path])
		if err != nil {
			return installed{unread: fmt.Sprintf("not read: /%s: %v", path, err)}, nil
		}
		if len(all) > 0 && all[0].Kind != db.Kind {
			return installed{unread: "not read: the databases of two package managers"}, nil
		}
		all = append(all, db)
	}
	in.db = packages.Join(all...)
	if d.Rpm {
		in.unread = packages.ErrRpm.Error()
	}
	return in, nil
}

// findDatabases goes through an image's layers from the top.
func findDatabases(ctx context.Context, c *registry.Client, img *picture) (databases, error) {
	out := databases{Files: map[string][]byte{}}
	gone := removed{paths: map[string]bool{}, below: map[string]bool{}}
	for _, l := range slices.Backward(img.manifest.Layers) {
		here := removed{paths: map[string]bool{}, below: map[string]bool{}}
		whole := false
		layer := inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, Open: func() (io.ReadCloser, error) { return c.Blob(ctx, img.ref, l) }}
		err := inventory.Scan(ctx, layer, func(s inventory.Seen, content io.Reader) (bool, error) {
			if s.Whiteout {
				here.note(s)
				return true, nil
			}
			kind, ok := packages.Recognise(s.Path)
			_, have := out.Files[s.Path]
			if !ok || have || s.Kind != inventory.File || gone.covers(s.Path) || s.Size == 0 {
				return true, nil
			}
			if kind == packages.Rpm {
				out.Rpm, whole = true, true
				return false, nil
			}
			data, err := readAtMost(content, maxContent)
			out.Files[s.Path] = data
			whole = !strings.HasPrefix(s.Path, packages.DpkgParts+"/")
			return !whole, err
		})
		if err != nil || whole {
			return out, err
		}
		maps.Copy(gone.paths, here.paths)
		maps.Copy(gone.below, here.below)
	}
	return out, nil
}

// removed is what upper layers take away from lower ones.
type removed struct{ paths, below map[string]bool }

func (r removed) note(s inventory.Seen) {
	if s.Opaque {
		r.below[s.Path] = true
	} else {
		r.paths[s.Path] = true
	}
}

func (r removed) covers(path string) bool {
	if r.paths[path] {
		return true
	}
	for {
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return r.below[""]
		}
		path = path[:i]
		if r.paths[path] || r.below[path] {
			return true
		}
	}
}

func readAtMost(r io.Reader, most int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("more than %d bytes are too many to hold in memory", most)
	}
	return b.Bytes(), err
}

// keptLayers gives an image that its own registry has no more from what stands
// on it: the repository of a unit that was built on it has its layers. Nil when
// it does not, or which they are is not known.
func keptLayers(ctx context.Context, c *registry.Client, repo registry.Ref, gone registry.Ref) *picture {
	held, err := keptParts(ctx, c, repo.WithTag(inventoryTag(gone.Digest)))
	if held == nil || err != nil {
		return nil
	}
	inv := decodeInventory(ctx, c, held.ref, held.manifest.Layers[0])
	if inv == nil {
		return nil
	}
	img := &picture{ref: held.ref}
	img.desc.Digest = gone.Digest
	for _, d := range inv.Blobs() {
		img.manifest.Layers = append(img.manifest.Layers, ocispec.Descriptor{Digest: d})
	}
	return img
}
