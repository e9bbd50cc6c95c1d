package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
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
	"github.com/strata-build/strata/internal/times"
)

// A local job's layers are not made by BuildKit's exporter, which compresses
// them on one processor, and once more to rewrite their times (36 s for a layer
// of 200 MB, measured). They get their published times and are compressed on all
// processors while BuildKit takes the difference of two snapshots. The snapshot
// itself stays as the step has left it, so that no later step sees a time that
// was changed after the fact; yet a child that stands on the published image
// finds it by its chain of digests, and neither pulls nor unpacks anything.

// locals knows the local jobs under way, by the name that is given to the
// exporter.
type locals struct {
	mu     sync.Mutex
	last   int
	jobs   map[string]build.Job
	tables map[string]times.Tables // of the layers that were made for a job
}

// keep adds the tables of a job's layers.
func (l *locals) keep(name string, t times.Tables) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tables[name] == nil {
		l.tables[name] = times.Tables{}
	}
	maps.Copy(l.tables[name], t)
}

// made gives the tables of a job's layers.
func (l *locals) made(name string) times.Tables {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tables[name]
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
		delete(l.tables, name)
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
	work   *workTimes
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
	return &localInstance{ExporterInstance: plain, rewriting: rewriting, worker: e.worker, name: name, job: j}, err
}

// localInstance exports one local job.
type localInstance struct {
	exporter.ExporterInstance                           // leaves layers as they are
	rewriting                 exporter.ExporterInstance // obeys SOURCE_DATE_EPOCH
	worker                    *localWorker
	name                      string
	job                       build.Job
}

// Export makes the layers that have no blob yet and lets BuildKit write config
// and manifest over them. Layers that were made elsewhere (a cache import) stay
// as they are, unless the user has set SOURCE_DATE_EPOCH: then BuildKit rewrites
// them.
func (i *localInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	base, err := baseLayers(src)
	if err != nil {
		return nil, nil, nil, err
	}
	if i.job.SourceDateEpoch, err = epochOf(i.job, src); err != nil {
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
		if !exact && i.job.SourceDateEpoch != nil {
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

// pack makes the blobs of ref's layers, and says whether every layer above the
// base was made here. No lazy layer is pulled. One layer after the other: the
// times in one follow from those below, and each is compressed on all processors.
func (i *localInstance) pack(ctx context.Context, ref cache.ImmutableRef, base []digest.Digest, g session.Group) (exact bool, err error) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return false, err
	}
	defer done(context.WithoutCancel(ctx))
	chain := ref.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx))
	dates, err := newDating(ctx, i.job, i.worker)
	if err != nil {
		return false, err
	}
	p := &packing{localInstance: i, dating: dates, session: g, tables: times.Tables{}}
	exact, onBase := true, true
	for n, layer := range chain {
		desc, err := p.blob(ctx, layer)
		if err != nil {
			return false, err
		}
		onBase = onBase && n < len(base) && desc.Annotations[diffIDLabel] == base[n].String()
		if onBase {
			p.dating.add(i.job.Times.Tables[desc.Digest])
			continue
		}
		here, err := p.count(ctx, desc)
		if err != nil {
			return false, err
		}
		exact = exact && here
	}
	i.worker.locals.keep(i.name, p.tables)
	return exact, nil
}

// packing is one result whose layers are made.
type packing struct {
	*localInstance
	dating  *dating
	session session.Group
	tables  times.Tables
}

// blob gives the blob of one layer, and makes it if there is none.
func (p *packing) blob(ctx context.Context, layer cache.ImmutableRef) (ocispec.Descriptor, error) {
	f := newFormat(p.job, p.worker.made)
	f.dating = p.dating
	f.date = func() (*times.Dates, error) { return p.date(ctx, layer) }
	f.keep = func(t *times.Table) (digest.Digest, error) { return p.keep(ctx, t) }
	remotes, err := layer.GetRemotes(ctx, true, cacheconfig.RefConfig{Compression: compression.New(f)}, false, p.session)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(remotes) == 0 || len(remotes[0].Descriptors) == 0 {
		return ocispec.Descriptor{}, errors.New("a layer has no blob")
	}
	return remotes[0].Descriptors[len(remotes[0].Descriptors)-1], nil
}

// date decides the times of a layer by its snapshot; nil where that can't be
// done.
func (p *packing) date(ctx context.Context, layer cache.ImmutableRef) (*times.Dates, error) {
	m, err := layer.Mount(ctx, true, p.session)
	if err != nil {
		return nil, err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		defer release()
	}
	return p.dating.date(mounts)
}

// keep puts the table of a layer into the content store.
func (p *packing) keep(ctx context.Context, t *times.Table) (digest.Digest, error) {
	data, err := t.Encode()
	if err != nil {
		return "", err
	}
	d := ocispec.Descriptor{MediaType: times.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err = content.WriteBlob(ctx, p.worker.ContentStore(), "strata-times-"+d.Digest.String(), bytes.NewReader(data), d)
	if err != nil {
		return "", fmt.Errorf("keeping the times of a layer: %w", err)
	}
	return d.Digest, nil
}

// errOtherEpoch says that a layer of the instruction cache has times that obey
// another SOURCE_DATE_EPOCH than the job's.
var errOtherEpoch = errors.New("a layer of the instruction cache " + otherEpoch)

// count takes a layer that is not the base's into account, and says whether it
// was made here.
func (p *packing) count(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	info, err := p.worker.ContentStore().Info(ctx, desc.Digest)
	if err != nil || info.Labels[datedLabel] == "" {
		return false, nil // it was never here, or comes from elsewhere
	}
	if info.Labels[datedLabel] != epochText(p.job.SourceDateEpoch) {
		return false, errOtherEpoch
	}
	table := digest.Digest(info.Labels[tableLabel])
	if table == "" {
		return true, nil
	}
	stat, err := p.worker.ContentStore().Info(ctx, table)
	if err != nil {
		return false, fmt.Errorf("reading the times of a layer: %w", err)
	}
	data, err := content.ReadBlob(ctx, p.worker.ContentStore(), ocispec.Descriptor{Digest: table, Size: stat.Size})
	if err != nil {
		return false, fmt.Errorf("reading the times of a layer: %w", err)
	}
	t, err := times.DecodeTable(data)
	if err != nil {
		return false, err
	}
	p.dating.add(t)
	p.tables[desc.Digest] = t
	return true, nil
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
