package strata

import (
	"net/http"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// A test by a stage had passed, and what the stage takes changed: the test was
// not run again, as the unit's key knows nothing of it.
func TestRegressionWhatATestReadsIsInItsMark(t *testing.T) {
	w := newWorkshop(t, "FROM scratch AS app\nCOPY src/ /src/\nFROM app AS test\nCOPY tests/ /tests/\nRUN check\n")
	w.write(t, "tests/one", "before\n")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    target: app\n    test: {stage: test}\n")
	mark := func() key.ID {
		t.Helper()
		p, err := Prepare(t.Context(), w.config(t))
		if err != nil {
			t.Fatal(err)
		}
		id, err := (&runner{pass: p}).testKey(t.Context(), p.Units[0])
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	unit, before := w.keys(t)[app], mark()
	w.edit(t, "tests/one")()
	if w.keys(t)[app] != unit {
		t.Error("the unit's key changed with a file of its test")
	}
	if mark() == before {
		t.Error("the test's key stayed the same")
	}
}

// A tag that the project protects could be moved where nobody could tell whether
// it was there.
func TestRegressionAProtectedTagThatIsNotKnown(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	w.reg = registrytest.With(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/1.0") {
				rw.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nprotect: [\"1.*\"]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := p.Execute(t.Context()); err == nil || len(res.Tags) != 0 {
		t.Errorf("the tags %v were moved, and the error is %v", res.Tags, err)
	}
}
