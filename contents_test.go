package strata

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// imageOf pushes an image and gives it as a run sees it.
func imageOf(t *testing.T, reg *registrytest.Registry, name string, layers ...map[string]string) *picture {
	t.Helper()
	d := reg.PushImage(t, reg.Ref(name), registrytest.Image{Layers: layers})
	a := reg.Client.Lookup(t.Context(), reg.Ref(name).WithDigest(d.Digest))
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	img, err := parsePicture(a)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestContentsOf(t *testing.T) {
	reg := registrytest.New(t)
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	img := imageOf(t, reg, "x:1",
		map[string]string{"etc/": "", "etc/a": "one", "etc/same": "one", "etc/old": "old", "noise": string(noise)},
		map[string]string{"other": string(noise[:1<<19])},
		map[string]string{"etc/b": "two", "etc/old": "new", "etc/empty": ""},
	)
	inv, err := readInventory(t.Context(), reg.Client, img)
	if err != nil {
		t.Fatal(err)
	}
	reg.TakeLog()
	got, err := contentsOf(t.Context(), reg.Client, img, inv, []string{"etc/a", "/etc/same", "etc/../etc/b", "etc/old", "etc/none", "etc/a/none", "etc/empty"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"etc/a": []byte("one"), "/etc/same": []byte("one"), "etc/../etc/b": []byte("two"), "etc/old": []byte("new"), "etc/empty": {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	log := strings.Join(reg.TakeLog(), "\n")
	if strings.Contains(log, img.manifest.Layers[1].Digest.String()) {
		t.Errorf("a layer was read that holds none of them:\n%s", log)
	}
	if _, err := contentsOf(t.Context(), reg.Client, img, inv, []string{"etc"}); err == nil || !strings.Contains(err.Error(), `"/etc"`) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := contentsOf(t.Context(), reg.Client, img, inv.Small(), []string{"etc/a"}); err == nil {
		t.Error("a small inventory says nothing of contents")
	}
}

const debStanza = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n"

func TestReadPackages(t *testing.T) {
	reg := registrytest.New(t)
	status := "var/lib/dpkg/status"
	for _, tt := range []struct {
		name   string
		layers []map[string]string
		want   []string
		unread string
		reads  int // layers
	}{
		{"dpkg, the upper one counts", []map[string]string{{status: "Package: old\nVersion: 1\n"}, {"x": "y"}, {status: debStanza}, {"z": ""}}, []string{"a 1"}, "", 2},
		{"taken away", []map[string]string{{status: debStanza}, {"var/lib/.wh.dpkg": ""}}, nil, "", 2},
		{"taken away and made anew", []map[string]string{{status: debStanza}, {"var/lib/dpkg/.wh..wh..opq": "", "var/lib/dpkg/x": ""}}, nil, "", 2},
		{"a file for each package", []map[string]string{
			{"var/lib/dpkg/status.d/b": "Package: b\nVersion: 2\n", "var/lib/dpkg/status.d/c": "Package: c\nVersion: 3\n", status: ""},
			{"var/lib/dpkg/status.d/.wh.c": "", "var/lib/dpkg/status.d/b": "Package: b\nVersion: 2.1\n", "var/lib/dpkg/status.d/b.md5sums": "x"},
		}, []string{"b 2.1"}, "", 2},
		{"apk", []map[string]string{{"lib/apk/db/installed": "P:musl\nV:1.2-r0\n\n"}}, []string{"musl 1.2-r0"}, "", 1},
		{"rpm", []map[string]string{{"var/lib/rpm/rpmdb.sqlite": "SQLite"}}, nil, "not read: rpm database", 1},
		{"broken", []map[string]string{{status: "no database\n"}}, nil, "not read: /var/lib/dpkg/status: reading the dpkg database", 1},
		{"none", []map[string]string{{"x": "y"}}, nil, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := imageOf(t, reg, "p:1", tt.layers...)
			reg.TakeLog()
			c := Config{Client: reg.NewClient(registry.Options{}), Cache: t.TempDir()}
			for i := range 2 { // the second time from the cache
				got, err := readPackages(t.Context(), c, img)
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				if got.db != nil {
					for _, p := range got.db.Packages {
						names = append(names, p.Name+" "+p.Version)
					}
				}
				if diff := cmp.Diff(tt.want, names); diff != "" || !strings.HasPrefix(got.unread, tt.unread) || (tt.unread == "") != (got.unread == "") {
					t.Errorf("%s, unread %q", diff, got.unread)
				}
				if n := len(reg.TakeLog()); i == 0 && n != tt.reads || i == 1 && n != 0 {
					t.Errorf("reading %d took %d requests", i, n)
				}
			}
		})
	}
}

// TestPackagesOfAGoneImage: the layers of an image that upstream has no more are
// still in the repository of what was built on it.
func TestPackagesOfAGoneImage(t *testing.T) {
	reg := registrytest.New(t)
	img := imageOf(t, reg, "mine:1", map[string]string{"x": ""}, map[string]string{"var/lib/dpkg/status": debStanza})
	inv, err := readInventory(t.Context(), reg.Client, img)
	if err != nil {
		t.Fatal(err)
	}
	repo := reg.Ref("mine")
	if _, err := keepTraced(t.Context(), reg.Client, repo.WithTag(inventoryTag(img.desc.Digest)), inv, nil); err != nil {
		t.Fatal(err)
	}
	gone := keptLayers(t.Context(), reg.Client, repo, reg.Ref("upstream").WithDigest(img.desc.Digest))
	if gone == nil {
		t.Fatal("it was not found")
	}
	in, err := readPackages(t.Context(), Config{Client: reg.Client}, gone)
	if err != nil || in.db.Len() != 1 {
		t.Errorf("%+v, %v", in, err)
	}
	if keptLayers(t.Context(), reg.Client, repo, reg.Ref("upstream").WithDigest(ocispec.DescriptorEmptyJSON.Digest)) != nil {
		t.Error("another image was found")
	}
}
