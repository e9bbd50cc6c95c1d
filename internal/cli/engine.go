package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// embedded is the address of the engine in this process.
const embedded = "embedded"

// endpoints are the engines to use: the one that flag or environment names, or
// those of the project, or the embedded one.
func (a *app) endpoints() []spec.Endpoint {
	env := a.machine.Getenv
	if addr := cmp.Or(a.flags.engine, env("STRATA_ENGINE")); addr != "" {
		return []spec.Endpoint{{URL: addr}}
	}
	if p, err := a.project(); err == nil && len(p.Engines) > 0 {
		return p.Engines
	}
	return []spec.Endpoint{{URL: cmp.Or(env("BUILDKIT_HOST"), embedded)}}
}

// remote says whether any engine is not in this process.
func (a *app) remote() bool {
	return slices.ContainsFunc(a.endpoints(), func(e spec.Endpoint) bool { return e.URL != embedded })
}

// engine is what the engines have in common.
type engine interface {
	build.Engine
	build.Runner
}

// say tells the user something while a command runs.
type say func(format string, args ...any)

// openEngine opens the engine that flags, environment and project ask for; of
// several, each when it gets its first job.
func (a *app) openEngine(ctx context.Context, tell say) (engine, error) {
	ends := a.endpoints()
	if len(ends) == 1 {
		return a.openOne(ctx, ends[0].URL, tell)
	}
	var members []build.Member
	for _, end := range ends {
		members = append(members, build.Member{
			Platforms: end.Platforms,
			Open:      func(ctx context.Context) (build.Engine, error) { return a.openOne(ctx, end.URL, tell) },
		})
	}
	return build.NewPool(members), nil
}

func (a *app) openOne(ctx context.Context, addr string, tell say) (engine, error) {
	if addr == embedded {
		return a.openEmbedded(ctx, tell)
	}
	e, err := buildkit.Dial(ctx, addr, buildkit.RemoteOptions{TLS: buildkit.TLS{
		CA: a.flags.tlsCA, Cert: a.flags.tlsCert, Key: a.flags.tlsKey, ServerName: a.flags.tlsName,
	}, Credential: engineCredential(), Limits: a.limits})
	if err != nil {
		return nil, err
	}
	a.onClose(e.Close)
	return e, nil
}

// engineCredential gives engines what Strata's own client has: Docker's
// configuration, and helpers that end.
func engineCredential() buildkit.Credential {
	ask := registry.DockerCredentials()
	return func(ctx context.Context, host string) (username, secret, token string, err error) {
		c, err := ask(ctx, host)
		if c.IdentityToken != "" {
			return "", c.IdentityToken, "", err
		}
		return c.Username, c.Password, c.RegistryToken, err
	}
}

// openEmbedded opens the engine in this process.
func (a *app) openEmbedded(ctx context.Context, tell say) (*buildkit.Embedded, error) {
	if err := a.secureHome(); err != nil {
		return nil, err
	}
	a.machine.cleanup.begin()
	e, err := buildkit.Open(ctx, buildkit.Options{
		Root:           filepath.Join(a.home(), "engine"),
		InProcess:      a.inProcess,
		MaxParallelism: a.flags.steps,
		Credential:     engineCredential(),
		Limits:         a.limits,
		Waiting: func(path string, pid int) {
			tell("waiting for another run on this machine (process %d) to be done with %s", pid, filepath.Dir(path))
		},
	})
	if err != nil {
		a.machine.cleanup.end()
		return nil, err
	}
	a.onClose(func() error {
		defer a.machine.cleanup.end()
		return e.Close()
	})
	return e, nil
}

// inProcess gives the engine in this process the embedded registry. Units that
// are built at once ask for it.
func (a *app) inProcess() (http.RoundTripper, error) {
	a.listening.Lock()
	defer a.listening.Unlock()
	e, err := a.openRegistry()
	if err != nil {
		return nil, err
	}
	return e.RoundTripper(), nil
}

// engineRef is the name under which engines reach a repository. The embedded
// engine knows the embedded registry by its name; any other one on this machine
// reaches it at its address.
func (a *app) engineRef(ref registry.Ref) string {
	if ref.Host != registry.EmbeddedHost || !a.remote() {
		return ref.String()
	}
	addr, err := a.listen()
	if err != nil {
		return ref.String()
	}
	ref.Host = addr
	return ref.String()
}

// checkRemote refuses what an engine elsewhere can't do: reach the registry in
// this process.
func (a *app) checkRemote(push bool) error {
	if push || !a.remote() {
		return nil
	}
	for _, end := range a.endpoints() {
		if scheme, _, _ := strings.Cut(end.URL, "://"); scheme != "unix" && scheme != embedded {
			return diag.Hint(fmt.Errorf("the engine %s can't reach the registry in this process", end.URL),
				"use --push, so that it builds into the registry that the image names")
		}
	}
	return nil
}
