package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
)

// read gives the text of a file below the machine's root, "" where it can't
// be read.
func (o Options) read(path string) string {
	data, err := fs.ReadFile(o.Machine, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// version reads the first two numbers of a kernel's release.
func version(release string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(release, ".")
	b := strings.TrimLeft(rest, "0123456789")
	major, err := strconv.Atoi(a)
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(strings.TrimSuffix(rest, b))
	return major, minor, err == nil
}

const remoteHint = "build on another machine's engine: strata build --engine docker-container://NAME, or tcp://HOST:PORT"

// kernel wants Linux 4.18 for the engine, and 5.11 for overlayfs without
// root (both as BuildKit's own documentation on rootless mode has them).
func kernel(_ context.Context, o Options) Check {
	if o.OS != "linux" {
		return fail(remoteHint, "%s/%s: the embedded engine needs Linux", o.OS, o.Arch)
	}
	release := o.read("proc/sys/kernel/osrelease")
	major, minor, known := version(release)
	atLeast := func(a, b int) bool { return major > a || major == a && minor >= b }
	switch {
	case !known:
		return warn("mount /proc: sudo mount -t proc proc /proc", "Linux, but its version can't be read from /proc")
	case !atLeast(4, 18):
		return fail("update the kernel, or "+remoteHint, "Linux %s is older than 4.18", release)
	case !atLeast(5, 11):
		return warn("update the kernel where you build without root", "Linux %s: before 5.11 overlayfs needs root", release)
	}
	return ok("Linux %s, %s", release, o.Arch)
}

// capSysAdmin is the number of CAP_SYS_ADMIN (capabilities(7)).
const capSysAdmin = 21

// userRights wants root with its capabilities, or what user namespaces need.
func userRights(_ context.Context, o Options) Check {
	if o.UID() == 0 {
		caps, err := strconv.ParseUint(statusLine(o, "CapEff"), 16, 64)
		if err == nil && caps&(1<<capSysAdmin) == 0 {
			return fail("run the container with --privileged, or "+remoteHint, "root without CAP_SYS_ADMIN: mounts are not allowed")
		}
		return ok("root")
	}
	return rootless(o)
}

// rootless checks what a user without rights needs to get a user namespace
// with a range of ids.
func rootless(o Options) Check {
	if o.read("proc/sys/user/max_user_namespaces") == "0" {
		return fail("sudo sysctl -w user.max_user_namespaces=28633", "user namespaces are switched off")
	}
	if o.read("proc/sys/kernel/unprivileged_userns_clone") == "0" {
		return fail("sudo sysctl -w kernel.unprivileged_userns_clone=1", "user namespaces are for root only")
	}
	if o.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
		return fail("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "AppArmor keeps user namespaces from programs without a profile")
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := o.LookPath(tool); err != nil {
			return fail("sudo apt-get install uidmap", "not root, and %s is not on PATH", tool)
		}
	}
	for _, file := range []string{"subuid", "subgid"} {
		if !hasRange(o.read("etc/"+file), o.User, o.UID()) {
			return fail(fmt.Sprintf("echo '%s:100000:65536' | sudo tee -a /etc/%s", o.User, file), "not root, and /etc/%s has no 65536 ids for %q", file, o.User)
		}
	}
	return ok("user %q with user namespaces", o.User)
}

// hasRange says whether an /etc/subuid gives the user 65536 ids in one range.
func hasRange(text, user string, uid int) bool {
	for l := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) != 3 || f[0] != user && f[0] != strconv.Itoa(uid) {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil && n >= 65536 {
			return true
		}
	}
	return false
}

// statusLine gives the value of a line of /proc/self/status.
func statusLine(o Options, name string) string {
	for l := range strings.Lines(o.read("proc/self/status")) {
		if k, v, found := strings.Cut(l, ":"); found && k == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// overlay mounts an overlay in the state folder as root, and asks the kernel
// whether it has overlayfs otherwise.
func overlay(_ context.Context, o Options) Check {
	dir, err := existing(o.StateDir)
	if err != nil {
		return fail("", "%v", err)
	}
	const slow = ": builds work, but copy whole file systems"
	if o.UID() != 0 {
		for l := range strings.Lines(o.read("proc/filesystems")) {
			if f := strings.Fields(l); len(f) > 0 && f[len(f)-1] == "overlay" {
				return ok("the kernel has overlayfs (not tried: not root)")
			}
		}
		return warn("sudo modprobe overlay", "the kernel has no overlayfs"+slow)
	}
	if err := tryOverlay(dir); err != nil {
		return warn("if the kernel has it as a module: sudo modprobe overlay\n"+
			"if the folder is itself on an overlay (in a container): export STRATA_HOME=/path/on/a/disk", "trying overlayfs in %q: %v"+slow, dir, err)
	}
	return ok("overlayfs works in %q", dir)
}

// namespaces starts a program in namespaces of its own, as steps of builds
// are started.
func namespaces(ctx context.Context, o Options) Check {
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "user"} {
		if _, err := fs.Stat(o.Machine, "proc/self/ns/"+ns); err != nil {
			return fail(remoteHint, "the kernel has no %s namespaces (/proc/self/ns/%s)", ns, ns)
		}
	}
	path, err := o.LookPath("true")
	if err != nil {
		return ok("mount, pid, net, ipc, uts, user (not tried: there is no program to try them with)")
	}
	if err := inNamespaces(ctx, path, o.UID() == 0); err != nil {
		return fail("in a container: run it with --privileged\notherwise "+remoteHint, "starting a program in new namespaces: %v", err)
	}
	return ok("a program ran in mount, pid, net, ipc and uts namespaces")
}

// cgroups wants a cgroup file system that can be written to.
func cgroups(_ context.Context, o Options) Check {
	kind, writable := "", false
	for l := range strings.Lines(o.read("proc/self/mounts")) {
		f := strings.Fields(l)
		if len(f) < 4 || f[2] != "cgroup2" && f[2] != "cgroup" || !strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			continue
		}
		if kind == "" || f[2] == "cgroup2" && f[1] == "/sys/fs/cgroup" {
			kind, writable = f[2], strings.HasPrefix(f[3]+",", "rw,")
		}
	}
	switch {
	case kind == "":
		return fail("sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup", "no cgroup file system is mounted at /sys/fs/cgroup")
	case !writable && o.UID() == 0:
		return fail("in a container: run it with --privileged --cgroupns=private\notherwise: sudo mount -o remount,rw /sys/fs/cgroup", "/sys/fs/cgroup can't be written to")
	case kind == "cgroup":
		return warn("boot with systemd.unified_cgroup_hierarchy=1", "version 1: works, but runc will stop to support it")
	}
	return ok("version 2")
}

// seccomp wants the kernel's filter: without it every RUN step fails.
func seccomp(_ context.Context, o Options) Check {
	if statusLine(o, "Seccomp") == "" && o.read("proc/sys/kernel/seccomp/actions_avail") == "" {
		return fail("use a kernel with CONFIG_SECCOMP_FILTER=y, or "+remoteHint, "the kernel has no seccomp")
	}
	return ok("in the kernel")
}

// runc wants a runc that starts.
func runc(ctx context.Context, o Options) Check {
	path := o.Runc
	if path == "" {
		var err error
		if path, err = o.LookPath("runc"); err != nil {
			return fail("sudo apt-get install runc", "runc is not on PATH")
		}
	}
	text, err := firstLine(ctx, path, "--version")
	if err != nil {
		return fail("install another: sudo apt-get install runc", "starting %q: %v", cmp.Or(o.RuncFrom, path), err)
	}
	return ok("%s (%s)", text, cmp.Or(o.RuncFrom, path))
}

// firstLine runs a program and gives the first line that it writes.
func firstLine(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", err
	}
	l, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(l), nil
}
