//go:build linux

package times

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/registry"
)

// base is an image that projects start from, under one digest on both sides.
type base struct {
	name   string // busybox:1
	tar    string
	digest digest.Digest // of the platform's manifest
}

// bases are the images that projects start from:
//
//	busybox:1              a static busybox, of 2024
//	debian:bookworm-slim   as scripts/bases.sh bootstraps it
//	tools:1                the same with make, ninja, python3, pip, nginx, zip and rsync
type bases struct {
	dir   string
	plain *reference

	mu   sync.Mutex
	have map[string]*base
}

// toolsDockerfile makes tools:1. Nothing in it is asked for times.
const toolsDockerfile = `FROM debian:bookworm-slim
RUN apt-get -q update && apt-get -qy --no-install-recommends install \
	busybox-static make ninja-build python3 python3-pip python3-setuptools python3-wheel zip unzip nginx-light rsync \
	&& apt-get clean && rm -rf /var/lib/apt/lists/*
`

func findBases(t *testing.T, dir string, plain *reference) (*bases, error) {
	b := &bases{dir: dir, plain: plain, have: map[string]*base{}}
	debian, err := bootstrapped()
	if err != nil {
		return nil, err
	}
	if err := b.add(t, "debian:bookworm-slim", debian); err != nil {
		return nil, err
	}
	tools, err := b.tools(t, debian)
	if err != nil {
		return nil, err
	}
	if err := b.add(t, "tools:1", tools); err != nil {
		return nil, err
	}
	busybox := filepath.Join(dir, "busybox.tar")
	if err := writeBusybox(tools, busybox); err != nil {
		return nil, err
	}
	return b, b.add(t, "busybox:1", busybox)
}

func (b *bases) get(t *testing.T, name string) *base {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have[name] == nil {
		t.Fatalf("there is no base called %q", name)
	}
	return b.have[name]
}

// contexts names the bases for the reference.
func (b *bases) contexts() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]string{}
	for name, base := range b.have {
		out[name] = b.context(name, base.digest)
	}
	return out
}

func (b *bases) context(name string, d digest.Digest) string {
	repo, _, _ := strings.Cut(name, ":")
	return "docker-image://" + b.plain.name("docker.io/library/"+repo) + "@" + d.String()
}

// fork puts a base with one small file more into a registry, as NAME:PROJECT.
func (b *bases) fork(t *testing.T, store *registry.Embedded, host, name, project string) digest.Digest {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.Open(b.get(t, name).tar)
	must(err)
	defer in.Close()
	var out bytes.Buffer
	tr, tw := tar.NewReader(in), tar.NewWriter(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(err)
		must(tw.WriteHeader(h))
		_, err = io.Copy(tw, tr)
		must(err)
	}
	must(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/project", Mode: 0o644, Size: int64(len(project)), ModTime: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}))
	_, err = tw.Write([]byte(project))
	must(err)
	must(tw.Close())
	repo, _, _ := strings.Cut(name, ":")
	d, err := importBase(t, store, host, repo+":"+project, &out)
	must(err)
	return d
}

// add puts a root file system into the reference's registry.
func (b *bases) add(t *testing.T, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	made, err := importBase(t, b.plain.store, inReference, name, f)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.have[name] = &base{name: name, tar: file, digest: made}
	return nil
}

// Where bases lie: the reference is told the whole name, Strata finds them as
// what was imported for Docker Hub.
const (
	inReference = registry.EmbeddedHost + "/docker.io/library/"
	onMachine   = "docker.io/library/"
)

// importBase is what `strata registry import` does.
func importBase(t *testing.T, store *registry.Embedded, host, name string, rootfs io.Reader) (digest.Digest, error) {
	ref, err := registry.ParseRef(host + name)
	if err != nil {
		return "", err
	}
	made, err := store.ImportRootfs(t.Context(), ref, platform, rootfs, registry.ImportConfig{})
	return made.Manifest.Digest, err
}

func cacheFolder() (string, error) {
	if dir := os.Getenv("STRATA_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "strata"), err
}

// bootstrapped finds the Debian that scripts/bases.sh has made; the newest, if
// there are several.
func bootstrapped() (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(cache, "bases", "*", "debian-"+runtime.GOARCH+".tar"))
	if err != nil {
		return "", err
	}
	newest, at := "", time.Time{}
	for _, file := range found {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(at) {
			newest, at = file, info.ModTime()
		}
	}
	if newest == "" {
		return "", fmt.Errorf("there is no Debian in %s: run scripts/bases.sh first", cache)
	}
	return newest, nil
}

// tools makes the Debian with tools once for each bootstrapped Debian; it stays
// in the cache.
func (b *bases) tools(t *testing.T, debian string) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(toolsDockerfile))
	dir := filepath.Join(cache, "times", filepath.Base(filepath.Dir(debian))+"-"+hex.EncodeToString(sum[:4]))
	file := filepath.Join(dir, "tools-"+runtime.GOARCH+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var out *os.File
	_, err = b.plain.engine.Build(t.Context(), build.Job{
		Unit: "tools", Dockerfile: []byte(toolsDockerfile), ContextDir: t.TempDir(), Platform: platform, Contexts: b.contexts(),
		Export: &build.Export{Type: "tar", Open: func() (io.WriteCloser, error) {
			out, err = os.CreateTemp(dir, "new-")
			return out, err
		}},
	}, event.Discard)
	if err != nil {
		if out != nil {
			os.Remove(out.Name())
		}
		return "", fmt.Errorf("making a Debian with tools, from its mirror: %w", err)
	}
	if err := os.Rename(out.Name(), file); err != nil {
		return "", err
	}
	// Those of earlier bootstraps; nothing else lies there.
	others, err := filepath.Glob(filepath.Join(cache, "times", "*"))
	for _, other := range others {
		if other != dir {
			err = errors.Join(err, os.RemoveAll(other))
		}
	}
	return file, err
}

// writeBusybox makes a root file system of the static busybox in tools. Its
// files are of 2024, older than all that projects make.
func writeBusybox(tools, file string) error {
	program, err := fromTar(tools, "bin/busybox", "usr/bin/busybox")
	if err != nil {
		return err
	}
	at := filepath.Join(filepath.Dir(file), "busybox")
	if err := os.WriteFile(at, program, 0o755); err != nil {
		return err
	}
	applets, err := exec.Command(at, "--list").Output()
	if err != nil {
		return fmt.Errorf("asking busybox for its applets: %w", err)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	tw := tar.NewWriter(out)
	when := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(kind byte, name, link string, mode int64, content []byte) {
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: mode, Size: int64(len(content)), ModTime: when})
		}
		if err == nil {
			_, err = tw.Write(content)
		}
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "root", "usr", "usr/bin"} {
		put(tar.TypeDir, dir+"/", "", 0o755, nil)
	}
	put(tar.TypeDir, "tmp/", "", 0o1777, nil)
	put(tar.TypeReg, "etc/passwd", "", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nsome:x:1000:1000::/:/bin/sh\n"))
	put(tar.TypeReg, "etc/group", "", 0o644, []byte("root:x:0:\nsome:x:1000:\n"))
	put(tar.TypeReg, "bin/busybox", "", 0o755, program)
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			put(tar.TypeSymlink, "bin/"+name, "busybox", 0o777, nil)
		}
	}
	put(tar.TypeSymlink, "usr/bin/env", "../../bin/env", 0o777, nil)
	if err != nil {
		return err
	}
	return errors.Join(tw.Close(), out.Close())
}

// fromTar reads the first file of one of the names.
func fromTar(file string, names ...string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		hdr, err := tr.Next()
		if err != nil {
			return nil, fmt.Errorf("looking for %q in %s: %w", names, file, err)
		}
		for _, name := range names {
			if path.Clean(hdr.Name) == name && hdr.Typeflag == tar.TypeReg {
				return io.ReadAll(tr)
			}
		}
	}
}
