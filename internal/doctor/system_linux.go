package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// freeSpace asks for the space of the file system of dir.
func freeSpace(dir string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return space{}, err
	}
	return space{bytes: st.Bavail * uint64(st.Bsize), inodes: st.Ffree, counts: st.Files > 0}, nil
}

// tryOverlay mounts an overlay in a new folder below dir, changes a file
// through it, and takes all away again.
func tryOverlay(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, os.RemoveAll(tmp)) }()
	sub := map[string]string{}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		sub[name] = filepath.Join(tmp, name)
		if err := os.Mkdir(sub[name], 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(sub["lower"], "file"), []byte("lower"), 0o644); err != nil {
		return err
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", escapeOption(sub["lower"]), escapeOption(sub["upper"]), escapeOption(sub["work"]))
	if err := unix.Mount("overlay", sub["merged"], "overlay", 0, data); err != nil {
		return fmt.Errorf("mounting: %w", err)
	}
	err = useOverlay(sub["merged"], sub["upper"])
	return cmp.Or(err, unix.Unmount(sub["merged"], unix.MNT_DETACH))
}

// escapeOption writes a path as overlayfs wants it in its options, where
// colons and commas part values (Documentation/filesystems/overlayfs.rst).
func escapeOption(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}

// useOverlay changes a file of the lower folder and removes it again: the
// first needs copying up, the second a whiteout.
func useOverlay(merged, upper string) error {
	file := filepath.Join(merged, "file")
	if err := os.WriteFile(file, []byte("upper"), 0o644); err != nil {
		return fmt.Errorf("copying up: %w", err)
	}
	if got, err := os.ReadFile(filepath.Join(upper, "file")); err != nil || string(got) != "upper" {
		return errors.New("copying up: the change did not come into the upper folder")
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("making a whiteout: %w", err)
	}
	return nil
}

// inNamespaces runs a program in namespaces of its own. Without root that
// takes a user namespace as well.
func inNamespaces(ctx context.Context, path string, root bool) error {
	cmd := exec.CommandContext(ctx, path)
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if !root {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	return cmd.Run()
}
