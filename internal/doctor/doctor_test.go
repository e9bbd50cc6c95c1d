package doctor

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// files makes a machine's root folder of path, text pairs.
func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

// onPath gives a LookPath that finds these programs and no others.
func onPath(names ...string) func(string) (string, error) {
	return func(name string) (string, error) {
		for _, n := range names {
			if n == name {
				return "/usr/bin/" + n, nil
			}
		}
		return "", fmt.Errorf("%s is not there", name)
	}
}

func asUser(id int) func() int { return func() int { return id } }

const (
	arm64Entry   = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	mounts2      = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
	allCaps      = "Name:\tx\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n"
	dockersCaps  = "CapEff:\t00000000a80425fb\n"
	userRange    = "ann:100000:65536\n"
	remote       = remoteHint
	installQEMU  = "sudo apt-get install qemu-user-static"
	registerQEMU = installQEMU + "\nsudo cp /usr/lib/binfmt.d/qemu-aarch64.conf /proc/sys/fs/binfmt_misc/register"
)

// TestTable judges machines that are described by a few files.
func TestTable(t *testing.T) {
	platform := func(p string) func(context.Context, Options) Check {
		return func(_ context.Context, o Options) Check { return emulator(o, p) }
	}
	bin := func(entries ...string) fstest.MapFS {
		pairs := []string{binfmt + "/status", "enabled\n", binfmt + "/register", ""}
		return files(append(pairs, entries...)...)
	}
	for _, c := range []struct {
		name  string
		check func(context.Context, Options) Check
		o     Options
		want  Check
	}{
		{"new kernel", kernel, Options{Machine: files("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")}, ok("Linux 6.1.0-18-amd64, amd64")},
		{"kernel 5.4", kernel, Options{Machine: files("proc/sys/kernel/osrelease", "5.4.0")},
			warn("update the kernel where you build without root", "Linux 5.4.0: before 5.11 overlayfs needs root")},
		{"kernel 3.10", kernel, Options{Machine: files("proc/sys/kernel/osrelease", "3.10.0-1160.el7")},
			fail("update the kernel, or "+remote, "Linux 3.10.0-1160.el7 is older than 4.18")},
		{"no /proc", kernel, Options{}, warn("mount /proc: sudo mount -t proc proc /proc", "Linux, but its version can't be read from /proc")},
		{"a Mac", kernel, Options{OS: "darwin", Arch: "arm64"}, fail(remote, "darwin/arm64: the embedded engine needs Linux")},

		{"root", userRights, Options{Machine: files("proc/self/status", allCaps)}, ok("root")},
		{"root of a plain container", userRights, Options{Machine: files("proc/self/status", dockersCaps)},
			fail("run the container with --privileged, or "+remote, "root without CAP_SYS_ADMIN: mounts are not allowed")},
		{"user with all", userRights, Options{UID: asUser(1000), LookPath: onPath("newuidmap", "newgidmap"), Machine: files("etc/subuid", "bob:1:1\n1000:100000:65536\n", "etc/subgid", userRange)},
			ok(`user "ann" with user namespaces`)},
		{"user without newuidmap", userRights, Options{UID: asUser(1000), LookPath: onPath()}, fail("sudo apt-get install uidmap", "not root, and newuidmap is not on PATH")},
		{"user with a short range", userRights, Options{UID: asUser(1000), LookPath: onPath("newuidmap", "newgidmap"), Machine: files("etc/subuid", userRange, "etc/subgid", "ann:100000:1000\n")},
			fail("echo 'ann:100000:65536' | sudo tee -a /etc/subgid", `not root, and /etc/subgid has no 65536 ids for "ann"`)},
		{"namespaces for root only", userRights, Options{UID: asUser(1000), Machine: files("proc/sys/kernel/unprivileged_userns_clone", "0\n")},
			fail("sudo sysctl -w kernel.unprivileged_userns_clone=1", "user namespaces are for root only")},
		{"namespaces off", userRights, Options{UID: asUser(1000), Machine: files("proc/sys/user/max_user_namespaces", "0\n")},
			fail("sudo sysctl -w user.max_user_namespaces=28633", "user namespaces are switched off")},
		{"AppArmor", userRights, Options{UID: asUser(1000), Machine: files("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")},
			fail("sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "AppArmor keeps user namespaces from programs without a profile")},

		{"overlayfs for a user", overlay, Options{UID: asUser(1000), Machine: files("proc/filesystems", "nodev\tproc\nnodev\toverlay\n")},
			ok("the kernel has overlayfs (not tried: not root)")},
		{"no overlayfs", overlay, Options{UID: asUser(1000), Machine: files("proc/filesystems", "\text4\n")},
			warn("sudo modprobe overlay", "the kernel has no overlayfs: builds work, but copy whole file systems")},
		{"no namespaces", namespaces, Options{Machine: files("proc/self/ns/mnt", "")}, fail(remote, "the kernel has no pid namespaces (/proc/self/ns/pid)")},

		{"cgroups 2", cgroups, Options{Machine: files("proc/self/mounts", mounts2)}, ok("version 2")},
		{"cgroups 1", cgroups, Options{Machine: files("proc/self/mounts", "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")},
			warn("boot with systemd.unified_cgroup_hierarchy=1", "version 1: works, but runc will stop to support it")},
		{"cgroups of a container", cgroups, Options{Machine: files("proc/self/mounts", strings.Replace(mounts2, "cgroup2 rw", "cgroup2 ro", 1))},
			fail("in a container: run it with --privileged --cgroupns=private\notherwise: sudo mount -o remount,rw /sys/fs/cgroup", "/sys/fs/cgroup can't be written to")},
		{"no cgroups", cgroups, Options{}, fail("sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup", "no cgroup file system is mounted at /sys/fs/cgroup")},
		{"seccomp", seccomp, Options{Machine: files("proc/self/status", allCaps)}, ok("in the kernel")},
		{"no seccomp", seccomp, Options{Machine: files("proc/self/status", "Name:\tx\n")}, fail("use a kernel with CONFIG_SECCOMP_FILTER=y, or "+remote, "the kernel has no seccomp")},
		{"no runc", runc, Options{LookPath: onPath()}, fail("sudo apt-get install runc", "runc is not on PATH")},
		{"no git", gitCommand, Options{LookPath: onPath()}, warn("sudo apt-get install git", "git is not on PATH: revision and version of images must be given")},

		{"the machine's own platform", platform("linux/amd64"), Options{}, ok("native")},
		{"386 on amd64", platform("linux/386"), Options{}, ok("native")},
		{"arm on arm64", platform("linux/arm/v7"), Options{Arch: "arm64"}, ok("native")},
		{"Windows", platform("windows/amd64"), Options{}, fail("name a platform of Linux, such as linux/amd64", "only images for Linux can be built")},
		{"an odd processor", platform("linux/vax"), Options{}, fail(remote, `no emulator is known for "vax"`)},
		{"binfmt_misc not mounted", platform("linux/arm64"), Options{},
			warn("sudo mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc\n"+registerQEMU, "RUN steps need an emulator: binfmt_misc is not mounted")},
		{"binfmt_misc off", platform("linux/arm64"), Options{Machine: files(binfmt+"/status", "disabled\n")},
			warn("echo 1 | sudo tee /proc/sys/fs/binfmt_misc/status", "RUN steps need an emulator: binfmt_misc is switched off")},
		{"none registered", platform("linux/arm64"), Options{Machine: bin()}, warn(registerQEMU, "RUN steps need an emulator: none is registered for arm64")},
		{"none registered, systemd", platform("linux/arm64"), Options{Machine: bin("run/systemd/system/x", "", binfmt+"/qemu-arm", strings.Replace(arm64Entry, "b700", "2800", 1))},
			warn(installQEMU+"\nsudo systemctl restart systemd-binfmt", "RUN steps need an emulator: none is registered for arm64")},
		{"registered", platform("linux/arm64"), Options{Machine: bin(binfmt+"/qemu-aarch64", arm64Entry)},
			ok("emulated by /usr/libexec/qemu-binfmt/aarch64-binfmt-P (qemu-aarch64)")},
		{"registered under another name", platform("linux/arm64/v8"), Options{Machine: bin(binfmt+"/mine", arm64Entry)},
			ok("emulated by /usr/libexec/qemu-binfmt/aarch64-binfmt-P (mine)")},
		{"without F", platform("linux/arm64"), Options{Machine: bin(binfmt+"/qemu-aarch64", strings.Replace(arm64Entry, "POCF", "POC", 1))},
			warn("echo -1 | sudo tee /proc/sys/fs/binfmt_misc/qemu-aarch64\n"+registerQEMU,
				"RUN steps need an emulator: qemu-aarch64 is registered without the flag F, so containers don't find it")},
		{"switched off", platform("linux/arm64"), Options{Machine: bin(binfmt+"/qemu-aarch64", strings.Replace(arm64Entry, "enabled", "disabled", 1))},
			warn("echo 1 | sudo tee /proc/sys/fs/binfmt_misc/qemu-aarch64", "RUN steps need an emulator: qemu-aarch64 is switched off")},
		{"one of two works", platform("linux/arm64"), Options{Machine: bin(binfmt+"/a", strings.Replace(arm64Entry, "POCF", "P", 1), binfmt+"/b", arm64Entry)},
			ok("emulated by /usr/libexec/qemu-binfmt/aarch64-binfmt-P (b)")},

		{"clock", clock, Options{Now: func() time.Time { return time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC) }}, ok("2026-11-26 06:00:00 UTC")},
		{"clock at 1970", clock, Options{Now: func() time.Time { return time.Unix(60, 0) }}, fail(clockHint, "it is set to 1970-01-01 00:01:00")},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := c.o
			if o.Machine == nil {
				o.Machine = files()
			}
			if o.UID == nil {
				o.UID = asUser(0)
			}
			if o.OS == "" {
				o.OS = "linux"
			}
			if o.Arch == "" {
				o.Arch = "amd64"
			}
			o.User = "ann"
			if diff := cmp.Diff(c.want, c.check(t.Context(), o.withDefaults())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClockBeforeTheState(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)
	if err := os.Chtimes(dir, now, now.Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	got := clock(t.Context(), Options{StateDir: dir, Now: func() time.Time { return now }})
	if want := warn(clockHint, "it is set to 2026-11-26 06:00:00, before the last change of %q", dir); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSpace(t *testing.T) {
	for _, c := range []struct {
		s    space
		want Status
		text string
	}{
		{space{50e9, 1e6, true}, OK, `50.0 GB free in "/x"`},
		{space{50e9, 0, false}, OK, `50.0 GB free in "/x"`},
		{space{9_900_000_000, 1e6, true}, Warn, `9.9 GB free in "/x", less than 10 GB`},
		{space{50e9, 150_000, true}, Warn, `50.0 GB free in "/x", but room for 150000 files only`},
		{space{9e8, 1e6, true}, Fail, `0.9 GB free in "/x"`},
		{space{50e9, 9, true}, Fail, `50.0 GB free in "/x", but room for 9 files only`},
	} {
		if got := c.s.judge("/x"); got.Status != c.want || got.Detail != c.text || (got.Hint == "") != (c.want == OK) {
			t.Errorf("%v: %v", c.s, got)
		}
	}
}

func TestCredentials(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("ann:hunter2"))
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       Check
	}{
		{"empty object", `{}`, 0o644, ok("none in FILE")},
		{"auth", `{"auths":{"ghcr.io":{"auth":"` + auth + `"},"a.example":{"auth":"` + auth + `"},"empty.example":{}}}`, 0o600, ok("for a.example, ghcr.io")},
		{"readable by all", `{"auths":{"ghcr.io":{"auth":"` + auth + `"}}}`, 0o644, warn("chmod 600 PATH", "others may read the passwords in FILE")},
		{"damaged auth", `{"auths":{"ghcr.io":{"auth":"hunter2"}}}`, 0o600, fail("log in again: docker login ghcr.io", `the entry of "ghcr.io" is damaged`)},
		{"helpers", `{"credsStore":"pass","credHelpers":{"x":"pass","y":"ecr-login"}}`, 0o644, ok("from helpers ecr-login, pass")},
		{"missing helper", `{"credsStore":"desktop"}`, 0o644, fail("install docker-credential-desktop, or take \"desktop\" out of PATH", "docker-credential-desktop is not on PATH")},
		{"no JSON", `{"auths":{"hunter2`, 0o600, fail("repair the file, or move it away and log in again", "reading FILE: no valid JSON at byte 18")},
		{"wrong type", `{"auths":{"ghcr.io":"hunter2"}}`, 0o600, fail("repair the file, or move it away and log in again", `reading FILE: member "auths" is of the wrong type`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			got := credentials(t.Context(), Options{DockerConfig: path, LookPath: onPath("docker-credential-pass", "docker-credential-ecr-login")})
			if strings.Contains(got.Detail+got.Hint, "hunter2") {
				t.Errorf("a password is told: %v", got)
			}
			got.Detail = strings.ReplaceAll(got.Detail, fmt.Sprintf("%q", path), "FILE")
			got.Hint = strings.ReplaceAll(got.Hint, path, "PATH")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "none.json")
	if got := credentials(t.Context(), Options{DockerConfig: missing}); got.Status != OK {
		t.Errorf("a missing file: %v", got)
	}
}

func TestReach(t *testing.T) {
	now := time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)
	probe := func(skew time.Duration, err error) func(context.Context) (time.Time, error) {
		return func(context.Context) (time.Time, error) { return now.Add(-skew), err }
	}
	for _, c := range []struct {
		probe func(context.Context) (time.Time, error)
		want  Check
	}{
		{probe(time.Second, nil), ok("answers")},
		{func(context.Context) (time.Time, error) { return time.Time{}, nil }, ok("answers")},
		{probe(7*time.Minute, nil), warn(clockHint, "answers, but this machine's clock is 7m0s ahead of its own")},
		{probe(-time.Hour, nil), warn(clockHint, "answers, but this machine's clock is 1h0m0s behind its own")},
		{probe(0, errors.New("no route to host")), fail("check the name, the network and $HTTPS_PROXY: curl -v https://r.example/v2/", "no route to host")},
	} {
		got := reach(t.Context(), Registry{Host: "r.example", Probe: c.probe}, func() time.Time { return now })
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func names(checks []Check) []string {
	var out []string
	for _, c := range checks {
		out = append(out, c.Name)
	}
	return out
}

func TestOrderAndTimeout(t *testing.T) {
	hang := func(ctx context.Context) (time.Time, error) {
		<-ctx.Done()
		time.Sleep(20 * time.Millisecond)
		return time.Time{}, ctx.Err()
	}
	o := Options{
		StateDir: t.TempDir(), Platforms: []string{"linux/arm64", "linux/amd64"}, Timeout: 300 * time.Millisecond, Runc: "/nonexistent/runc",
		Registries: []Registry{{"slow.example", hang}, {"fast.example", func(context.Context) (time.Time, error) { return time.Time{}, nil }}},
	}
	start := time.Now()
	checks := Run(t.Context(), o)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a registry that hangs held all up for %v", took)
	}
	want := []string{
		"kernel", "user", "overlayfs", "namespaces", "cgroups", "seccomp", "runc", "platform linux/arm64", "platform linux/amd64",
		"disk", "privacy", "registry slow.example", "registry fast.example", "credentials", "git", "clock",
	}
	if diff := cmp.Diff(want, names(checks)); diff != "" {
		t.Error(diff)
	}
	byName := map[string]Check{}
	for _, c := range checks {
		byName[c.Name] = c
	}
	if c := byName["registry slow.example"]; c.Status != Fail || c.Detail != "no answer within 300ms" {
		t.Errorf("slow registry: %v", c)
	}
	if c := byName["registry fast.example"]; c.Status != OK {
		t.Errorf("fast registry: %v", c)
	}
	if c := byName["runc"]; c.Status != Fail || !strings.Contains(c.Detail, "no such file") {
		t.Errorf("runc: %v", c)
	}
	o.Remote, o.Registries = true, nil
	if diff := cmp.Diff([]string{"disk", "privacy", "credentials", "git", "clock"}, names(Run(t.Context(), o))); diff != "" {
		t.Error(diff)
	}
	if got := Worst(checks); got != Fail {
		t.Errorf("the worst is %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.Registries = []Registry{{"slow.example", hang}}
	if c := Run(ctx, o)[1]; c.Detail != "cancelled" {
		t.Errorf("cancelled: %v", c)
	}
}

// TestThisMachine runs everything here: the state folder gets nothing, and no
// mount stays.
func TestThisMachine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "not", "made, yet: x")
	checks := Run(t.Context(), Options{StateDir: state, Platforms: []string{"linux/amd64"}})
	for _, c := range checks {
		t.Logf("%-5s %-22s %s", c.Status, c.Name, c.Detail)
		if c.Detail == "" || c.Status != OK && c.Hint == "" {
			t.Errorf("%s says too little: %+v", c.Name, c)
		}
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state folder was made: %v", err)
	}
	assertClean(t, filepath.Dir(filepath.Dir(state)))
}

func assertClean(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".doctor-") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(".doctor-")) {
		t.Errorf("a mount stays: %v\n%s", err, mounts)
	}
}
