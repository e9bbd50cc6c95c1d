package buildkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/util/resolver"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/printable"
)

// logLimit is the size at which the engine's log file is begun anew.
const logLimit = 8 << 20

// turn admits one embedded engine at a time: BuildKit keeps its logger, its
// resolvers and its mount folder in globals, umask and TMPDIR belong to the
// process.
var turn = make(chan struct{}, 1)

// globals is what an engine changed in this process, to put it back.
type globals struct {
	umask  int
	tmpdir string
	hadTmp bool
	log    io.Closer
}

// takeTurn waits until no other engine is open in this process.
func takeTurn(ctx context.Context, o Options) error {
	select {
	case turn <- struct{}{}:
		return nil
	default:
	}
	held := &LockedError{Path: filepath.Join(o.Root, "buildkitd.lock"), PID: os.Getpid()}
	if o.NoWait {
		return diag.Hint(held, "close the engine that is open in this process first")
	}
	o.Waiting(held.Path, held.PID)
	select {
	case turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %q: %w", held.Path, context.Cause(ctx))
	}
}

// setGlobals prepares the process for an engine. Its log goes to a file: the
// terminal belongs to somebody else.
func setGlobals(o Options) (*globals, error) {
	tmp := filepath.Join(o.Root, "tmp")
	mounts := filepath.Join(tmp, "mounts")
	if err := os.MkdirAll(mounts, 0o711); err != nil {
		return nil, err
	}
	g := &globals{}
	if o.Log != nil {
		logrus.SetOutput(o.Log)
	} else {
		f, err := openLog(filepath.Join(o.Root, "engine.log"))
		if err != nil {
			return nil, err
		}
		logrus.SetOutput(quietLog{f})
		g.log = f
	}
	logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	mount.SetTempMountLocation(mounts)
	resolver.DefaultPool.Clear() // it remembers where hosts were for the last engine
	g.tmpdir, g.hadTmp = os.LookupEnv("TMPDIR")
	if err := os.Setenv("TMPDIR", tmp); err != nil {
		return nil, err
	}
	// With a stricter umask, steps of other users can't enter their own root.
	g.umask = unix.Umask(0o022)
	return g, nil
}

// restore puts the process back. The log stays silent: BuildKit has timers that
// no Close stops, and they find the engine's databases closed.
func (g *globals) restore() {
	unix.Umask(g.umask)
	if g.hadTmp {
		os.Setenv("TMPDIR", g.tmpdir)
	} else {
		os.Unsetenv("TMPDIR")
	}
	logrus.SetOutput(io.Discard)
	if g.log != nil {
		g.log.Close()
	}
}

// quietLog is a log without the credentials of what was fetched. Each entry comes
// by one Write.
type quietLog struct{ out io.Writer }

func (l quietLog) Write(entry []byte) (int, error) {
	if _, err := io.WriteString(l.out, printable.Text(string(entry))); err != nil {
		return 0, err
	}
	return len(entry), nil
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if fi, err := os.Stat(path); err == nil && fi.Size() > logLimit {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}
