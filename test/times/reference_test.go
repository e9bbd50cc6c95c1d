//go:build linux

package times

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/registry"
)

// reference is plain BuildKit: an engine and a registry of its own. Its images
// go through BuildKit's own exporter.
type reference struct {
	engine *buildkit.Embedded
	store  *registry.Embedded
	client *registry.Client
	listen io.Closer
}

func newReference(t *testing.T, dir string) (r *reference, err error) {
	logrus.SetOutput(io.Discard)
	r = &reference{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.store, err = registry.OpenEmbedded(filepath.Join(dir, "plain", "registry")); err != nil {
		return nil, err
	}
	l, err := r.store.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.listen, r.client = l, registry.New(registry.Options{Embedded: r.store})
	runc := filepath.Join(dir, "runc")
	if err := unpackRunc(runc); err != nil {
		return nil, err
	}
	// The engine outlives the test that opens it.
	r.engine, err = buildkit.Open(context.WithoutCancel(t.Context()), buildkit.Options{
		Root: filepath.Join(dir, "plain", "engine"), Runc: runc, DockerConfig: filepath.Join(dir, "docker"), NoMirror: true,
		Registry: func() (string, error) { return l.Host(), nil },
	})
	return r, err
}

func (r *reference) close() {
	if r.engine != nil {
		r.engine.Close()
	}
	if r.listen != nil {
		r.listen.Close()
	}
	if r.store != nil {
		r.store.Close()
	}
}

// unpackRunc unpacks the program that scripts/runc.sh has built.
func unpackRunc(file string) error {
	packed, err := os.Open("../../internal/buildkit/runcbin/runc-linux-" + runtime.GOARCH + ".zst")
	if err != nil {
		return fmt.Errorf("run scripts/runc.sh first: %w", err)
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed)
	if err != nil {
		return err
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o755)
}

func (r *reference) name(repo string) string { return buildkit.RegistryHost + "/" + repo }

// build builds a Dockerfile as `docker build` would and gives the digest of the
// image in the repository out.
func (r *reference) build(ctx context.Context, j build.Job) (*built, error) {
	j.Name, j.Platform, j.Repository = "Dockerfile", platform, r.name("out")
	res, err := r.engine.Build(ctx, j, event.Discard)
	if err != nil {
		return nil, err
	}
	ref, err := registry.ParseRef(registry.EmbeddedHost + "/out")
	if err != nil {
		return nil, err
	}
	p, err := readPicture(ctx, r.client, ref, res.Body)
	return &built{digest: res.Manifest.Digest, picture: p}, err
}

// built is an image of the reference.
type built struct {
	digest  digest.Digest
	picture *picture
}

// command runs a command in an image of the reference.
func (r *reference) command(t *testing.T, b *built, args ...string) (string, int) {
	t.Helper()
	code, out, err := r.engine.Run(t.Context(), build.RunJob{
		Unit: "reference", Image: r.name("out") + "@" + b.digest.String(), Platform: platform, Args: args,
	}, event.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), code
}

func asExit(err error, exit **exec.ExitError) bool { return errors.As(err, exit) }
