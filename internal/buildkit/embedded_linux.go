package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec of the vtproto messages
	bkworker "github.com/moby/buildkit/worker"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/times"
)

const (
	messageLimit = 16 << 20 // of a gRPC message; BuildKit's own default
	// The store holds on to the blobs of so many last builds, and of all builds
	// of the last hour: long enough for [build.Result].Blob.
	historySize = 4
	historyAge  = time.Hour
	settleLimit = 10 * time.Second // for a cancelled container to end
)

// Embedded is BuildKit in this process. It implements [build.Engine].
type Embedded struct {
	engine
	worker   *worker
	locals   *locals
	sessions *session.Manager
	server   *grpc.Server
	ctl      *control.Controller
	hosts    *hosts
	lock     *lock
	globals  *globals
	left     leftovers
	stopping chan struct{}
	serving  sync.WaitGroup
	// connected is done when the engine ends; sessions outlive the calls that
	// open them.
	connected context.Context
	undo      []func() error // of a start, in the order of doing
	closed    sync.Once
}

// Open starts the embedded engine over the state below o.Root. It waits for
// another process that uses the same state, until ctx is done, and clears what
// a killed one left. Only one engine is open in a process at a time.
func Open(ctx context.Context, o Options) (*Embedded, error) {
	if err := checkUser(os.Geteuid()); err != nil {
		return nil, err
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Embedded{stopping: make(chan struct{}), locals: &locals{jobs: map[string]build.Job{}, tables: map[string]times.Tables{}}}
	if err := e.start(ctx, o); err != nil {
		return nil, errors.Join(err, e.rollback())
	}
	return e, nil
}

// checkUser says early what would otherwise fail late: mounts and namespaces.
func checkUser(euid int) error {
	if euid == 0 {
		return nil
	}
	return diag.Hint(errors.New("opening engine: the embedded engine needs root"),
		"run as root (sudo), or name a BuildKit with --engine or $BUILDKIT_HOST")
}

// start does the steps in the order that they depend on; each step adds how it
// is undone.
func (e *Embedded) start(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return fmt.Errorf("opening engine: %w", err)
	}
	if err := takeTurn(ctx, o); err != nil {
		return err
	}
	e.undo = append(e.undo, func() error { <-turn; return nil })
	var err error
	if e.lock, err = acquire(ctx, o); err != nil {
		return err
	}
	e.undo = append(e.undo, e.lock.release)
	runc, err := findRunc(o.Runc, o.Root)
	if err != nil {
		return err
	}
	e.undo = append(e.undo, runc.close)
	e.left = leftovers{root: o.Root, runc: runc, cgroup: o.CgroupParent}
	e.undo = append(e.undo, e.left.clear)
	if err := e.left.clear(); err != nil {
		return err
	}
	if e.globals, err = setGlobals(o); err != nil {
		return fmt.Errorf("opening engine: %w", err)
	}
	e.undo = append(e.undo, func() error { e.globals.restore(); return nil })
	if err := e.startEngine(ctx, o, runc.path); err != nil {
		return fmt.Errorf("opening engine %q: %w", o.Root, err)
	}
	return runc.wait()
}

func (e *Embedded) startEngine(ctx context.Context, o Options, runc string) error {
	if err := dropUndated(o.Root); err != nil {
		return err
	}
	limitClients(o.Limits)
	e.hosts = newHosts(o, newOrigins())
	e.undo = append(e.undo, func() error { e.hosts.transport.CloseIdleConnections(); return nil })
	var err error
	e.worker, err = newWorker(ctx, o, runc, e.hosts)
	e.undo = append(e.undo, e.worker.close)
	if err != nil {
		return err
	}
	if e.sessions, err = session.NewManager(); err != nil {
		return err
	}
	if err := e.newController(o); err != nil {
		return err
	}
	e.undo = append(e.undo, e.ctl.Close)
	return e.serve(ctx, o)
}

// newController puts frontends, caches and history around the worker.
func (e *Embedded) newController(o Options) error {
	workers := &bkworker.Controller{}
	if err := workers.Add(&localWorker{Worker: e.worker.Worker, locals: e.locals, made: e.worker.made, work: e.worker.work}); err != nil {
		return err
	}
	gw, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(o.Root, "cache.db"))
	if err != nil {
		return err
	}
	history, err := boltutil.SafeOpen(filepath.Join(o.Root, "history.db"), 0o600,
		&bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return errors.Join(err, cache.Close())
	}
	entries := int64(historySize)
	e.ctl, err = control.NewController(control.Opt{
		SessionManager:   e.sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
			"gateway.v0":    gw,
		},
		CacheManager: solver.NewCacheManager(context.Background(), "local", cache,
			bkworker.NewCacheResultStorage(workers)),
		ResolveCacheExporterFuncs: e.cacheExporters(),
		ResolveCacheImporterFuncs: e.cacheImporters(),
		// The default network of a step is the host's anyway.
		Entitlements:   []string{string(entitlements.EntitlementNetworkHost)},
		HistoryDB:      history,
		HistoryConfig:  &config.HistoryConfig{MaxEntries: &entries, MaxAge: config.Duration{Duration: historyAge}},
		CacheStore:     cache,
		LeaseManager:   e.worker.LeaseManager(),
		ContentStore:   e.worker.ContentStore(),
		GarbageCollect: e.worker.GarbageCollect,
		GracefulStop:   e.stopping,
	})
	if err != nil {
		return errors.Join(err, history.Close(), cache.Close())
	}
	return nil
}

// cacheExporters leaves out s3, azblob and gha: they would bring three cloud
// SDKs into the binary.
func (e *Embedded) cacheExporters() map[string]remotecache.ResolveCacheExporterFunc {
	return map[string]remotecache.ResolveCacheExporterFunc{
		"registry": registrycache.ResolveCacheExporterFunc(e.sessions, e.hosts.lookup),
		"local":    localcache.ResolveCacheExporterFunc(e.sessions),
		"inline":   inlinecache.ResolveCacheExporterFunc(),
	}
}

func (e *Embedded) cacheImporters() map[string]remotecache.ResolveCacheImporterFunc {
	return map[string]remotecache.ResolveCacheImporterFunc{
		"registry": registrycache.ResolveCacheImporterFunc(e.sessions, e.worker.ContentStore(), e.hosts.lookup),
		"local":    localcache.ResolveCacheImporterFunc(e.sessions),
	}
}

// serve answers a client over a pipe in memory.
func (e *Embedded) serve(ctx context.Context, o Options) error {
	e.server = grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(messageLimit), grpc.MaxSendMsgSize(messageLimit))
	e.ctl.Register(e.server)
	pipe := bufconn.Listen(1 << 20)
	e.serving.Go(func() { _ = e.server.Serve(pipe) })
	connected, disconnect := context.WithCancel(context.Background())
	e.connected = connected
	e.undo = append(e.undo, func() error {
		close(e.stopping)
		disconnect()
		e.server.Stop()
		e.serving.Wait()
		return nil
	})
	c, err := client.New(ctx, "passthrough:///inproc",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		client.WithSessionDialer(e.dialSession))
	if err != nil {
		return err
	}
	e.undo = append(e.undo, c.Close)
	e.engine = engine{
		client:       c,
		dockerConfig: o.DockerConfig,
		credential:   o.Credential,
		blobs:        e.worker.ContentStore().WithFallbackNS(namespace + "_history"),
		embedded:     true,
		settle:       func() { e.worker.running.settle(settleLimit) },
		local:        e.locals.add,
		tables:       e.locals.made,
		restore:      e.worker.restoring.use,
		work:         e.worker.work.begin,
		hold:         e.worker.hold,
	}
	return nil
}

// dialSession connects a session (files, secrets, credentials) straight to the
// engine, where a client elsewhere would wrap it in a second stream.
func (e *Embedded) dialSession(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
	pipe := bufconn.Listen(1 << 20)
	far := make(chan net.Conn, 1)
	go func() {
		if c, err := pipe.Accept(); err == nil {
			far <- c
		}
		close(far)
	}()
	near, err := pipe.DialContext(ctx)
	if err != nil {
		pipe.Close()
		return nil, err
	}
	c, ok := <-far
	if !ok {
		return nil, errors.New("connecting session: the pipe was closed")
	}
	e.serving.Go(func() { _ = e.sessions.HandleConn(e.connected, c, meta) })
	return near, nil
}

// Close ends the engine and gives its state free. No Build may be under way.
func (e *Embedded) Close() error {
	var err error
	e.closed.Do(func() { err = e.rollback() })
	if err != nil {
		return fmt.Errorf("closing engine: %w", err)
	}
	return nil
}

// rollback undoes what start did, the last first.
func (e *Embedded) rollback() error {
	var errs []error
	for i := len(e.undo) - 1; i >= 0; i-- {
		errs = append(errs, e.undo[i]())
	}
	e.undo = nil
	return errors.Join(errs...)
}
