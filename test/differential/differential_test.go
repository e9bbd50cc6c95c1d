//go:build linux

// Package differential builds every case of the corpus twice, by appending and
// by BuildKit, and compares the images: every path's kind, mode, owner, size,
// content, link and device, its time, what is hard-linked, and the config. It
// needs root.
package differential

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/image/corpus"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// epoch is the time of what append makes. It is not 0, so that a time that is
// left at 0 shows, and none that a file of the corpus has.
const epoch = 1600000000

// bench is an engine beside a registry.
type bench struct {
	engine *buildkit.Embedded
	store  *registry.Embedded
	client *registry.Client
	host   string
	opened time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the engine needs root")
	}
	logrus.SetOutput(io.Discard)
	store, err := registry.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	l, err := store.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &bench{opened: time.Now(), store: store, host: l.Host(), client: registry.New(registry.Options{Embedded: store})}
	b.engine, err = buildkit.Open(t.Context(), buildkit.Options{
		Root: t.TempDir(), Runc: runc(t), DockerConfig: t.TempDir(), NoMirror: true,
		Registry: func() (string, error) { return l.Host(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.engine.Close() })
	return b
}

// runc unpacks the program that scripts/runc.sh has built; "" is the one on
// PATH or in the binary.
func runc(t *testing.T) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("..", "..", "internal", "buildkit", "runcbin", "runc-linux-"+runtime.GOARCH+".zst"))
	if err != nil {
		return ""
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(p, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *bench) repo(t *testing.T, name string) registry.Ref {
	t.Helper()
	r, err := registry.ParseRef(buildkit.RegistryHost + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// push puts an image into the registry.
func (b *bench) push(t *testing.T, name string, base *corpus.Base) {
	t.Helper()
	if base.Blobs == nil { // scratch
		return
	}
	repo := b.repo(t, name)
	for _, data := range base.Blobs {
		if _, err := b.client.PushBytes(t.Context(), repo, "application/octet-stream", data); err != nil {
			t.Fatal(err)
		}
	}
	d := base.Image.Descriptor
	if _, err := b.client.PutManifest(t.Context(), repo.WithDigest(d.Digest), d.MediaType, base.Image.Body); err != nil {
		t.Fatal(err)
	}
}

// build lets the engine build a case: with the times that it gives by itself, or
// with those that an epoch asks for. Its cache goes by contents, so that it would
// give the former those of another case's files.
func (b *bench) build(ctx context.Context, c *corpus.Case, base *corpus.Base, images map[string]*corpus.Base, dir string, epoch *int64) (build.Result, error) {
	j := build.Job{
		Unit: c.Name, Dockerfile: []byte(c.Dockerfile), Name: "Dockerfile", ContextDir: dir,
		Platform: "linux/" + runtime.GOARCH, SourceDateEpoch: epoch, NoCache: epoch == nil,
		Repository: buildkit.RegistryHost + "/out", Contexts: map[string]string{},
	}
	if epoch != nil { // as the user of a build asks for it
		j.Args = map[string]string{"SOURCE_DATE_EPOCH": strconv.FormatInt(*epoch, 10)}
	}
	use := func(name string, i *corpus.Base) {
		j.Contexts[name] = fmt.Sprintf("docker-image://%s/%s@%s", buildkit.RegistryHost, name, i.Image.Descriptor.Digest)
	}
	if base.Blobs != nil {
		use("base", base)
	}
	for name, i := range images {
		use(name, i)
	}
	return b.engine.Build(ctx, j, event.Discard)
}

// unpack gives the tree of what the engine has built.
func (b *bench) unpack(t *testing.T, r build.Result) (*image.Image, *inventory.Inventory, map[digest.Digest][]byte) {
	t.Helper()
	img, err := image.Parse(r.Body, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[digest.Digest][]byte{}
	for _, l := range img.Manifest.Layers {
		data, err := b.client.ReadBlob(t.Context(), b.repo(t, "out"), l)
		if err != nil {
			t.Fatal(err)
		}
		blobs[l.Digest] = data
	}
	tree, err := corpus.Unpack(t.Context(), img, func(d digest.Digest) []byte { return blobs[d] })
	if err != nil {
		t.Fatal(err)
	}
	return img, tree, blobs
}

// appended makes a case by appending and gives the tree of the result, made
// from its blobs.
func appended(t *testing.T, c *corpus.Case, base *corpus.Base, images map[string]*corpus.Base, dir string) (*image.Image, *inventory.Inventory, map[digest.Digest][]byte, error) {
	t.Helper()
	trunk, tail, err := c.Tail(t.Context(), base, images, dir)
	if err != nil {
		return nil, nil, nil, &image.NotExact{Reason: err.Error()}
	}
	if !trunk.Empty {
		return nil, nil, nil, &image.NotExact{Reason: "the Dockerfile has a trunk"}
	}
	a, err := image.Append(base.Image, base.Inventory.Small(), tail, image.Options{
		Created: epoch, Made: epoch, DropOnBuild: trunk.DropOnBuild,
		Platform: &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
	})
	if err != nil {
		return nil, nil, nil, err
	}
	var blob *image.Blob
	blobs := map[digest.Digest][]byte{}
	for d, data := range base.Blobs {
		blobs[d] = data
	}
	if a.HasBlob() {
		var out bytes.Buffer
		if blob, err = a.WriteBlob(&out); err != nil {
			t.Fatal(err)
		}
		blobs[blob.Descriptor.Digest] = out.Bytes()
	}
	img, err := a.Image(blob)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := corpus.Unpack(t.Context(), img, func(d digest.Digest) []byte { return blobs[d] })
	if err != nil {
		t.Fatal(err)
	}
	return img, tree, blobs, nil
}

func TestAppendIsWhatBuildKitMakes(t *testing.T) {
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.WriteContext(dir); err != nil {
				t.Fatal(err)
			}
			base, err := c.Base(t.Context(), runtime.GOARCH)
			if err != nil {
				t.Fatal(err)
			}
			images, err := c.Images(t.Context(), runtime.GOARCH)
			if err != nil {
				t.Fatal(err)
			}
			b.push(t, "base", base)
			for name, i := range images {
				b.push(t, name, i)
			}
			res, buildErr := b.build(t.Context(), &c, base, images, dir, nil)
			img, tree, blobs, err := appended(t, &c, base, images, dir)
			if notExact := (*image.NotExact)(nil); c.Fails || c.Inexact {
				if (buildErr != nil) != c.Fails {
					t.Errorf("BuildKit's error: %v, want one: %v", buildErr, c.Fails)
				}
				if !errors.As(err, &notExact) {
					t.Errorf("append's error: %v, want one that leaves it to the engine", err)
				}
				return
			}
			if buildErr != nil || err != nil {
				t.Fatalf("BuildKit: %v\nappend: %v", buildErr, err)
			}
			want, wantTree, wantBlobs := b.unpack(t, res)
			compareTrees(t, wantTree, tree)
			b.compareTimes(t, wantTree, tree)
			compareLinks(t, want, img, wantBlobs, blobs)
			at := int64(epoch)
			if res, err = b.build(t.Context(), &c, base, images, dir, &at); err != nil {
				t.Fatal(err)
			}
			if want, err = image.Parse(res.Body, res.Config); err != nil {
				t.Fatal(err)
			}
			compareConfigs(t, want, img)
		})
	}
}

// compareLinks compares which paths are one file.
func compareLinks(t *testing.T, want, got *image.Image, wantBlobs, gotBlobs map[digest.Digest][]byte) {
	t.Helper()
	if d := cmp.Diff(linked(t, want, wantBlobs), linked(t, got, gotBlobs)); d != "" {
		t.Errorf("hard links (-BuildKit +append):\n%s", d)
	}
}

// linked gives, for every path that shares its file with others, the first of
// them. A layer that names a path again makes a new file of it.
func linked(t *testing.T, img *image.Image, blobs map[digest.Digest][]byte) map[string]string {
	t.Helper()
	inode := map[string]string{} // layer and name of the file behind a path
	for i, l := range img.Manifest.Layers {
		err := corpus.Entries(blobs[l.Digest], func(hdr *tar.Header) {
			p := path.Clean(hdr.Name)
			if hdr.Typeflag == tar.TypeLink {
				inode[p] = inode[path.Clean(hdr.Linkname)]
			} else {
				inode[p] = fmt.Sprint(i, p)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first, out := map[string]string{}, map[string]string{}
	for _, p := range slices.Sorted(maps.Keys(inode)) {
		if q, ok := first[inode[p]]; ok {
			out[p], out[q] = q, q
		} else {
			first[inode[p]] = p
		}
	}
	return out
}

func compareTrees(t *testing.T, want, got *inventory.Inventory) {
	t.Helper()
	diff, err := inventory.Diff(want, got)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range diff {
		if i == 20 {
			t.Errorf("and %d more", len(diff)-i)
			break
		}
		t.Errorf("%s\n  BuildKit: %s %s\n  append:   %s %s", d.Path, d.Before.String(), d.Before.Digest(), d.After.String(), d.After.Digest())
	}
}

// now says whether a time lies in the test's.
func (b *bench) now(seconds int64) bool {
	return seconds >= b.opened.Unix() && seconds <= time.Now().Unix()
}

// compareTimes compares the times of all files. Where append has that of what it
// makes, BuildKit has that of the build.
func (b *bench) compareTimes(t *testing.T, want, got *inventory.Inventory) {
	t.Helper()
	for e := range got.All() {
		if e.Path == "" { // in no layer
			continue
		}
		theirs := want.Lookup(e.Path)
		if theirs.Kind == inventory.None || theirs.Time == e.Time || e.Time == epoch && b.now(theirs.Time) {
			continue
		}
		t.Errorf("the time of %s %s\n  BuildKit: %s\n  append:   %s", e.Kind, e.Path, b.words(theirs.Time), b.words(e.Time))
	}
}

func (b *bench) words(seconds int64) string {
	switch {
	case seconds == epoch:
		return "append's own"
	case b.now(seconds):
		return "now"
	}
	return fmt.Sprint(seconds)
}

// compareConfigs compares everything but the layers and which history entry
// has one: append puts the files of a whole tail into one layer.
func compareConfigs(t *testing.T, want, got *image.Image) {
	t.Helper()
	read := func(i *image.Image) (out dockerspec.DockerOCIImage) {
		if err := json.Unmarshal(i.Config, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	opts := cmp.Options{
		cmpopts.IgnoreFields(ocispec.Image{}, "RootFS"), cmpopts.IgnoreFields(ocispec.History{}, "EmptyLayer"),
		cmpopts.EquateEmpty(),
	}
	if d := cmp.Diff(read(want), read(got), opts); d != "" {
		t.Errorf("config (-BuildKit +append):\n%s", d)
	}
	layers := 0
	for _, h := range read(got).History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != len(got.Manifest.Layers) {
		t.Errorf("the history names %d layers, there are %d", layers, len(got.Manifest.Layers))
	}
}
