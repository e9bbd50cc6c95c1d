package spec

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/strata-build/strata/internal/diag"
)

var update = flag.Bool("update", false, "write golden files anew")

// projects gives every project of testdata/projects by name.
func projects(t *testing.T) map[string]*txtar.Archive {
	t.Helper()
	paths, err := filepath.Glob("testdata/projects/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no projects: %v", err)
	}
	out := map[string]*txtar.Archive{}
	for _, path := range paths {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(path), ".txtar")] = a
	}
	return out
}

// folder gives the files of an archive but for what a test expects.
func folder(a *txtar.Archive) fstest.MapFS {
	out := fstest.MapFS{}
	for _, f := range a.Files {
		if f.Name != "want" {
			out[f.Name] = &fstest.MapFile{Data: f.Data}
		}
	}
	return out
}

// expect compares got with the file "want" of an archive, or writes it.
func expect(t *testing.T, name string, a *txtar.Archive, got string) {
	t.Helper()
	i := len(a.Files) - 1
	if a.Files[i].Name != "want" {
		a.Files = append(a.Files, txtar.File{Name: "want"})
		i++
	}
	if *update {
		a.Files[i].Data = []byte(got)
		if err := os.WriteFile("testdata/projects/"+name+".txtar", txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(a.Files[i].Data), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLoad holds the exact messages for projects named bad-*, and what those
// named good-* resolve to.
func TestLoad(t *testing.T) {
	for name, a := range projects(t) {
		t.Run(name, func(t *testing.T) {
			p, err := Load("project", "", LoadOptions{FS: folder(a), Platform: "linux/amd64"})
			if strings.HasPrefix(name, "good-") {
				if err != nil {
					t.Fatal(err)
				}
				got := string(Render(p))
				for _, w := range p.Warnings {
					got += "# " + w.String() + "\n"
				}
				expect(t, name, a, got)
				return
			}
			var errs *diag.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want *diag.Errors", err)
			}
			expect(t, name, a, errs.Error()+"\n")
		})
	}
}
