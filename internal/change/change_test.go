package change

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/spec"
)

func file(name string) key.Change { return key.Change{Kind: key.Changed, What: name, Label: "file"} }

func line(label string) key.Change { return key.Change{Kind: key.Changed, What: "X", Label: label} }

// The places of a project of three layers, of its compiling stage, and of a
// project that is one Dockerfile.
var (
	base       = Place{Root: true, Base: true, Needed: true}
	middle     = Place{Base: true, Needed: true}
	leaf       = Place{}
	builder    = Place{Root: true, Needed: true}
	standalone = Place{Root: true}
)

func TestClassOfOneChange(t *testing.T) {
	for _, c := range []struct {
		name   string
		place  Place
		change key.Change
		want   Class
	}{
		{"code of the leaf", leaf, file("src/server.py"), Code},
		{"code beside the leaf's manifest", leaf, file("src/requirements.py"), Code},
		{"the leaf's manifest", leaf, file("requirements/app.txt"), Dependencies},
		{"the leaf's instruction", leaf, line("do"), Code},
		{"a label of the leaf", leaf, line("label"), Code},
		{"a file of a middle layer", middle, file("patches/one.diff"), Code},
		{"a manifest of a middle layer", middle, file("package.json"), Dependencies},
		{"an instruction of a middle layer", middle, line("do"), Dependencies},
		{"an argument of a middle layer", middle, line("arg"), Dependencies},
		{"an option of a middle layer", middle, line("option"), Dependencies},
		{"a refresh of a middle layer", middle, line("slot"), Dependencies},
		{"an image that a middle layer takes from", middle, line("image"), System},
		{"an image that the leaf takes from", leaf, line("image"), System},
		{"the base's instruction", base, line("do"), System},
		{"the base's file", base, file("etc/apt/sources.list"), System},
		{"the base's manifest", base, file("requirements.txt"), Dependencies},
		{"the base's refresh", base, line("slot"), System},
		{"the base's secret", base, line("secret"), System},
		{"what a compiling stage compiles", builder, file("src/main.ts"), Code},
		{"how it compiles", builder, line("do"), Dependencies},
		{"its image", builder, line("image"), System},
		{"a single Dockerfile's code", standalone, file("main.go"), Code},
		{"a single Dockerfile's manifest", standalone, file("go.mod"), Dependencies},
		{"a single Dockerfile's instruction", standalone, line("do"), System},
		{"only the parent", leaf, line("parent"), None},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Classify([]Fact{{Unit: "u", Place: c.place, Changes: []key.Change{c.change}}})
			if r.Class != c.want {
				t.Errorf("%s, want %s: %v", r.Class, c.want, r.Units)
			}
		})
	}
}

func TestClassOfAWholeChange(t *testing.T) {
	facts := []Fact{
		{Unit: "base", Place: base},
		{Unit: "ml", Place: middle, Changes: []key.Change{file("requirements/base-ml.txt"), file("patch.diff")}},
		{Unit: "app", Place: leaf, Changes: []key.Change{{Kind: key.Changed, Label: "parent", What: "ml"}, file("src/a.py")}},
		{Unit: "docs", Place: leaf, Changes: []key.Change{{Kind: key.Changed, Label: "parent", What: "ml"}}},
	}
	got := Classify(facts)
	want := Result{Class: Dependencies, Units: []Unit{
		{"ml", Dependencies, []Reason{
			{Dependencies, "requirements/base-ml.txt changed", "it lists dependencies"}, {Code, "patch.diff changed", "a file"},
		}},
		{"app", Code, []Reason{{Code, "src/a.py changed", "a file"}}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	beyond := []Unit{{"ml", Dependencies, []Reason{{Dependencies, "requirements/base-ml.txt changed", "it lists dependencies"}}}}
	if diff := cmp.Diff(beyond, got.Beyond(Code)); diff != "" {
		t.Error(diff)
	}
	if b := got.Beyond(Dependencies); b != nil {
		t.Errorf("beyond its own class: %v", b)
	}
	if r := Classify(facts[:1]); r.Class != None || len(r.Units) != 0 {
		t.Errorf("no change has the class %q", r.Class)
	}
}

func TestUnknownChangesCountByPlace(t *testing.T) {
	for _, c := range []struct {
		place Place
		want  Class
	}{{base, System}, {middle, Dependencies}, {leaf, Code}, {builder, Dependencies}, {standalone, System}} {
		if r := Classify([]Fact{{Unit: "u", Place: c.place, Unknown: "never built"}}); r.Class != c.want {
			t.Errorf("%+v: %s, want %s", c.place, r.Class, c.want)
		}
	}
}

func TestManifest(t *testing.T) {
	for name, want := range map[string]bool{
		"package.json": true, "web/package-lock.json": true, "web:package.json": true, "web:a/package.json": true,
		"requirements.txt": true, "requirements-dev.txt": true, "requirements/cpu.txt": true, "a/requirements/cpu.in": true, "web:requirements/x.txt": true,
		"requirements/README.md": false, "notes.txt": false, "packages.json": false, "src/package.json.ts": false, "": false,
		"go.mod": true, "go.sum": true, "Cargo.lock": true, "pyproject.toml": true, "x.csproj": true, "pom.xml": true, "requirements": false,
	} {
		if got := Manifest(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestParseAndBudget(t *testing.T) {
	for _, c := range Classes {
		if got, err := Parse(string(c)); err != nil || got != c {
			t.Errorf("%s: %s, %v", c, got, err)
		}
	}
	for _, s := range []string{"", "Code", "all"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q is taken for a class", s)
		}
	}
	if Code.Budget() != 2*time.Minute || Dependencies.Budget() != 5*time.Minute || System.Budget() != 10*time.Minute {
		t.Error("the budgets are not 2, 5 and 10 minutes")
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "strata.yaml", "image: x\nplatforms: [linux/amd64]\nlayers: auto\n")
	text := `FROM debian AS base
FROM golang AS compile
COPY main.go /
FROM base AS runtime
COPY --from=compile /main.go /
FROM runtime AS prod
`
	write(t, dir, "Dockerfile", text)
	p, err := spec.Load(dir, "", spec.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	g, err := graph.New(p, map[string]*dockerfile.File{"Dockerfile": f}, graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Place{
		"base/linux/amd64": base, "compile/linux/amd64": builder, "runtime/linux/amd64": middle, "prod/linux/amd64": leaf,
	}
	if diff := cmp.Diff(want, Places(g)); diff != "" {
		t.Error(diff)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
