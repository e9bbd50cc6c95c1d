package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// layers of the tests are written as text: a line an entry. "etc/" is a
// directory, "etc/a text" a file, "etc/l -> a" a link, "etc/h => etc/a" a hard
// link, "-etc/a" a whiteout, "-etc/" an opaque directory; "0755 " in front sets
// the mode.
func layerTar(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	times := int64(len(text)) // so that two layers have different ones
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		times += 60
		h := &tar.Header{Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(times, 0)}
		if mode, rest, ok := strings.Cut(line, " "); ok && len(mode) == 4 && mode[0] == '0' {
			for _, c := range mode {
				h.Mode = h.Mode<<3 | int64(c-'0')
			}
			h.Mode &= 0o7777
			line = rest
		} else if strings.HasSuffix(line, "/") {
			h.Mode = 0o755
		}
		name, data, _ := strings.Cut(line, " ")
		h.Name = name
		switch {
		case strings.HasPrefix(line, "-") && strings.HasSuffix(name, "/"):
			h.Name = name[1:] + opaqueMarker
		case strings.HasPrefix(line, "-"):
			dir, file := name[1:], ""
			if i := strings.LastIndex(dir, "/"); i >= 0 {
				dir, file = dir[:i+1], dir[i+1:]
			} else {
				dir, file = "", dir
			}
			h.Name = dir + whiteoutPrefix + file
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(data, "-> "):
			h.Typeflag, h.Linkname, data = tar.TypeSymlink, data[3:], ""
		case strings.HasPrefix(data, "=> "):
			h.Typeflag, h.Linkname, data = tar.TypeLink, data[3:], ""
		}
		data = strings.ReplaceAll(data, `\n`, "\n")
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// built is an image of the tests with the contents of its layers.
type built struct {
	Side
	layers [][]byte
	trace  *inventory.Trace // of what was put on the image below
}

var nothing = built{Side: Side{Scratch(linux), inventory.Empty()}}

// on puts layers on an image, with another config.
func (b built) on(t *testing.T, config string, layers ...string) built {
	t.Helper()
	out := built{layers: slices.Clone(b.layers)}
	c, err := parseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	below, err := parseConfig(b.Image.Config)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"os": "linux", "architecture": "amd64"} {
		if c.top[k] == nil {
			c.set(k, v)
		}
	}
	c.rootFS = ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(below.rootFS.DiffIDs)}
	c.history = slices.Clone(below.history)
	descs := slices.Clone(b.Image.Manifest.Layers)
	var lists []inventory.Layer
	for _, text := range layers {
		data := layerTar(t, text)
		d := digest.FromBytes(data)
		out.layers = append(out.layers, data)
		descs = append(descs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(data))})
		c.rootFS.DiffIDs = append(c.rootFS.DiffIDs, d)
		c.history = append(c.history, ocispec.History{CreatedBy: text})
		lists = append(lists, inventory.Layer{Blob: d, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }})
	}
	if out.Image, err = assemble(c, descs, nil); err != nil {
		t.Fatal(err)
	}
	if out.Inventory, out.trace, err = inventory.FromLayersTraced(t.Context(), b.Inventory, lists); err != nil {
		t.Fatal(err)
	}
	return out
}

// contents gives what files of the image hold.
func (b built) contents(t *testing.T, paths []string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, p := range paths {
		e := b.Inventory.Lookup(p)
		_, err := inventory.Pick(t.Context(), inventory.Layer{Blob: b.Inventory.Blobs()[e.Blob], Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b.layers[e.Blob])), nil
		}}, []*inventory.Entry{&e}, func(_ [32]byte, r io.Reader) (err error) {
			out[p], err = io.ReadAll(r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// rebase puts the child on another parent. The inventory that it gives has to
// be what is read from the layers.
func rebase(t *testing.T, child, old, next built) (*Rebased, error) {
	t.Helper()
	r, err := Rebase(child.Side, old.Side, next.Side, child.trace, RebaseOptions{})
	if err != nil {
		return nil, err
	}
	c, o, n := r.Wants()
	done, err := r.Finish(child.contents(t, c), old.contents(t, o), next.contents(t, n))
	if err != nil {
		return nil, err
	}
	all := append(slices.Clone(next.layers), child.layers[len(old.layers):]...)
	if done.Replaces {
		all = all[:len(all)-1]
	}
	if done.Layer != nil {
		all = append(all, done.Data)
	}
	var lists []inventory.Layer
	for i, d := range done.Image.Layers() {
		lists = append(lists, inventory.Layer{Blob: d, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(all[i])), nil }})
	}
	read, err := inventory.FromLayers(t.Context(), nil, lists)
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := inventory.Diff(read, done.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	for e := range done.Inventory.All() {
		if is := read.Lookup(e.Path); is.Time != e.Time {
			t.Errorf("%s is of %d, and the inventory says %d", e.Path, is.Time, e.Time)
		}
	}
	for _, d := range diffs {
		t.Errorf("the inventory has %s, the layers have %s", &d.After, &d.Before)
	}
	return done, nil
}

func conflictsOf(t *testing.T, err error) []string {
	t.Helper()
	conflict := (*ConflictError)(nil)
	if !errors.As(err, &conflict) {
		if err != nil {
			t.Fatal(err)
		}
		return nil
	}
	var out []string
	for _, c := range conflict.Conflicts {
		out = append(out, c.String())
	}
	return out
}

func TestRebaseConfig(t *testing.T) {
	const plain = `{"config":{"Env":["A=1","B=1"],"Labels":{"x":"1"},"Cmd":["c"],"Hostname":"h"}}`
	old := nothing.on(t, plain, "etc/\netc/a 1")
	child := old.on(t, `{"author":"me","config":{"Env":["A=1","B=1","C=3"],"Labels":{"x":"1","y":"2"},"Cmd":["mine"],"User":"app"}}`, "app 1")
	tests := []struct {
		name, config string
		want         []string
		cfg          string
	}{
		{"other fields", `{"config":{"Env":["A=2","B=1","D=4"],"Labels":{"x":"9"},"Cmd":["c"],"Image":"sha256:1"}}`, nil,
			`{"Cmd":["mine"],"Env":["A=2","B=1","D=4","C=3"],"Labels":{"x":"9","y":"2"},"User":"app"}`},
		{"the same fields", `{"config":{"Env":["A=1","C=4"],"Labels":{"x":"1","y":"3"},"Cmd":["theirs"]}}`,
			[]string{"config changed by both: Cmd", "config changed by both: Env C", "config changed by both: Labels y"}, ""},
		{"the same change", `{"config":{"Env":["A=1","B=1","C=3"],"Labels":{"x":"1"},"Cmd":["mine"],"Entrypoint":null,"User":""}}`, nil,
			`{"Cmd":["mine"],"Entrypoint":null,"Env":["A=1","B=1","C=3"],"Labels":{"x":"1","y":"2"},"User":"app"}`},
		{"another user", `{"config":{"User":"other"}}`, []string{"config changed by both: Cmd", "config changed by both: User"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := rebase(t, child, old, nothing.on(t, tt.config, "etc/\netc/a 2"))
			if d := cmp.Diff(tt.want, conflictsOf(t, err)); d != "" {
				t.Fatalf("conflicts (-want +got):\n%s", d)
			}
			if len(tt.want) > 0 {
				return
			}
			c, err := parseConfig(img.Image.Config)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.cfg, string(marshal(c.run))); d != "" {
				t.Errorf("config (-want +got):\n%s", d)
			}
			if len(c.history) != 2 || len(c.rootFS.DiffIDs) != 2 || string(c.top["author"]) != `"me"` {
				t.Errorf("history %v, layers %v, author %s", c.history, c.rootFS.DiffIDs, c.top["author"])
			}
		})
	}
}

// Each case is the old parent's files, the child's layers, the new parent's
// files, and what is in the way or, where nothing is, what stands in the image.
func TestRebaseFiles(t *testing.T) {
	const dpkg = "var/\nvar/lib/\nvar/lib/dpkg/\n"
	pkg := func(name, version string) string {
		return `Package: ` + name + `\nStatus: install ok installed\nArchitecture: amd64\nVersion: ` + version + `\n\n`
	}
	tests := []struct {
		name  string
		old   string
		child []string
		new   string
		want  []string // conflicts
		files string   // "path=content;..." of what is checked; "path=" is nothing, "path" anything
	}{
		{"other files", "a 1\nb 1", []string{"c 1"}, "a 2\nb 1\nd 1", nil, "a=2;b=1;c=1;d=1"},
		{"the same file", "a 1", []string{"a 2"}, "a 3", []string{"/a: both changed (file before, file in the new parent)"}, ""},
		{"the same file, the same", "a 1", []string{"a 2"}, "a 2", nil, "a=2"},
		{"both added", "a 1", []string{"d/\nd/b 1"}, "a 1\nd/\nd/b 2", []string{"/d/b: both changed (nothing before, file in the new parent)"}, ""},
		{"the new parent removed it", "a 1\nb 1", []string{"a 2"}, "b 1", []string{"/a: deleted under (file before, nothing in the new parent, file in the image)"}, ""},
		{"the child removed it", "a 1", []string{"-a"}, "a 2", []string{"/a: deleted under (file before, file in the new parent, nothing in the image)"}, ""},
		{"both removed it", "a 1\nb 1", []string{"-a"}, "b 2", nil, "a=;b=2"},
		{"the child removed what stays", "a 1\nb 1", []string{"-a"}, "a 1\nb 2", nil, "a=;b=2"},
		{"written and removed, then added below", "a 1", []string{"t 1", "-t"}, "a 1\nt 2",
			[]string{"/t: deleted under (nothing before, file in the new parent, nothing in the image)"}, ""},
		{"an opaque directory", "d/\nd/x 1", []string{"d/\n-d/"}, "d/\nd/x 1\nd/y 1",
			[]string{"/d/y: deleted under (nothing before, file in the new parent, nothing in the image)"}, ""},
		{"an opaque directory with something in it", "d/\nd/x 1", []string{"d/\n-d/\nd/x 1"}, "d/\nd/x 1\nd/y 1",
			[]string{"/d/y: deleted under (nothing before, file in the new parent, nothing in the image)"}, ""},
		{"a directory that became a file", "d/\nd/x 1", []string{"d f"}, "d/\nd/x 1\nd/y 1",
			[]string{"/d/y: deleted under (nothing before, file in the new parent, nothing in the image)"}, ""},
		{"a file where the new parent has a directory", "a 1", []string{"d f"}, "a 1\nd/\nd/y 1",
			[]string{"/d: both changed (nothing before, directory in the new parent)", "/d/y: deleted under (nothing before, file in the new parent, nothing in the image)"}, ""},
		{"a directory that became a link", "lib/\nlib/x 1", []string{"lib/y 1"}, "usr/\nusr/lib/\nusr/lib/x 1\nlib -> usr/lib",
			[]string{"/lib: deleted under (the image has /lib/y below it)"}, ""},
		{"a directory's mode", "d/", []string{"d/\nd/x 1"}, "0700 d/", nil, "d/x=1"},
		{"a directory's mode, changed by both", "d/", []string{"0711 d/\nd/x 1"}, "0700 d/", []string{"/d: both changed (directory before, directory in the new parent)"}, ""},
		{"a file's mode", "a 1", []string{"0600 a 1"}, "0640 a 1", []string{"/a: both changed (file before, file in the new parent)"}, ""},
		{"a file written as it was", "a 1", []string{"a 1"}, "a 2", nil, "a=2"},
		{"a file written as it was, now gone", "a 1\nb 1", []string{"a 1"}, "b 1", nil, "a=;b=1"},
		{"a hard link to what changed", "a 1", []string{"h => a"}, "a 2", []string{"/a: both changed (the image has a hard link to it)"}, ""},
		{"a hard link to what stays", "a 1\nb 1", []string{"h => a"}, "a 1\nb 2", nil, "h=1;b=2"},
		{"logs and package lists", "var/\nvar/log/\nvar/log/l 1", []string{"var/log/l 2"}, "var/\nvar/log/\nvar/log/l 3", nil, "var/log/l=2"},
		{"the index of apt", "var/\nvar/cache/\nvar/cache/apt/\nvar/cache/apt/pkgcache.bin 1", []string{"var/cache/apt/pkgcache.bin 2"},
			"var/\nvar/cache/\nvar/cache/apt/\nvar/cache/apt/pkgcache.bin 3", nil, "var/cache/apt/pkgcache.bin="},
		{"compiled Python of a source that changed", "p/\np/m.py 1\np/n.py 1", []string{"p/__pycache__/\np/__pycache__/m.cpython-311.pyc 1\np/__pycache__/n.cpython-311.pyc 1"},
			"p/\np/m.py 2\np/n.py 1", nil, "p/m.py=2;p/__pycache__/m.cpython-311.pyc=;p/__pycache__/n.cpython-311.pyc=1"},
		{"packages of both", dpkg + "var/lib/dpkg/status " + pkg("a", "1") + pkg("m", "1"), []string{"var/lib/dpkg/status " + pkg("a", "1") + pkg("b", "1") + pkg("m", "1")},
			dpkg + "var/lib/dpkg/status " + pkg("a", "2") + pkg("m", "1"), nil, "var/lib/dpkg/status=" + pkg("a", "2") + pkg("b", "1") + pkg("m", "1")},
		{"the same package", dpkg + "var/lib/dpkg/status " + pkg("a", "1"), []string{"var/lib/dpkg/status " + pkg("a", "3")}, dpkg + "var/lib/dpkg/status " + pkg("a", "2"),
			[]string{"/var/lib/dpkg/status: package database touched by both (a:amd64: it was 1, the new parent has 2, and the image 3)"}, ""},
		{"a package that goes back", dpkg + "var/lib/dpkg/status " + pkg("a", "2"), []string{"var/lib/dpkg/status " + pkg("a", "2") + pkg("b", "1")}, dpkg + "var/lib/dpkg/status " + pkg("a", "1"),
			[]string{"/var/lib/dpkg/status: package database touched by both (a:amd64: the new parent goes back from 2 to 1)"}, ""},
		{"a database that can't be read", dpkg + "var/lib/dpkg/status " + pkg("a", "1"), []string{"var/lib/dpkg/status x"}, dpkg + "var/lib/dpkg/status " + pkg("a", "2"),
			[]string{"/var/lib/dpkg/status: package database touched by both (reading the dpkg database: the package in line 1: the line \"x\" is no field)"}, ""},
		{"the database removed", dpkg + "var/lib/dpkg/status " + pkg("a", "1"), []string{"-var/lib/dpkg/status"}, dpkg + "var/lib/dpkg/status " + pkg("a", "2"),
			[]string{"/var/lib/dpkg/status: package database touched by both (file before, file in the new parent, nothing in the image)"}, ""},
		{"files of one package", dpkg + "var/lib/dpkg/info/\nvar/lib/dpkg/info/a.list 1", []string{"var/lib/dpkg/info/a.list 2"}, dpkg + "var/lib/dpkg/info/\nvar/lib/dpkg/info/a.list 3",
			[]string{"/var/lib/dpkg/info/a.list: package database touched by both (file before, file in the new parent)"}, ""},
		{"one file a package", dpkg + "var/lib/dpkg/status.d/\nvar/lib/dpkg/status.d/a 1", []string{"var/lib/dpkg/status.d/b 1"}, dpkg + "var/lib/dpkg/status.d/\nvar/lib/dpkg/status.d/a 2", nil,
			"var/lib/dpkg/status.d/a=2;var/lib/dpkg/status.d/b=1"},
		{"debconf's questions", "var/\nvar/cache/\nvar/cache/debconf/\nvar/cache/debconf/config.dat " + `Name: a\nValue: 1\n\nName: c\nValue: 1\n\n`,
			[]string{"var/cache/debconf/config.dat " + `Name: a\nValue: 1\n\nName: b\nValue: 1\n\nName: c\nValue: 1\n\n`},
			"var/\nvar/cache/\nvar/cache/debconf/\nvar/cache/debconf/config.dat " + `Name: a\nValue: 2\n\nName: c\nValue: 1\n\n`, nil,
			"var/cache/debconf/config.dat=" + `Name: a\nValue: 2\n\nName: b\nValue: 1\n\nName: c\nValue: 1\n\n`},
		{"apk's world", "etc/\netc/apk/\netc/apk/world " + `a\nc\n`, []string{"etc/apk/world " + `a\nb\nc\n`}, "etc/\netc/apk/\netc/apk/world " + `c\nd\n`, nil,
			"etc/apk/world=" + `b\nc\nd\n`},
		{"apk's scripts", "lib/\nlib/apk/\nlib/apk/db/\nlib/apk/db/scripts.tar 1", []string{"lib/apk/db/scripts.tar 2"}, "lib/\nlib/apk/\nlib/apk/db/\nlib/apk/db/scripts.tar 3",
			[]string{"/lib/apk/db/scripts.tar: package database touched by both (file before, file in the new parent)"}, ""},
		{"users of both", "etc/\netc/passwd a", []string{"etc/passwd ab"}, "etc/\netc/passwd ac", []string{"/etc/passwd: both changed (file before, file in the new parent)"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old := nothing.on(t, `{}`, tt.old)
			done, err := rebase(t, old.on(t, `{}`, tt.child...), old, nothing.on(t, `{}`, tt.new))
			if d := cmp.Diff(tt.want, conflictsOf(t, err)); d != "" {
				t.Fatalf("conflicts (-want +got):\n%s", d)
			}
			for _, f := range strings.Split(tt.files, ";") {
				p, data, ok := strings.Cut(f, "=")
				if !ok {
					continue
				}
				e := done.Inventory.Lookup(p)
				data = strings.ReplaceAll(data, `\n`, "\n")
				if (e.Kind == inventory.None) != (data == "") || data != "" && e.Digest() != digest.FromString(data) {
					t.Errorf("%s is %s, want %q", p, &e, data)
				}
			}
		})
	}
}

func TestRebaseGuards(t *testing.T) {
	old := nothing.on(t, `{}`, "a 1")
	child := old.on(t, `{}`, "b 1")
	next := nothing.on(t, `{}`, "a 2")
	other := nothing.on(t, `{}`, "c 1")
	tests := []struct {
		name             string
		child, old, next built
		options          RebaseOptions
		want             string
	}{
		{"not its parent", child, other, next, RebaseOptions{}, "the image does not stand on its old parent's layers"},
		{"another architecture", child, old, nothing.on(t, `{"architecture":"arm64"}`, "a 2"), RebaseOptions{}, "the new parent is for another platform"},
		{"another variant", child, old, nothing.on(t, `{"variant":"v3"}`, "a 2"), RebaseOptions{}, "the new parent is for another platform"},
		{"another system", child, nothing.on(t, `{"os":"windows"}`, "a 1"), next, RebaseOptions{}, "the old parent is for another platform"},
		{"too many layers", child, old, next, RebaseOptions{MaxLayers: 2}, "the image would have up to 3 layers, and 2 is the limit"},
		{"another inventory", built{Side: Side{child.Image, other.Inventory}, trace: child.trace}, old, next, RebaseOptions{}, "an inventory is not that of its image"},
		{"another trace", built{Side: child.Side, trace: other.trace}, old, next, RebaseOptions{}, "telling an image from its base: the trace is of other layers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Rebase(tt.child.Side, tt.old.Side, tt.next.Side, tt.child.trace, tt.options)
			var inexact *NotExact
			if !errors.As(err, &inexact) || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	t.Run("another system for all", func(t *testing.T) {
		old := nothing.on(t, `{"os":"windows"}`, "a 1")
		child, next := old.on(t, `{"os":"windows"}`, "b 1"), nothing.on(t, `{"os":"windows"}`, "a 2")
		if _, err := Rebase(child.Side, old.Side, next.Side, child.trace, RebaseOptions{}); err == nil || err.Error() != "the image is not for Linux" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another history", func(t *testing.T) {
		forged := old
		c, err := parseConfig(old.Image.Config)
		if err != nil {
			t.Fatal(err)
		}
		c.history[0].CreatedBy = "something else"
		if forged.Image, err = assemble(c, old.Image.Manifest.Layers, nil); err != nil {
			t.Fatal(err)
		}
		_, err = Rebase(child.Side, forged.Side, next.Side, child.trace, RebaseOptions{})
		if want := "the image's history is not that of its old parent and more"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	t.Run("a small inventory", func(t *testing.T) {
		small := Side{child.Image, child.Inventory.Small()}
		if _, err := Rebase(small, old.Side, next.Side, child.trace, RebaseOptions{}); !errors.Is(err, inventory.ErrNeedFull) {
			t.Errorf("got %v", err)
		}
	})
}

// An image can be rebased again and again, with what was merged before, and its
// layers do not pile up.
func TestRebaseAgainAndAgain(t *testing.T) {
	status := func(versions ...string) string {
		var b strings.Builder
		for i, v := range versions {
			b.WriteString("Package: " + string(rune('a'+i)) + `\nStatus: install ok installed\nArchitecture: amd64\nVersion: ` + v + `\n\n`)
		}
		return b.String()
	}
	const head = "x/\nx/__pycache__/\nvar/\nvar/lib/\nvar/lib/dpkg/\nvar/cache/\nvar/cache/apt/\nvar/cache/apt/pkgcache.bin 1\n"
	parents := []struct{ files, status, more string }{
		{"x/m.py 1", status("1", "1"), "1"},
		{"x/m.py 1", status("2", "1"), "1"}, // merged
		{"x/m.py 2", status("2", "1"), "1"}, // carried, and compiled Python goes
		{"x/m.py 2", status("2", "5"), "2"}, // merged again, and a file is restored
		{"x/m.py 2\ny 1", status("2", "5"), "2"},
		{"x/m.py 2\ny 1", status("6", "5"), "3"},
	}
	parent := func(i int) built {
		p := parents[i]
		return nothing.on(t, `{}`, head+p.files+"\nmore "+p.more+"\nvar/lib/dpkg/status "+p.status)
	}
	old := parent(0)
	child := old.on(t, `{}`, "x/__pycache__/m.cpython-311.pyc 1\nmore 1", "var/cache/apt/pkgcache.bin 2\nvar/lib/dpkg/status "+status("1", "1", "7"))
	for i := 1; i < len(parents); i++ {
		next := parent(i)
		done, err := rebase(t, child, old, next)
		if err != nil {
			t.Fatalf("parent %d: %v", i, err)
		}
		if n := len(done.Image.Layers()); n != 4 {
			t.Errorf("parent %d: the image has %d layers, want the parent's, two of its own and what was merged", i, n)
		}
		c, err := parseConfig(done.Image.Config)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.history) != 4 || len(c.rootFS.DiffIDs) != 4 {
			t.Errorf("parent %d: the history has %d entries for %d layers", i, len(c.history), len(c.rootFS.DiffIDs))
		}
		want := strings.ReplaceAll(parents[i].status+status("1", "1", "7")[len(status("1", "1")):], `\n`, "\n")
		for p, text := range map[string]string{"var/lib/dpkg/status": want, "more": parents[i].more, "var/cache/apt/pkgcache.bin": ""} {
			e := done.Inventory.Lookup(p)
			if (e.Kind == inventory.None) != (text == "") || text != "" && e.Digest() != digest.FromString(text) {
				t.Errorf("parent %d: %s is %s, want %q", i, p, &e, text)
			}
		}
		if gone := done.Inventory.Lookup("x/__pycache__/m.cpython-311.pyc").Kind == inventory.None; gone != (i > 1) {
			t.Errorf("parent %d: compiled Python is gone: %t", i, gone)
		}
		own := slices.Clone(child.layers[1:])
		if done.Replaces {
			own = own[:len(own)-1]
		}
		child = built{Side: Side{done.Image, done.Inventory}, trace: done.Trace, layers: append(append(slices.Clone(next.layers), own...), done.Data)}
		old = next
	}
}
