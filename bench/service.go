package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// service is a process that works for others until it is stopped.
type service struct {
	cmd  *exec.Cmd
	out  *tail
	done chan struct{}
}

func startService(cmd *exec.Cmd) (*service, error) {
	s := &service{cmd: cmd, out: &tail{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := startGroup(cmd); err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait(); close(s.done) }()
	return s, nil
}

func (s *service) pid() int { return s.cmd.Process.Pid }

// stop asks the process to end, and ends it with its group if it doesn't.
func (s *service) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		_ = syscall.Kill(-s.pid(), syscall.SIGKILL)
		<-s.done
	}
}

// ready waits until ask succeeds.
func (s *service) ready(ctx context.Context, ask func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("starting %s: it ended\n%s", s.cmd.Path, s.out.String())
		case <-ctx.Done():
			return fmt.Errorf("starting %s: %w\n%s", s.cmd.Path, errors.Join(context.Cause(ctx), err), s.out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// startRegistry starts distribution's registry over a folder, as it comes, but
// with deletion allowed and without telemetry.
func startRegistry(ctx context.Context, program, dir string) (*service, string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("finding a port for the registry: %w", err)
	}
	addr := ln.Addr().String()
	ln.Close()
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s}
`, filepath.Join(dir, "data"), addr)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	s, err := startService(cmd)
	if err != nil {
		return nil, "", err
	}
	err = s.ready(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		s.stop()
		return nil, "", err
	}
	return s, addr, nil
}

// engine is a buildkitd with a store of its own.
type engine struct {
	*service
	dir  string
	addr string
}

// startEngine starts buildkitd over dir, which it makes.
func startEngine(ctx context.Context, t tools, dir string) (*engine, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	e := &engine{dir: dir, addr: "unix://" + filepath.Join(dir, "s")}
	cmd := exec.Command(t.buildkitd, "--root", filepath.Join(dir, "root"), "--addr", e.addr,
		"--oci-worker-snapshotter", "overlayfs", "--containerd-worker=false", "--oci-worker-net", "host")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(t.runc)+":"+os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none")
	s, err := startService(cmd)
	if err != nil {
		return nil, err
	}
	e.service = s
	err = s.ready(ctx, func(ctx context.Context) error {
		return exec.CommandContext(ctx, t.buildctl, "--addr", e.addr, "debug", "workers").Run()
	})
	if err != nil {
		return nil, errors.Join(err, e.remove())
	}
	return e, nil
}

// remove stops the engine and deletes its store.
func (e *engine) remove() error {
	e.stop()
	if err := unmountBelow(e.dir); err != nil {
		return err
	}
	return os.RemoveAll(e.dir)
}
