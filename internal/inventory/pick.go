package inventory

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
)

// Picked is what [Pick] found out.
type Picked struct {
	// Names gives, for each wanted file that the layer holds as a hard link, the
	// name under which the layer holds the content. Files with the same name are
	// one file.
	Names map[string]string
	// Missing are the wanted files whose content is not in the layer: they are
	// hard links to what a lower layer holds.
	Missing []string
}

// Pick streams a layer until the content of every wanted file was seen. Wanted
// are regular files of the image's inventory that this layer brought. Each
// content is handed to take with the digest that it has to have, and once more
// if what was handed before did not have it. What is handed last is verified,
// but for missing files; two files with one content are handed once.
//
// The layer is opened a second time only for a hard link to a file that is not
// wanted itself and stands before the link.
func Pick(ctx context.Context, layer Layer, want []*Entry, take func(content [32]byte, r io.Reader) error) (*Picked, error) {
	p := &picker{take: take, files: map[string]*Entry{}, links: map[string]string{}, seen: map[string]bool{}, taken: map[[32]byte]bool{}}
	for _, e := range want {
		p.files[e.Path] = e
	}
	for range 2 {
		if err := p.read(ctx, layer); err != nil {
			return nil, fmt.Errorf("reading layer %s: %w", layer.Blob, err)
		}
		if !p.follow() {
			break
		}
	}
	out := &Picked{Names: map[string]string{}}
	for _, e := range want {
		if name, ok := p.links[e.Path]; ok {
			out.Names[e.Path] = name
		}
		if !p.taken[e.Content] {
			out.Missing = append(out.Missing, e.Path)
		}
	}
	return out, nil
}

// picker is one [Pick] at work.
type picker struct {
	take  func(content [32]byte, r io.Reader) error
	files map[string]*Entry // what is still looked for, by the name in the layer
	links map[string]string // hard links to the names of what they lead to
	seen  map[string]bool   // of files: what is known of them is final
	taken map[[32]byte]bool
}

// follow looks for the targets of links in place of the links whose content is
// missing. It reports whether there are any.
func (p *picker) follow() bool {
	targets := map[string]*Entry{}
	for path, e := range p.files {
		if at, ok := p.links[path]; ok && !p.taken[e.Content] {
			targets[at] = e
		}
	}
	p.files, p.seen = targets, map[string]bool{}
	return len(targets) > 0
}

func (p *picker) read(ctx context.Context, layer Layer) error {
	blob, err := layer.Open()
	if err != nil {
		return err
	}
	defer blob.Close()
	plain, closePlain, err := decompress(&contextReader{ctx, blob})
	if err != nil {
		return err
	}
	defer closePlain()
	tr := tar.NewReader(plain)
	for len(p.seen) < len(p.files) {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = p.entry(hdr, tr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *picker) entry(hdr *tar.Header, content io.Reader) error {
	path, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	e := p.files[path]
	switch hdr.Typeflag {
	case tar.TypeLink:
		target, err := cleanName(hdr.Linkname)
		if err != nil {
			return err
		}
		if first, ok := p.links[target]; ok {
			target = first
		}
		p.links[path] = target
		if at := p.files[target]; e != nil && (at == nil || at.Content == e.Content) {
			p.seen[path] = true
		}
		return nil
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		delete(p.links, path)
		if e == nil || hdr.Size != e.Size {
			return nil
		}
	default:
		return nil
	}
	if p.taken[e.Content] {
		p.seen[path] = true
		return nil
	}
	h := sha256.New()
	r := io.TeeReader(content, h)
	if err := p.take(e.Content, r); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if [32]byte(h.Sum(nil)) == e.Content {
		p.taken[e.Content], p.seen[path] = true, true
	}
	return nil
}
