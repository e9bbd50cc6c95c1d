package registry_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseRef(t *testing.T) {
	for _, tc := range []struct {
		in       string
		want     registry.Ref
		full     string
		familiar string
		mirror   string
	}{
		{
			"debian:bookworm-slim", registry.Ref{Host: "docker.io", Repo: "library/debian", Tag: "bookworm-slim"},
			"docker.io/library/debian:bookworm-slim", "debian:bookworm-slim",
			"strata.internal/docker.io/library/debian:bookworm-slim",
		},
		{
			"user/app", registry.Ref{Host: "docker.io", Repo: "user/app"},
			"docker.io/user/app", "user/app", "strata.internal/docker.io/user/app",
		},
		{
			"index.docker.io/library/debian", registry.Ref{Host: "docker.io", Repo: "library/debian"},
			"docker.io/library/debian", "debian", "strata.internal/docker.io/library/debian",
		},
		{
			"localhost:5000/app:1", registry.Ref{Host: "localhost:5000", Repo: "app", Tag: "1"},
			"localhost:5000/app:1", "localhost:5000/app:1", "strata.internal/localhost_5000/app:1",
		},
		{
			"[::1]:5000/app:1", registry.Ref{Host: "[::1]:5000", Repo: "app", Tag: "1"},
			"[::1]:5000/app:1", "[::1]:5000/app:1", "strata.internal/ip6--1_5000/app:1",
		},
		{
			"ghcr.io/u/a:t@" + someDigest, registry.Ref{Host: "ghcr.io", Repo: "u/a", Tag: "t", Digest: someDigest},
			"ghcr.io/u/a:t@" + someDigest, "ghcr.io/u/a:t@" + someDigest, "strata.internal/ghcr.io/u/a:t@" + someDigest,
		},
		{
			"strata.internal/mcp-ragex", registry.Ref{Host: "strata.internal", Repo: "mcp-ragex"},
			"strata.internal/mcp-ragex", "mcp-ragex", "strata.internal/mcp-ragex",
		},
	} {
		got, err := registry.ParseRef(tc.in)
		if err != nil {
			t.Errorf("%q: %v", tc.in, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%q: %s", tc.in, diff)
		}
		for _, s := range [][2]string{
			{tc.full, got.String()}, {tc.familiar, got.FamiliarString()}, {tc.mirror, got.Local().String()},
		} {
			if s[0] != s[1] {
				t.Errorf("%q: got %q, want %q", tc.in, s[1], s[0])
			}
		}
		if again, err := registry.ParseRef(got.Local().String()); err != nil || again != got.Local() {
			t.Errorf("%q: the local name %q reads as %v, %v", tc.in, got.Local(), again, err)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	for in, hint := range map[string]string{
		"User/App:1":   "repository names are in lower case: user/app:1",
		"":             "an image name is [HOST/]REPOSITORY[:TAG][@sha256:...], for example ghcr.io/user/app:1.0",
		"a b":          "an image name is [HOST/]REPOSITORY[:TAG][@sha256:...], for example ghcr.io/user/app:1.0",
		"app@sha256:1": "an image name is [HOST/]REPOSITORY[:TAG][@sha256:...], for example ghcr.io/user/app:1.0",
	} {
		_, err := registry.ParseRef(in)
		if err == nil {
			t.Errorf("%q was accepted", in)
		} else if got := diag.HintOf(err); got != hint {
			t.Errorf("%q: hint %q, want %q", in, got, hint)
		}
	}
}
