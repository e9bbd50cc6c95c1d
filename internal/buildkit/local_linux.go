package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/leaseutil"
	bkprogress "github.com/moby/buildkit/util/progress"
	bkworker "github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
)

// A local job's layers are not made by BuildKit's exporter, which compresses
// them on one processor, and once more to rewrite their times (36 s for a layer
// of 200 MB, measured). They are clamped and compressed on all processors while
// BuildKit takes the difference of two snapshots, and the times of the snapshot
// itself are clamped with them. So the engine's snapshot is exactly what the
// published layer holds: a child that stands on the published image finds it by
// its chain of digests, and neither pulls nor unpacks anything.

// locals knows the local jobs under way, by the name that is given to the
// exporter.
type locals struct {
	mu   sync.Mutex
	last int
	jobs map[string]build.Job
}

func (l *locals) add(j build.Job) (name string, done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	name = strconv.Itoa(l.last)
	l.jobs[name] = j
	return name, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.jobs, name)
	}
}

func (l *locals) job(name string) (build.Job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j, ok := l.jobs[name]
	return j, ok
}

// localWorker is BuildKit's worker with an image exporter that knows local
// jobs.
type localWorker struct {
	bkworker.Worker
	locals *locals
	made   *madeLayers
	// overlay says that a snapshot's own files have a folder to themselves.
	overlay bool
}

// Exporter gives BuildKit's exporter, wrapped for images.
func (w *localWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	e, err := w.Worker.Exporter(name, sm)
	if err != nil || name != client.ExporterImage {
		return e, err
	}
	return &localExporter{Exporter: e, worker: w}, nil
}

type localExporter struct {
	exporter.Exporter
	worker *localWorker
}

// Resolve wraps the exporter of a local job.
func (e *localExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	name, local := attrs[localAttr]
	if !local {
		return e.Exporter.Resolve(ctx, id, attrs)
	}
	j, ok := e.worker.locals.job(name)
	if !ok {
		return nil, fmt.Errorf("exporting job %q: it has ended", name)
	}
	attrs = maps.Clone(attrs)
	delete(attrs, localAttr)
	plain, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	attrs = maps.Clone(attrs)
	attrs["rewrite-timestamp"] = "true"
	rewriting, err := e.Exporter.Resolve(ctx, id, attrs)
	return &localInstance{ExporterInstance: plain, rewriting: rewriting, worker: e.worker, job: j}, err
}

// localInstance exports one local job.
type localInstance struct {
	exporter.ExporterInstance                           // leaves layers as they are
	rewriting                 exporter.ExporterInstance // clamps their times
	worker                    *localWorker
	job                       build.Job
}

// Export makes the layers that have no blob yet and lets BuildKit write config
// and manifest over them. Layers that were made elsewhere or for another epoch
// (a cache import, an older store) are left to BuildKit, which rewrites them.
func (i *localInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	base, err := baseLayers(src)
	if err != nil {
		return nil, nil, nil, err
	}
	refs := []cache.ImmutableRef{src.Ref}
	for _, ref := range src.Refs {
		refs = append(refs, ref)
	}
	next := i.ExporterInstance
	for _, ref := range refs {
		if ref == nil {
			continue
		}
		done := bkprogress.OneOff(ctx, "compressing layers")
		exact, err := i.pack(ctx, ref, base, session.NewGroup(info.SessionID))
		if done(err) != nil {
			return nil, nil, nil, err
		}
		if !exact {
			next = i.rewriting
		}
	}
	return next.Export(ctx, src, info)
}

// baseLayers gives the layers of the image that the result stands on.
func baseLayers(src *exporter.Source) ([]digest.Digest, error) {
	var p *exptypes.Platform
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	if len(ps.Platforms) > 0 {
		p = &ps.Platforms[0]
	}
	config := exptypes.ParseKey(src.Metadata, exptypes.ExporterImageBaseConfigKey, p)
	if len(config) == 0 {
		return nil, nil
	}
	var base ocispec.Image
	if err := json.Unmarshal(config, &base); err != nil {
		return nil, fmt.Errorf("reading the base's config: %w", err)
	}
	return base.RootFS.DiffIDs, nil
}

// pack makes the blobs of ref's layers, clamps the snapshots of those that are
// new, and says whether every layer above the base is clamped to the job's
// epoch. No lazy layer is pulled.
func (i *localInstance) pack(ctx context.Context, ref cache.ImmutableRef, base []digest.Digest, g session.Group) (exact bool, err error) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return false, err
	}
	defer done(context.WithoutCancel(ctx))
	f := newFormat(i.job, i.worker.made)
	remotes, err := ref.GetRemotes(ctx, true, cacheconfig.RefConfig{Compression: compression.New(f)}, false, g)
	if err != nil {
		return false, err
	}
	chain := ref.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx))
	exact, onBase := true, true
	for n, d := range remotes[0].Descriptors {
		onBase = onBase && n < len(base) && d.Annotations[diffIDLabel] == base[n].String()
		switch {
		case onBase:
		case f.packed(d.Digest):
			if i.worker.overlay {
				err = clampSnapshot(ctx, chain[n], g, i.job.SourceDateEpoch)
			}
			if err != nil {
				return false, err
			}
		default:
			exact = exact && i.clamped(ctx, d.Digest)
		}
	}
	return exact, nil
}

// clamped says whether a blob was made here for the job's epoch.
func (i *localInstance) clamped(ctx context.Context, d digest.Digest) bool {
	info, err := i.worker.ContentStore().Info(ctx, d)
	return err == nil && info.Labels[clampedLabel] == strconv.FormatInt(i.job.SourceDateEpoch, 10)
}

// hold keeps blobs until it is released, a day at most: a process that dies
// releases nothing.
func (w *worker) hold(ctx context.Context, blobs ...digest.Digest) (release func(), err error) {
	lm := w.LeaseManager()
	l, err := lm.Create(ctx, leases.WithRandomID(), leases.WithExpiration(24*time.Hour), leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	release = func() { _ = lm.Delete(context.WithoutCancel(ctx), l) } // it expires
	for _, d := range blobs {
		if err := lm.AddResource(ctx, l, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}
