package registry_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// tokens is a token service and the check of its tokens before a registry. A
// token is the list of scopes that it is good for.
type tokens struct {
	mu     sync.Mutex
	url    string
	grants func(user, repo string, actions []string) ([]string, int) // actions granted, or a status
	asked  []string                                                  // user and scopes of each token request
}

func newTokens(t *testing.T, grants func(user, repo string, actions []string) ([]string, int)) *tokens {
	s := &tokens{grants: grants}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *tokens) serve(w http.ResponseWriter, r *http.Request) {
	user, _, _ := r.BasicAuth()
	scopes := r.URL.Query()["scope"]
	s.mu.Lock()
	s.asked = append(s.asked, user+" "+strings.Join(scopes, " "))
	s.mu.Unlock()
	var granted []string
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		actions, status := s.grants(user, parts[1], strings.Split(parts[2], ","))
		if status != 0 {
			w.WriteHeader(status)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
			return
		}
		for _, a := range actions {
			granted = append(granted, parts[1]+":"+a)
		}
	}
	fmt.Fprintf(w, `{"token":%q}`, base64.RawURLEncoding.EncodeToString([]byte(strings.Join(granted, " "))))
}

func (s *tokens) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repo, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		repo, _, _ = strings.Cut(repo, "/blobs/")
		needs := []string{repo + ":pull"}
		if r.Method != "GET" && r.Method != "HEAD" {
			needs = append(needs, repo+":push")
		}
		if from := r.URL.Query().Get("from"); from != "" {
			needs = append(needs, from+":pull")
		}
		raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		has := strings.Split(string(raw), " ")
		for _, n := range needs {
			if !slices.Contains(has, n) {
				w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:%s:pull"`,
					strings.Replace(s.url, "127.0.0.1", strings.Split(r.Host, ":")[0], 1), repo))
				w.WriteHeader(401)
				io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (s *tokens) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func all(_, _ string, actions []string) ([]string, int) { return actions, 0 }

func as(user string) registry.Options {
	return registry.Options{Credential: func(context.Context, string) (registry.Credential, error) {
		if user == "" {
			return registry.Credential{}, nil
		}
		return registry.Credential{Username: user, Password: "p"}, nil
	}}
}

func TestOneTokenForPullAndPush(t *testing.T) {
	s := newTokens(t, all)
	r := registrytest.With(t, registrytest.Options{Client: as("me"), Wrap: s.wrap})
	r.Client.Probe(ctx, []registry.Ref{r.Ref("user/app:1"), r.Ref("user/app:2"), r.Ref("user/app:3")})
	r.PushImage(t, r.Ref("user/app:1"), simple)
	if a := r.Client.Lookup(ctx, r.Ref("user/app:1")); a.Err != nil {
		t.Error(a.Err)
	}
	if diff := cmp.Diff([]string{"me repository:user/app:pull,push"}, s.take()); diff != "" {
		t.Error(diff)
	}
	d, err := r.Client.PushBytes(ctx, r.Ref("user/base"), "x/y", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ok, err := r.Client.Mount(ctx, r.Ref("user/base"), r.Ref("user/app"), d); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	want := []string{
		"me repository:user/base:pull,push",
		"me repository:user/app:pull,push repository:user/base:pull",
	}
	if diff := cmp.Diff(want, s.take()); diff != "" {
		t.Error(diff)
	}
}

func TestPullWhereTheTokenServiceRefusesPush(t *testing.T) {
	s := newTokens(t, func(user, repo string, actions []string) ([]string, int) {
		if slices.Contains(actions, "push") {
			return nil, 403
		}
		return actions, 0
	})
	r := registrytest.With(t, registrytest.Options{Client: as(""), Wrap: s.wrap})
	r.PushImage(t, r.Inside("library/one:1"), simple)
	r.PushImage(t, r.Inside("library/two:1"), simple)
	for _, name := range []string{"library/one:1", "library/one:1", "library/two:1"} {
		if _, err := r.Client.Resolve(ctx, r.Ref(name)); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		" repository:library/one:pull,push", " repository:library/one:pull", " repository:library/two:pull",
	}
	if diff := cmp.Diff(want, s.take()); diff != "" {
		t.Error(diff)
	}
	_, err := r.Client.PushBytes(ctx, r.Ref("library/one"), "x/y", nil)
	var e *registry.Error
	if !errors.As(err, &e) || e.Kind != registry.Forbidden {
		t.Errorf("pushing: %v", err)
	}
}

func TestFewerRightsGranted(t *testing.T) {
	s := newTokens(t, func(user, repo string, actions []string) ([]string, int) {
		return []string{"pull"}, 0 // as Docker Hub does for anonymous users
	})
	r := registrytest.With(t, registrytest.Options{Client: as(""), Wrap: s.wrap})
	r.PushImage(t, r.Inside("app:1"), simple)
	if _, err := r.Client.Resolve(ctx, r.Ref("app:1")); err != nil {
		t.Error(err)
	}
	_, err := r.Client.PushBytes(ctx, r.Ref("app"), "x/y", []byte("z"))
	var e *registry.Error
	if !errors.As(err, &e) || e.Kind != registry.Unauthorized {
		t.Errorf("pushing: %v", err)
	}
}

func basic(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.Header().Set("Www-Authenticate", `Basic realm="test"`)
				w.WriteHeader(401)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestDockerCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	plain := registrytest.With(t, registrytest.Options{Wrap: basic("ann", "plain-secret")})
	helped := registrytest.With(t, registrytest.Options{Wrap: basic("bob", "helped-secret")})
	none := registrytest.With(t, registrytest.Options{Wrap: basic("eve", "unknown")})
	helper := "#!/bin/sh\nread host\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"bob\",\"Secret\":\"helped-secret\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}},"credHelpers":{%q:"test"}}`,
		plain.Host, base64.StdEncoding.EncodeToString([]byte("ann:plain-secret")), helped.Host)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := registry.New(registry.Options{})
	for _, r := range []*registrytest.Registry{plain, helped} {
		if err := c.CheckAccess(ctx, r.Host); err != nil {
			t.Error(err)
		}
		if a := c.Lookup(ctx, r.Ref("app:1")); a.State != registry.Miss {
			t.Error(a.Err)
		}
	}
	err := c.CheckAccess(ctx, none.Host)
	var e *registry.Error
	if !errors.As(err, &e) || e.Kind != registry.Unauthorized {
		t.Errorf("without credentials: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a secret: %v", err)
	}
}
