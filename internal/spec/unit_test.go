package spec

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
)

// load gives a project of one strata.yaml and a Dockerfile.
func load(t *testing.T, text string) *Project {
	t.Helper()
	p, err := Load(".", "", LoadOptions{FS: files("strata.yaml", text, "Dockerfile", plainFrom), Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLayersStandInOrder(t *testing.T) {
	p, err := Load(".", "", LoadOptions{FS: ragex})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range p.Layers {
		got = append(got, l.Name)
	}
	if diff := cmp.Diff([]string{"base", "ml", "app"}, got); diff != "" {
		t.Error(diff)
	}
	u, ok := p.Unit("base/cpu/linux/arm64")
	if !ok || u.Dockerfile != "docker/arm64/Dockerfile.base" {
		t.Errorf("got %+v: the more specific selector must win", u)
	}
	want := &Refresh{Every: EveryWeek, Weekday: time.Monday, Day: 1, Hour: 6}
	if diff := cmp.Diff(want, u.Refresh); diff != "" {
		t.Error(diff)
	}
}

func TestMostSpecificSelectorWins(t *testing.T) {
	variants := []string{"cpu", "cuda"}
	order := []string{"*", "linux", "v7", "arm", "linux/arm", "arm/v7", "linux/arm/v7", "cpu", "cpu/linux", "cpu/arm", "cpu/linux/arm", "cpu/arm/v7", "cpu/linux/arm/v7"}
	last := -1
	for _, text := range order {
		s, err := parseSelector(text, variants)
		if text == "v7" {
			if err == nil {
				t.Error("v7 alone was taken for a selector")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !s.matches("cpu", "linux/arm/v7") {
			t.Errorf("%q does not match", text)
		}
		if s.weight() <= last {
			t.Errorf("%q is not more specific than what stands before it", text)
		}
		last = s.weight()
	}
}

func TestOverridesAddUp(t *testing.T) {
	p := load(t, `
image: app
platforms: [linux/amd64, linux/arm64]
variants: {cpu: {args: {A: variant, B: variant}}, cuda: {}}
args: {A: project, B: project, C: project, D: project}
layers:
  app:
    args: {B: layer, C: layer}
    for:
      cpu/arm64: {args: {C: most}, network: none}
      cpu: {args: {C: some, E: "{layer}-{arch}"}, network: host}
`)
	got := map[string]map[string]string{}
	for _, u := range p.Units() {
		got[u.ID()+" "+u.Network] = u.Args
	}
	want := map[string]map[string]string{
		"app/cpu/linux/amd64 host": {"A": "variant", "B": "layer", "C": "some", "D": "project", "E": "app-amd64"},
		"app/cpu/linux/arm64 none": {"A": "variant", "B": "layer", "C": "most", "D": "project", "E": "app-arm64"},
		"app/cuda/linux/amd64 ":    {"A": "project", "B": "layer", "C": "layer", "D": "project"},
		"app/cuda/linux/arm64 ":    {"A": "project", "B": "layer", "C": "layer", "D": "project"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
}

func TestVersionReachesArgs(t *testing.T) {
	p := load(t, "image: app\nlayers: {app: {args: {V: \"{version}\"}}}\n")
	q := p.With(Release{Version: "1.4"})
	if got := q.Units()[0].Args["V"]; got != "1.4" {
		t.Errorf("got %q", got)
	}
	if got := p.Units()[0].Args["V"]; got != "" {
		t.Errorf("the project changed: %q", got)
	}
	fixed := load(t, "image: app\nversion: 2.0\nlayers: {app: {args: {V: \"{version}\"}}}\n").With(Release{Version: "1.4"})
	if got := fixed.Units()[0].Args["V"]; got != "2.0" {
		t.Errorf("the file's version must win, got %q", got)
	}
}

func TestSelect(t *testing.T) {
	p, err := Load(".", "", LoadOptions{FS: ragex})
	if err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"":                               "base/cpu/linux/amd64 base/cpu/linux/arm64 base/cuda/linux/amd64 ml/cpu/linux/amd64 ml/cpu/linux/arm64 ml/cuda/linux/amd64 app/cpu/linux/amd64 app/cpu/linux/arm64 app/cuda/linux/amd64",
		"app":                            "app/cpu/linux/amd64 app/cpu/linux/arm64 app/cuda/linux/amd64",
		"app/cpu/amd64":                  "app/cpu/linux/amd64",
		"ml/arm64 base/cuda/linux/amd64": "base/cuda/linux/amd64 ml/cpu/linux/arm64",
	} {
		got, err := p.Select(strings.Fields(words)...)
		var ids []string
		for _, u := range got {
			ids = append(ids, u.ID())
		}
		if diff := cmp.Diff(strings.Fields(want), ids); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", words, err, diff)
		}
	}
	for word, want := range map[string]string{
		"ap":             `unit "ap": no layer is named "ap"`,
		"app/cdua":       `unit "app/cdua": "cdua" is neither a variant nor a platform`,
		"app/cuda/arm64": `unit "app/cuda/arm64": the project has no such unit`,
	} {
		_, err := p.Select(word)
		if err == nil || err.Error() != want || diag.HintOf(err) == "" {
			t.Errorf("%q: got %v (hint %q)", word, err, diag.HintOf(err))
		}
	}
}

func TestTagTemplates(t *testing.T) {
	vars := map[string]string{"variant": "", "layer": "app", "arch": "arm64", "version": "1.0+dirty", "branch": "feature/x", "sha": ""}
	for template, want := range map[string]string{
		"{variant}-{layer}-{arch}": "app-arm64",
		"latest-{variant}":         "latest",
		"a-{variant}-b":            "a-b",
		"a_{variant}.b":            "a_b",
		"{variant}{layer}":         "app",
		"v{version}":               "v1.0-dirty",
		"{branch}":                 "feature-x",
		"{sha}-{layer}":            "", // not known: left out
		"{variant}":                "",
	} {
		got, ok := expandTag(template, vars)
		if got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", template, got, ok, want)
		}
	}
	long, _ := expandTag("{branch}", map[string]string{"branch": strings.Repeat("x", 200)})
	if len(long) != maxTag {
		t.Errorf("a tag of %d characters", len(long))
	}
}

func TestTagsWithoutVariants(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want map[string][]string
	}{
		"one platform": {"image: app\nlayers: {base: {}, app: {parent: base}}\n", map[string][]string{
			"base/linux/amd64": {"base-1.0", "base-latest"}, "app/linux/amd64": {"latest", "1.0"},
		}},
		"two platforms": {"image: app\nplatforms: [linux/amd64, linux/arm/v7]\nlayers: {base: {}, app: {parent: base}}\n", map[string][]string{
			"base/linux/amd64": {"base-amd64-1.0", "base-amd64-latest"}, "base/linux/arm/v7": {"base-armv7-1.0", "base-armv7-latest"},
			"app/linux/amd64": {"latest-amd64", "1.0-amd64"}, "app/linux/arm/v7": {"latest-armv7", "1.0-armv7"},
			"index of app ": {"latest", "1.0"},
		}},
		"two leaves": {"image: app\nlayers: {one: {}, two: {}}\n", map[string][]string{
			"one/linux/amd64": {"latest-one", "1.0-one"}, "two/linux/amd64": {"latest-two", "1.0-two"},
		}},
		"own images": {"image: app\nlayers: {one: {image: a}, two: {image: b}}\n", map[string][]string{
			"one/linux/amd64": {"latest", "1.0"}, "two/linux/amd64": {"latest", "1.0"},
		}},
	} {
		if diff := cmp.Diff(c.want, allTags(load(t, c.text), Release{Version: "1.0"})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestUnknownVersionLeavesTagsOut(t *testing.T) {
	p := load(t, "image: app\nlayers: {app: {tags: [latest, \"{version}\", \"{branch}\", \"{sha}\"]}}\n")
	if diff := cmp.Diff([]string{"latest", "main"}, p.TagsFor(p.Units()[0], Release{Branch: "main"})); diff != "" {
		t.Error(diff)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"36h": 36 * time.Hour, "2d": 48 * time.Hour, "1h30m": 90 * time.Minute, "1w1d": 8 * 24 * time.Hour, "90s": 90 * time.Second,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if again, err := parseDuration(formatDuration(got)); err != nil || again != got {
			t.Errorf("%q reads back as %v", formatDuration(got), again)
		}
	}
	for _, text := range []string{"99999999999d", "36501d", "5215w1d"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q: %v", text, d)
		}
	}
}

func TestFromDockerfile(t *testing.T) {
	fsys := files("sub/Dockerfile.x", plainFrom)
	p, err := FromDockerfile("/home/me/My_App", "sub/Dockerfile.x", "run", LoadOptions{FS: fsys, Platform: "linux/arm64"})
	if err != nil {
		t.Fatal(err)
	}
	u := p.Units()[0]
	got := []string{u.ID(), u.Dockerfile, u.Context, u.Target, u.Image}
	if diff := cmp.Diff([]string{"my-app/linux/arm64", "sub/Dockerfile.x", ".", "run", "my-app"}, got); diff != "" {
		t.Error(diff)
	}
	_, err = FromDockerfile("x", "Dockerfile", "", LoadOptions{FS: fsys})
	var errs *diag.Errors
	if !errors.As(err, &errs) || !strings.Contains(err.Error(), `no Dockerfile at "Dockerfile"`) {
		t.Errorf("got %v", err)
	}
}

func TestLoadFindsTheProject(t *testing.T) {
	all := []string{"strata.yaml", "strata.yml", "docker-bake.hcl", "docker-bake.json", "Dockerfile"}
	content := map[string]string{
		"strata.yaml": "image: a\nlayers: {app: {}}\n", "strata.yml": "image: a\nlayers: {app: {}}\n",
		"docker-bake.hcl": `target "default" {}`, "docker-bake.json": `{"target": {"default": {}}}`, "Dockerfile": plainFrom,
	}
	for i, want := range all {
		fsys := files("Dockerfile", plainFrom)
		for _, name := range all[i:] {
			fsys[name] = &fstest.MapFile{Data: []byte(content[name])}
		}
		p, err := Load("dir", "", LoadOptions{FS: fsys})
		if err != nil || p.File != want {
			t.Errorf("got %v, %v; want %q", p, err, want)
		}
		if p, err := Load("dir", want, LoadOptions{FS: fsys}); err != nil || p.File != want {
			t.Errorf("%q by name: %v", want, err)
		}
	}
	for _, file := range []string{"", "nowhere.yaml"} {
		if _, err := Load("dir", file, LoadOptions{FS: fstest.MapFS{}}); diag.HintOf(err) == "" {
			t.Errorf("%q: %v without a hint", file, err)
		}
	}
}

func TestLoadFromDisk(t *testing.T) {
	p, err := Load("../../examples/ragex", "", LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Units()) != 9 {
		t.Errorf("%d units", len(p.Units()))
	}
}

func TestDataStandsForTheFile(t *testing.T) {
	p, err := Load(".", "strata.yaml", LoadOptions{
		FS: files("Dockerfile", plainFrom, "strata.yaml", "broken: ["), Data: []byte("image: other\nlayers: {app: {}}\n"),
	})
	if err != nil || p.Image != "other" {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestBakeOverrides(t *testing.T) {
	const file = `
variable "V" { default = "own" }
group "default" { targets = ["app", "tool"] }
target "app" { args = { V = V } }
target "tool" { args = { V = "tool" } }
target "many" {
  name = "many-${i}"
  matrix = { i = ["a", "b"] }
  args = { V = i }
}
`
	for _, c := range []struct{ name, override, want string }{
		{"none", "", "app=own tool=tool"},
		{"a target", `target "app" { args = { V = "other" } }`, "app=other tool=tool"},
		{"both targets", `target "app" { args = { V = "x" } }
target "tool" { args = { V = "y" } }`, "app=x tool=y"},
		{"another value", `target "app" { labels = { L = "x" } }`, "app=own tool=tool"},
		{"a variable", `variable "V" { default = "other" }`, "app=other tool=tool"},
		{"the group", `group "default" { targets = ["tool"] }`, "tool=tool"},
		{"a matrix", `group "default" { targets = ["many"] }
target "many" {
  name = "many-${i}"
  matrix = { i = ["a", "b"] }
  labels = { L = "x" }
}`, "many-a=a many-b=b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			given := []string{"Dockerfile", plainFrom, "docker-bake.hcl", file}
			if c.override != "" {
				given = append(given, "docker-bake.override.hcl", c.override)
			}
			p, err := Load(".", "", LoadOptions{FS: files(given...), Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, u := range p.Units() {
				got = append(got, u.Layer+"="+u.Args["V"])
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBakeVariablesComeFromTheEnvironment(t *testing.T) {
	fsys := files("Dockerfile", plainFrom, "docker-bake.hcl", `
variable "VERSION" { default = "dev" }
target "default" {
  tags = ["app:${VERSION}"]
  args = { P = BAKE_LOCAL_PLATFORM }
}
`)
	p, err := Load(".", "", LoadOptions{FS: fsys, Env: map[string]string{"VERSION": "1.2"}, Platform: "linux/arm64"})
	if err != nil {
		t.Fatal(err)
	}
	u := p.Units()[0]
	if tags := p.TagsFor(u, Release{Version: "other"}); !cmp.Equal(tags, []string{"1.2"}) || u.Args["P"] != "linux/arm64" {
		t.Errorf("tags %q, args %q", tags, u.Args)
	}
}
