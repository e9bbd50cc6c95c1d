package crash

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/registry"
)

// home is this machine's own folder of a world.
func (w *world) home() string { return filepath.Join(w.dir, "home") }

// ownStore looks at every tag of the registry in the home: each leads to something
// whole. It gives what they point to.
func (w *world) ownStore() map[string]digest.Digest {
	w.t.Helper()
	store, err := registry.OpenEmbedded(filepath.Join(w.home(), "registry"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer store.Close()
	own := &world{t: w.t, store: store, client: registry.New(registry.Options{Embedded: store}), read: w.read}
	if own.repos, err = store.Repositories(); err != nil {
		w.t.Fatal(err)
	}
	return own.whole()
}

// rootfs is an archive with a file of its own, and some for it to take a while.
func rootfs(t *testing.T, text string, more map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(name string, data []byte, mode int64) {
		err := tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(1_700_000_000, 0)})
		if err == nil {
			_, err = tw.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("text", []byte(text), 0o644)
	for name, data := range more {
		add(name, data, 0o755)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bring puts an image of one layer into the registry.
func (w *world) bring(name, text string, more map[string][]byte) registry.Imported {
	w.t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	ref := registry.Ref{Host: registry.EmbeddedHost, Repo: repo, Tag: tag}
	made, err := w.store.ImportRootfs(context.Background(), ref, "linux/amd64", bytes.NewReader(rootfs(w.t, text, more)), registry.ImportConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

func TestKilledOnThisMachine(t *testing.T) {
	t.Parallel()
	random := seed(t)
	total, points := 0, share(40)
	for total < points && !t.Failed() {
		w := newWorld(t, random)
		w.locals(min(40, points-total))
		total += w.kills
	}
	t.Logf("%d kills", total)
}

// locals kills what works on the registry in the home, and on files.
func (w *world) locals(kills int) {
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(w.random.IntN(256))
	}
	calm, err := registry.OpenEmbedded(filepath.Join(w.dir, "calm"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer calm.Close()
	w.bring("other/base:1", "0", nil)
	w.write("strata.yaml", strings.Replace(w.yaml, "layers:\n", "layers:\n  lean: {dockerfile: lean.Dockerfile, only: linux/amd64}\n", 1))
	w.write("lean.Dockerfile", "FROM "+w.host+"/other/base:1\nCOPY app.txt /lean\n")
	w.run("lock")
	costs := map[string]cost{}
	for i := 1; w.kills < kills && !w.t.Failed(); i++ {
		text := fmt.Sprint(i, " ", w.random.Int64())
		var args []string
		check := func() {}
		switch i % 6 {
		case 0:
			archive := rootfs(w.t, text, map[string][]byte{"noise": noise})
			w.write("rootfs.tar", string(archive))
			args = []string{"registry", "import", "rootfs.tar", "--as", "odd/image:1"}
			ref := registry.Ref{Host: "docker.io", Repo: "odd/image", Tag: "1"}
			want, err := calm.ImportRootfs(context.Background(), ref, "linux/amd64", bytes.NewReader(archive), registry.ImportConfig{})
			if err != nil {
				w.t.Fatal(err)
			}
			check = func() {
				if tags := w.ownStore(); !slices.Contains(slices.Collect(maps.Values(tags)), want.Index.Digest) {
					w.t.Errorf("the import is not %s: %v", want.Index.Digest, tags)
				}
			}
		case 1:
			w.edit(text)
			args = []string{"build"}
			check = func() {
				if out := w.run("plan"); !strings.Contains(out, "Nothing to do") {
					w.t.Errorf("after the build there is still something to do:\n%s", out)
				}
			}
		case 2:
			w.edit(text)
			mine := w.env
			w.env = append(w.env[:len(w.env):len(w.env)], "STRATA_HOME="+filepath.Join(w.dir, "elsewhere"))
			w.run("build", "--push")
			w.env = mine
			args = []string{"pull"}
			check = func() {
				if out := w.run("plan"); !strings.Contains(out, "Nothing to do") {
					w.t.Errorf("after pulling there is still something to do:\n%s", out)
				}
			}
		case 3:
			w.bring("other/base:1", text, nil)
			args = []string{"update"}
		case 4:
			if err := os.Remove(filepath.Join(w.project, lock.Name)); err != nil {
				w.t.Fatal(err)
			}
			args = []string{"lock"}
		case 5:
			args = []string{"store", "prune"}
			check = func() {
				if out := w.run("plan"); strings.Contains(out, "broken") {
					w.t.Errorf("prune has broken an image:\n%s", out)
				}
			}
		}
		name := strings.Join(args[:min(2, len(args))], " ")
		name = strings.TrimSuffix(name, " rootfs.tar")
		if _, ok := costs[name]; !ok {
			costs[name] = w.measure(args...)
			continue // the next one of its kind has something to do
		}
		before := w.pins()
		killed := w.kill(costs[name], args...)
		half := w.pins()
		w.ownStore()
		w.allWhole()
		if killed {
			w.run(args...)
		}
		w.ownStore()
		check()
		after := w.pins()
		if half != before && half != after {
			w.t.Errorf("%s was torn:\n%s", lock.Name, half)
		}
		w.run("lock") // where there is none, as it was
		if killed {
			outcomes.add(name, "whole tags, files as before or as after", w.signal)
		}
	}
}

// pins is the text of the lock; "" when there is none.
func (w *world) pins() string {
	data, err := os.ReadFile(filepath.Join(w.project, lock.Name))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(data)
}

// shell is the static /bin/sh of the images in which commands run.
var shell = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "crash-shell-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sh")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "../../internal/buildkit/testdata/shell")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the images' shell: %w\n%s", err, out)
	}
	return os.ReadFile(path)
})

func TestKilledEngine(t *testing.T) {
	random := seed(t)
	total, points := 0, share(20)
	for total < points && !t.Failed() {
		w := newWorld(t, random)
		w.engines(min(40, points-total))
		total += w.kills
	}
	t.Logf("%d kills", total)
}

// engines kills builds with commands in them: while the engine starts, pulls a
// base, runs a command, exports what it made, and while that is published. The base
// moves in every third build, so that it has to be pulled again.
func (w *world) engines(kills int) {
	sh, err := shell()
	if err != nil {
		w.t.Fatal(err)
	}
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(w.random.IntN(256))
	}
	base := func(text string) { w.bring("other/base:1", text, map[string][]byte{"bin/sh": sh, "noise": noise}) }
	base("0")
	w.repos = []string{"team/eng"}
	w.write("strata.yaml", "image: "+w.host+"/team/eng\nplatforms: [linux/"+runtime.GOARCH+"]\nlayers:\n  base: {dockerfile: base.Dockerfile}\n  app: {parent: base, dockerfile: app.Dockerfile}\n")
	w.write("base.Dockerfile", "FROM "+w.host+"/other/base:1\nCOPY base.txt /\nRUN cat /base.txt > /made; cat /noise > /more; sleep 0.1\n")
	cgroups := counted("/sys/fs/cgroup")
	use := w.measure("build", "--push", "--tag-version", "r0")
	for i := 1; w.kills < kills && !w.t.Failed(); i++ {
		version := fmt.Sprint("r", i)
		w.edit(version)
		if i%3 == 0 {
			base(version)
		}
		args := []string{"build", "--push", "--tag-version", version}
		killed := w.kill(use, args...)
		w.whole()
		if !killed {
			continue
		}
		w.run(args...)
		tags := w.whole()
		w.note("build --push, with an engine")
		for _, tag := range []string{version, "latest"} {
			if tags["team/eng:"+tag] == "" || tags["team/eng:"+tag] != tags["team/eng:"+version] {
				w.t.Errorf("after building %s the tags are %v", version, userTags(tags))
			}
		}
		w.nothingLeft()
	}
	w.allWhole()
	if now := counted("/sys/fs/cgroup"); now > cgroups {
		w.t.Errorf("there are %d control groups more than before", now-cgroups)
	}
	if out := w.run("run", "--push", "app", "--", "/bin/sh", "-c", "cat /made; cat /app.txt"); !strings.Contains(out, "base.txt r") || !strings.Contains(out, "app.txt r") {
		w.t.Errorf("the image says %q", out)
	}
}

// nothingLeft says that no process and no mount of an engine is there, which a
// run after a kill has to have seen to.
func (w *world) nothingLeft() {
	w.t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(w.dir))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range mounts {
		w.t.Errorf("left behind: the mount %s", m.Mountpoint)
	}
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range found {
		environ, _ := os.ReadFile(filepath.Join(p, "environ"))
		root, _ := os.Readlink(filepath.Join(p, "root"))
		if line, _ := os.ReadFile(filepath.Join(p, "cmdline")); strings.Contains(string(environ), "STRATA_HOME="+w.home()) || strings.HasPrefix(root, w.dir) {
			w.t.Errorf("left behind: the process %s %q", filepath.Base(p), line)
		}
	}
	states, _ := filepath.Glob("/run/runc/*/state.json")
	for _, s := range states {
		if data, _ := os.ReadFile(s); bytes.Contains(data, []byte(w.dir)) {
			w.t.Errorf("left behind: runc knows %s", s)
		}
	}
}

// counted counts the control groups of BuildKit's containers.
func counted(root string) int {
	n := 0
	for _, pattern := range []string{"*/buildkit/*", "*/*/buildkit/*", "buildkit/*"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, f := range found {
			if fi, err := os.Stat(f); err == nil && fi.IsDir() {
				n++
			}
		}
	}
	return n
}
