package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

// lockPoll is how often a waiting process tries again; a build takes seconds.
const lockPoll = 50 * time.Millisecond

// LockedError says that another process uses the engine's folder.
type LockedError struct {
	Path string // of the lock file
	PID  int    // of the holder; 0 when unknown
}

// Error names the folder and, where known, the process.
func (e *LockedError) Error() string {
	s := fmt.Sprintf("opening engine: %q is in use by another process", filepath.Dir(e.Path))
	if e.PID != 0 {
		s += fmt.Sprintf(" (pid %d)", e.PID)
	}
	return s
}

// lock is a held lock on an engine's folder.
type lock struct{ f *os.File }

// acquire takes the lock of root, the same file that buildkitd uses. It waits
// until it is free or ctx is done, unless o.NoWait is set.
func acquire(ctx context.Context, o Options) (*lock, error) {
	path := filepath.Join(o.Root, "buildkitd.lock")
	for told := false; ; {
		l, err := tryLock(path)
		if l != nil || err != nil {
			return l, err
		}
		held := &LockedError{Path: path, PID: holder(path)}
		if o.NoWait {
			return nil, diag.Hint(held, "wait for it to end, or use another store with $STRATA_HOME")
		}
		if !told {
			o.Waiting(path, held.PID)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q: %w", path, context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}

// tryLock gives nil without an error when another process holds the lock.
func tryLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !samePath(f, path) {
		err = unix.EWOULDBLOCK // buildkitd removes the file when it ends
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0) // only for messages
	}
	return &lock{f: f}, nil
}

func samePath(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// holder reads who holds the lock at path, 0 when it does not say.
func holder(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

func (l *lock) release() error { return l.f.Close() }
