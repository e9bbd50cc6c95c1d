package simulate

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// TestAsPlanned holds a replay against the real pass: each commit is checked out
// and planned against a registry that holds what the real plans before have made,
// scheduled refreshes included. Every action of every unit must be the same, and
// with a lock every key.
func TestAsPlanned(t *testing.T) {
	syscall.Umask(0o022)
	unlocked := maps.Clone(ragex)
	delete(unlocked, "strata.lock")
	stages := map[string]string{
		"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nlayers: auto\n",
		"Dockerfile": "FROM debian:bookworm-slim AS base\nRUN apt-get install -y nodejs\nFROM base AS deps\nCOPY package.json ./\nRUN npm install\n" +
			"FROM deps AS build\nCOPY . .\nRUN npm run build\nFROM base AS prod\nCOPY --from=build /dist /dist\nCMD [\"node\"]\n",
		"package.json": "{}", "src/pkg00/mod0/file0000.py": "x\n", ".dockerignore": "*.md\n",
	}
	tests := []struct {
		name    string
		project map[string]string
		files   int
		pinned  bool
	}{
		{"layers with a lock", ragex, 60, true},
		{"layers without one", unlocked, 60, false},
		{"stages", stages, 30, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRepo(t)
			r.history(tt.project, tt.files, 30)
			r.oddities(tt.project["Dockerfile"] != "")
			r.write()
			h := r.read(githistory.Range{})
			got, err := Run(t.Context(), h, Options{Dir: r.dir, File: "strata.yaml", Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, r)
			made := map[plan.Action]int{}
			scheduled := 0
			for i, row := range got.Rows {
				real, err := w.plan(row)
				if (err != nil) != (row.Error != "") {
					t.Fatalf("row %d, %s %q: plan says %v, the replay %q", i, short(row.Commit), row.Subject, err, row.Error)
				}
				if err != nil {
					made[failed]++
					continue
				}
				if row.Scheduled {
					scheduled++
				}
				want := map[string]plan.Action{}
				for _, s := range real.Plan.Steps {
					want[s.Unit] = s.Action
				}
				is := map[string]plan.Action{}
				for _, s := range row.Steps {
					is[s.Unit] = s.Action
					made[s.Action]++
				}
				if diff := cmp.Diff(want, is); diff != "" {
					t.Errorf("row %d, %s %q at %s, scheduled %t (-plan +replay):\n%s", i, short(row.Commit), row.Subject, row.Time, row.Scheduled, diff)
				}
			}
			t.Logf("%d runs, %d of them scheduled: %v", len(got.Rows), scheduled, made)
			if got.Planned() < 20 || made[plan.Reuse] == 0 || made[plan.Build] == 0 || made[failed] == 0 {
				t.Errorf("the history is too plain to tell anything: %v", made)
			}
			if tt.pinned {
				if diff := cmp.Diff(w.keys, keysOf(t, h, r.dir)); diff != "" {
					t.Errorf("keys of the newest commit (-plan +replay):\n%s", diff)
				}
			}
		})
	}
}

// oddities adds commits with what git has beside files and their contents.
func (r *repo) oddities(stages bool) {
	hour := time.Hour
	r.commit(hour, "a link", map[string]string{"@src/link": "pkg00/mod0/file0000.py"})
	r.commit(hour, "what the link leads to", map[string]string{"src/pkg00/mod0/file0000.py": "behind the link\n"})
	r.commit(hour, "the link leads elsewhere", map[string]string{"@src/link": "../README.md"})
	r.commit(hour, "a program", map[string]string{"*src/pkg00/mod0/file0000.py": "behind the link\n"})
	r.commit(hour, "a file becomes a folder", map[string]string{"src/thing": "file\n"})
	r.commit(hour, "the folder", map[string]string{"src/thing": "-"})
	r.commit(hour, "in the folder", map[string]string{"src/thing/a": "a\n", "src/thing-b": "b\n"})
	r.commit(hour, "and back", map[string]string{"src/thing/a": "-", "src/thing-b": "-"})
	r.commit(hour, "back", map[string]string{"src/thing": "file\n"})
	r.commit(hour, "other ignore rules", map[string]string{".dockerignore": "**/*.md\nsrc/thing\n"})
	r.commit(hour, "an exception", map[string]string{".dockerignore": "**/*.md\nsrc/*\n!src/pkg*\nsrc/pkg00\n"})
	r.commit(hour, "an ignored file", map[string]string{"src/pkg00/mod0/file0000.py": "ignored\n"})
	r.commit(hour, "a broken ignore rule", map[string]string{".dockerignore": "[\n"})
	r.commit(hour, "rules again", map[string]string{".dockerignore": "**/*.md\n"})
	r.commit(15*24*hour, "after a holiday", map[string]string{"README.md": "back\n"})
	r.commit(hour, "an odd name", map[string]string{"src/naïve name": "odd\n"})
	if stages {
		r.commit(hour, "a broken Dockerfile", map[string]string{"Dockerfile": "FORM debian\n"})
		r.commit(hour, "a stage less", map[string]string{"Dockerfile": "FROM debian:bookworm-slim AS base\nRUN apt-get install -y nodejs\nFROM base AS prod\nCOPY src /src\nRUN true\n"})
		return
	}
	r.commit(hour, "what the app copies is gone", map[string]string{"run.sh": "-"})
	r.commit(hour, "and there again, no program", map[string]string{"run.sh": "#!/bin/sh\n"})
	r.commit(hour, "a broken project file", map[string]string{"strata.yaml": "image: demo\nlayres: {}\n"})
	r.commit(hour, "whole again, with other tags", map[string]string{"strata.yaml": strings.Replace(ragex["strata.yaml"], "image: demo\n", "image: demo\ncompression: zstd\n", 1)})
	r.commit(hour, "as it was", map[string]string{"strata.yaml": ragex["strata.yaml"]})
	r.commit(hour, "a new app", map[string]string{"docker/app/Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src/ /srv/src/\nRUN compile\n"})
	r.commit(hour, "its code", map[string]string{"src/new.py": "new\n"})
}

// world is a registry and a work tree in which real plans are made.
type world struct {
	t      *testing.T
	repo   *repo
	client *registry.Client
	at     string
	config *ocispec.Descriptor
	keys   map[string]string // by unit, of the last plan
}

func newWorld(t *testing.T, r *repo) *world {
	t.Helper()
	e, err := registry.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		ref, err := registry.ParseRef("debian:bookworm-slim")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.ImportRootfs(t.Context(), ref, platform, &b, registry.ImportConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	return &world{t: t, repo: r, client: registry.New(registry.Options{Embedded: e, MirrorReads: true, Offline: true})}
}

// plan makes the plan of a row in a checkout of its commit, and notes in the
// registry what it would have made.
func (w *world) plan(row Row) (*strata.Pass, error) {
	if w.at != row.Commit {
		w.repo.git("checkout", "-q", "-f", "--detach", row.Commit)
		w.at = row.Commit
	}
	dir := w.repo.dir
	p, err := spec.Load(dir, "strata.yaml", spec.LoadOptions{})
	if err != nil {
		return nil, err
	}
	c := strata.Config{Project: p, Client: w.client, Platform: "linux/amd64", Now: row.Time, Refresh: row.Scheduled}
	if data, err := os.ReadFile(filepath.Join(dir, lock.Name)); err == nil {
		if c.Lock, err = lock.Parse(data); err != nil {
			return nil, err
		}
	}
	pass, err := strata.Prepare(w.t.Context(), c)
	if err != nil {
		return nil, err
	}
	w.keys = map[string]string{}
	for _, s := range pass.Plan.Steps {
		w.keys[s.Unit] = string(s.Key)
		if s.Action == plan.Reuse {
			continue
		}
		w.put(s.Unit, s.Key)
		if s.TrunkKey != "" {
			w.put(s.Unit, s.TrunkKey)
		}
	}
	return pass, nil
}

// put leaves an image of a unit under a key; what is in it does not matter to a plan.
func (w *world) put(unit string, id key.ID) {
	w.t.Helper()
	ref := registry.Ref{Host: registry.EmbeddedHost, Repo: "demo"}
	ctx := context.Background()
	if w.config == nil {
		config, err := w.client.PushStream(ctx, ref, ocispec.MediaTypeImageConfig, strings.NewReader("{}"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.config = &config
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: *w.config, Layers: []ocispec.Descriptor{},
		Annotations: map[string]string{"build.strata.key": string(id), "build.strata.unit": unit},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.client.PutManifest(ctx, ref.WithTag(id.Tag()), ocispec.MediaTypeImageManifest, manifest); err != nil {
		w.t.Fatal(fmt.Errorf("putting %s: %w", id.Tag(), err))
	}
}

// keysOf gives the keys of a history's newest commit, from a replay.
func keysOf(t *testing.T, h *githistory.History, dir string) map[string]string {
	t.Helper()
	o := Options{Dir: dir, File: "strata.yaml", Platform: "linux/amd64"}
	last := h.Commits[len(h.Commits)-1]
	r := strata.NewReplay(o.Platform)
	trees := newTrees(h.Prefix, nil)
	if _, _, err := trees.next(last); err != nil {
		t.Fatal(err)
	}
	p, err := spec.Load(dir, o.File, spec.LoadOptions{FS: last.Tree.FS(".")})
	if err != nil {
		t.Fatal(err)
	}
	data, err := trees.ReadFile(lock.Name)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := lock.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Read(t.Context(), p, pins, trees, nil)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := r.Run(s, last.Time, false)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	for _, st := range pass.Plan.Steps {
		keys[st.Unit] = string(st.Key)
	}
	return keys
}
