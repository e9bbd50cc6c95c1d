package buildkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	runcState = "/run/runc"      // where runc keeps what it knows about containers
	cgroupfs  = "/sys/fs/cgroup" // version 2, or one folder a controller
)

// leftovers clears what an engine leaves behind when it is killed: BuildKit
// itself never does. The lock on root must be held.
type leftovers struct {
	root   string // state of the engine
	runc   program
	cgroup string // parent of every container's cgroup
}

// clear ends containers, then unmounts, then removes folders: a folder must
// not be removed while a snapshot is mounted in it.
func (l leftovers) clear() error {
	l.killContainers()
	l.killCgroups()
	if err := l.unmount(); err != nil {
		return fmt.Errorf("clearing what a killed engine left in %q: %w", l.root, err)
	}
	var errs []error
	for _, dir := range l.scratch() {
		errs = append(errs, os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clearing what a killed engine left in %q: %w", l.root, err)
	}
	return nil
}

// scratch lists the folders and files that mean nothing to a new engine.
func (l leftovers) scratch() []string {
	out := []string{filepath.Join(l.root, "tmp"), filepath.Join(l.root, "bin")} // bin: where earlier versions had runc
	for _, pattern := range []string{"unpack-*", "runc-*/executor/*", "runc-*/cachemounts/*"} {
		found, _ := filepath.Glob(filepath.Join(l.root, pattern))
		out = append(out, found...)
	}
	return out
}

// killContainers deletes the containers whose bundle lies below root. Others
// (docker's, another engine's) are in the same folder and are not touched. A
// container that was killed while it was made has a folder but no state yet.
func (l leftovers) killContainers() {
	states, _ := filepath.Glob(filepath.Join(runcState, "*", "state.json"))
	for _, state := range states {
		id := filepath.Base(filepath.Dir(state))
		if !strings.HasPrefix(bundleOf(state), l.root+string(filepath.Separator)) {
			continue
		}
		// An error means that it is gone or broken; its cgroup is killed next.
		_ = l.runc.wait()
		_ = exec.Command(l.runc.path, "delete", "--force", id).Run()
		_ = os.RemoveAll(filepath.Dir(state))
	}
	bundles, _ := filepath.Glob(filepath.Join(l.root, "runc-*", "executor", "*", "rootfs"))
	for _, rootfs := range bundles {
		id := filepath.Base(filepath.Dir(rootfs)) // BuildKit names both alike
		_ = os.RemoveAll(filepath.Join(runcState, id))
	}
}

// bundleOf reads the bundle's path from runc's state of a container.
func bundleOf(state string) string {
	data, err := os.ReadFile(state)
	if err != nil {
		return ""
	}
	var s struct {
		Config struct {
			Labels []string `json:"labels"`
		} `json:"config"`
	}
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	for _, label := range s.Config.Labels {
		if path, ok := strings.CutPrefix(label, "bundle="); ok {
			return path
		}
	}
	return ""
}

// killCgroups kills every process in the engine's own cgroups and removes them.
func (l leftovers) killCgroups() {
	parents, _ := filepath.Glob(filepath.Join(cgroupfs, "*", l.cgroup))
	parents = append(parents, filepath.Join(cgroupfs, l.cgroup))
	for _, parent := range parents {
		leaves, _ := filepath.Glob(filepath.Join(parent, "buildkit", "*"))
		for _, leaf := range leaves {
			if fi, err := os.Stat(leaf); err == nil && fi.IsDir() {
				killCgroup(leaf)
			}
		}
		_ = os.Remove(filepath.Join(parent, "buildkit"))
		_ = os.Remove(parent)
	}
}

// killCgroup kills what is in dir and below until nothing is, for two seconds
// at most: a process in an uninterruptible wait can't be killed.
func killCgroup(dir string) {
	for range 200 {
		alive := false
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			data, _ := os.ReadFile(path)
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					alive = true
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
			return nil
		})
		if !alive {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	removeCgroup(dir)
}

// removeCgroup removes the folders of a cgroup, deepest first; its files can't
// be removed.
func removeCgroup(dir string) {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = os.Remove(d)
	}
}

// unmount unmounts everything below root, the last mounted first.
func (l leftovers) unmount() error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(l.root))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == l.root {
			continue // the state's own disk
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %q: %w", m.Mountpoint, err)
		}
	}
	return nil
}
