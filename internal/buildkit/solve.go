package buildkit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/times"
)

// engine is what the embedded engine and remote ones have in common. It
// implements [build.Engine].
type engine struct {
	client       *client.Client
	dockerConfig string
	credential   Credential       // see [Options]
	blobs        content.Provider // of manifests and configs, and of layers when embedded
	embedded     bool
	settle       func() // waits for what a cancelled build had started; may be nil
	// local makes a job known to the exporter that keeps images here, and hold
	// keeps an image's blobs; nil when the engine is elsewhere.
	local  func(j build.Job) (name string, done func())
	tables func(name string) times.Tables // of the layers that were made for a local job
	hold   func(ctx context.Context, blobs ...digest.Digest) (release func(), err error)
	// restore gives layers that are unpacked from now on the times that their
	// tables say; nil when the engine is elsewhere.
	restore func(times.Tables) (done func())
	// work notes that steps run from now on; nil when the engine is elsewhere.
	work func() (done func())
}

// Build builds j and pushes the result by digest. It fulfils [build.Engine].
func (e *engine) Build(ctx context.Context, j build.Job, s event.Sink) (build.Result, error) {
	r, err := e.build(ctx, j, s)
	if ctx.Err() == nil && isStaleSnapshot(err) {
		r, err = e.build(ctx, j, s)
	}
	if ctx.Err() == nil && err != nil && strings.Contains(err.Error(), otherEpoch) {
		j.NoCache = true
		r, err = e.build(ctx, j, s)
	}
	if err != nil {
		return build.Result{}, fmt.Errorf("building %q: %w", j.Unit, err)
	}
	return r, nil
}

// isStaleSnapshot tells whether err is the one with which the first build after
// a SIGKILL may fail, and which does not come twice.
func isStaleSnapshot(err error) bool {
	return err != nil && strings.Contains(err.Error(), "failed to prepare ") && strings.Contains(err.Error(), " as ")
}

// otherEpoch is in the error of a build that found a layer in the instruction
// cache whose times obey another SOURCE_DATE_EPOCH; without the cache it works.
const otherEpoch = "was made for another SOURCE_DATE_EPOCH"

func (e *engine) build(ctx context.Context, j build.Job, s event.Sink) (build.Result, error) {
	if err := e.check(j); err != nil {
		return build.Result{}, err
	}
	if e.work != nil {
		defer e.work()()
		defer e.restore(j.Times.Tables)()
	}
	name := ""
	if j.Local && e.local != nil {
		var done func()
		name, done = e.local(j)
		defer done()
	}
	sent := &sending{job: j}
	defer sent.close()
	solving, stop := context.WithCancel(ctx)
	defer stop()
	sent.stop = stop
	opt, err := e.solveOpt(sent, name)
	if err != nil {
		return build.Result{}, err
	}
	p := newProgress(j.Unit, opt.Ref, s)
	resp, err := e.solve(solving, p, func(status chan *client.SolveStatus) (*client.SolveResponse, error) {
		return e.client.Solve(solving, nil, opt, status)
	})
	if changed := sent.err(); changed != nil && ctx.Err() == nil {
		return build.Result{}, changed
	}
	if err != nil {
		return build.Result{}, explain(ctx, err, j, p)
	}
	r, err := e.result(ctx, resp.ExporterResponse, name != "")
	if err != nil {
		return build.Result{}, err
	}
	if name != "" {
		r.Tables = e.tables(name)
	}
	r.Steps = p.finished()
	return r, nil
}

// solve runs f while p follows its status. When ctx is cancelled it returns
// after the containers have ended.
func (e *engine) solve(ctx context.Context, p *progress, f func(chan *client.SolveStatus) (*client.SolveResponse, error)) (*client.SolveResponse, error) {
	status := make(chan *client.SolveStatus)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		p.follow(status)
	}()
	resp, err := f(status)
	<-followed
	if ctx.Err() != nil && e.settle != nil {
		e.settle()
	}
	return resp, err
}

// result reads what was built. There is no manifest when nothing but a tar was
// asked for.
func (e *engine) result(ctx context.Context, resp map[string]string, local bool) (build.Result, error) {
	encoded := resp[exptypes.ExporterImageDescriptorKey]
	if encoded == "" {
		return build.Result{}, nil
	}
	var r build.Result
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err == nil {
		err = json.Unmarshal(data, &r.Manifest)
	}
	if err != nil {
		return r, fmt.Errorf("reading the engine's answer %q: %w", encoded, err)
	}
	r.Manifest.Annotations = nil // BuildKit's own notes, not the image's
	if r.Body, err = content.ReadBlob(ctx, e.blobs, r.Manifest); err != nil {
		return r, fmt.Errorf("reading manifest %q: %w", r.Manifest.Digest, err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(r.Body, &m); err != nil {
		return r, fmt.Errorf("reading manifest %q: %w", r.Manifest.Digest, err)
	}
	if r.Config, err = content.ReadBlob(ctx, e.blobs, m.Config); err != nil {
		return r, fmt.Errorf("reading config %q: %w", m.Config.Digest, err)
	}
	if e.embedded {
		r.Blob = e.blob
	}
	if local {
		r.Local = true
		r.Release, err = e.holdImage(ctx, r.Manifest, m)
	}
	return r, err
}

// holdImage keeps the blobs of an image that are here.
func (e *engine) holdImage(ctx context.Context, desc ocispec.Descriptor, m ocispec.Manifest) (func(), error) {
	blobs := []digest.Digest{desc.Digest, m.Config.Digest}
	for _, l := range m.Layers {
		blobs = append(blobs, l.Digest)
	}
	release, err := e.hold(ctx, blobs...)
	if err != nil {
		return nil, fmt.Errorf("holding image %q: %w", desc.Digest, err)
	}
	return release, nil
}

// blob opens a blob of the engine's store. A blob that was never pulled isn't
// there.
func (e *engine) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return openBlob(ctx, e.blobs, d)
}

func openBlob(ctx context.Context, blobs content.Provider, d ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := blobs.ReaderAt(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", d.Digest, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}, nil
}

// newRef names one solve; events are told apart by it.
func newRef() string { return identity.NewID() }

var errNoContext = errors.New("the job has no build context")

// platforms gives what the engine's workers run.
func (e *engine) platforms(ctx context.Context) ([]string, error) {
	workers, err := e.client.ListWorkers(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking engine for its platforms: %w", err)
	}
	var out []string
	for _, w := range workers {
		for _, p := range w.Platforms {
			if s := platforms.Format(p); !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out, nil
}
