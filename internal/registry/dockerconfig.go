package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/strata-build/strata/internal/diag"
)

// helperTimeout bounds a credential helper. Those of clouds ask a service of
// theirs, which takes seconds; one that asks the user for a passphrase leaves
// him a minute.
const helperTimeout = time.Minute

// DockerCredentials gives what `docker login` has kept, in the file or with a
// credential helper. The file is read when it is first needed; a helper ends,
// with all that it has started, after a minute or with the context.
func DockerCredentials() func(context.Context, string) (Credential, error) {
	return dockerCredentials(helperTimeout)
}

func dockerCredentials(limit time.Duration) func(context.Context, string) (Credential, error) {
	type kept struct {
		store   *credentials.DynamicStore
		helpers helpers
	}
	open := sync.OnceValues(func() (kept, error) {
		s, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return kept{}, err
		}
		h, err := helpersIn(s.ConfigPath())
		return kept{s, h}, err
	})
	return func(ctx context.Context, host string) (Credential, error) {
		k, err := open()
		if err != nil {
			return Credential{}, fmt.Errorf("reading Docker's configuration: %w", err)
		}
		server := credentials.ServerAddressFromHostname(host)
		var c auth.Credential
		if name := k.helpers.of(server); name != "" {
			c, err = askHelper(ctx, name, server, limit)
		} else {
			c, err = k.store.Get(ctx, server)
		}
		if err != nil {
			return Credential{}, diag.Hint(fmt.Errorf("asking for the credentials of %q: %w", host, err), "%s", diag.HintOf(err))
		}
		return Credential{Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, RegistryToken: c.AccessToken}, nil
	}
}

// helpers are the credential helpers that Docker's configuration names.
type helpers struct {
	Store string            `json:"credsStore"`
	Hosts map[string]string `json:"credHelpers"`
}

func helpersIn(file string) (helpers, error) {
	var h helpers
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(data, &h)
}

// of gives the helper for a server; "" is none.
func (h helpers) of(server string) string {
	if name := h.Hosts[server]; name != "" {
		return name
	}
	return h.Store
}

// maxHelperAnswer is far above what a helper has to say.
const maxHelperAnswer = 1 << 20

// askHelper runs docker-credential-NAME, by Docker's protocol: the server on
// standard input, JSON on standard output. It runs in a process group of its
// own, so that what a script has started ends with it.
func askHelper(ctx context.Context, name, server string, limit time.Duration) (auth.Credential, error) {
	program := "docker-credential-" + name
	if strings.ContainsAny(name, "/\\") {
		return auth.Credential{}, fmt.Errorf("%q is not the name of a credential helper", name)
	}
	limited, stop := context.WithTimeout(ctx, limit)
	defer stop()
	cmd := exec.CommandContext(limited, program, "get")
	var out bounded
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(server), &out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 200 * time.Millisecond
	err := cmd.Run()
	said := strings.TrimSpace(out.String())
	switch {
	case ctx.Err() != nil:
		return auth.Credential{}, context.Cause(ctx)
	case limited.Err() != nil:
		return auth.Credential{}, diag.Hint(fmt.Errorf("%s has not answered for %s", program, limit),
			"try it by itself: echo %s | %s get", server, program)
	case said == "credentials not found in native keychain":
		return auth.Credential{}, nil
	case err != nil && said != "":
		return auth.Credential{}, fmt.Errorf("%s: %s", program, plain(said))
	case err != nil:
		return auth.Credential{}, err
	}
	var c struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(said), &c); err != nil {
		return auth.Credential{}, fmt.Errorf("reading the answer of %s: %w", program, err)
	}
	if c.Username == "<token>" {
		return auth.Credential{RefreshToken: c.Secret}, nil
	}
	return auth.Credential{Username: c.Username, Password: c.Secret}, nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len() < maxHelperAnswer {
		b.Buffer.Write(p)
	}
	return len(p), nil
}
