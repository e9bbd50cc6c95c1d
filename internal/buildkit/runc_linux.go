package buildkit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

// program is a runc that only this machine's owner, or nobody at all, can
// change while it is in use.
type program struct {
	path     string        // to execute
	hold     *os.File      // what path leads to; nil: a file of the system
	unpacked chan struct{} // closed when it is whole, or failed is set; nil: it is
	failed   *error
}

// wait waits until it can be executed.
func (p program) wait() error {
	if p.unpacked == nil {
		return nil
	}
	<-p.unpacked
	if *p.failed != nil {
		return fmt.Errorf("unpacking runc: %w", *p.failed)
	}
	return nil
}

// close gives it up. Containers that run go on.
func (p program) close() error {
	if p.hold == nil {
		return nil
	}
	_ = p.wait() // told by whom it matters to
	return p.hold.Close()
}

// findRunc gives the runc to use: the one that was asked for, the one in this
// binary, or the one on PATH. The one in the binary never lies where another
// user could put something in its place: root runs it, over a store that may be
// below somebody's home (sudo -E). scratch is a folder for where memory can't be
// executed.
func findRunc(asked, scratch string) (program, error) {
	if asked != "" {
		path, err := exec.LookPath(asked)
		if err != nil {
			return program{}, fmt.Errorf("finding runc %q: %w", asked, err)
		}
		return installed(path)
	}
	if len(runcZstd) > 0 {
		p, err := embeddedRunc(scratch)
		if err != nil {
			return program{}, fmt.Errorf("unpacking runc: %w", err)
		}
		return p, nil
	}
	for _, name := range []string{"buildkit-runc", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			return installed(path)
		}
	}
	return program{}, diag.Hint(errors.New("finding runc: there is none in this binary and none on PATH"),
		"install it (apt-get install runc), or build the binary with scripts/runc.sh and -tags embedrunc")
}

// seals are those by which runc knows that it need not copy itself before a
// container can reach it (CVE-2019-5736).
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// embeddedRunc unpacks the runc in this binary into memory that nobody can write
// to any more, or, where the kernel executes none (vm.memfd_noexec), into a file
// without a name. The archive's checksum is verified on the way. That takes 25 ms,
// and goes on beside the rest of a start.
func embeddedRunc(scratch string) (program, error) {
	f, err := memory("strata-runc")
	if err != nil {
		p, ferr := namelessRunc(scratch)
		if ferr != nil {
			return program{}, errors.Join(err, ferr)
		}
		return p, nil
	}
	p, err := executable(f)
	if err != nil {
		return program{}, err
	}
	p.unpacked, p.failed = make(chan struct{}), new(error)
	go func() {
		defer close(p.unpacked)
		if *p.failed = unpackRunc(f); *p.failed == nil {
			_, *p.failed = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
		}
	}()
	return p, nil
}

// memory gives an empty file in memory that can be executed. Kernels before 6.3
// don't know the flag, and execute all.
func memory(name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// namelessRunc unpacks into a file that is unlinked before a byte is in it, and
// opens that once more for reading: one that is open for writing can't be
// executed.
func namelessRunc(dir string) (program, error) {
	w, err := os.CreateTemp(dir, "unpack-")
	if err != nil {
		return program{}, err
	}
	defer w.Close()
	if err := os.Remove(w.Name()); err != nil {
		return program{}, err
	}
	if err := unpackRunc(w); err != nil {
		return program{}, err
	}
	if err := w.Chmod(0o500); err != nil {
		return program{}, err
	}
	r, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(w.Fd())))
	if err != nil {
		return program{}, err
	}
	return executable(r)
}

func unpackRunc(w io.Writer) error {
	z, err := zstd.NewReader(bytes.NewReader(runcZstd))
	if err != nil {
		return err
	}
	defer z.Close()
	_, err = io.Copy(w, z)
	return err
}

// executable gives an open file a path under which this process's children, and
// only those who may look into it, find it.
func executable(f *os.File) (program, error) {
	self, err := os.Readlink("/proc/self") // as the mounted /proc counts
	if err != nil {
		f.Close()
		return program{}, err
	}
	return program{path: fmt.Sprintf("/proc/%s/fd/%d", self, f.Fd()), hold: f}, nil
}

// installed gives a runc of the system, if nobody but root and this user can
// change it or put another in its place.
func installed(path string) (program, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return program{}, fmt.Errorf("finding runc: %w", err)
	}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return program{}, fmt.Errorf("finding runc: %w", err)
		}
		if who := changedBy(info); who != "" {
			return program{}, diag.Hint(fmt.Errorf("finding runc: %q may be changed by %s: %q", path, who, at),
				"put a runc where only root can write first on PATH (apt-get install runc)")
		}
		if at == filepath.Dir(at) {
			return program{path: path}, nil
		}
	}
}

// firstUserGroup is where the groups of users begin; those below are the
// system's, as Debian's staff, which owns /usr/local.
const firstUserGroup = 1000

// changedBy names who else can change a file or folder; "" is nobody.
func changedBy(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("the user %d", st.Uid)
	case info.IsDir() && info.Mode()&fs.ModeSticky != 0:
		return "" // what lies in it belongs to whom it was checked for
	case info.Mode()&0o002 != 0:
		return "everybody"
	case info.Mode()&0o020 != 0 && st.Gid >= firstUserGroup && int(st.Gid) != os.Getegid():
		return fmt.Sprintf("the group %d", st.Gid)
	}
	return ""
}
