//go:build linux

// Package export builds projects three times: with Strata, with buildx from what
// `strata export` writes, and compares the images: every path's kind, mode,
// owner, size, content and link, and the config. The peers are buildx and
// buildkitd as their own projects build them. It needs root.
package export

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// bench is Strata, the peers, and a registry that both use.
type bench struct {
	dir    string // short: the socket's name is in it
	env    []string
	strata string
	buildx string
	host   string
	client *registry.Client
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("both engines need root")
	}
	dir, err := os.MkdirTemp("", "se-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{dir: dir, strata: filepath.Join(dir, "strata")}
	b.env = append(os.Environ(), "STRATA_HOME="+filepath.Join(dir, "home"), "DOCKER_CONFIG="+filepath.Join(dir, "docker"),
		"BUILDX_CONFIG="+filepath.Join(dir, "buildx"), "BUILDX_NO_DEFAULT_ATTESTATIONS=1", "BUILDKIT_HOST=", "STRATA_ENGINE=", "DOCKER_HOST=",
		"SOURCE_DATE_EPOCH=0", "OTEL_TRACES_EXPORTER=none", "GIT_CEILING_DIRECTORIES="+dir, "VERSION=1.0",
		"PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	b.run(t, "../..", "go", "build", "-o", b.strata, "./cmd/strata")
	unpackRunc(t, filepath.Join(dir, "bin", "runc"))
	peers := strings.Fields(b.run(t, "../../bench", "go", "run", ".", "-peers", "buildkitd,buildx"))
	b.buildx = peers[1]
	b.serve(t)
	b.startEngine(t, peers[0])
	b.importBase(t)
	return b
}

// serve opens the registry that Strata keeps its images in, for buildkitd.
func (b *bench) serve(t *testing.T) {
	t.Helper()
	store, err := registry.OpenEmbedded(filepath.Join(b.dir, "home", "registry"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	l, err := store.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b.host, b.client = l.Host(), registry.New(registry.Options{Embedded: store})
}

// startEngine starts buildkitd, which finds docker.io's images in the registry.
func (b *bench) startEngine(t *testing.T, program string) {
	t.Helper()
	config := filepath.Join(b.dir, "buildkitd.toml")
	cgroup := filepath.Base(b.dir)
	text := fmt.Sprintf("[worker.oci]\n  defaultCgroupParent = %q\n[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.%q]\n  http = true\n",
		"/"+cgroup, b.host+"/"+registry.MirrorFolder+"/docker.io", b.host)
	t.Cleanup(func() { removeCgroup(cgroup) })
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	root, addr := filepath.Join(b.dir, "root"), "unix://"+filepath.Join(b.dir, "s")
	log, err := os.Create(filepath.Join(b.dir, "buildkitd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", config, "--root", root, "--addr", addr, "--oci-worker-snapshotter", "overlayfs",
		"--containerd-worker=false", "--oci-worker-net", "host", "--allow-insecure-entitlement", "network.host")
	cmd.Env, cmd.Stdout, cmd.Stderr = b.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if data, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("buildkitd:\n%s", data)
		}
		log.Close()
	})
	for range 600 {
		if _, err := os.Stat(filepath.Join(b.dir, "s")); err == nil {
			b.run(t, b.dir, b.buildx, "create", "--name", "peer", "--driver", "remote", "--use", addr)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("buildkitd did not start")
}

// removeCgroup removes what buildkitd leaves behind of the groups of its
// containers, in every hierarchy.
func removeCgroup(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name} {
		found, _ := filepath.Glob(pattern)
		for _, top := range found {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				_ = os.Remove(dirs[i])
			}
		}
	}
}

// importBase makes debian:bookworm-slim for both platforms: a shell and two
// accounts.
func (b *bench) importBase(t *testing.T) {
	t.Helper()
	root := filepath.Join(b.dir, "rootfs")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", "etc/group": "root:x:0:\nnogroup:x:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.env = append(b.env, "CGO_ENABLED=0")
	b.run(t, "../..", "go", "build", "-ldflags=-s -w", "-o", filepath.Join(root, "bin", "sh"), "./internal/buildkit/testdata/shell")
	tarball := filepath.Join(b.dir, "rootfs.tar")
	b.run(t, root, "tar", "-cf", tarball, ".")
	for _, arch := range []string{"amd64", "arm64"} {
		b.run(t, b.dir, b.strata, "registry", "import", tarball, "--as", "debian:bookworm-slim", "--platform", "linux/"+arch)
	}
}

// run runs a program in a folder and gives what it writes.
func (b *bench) run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	return b.runEnv(t, dir, nil, program, args...)
}

func (b *bench) runEnv(t *testing.T, dir string, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Env = dir, append(append([]string{}, b.env...), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// unpackRunc unpacks the program that scripts/runc.sh has built.
func unpackRunc(t *testing.T, file string) {
	t.Helper()
	packed, err := os.Open("../../internal/buildkit/runcbin/runc-linux-" + runtime.GOARCH + ".zst")
	if err != nil {
		t.Fatalf("run scripts/runc.sh first: %v", err)
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestImagesAreTheSame(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no projects: %v", err)
	}
	b := newBench(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(b.dir, "p", name)
			writeProject(t, file, dir)
			b.run(t, dir, b.strata, "lock")
			b.run(t, dir, b.strata, "--tag-version", "1.0", "build")
			for _, kind := range []string{"dockerfile", "bake", "make"} {
				b.run(t, dir, b.strata, "--tag-version", "1.0", "export", kind)
				b.run(t, dir, b.strata, "--tag-version", "1.0", "export", kind, "--check")
			}
			t.Run("bake", func(t *testing.T) { b.bake(t, dir, name) })
			t.Run("make", func(t *testing.T) { b.make(t, dir, name) })
			t.Run("dockerfile", func(t *testing.T) { b.dockerfiles(t, dir, name) })
		})
	}
}

var machines = strings.NewReplacer("NATIVE", runtime.GOARCH, "OTHER", map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH])

func writeProject(t *testing.T, archive, dir string) {
	t.Helper()
	a, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(machines.Replace(string(f.Data))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tags gives the tags that users see.
func (b *bench) tags(t *testing.T, repo string) []string {
	t.Helper()
	all, err := b.client.Tags(t.Context(), b.ref(t, repo))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, tag := range all {
		if !strings.HasPrefix(tag, "strata-") {
			out = append(out, tag)
		}
	}
	return out
}

func (b *bench) ref(t *testing.T, repo string) registry.Ref {
	t.Helper()
	return registry.Ref{Host: registry.EmbeddedHost, Repo: repo}
}

func (b *bench) bake(t *testing.T, dir, name string) {
	b.runEnv(t, dir, []string{"IMAGE=" + b.host + "/bake/" + name}, b.buildx, "bake", "-f", "strata-export/docker-bake.hcl",
		"--push", "--provenance=false", "--allow", "fs.read=*")
	indexes := strings.Count(b.run(t, dir, "cat", "strata-export/docker-bake.hcl"), "imagetools create")
	want := len(b.tags(t, name)) - indexes
	if got := b.tags(t, "bake/"+name); len(got) != want {
		t.Errorf("bake made %d tags, want %d: %q", len(got), want, got)
	}
	for _, tag := range b.tags(t, "bake/"+name) {
		b.compare(t, name, tag, "bake/"+name, tag)
	}
}

func (b *bench) make(t *testing.T, dir, name string) {
	b.run(t, dir, "make", "-f", "strata-export/Makefile", "publish", "VERSION=1.0", "REGISTRY="+b.host+"/make", "BUILDX="+b.buildx)
	if d := cmp.Diff(b.tags(t, name), b.tags(t, "make/"+name)); d != "" {
		t.Errorf("tags (-Strata +make):\n%s", d)
	}
	for _, tag := range b.tags(t, name) {
		b.compare(t, name, tag, "make/"+name, tag)
	}
}

var (
	comment = regexp.MustCompile(`(?m)^#   (.*)$`)
	imageOf = regexp.MustCompile(`(?m)^# The image of (\S+) and`)
	tagFlag = regexp.MustCompile(`-t \S+:(\S+)`)
)

// dockerfiles builds each Dockerfile by the command that stands in it.
func (b *bench) dockerfiles(t *testing.T, dir, name string) {
	files, err := filepath.Glob(filepath.Join(dir, "strata-export", "Dockerfile.*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no Dockerfiles: %v", err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".dockerignore") {
			continue
		}
		text := b.run(t, dir, "cat", f)
		var lines []string
		for _, m := range comment.FindAllStringSubmatch(text[:strings.Index(text, "\n\n")], -1) {
			lines = append(lines, m[1])
		}
		command := strings.Join(lines, "\n")
		unit := tagFlag.FindStringSubmatch(command)[1]
		command = strings.Replace(command, "docker buildx build", b.buildx+" build --push --provenance=false", 1)
		command = tagFlag.ReplaceAllString(command, "-t "+b.host+"/mono/"+name+":"+unit)
		b.run(t, dir, "sh", "-ec", command)
		b.compare(t, name, "strata-last-"+strings.ReplaceAll(imageOf.FindStringSubmatch(text)[1], "/", "."), "mono/"+name, unit)
	}
}

// compare compares two images, for each platform that the first one has.
func (b *bench) compare(t *testing.T, repo, tag, peerRepo, peerTag string) {
	t.Helper()
	want, got := b.ref(t, repo).WithTag(tag), b.ref(t, peerRepo).WithTag(peerTag)
	for _, arch := range []string{"amd64", "arm64"} {
		platform := "linux/" + arch
		if _, config, err := b.image(t, want, platform); err != nil || config.Architecture != arch {
			continue
		}
		wantTree, wantConfig, err := b.image(t, want, platform)
		if err != nil {
			t.Fatal(err)
		}
		gotTree, gotConfig, err := b.image(t, got, platform)
		if err != nil {
			t.Errorf("%s for %s: %v", got, platform, err)
			continue
		}
		diff, err := inventory.Diff(wantTree, gotTree)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range diff {
			if !inventory.Volatile(d.Path) {
				t.Errorf("%s for %s: %s\n  Strata: %s %s\n  peer:   %s %s", tag, platform, d.Path, d.Before.String(), d.Before.Digest(), d.After.String(), d.After.Digest())
			}
		}
		opts := cmp.Options{cmpopts.IgnoreFields(ocispec.Image{}, "RootFS", "History", "Created"), cmpopts.EquateEmpty()}
		if d := cmp.Diff(wantConfig, gotConfig, opts); d != "" {
			t.Errorf("%s for %s: config (-Strata +peer):\n%s", tag, platform, d)
		}
		if n := wantTree.Len(); n == 0 {
			t.Errorf("%s for %s has no files", tag, platform)
		}
	}
}

// image reads an image's files and config.
func (b *bench) image(t *testing.T, ref registry.Ref, platform string) (*inventory.Inventory, dockerspec.DockerOCIImage, error) {
	t.Helper()
	var config dockerspec.DockerOCIImage
	_, body, err := b.client.Platform(t.Context(), ref, platform)
	if err != nil {
		return nil, config, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, config, err
	}
	data, err := b.client.ReadBlob(t.Context(), ref, m.Config)
	if err != nil {
		return nil, config, err
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, config, err
	}
	tree, err := strata.Inventory(t.Context(), b.client, ref, platform)
	return tree, config, err
}
