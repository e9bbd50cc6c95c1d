package spec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/diag"
)

// Every place of a project that names a file or folder, with every way to name one
// outside of its repository. PATH is such a way to a file, DIR one to a folder.
var places = map[string]map[string]string{
	"dockerfile":         {"strata.yaml": "image: a\nlayers: {a: {dockerfile: 'PATH'}}\n"},
	"dockerfile of all":  {"strata.yaml": "image: a\ndockerfile: 'PATH'\nlayers: {a: {}}\n"},
	"selected":           {"strata.yaml": "image: a\nlayers: {a: {dockerfile: {'*': 'PATH'}}}\n"},
	"for":                {"strata.yaml": "image: a\nlayers: {a: {for: {'*': {dockerfile: 'PATH'}}}}\n"},
	"auto":               {"strata.yaml": "image: a\ndockerfile: 'PATH'\nlayers: auto\n"},
	"stage":              {"strata.yaml": "image: a\nlayers: {a: {dockerfile: 'PATH', stage: x}}\n"},
	"context":            {"strata.yaml": "image: a\nlayers: {a: {context: 'DIR'}}\n"},
	"context of all":     {"strata.yaml": "image: a\ncontext: 'DIR'\nlayers: {a: {}}\n"},
	"context for":        {"strata.yaml": "image: a\nlayers: {a: {for: {'*': {context: 'DIR'}}}}\n"},
	"named context":      {"strata.yaml": "image: a\nlayers: {a: {contexts: {x: 'DIR'}}}\n"},
	"named context for":  {"strata.yaml": "image: a\nlayers: {a: {for: {'*': {contexts: {x: 'DIR'}}}}}\n"},
	"secret":             {"strata.yaml": "image: a\nlayers: {a: {secrets: [{id: x, file: 'PATH'}]}}\n"},
	"ssh":                {"strata.yaml": "image: a\nlayers: {a: {ssh: ['x=PATH']}}\n"},
	"ssh, several":       {"strata.yaml": "image: a\nlayers: {a: {ssh: ['x=Dockerfile,PATH']}}\n"},
	"cache":              {"strata.yaml": "image: a\ncache: {type: local, attrs: {dest: 'DIR'}}\nlayers: {a: {}}\n"},
	"cache read":         {"strata.yaml": "image: a\ncache: {type: local, attrs: {src: 'DIR'}}\nlayers: {a: {}}\n"},
	"bake context":       {"docker-bake.hcl": "target \"default\" { context = \"DIR\" }\n"},
	"bake cwd":           {"docker-bake.hcl": "target \"default\" { context = \"cwd://DIR\" }\n"},
	"bake dockerfile":    {"docker-bake.hcl": "target \"default\" { dockerfile = \"PATH\" }\n"},
	"bake contexts":      {"docker-bake.hcl": "target \"default\" { contexts = {x = \"DIR\"} }\n"},
	"bake contexts, cwd": {"docker-bake.hcl": "target \"default\" { contexts = {x = \"cwd://DIR\"} }\n"},
	"bake secret":        {"docker-bake.hcl": "target \"default\" { secret = [\"id=x,src=PATH\"] }\n"},
	"bake secret source": {"docker-bake.hcl": "target \"default\" { secret = [{id = \"x\", source = \"PATH\"}] }\n"},
	"bake ssh":           {"docker-bake.hcl": "target \"default\" { ssh = [\"x=PATH\"] }\n"},
	"bake ssh paths":     {"docker-bake.hcl": "target \"default\" { ssh = [{id = \"x\", paths = \"PATH\"}] }\n"},
	"bake inherited":     {"docker-bake.hcl": "target \"b\" { context = \"DIR\" }\ntarget \"default\" { inherits = [\"b\"] }\n"},
	"bake variable":      {"docker-bake.hcl": "variable \"D\" { default = \"DIR\" }\ntarget \"default\" { context = \"${D}\" }\n"},
	"bake JSON":          {"docker-bake.json": `{"target": {"default": {"context": "DIR"}}}`},
	"bake override":      {"docker-bake.hcl": "target \"default\" {}\n", "docker-bake.override.hcl": "target \"default\" { context = \"DIR\" }\n"},
}

func TestNothingOutsideOfTheRepository(t *testing.T) {
	ways := map[string][2]string{ // to a file, to a folder
		"absolute":       {"TOP/outside/key", "TOP/outside"},
		"up":             {"../outside/key", "../outside"},
		"up and up":      {"sub/../../outside/key", "sub/../../outside"},
		"all the way up": {"../../../../../../../../../../etc/passwd", "../../../../../../../../../../etc"},
		"root":           {"/etc/passwd", "/"},
		"link":           {"link-file", "link-dir"},
		"through a link": {"link-dir/key", "link-dir/sub"},
		"two links":      {"again/key", "again"},
		"up from a link": {"link-sub/up/key", "link-sub/up"},
		"nothing there":  {"../outside/nothing", "../outside/nothing"},
		"link to none":   {"link-none", "link-none"},
		"a neighbour":    {"../repo-2/key", "../repo-2"},
		"proc":           {"/proc/self/environ", "/proc/self/cwd"},
	}
	top, dir := outsideRepository(t)
	for place, files := range places {
		for way, paths := range ways {
			putProject(t, dir, files, paths, top)
			_, err := Load(dir, "", LoadOptions{})
			switch {
			case err == nil:
				t.Errorf("%s, %s: it is taken", place, way)
			case strings.Contains(err.Error(), "SECRET"):
				t.Errorf("%s, %s: the error shows what is there: %v", place, way, err)
			case !strings.Contains(err.Error(), "is outside of the project's repository") || !strings.Contains(hints(err), "--allow fs"):
				t.Errorf("%s, %s: %v", place, way, err)
			}
		}
	}
}

// What is in the repository is taken, links and ways up among it, and what is
// outside where it is allowed.
func TestWhatMayBeNamed(t *testing.T) {
	ways := map[string]struct {
		paths [2]string
		allow []string
	}{
		"in":       {[2]string{"Dockerfile", "sub"}, nil},
		"up":       {[2]string{"../repo/Dockerfile", "../repo/sub"}, nil},
		"link":     {[2]string{"in-file", "in-dir"}, nil},
		"absolute": {[2]string{"TOP/repo/Dockerfile", "TOP/repo/sub"}, nil},
		"allowed":  {[2]string{"../outside/Dockerfile", "link-dir"}, []string{"fs=TOP/outside"}},
	}
	top, dir := outsideRepository(t)
	for place, files := range places {
		for way, w := range ways {
			putProject(t, dir, files, w.paths, top)
			var allow []string
			for _, a := range w.allow {
				allow = append(allow, strings.ReplaceAll(a, "TOP", top))
			}
			if _, err := Load(dir, "", LoadOptions{Allow: allow}); err != nil {
				t.Errorf("%s, %s: %v", place, way, err)
			}
		}
	}
}

// The files that are looked for may be links out themselves.
func TestProjectFilesThatLeadOut(t *testing.T) {
	for _, name := range []string{"strata.yaml", "strata.yml", "docker-bake.hcl", "docker-bake.json", "Dockerfile", "docker-bake.override.hcl"} {
		for _, target := range []string{"../outside/key", "../outside/nothing", "/dev/zero", "../outside"} {
			_, dir := outsideRepository(t)
			if err := os.Remove(filepath.Join(dir, "Dockerfile")); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "override") {
				if err := os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte("target \"default\" {}\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"", name} {
				if strings.Contains(name, "override") {
					file = ""
				}
				_, err := Load(dir, file, LoadOptions{})
				if err == nil || !strings.Contains(err.Error(), "is outside of the project's repository") || !strings.Contains(err.Error(), name) ||
					strings.Contains(err.Error(), "SECRET") || !strings.Contains(hints(err), "--allow fs.read=") {
					t.Errorf("%s to %s, -f %q: %v", name, target, file, err)
				}
			}
		}
	}
}

// Large files, and those that are no files, end with an error that names them.
func TestProjectFilesAreBounded(t *testing.T) {
	large := strings.Repeat("# "+strings.Repeat("x", 1022)+"\n", 5<<10)
	for _, name := range []string{"strata.yaml", "docker-bake.hcl", "docker-bake.json"} {
		_, dir := outsideRepository(t)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(large), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, "", LoadOptions{}); err == nil || !strings.Contains(err.Error(), "larger than the 4096 KiB") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// outsideRepository makes a repository, and things beside it.
func outsideRepository(t *testing.T) (top, repo string) {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	repo = filepath.Join(top, "repo")
	for _, dir := range []string{"repo/.git", "repo/sub", "outside/sub/in", "repo-2"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"repo/.git/HEAD": "ref: refs/heads/main\n", "repo/Dockerfile": "FROM scratch AS x\n", "outside/Dockerfile": "FROM scratch AS x\n",
		"outside/key": "SECRET=1 x\n", "outside/sub/key": "SECRET=1 x\n", "repo-2/key": "SECRET=1 x\n",
	} {
		if err := os.WriteFile(filepath.Join(top, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"link-file": "../outside/key", "link-dir": "../outside", "again": "link-dir", "link-sub": "../outside/sub", "link-none": "../outside/none",
		"in-file": "Dockerfile", "in-dir": "sub",
	} {
		if err := os.Symlink(target, filepath.Join(repo, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..", filepath.Join(top, "outside/sub/up")); err != nil {
		t.Fatal(err)
	}
	// Where contexts name their own Dockerfile beside them, as in bake files.
	for _, dir := range []string{"repo/sub", "outside/sub"} {
		if err := os.WriteFile(filepath.Join(top, dir, "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return top, repo
}

// putProject writes a project's files in place of another's.
func putProject(t *testing.T, dir string, files map[string]string, paths [2]string, top string) {
	t.Helper()
	for _, c := range candidates[:4] {
		if err := os.Remove(filepath.Join(dir, c.name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	_ = os.Remove(filepath.Join(dir, "docker-bake.override.hcl"))
	for name, text := range files {
		text = strings.ReplaceAll(strings.NewReplacer("PATH", paths[0], "DIR", paths[1]).Replace(text), "TOP", top)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func hints(err error) string {
	var many *diag.Errors
	if !errors.As(err, &many) {
		return diag.HintOf(err)
	}
	var out []string
	for _, f := range many.Findings {
		out = append(out, f.Hint)
	}
	return strings.Join(out, "\n")
}
