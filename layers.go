package strata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// listings are what the new layers of one build hold, read while the engine
// compressed them.
type listings struct {
	mu sync.Mutex
	m  map[digest.Digest]*inventory.List
}

// read is a [build.Job]'s List.
func (l *listings) read(archive io.Reader) (func(digest.Digest), error) {
	list, err := inventory.ReadList(archive)
	if err != nil {
		return nil, err
	}
	return func(blob digest.Digest) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.m == nil {
			l.m = map[digest.Digest]*inventory.List{}
		}
		l.m[blob] = list
	}, nil
}

func (l *listings) of(blob digest.Digest) *inventory.List {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[blob]
}

// pushAtOnce is how many layers are sent at the same time.
const pushAtOnce = 2

// countPushed notes the layers that a remote engine has pushed: those above the
// base, for nobody says which of them the registry had.
func (r *runner) countPushed(ctx context.Context, u *graph.Unit, built *picture, m *Made) {
	layers := built.manifest.Layers
	if img, err := r.base(ctx, u, u.Build.Trunk.From); err == nil && img != nil && startsWith(layers, img.manifest.Layers) {
		layers = layers[len(img.manifest.Layers):]
	}
	for _, l := range layers {
		m.Pushed += l.Size
	}
	m.NewBlobs += len(layers)
}

// pushLayers makes the layers of what an engine has kept to itself part of the
// unit's repository: those of the images that it stands on by mounting them, the
// others, and what can't be mounted, from the engine's own store.
func (r *runner) pushLayers(ctx context.Context, u *graph.Unit, built *picture, res build.Result, m *Made) error {
	repo, c := r.repo(u), r.pass.Config.Client
	from := r.layerSources(ctx, u)
	layers := map[digest.Digest]ocispec.Descriptor{}
	for _, l := range built.manifest.Layers {
		if from[l.Digest] != repo {
			layers[l.Digest] = l
		}
	}
	var mu sync.Mutex
	return each(ctx, layers, pushAtOnce, func(ctx context.Context, d digest.Digest, l ocispec.Descriptor) error {
		there, err := c.HasBlob(ctx, repo, l)
		if there || err != nil && !errors.Is(err, registry.ErrCorrupt) {
			return err
		}
		sent := false
		err = c.MountOrPush(ctx, from[d], repo, l, func() (io.ReadCloser, error) {
			sent = true
			b, err := res.Blob(ctx, l)
			if err != nil && from[d].Repo != "" { // a layer that nothing has needed yet
				return c.Blob(ctx, from[d], l)
			}
			return b, err
		})
		if err != nil {
			return fmt.Errorf("pushing a layer of %s: %w", u.ID, err)
		}
		if sent {
			mu.Lock()
			defer mu.Unlock()
			m.NewBlobs++
			m.Pushed += l.Size
		}
		return nil
	})
}

// layerSources says which repository holds the layers of the images that a
// unit is built from; its own wins.
func (r *runner) layerSources(ctx context.Context, u *graph.Unit) map[digest.Digest]registry.Ref {
	from := map[digest.Digest]registry.Ref{}
	for _, f := range u.Build.Froms {
		img, err := r.base(ctx, u, f)
		if err != nil || img == nil || img.ref.Repo == "" {
			continue // then the engine's own copy is sent
		}
		for _, l := range img.manifest.Layers {
			if from[l.Digest] != r.repo(u) {
				from[l.Digest] = img.ref.Repository()
			}
		}
	}
	return from
}
