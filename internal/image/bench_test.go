package image_test

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/pgzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/source"
)

// cpu gives the processor time that this process has used: on a busy machine
// it says more than the clock.
func cpu(b *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e6
}

func selection(b *testing.B, dir string) ([]image.File, image.Opener) {
	t, err := source.Open(dir, source.Options{})
	if err != nil {
		b.Fatal(err)
	}
	entries, err := t.Select(b.Context(), source.Selection{Patterns: []string{"."}})
	if err != nil {
		b.Fatal(err)
	}
	kinds := map[source.Kind]inventory.Kind{source.File: inventory.File, source.Dir: inventory.Dir}
	var files []image.File
	for _, e := range entries {
		files = append(files, image.File{
			Path: e.Path, Kind: kinds[e.Kind], Mode: e.Mode, Size: e.Size, Digest: e.Digest,
			Match: e.Match, Rel: e.Rel, MatchDir: e.MatchDir,
		})
	}
	return files, t.Open
}

// BenchmarkAppend decides what BenchmarkWrite writes, and names it.
func BenchmarkAppend(b *testing.B) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	files, open := selection(b, filepath.Join(strings.TrimSpace(string(root)), "src"))
	copyAll := image.Instruction{
		Command: &instructions.CopyCommand{SourcesAndDest: instructions.SourcesAndDest{SourcePaths: []string{"."}, DestPath: "/app/"}},
		Files:   files,
	}
	b.ReportAllocs()
	for b.Loop() {
		a, err := image.Append(image.Scratch(ocispec.Platform{OS: "linux", Architecture: "amd64"}), inventory.Empty(),
			[]image.Instruction{copyAll}, image.Options{Open: open})
		if err != nil {
			b.Fatal(err)
		}
		if a.Fingerprint() == "" {
			b.Fatal("it can be told beforehand")
		}
	}
}

// BenchmarkWrite compares writing Go's own sources as a blob with the least that
// it could cost: reading, hashing and compressing the same bytes.
func BenchmarkWrite(b *testing.B) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(root)), "src")
	files, open := selection(b, dir)
	for _, compression := range []string{"gzip", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			b.ReportAllocs()
			start := cpu(b)
			defer func() { b.ReportMetric((cpu(b)-start)/float64(b.N), "cpu-ms/op") }()
			for b.Loop() {
				copyAll := image.Instruction{
					Command: &instructions.CopyCommand{SourcesAndDest: instructions.SourcesAndDest{SourcePaths: []string{"."}, DestPath: "/app/"}},
					Files:   files,
				}
				a, err := image.Append(image.Scratch(ocispec.Platform{OS: "linux", Architecture: "amd64"}), inventory.Empty(),
					[]image.Instruction{copyAll}, image.Options{Open: open, Compression: compression})
				if err != nil {
					b.Fatal(err)
				}
				blob, err := a.WriteBlob(io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(blob.Size)
				b.ReportMetric(float64(blob.Descriptor.Size)/float64(blob.Size), "ratio")
			}
		})
	}
	b.Run("floor", func(b *testing.B) {
		start := cpu(b)
		defer func() { b.ReportMetric((cpu(b)-start)/float64(b.N), "cpu-ms/op") }()
		for b.Loop() {
			packed := sha256.New()
			z, err := pgzip.NewWriterLevel(packed, 3)
			if err != nil {
				b.Fatal(err)
			}
			plain := sha256.New()
			for _, f := range files {
				if f.Kind != inventory.File {
					continue
				}
				data, err := os.ReadFile(filepath.Join(dir, f.Path))
				if err != nil {
					b.Fatal(err)
				}
				plain.Write(data)
				if _, err := z.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
