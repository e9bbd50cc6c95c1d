package buildkit

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	bksecrets "github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/hostfile"
)

// attachables is what an engine may ask its client for: credentials, secrets
// and SSH agents. Values go to the engine only when a step uses them.
func (e *engine) attachables(j build.Job) ([]session.Attachable, error) {
	creds, err := e.credentials()
	if err != nil {
		return nil, err
	}
	out := []session.Attachable{creds}
	if len(j.Secrets) > 0 {
		s, err := secrets(j.Secrets)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(j.SSH) > 0 {
		s, err := agents(j.SSH)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// credentials gives what docker's config and its credential helpers know.
func (e *engine) credentials() (session.Attachable, error) {
	if e.credential != nil {
		return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
			AuthConfigProvider: func(ctx context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
				username, secret, token, err := e.credential(ctx, host)
				if username == "" {
					return types.AuthConfig{IdentityToken: secret, RegistryToken: token}, err
				}
				return types.AuthConfig{Username: username, Password: secret, RegistryToken: token}, err
			},
		}), nil
	}
	dir := e.dockerConfig
	if dir == "" {
		dir = config.Dir()
	}
	file, err := config.Load(dir)
	if err != nil {
		return nil, diag.Hint(fmt.Errorf("reading credentials: %w", err),
			"mend or remove %s/config.json, or name another folder with $DOCKER_CONFIG", dir)
	}
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(file),
	}), nil
}

func secrets(in []build.Secret) (session.Attachable, error) {
	store := secretStore{}
	for _, s := range in {
		if (s.Env == "") == (s.File == "") {
			return nil, fmt.Errorf("reading secret %q: %w", s.ID, errSecretSource)
		}
		if _, ok := os.LookupEnv(s.Env); s.Env != "" && !ok {
			return nil, diag.Hint(fmt.Errorf("reading secret %q: environment variable %q is not set", s.ID, s.Env),
				"export %s=...", s.Env)
		}
		if s.File != "" {
			if err := hostfile.Check(s.File, hostfile.MaxSecret); err != nil {
				return nil, fmt.Errorf("reading secret %q: %w", s.ID, err)
			}
		}
		store[s.ID] = s
	}
	return secretsprovider.NewSecretProvider(store), nil
}

// secretStore gives the values of secrets by their IDs when a step asks for them.
// BuildKit's own store reads a file whole, and waits for a FIFO.
type secretStore map[string]build.Secret

// GetSecret gives one value.
func (m secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	s, ok := m[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("reading secret %q: %w", id, bksecrets.ErrNotFound)
	case s.Env != "":
		return []byte(os.Getenv(s.Env)), nil
	}
	data, err := hostfile.Read(s.File, hostfile.MaxSecret)
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", id, err)
	}
	return data, nil
}

// agents reads "default" and "ID=SOCKET-OR-KEY".
func agents(in []string) (session.Attachable, error) {
	configs := make([]sshprovider.AgentConfig, 0, len(in))
	for _, s := range in {
		id, path, ok := strings.Cut(s, "=")
		c := sshprovider.AgentConfig{ID: id}
		if ok {
			c.Paths = strings.Split(path, ",")
		}
		configs = append(configs, c)
	}
	p, err := sshprovider.NewSSHAgentProvider(configs)
	if err != nil {
		return nil, diag.Hint(fmt.Errorf("forwarding SSH agent: %w", err),
			"start one (eval $(ssh-agent); ssh-add), or give id=path")
	}
	return p, nil
}
