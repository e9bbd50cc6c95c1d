package buildkit

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer" // docker-container://
	_ "github.com/moby/buildkit/client/connhelper/kubepod"         // kube-pod://

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/wire"
)

// dialLimit bounds the first answer of a BuildKit: a pod's takes seconds.
const dialLimit = 20 * time.Second

// schemes are the kinds of address that Dial takes.
var schemes = []string{"unix", "tcp", "docker-container", "kube-pod"}

// Remote is a BuildKit elsewhere. It implements [build.Engine].
type Remote struct {
	engine
	addr string
}

// TLS holds the files for a tcp:// address. The zero value is no TLS.
type TLS struct {
	CA         string // certificate of the authority; "" is the system's
	Cert, Key  string // the client's, for mutual TLS
	ServerName string // name in the server's certificate; "" is the address's
}

// RemoteOptions says how to talk to a BuildKit.
type RemoteOptions struct {
	TLS          TLS
	DockerConfig string     // see [Options]
	Credential   Credential // see [Options]
	Limits       wire.Limits
}

// Dial connects to the BuildKit at addr: unix://PATH, tcp://HOST:PORT,
// docker-container://NAME or kube-pod://NAME. It fails when none answers.
func Dial(ctx context.Context, addr string, o RemoteOptions) (*Remote, error) {
	u, err := url.Parse(addr)
	if err != nil || !slices.Contains(schemes, u.Scheme) {
		return nil, diag.Hint(fmt.Errorf("reading engine address %q: unknown kind of address", addr),
			"use unix://PATH, tcp://HOST:PORT, docker-container://NAME or kube-pod://NAME")
	}
	limitClients(o.Limits)
	c, err := client.New(ctx, addr, o.TLS.options()...)
	if err != nil {
		return nil, fmt.Errorf("dialling engine %q: %w", addr, err)
	}
	first, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	if _, err := c.Info(first); err != nil {
		c.Close()
		return nil, diag.Hint(fmt.Errorf("dialling engine %q: %w", addr, cause{err}),
			"check that buildkitd runs there, and its certificates")
	}
	return &Remote{
		engine: engine{client: c, dockerConfig: o.DockerConfig, credential: o.Credential, blobs: proxy.NewContentStore(c.ContentClient())},
		addr:   addr,
	}, nil
}

func (t TLS) options() []client.ClientOpt {
	var out []client.ClientOpt
	switch {
	case t.CA != "":
		out = append(out, client.WithServerConfig(t.ServerName, t.CA))
	case t != TLS{}:
		out = append(out, client.WithServerConfigSystem(t.ServerName))
	}
	if t.Cert != "" || t.Key != "" {
		out = append(out, client.WithCredentials(t.Cert, t.Key))
	}
	return out
}

// Addr gives the address that was dialled.
func (r *Remote) Addr() string { return r.addr }

// Platforms gives the platforms that the BuildKit runs natively or by
// emulation, its own first.
func (r *Remote) Platforms(ctx context.Context) ([]string, error) {
	return r.platforms(ctx)
}

// Close ends the connection.
func (r *Remote) Close() error { return r.client.Close() }
