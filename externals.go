package strata

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/registry"
)

// external names an image that the project does not build, for one platform.
type external struct{ image, platform string }

// resolved is what an external image is at the moment.
type resolved struct {
	ref    registry.Ref
	source registry.Ref  // repository that has it: its own, or its mirror on this machine
	index  digest.Digest // what the tag points to
	digest digest.Digest // of the platform's manifest
	base   dockerfile.Config
	facts  baseFacts // what our newest image knows of it; zero when it does not
}

type externals map[external]resolved

// externalOf gives the external image behind a From, if it is one.
func externalOf(g *graph.Graph, u *graph.Unit, f dockerfile.From) (external, bool) {
	if g.Parent(u, f) != nil {
		return external{}, false
	}
	name := f.Image
	if f.Context != "" {
		ref, ok := strings.CutPrefix(u.Contexts[f.Context], "docker-image://")
		if !ok {
			return external{}, false
		}
		name = ref
	}
	if name == "" || name == "scratch" {
		return external{}, false
	}
	return external{name, cmp.Or(f.Platform, u.Platform)}, true
}

// digest gives the digest of the external image behind a From.
func (x externals) digest(u *graph.Unit, f dockerfile.From) digest.Digest {
	name := f.Image
	if ref, ok := strings.CutPrefix(u.Contexts[f.Context], "docker-image://"); ok && f.Context != "" {
		name = ref
	}
	return x[external{name, cmp.Or(f.Platform, u.Platform)}].digest
}

// matter says whether any image's config changes what a Dockerfile says.
func (x externals) matter() bool {
	for _, r := range x {
		if len(r.base.Env) > 0 || len(r.base.OnBuild) > 0 || r.base.WorkingDir != "" || len(r.base.Shell) > 0 {
			return true
		}
	}
	return false
}

// base gives the config of the external image behind a From.
func (x externals) base(g *graph.Graph) func(*graph.Unit, dockerfile.From) (dockerfile.Config, bool) {
	return func(u *graph.Unit, f dockerfile.From) (dockerfile.Config, bool) {
		e, ok := externalOf(g, u, f)
		if !ok {
			return dockerfile.Config{}, false
		}
		r, ok := x[e]
		return r.base, ok
	}
}

// resolveExternals asks for every external image of the units at once, and
// beside that for the units' newest images, which know what the externals were
// when they were built: one that has not moved needs no further request.
func (p *Pass) resolveExternals(ctx context.Context) error {
	want := p.wantedExternals()
	p.externals = externals{}
	var mu sync.Mutex
	var problems diag.List
	known := make(chan map[external]baseFacts, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := p.askLast(gctx)
		known <- p.knownBases()
		return err
	})
	g.Go(func() error {
		return each(gctx, want, 8, func(ctx context.Context, e external, pos diag.Pos) error {
			r, err := resolveExternal(ctx, p.Config, e, func() map[external]baseFacts {
				k := <-known
				known <- k
				return k
			})
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() != nil {
				return err // the look-up that failed tells why
			}
			if err != nil {
				problems.Errorf(pos, diag.HintOf(err), "%v", err)
			}
			p.externals[e] = r
			return nil
		})
	})
	err := g.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := problems.Err(); err != nil {
		return err
	}
	return err
}

// wantedExternals gives the external images that the units name, and where.
func (p *Pass) wantedExternals() map[external]diag.Pos {
	want := map[external]diag.Pos{}
	for _, u := range p.Units {
		for _, f := range p.froms(u) {
			if e, ok := externalOf(p.Graph, u, f); ok && f.Kind != "syntax" {
				want[e] = diag.Pos{File: u.Dockerfile, Line: f.Line}
			}
		}
	}
	return want
}

// baseFacts is what an image of ours remembers of an external image that it was
// built with: all that a plan and an append need of it.
type baseFacts struct {
	Image    string            `json:"image"` // as the Dockerfile writes it
	Platform string            `json:"platform"`
	Index    digest.Digest     `json:"index"`  // what the tag pointed to
	Digest   digest.Digest     `json:"digest"` // of the platform's manifest
	Config   dockerfile.Config `json:"config"`
	Small    string            `json:"small,omitempty"` // inventory beside our images: digest and size
	Full     string            `json:"full,omitempty"`
	Checked  string            `json:"checked,omitempty"` // of the inventory: checkedDiffIDs
}

// knownBases gathers the facts that the newest images remember.
func (p *Pass) knownBases() map[external]baseFacts {
	known := map[external]baseFacts{}
	for _, img := range p.answers.lastImages {
		var facts []baseFacts
		if json.Unmarshal([]byte(img.manifest.Annotations[annotationBases]), &facts) != nil {
			continue
		}
		for _, f := range facts {
			known[external{f.Image, f.Platform}] = f
		}
	}
	return known
}

func resolveExternal(ctx context.Context, c Config, e external, known func() map[external]baseFacts) (resolved, error) {
	ref, err := registry.ParseRef(e.image)
	if err != nil {
		return resolved{}, err
	}
	if r, ok := c.pinned(e, ref); ok {
		f := known()[e]
		if f.Digest == r.digest {
			r.facts = f
		}
		return r, nil
	}
	at := c.inPinned(e, ref)
	a := c.Client.Lookup(ctx, at)
	if errors.Is(a.Err, registry.ErrNotFound) && at.Digest != ref.Digest {
		return resolved{}, diag.Hint(a.Err, "what %s pins is not there any more; `strata update %s` moves to what is", lock.Name, e.image)
	}
	if a.Err != nil {
		return resolved{}, missingBase(ctx, c, e.image, ref, a.Err)
	}
	r := resolved{ref: ref, source: a.Source.Repository(), index: a.Desc.Digest, digest: a.Desc.Digest}
	if registry.IsIndex(a.Desc.MediaType) {
		child, err := c.Client.Choose(ctx, a.Source, a.Body, e.platform)
		if err != nil {
			return r, fmt.Errorf("choosing from the image %q: %w", e.image, err)
		}
		r.digest = child.Digest
	}
	if f, ok := known()[e]; ok && f.Digest == r.digest {
		r.base, r.facts = f.Config, f
		return r, nil
	}
	r.base, err = readBaseConfig(ctx, c, ref.WithDigest(r.digest))
	if err != nil {
		return r, fmt.Errorf("reading the config of %q: %w", e.image, err)
	}
	return r, nil
}

// missingBase says what helps when nobody has a base image or answers for it,
// beside what helps with a registry: to keep the image here. What was built here
// under its name is another thing, and has another name in a FROM.
func missingBase(ctx context.Context, c Config, image string, ref registry.Ref, err error) error {
	local := ref.Local()
	if local.Digest == "" && local != ref && c.Client.Direct().Lookup(ctx, local).State == registry.Hit {
		return diag.Hint(err, "an image of that name was built or put on this machine, which is not taken for it: push it (strata build --push), "+
			"keep a base here with `strata registry import ROOTFS.tar --as %s`, or say that you mean it: FROM %s", image, local)
	}
	var e *registry.Error
	if errors.As(err, &e) && e.Kind == registry.Unreachable && !errors.Is(err, registry.ErrOffline) {
		return diag.Hint(err, "is the registry running, and the name right? the image can also be kept on this machine: strata registry import ROOTFS.tar --as %s", image)
	}
	return err
}

// Imported gives the external images that are taken from this machine, where
// they were imported, as the Dockerfiles write them.
func (p *Pass) Imported() []string {
	names := map[string]bool{}
	for e, x := range p.externals {
		if x.source.IsMirror() {
			names[e.image] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// readBaseConfig reads what an image's config contributes. The answer belongs
// to the digest and so is kept for good.
func readBaseConfig(ctx context.Context, c Config, ref registry.Ref) (dockerfile.Config, error) {
	var b dockerfile.Config
	file := ""
	if c.Cache != "" {
		file = filepath.Join(c.Cache, "configs", ref.Digest.Encoded()+".json")
		if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &b) == nil {
			return b, nil
		}
	}
	img, err := loadPicture(ctx, c.Client, ref)
	if err != nil {
		return b, err
	}
	if b, err = img.dockerfileConfig(); err != nil {
		return b, err
	}
	if file != "" {
		if data, err := json.Marshal(b); err == nil {
			_ = WriteFile(file, data) // only a cache
		}
	}
	return b, nil
}

// WriteFile puts a file in place in one step, making its folder.
func WriteFile(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
