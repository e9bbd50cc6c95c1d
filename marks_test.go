package strata

import (
	"os"
	"path/filepath"
	"testing"
)

// What BuildKit's cache does not see moves a mark, and nothing else does; a
// source of folders alone can have none.
func TestMarks(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY requirements.txt /\nCOPY . /app/\nCOPY l /linked/\n"+
		"RUN --mount=type=bind,source=src,target=/m true\nCOPY --from=other . /other/\nRUN true\nCOPY late /late/\n")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    contexts: {other: other}\n")
	w.write(t, ".dockerignore", "other\nlate\nstrata.yaml\n")
	w.write(t, "requirements.txt", "")
	w.write(t, "real/sub/a", "")
	w.write(t, "other/sub/b", "")
	at := func(name string) string { return filepath.Join(w.dir, name) }
	for _, err := range []error{
		os.Mkdir(at("src/empty"), 0o755), os.Symlink("real", at("l")), os.Link(at("real/sub/a"), at("real/sub/z")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at(".dockerignore"), []byte("other\nstrata.yaml\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.write(t, "late/x/c", "")
	marks := func() (map[string]map[string]uint64, bool) {
		t.Helper()
		p, err := Prepare(t.Context(), w.config(t))
		if err != nil {
			t.Fatal(err)
		}
		return p.marks(p.Units[0], true)
	}
	number := func(m map[string]map[string]uint64) (n int) {
		for _, files := range m {
			n += len(files)
		}
		return n
	}
	if err := os.Remove(at("real/sub/z")); err != nil {
		t.Fatal(err)
	}
	if m, blind := marks(); number(m) != 0 || blind {
		t.Errorf("plain folders have the marks %v, blind %v", m, blind)
	}
	change := func(what string, want map[string]int, do func() error) map[string]map[string]uint64 {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		m, blind := marks()
		for context, n := range want {
			if len(m[context]) != n {
				t.Errorf("%s: marks %v, want %v", what, m, want)
			}
		}
		if blind || m[""]["requirements.txt"] != 0 {
			t.Errorf("%s: blind %v, marks %v, and what is copied first should have none", what, blind, m)
		}
		return m
	}
	chmod := func(name string, mode os.FileMode) func() error {
		return func() error { return os.Chmod(at(name), mode) }
	}
	// . and the bind mount of src take it.
	one := change("an empty folder", map[string]int{"": 2, "other": 0}, chmod("src/empty", 0o700))
	two := change("sticky", map[string]int{"": 2, "other": 0}, chmod("src/empty", 0o700|os.ModeSticky))
	for file, mark := range one[""] {
		if two[""][file] == mark {
			t.Errorf("the mark of %s did not move", file)
		}
	}
	change("through a link", map[string]int{"": 3, "other": 0}, chmod("real/sub", 0o711))
	change("named context", map[string]int{"": 3, "other": 1}, chmod("other/sub", 0o711))
	change("tail", map[string]int{"": 3, "other": 1}, chmod("late/x", 0o711))
	change("all plain but late", map[string]int{"": 1, "other": 0}, func() error {
		for _, dir := range []string{"src/empty", "real/sub", "other/sub"} {
			if err := os.Chmod(at(dir), 0o755); err != nil {
				return err
			}
		}
		return nil
	})
	change("hard link", map[string]int{"": 2}, func() error { return os.Link(at("real/sub/a"), at("real/sub/z")) })

	w.write(t, "Dockerfile", "FROM "+w.reg.Host+"/parent:1\nCOPY bare /b/\nRUN true\n")
	if err := os.MkdirAll(at("bare/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if m, blind := marks(); number(m) != 0 || !blind {
		t.Errorf("folders alone have the marks %v, blind %v", m, blind)
	}
}
