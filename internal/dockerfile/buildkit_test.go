package dockerfile

import (
	"context"
	"encoding/json"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/tools/txtar"
)

// bases answers BuildKit's questions about images, and remembers them.
type bases struct {
	configs map[string]Config

	mu    sync.Mutex // BuildKit asks for several at once
	asked []string
}

func (b *bases) ResolveImageConfig(_ context.Context, ref string, o sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	name := ContextName(ref)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, name+" "+platforms.Format(*o.ImageOpt.Platform))
	c := b.configs[name]
	img := map[string]any{
		"os": o.ImageOpt.Platform.OS, "architecture": o.ImageOpt.Platform.Architecture,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + strings.Repeat("a", 64)}},
		"config": map[string]any{"Env": c.Env, "WorkingDir": c.WorkingDir, "Shell": c.Shell, "OnBuild": c.OnBuild},
	}
	dt, err := json.Marshal(img)
	return ref, "", dt, err
}

// converted is what BuildKit's own converter makes of a Dockerfile.
type converted struct {
	history []ocispec.History
	config  ocispec.ImageConfig
	asked   []string // images and platforms, sorted
	paths   []string // that it takes from the context, sorted; nil for all
}

func convert(t *testing.T, data []byte, o Options, configs map[string]Config) converted {
	t.Helper()
	b := &bases{configs: configs}
	platform, err := platforms.Parse(o.Platform)
	if err != nil {
		t.Fatal(err)
	}
	opt := dockerfile2llb.ConvertOpt{MetaResolver: b, TargetPlatform: &platform, SourceMap: llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", data),
		Config: dockerui.Config{BuildArgs: o.Args, Target: o.Target}}
	if o.BuildPlatform != "" {
		p, err := platforms.Parse(o.BuildPlatform)
		if err != nil {
			t.Fatal(err)
		}
		opt.BuildPlatforms = []ocispec.Platform{p}
	}
	res, err := dockerfile2llb.Dockerfile2LLB(t.Context(), data, opt)
	if err != nil {
		t.Fatalf("BuildKit refuses it: %v\n%s", err, data)
	}
	def, err := res.State.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := converted{history: res.Image.History, config: res.Image.Config.ImageConfig, paths: contextPaths(t, def)}
	slices.Sort(b.asked)
	c.asked = slices.Compact(b.asked)
	return c
}

// contextPaths gives the paths that a definition follows in the main context.
func contextPaths(t *testing.T, def *llb.Definition) []string {
	t.Helper()
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		src := op.GetSource()
		if src == nil || !strings.HasPrefix(src.Identifier, "local://") {
			continue
		}
		var paths []string
		if list := src.Attrs[pb.AttrFollowPaths]; list != "" {
			if err := json.Unmarshal([]byte(list), &paths); err != nil {
				t.Fatal(err)
			}
			return paths
		}
		return []string{"."}
	}
	return nil
}

// TestAgainstBuildKit compares what is said about the Dockerfiles of testdata
// with what BuildKit's converter makes of them: the images that it asks for,
// the files that it takes, and the history. The trunk's history with the tail's
// behind it must be the whole file's.
func TestAgainstBuildKit(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		o, configs, ok := asBuildKit(t, ar)
		if !ok {
			continue
		}
		compared++
		t.Run(name, func(t *testing.T) { against(t, []byte(section(ar, "Dockerfile")), o, configs) })
	}
	if compared < 35 {
		t.Errorf("only %d files were compared", compared)
	}
}

// asBuildKit gives the options of a golden file, if BuildKit's converter alone
// can build what it is about: it has no named contexts without a client, and no
// Windows.
func asBuildKit(t *testing.T, ar *txtar.Archive) (Options, map[string]Config, bool) {
	t.Helper()
	var g golden
	if o := section(ar, "options"); o != "" {
		if err := json.Unmarshal([]byte(o), &g); err != nil {
			t.Fatal(err)
		}
	}
	o := g.options()
	o.TrunkConfig, o.ParentArgs = nil, nil
	text := section(ar, "Dockerfile")
	if len(o.Contexts)+len(o.Folders) > 0 || strings.HasPrefix(o.Platform, "windows") || strings.HasPrefix(section(ar, "want"), "Dockerfile:") ||
		o.Target == "0" || strings.Contains(text, "frontend:1") {
		return o, nil, false
	}
	if strings.Contains(text, "ARG BASE_IMAGE\n") {
		o.Args = map[string]string{"BASE_IMAGE": "parent"}
	}
	if o.Platform == "" {
		o.Platform = "linux/amd64"
	}
	configs := map[string]Config{}
	for name, c := range g.Base {
		configs[ContextName(name)] = c
	}
	for name, triggers := range g.OnBuild {
		configs[ContextName(name)] = Config{OnBuild: triggers}
	}
	o.Base = func(f From) (Config, bool) { return configs[ContextName(f.Image)], true }
	return o, configs, true
}

func against(t *testing.T, data []byte, o Options, configs map[string]Config) {
	f, err := Parse("Dockerfile", data)
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Analyze(o)
	if err != nil {
		t.Fatal(err)
	}
	whole := convert(t, data, o, configs)
	if diff := cmp.Diff(whole.asked, images(b)); diff != "" {
		t.Errorf("images: -BuildKit +ours:\n%s", diff)
	}
	if diff := cmp.Diff(whole.paths, inputs(b)); diff != "" {
		t.Errorf("files of the context: -BuildKit +ours:\n%s", diff)
	}
	var got []string
	if b.Trunk.Source != nil {
		to := o
		to.Target = ""
		for _, h := range convert(t, b.Trunk.Source, to, configs).history {
			got = append(got, entry(h.CreatedBy, !h.EmptyLayer))
		}
	}
	for _, c := range b.Trunk.Tail {
		if c.History != "" {
			got = append(got, entry(c.History, c.Layer))
		}
	}
	var want []string
	for _, h := range whole.history {
		want = append(want, entry(h.CreatedBy, !h.EmptyLayer))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("history: -BuildKit +ours:\n%s", diff)
	}
}

func entry(createdBy string, layer bool) string {
	if layer {
		return createdBy + " (layer)"
	}
	return createdBy
}

func images(b *Build) []string {
	var out []string
	for _, f := range b.Froms {
		p, err := platforms.Parse(f.Platform)
		if err != nil {
			panic(err)
		}
		out = append(out, ContextName(f.Image)+" "+platforms.Format(p))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func inputs(b *Build) []string {
	var out []string
	for _, in := range b.Inputs {
		for _, p := range in.Patterns {
			if p = path.Join(".", path.Join("/", p)); p == "." {
				return []string{"."}
			}
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
