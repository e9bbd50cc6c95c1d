//go:build linux

package times

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// entry is one file as a layer's archive has it.
type entry struct {
	path  string
	kind  byte // of package tar; a hard link is its target
	mode  int64
	sec   int64
	size  int64
	sum   string // of the content, without the time that a .pyc holds; of a link its target
	text  string // the content of a small file
	pyc   *pyc
	layer int // of the picture
}

// pyc is what a compiled Python file says of its source.
type pyc struct{ flags, sec, size uint32 }

// layer is what one archive says.
type layer struct {
	entries  []*entry // in the archive's order
	removed  []string
	emptied  []string // folders of which nothing below is left
	danglers map[string]string
}

// picture is an image with its layers applied.
type picture struct {
	digest   digest.Digest
	ref      registry.Ref
	body     []byte
	manifest ocispec.Manifest
	config   ocispec.Image
	layers   []*layer
	commands []string // created_by of each layer
	files    map[string]*entry
}

// layers that were read, by digest: bases are large, and in every image.
var layersRead sync.Map

const smallFile = 64 << 10

// readPicture reads an image's layers from a registry.
func readPicture(ctx context.Context, c *registry.Client, ref registry.Ref, body []byte) (*picture, error) {
	p := &picture{digest: digest.FromBytes(body), ref: ref, body: body, files: map[string]*entry{}}
	if err := json.Unmarshal(body, &p.manifest); err != nil {
		return nil, err
	}
	config, err := c.ReadBlob(ctx, ref, p.manifest.Config)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &p.config); err != nil {
		return nil, err
	}
	for _, h := range p.config.History {
		if !h.EmptyLayer {
			p.commands = append(p.commands, h.CreatedBy)
		}
	}
	if len(p.commands) != len(p.manifest.Layers) {
		return nil, fmt.Errorf("the history of %s names %d layers, there are %d", p.digest, len(p.commands), len(p.manifest.Layers))
	}
	for _, d := range p.manifest.Layers {
		l, ok := layersRead.Load(d.Digest)
		if !ok {
			data, err := c.ReadBlob(ctx, ref, d)
			if err != nil {
				return nil, err
			}
			read, err := readLayer(data)
			if err != nil {
				return nil, fmt.Errorf("reading layer %s: %w", d.Digest, err)
			}
			l, _ = layersRead.LoadOrStore(d.Digest, read)
		}
		p.apply(l.(*layer))
	}
	return p, nil
}

func readLayer(data []byte) (*layer, error) {
	plain, done, err := inventory.Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer done()
	l := &layer{danglers: map[string]string{}}
	here := map[string]*entry{}
	tr := tar.NewReader(plain)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		p := strings.TrimPrefix(path.Clean("/"+hdr.Name), "/")
		dir, name := path.Split(p)
		dir = strings.TrimSuffix(dir, "/")
		switch {
		case name == ".wh..wh..opq":
			l.emptied = append(l.emptied, dir)
			continue
		case strings.HasPrefix(name, ".wh."):
			l.removed = append(l.removed, path.Join(dir, strings.TrimPrefix(name, ".wh.")))
			continue
		case p == "":
			continue
		}
		e := &entry{path: p, kind: hdr.Typeflag, mode: hdr.Mode, sec: hdr.ModTime.Unix(), size: hdr.Size}
		switch hdr.Typeflag {
		case tar.TypeReg:
			if err := e.read(tr); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			e.sum = "-> " + hdr.Linkname
		case tar.TypeLink:
			target := strings.TrimPrefix(path.Clean("/"+hdr.Linkname), "/")
			if of := here[target]; of != nil {
				linked := *of
				linked.path = p
				e = &linked
			} else {
				l.danglers[p] = target
			}
		}
		here[p] = e
		l.entries = append(l.entries, e)
	}
}

// read takes an entry's content.
func (e *entry) read(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if strings.HasSuffix(e.path, ".pyc") && len(data) >= 16 {
		e.pyc = &pyc{binary.LittleEndian.Uint32(data[4:]), binary.LittleEndian.Uint32(data[8:]), binary.LittleEndian.Uint32(data[12:])}
		if e.pyc.flags == 0 {
			data = slices.Concat(data[:8], []byte{0, 0, 0, 0}, data[12:])
		}
	}
	sum := sha256.Sum256(data)
	e.sum = hex.EncodeToString(sum[:])
	if len(data) <= smallFile {
		e.text = string(data)
	}
	return nil
}

// apply puts a layer on top.
func (p *picture) apply(l *layer) {
	n := len(p.layers)
	p.layers = append(p.layers, l)
	below := func(dir string) {
		for f := range p.files {
			if dir == "" || strings.HasPrefix(f, dir+"/") {
				delete(p.files, f)
			}
		}
	}
	for _, f := range l.removed {
		delete(p.files, f)
		below(f)
	}
	for _, dir := range l.emptied {
		below(dir)
	}
	for _, e := range l.entries {
		if old := p.files[e.path]; old != nil && old.kind == tar.TypeDir && e.kind != tar.TypeDir {
			below(e.path)
		}
		put := *e
		if target, ok := l.danglers[e.path]; ok && p.files[target] != nil {
			put = *p.files[target]
			put.path = e.path
		}
		put.layer = n
		p.files[e.path] = &put
	}
}

// source is the path of the Python file that a .pyc was compiled from; "" when
// its name does not say.
func source(p string) string {
	dir, name := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	if path.Base(dir) != "__pycache__" {
		return ""
	}
	module, _, ok := strings.Cut(name, ".cpython-")
	if !ok {
		return ""
	}
	return path.Join(path.Dir(dir), module+".py")
}
