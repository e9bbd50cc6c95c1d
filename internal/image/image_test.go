package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

var linux = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// parentOf makes a parent with the given files and config; nothing but its
// inventory knows the files.
func parentWith(t *testing.T, config string, entries ...inventory.Change) (*Image, *inventory.Inventory) {
	t.Helper()
	blob := digest.FromString("blob")
	inv, err := inventory.Empty().With(blob, entries, inventory.Account{}, inventory.Account{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	c.rootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("diff")}}
	img, err := assemble(c, []ocispec.Descriptor{{MediaType: dockerLayerGzip, Digest: blob, Size: 4}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img, inv
}

func copyOf(dest string, files ...File) Instruction {
	return Instruction{
		Line: 3, History: "COPY # buildkit", Files: files,
		Command: &instructions.CopyCommand{SourcesAndDest: instructions.SourcesAndDest{SourcePaths: []string{"x"}, DestPath: dest}},
	}
}

func opening(content string) Opener {
	return func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }
}

func TestChangedFileIsFound(t *testing.T) {
	small, large := strings.Repeat("x", 10), strings.Repeat("x", prefetchSize+1)
	for _, tt := range []struct{ promised, found string }{
		{small, strings.Repeat("y", 10)}, {small, "short"}, {large, strings.Repeat("y", len(large))}, {large, "short"},
	} {
		f := File{Path: "x", Match: "x", Kind: inventory.File, Size: int64(len(tt.promised)), Digest: digest.FromString(tt.promised)}
		a, err := Append(Scratch(linux), inventory.Empty(), []Instruction{copyOf("/x", f)}, Options{Open: opening(tt.found)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteBlob(io.Discard); err == nil || !strings.Contains(err.Error(), `"/x": it changed`) {
			t.Errorf("error %v", err)
		}
	}
	t.Run("gone", func(t *testing.T) {
		f := File{Path: "x", Match: "x", Kind: inventory.File, Size: 1}
		gone := func(string) (io.ReadCloser, error) { return nil, os.ErrNotExist }
		a, err := Append(Scratch(linux), inventory.Empty(), []Instruction{copyOf("/x", f, f, f)}, Options{Open: gone})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteBlob(io.Discard); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWriterThatFails(t *testing.T) {
	var files []File
	for i := range 200 {
		name := fmt.Sprintf("f%d", i)
		files = append(files, File{Path: name, Match: name, Kind: inventory.File, Size: 100 << 10, Index: i})
	}
	in := copyOf("/d/", files...)
	random := func(string) (io.ReadCloser, error) { return os.Open("/dev/urandom") }
	a, err := Append(Scratch(linux), inventory.Empty(), []Instruction{in}, Options{Open: random})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	r, w := io.Pipe()
	r.CloseWithError(errors.New("connection lost"))
	if _, err := a.WriteBlob(w); err == nil || !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("error %v", err)
	}
	if after := runtime.NumGoroutine(); after > before+1 {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

func TestLayerLimit(t *testing.T) {
	img, inv := parentWith(t, `{"os":"linux","architecture":"amd64"}`)
	f := File{Path: "x", Match: "x", Kind: inventory.File, Size: 1}
	for limit, ok := range map[int]bool{1: false, 2: true, 0: true} {
		_, err := Append(img, inv, []Instruction{copyOf("/x", f)}, Options{Open: opening("x"), MaxLayers: limit})
		if notExact := (*NotExact)(nil); (err == nil) != ok || (!ok && !errors.As(err, &notExact)) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	env := Instruction{Command: &instructions.EnvCommand{Env: instructions.KeyValuePairs{{Key: "A", Value: "1"}}}, History: "ENV A=1"}
	a, err := Append(img, inv, []Instruction{env}, Options{MaxLayers: 1})
	if err != nil || a.HasBlob() {
		t.Errorf("metadata needs no layer: %v", err)
	}
}

func TestWrongInventory(t *testing.T) {
	img, _ := parentWith(t, `{"os":"linux","architecture":"amd64"}`)
	_, err := Append(img, inventory.Empty(), nil, Options{})
	if notExact := (*NotExact)(nil); !errors.As(err, &notExact) {
		t.Errorf("error %v", err)
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	config := `{"os":"linux","architecture":"arm64","variant":"v8","com.example":{"a":[1,2]},` +
		`"config":{"Env":["X=1"],"Custom":"kept","OnBuild":["RUN x"]},"history":[{"created_by":"one"},{"created_by":"two"}]}`
	img, inv := parentWith(t, config)
	env := Instruction{Command: &instructions.EnvCommand{Env: instructions.KeyValuePairs{{Key: "X", Value: "<2>"}}}, History: "ENV X=<2>"}
	a, err := Append(img, inv, []Instruction{env}, Options{
		DropOnBuild: true, Created: 5, Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "b"},
		Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Image(nil)
	if err != nil {
		t.Fatal(err)
	}
	var have, want any
	if err := json.Unmarshal(got.Config, &have); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"os":"linux","architecture":"arm64","com.example":{"a":[1,2]},"created":"1970-01-01T00:00:05Z",
		"config":{"Env":["X=<2>","PATH=`+defaultPath+`"],"Custom":"kept","Labels":{"l":"1"}},
		"rootfs":{"type":"layers","diff_ids":["`+digest.FromString("diff").String()+`"]},
		"history":[{"created_by":"one"},{"created_by":"two","empty_layer":true},
			{"created":"1970-01-01T00:00:05Z","created_by":"ENV X=<2>","comment":"buildkit.dockerfile.v0","empty_layer":true}]}`), &want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("config (-want +got):\n%s", d)
	}
	if got.Manifest.Annotations["a"] != "b" || got.Manifest.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("manifest: %s", got.Body)
	}
	again, err := Parse(got.Body, got.Config)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, again); d != "" {
		t.Errorf("parsed again (-want +got):\n%s", d)
	}
}

func TestParseRefuses(t *testing.T) {
	img, _ := parentWith(t, `{"os":"linux","architecture":"amd64"}`)
	for name, tt := range map[string]struct{ manifest, config string }{
		"other config":   {string(img.Body), `{}`},
		"an index":       {`{"mediaType":"application/vnd.oci.image.index.v1+json"}`, `{}`},
		"not JSON":       {`x`, `{}`},
		"null config":    {strings.Replace(string(img.Body), img.Manifest.Config.Digest.String(), digest.FromString("null").String(), 1), `null`},
		"other layers":   {strings.Replace(string(img.Body), `"layers":[`, `"layers":[{"digest":"sha256:00","size":1},`, 1), string(img.Config)},
		"wrong typed":    {strings.Replace(string(img.Body), img.Manifest.Config.Digest.String(), digest.FromString(`{"config":{"Env":"x"}}`).String(), 1), `{"config":{"Env":"x"}}`},
		"missing config": {string(img.Body), ``},
	} {
		if _, err := Parse([]byte(tt.manifest), []byte(tt.config)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAnnotate(t *testing.T) {
	amd := Scratch(linux)
	one, err := Annotate(amd, map[string]string{"x": "1", "y": "2"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := Annotate(one, map[string]string{"x": ""})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"y": "2"}, two.Manifest.Annotations); d != "" || len(amd.Manifest.Annotations) != 0 {
		t.Errorf("annotations %v of the original, %s", amd.Manifest.Annotations, d)
	}
}

// TestChmodIsTheRealOne compares what RUN chmod does to the mode of a file and a
// directory with the machine's own chmod, under RUN's umask.
func TestChmodIsTheRealOne(t *testing.T) {
	dir := t.TempDir()
	for _, spec := range []string{
		"755", "0640", "1777", "u+x", "+x", "a+x", "go-rwx", "u=rw,go=r", "a=rX", "+X", "u=g", "o=u", "+r", "ug+w,o-r", "a-x", "g=",
	} {
		for _, kind := range []inventory.Kind{inventory.File, inventory.Dir} {
			for _, before := range []uint32{0o644, 0o755, 0o600, 0o421} {
				p := filepath.Join(dir, fmt.Sprintf("%s-%v-%o", spec, kind, before))
				make := func() error { return os.Mkdir(p, 0o700) }
				if kind == inventory.File {
					make = func() error { return os.WriteFile(p, nil, 0o600) }
				}
				if err := errors.Join(make(), os.Chmod(p, os.FileMode(before))); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.Command("sh", "-c", `umask 022; chmod "$1" "$2"`, "sh", spec, p).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v %s", spec, err, out)
				}
				fi, err := os.Stat(p)
				if err != nil {
					t.Fatal(err)
				}
				got, err := newMode(spec, &node{kind: kind, mode: before})
				if notExact := (*NotExact)(nil); errors.As(err, &notExact) {
					t.Logf("%s is left to the engine: %v", spec, err)
					continue
				}
				if want := bitsOf(fi.Mode()); err != nil || got != want {
					t.Errorf("chmod %s of a %v %04o: got %04o, %v; want %04o", spec, kind, before, got, err, want)
				}
			}
		}
	}
}

func TestRunChmod(t *testing.T) {
	file := func(p string, mode uint32) inventory.Change {
		return inventory.Change{Entry: inventory.Entry{Path: p, Kind: inventory.File, Mode: mode}}
	}
	base := []inventory.Change{
		file("bin/sh", 0o755), file("bin/chmod", 0o755), file("bin/chown", 0o755), file("old", 0o644),
	}
	files := []File{
		{Path: "d", Match: "d", Kind: inventory.Dir, Mode: 0o755, MatchDir: true},
		{Path: "d/f", Match: "d", Rel: "f", Kind: inventory.File, Mode: 0o644, MatchDir: true, Size: 1},
		{Path: "d/l", Match: "d", Rel: "l", Kind: inventory.Symlink, Link: "f", MatchDir: true},
		{Path: "d/s", Match: "d", Rel: "s", Kind: inventory.Dir, Mode: 0o700, MatchDir: true},
		{Path: "d/suid", Match: "d", Rel: "suid", Kind: inventory.File, Mode: 0o4755, MatchDir: true, Size: 1},
	}
	tests := []struct {
		name  string
		chmod Chmod
		user  string
		want  string // mode and owner of /app/f and /app/s; "" when left to the engine
	}{
		{"file", Chmod{Mode: "755", Paths: []string{"/app/f"}}, "", "0755 0:0, 0700 0:0"},
		{"through a link", Chmod{Mode: "u+x", Paths: []string{"/app/l"}}, "", "0744 0:0, 0700 0:0"},
		{"owner", Chmod{Owner: "5:6", Paths: []string{"/app/f", "/app/s"}}, "root", "0644 5:6, 0700 5:6"},
		{"owner alone", Chmod{Owner: "5", Paths: []string{"/app/f"}}, "", "0644 5:0, 0700 0:0"},
		{"recursive", Chmod{Mode: "a+x", Recursive: true, Paths: []string{"/app/s"}}, "", "0644 0:0, 0711 0:0"},
		{"recursive over setuid", Chmod{Mode: "a+x", Recursive: true, Paths: []string{"/app"}}, "", ""},
		{"setuid", Chmod{Mode: "755", Paths: []string{"/app/suid"}}, "", ""},
		{"the parent's", Chmod{Mode: "755", Paths: []string{"/old"}}, "", ""},
		{"nothing there", Chmod{Mode: "755", Paths: []string{"/app/none"}}, "", ""},
		{"unknown name", Chmod{Owner: "who", Paths: []string{"/app/f"}}, "", ""},
		{"not root", Chmod{Mode: "755", Paths: []string{"/app/f"}}, "app", ""},
		{"sets setuid", Chmod{Mode: "u+s", Paths: []string{"/app/f"}}, "", ""},
		{"asks the umask", Chmod{Mode: "+w", Paths: []string{"/app/f"}}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, inv := parentWith(t, `{"os":"linux","architecture":"amd64","config":{"User":"`+tt.user+`","Env":["PATH=/none:/bin"]}}`, base...)
			run := Instruction{Line: 4, Chmod: []Chmod{tt.chmod}, History: "RUN", Command: &instructions.RunCommand{ShellDependantCmdLine: instructions.ShellDependantCmdLine{PrependShell: true}}}
			a, err := Append(img, inv, []Instruction{copyOf("/app", files...), run}, Options{Open: opening("x")})
			if notExact := (*NotExact)(nil); errors.As(err, &notExact) && tt.want == "" {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f, s := a.tree.at("app/f"), a.tree.at("app/s")
			if got := fmt.Sprintf("%04o %d:%d, %04o %d:%d", f.mode, f.uid, f.gid, s.mode, s.uid, s.gid); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestMemory writes far more than may be held.
func TestMemory(t *testing.T) {
	const size = 300 << 20
	f := File{Path: "x", Match: "x", Kind: inventory.File, Size: size}
	zeros := func(string) (io.ReadCloser, error) { return io.NopCloser(&zeroReader{}), nil }
	a, err := Append(Scratch(linux), inventory.Empty(), []Instruction{copyOf("/x", f)}, Options{Open: zeros})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := a.WriteBlob(io.Discard); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 64<<20 {
		t.Errorf("it took %d MB", grown>>20)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestBlobIsPlainTar(t *testing.T) {
	f := File{Path: "x", Match: "x", Kind: inventory.File, Size: 1, Mode: 0o644}
	a, err := Append(Scratch(linux), inventory.Empty(), []Instruction{copyOf("/d/x", f)}, Options{Open: opening("x")})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	blob, err := a.WriteBlob(&out)
	if err != nil {
		t.Fatal(err)
	}
	// A directory, a file of one block and the end: no PAX records, no names of
	// owners. The bytes are part of what users see (digests), so they are pinned.
	if blob.Size != 512+1024+1024 {
		t.Errorf("%d bytes", blob.Size)
	}
	if want := digest.Digest("sha256:"); !strings.HasPrefix(blob.DiffID.String(), want.String()) || blob.Descriptor.Size != int64(out.Len()) {
		t.Errorf("blob %+v", blob)
	}
}

// A null in a base's config says nothing, as what Docker's own tools write does.
func TestNullsInConfig(t *testing.T) {
	parent, inv := parentWith(t, `{"os":"linux","architecture":"amd64","config":{"Labels":null,"Env":null,"Volumes":null,"ExposedPorts":null,"Cmd":null}}`)
	tail := []Instruction{
		{Line: 2, Command: &instructions.LabelCommand{Labels: instructions.KeyValuePairs{{Key: "a", Value: "b"}}}},
		{Line: 3, Command: &instructions.VolumeCommand{Volumes: []string{"/v"}}},
	}
	a, err := Append(parent, inv, tail, Options{Labels: map[string]string{"c": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	made, err := a.Image(nil)
	if err != nil {
		t.Fatal(err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(made.Config, &c); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Config.Volumes["/v"]; !ok || c.Config.Labels["a"] != "b" || c.Config.Labels["c"] != "d" {
		t.Errorf("%s", made.Config)
	}
}
