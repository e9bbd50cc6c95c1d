package buildkit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/strata-build/strata/internal/wire"
)

// RegistryHost is the host name under which the embedded registry is known in
// references; no such host need exist.
const RegistryHost = "strata.internal"

// Credential gives the credentials of a registry: a name and a password, an
// identity token with an empty name, or a token that the registry takes as it is.
type Credential func(ctx context.Context, host string) (username, secret, token string, err error)

// MirrorFolder is the first part of the embedded registry's repositories that
// hold images of other hosts.
const MirrorFolder = "strata.mirror"

// Options says how to run the embedded engine. Only Root must be set.
type Options struct {
	// Root is the folder of the engine's state; it is made when missing.
	Root string
	// Runc is the path of a runc; "" is the one in the binary, else the one on
	// PATH.
	Runc string
	// Registry gives the address (host:port, on loopback, plain HTTP) where the
	// embedded registry listens. It is called when the engine first needs it;
	// nil means that there is none.
	Registry func() (string, error)
	// InProcess gives the embedded registry without a port, in place of Registry:
	// what other accounts, and steps with the machine's network, can't reach.
	InProcess func() (http.RoundTripper, error)
	// NoMirror stops the engine from asking the embedded registry's mirrors first
	// for images of other hosts.
	NoMirror bool
	// MaxParallelism bounds the RUN steps that go on at once; 0 is no bound.
	MaxParallelism int
	// GC bounds the store.
	GC GC
	// CgroupParent is the cgroup under which containers run; "" is one that is
	// named after Root. It must belong to this engine alone: what is left in it
	// after a crash is killed.
	CgroupParent string
	// Snapshotter is "overlayfs" or "native"; "" is the best that works.
	Snapshotter string
	// DockerConfig is the folder of docker's config.json, where credentials
	// come from; "" is docker's own default.
	DockerConfig string
	// Credential gives the credentials of a registry; nil is what DockerConfig and
	// its credential helpers know.
	Credential Credential
	// Limits bound how long a registry may keep the engine waiting.
	Limits wire.Limits
	// NoWait makes Open fail with a [LockedError] when another process uses
	// Root, in place of waiting for it.
	NoWait bool
	// Waiting is called once when Open begins to wait for another process; pid
	// is 0 when unknown.
	Waiting func(path string, pid int)
	// Log takes the engine's own log; nil is the file engine.log under Root.
	Log io.Writer
}

// GC bounds the engine's store. It is applied a second after a build, while
// the engine is open.
type GC struct {
	KeepBytes int64         // most that the store may hold; 0 is 20 GiB
	KeepFor   time.Duration // what was not used for so long goes; 0 is 14 days
	KeepFree  int64         // disk space that must stay free; 0 is 1 GiB
}

func (g GC) withDefaults() GC {
	return GC{
		KeepBytes: cmp.Or(g.KeepBytes, 20<<30),
		KeepFor:   cmp.Or(g.KeepFor, 14*24*time.Hour),
		KeepFree:  cmp.Or(g.KeepFree, 1<<30),
	}
}

// withDefaults gives o with an absolute root and every default filled in.
func (o Options) withDefaults() (Options, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return o, err
	}
	o.Root = root
	o.GC = o.GC.withDefaults()
	if o.CgroupParent == "" {
		sum := sha256.Sum256([]byte(root))
		o.CgroupParent = "strata-" + hex.EncodeToString(sum[:4])
	}
	if o.Waiting == nil {
		o.Waiting = func(string, int) {}
	}
	return o, nil
}
