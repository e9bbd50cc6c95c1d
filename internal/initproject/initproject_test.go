package initproject

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/spec"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestDetect holds what is found in the small repositories of testdata. What it
// writes must be what the project loader accepts.
func TestDetect(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no repositories: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			repo := fstest.MapFS{}
			for _, f := range a.Files {
				if f.Name != "want" {
					repo[f.Name] = &fstest.MapFile{Data: f.Data}
				}
			}
			got, err := Detect(repo, Options{Name: "My Project"})
			if err != nil {
				t.Fatal(err)
			}
			if got.Text != "" {
				accepted(t, repo, got.Text)
			}
			golden(t, path, a, describe(got))
		})
	}
}

// accepted fails the test unless the loader takes the text, and gives the same
// project again.
func accepted(t *testing.T, repo fstest.MapFS, text string) {
	t.Helper()
	repo[File] = &fstest.MapFile{Data: []byte(text)}
	p, err := spec.Load(".", "", spec.LoadOptions{FS: repo, Platform: "linux/amd64"})
	if err != nil {
		t.Errorf("the loader refuses it: %v\n%s", err, text)
		return
	}
	if len(p.Units()) == 0 {
		t.Errorf("no units:\n%s", text)
	}
}

func describe(f *Findings) string {
	var b strings.Builder
	b.WriteString("kind: " + string(f.Kind) + "\n")
	for _, s := range f.Found {
		b.WriteString("found: " + s + "\n")
	}
	for _, s := range f.Unsure {
		b.WriteString("unsure: " + s + "\n")
	}
	if f.Text != "" {
		b.WriteString("--- " + f.File + "\n" + f.Text)
	}
	return b.String()
}

func golden(t *testing.T, path string, a *txtar.Archive, got string) {
	t.Helper()
	i := len(a.Files) - 1
	if a.Files[i].Name != "want" {
		a.Files = append(a.Files, txtar.File{Name: "want"})
		i++
	}
	if *update {
		a.Files[i].Data = []byte(got)
		if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(a.Files[i].Data), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWriteKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	f := &Findings{File: File, Text: "image: a\n"}
	if err := Write(dir, f, false); err != nil {
		t.Fatal(err)
	}
	second := &Findings{File: File, Text: "image: b\n"}
	err := Write(dir, second, false)
	if err == nil || !strings.Contains(err.Error(), "it is there already") || !strings.Contains(diag.HintOf(err), "--force") {
		t.Errorf("got %v", err)
	}
	content := func() string {
		data, err := os.ReadFile(filepath.Join(dir, File))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := content(); got != "image: a\n" {
		t.Errorf("overwrote the file: %q", got)
	}
	if err := Write(dir, second, true); err != nil {
		t.Fatal(err)
	}
	if got := content(); got != "image: b\n" {
		t.Errorf("did not overwrite with force: %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left %d files", len(entries))
	}
}

func TestWriteNothing(t *testing.T) {
	if err := Write(t.TempDir(), &Findings{Kind: KindNothing}, true); diag.HintOf(err) == "" {
		t.Errorf("got %v without a hint", err)
	}
}
