package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/diff/apply"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
)

// namespace is BuildKit's own in the content store and the lease manager.
const namespace = "buildkit"

// worker is BuildKit's worker with what must be closed besides it. The stock
// constructor leaves two databases open, so that a second start in one process
// hangs, and makes an RSA key at each start.
type worker struct {
	*base.Worker
	running   *running
	made      *madeLayers
	work      *workTimes
	restoring *restoring
	closers   []func() error // in the order of opening
}

// snapshotterName gives the one that was asked for, or the best that works.
func snapshotterName(o Options) string {
	switch {
	case o.Snapshotter != "":
		return o.Snapshotter
	case overlayutils.Supported(o.Root) == nil:
		return "overlayfs"
	}
	return "native"
}

func newSnapshotter(name, dir string) (snapshots.Snapshotter, error) {
	if name == "native" {
		return native.NewSnapshotter(dir)
	}
	return overlay.NewSnapshotter(dir, overlay.AsynchronousRemove)
}

// newWorker opens the store below o.Root and makes a worker over it. The worker
// is returned with an error as well, for what was opened so far.
func newWorker(ctx context.Context, o Options, runc string, h *hosts) (*worker, error) {
	name := snapshotterName(o)
	w := &worker{made: newMadeLayers(), work: openWorkTimes(filepath.Join(o.Root, workTimesFile))}
	root := filepath.Join(o.Root, "runc-"+name)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return w, err
	}
	mdb, err := w.openMetadata(ctx, root, name)
	if err != nil {
		return w, err
	}
	opt, err := w.options(o, root, name, runc, mdb, h.origins)
	if err != nil {
		return w, err
	}
	opt.RegistryHosts = h.lookup
	w.Worker, err = base.NewWorker(ctx, opt)
	return w, err
}

// openMetadata opens content, snapshots and the database over both.
func (w *worker) openMetadata(ctx context.Context, root, name string) (*ctdmetadata.DB, error) {
	sn, err := newSnapshotter(name, filepath.Join(root, "snapshots"))
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, sn.Close)
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(filepath.Join(root, "containerdmeta.db"), 0o644,
		&bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, db.Close)
	mdb := ctdmetadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{name: sn})
	return mdb, mdb.Init(ctx)
}

// options fills in BuildKit's own description of a worker.
func (w *worker) options(o Options, root, name, runc string, mdb *ctdmetadata.DB, from *origins) (base.WorkerOpt, error) {
	md, err := metadata.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return base.WorkerOpt{}, err
	}
	if err := forgetChecksums(md); err != nil {
		return base.WorkerOpt{}, errors.Join(err, md.Close())
	}
	nets := networks()
	monitor, err := resources.NewMonitor()
	if err != nil {
		return base.WorkerOpt{}, errors.Join(err, md.Close())
	}
	exec, err := runcexecutor.New(runcexecutor.Opt{
		Root:                filepath.Join(root, "executor"),
		CommandCandidates:   []string{runc},
		DefaultCgroupParent: o.CgroupParent,
		ProcessMode:         oci.ProcessSandbox,
		ResourceMonitor:     monitor,
	}, nets)
	if err != nil {
		return base.WorkerOpt{}, errors.Join(err, md.Close())
	}
	id, err := base.ID(root)
	if err != nil {
		return base.WorkerOpt{}, errors.Join(err, md.Close())
	}
	w.running = newRunning(exec)
	cs := containerdsnapshot.NewContentStore(&labelling{Store: mdb.ContentStore(), origins: from, made: w.made}, namespace)
	w.restoring = newRestoring(apply.NewFileSystemApplier(cs))
	return base.WorkerOpt{
		ID:               id,
		Root:             root,
		Labels:           workerLabels(name),
		Platforms:        []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         gcPolicy(o.GC),
		BuildkitVersion:  client.BuildkitVersion{Package: version.Package, Version: version.Version},
		NetworkProviders: nets,
		Executor:         w.running,
		Snapshotter:      containerdsnapshot.NewSnapshotter(name, mdb.Snapshotter(name), namespace, nil),
		ContentStore:     cs,
		Applier:          w.restoring,
		Differ:           walking.NewWalkingDiff(cs),
		LeaseManager:     leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(mdb), namespace),
		GarbageCollect:   mdb.GarbageCollect,
		ParallelismSem:   parallelism(o.MaxParallelism),
		MetadataStore:    md,
		MountPoolRoot:    filepath.Join(root, "cachemounts"),
		ResourceMonitor:  monitor,
	}, nil
}

func workerLabels(snapshotter string) map[string]string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return map[string]string{
		wlabel.Executor:       "oci",
		wlabel.Snapshotter:    snapshotter,
		wlabel.Hostname:       host,
		wlabel.Network:        "host",
		wlabel.OCIProcessMode: oci.ProcessSandbox.String(),
	}
}

// networks gives steps the host's network by default, and none when asked.
func networks() map[pb.NetMode]network.Provider {
	host := network.NewHostProvider()
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: host,
		pb.NetMode_HOST:  host,
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
}

func parallelism(n int) *semaphore.Weighted {
	if n <= 0 {
		return nil
	}
	return semaphore.NewWeighted(int64(n))
}

// gcPolicy must never be empty, or the store only grows.
func gcPolicy(g GC) []client.PruneInfo {
	return []client.PruneInfo{
		{All: true, KeepDuration: g.KeepFor},
		{All: true, MaxUsedSpace: g.KeepBytes, MinFreeSpace: g.KeepFree},
	}
}

// close closes what base.Worker does not; the controller closes the rest.
func (w *worker) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	return errors.Join(errs...)
}

// forgetChecksums lets BuildKit read anew what it knows of the files in snapshots.
// It keeps the newest for the whole process, each with the store that it came from:
// a second engine over the same store would ask one that is closed.
func forgetChecksums(md *metadata.Store) error {
	items, err := md.All()
	if err != nil {
		return fmt.Errorf("reading what snapshots there are: %w", err)
	}
	for _, item := range items {
		contenthash.ClearCacheContext(named{id: item.ID()})
	}
	return nil
}

// named is a snapshot of which only the ID is asked for.
type named struct {
	cache.RefMetadata
	id string
}

func (n named) ID() string { return n.id }
