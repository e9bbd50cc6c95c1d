package strata

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/strata-build/strata"

// importGraph is which package may import which: "a < b c" means that b and c
// may import a. It is complete: an edge that does not stand here must not be.
// Tests may import anything; registrytest and corpus are only for tests.
//
// Widening it is a deliberate change of the architecture.
const importGraph = `
internal/diag        < internal/buildkit internal/ci internal/doctor internal/dockerfile internal/export internal/generated
internal/diag        < internal/git internal/githistory internal/graph internal/hostfile internal/initproject internal/registry
internal/diag        < internal/serve internal/simulate internal/source internal/spec internal/vcs internal/watch strata internal/cli
internal/git         < internal/doctor internal/githistory internal/vcs internal/cli
internal/hostfile    < internal/buildkit internal/generated internal/source internal/spec strata internal/cli
internal/event       < internal/build internal/buildkit internal/record internal/view strata internal/cli
internal/printable   < internal/buildkit internal/ci internal/dockerfile internal/export internal/image internal/key
internal/printable   < internal/record internal/simulate internal/view internal/cli
internal/dockerfile  < internal/change internal/export internal/graph internal/image/corpus internal/initproject
internal/dockerfile  < internal/key internal/simulate strata
internal/spec        < internal/ci internal/export internal/graph internal/initproject internal/simulate internal/slot
internal/spec        < internal/watch strata internal/cli
internal/inventory   < internal/build internal/buildkit internal/image internal/image/corpus internal/origin internal/source
internal/inventory   < internal/times strata internal/cli
internal/source      < internal/githistory internal/image/corpus internal/key internal/origin internal/simulate strata
internal/source      < internal/cli
internal/graph       < internal/change internal/ci internal/export internal/plan internal/simulate strata internal/cli
internal/key         < internal/change internal/plan internal/simulate strata
internal/slot        < internal/watch strata
internal/lock        < internal/export internal/simulate strata internal/cli
internal/change      < internal/simulate internal/cli
internal/packages    < internal/image strata internal/cli
internal/times       < internal/build internal/buildkit strata
internal/journal     < strata internal/cli
internal/prune       < strata internal/cli
internal/image       < internal/buildkit internal/image/corpus internal/origin strata
internal/origin      < internal/image/corpus strata
internal/plan        < internal/ci internal/simulate strata internal/cli
internal/build       < internal/buildkit strata internal/cli
internal/wire        < internal/buildkit internal/registry internal/cli
internal/serve       < internal/registry internal/cli
internal/registry    < internal/registry/registrytest strata internal/cli
internal/generated   < internal/ci internal/export internal/cli
internal/export      < internal/ci strata internal/cli
internal/ci          < internal/cli
internal/githistory  < internal/simulate internal/cli
internal/record      < internal/simulate strata internal/cli
strata               < internal/simulate internal/cli
internal/simulate    < internal/cli
internal/buildkit    < internal/cli
internal/doctor      < internal/cli
internal/initproject < internal/cli
internal/vcs         < internal/cli
internal/view        < internal/cli
internal/watch       < internal/cli
internal/cli         < cmd/strata
`

// heavy are the dependencies that live behind few packages. The first rule
// whose prefix fits an import decides.
var heavy = []struct {
	prefix string
	only   []string
}{
	// Reading Dockerfiles as BuildKit does: its parser has no engine in it.
	{"github.com/moby/buildkit/frontend/dockerfile/parser", []string{"internal/dockerfile", "internal/spec", "internal/buildkit"}},
	{"github.com/moby/buildkit/frontend/dockerfile/instructions", []string{"internal/dockerfile", "internal/spec", "internal/image", "internal/origin", "internal/buildkit"}},
	{"github.com/moby/buildkit/frontend/dockerfile/command", []string{"internal/dockerfile"}},
	{"github.com/moby/buildkit/frontend/dockerfile/dfgitutil", []string{"internal/dockerfile"}},
	{"github.com/moby/buildkit/frontend/dockerfile/shell", []string{"internal/dockerfile"}},
	{"github.com/moby/buildkit", []string{"internal/buildkit"}},
	{"github.com/containerd/containerd", []string{"internal/buildkit"}},
	{"oras.land/oras-go", []string{"internal/registry"}},
	{"github.com/distribution/distribution", []string{"internal/registry"}},
	{"github.com/distribution/reference", []string{"internal/registry", "internal/buildkit"}},
	{"github.com/prometheus/client_golang", []string{"internal/watch"}},
	{"github.com/spf13/cobra", []string{"internal/cli"}},
}

// pure packages decide and compute. They have no way to the world: not to the
// file system, the network, other processes or the terminal.
var pure = []string{
	"internal/diag", "internal/event", "internal/dockerfile", "internal/graph", "internal/key", "internal/plan",
	"internal/slot", "internal/lock", "internal/export", "internal/inventory", "internal/build", "internal/journal", "internal/change", "internal/prune",
	"internal/packages", "internal/times", "internal/printable",
}

// worldly are the standard library's ways to the world.
var worldly = []string{"os", "os/exec", "os/signal", "io/ioutil", "net/http", "log", "log/slog", "syscall"}

func TestImports(t *testing.T) {
	allowed := map[string]bool{}
	known := map[string]bool{"cmd/strata": true}
	for line := range strings.Lines(importGraph) {
		from, to, ok := strings.Cut(line, "<")
		if !ok {
			continue
		}
		from = strings.TrimSpace(from)
		known[from] = true
		for _, importer := range strings.Fields(to) {
			allowed[importer+" "+from] = true
		}
	}
	used := map[string]bool{}
	for pkg, imports := range sources(t) {
		if !known[pkg] && pkg != "internal/image/corpus" && pkg != "internal/registry/registrytest" {
			t.Errorf("%s is not in the import graph; say in deps_test.go who may import it", pkg)
		}
		for _, imp := range imports {
			edge, inside := strings.CutPrefix(imp, module)
			edge = strings.TrimPrefix(edge, "/")
			if edge == "" {
				edge = "strata"
			}
			switch {
			case !inside:
				checkHeavy(t, pkg, imp)
			case !allowed[pkg+" "+edge]:
				t.Errorf("%s imports %s, which the import graph does not allow", pkg, edge)
			}
			used[pkg+" "+edge] = true
		}
	}
	for edge := range allowed {
		if !used[edge] {
			pkg, imp, _ := strings.Cut(edge, " ")
			t.Errorf("the import graph allows %s to import %s, but it does not: take the edge out", pkg, imp)
		}
	}
}

// starters are the packages that start other programs, and which. A new one is
// looked at for what a checkout can make of it.
var starters = []string{
	"internal/buildkit", // runc, emulators
	"internal/cli",      // docker
	"internal/doctor",   // what it checks
	"internal/git",      // git, and nobody else does
	"internal/registry", // docker-credential-NAME, which the user's own config names
	"internal/watch",    // the commands that its user names
}

func TestOnePackageRunsGit(t *testing.T) {
	for pkg, imports := range sources(t) {
		if slices.Contains(imports, "os/exec") && !slices.Contains(starters, pkg) {
			t.Errorf("%s imports os/exec", pkg)
		}
	}
	call := regexp.MustCompile(`exec\.Command(Context)?\((ctx, |context\.[A-Za-z]+\(\), )?"git"`)
	found := 0
	for _, name := range goFiles(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		switch n := len(call.FindAll(text, -1)); {
		case path.Dir(name) == "internal/git":
			found += n
		case n > 0, path.Dir(name) != "internal/doctor" && strings.Contains(string(text), `LookPath("git")`):
			t.Errorf("%s runs git, which package git is for", name)
		}
	}
	if found == 0 {
		t.Error("package git runs none either: the test looks for the wrong thing")
	}
}

func checkHeavy(t *testing.T, pkg, imp string) {
	for _, h := range heavy {
		if imp != h.prefix && !strings.HasPrefix(imp, h.prefix+"/") {
			continue
		}
		if !slices.Contains(h.only, pkg) {
			t.Errorf("%s imports %s; only %s may", pkg, imp, strings.Join(h.only, ", "))
		}
		return
	}
}

func TestPurePackagesHaveNoWayToTheWorld(t *testing.T) {
	all := sources(t)
	for _, pkg := range pure {
		if len(all[pkg]) == 0 && pkg != "internal/event" && pkg != "internal/diag" {
			t.Errorf("there is no package %s", pkg)
		}
		for _, imp := range all[pkg] {
			if slices.Contains(worldly, imp) {
				t.Errorf("the pure package %s imports %s", pkg, imp)
			}
		}
	}
	for _, name := range readFiles(t, pure) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"time.Now(", "time.Since(", "time.Until(", "rand."} {
			if strings.Contains(string(text), call) {
				t.Errorf("%s calls %s in a pure package", name, strings.TrimSuffix(call, "("))
			}
		}
	}
}

func readFiles(t *testing.T, pkgs []string) []string {
	var out []string
	for _, name := range goFiles(t) {
		if slices.Contains(pkgs, path.Dir(name)) {
			out = append(out, name)
		}
	}
	return out
}

// sources gives the imports of every package of the module, without its tests,
// for every platform and build tag.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, name := range goFiles(t) {
		pkg := path.Dir(name)
		if pkg == "." {
			pkg = "strata"
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(out[pkg], imp) {
				out[pkg] = append(out[pkg], imp)
			}
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d packages were found", len(out))
	}
	return out
}

// goFiles gives the Go files of the module that git knows, without tests, or,
// outside of a repository, all that are there.
func goFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	if out, err := exec.Command("git", "ls-files", "*.go").Output(); err == nil && len(out) > 0 {
		names = strings.Fields(string(out))
	} else {
		for _, root := range []string{"*.go", "cmd/*/*.go", "internal/*/*.go", "internal/*/*/*.go"} {
			found, err := filepath.Glob(root)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, found...)
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		inModule := path.Dir(name) == "." || strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "internal/")
		_, err := os.Stat(name)
		return !inModule || err != nil || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata/")
	})
}
