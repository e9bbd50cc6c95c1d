//go:build linux

package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdShape prints which values a JSON text has, a line each, without the
// values: shape FILE.
func cmdShape(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "shape FILE")
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	seen := map[string]bool{}
	shape(v, "", seen)
	for _, line := range slices.Sorted(maps.Keys(seen)) {
		fmt.Fprintln(ts.Stdout(), line)
	}
}

func shape(v any, at string, seen map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			shape(value, at+"."+name, seen)
		}
	case []any:
		seen[at+"[]"] = true
		for _, value := range v {
			shape(value, at+"[]", seen)
		}
	case nil:
		seen[at+" null"] = true
	default:
		seen[fmt.Sprintf("%s %T", at, v)] = true
	}
}

// cmdLayout checks that a tar archive is a whole OCI image layout, and prints
// its platform, the image's config and the files of its layers: layout FILE.
func cmdLayout(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "layout FILE")
	files := map[string][]byte{}
	r := tar.NewReader(strings.NewReader(ts.ReadFile(args[0])))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		files[h.Name], err = io.ReadAll(r)
		ts.Check(err)
	}
	var layout ocispec.ImageLayout
	ts.Check(json.Unmarshal(files["oci-layout"], &layout))
	if layout.Version != "1.0.0" {
		ts.Fatalf("the layout's version is %q", layout.Version)
	}
	var index ocispec.Index
	ts.Check(json.Unmarshal(files["index.json"], &index))
	l := layoutReader{ts, files}
	for _, d := range index.Manifests {
		l.image(d)
	}
}

type layoutReader struct {
	ts    *testscript.TestScript
	files map[string][]byte
}

// blob gives a blob of the layout, checked against its descriptor.
func (l layoutReader) blob(d ocispec.Descriptor) []byte {
	data, ok := l.files["blobs/sha256/"+d.Digest.Encoded()]
	if !ok || int64(len(data)) != d.Size || digest.FromBytes(data) != d.Digest {
		l.ts.Fatalf("the blob %s of %d bytes is missing or broken", d.Digest, d.Size)
	}
	return data
}

func (l layoutReader) image(d ocispec.Descriptor) {
	var m ocispec.Manifest
	l.ts.Check(json.Unmarshal(l.blob(d), &m))
	config := l.blob(m.Config)
	var image ocispec.Image
	l.ts.Check(json.Unmarshal(config, &image))
	w := l.ts.Stdout()
	fmt.Fprintf(w, "image %s for %s/%s\n", d.Annotations[ocispec.AnnotationRefName], d.Platform.OS, d.Platform.Architecture)
	fmt.Fprintf(w, "config %s\n", config)
	if len(image.RootFS.DiffIDs) != len(m.Layers) {
		l.ts.Fatalf("%d layers have %d diff IDs", len(m.Layers), len(image.RootFS.DiffIDs))
	}
	for i, d := range m.Layers {
		plain := unpacked(l.blob(d))
		if digest.FromBytes(plain) != image.RootFS.DiffIDs[i] {
			l.ts.Fatalf("layer %d is not what its diff ID says", i)
		}
		r := tar.NewReader(bytes.NewReader(plain))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			l.ts.Check(err)
			data, err := io.ReadAll(r)
			l.ts.Check(err)
			fmt.Fprintf(w, "file %q %04o %d:%d %q\n", h.Name, h.Mode, h.Uid, h.Gid, data[:min(len(data), 80)])
		}
	}
}

// unpacked gives the content of what may be compressed by gzip or zstd.
func unpacked(data []byte) []byte {
	if r, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		if plain, err := io.ReadAll(r); err == nil {
			return plain
		}
	}
	if r, err := zstd.NewReader(bytes.NewReader(data)); err == nil {
		defer r.Close()
		if plain, err := io.ReadAll(r); err == nil {
			return plain
		}
	}
	return data
}

// cmdHolds says whether a text stands in any file below a folder, compressed
// files unpacked: holds FOLDER TEXT.
func cmdHolds(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, len(args) == 2, "holds FOLDER TEXT")
	var found []string
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(data, []byte(args[1])) || bytes.Contains(unpacked(data), []byte(args[1])) {
			found = append(found, path)
		}
		return nil
	}))
	if neg && len(found) > 0 {
		ts.Fatalf("%q stands in %s", args[1], strings.Join(found, ", "))
	}
	if !neg && len(found) == 0 {
		ts.Fatalf("%q stands in no file below %s", args[1], args[0])
	}
}
