package strata

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// planned gives the bytes that are allocated while n layers are planned.
func planned(t *testing.T, n int) uint64 {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	text.WriteString("image: demo\nlayers:\n")
	for i := range n {
		fmt.Fprintf(&text, "  l%d: {dockerfile: Dockerfile}\n", i)
	}
	for name, content := range map[string]string{"strata.yaml": text.String(), "Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := registry.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	project, err := spec.Load(dir, "", spec.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(t.Context(), Config{
		Project: project, Client: registry.New(registry.Options{Embedded: store, Offline: true}), Platform: "linux/amd64", Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if len(p.Plan.Steps) != n {
		t.Fatalf("%d steps of %d", len(p.Plan.Steps), n)
	}
	return after.TotalAlloc - before.TotalAlloc
}

// What is done for each unit must not be done for each other unit, too. Bytes are
// counted, for time depends on what else the machine does.
func TestPlanningIsLinear(t *testing.T) {
	planned(t, 10) // what is made once
	few, many := planned(t, 250), planned(t, 2000)
	if times := float64(many) / float64(few); times > 12 {
		t.Errorf("8 times the layers take %.1f times the memory: %d and %d bytes", times, few, many)
	}
}
