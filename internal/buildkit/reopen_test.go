//go:build linux

package buildkit

import "testing"

// A service opens an engine for each build and closes it: the second one over the
// same store must not ask what the first has closed.
func TestBuildAgainInANewEngine(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root, config := t.TempDir(), t.TempDir()
	j := job(t, "FROM "+h.addr+"/base\nCOPY f /\nRUN true\n", map[string]string{"f": "1"})
	j.Repository = h.addr + "/out/app"
	for range 3 {
		e, err := Open(t.Context(), Options{Root: root, DockerConfig: config})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Build(t.Context(), j, &recorder{}); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
