package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// imageWith gives an image with a config as somebody else wrote it.
func imageWith(config []byte) (*Image, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
	}}
	m.SchemaVersion = 2
	var c struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	_ = json.Unmarshal(config, &c)
	for _, d := range c.RootFS.DiffIDs {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: dockerLayerGzip, Digest: digest.FromString(string(d)), Size: 4})
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return Parse(body, config)
}

var oddConfigs = []string{
	`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"config":{"Env":["A=b","=","x"],"Labels":{"a":"b"}},"history":[{"empty_layer":true}]}`,
	`{"os":"linux","architecture":"amd64","config":null,"history":null,"rootfs":null}`,
	`{"os":"linux","config":{"Env":null,"Labels":null,"Entrypoint":null,"Volumes":{"/x":null},"OnBuild":["RUN x"],"WorkingDir":"x/../.."},"history":[null]}`,
	`{"config":{"Healthcheck":{"Interval":-1},"ExposedPorts":{"":{}}},"created":"x"}`,
	`{}`, `null`, `[]`, `{"os":1}`, `{"OS":"linux","os":null,"config":{"env":["a"],"Env":["b"]}}`,
}

// No config that somebody wrote makes an append panic, and what comes out of one is
// an image that can be read and appended to again.
func FuzzAppendToConfig(f *testing.F) {
	for _, c := range oddConfigs {
		f.Add([]byte(c))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		img, err := imageWith(config)
		if err != nil {
			return
		}
		inv := inventory.Empty()
		for _, l := range img.Layers() {
			if inv, err = inv.With(l, nil, inventory.Account{}, inventory.Account{}); err != nil {
				return
			}
		}
		for range 2 {
			a, err := Append(img, inv, []Instruction{copyOf("/x/y", File{Path: "x", Match: "x", Kind: inventory.File, Size: 1, Digest: digest.FromString("y")})},
				Options{Open: opening("y"), Labels: map[string]string{"a": "b"}})
			if err != nil {
				return
			}
			b, err := a.WriteBlob(io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			made, err := a.Image(b)
			if err != nil {
				t.Fatal(err)
			}
			if img, err = Parse(made.Body, made.Config); err != nil {
				t.Fatalf("what was made of %s can't be read: %v", config, err)
			}
			if inv, err = a.Inventory(b); err != nil {
				t.Fatal(err)
			}
			var c ocispec.Image
			if err := json.Unmarshal(made.Config, &c); err != nil || c.Config.Labels["a"] != "b" || len(c.RootFS.DiffIDs) != len(img.Manifest.Layers) {
				t.Fatalf("%s: %v", made.Config, err)
			}
		}
	})
}

// No three configs make a merge panic; what is merged with nothing changed is what
// the new parent has.
func FuzzRebaseConfig(f *testing.F) {
	for i, c := range oddConfigs {
		f.Add([]byte(c), []byte(oddConfigs[(i+1)%len(oddConfigs)]), []byte(oddConfigs[0]))
		f.Add([]byte(c), []byte(c), []byte(c))
	}
	f.Fuzz(func(t *testing.T, child, old, next []byte) {
		var images [3]*Image
		for i, text := range [][]byte{child, old, next} {
			img, err := imageWith(text)
			if err != nil {
				return
			}
			images[i] = img
		}
		merged, _, err := rebaseConfig(images[0], images[1], images[2])
		if err != nil {
			return
		}
		data, err := merged.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseConfig(data); err != nil {
			t.Fatalf("what was merged can't be read: %v\n%s", err, data)
		}
		if _, conflicts, err := rebaseConfig(images[1], images[1], images[2]); err == nil && len(conflicts) > 0 {
			t.Errorf("an image without changes has conflicts: %v", conflicts)
		}
	})
}

// addOf is an ADD of an archive to /d/.
func addOf(archive []byte) ([]Instruction, Options) {
	f := File{Path: "a.tar", Match: "a.tar", Kind: inventory.File, Size: int64(len(archive)), Digest: digest.FromBytes(archive)}
	in := Instruction{
		Line: 2, History: "ADD # buildkit", Files: []File{f},
		Command: &instructions.AddCommand{SourcesAndDest: instructions.SourcesAndDest{SourcePaths: []string{"a.tar"}, DestPath: "/d/"}},
	}
	return []Instruction{in}, Options{Open: opening(string(archive))}
}

// archiveOf gives a tar archive of headers, regular files filled with x.
func archiveOf(f testing.TB, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// No archive that ADD unpacks makes an append panic or leaves its destination, and
// the layer that it becomes can be listed.
func FuzzUnpack(f *testing.F) {
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "../../etc/passwd", Size: 3}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"}, tar.Header{Typeflag: tar.TypeReg, Name: "l/passwd", Size: 3}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 3}, tar.Header{Typeflag: tar.TypeLink, Name: "b", Linkname: "../../etc/shadow"}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeLink, Name: "b", Linkname: "b"}, tar.Header{Typeflag: tar.TypeDir, Name: "./"}, tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeReg, Name: ".wh.x"}, tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o7777, Uid: 1 << 20}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		tail, o := addOf(archive)
		a, err := Append(Scratch(linux), inventory.Empty(), tail, o)
		if err != nil {
			return
		}
		var blob bytes.Buffer
		b, err := a.WriteBlob(&blob)
		if err != nil {
			if inexact := (*NotExact)(nil); errors.As(err, &inexact) {
				return
			}
			t.Fatal(err)
		}
		if _, err := a.Inventory(b); err != nil {
			t.Fatal(err)
		}
		layer := inventory.Layer{Blob: b.Descriptor.Digest, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.Bytes())), nil }}
		v, err := inventory.FromLayers(t.Context(), nil, []inventory.Layer{layer})
		if err != nil {
			t.Fatalf("the layer can't be listed: %v", err)
		}
		for e := range v.All() {
			if p := e.Path; p != "" && p != "d" && !strings.HasPrefix(p, "d/") || p != "" && path.Clean(p) != p {
				t.Errorf("it writes %q", p)
			}
		}
	})
}

// An archive of millions of entries is left to the engine.
func TestArchiveTooLarge(t *testing.T) {
	defer func(before int) { maxMembers = before }(maxMembers)
	maxMembers = 2
	var headers []tar.Header
	for _, name := range []string{"a", "b", "c"} {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: name})
	}
	tail, o := addOf(archiveOf(t, headers...))
	_, err := Append(Scratch(linux), inventory.Empty(), tail, o)
	if inexact := (*NotExact)(nil); !errors.As(err, &inexact) || !strings.Contains(inexact.Reason, "more than 2 entries") {
		t.Errorf("got %v", err)
	}
}
