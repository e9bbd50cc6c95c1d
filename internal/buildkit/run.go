package buildkit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
)

// outputLimit bounds the output that Run gives back; events have all of it.
const outputLimit = 1 << 20

// ErrTimeout says that a command was ended because it ran for too long.
var ErrTimeout = errors.New("it ran for too long")

// RunJob is a command to run in an image that was built.
type RunJob = build.RunJob

// Run runs a command in an image. Nothing that it writes is kept, and its
// result is never taken from a cache. It gives the exit code and the last
// megabyte of what the command wrote. The error is nil when the command ran to
// its end, whatever its exit code.
func (e *engine) Run(ctx context.Context, j RunJob, s event.Sink) (exitCode int, output []byte, err error) {
	if e.restore != nil { // a later build may stand on what is unpacked now
		defer e.restore(j.Tables)()
	}
	if err := oneOf("network", j.Network, jobNetworks...); err != nil {
		return 0, nil, err
	}
	parent := ctx
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Timeout, ErrTimeout)
		defer cancel()
	}
	creds, err := e.credentials()
	if err != nil {
		return 0, nil, err
	}
	opt := client.SolveOpt{
		Ref:     newRef(),
		Session: []session.Attachable{creds},
	}
	if e.mayAskForHost(build.Job{Network: j.Network}) {
		opt.AllowedEntitlements = []string{string(entitlements.EntitlementNetworkHost)}
	}
	c := &command{job: j, sink: s, id: opt.Ref + "-run"}
	p := newProgress(j.Unit, opt.Ref, s)
	_, err = e.solve(ctx, p, func(status chan *client.SolveStatus) (*client.SolveResponse, error) {
		return e.client.Build(ctx, opt, "", c.run, status)
	})
	switch {
	case parent.Err() == nil && ctx.Err() != nil:
		err = ErrTimeout
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case c.unstarted != nil:
		err = withHint(c.unstarted, j.Platform)
	case err != nil:
		err = withHint(cause{err}, j.Platform)
	}
	if err != nil {
		err = fmt.Errorf("running %s in %s: %w", c.name(), cmp.Or(j.Unit, j.Image), err)
	}
	return c.code, c.output(), err
}

// command is one command in one container.
type command struct {
	job  RunJob
	id   string
	sink event.Sink
	code int

	unstarted *StartError // why it was never run

	mu   sync.Mutex
	out  []byte
	line []byte
}

// name is what errors call the command.
func (c *command) name() string {
	if len(c.job.Args) == 0 {
		return "its own command"
	}
	return fmt.Sprintf("%q", c.job.Args)
}

// run is the program that BuildKit's gateway calls.
func (c *command) run(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
	p, err := platforms.Parse(c.job.Platform)
	if err != nil {
		return nil, err
	}
	config, err := resolveConfig(ctx, gw, c.job.Image, p)
	if err != nil {
		return nil, err
	}
	def, err := llb.Image(c.job.Image, llb.Platform(p)).Marshal(ctx, llb.Platform(p))
	if err != nil {
		return nil, err
	}
	res, err := gw.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, err
	}
	ctr, err := gw.NewContainer(ctx, gateway.NewContainerRequest{
		Mounts:   []gateway.Mount{{Dest: "/", MountType: pb.MountType_BIND, Ref: res.Ref}},
		NetMode:  c.netMode(),
		Platform: &pb.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
	})
	if err != nil {
		return nil, err
	}
	err = c.start(ctx, ctr, config)
	// Release says once more how the command ended.
	released := ctr.Release(context.WithoutCancel(ctx))
	var exit *gatewayapi.ExitError
	if errors.As(released, &exit) {
		released = nil
	}
	return gateway.NewResult(), errors.Join(err, released)
}

func resolveConfig(ctx context.Context, gw gateway.Client, image string, p ocispec.Platform) (ocispec.ImageConfig, error) {
	_, _, data, err := gw.ResolveImageConfig(ctx, image, sourceresolver.Opt{
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p},
	})
	if err != nil {
		return ocispec.ImageConfig{}, err
	}
	var img ocispec.Image
	if err := json.Unmarshal(data, &img); err != nil {
		return ocispec.ImageConfig{}, fmt.Errorf("reading config of %q: %w", image, err)
	}
	return img.Config, nil
}

func (c *command) netMode() pb.NetMode {
	if c.job.Network == "none" {
		return pb.NetMode_NONE
	}
	return pb.NetMode_UNSET
}

// start runs the command and takes its exit code.
func (c *command) start(ctx context.Context, ctr gateway.Container, config ocispec.ImageConfig) error {
	req := gateway.StartRequest{
		Args:   c.job.Args,
		Env:    append(append([]string{}, config.Env...), c.job.Env...),
		User:   c.job.User,
		Cwd:    c.job.Dir,
		Stdout: writeCloser{c},
	}
	words := &startWords{to: c} // of what starts the command
	if a := c.job.Attach; a != nil {
		req.Stdin, req.Stdout, req.Tty = a.Stdin, writeCloser{a.Stdout}, a.TTY
		if words.to = a.Stderr; a.TTY {
			words.to, req.Stdout = a.Stdout, writeCloser{words}
		}
		if a.Started != nil {
			a.Started()
		}
	}
	if c.job.Attach == nil || !c.job.Attach.TTY {
		req.Stderr = writeCloser{words}
	}
	if len(req.Args) == 0 {
		req.Args = append(append([]string{}, config.Entrypoint...), config.Cmd...)
	}
	if req.User == "" {
		req.User = config.User
	}
	if req.Cwd == "" {
		req.Cwd = config.WorkingDir
	}
	if req.Cwd == "" {
		req.Cwd = "/"
	}
	if len(req.Args) == 0 {
		return errors.New("the image has no command of its own")
	}
	began := time.Now()
	name := fmt.Sprintf("run %q", req.Args)
	c.emit(event.Event{Type: event.StepStarted, Time: began, Step: name})
	proc, err := ctr.Start(ctx, req)
	if err == nil {
		ended := c.followSize(ctx, proc)
		err = proc.Wait()
		ended()
	}
	var exit *gatewayapi.ExitError
	if errors.As(err, &exit) && exit.ExitCode < gatewayapi.UnknownExitStatus {
		c.code, err = int(exit.ExitCode), nil
	}
	if c.unstarted = words.end(c.code); c.unstarted != nil {
		c.code, err = c.unstarted.Code, c.unstarted
	}
	done := event.Event{Type: event.StepFinished, Time: time.Now(), Step: name, Seconds: time.Since(began).Seconds()}
	switch {
	case err != nil:
		done.Error = err.Error()
	case c.code != 0:
		done.Error = fmt.Sprintf("exit code %d", c.code)
	}
	c.emit(done)
	return err
}

// followSize tells a process in a terminal how large that is, until ended is
// called.
func (c *command) followSize(ctx context.Context, proc gateway.ContainerProcess) (ended func()) {
	if c.job.Attach == nil || !c.job.Attach.TTY || c.job.Attach.Sizes == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s, ok := <-c.job.Attach.Sizes:
				if !ok {
					return
				}
				// A size that can't be set is no reason to end the command.
				_ = proc.Resize(ctx, gateway.WinSize{Rows: uint32(max(s.Rows, 0)), Cols: uint32(max(s.Columns, 0))})
			}
		}
	})
	return func() {
		stop()
		done.Wait()
	}
}

func (c *command) emit(e event.Event) {
	e.Unit, e.StepID = c.job.Unit, c.id
	c.sink.Emit(e)
}

// Write keeps the end of the output and emits whole lines.
func (c *command) Write(data []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, data...)
	if len(c.out) > 2*outputLimit {
		c.out = append([]byte(nil), c.out[len(c.out)-outputLimit:]...)
	}
	for _, b := range data {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		c.emit(event.Event{Type: event.StepLog, Time: time.Now(), Text: string(c.line)})
		c.line = c.line[:0]
	}
	return len(data), nil
}

func (c *command) output() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.line) > 0 {
		c.emit(event.Event{Type: event.StepLog, Time: time.Now(), Text: string(c.line)})
		c.line = nil
	}
	return c.out[max(0, len(c.out)-outputLimit):]
}

// writeCloser has a Close that does nothing: stdout and stderr share a command.
type writeCloser struct{ io.Writer }

// Close does nothing.
func (writeCloser) Close() error { return nil }
