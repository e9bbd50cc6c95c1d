package inventory

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// MediaTypeTrace is that of a coded [Trace].
const MediaTypeTrace = "application/vnd.strata.trace.v1+zstd"

// Trace is what an inventory does not tell of how an image stands on its base:
// what the image's own layers did on the way, and the contents of a few files
// that a change of the base may have to be merged with. It is immutable.
type Trace struct {
	Blobs   []digest.Digest   // the own layers, bottom first
	Touched []string          // paths that they wrote, removed or linked to, and that are not their own in the end
	Hidden  []string          // paths below which nothing of the base can be seen through them
	Files   map[string][]byte // contents by path; see [Kept]
	Merge   *Merge            // of the last own layer, where a rebase made it; nil otherwise
}

// Merge says that a layer holds nothing but what a rebase had to merge, so that
// the next one can make another in its place.
type Merge struct {
	Gone []string `json:"gone"` // paths that it takes away
}

// Kept says whether a file's content is kept in a trace: package databases and
// what package managers change along with them, so that merging them does not
// take reading the layers.
func Kept(p string) bool {
	switch p {
	case "etc/ld.so.cache", "etc/apk/world", "var/lib/apt/extended_states",
		"var/cache/debconf/config.dat", "var/cache/debconf/templates.dat":
		return true
	}
	dir, name, ok := strings.Cut(p, "lib/apk/db/")
	if ok && (dir == "" || dir == "usr/") {
		return !strings.Contains(name, "/")
	}
	name, ok = strings.CutPrefix(p, "var/lib/dpkg/")
	return ok && (name == "status" || name == "diversions" || name == "statoverride" || strings.HasPrefix(name, "triggers/"))
}

// maxKept bounds the size of a kept file. The status file of an image with
// 2,000 Debian packages has 2 MB.
const maxKept = 8 << 20

// FromLayersTraced is [FromLayers], and says what the layers did.
func FromLayersTraced(ctx context.Context, base *Inventory, layers []Layer) (*Inventory, *Trace, error) {
	if base == nil {
		base = Empty()
	}
	v, lists, err := fromLayers(ctx, base, layers)
	if err != nil {
		return nil, nil, err
	}
	return v, traceOf(len(base.blobs), v, lists), nil
}

// traceOf gathers what the layers from number n on did that does not show in the
// inventory that they lead to.
func traceOf(n int, v *Inventory, lists []*layerList) *Trace {
	t := &Trace{Blobs: slices.Clone(v.blobs[n:]), Files: map[string][]byte{}}
	touched, hidden := map[string]bool{}, map[string]bool{}
	for _, l := range lists {
		for i := range l.entries {
			e := &l.entries[i]
			p := e.Path
			at := v.Lookup(p)
			if at.Kind == None || at.Blob < n {
				touched[p] = true
			}
			if e.Kind != Dir && at.Kind == Dir {
				hidden[p] = true
			}
		}
		for _, p := range l.links {
			touched[p] = true
		}
		for p := range l.whiteouts {
			touched[p], hidden[p] = true, true
		}
		for p := range l.opaques {
			hidden[p] = true
		}
		for sum, data := range l.accounts {
			for _, p := range l.kept[sum] {
				if e := v.Lookup(p); e.Kind == File && e.Content == sum {
					t.Files[p] = data
				}
			}
		}
	}
	t.Touched, t.Hidden = slices.Sorted(maps.Keys(touched)), slices.Sorted(maps.Keys(hidden))
	return t
}

// Join gives the trace of what stands on the layers of a trace: those of both.
func (t *Trace) Join(upper *Trace) *Trace {
	out := &Trace{Blobs: append(slices.Clone(t.Blobs), upper.Blobs...), Files: maps.Clone(t.Files), Merge: upper.Merge}
	if out.Files == nil {
		out.Files = map[string][]byte{}
	}
	maps.Copy(out.Files, upper.Files)
	out.Touched = union(t.Touched, upper.Touched)
	out.Hidden = union(t.Hidden, upper.Hidden)
	return out
}

func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// traceHead is the first member of a coded trace.
type traceHead struct {
	Version int             `json:"version"`
	Blobs   []digest.Digest `json:"blobs"`
	Touched []string        `json:"touched,omitempty"`
	Hidden  []string        `json:"hidden,omitempty"`
	Merge   *Merge          `json:"merge,omitempty"`
}

const (
	traceHeadName = "trace.json"
	traceFiles    = "files/"
	maxTrace      = 256 << 20 // unpacked
)

// Encode writes the trace: a tar archive of the head and the files, compressed
// by zstd. The same trace gives the same bytes.
func (t *Trace) Encode(w io.Writer) error {
	head, err := json.Marshal(traceHead{1, t.Blobs, t.Touched, t.Hidden, t.Merge})
	if err != nil {
		return fmt.Errorf("encoding a trace: %w", err)
	}
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	put := func(name string, data []byte) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	err = put(traceHeadName, head)
	for _, p := range slices.Sorted(maps.Keys(t.Files)) {
		if err == nil {
			err = put(traceFiles+p, t.Files[p])
		}
	}
	if err = errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("encoding a trace: %w", err)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("encoding a trace: %w", err)
	}
	defer z.Close()
	_, err = w.Write(z.EncodeAll(plain.Bytes(), nil))
	return err
}

// DecodeTrace reads a coded trace.
func DecodeTrace(r io.Reader) (*Trace, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxTrace), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("decoding a trace: %w", err)
	}
	defer z.Close()
	t, err := readTrace(io.LimitReader(z, maxTrace))
	if err != nil {
		return nil, fmt.Errorf("decoding a trace: %w", err)
	}
	return t, nil
}

func readTrace(r io.Reader) (*Trace, error) {
	tr := tar.NewReader(r)
	var t *Trace
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			if t == nil {
				return nil, errors.New("it has no head")
			}
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if hdr.Size > maxTrace { // a sparse file costs its maker nothing
			return nil, fmt.Errorf("%q has %d bytes", hdr.Name, hdr.Size)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		name, isFile := strings.CutPrefix(hdr.Name, traceFiles)
		switch {
		case t == nil:
			var head traceHead
			if hdr.Name != traceHeadName {
				return nil, fmt.Errorf("it begins with %q", hdr.Name)
			}
			if err := json.Unmarshal(data, &head); err != nil {
				return nil, err
			}
			if head.Version != 1 {
				return nil, fmt.Errorf("its version is %d", head.Version)
			}
			t = &Trace{Blobs: head.Blobs, Touched: head.Touched, Hidden: head.Hidden, Merge: head.Merge, Files: map[string][]byte{}}
		case isFile && cleanPath(name):
			t.Files[name] = data
		default:
			return nil, fmt.Errorf("it holds %q", hdr.Name)
		}
	}
}
