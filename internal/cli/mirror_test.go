package cli

import (
	"testing"

	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/registry"
)

// The engine looks for images where the registry keeps them.
func TestEngineAndRegistryAgree(t *testing.T) {
	if buildkit.RegistryHost != registry.EmbeddedHost || buildkit.MirrorFolder != registry.MirrorFolder {
		t.Errorf("%s/%s and %s/%s", buildkit.RegistryHost, buildkit.MirrorFolder, registry.EmbeddedHost, registry.MirrorFolder)
	}
}
