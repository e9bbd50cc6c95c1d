package strata

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// staged is shaped like a service that is compiled in one stage and deployed
// from another.
const staged = `FROM PARENT AS build
COPY src/ /app/dist/
FROM PARENT AS prod
WORKDIR /app
COPY --from=build --chown=ragex:ragex /app/dist dist
COPY --from=TOOLS /bin/helper /usr/bin/
CMD ["dist/main.py"]
`

// newStagedWorkshop has a project whose prod copies from a stage and from an
// image with a large layer beside the one that is needed.
func newStagedWorkshop(t *testing.T) (*workshop, registry.Ref) {
	t.Helper()
	w := newWorkshop(t, ordinary)
	noise := make([]byte, parentSize)
	rand.Read(noise)
	tools := w.reg.Ref("tools:1")
	w.reg.PushImage(t, tools, registrytest.Image{Layers: []map[string]string{
		{"bin/": "", "bin/noise": string(noise)}, {"bin/": "", "bin/helper": "help\n"},
	}})
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers: auto\n")
	w.write(t, "Dockerfile", strings.NewReplacer("PARENT", w.reg.Host+"/parent:1", "TOOLS", w.reg.Host+"/tools:1").Replace(staged))
	return w, tools
}

// made gives what a run made of a unit, and the files of its newest layer.
func made(t *testing.T, w *workshop, res Result, unit string) (Made, map[string]string) {
	t.Helper()
	i := slices.IndexFunc(res.Units, func(m Made) bool { return strings.HasPrefix(m.Unit, unit+"/") })
	if i < 0 {
		t.Fatalf("no unit %s was made", unit)
	}
	m := res.Units[i]
	img, err := parsePicture(w.reg.Client.Lookup(t.Context(), m.Ref))
	if err != nil {
		t.Fatal(err)
	}
	data, err := w.reg.Client.ReadBlob(t.Context(), m.Ref, img.manifest.Layers[len(img.manifest.Layers)-1])
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(z); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return m, files
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[hdr.Name] = string(b)
	}
}

// A deployed stage is appended without an engine, and of the images that it
// copies from only the layers that hold the copied files are read.
func TestCopyFromReadsOnlyWhatItCopies(t *testing.T) {
	w, _ := newStagedWorkshop(t)
	w.build(t) // lists the files of the images, once for all machines
	w.write(t, "src/main.py", "print(2)\n")
	p, res, log := w.build(t)
	if s, _ := p.Plan.Step("prod/linux/amd64"); s.Action != plan.Append || !slices.Equal(s.Needs, []string{"build/linux/amd64"}) {
		t.Errorf("the plan was to %s prod after %q", s.Action, s.Needs)
	}
	m, files := made(t, w, res, "prod")
	want := map[string]string{"app/dist/main.py": "print(2)\n", "app/dist/lib.py": "x = 1\n", "usr/bin/helper": "help\n"}
	if d := cmp.Diff(want, files); d != "" {
		t.Errorf("prod's own files (-want +got):\n%s", d)
	}
	if m.Action != plan.Append || m.NewBlobs != 1 {
		t.Errorf("prod: %s with %d new blobs, because %q", m.Action, m.NewBlobs, m.Reason)
	}
	read, layers := 0, 0
	for _, s := range log {
		read += s.bytes
		if strings.HasPrefix(s.what, "GET") && strings.Contains(s.what, "/blobs/") && s.bytes > parentSize/2 {
			t.Errorf("a large blob was read: %s", s.what)
		}
		if strings.HasPrefix(s.what, "GET /v2/tools/blobs/") && s.bytes > 0 {
			layers++
		}
	}
	if read > 60_000 {
		t.Errorf("%d bytes were pulled", read)
	}
	if layers != 1 {
		t.Errorf("%d blobs of the tools were read, want one", layers)
	}
}

// A build stage that comes out the same leaves what copies from it as it is.
func TestCopyFromSameOutput(t *testing.T) {
	w, _ := newStagedWorkshop(t)
	_, first, _ := w.build(t)
	d := strings.NewReplacer("PARENT", w.reg.Host+"/parent:1", "TOOLS", w.reg.Host+"/tools:1").Replace(staged)
	w.write(t, "Dockerfile", strings.Replace(d, "COPY src/ /app/dist/", "COPY src/main.py src/lib.py /app/dist/", 1))
	_, second, _ := w.build(t)
	before, _ := made(t, w, first, "prod")
	after, _ := made(t, w, second, "prod")
	if after.Ref.Digest != before.Ref.Digest {
		t.Errorf("prod is %s, before it was %s", after.Ref.Digest, before.Ref.Digest)
	}
}

// What only the tail copies from is in the unit's recipe and among its parents,
// and not in the trunk's recipe: a change of it leaves the trunk as it is.
func TestCopyFromIsNotInTheTrunk(t *testing.T) {
	w, tools := newStagedWorkshop(t)
	d := strings.NewReplacer("PARENT", w.reg.Host+"/parent:1", "TOOLS", w.reg.Host+"/tools:1").Replace(staged)
	w.write(t, "Dockerfile", strings.Replace(d, "WORKDIR /app\n", "RUN install things\n", 1))
	prepare := func() *Pass {
		t.Helper()
		p, err := Prepare(t.Context(), w.config(t))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const prod = "prod/linux/amd64"
	p := prepare()
	before := p.Keys[prod]
	if before.Trunk.IsZero() {
		t.Fatal("prod has no trunk")
	}
	if got := parentIDs(p.Graph.Unit(prod)); !slices.Equal(got, []string{"build/linux/amd64"}) {
		t.Errorf("prod's parents are %q", got)
	}
	w.write(t, "src/main.py", "print(2)\n")
	after := prepare().Keys[prod]
	if after.Unit.ID() == before.Unit.ID() || after.Trunk.ID() != before.Trunk.ID() {
		t.Errorf("a change of the stage: unit's key changed %v, trunk's %v", after.Unit.ID() != before.Unit.ID(), after.Trunk.ID() != before.Trunk.ID())
	}
	w.reg.PushImage(t, tools, registrytest.Image{Layers: []map[string]string{{"bin/": "", "bin/helper": "new\n"}}})
	last := prepare().Keys[prod]
	if last.Unit.ID() == after.Unit.ID() || last.Trunk.ID() != before.Trunk.ID() {
		t.Errorf("a change of the image: unit's key changed %v, trunk's %v", last.Unit.ID() != after.Unit.ID(), last.Trunk.ID() != before.Trunk.ID())
	}
}

// One tail may take files from several build contexts.
func TestTailTakesFromSeveralContexts(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY src/main.py /app/\nCOPY --from=extra main.py /app/extra.py\n")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    contexts: {extra: extra}\n")
	w.write(t, "extra/main.py", "extra\n")
	_, res, _ := w.build(t)
	_, files := made(t, w, res, "app")
	if d := cmp.Diff(map[string]string{"app/main.py": "print(1)\n", "app/extra.py": "extra\n"}, files); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// What is not in the image is left to the engine, which says why.
func TestCopyFromLeavesToTheEngine(t *testing.T) {
	w, _ := newStagedWorkshop(t)
	d := strings.NewReplacer("PARENT", w.reg.Host+"/parent:1", "TOOLS", w.reg.Host+"/tools:1").Replace(staged)
	w.write(t, "Dockerfile", strings.Replace(d, "/bin/helper", "/bin/none", 1))
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	res, _ := p.Execute(t.Context())
	m := res.Units[len(res.Units)-1]
	if want := `line 6: "/bin/none" is not in ` + w.reg.Host + "/tools:1"; m.Action != plan.Build || !strings.HasSuffix(m.Reason, want) {
		t.Errorf("prod: %s because %q, want %q", m.Action, m.Reason, want)
	}
}
