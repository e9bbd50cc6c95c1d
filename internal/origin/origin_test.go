package origin

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
)

// pack makes an uncompressed layer of files, "PATH=>TARGET" for a hard link.
func pack(t *testing.T, files ...[2]string) inventory.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		hdr := &tar.Header{Name: f[0], Mode: 0o644, Uid: 7, Gid: 8, Typeflag: tar.TypeReg, Size: int64(len(f[1]))}
		if name, target, ok := strings.Cut(f[0], "=>"); ok {
			hdr.Name, hdr.Typeflag, hdr.Linkname, hdr.Size = name, tar.TypeLink, target, 0
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return inventory.Layer{Blob: digest.FromBytes(b.Bytes()), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}}
}

func imageOf(t *testing.T, layers ...inventory.Layer) Image {
	t.Helper()
	inv, err := inventory.FromLayers(t.Context(), nil, layers)
	if err != nil {
		t.Fatal(err)
	}
	return Image{Name: "tools", Digest: digest.FromString("tools"), Files: inv, Layers: layers}
}

func copying(paths ...string) *instructions.CopyCommand {
	return &instructions.CopyCommand{SourcesAndDest: instructions.SourcesAndDest{SourcePaths: paths, DestPath: "/x/"}, From: "tools"}
}

// Contents too large for memory go through a file of which nothing stays.
func TestLargeContentsLeaveNothingBehind(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", (inMemory+1)/16+1)
	img := imageOf(t, pack(t, [2]string{"d/small", "s"}, [2]string{"d/large", large}), pack(t, [2]string{"d/other", "o"}))
	dir := t.TempDir()
	s := NewSet(dir)
	files, err := s.Take(t.Context(), img, copying("/d"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"d/small": "s", "d/large": large, "d/other": "o"}
	for _, f := range files {
		if f.Kind != inventory.File {
			continue
		}
		r, err := f.Open(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != want[f.Path] || f.UID != 7 || f.GID != 8 {
			t.Errorf("%s: %d bytes of %d:%d, %v", f.Path, len(got), f.UID, f.GID, err)
		}
		delete(want, f.Path)
	}
	if len(want) > 0 {
		t.Errorf("%d files were not taken", len(want))
	}
	s.Close()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLeftToTheEngine(t *testing.T) {
	lower := pack(t, [2]string{"a", "one"})
	whole := imageOf(t, lower, pack(t, [2]string{"b=>a", ""}))
	short := whole
	short.Layers = short.Layers[:1]
	for name, tt := range map[string]struct {
		image Image
		copy  *instructions.CopyCommand
		want  string
	}{
		"missing file":             {whole, copying("/none"), `"/none" is not in tools`},
		"link into a lower layer":  {whole, copying("/b"), `the layer that brought "/b" does not hold its content`},
		"another's inventory":      {short, copying("/a"), "the inventory of tools is another image's"},
		"a pattern that is broken": {whole, copying("/[a"), `copying from tools: reading pattern "/[a": syntax error in pattern`},
	} {
		s := NewSet(t.TempDir())
		_, err := s.Take(t.Context(), tt.image, tt.copy)
		if err == nil {
			err = s.Fetch(t.Context())
		}
		var inexact *image.NotExact
		if !errors.As(err, &inexact) || inexact.Reason != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
		s.Close()
	}
}

// A layer that is not what the inventory was made of is found out.
func TestOtherContentIsFoundOut(t *testing.T) {
	img := imageOf(t, pack(t, [2]string{"a", "one"}))
	img.Layers = []inventory.Layer{pack(t, [2]string{"a", "two"})}
	s := NewSet("")
	defer s.Close()
	if _, err := s.Take(t.Context(), img, copying("/a")); err != nil {
		t.Fatal(err)
	}
	var inexact *image.NotExact
	if err := s.Fetch(t.Context()); !errors.As(err, &inexact) {
		t.Errorf("got %v, want that it is not exact", err)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	img := imageOf(t, pack(t, [2]string{"a", "one"}))
	s := NewSet("")
	defer s.Close()
	if _, err := s.Take(t.Context(), img, copying("/a")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
