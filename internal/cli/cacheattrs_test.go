//go:build linux

package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestCacheAttrs(t *testing.T) {
	tests := []struct {
		name, kind string
		env, want  map[string]string
	}{
		{"none", "registry", map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "AWS_ACCESS_KEY_ID": "k"}, nil},
		{"gha outside of a job", "gha", nil, nil},
		{
			"gha", "gha",
			map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": "https://results/", "ACTIONS_CACHE_SERVICE_V2": "True"},
			map[string]string{"token": "t", "url": "https://results/", "url_v2": "https://results/"},
		},
		{
			"gha, first version", "gha",
			map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": "https://results/", "ACTIONS_CACHE_URL": "https://cache/"},
			map[string]string{"token": "t", "url": "https://cache/"},
		},
		{
			"s3", "s3",
			map[string]string{"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu"},
			map[string]string{"access_key_id": "k", "secret_access_key": "s", "region": "eu"},
		},
	}
	for _, tc := range tests {
		got := cacheAttrs(tc.kind, func(name string) string { return tc.env[name] })
		if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
