package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

func TestLimitPerHost(t *testing.T) {
	var now, peak atomic.Int64
	r := registrytest.With(t, registrytest.Options{
		Client: registry.Options{MaxPerHost: 3},
		Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := now.Add(1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				time.Sleep(5 * time.Millisecond)
				next.ServeHTTP(w, r)
				now.Add(-1)
			})
		},
	})
	refs := make([]registry.Ref, 30)
	for i := range refs {
		refs[i] = r.Ref(fmt.Sprintf("app:%d", i))
	}
	for _, a := range r.Client.Probe(ctx, refs) {
		if a.State != registry.Miss {
			t.Error(a.Err)
		}
	}
	if peak.Load() != 3 {
		t.Errorf("%d requests at once", peak.Load())
	}
}

func TestMeter(t *testing.T) {
	r := registrytest.New(t)
	if _, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(make([]byte, 1000)), Size: 1000}
	if _, err := r.Client.ReadBlob(ctx, r.Ref("app"), d); err != nil {
		t.Fatal(err)
	}
	want := []registry.Count{
		{Host: r.Host, Method: "GET", Requests: 1, Received: 1000},
		{Host: r.Host, Method: "POST", Requests: 1},
		{Host: r.Host, Method: "PUT", Requests: 1, Sent: 1000},
	}
	if diff := cmp.Diff(want, r.Client.Meter().Counts()); diff != "" {
		t.Error(diff)
	}
}

func TestRedirectsKeepSecrets(t *testing.T) {
	var leaked atomic.Bool
	content := []byte("elsewhere")
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		w.Write(content)
	}))
	defer storage.Close()
	r := registrytest.With(t, registrytest.Options{
		Client: registry.Options{Credential: func(context.Context, string) (registry.Credential, error) {
			return registry.Credential{Username: "me", Password: "secret"}, nil
		}},
		Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, password, _ := r.BasicAuth(); password != "secret" {
					w.Header().Set("Www-Authenticate", `Basic realm="test"`)
					w.WriteHeader(401)
					return
				}
				if isBlobGet(r) {
					http.Redirect(w, r, storage.URL+"/signed?x=y", http.StatusTemporaryRedirect)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
	})
	d, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Client.ReadBlob(ctx, r.Ref("app"), d); err != nil {
		t.Error(err)
	}
	if leaked.Load() {
		t.Error("the password went to another host")
	}
}

// A full disk is told as such, at once, whichever request meets it. The small
// disk is mounted by another run of this test, in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	dir := os.Getenv("REGISTRY_TEST_SMALL_DISK")
	if dir == "" {
		again := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		again.Env = append(os.Environ(), "REGISTRY_TEST_SMALL_DISK="+t.TempDir())
		again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if uid := os.Getuid(); uid != 0 {
			again.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
			again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
			again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v", err)
	}
	r := registrytest.With(t, registrytest.Options{Dir: dir, Client: registry.Options{RetryWait: time.Second}})
	start := time.Now()
	for _, size := range []int{5 << 20, 3 << 20} {
		_, err := r.Client.PushStream(ctx, r.Inside("app"), "x/y", bytes.NewReader(make([]byte, size)))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%d bytes: %v", size, err)
		}
		if hint := diag.HintOf(err); hint != "make room on the disk, for example: strata store prune" {
			t.Errorf("hint %q", hint)
		}
	}
	if time.Since(start) > time.Second {
		t.Error("it was tried again")
	}
}
