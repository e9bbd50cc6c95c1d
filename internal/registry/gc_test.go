package registry_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

func TestGC(t *testing.T) {
	r := registrytest.New(t)
	c := r.Client
	image := func(tag, content string) registry.Ref {
		ref := r.Inside(tag)
		d := r.PushImage(t, ref, registrytest.Image{Layers: []map[string]string{{"common": "c"}, {"f": content}}})
		a, err := c.Attach(ctx, ref, d, "test/inventory", []registry.Blob{{MediaType: "x/y", Data: []byte("inventory " + content)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// and something attached to the attachment
		if _, err := c.Attach(ctx, ref, a, "test/signature", nil, map[string]string{"of": content}); err != nil {
			t.Fatal(err)
		}
		return ref.WithDigest(d.Digest)
	}
	kept, dropped, untagged := image("app:1", "one"), image("app:2", "two"), image("app:3", "three")
	gonerRepo := image("goner/app:1", "four")
	image("app:3", "three again")
	if _, err := c.PushBytes(ctx, r.Inside("app"), "x/y", []byte("an upload without a manifest")); err != nil {
		t.Fatal(err)
	}
	keep := func(t registry.TagInfo) bool { return t.Ref.Tag != "2" && t.Ref.Repo != "goner/app" }

	// What is young stays.
	young, err := r.Embedded.GC(ctx, registry.GCOptions{})
	if diff := cmp.Diff(registry.GCResult{}, young); diff != "" || err != nil {
		t.Error(diff, err)
	}
	before, _ := r.Embedded.Usage()
	dry, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := r.Embedded.Usage(); after != before {
		t.Errorf("a dry run changed %+v to %+v", before, after)
	}
	got, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1})
	if diff := cmp.Diff(dry, got); diff != "" || err != nil {
		t.Errorf("dry run and run differ: %s %v", diff, err)
	}
	after, _ := r.Embedded.Usage()
	t.Logf("%+v, from %+v to %+v", got, before, after)
	if got.Tags < 2 || got.Manifests == 0 || got.Blobs == 0 || got.Freed == 0 {
		t.Errorf("collected %+v", got)
	}
	checkImage(t, r, kept)
	for _, ref := range []registry.Ref{dropped, untagged, gonerRepo, r.Inside("app:2")} {
		if _, err := c.Resolve(ctx, ref); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if again, err := r.Embedded.GC(ctx, registry.GCOptions{Keep: keep, MinAge: -1}); again != (registry.GCResult{}) || err != nil {
		t.Errorf("collecting again finds %+v, %v", again, err)
	}
	repos, err := r.Embedded.Repositories()
	if diff := cmp.Diff([]string{"app"}, repos); diff != "" || err != nil {
		t.Error(diff, err)
	}
	image("app:2", "two") // what was dropped can come back
	checkImage(t, r, dropped)
}

// checkImage reads an image and what is attached to it.
func checkImage(t *testing.T, r *registrytest.Registry, ref registry.Ref) {
	t.Helper()
	if _, err := r.Client.CopyImage(ctx, ref, r.Ref("copy:1")); err != nil {
		t.Errorf("reading %s: %v", ref, err)
	}
	list, err := r.Client.Referrers(ctx, ref, "test/inventory")
	if err != nil || len(list) != 1 {
		t.Fatalf("%s has %d inventories, %v", ref, len(list), err)
	}
	if _, err := r.Client.CopyImage(ctx, ref.WithDigest(list[0].Digest), r.Ref("copy:2")); err != nil {
		t.Errorf("reading an attachment of %s: %v", ref, err)
	}
	if list, err = r.Client.Referrers(ctx, ref.WithDigest(list[0].Digest), ""); err != nil || len(list) != 1 {
		t.Errorf("%s: %d signatures, %v", ref, len(list), err)
	}
	for _, tag := range []string{"1", "2"} {
		if err := r.Client.Delete(ctx, r.Ref("copy:"+tag)); err != nil {
			t.Error(err)
		}
	}
	if err := removeRepo(r, "copy"); err != nil {
		t.Error(err)
	}
}

// removeRepo takes a repository away as a user would who knows the layout.
func removeRepo(r *registrytest.Registry, repo string) error {
	return os.RemoveAll(filepath.Join(r.Embedded.Dir(), "docker/registry/v2/repositories", repo))
}
