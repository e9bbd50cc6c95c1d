package strata

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/registry"
)

// Pins gives a lock of every external image of the project: those that move
// names as they are now, whatever the lock says, the others as the lock has them,
// and what it does not have as it is now. A pinned image that is new to a platform
// is looked up below the digest that is pinned.
func Pins(ctx context.Context, c Config, move func(name string) bool) (*lock.File, error) {
	c.Lock = c.Lock.Without(move)
	p := &Pass{Config: c, known: newShared()}
	if err := p.readGraph(ctx); err != nil {
		return nil, err
	}
	images := map[string]*lock.Image{}
	f := &lock.File{Version: lock.Version}
	for e, x := range p.externals {
		i := images[e.image]
		if i == nil {
			i = &lock.Image{
				Name: e.image, From: x.ref.Name(), Index: x.index, Resolved: c.Now.UTC().Truncate(1e9),
				Platforms: map[string]lock.Platform{}, Of: x.index,
			}
			images[e.image] = i
		}
		i.Platforms[e.platform] = lock.Platform{
			Digest: x.digest, Env: x.base.Env, WorkingDir: x.base.WorkingDir, Shell: x.base.Shell, OnBuild: x.base.OnBuild,
		}
	}
	for _, i := range images {
		f.Images = append(f.Images, *i)
	}
	return f, nil
}

// Outdated asks, by one HEAD request an image and all at once, which pinned
// images have moved since.
func Outdated(ctx context.Context, c Config) ([]lock.Change, error) {
	want := map[string]lock.Image{}
	for _, i := range c.Lock.Images {
		want[i.Name] = i
	}
	now := &lock.File{Version: lock.Version}
	var mu sync.Mutex
	err := each(ctx, want, 64, func(ctx context.Context, name string, i lock.Image) error {
		ref, err := registry.ParseRef(name)
		if err != nil {
			return err
		}
		if ref.Digest != "" { // it names what it is
			mu.Lock()
			defer mu.Unlock()
			now.Images = append(now.Images, i)
			return nil
		}
		d, err := c.Client.Resolve(ctx, ref)
		if err != nil {
			return err
		}
		i.Index = d.Digest
		mu.Lock()
		defer mu.Unlock()
		now.Images = append(now.Images, i)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lock.Diff(c.Lock, now), nil
}

// pinned gives an external image as the lock has it.
func (c Config) pinned(e external, ref registry.Ref) (resolved, bool) {
	i, p, ok := c.Lock.Find(e.image, e.platform)
	if !ok {
		return resolved{}, false
	}
	return resolved{
		ref: ref, source: ref.Repository(), index: i.Index, digest: p.Digest,
		base: dockerfile.Config{Env: p.Env, WorkingDir: p.WorkingDir, Shell: p.Shell, OnBuild: p.OnBuild},
	}, true
}

// gonePin hints at strata.lock where a unit failed because the registry has not
// any more what is pinned. An engine's error tells that by its text alone.
func (p *Pass) gonePin(u *graph.Unit, err error) error {
	if err == nil || !errors.Is(err, registry.ErrNotFound) && !strings.Contains(err.Error(), "not found") {
		return err
	}
	for _, f := range p.froms(u) {
		e, ok := externalOf(p.Graph, u, f)
		if !ok {
			continue
		}
		x := p.externals[e]
		_, locked := p.Config.pinned(e, x.ref)
		for _, d := range []digest.Digest{x.index, x.digest} {
			if locked && strings.Contains(err.Error(), string(d)) {
				return diag.Hint(err, "%s pins it; `strata update %s` moves it", lock.Name, e.image)
			}
		}
	}
	return err
}

// inPinned gives the name under which an image is looked up that the lock has
// not for the platform: below the digest that the lock pins it to, so that all
// platforms are of one release, or, for an image that it does not have, the tag.
func (c Config) inPinned(e external, ref registry.Ref) registry.Ref {
	if c.Lock == nil {
		return ref
	}
	if d, ok := c.Lock.Index(e.image); ok {
		return ref.WithDigest(d)
	}
	return ref
}

// UnitsOn gives the units that stand on each external image, directly or through
// their parents, by the image's name as Dockerfiles write it. It asks no
// registry.
func UnitsOn(ctx context.Context, c Config) (map[string][]string, error) {
	p := &Pass{Config: c, known: newShared()}
	files, err := p.readDockerfiles()
	if err != nil {
		return nil, err
	}
	if err := p.order(files, c.Project.Units(), nil); err != nil {
		return nil, err
	}
	on := map[string]map[string]bool{} // unit -> images
	out := map[string][]string{}
	for _, u := range p.Units {
		on[u.ID] = map[string]bool{}
		for _, f := range p.froms(u) {
			if e, ok := externalOf(p.Graph, u, f); ok {
				on[u.ID][e.image] = true
			}
		}
		for _, up := range u.Parents {
			maps.Copy(on[u.ID], on[up.ID])
		}
		for name := range on[u.ID] {
			out[name] = append(out[name], u.ID)
		}
	}
	return out, context.Cause(ctx)
}

// unpinned tells of the external images that there is a lock for, but no pin.
func (p *Pass) unpinned() []string {
	if p.Config.Lock == nil {
		return nil
	}
	var out []string
	for e := range p.externals {
		if _, _, ok := p.Config.Lock.Find(e.image, e.platform); ok {
			continue
		}
		how := " is not pinned"
		if _, ok := p.Config.Lock.Index(e.image); ok {
			how = " is pinned without its platform"
		}
		out = append(out, e.image+" for "+e.platform+how)
	}
	return out
}
