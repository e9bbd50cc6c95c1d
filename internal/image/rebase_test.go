package image

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// files gives changes from "path" (a file), "path/" (a directory), with content
// after "=".
func files(content string, paths ...string) []inventory.Change {
	var out []inventory.Change
	for _, p := range paths {
		e := inventory.Entry{Path: p, Kind: inventory.File, Mode: 0o644, Size: 1, Content: [32]byte([]byte(digest.FromString(content + p).Encoded()[:32]))}
		if p[len(p)-1] == '/' {
			e = inventory.Entry{Path: p[:len(p)-1], Kind: inventory.Dir, Mode: 0o755}
		}
		out = append(out, inventory.Change{Entry: e})
	}
	return out
}

// stand puts one layer with the changes on a side.
func stand(t *testing.T, on Side, name, config string, changes ...inventory.Change) Side {
	t.Helper()
	blob := digest.FromString(name)
	inv, err := on.Inventory.With(blob, changes, inventory.Account{}, inventory.Account{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	below, err := parseConfig(on.Image.Config)
	if err != nil {
		t.Fatal(err)
	}
	c.set("os", "linux")
	c.set("architecture", "amd64")
	c.rootFS = ocispec.RootFS{Type: "layers", DiffIDs: append(slices.Clone(below.rootFS.DiffIDs), digest.FromString("diff "+name))}
	c.history = append(slices.Clone(below.history), ocispec.History{CreatedBy: name})
	img, err := assemble(c, append(slices.Clone(on.Image.Manifest.Layers), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: blob}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return Side{img, inv}
}

func TestRebase(t *testing.T) {
	ground := Side{Scratch(linux), inventory.Empty()}
	plain := `{"config":{"Env":["A=1","B=1"],"Labels":{"x":"1"},"Cmd":["c"]}}`
	old := stand(t, ground, "old", plain, files("old", "etc/", "etc/a", "etc/b", "lib/", "lib/x")...)
	child := stand(t, old, "child", `{"config":{"Env":["A=1","B=1","C=3"],"Labels":{"x":"1","y":"2"},"Cmd":["mine"],"User":"app"}}`,
		files("child", "app/", "app/main", "etc/", "etc/b")...)
	tests := []struct {
		name   string
		config string
		files  []inventory.Change
		want   []string // conflicts
		cfg    string   // of the result
	}{
		{"other files", `{"config":{"Env":["A=2","B=1","D=4"],"Labels":{"x":"9"},"Cmd":["c"]}}`,
			append(files("new", "etc/a", "lib/x", "lib/y"), files("old", "etc/", "etc/b", "lib/")...), nil,
			`{"Cmd":["mine"],"Env":["A=2","B=1","D=4","C=3"],"Labels":{"x":"9","y":"2"},"User":"app"}`},
		{"the same file", plain, append(files("new", "etc/b"), files("old", "etc/", "etc/a")...), []string{"/etc/b (file before, file now)"}, ""},
		{"a new file in the way", plain, append(files("new", "app/", "app/main"), files("old", "etc/", "etc/a", "etc/b")...),
			[]string{"/app (nothing before, directory now)", "/app/main (nothing before, file now)"}, ""},
		{"file removed", plain, files("old", "etc/", "etc/a"), []string{"/etc/b (file before, nothing now)"}, ""},
		{"config", `{"config":{"Env":["A=1","B=1","C=4"],"Labels":{"x":"1","y":"3"},"Cmd":["theirs"]}}`, files("old", "etc/", "etc/a", "etc/b"),
			[]string{"config Cmd", "config Env C", "config Labels y"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next := stand(t, ground, "new", tt.config, tt.files...)
			img, err := Rebase(child, old, next)
			var got []string
			if conflict := (*ConflictError)(nil); errors.As(err, &conflict) {
				for _, c := range conflict.Conflicts {
					got = append(got, c.String())
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Fatalf("conflicts (-want +got):\n%s", d)
			}
			if len(tt.want) > 0 {
				return
			}
			if d := cmp.Diff([]digest.Digest{digest.FromString("new"), digest.FromString("child")}, img.Layers()); d != "" {
				t.Errorf("layers (-want +got):\n%s", d)
			}
			c, err := parseConfig(img.Config)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.cfg, string(marshal(c.run))); d != "" {
				t.Errorf("config (-want +got):\n%s", d)
			}
			if len(c.history) != 2 || len(c.rootFS.DiffIDs) != 2 {
				t.Errorf("history %v, layers %v", c.history, c.rootFS.DiffIDs)
			}
		})
	}
	t.Run("not its parent", func(t *testing.T) {
		other := stand(t, ground, "other", plain)
		if _, err := Rebase(child, other, old); err == nil {
			t.Error("no error")
		}
	})
}

func TestRebaseSeesWhatIsHidden(t *testing.T) {
	ground := Side{Scratch(linux), inventory.Empty()}
	old := stand(t, ground, "old", `{}`, files("old", "d/", "d/x", "e/", "e/x")...)
	opaque := files("child", "d/")
	opaque[0].Opaque = true
	child := stand(t, old, "child", `{}`, append(opaque, files("child", "e")...)...)
	next := stand(t, ground, "new", `{}`, files("old", "d/", "d/x", "d/new", "e/", "e/x", "e/new")...)
	_, err := Rebase(child, old, next)
	conflict := (*ConflictError)(nil)
	if !errors.As(err, &conflict) {
		t.Fatalf("error %v", err)
	}
	var got []string
	for _, c := range conflict.Conflicts {
		got = append(got, c.Path)
	}
	if d := cmp.Diff([]string{"/d/new", "/e/new"}, got); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
}
