package strata

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// What is old and stands under no tag goes, with what is attached to it; images of
// tagged indexes stay, and a build afterwards has everything it had.
func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	for _, push := range []bool{true, false} {
		t.Run(fmt.Sprintf("push %v", push), func(t *testing.T) {
			o := newOrchard(t, push)
			old, released := o.grow(t, "dev"), o.grow(t, "1.0")
			for range stepsBack { // so that no way back leads to the first ones
				o.grow(t, "dev")
			}
			last := o.grow(t, "dev")
			live, dead := o.sbom(t, released[amd]), o.sbom(t, old[amd])
			if x := o.prune(t, 0, PruneOptions{}); !x.Plan.Empty() {
				t.Errorf("right away %v would go", going(x.Plan))
			}
			x := o.prune(t, 40, PruneOptions{})
			if x.Plan.Empty() || !slices.Contains(going(x.Plan), "image "+amd) || slices.Contains(going(x.Plan), "record") {
				t.Fatalf("after 40 days %v would go", going(x.Plan))
			}
			done := o.apply(t, x)
			if !push {
				before, err := o.reg.Embedded.Usage()
				if err != nil {
					t.Fatal(err)
				}
				got, err := x.Collect(t.Context(), o.reg.Embedded, 0, -1)
				if after, _ := o.reg.Embedded.Usage(); err != nil || after.Bytes >= before.Bytes || got.Freed == 0 {
					t.Errorf("collecting garbage freed %d, from %d to %d: %v", got.Freed, before.Bytes, after.Bytes, err)
				}
			} else if done.Manifests != x.Plan.Going() || done.Tags == 0 {
				t.Errorf("%+v was deleted of %d manifests", done, x.Plan.Going())
			}
			for name, c := range map[string]struct {
				d    digest.Digest
				want bool
			}{
				"old": {old[amd], false}, "old on arm64": {old[arm], false}, "released": {released[amd], true}, "released on arm64": {released[arm], true},
				"last": {last[amd], true}, "what is attached to the released": {live, true}, "what is attached to the old": {dead, false},
			} {
				if got := o.there(t, c.d); got != c.want {
					t.Errorf("%s is there: %v", name, got)
				}
			}
			for _, tag := range []string{"latest", "1.0", "dev", "latest-arm64"} {
				if err := wholeImage(t.Context(), o.reg.Client.Direct(), o.repo().WithTag(tag)); err != nil {
					t.Errorf("the tag %s: %v", tag, err)
				}
			}
			list, err := o.reg.Client.Referrers(t.Context(), o.repo().WithDigest(released[amd]), "application/spdx+json")
			if err != nil || len(list) != 1 {
				t.Errorf("the released has %d attachments, %v", len(list), err)
			}
			if x := o.prune(t, 40, PruneOptions{}); !x.Plan.Empty() {
				t.Errorf("once more %v would go", going(x.Plan))
			}
			p, err := Prepare(t.Context(), o.config(t, "dev"))
			if err != nil {
				t.Fatal(err)
			}
			if got := actions(p); got != "app reuse, app reuse" {
				t.Errorf("a build afterwards: %s", got)
			}
		})
	}
}

// A build that has seen an image, and tags it while the plan to delete it is
// carried out, keeps it.
func TestPruneSparesWhatComesIntoUse(t *testing.T) {
	for _, push := range []bool{true, false} {
		o := newOrchard(t, push)
		first := o.grow(t, "dev")
		for range stepsBack + 1 {
			o.grow(t, "dev")
		}
		x := o.prune(t, 40, PruneOptions{})
		if x.Plan.Live(o.repo().String(), first[amd]) {
			t.Fatal("the first image would stay")
		}
		o.runs = 0
		if again := o.grow(t, "2.0"); again[amd] != first[amd] { // reuses it
			t.Fatalf("the first image was made again as %s", again[amd])
		}
		done := o.apply(t, x)
		if !push {
			if _, err := x.Collect(t.Context(), o.reg.Embedded, 0, -1); err != nil {
				t.Fatal(err)
			}
		}
		if done.Spared < 2 {
			t.Errorf("push %v: %d were spared", push, done.Spared)
		}
		for _, tag := range []string{"2.0", "latest"} {
			if err := wholeImage(t.Context(), o.reg.Client.Direct(), o.repo().WithTag(tag)); err != nil {
				t.Errorf("push %v: the tag %s: %v", push, tag, err)
			}
		}
	}
}

// What a promotion names stays as long as the history does, even where no tag
// leads to it any more; also when only the store's garbage is collected.
func TestPruneKeepsTheWayBack(t *testing.T) {
	for _, push := range []bool{true, false} {
		o := newOrchard(t, push)
		o.grow(t, "dev")
		a := o.reg.Client.Direct().Lookup(t.Context(), o.repo().WithTag("latest"))
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		id, err := record.NewID(time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text, err := journal.Record{
			ID: id, Kind: journal.Promote, State: journal.Done, Channel: "stable", Started: time.Now(), Finished: time.Now(),
			Moves: []journal.Move{{Image: "app", Tag: "stable", Digest: digest.FromString("now"), Previous: a.Desc.Digest}},
		}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := o.reg.Client.EnsureEmpty(t.Context(), o.repo()); err != nil {
			t.Fatal(err)
		}
		if _, err := o.reg.Client.PutArtifact(t.Context(), o.repo().WithTag(journal.Tag(id)), ocispec.Descriptor{}, journal.ArtifactType, nil,
			map[string]string{journal.Annotation: string(text)}); err != nil {
			t.Fatal(err)
		}
		for range stepsBack + 1 {
			o.grow(t, "dev")
		}
		if push {
			o.apply(t, o.prune(t, 60, PruneOptions{}))
		} else {
			held, err := KeptByHistory(t.Context(), o.reg.Client, o.reg.Embedded, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.reg.Embedded.GC(t.Context(), registry.GCOptions{Hold: held, MinAge: -1}); err != nil {
				t.Fatal(err)
			}
		}
		if !o.there(t, a.Desc.Digest) {
			t.Errorf("push %v: the way back of the promotion is gone", push)
		}
	}
}

// The user's tags go only where a pattern says so, and never those that a build
// moves.
func TestPruneOfTags(t *testing.T) {
	o := newOrchard(t, true)
	dev := o.grow(t, "1.0-3-gabcdef")
	released := o.grow(t, "1.0")
	for range stepsBack + 1 {
		o.grow(t, "now")
	}
	opts := PruneOptions{Tags: []string{"*-g*", "latest*", "now*"}, After: 90 * 24 * time.Hour}
	if x := o.prune(t, 80, opts); len(x.Plan.Expired) > 0 {
		t.Errorf("after 80 days %v would go", x.Plan.Expired)
	}
	x := o.prune(t, 100, opts)
	var names []string
	for _, e := range x.Plan.Expired {
		names = append(names, e.Name)
	}
	if diff := cmp.Diff([]string{"1.0-3-gabcdef", "1.0-3-gabcdef-amd64", "1.0-3-gabcdef-arm64"}, names); diff != "" {
		t.Fatal(diff)
	}
	o.apply(t, x)
	if o.there(t, dev[amd]) || !o.there(t, released[arm]) {
		t.Error("the wrong images are gone")
	}
	tags, err := o.reg.Client.Tags(t.Context(), o.repo())
	if err != nil || slices.ContainsFunc(tags, func(s string) bool { return strings.Contains(s, "gabcdef") }) {
		t.Errorf("the tags are %v, %v", tags, err)
	}
}

// A registry that deletes manifests and not tags is pruned all the same.
func TestPruneWithoutDeletingTags(t *testing.T) {
	o := newOrchard(t, true)
	old := o.grow(t, "dev")
	for range stepsBack + 1 {
		o.grow(t, "dev")
	}
	o.reg = registrytest.With(t, registrytest.Options{Dir: o.reg.Embedded.Dir(), Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && !strings.Contains(r.URL.Path, "sha256:") {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	o.write(t, "strata.yaml", strings.ReplaceAll(twoPlatforms, "HOST", o.reg.Host))
	done := o.apply(t, o.prune(t, 40, PruneOptions{}))
	if done.Manifests == 0 || o.there(t, old[amd]) {
		t.Errorf("%+v was deleted", done)
	}
	if x := o.prune(t, 40, PruneOptions{}); !x.Plan.Empty() {
		t.Errorf("once more %v would go", going(x.Plan))
	}
}

// A registry that deletes nothing says so before anything is changed.
func TestPruneOfARegistryThatDoesNotDelete(t *testing.T) {
	o := newOrchard(t, true)
	o.grow(t, "dev")
	for range stepsBack + 1 {
		o.grow(t, "dev")
	}
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": {"rootdirectory": o.reg.Embedded.Dir()}, "maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = "x"
	app := handlers.NewApp(t.Context(), config)
	server := httptest.NewServer(app)
	t.Cleanup(func() { server.Close(); app.Shutdown() })
	o.write(t, "strata.yaml", strings.ReplaceAll(twoPlatforms, "HOST", strings.TrimPrefix(server.URL, "http://")))
	x := o.prune(t, 40, PruneOptions{})
	if x.Plan.Empty() {
		t.Fatal("there is nothing to prune")
	}
	before, _ := o.reg.Embedded.Usage()
	_, err := x.Execute(t.Context(), nil)
	if !errors.Is(err, registry.ErrNoDelete) || !strings.Contains(diag.HintOf(err), "delete: {enabled: true}") {
		t.Errorf("%v\n%s", err, diag.HintOf(err))
	}
	if after, _ := o.reg.Embedded.Usage(); after != before {
		t.Errorf("%+v became %+v", before, after)
	}
}

// Each tag and each manifest costs a request, and no more.
func TestPruneAsksLittle(t *testing.T) {
	o := newOrchard(t, true)
	for range 4 {
		o.grow(t, "dev")
	}
	c := o.config(t, "dev")
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	c.Client.Meter().Reset()
	x, err := p.Prune(t.Context(), PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	indexes := 0
	for _, i := range x.Plan.Items {
		if i.Kind == prune.Index {
			indexes++
		}
	}
	if got := c.Client.Meter().Total(); got.Requests > int64(x.Tags+indexes+1) || x.Tags < 15 {
		t.Errorf("%d requests for %d tags and %d indexes", got.Requests, x.Tags, indexes)
	}
}

// Killed at any request, the same prune again comes to the same end.
func TestPruneBrokenOff(t *testing.T) {
	for stop := 0; ; stop++ {
		o := newOrchard(t, true)
		old := o.grow(t, "dev")
		for range stepsBack + 1 {
			o.grow(t, "dev")
		}
		dead := o.sbom(t, old[arm])
		x := o.prune(t, 40, PruneOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := x.Execute(ctx, func(n, total int) {
			if n > stop {
				cancel()
			}
		})
		cancel()
		for _, tag := range []string{"latest", "dev", "dev-arm64"} {
			if err := wholeImage(t.Context(), o.reg.Client, o.repo().WithTag(tag)); err != nil {
				t.Fatalf("broken off after %d: the tag %s: %v", stop, tag, err)
			}
		}
		o.apply(t, o.prune(t, 40, PruneOptions{}))
		if o.there(t, old[amd]) || o.there(t, old[arm]) || o.there(t, dead) {
			t.Fatalf("broken off after %d: the old images are still there", stop)
		}
		if err == nil {
			if stop < 5 {
				t.Errorf("there were only %d deletions", stop)
			}
			return
		}
		stop += 4
	}
}

// Builds and a prune at the same time: each build comes through, and no tag leads
// to anything that is not there.
func TestPruneBesideBuilds(t *testing.T) {
	for _, push := range []bool{true, false} {
		o := newOrchard(t, push)
		for range stepsBack + 4 {
			o.grow(t, "dev")
		}
		const grace = 3 * time.Second
		time.Sleep(grace + time.Second) // artifacts tell whole seconds
		before := o.runs
		x := o.prune(t, 0, PruneOptions{Older: time.Millisecond, Grace: grace})
		if x.Plan.Empty() {
			t.Fatal("there is nothing to prune")
		}
		ended := make(chan error, 1)
		go func() {
			done, err := x.Execute(t.Context(), nil)
			if err == nil && done.Tags == 0 {
				err = errors.New("nothing was deleted")
			}
			ended <- err
		}()
		for i := range 4 {
			o.runs = before + i // the first is what latest is already
			o.grow(t, fmt.Sprint("beside-", i))
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		tags, err := o.reg.Client.Tags(t.Context(), o.repo())
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range tags {
			if err := wholeImage(t.Context(), o.reg.Client.Direct(), o.repo().WithTag(tag)); err != nil {
				t.Errorf("push %v: the tag %s: %v", push, tag, err)
			}
		}
	}
}

// Where the registry has the referrers API, what is attached to an image has no
// tag: it goes with the image all the same, and what is attached to that as well.
func TestPruneAsksForAttachments(t *testing.T) {
	o := newOrchard(t, true)
	dead := o.grow(t, "dev")
	for range stepsBack + 1 {
		o.grow(t, "dev")
	}
	live := o.grow(t, "1.0")
	lists := map[string]ocispec.Index{} // by what they are attached to
	o.reg = registrytest.With(t, registrytest.Options{Dir: o.reg.Embedded.Dir(), Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, of, ok := strings.Cut(r.URL.Path, "/referrers/")
			if !ok {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			json.NewEncoder(w).Encode(lists[of])
		})
	}})
	o.write(t, "strata.yaml", strings.ReplaceAll(twoPlatforms, "HOST", o.reg.Host))
	attach := func(to digest.Digest, what string) digest.Digest {
		t.Helper()
		if err := o.reg.Client.EnsureEmpty(t.Context(), o.repo()); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "test/" + what,
			Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON},
			Subject: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: to, Size: 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		d, err := o.reg.Client.PutManifest(t.Context(), o.repo(), ocispec.MediaTypeImageManifest, body)
		if err != nil {
			t.Fatal(err)
		}
		lists[to.String()] = ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
		}
		return d.Digest
	}
	goes, stays := attach(dead[amd], "sbom"), attach(live[amd], "sbom")
	goesToo := attach(goes, "signature")
	o.apply(t, o.prune(t, 40, PruneOptions{}))
	for d, want := range map[digest.Digest]bool{dead[amd]: false, goes: false, goesToo: false, live[amd]: true, stays: true} {
		if got := o.there(t, d); got != want {
			t.Errorf("%s is there: %v", d, got)
		}
	}
}
