package graph

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/spec"
)

// load makes the graph of a project in a map of files.
func load(t *testing.T, files map[string]string) (*Graph, error) {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, err := spec.Load("project", "", spec.LoadOptions{FS: fsys, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	parsed := map[string]*dockerfile.File{}
	for _, u := range p.Units() {
		text, ok := files[u.Dockerfile]
		if !ok {
			continue
		}
		if parsed[u.Dockerfile], err = dockerfile.Parse(u.Dockerfile, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return New(p, parsed, Options{})
}

// describe writes the units in order, each with its parents and how it gets
// them.
func describe(g *Graph) string {
	var b strings.Builder
	for _, u := range g.Units {
		b.WriteString(u.ID)
		for _, p := range u.Parents {
			fmt.Fprintf(&b, " <- %s by %s%s", p.ID, p.Context, p.Arg)
		}
		if g.Leaf(u) {
			b.WriteString(" (leaf)")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestParents(t *testing.T) {
	const two = "image: x\nlayers:\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app}\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"BASE_IMAGE", map[string]string{
			"strata.yaml": two, "base": "FROM scratch\nCOPY base /\n", "app": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n",
		}, "base/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by BASE_IMAGE (leaf)\n"},
		{"an argument of another name, with a default", map[string]string{
			"strata.yaml": two, "base": "FROM scratch\nCOPY base /\n", "app": "ARG PARENT=debian\nFROM $PARENT\n",
		}, "base/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by PARENT (leaf)\n"},
		{"a named context", map[string]string{
			"strata.yaml": two, "base": "FROM scratch\nCOPY base /\n", "app": "FROM base\n",
		}, "base/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by base (leaf)\n"},
		{"a copy as well counts once", map[string]string{
			"strata.yaml": two, "base": "FROM scratch\nCOPY base /\n", "app": "FROM base\nCOPY --from=base /x /y\n",
		}, "base/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by base (leaf)\n"},
		{"a layer's image as another context", map[string]string{
			"strata.yaml": "image: x\nlayers:\n  tools: {dockerfile: base}\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app, contexts: {kit: layer:tools}}\n",
			"base":        "FROM scratch\nCOPY base /\n", "app": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY --from=kit /x /y\n",
		}, "tools/linux/amd64\nbase/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by BASE_IMAGE <- tools/linux/amd64 by kit (leaf)\n"},
		{"declared in any order", map[string]string{
			"strata.yaml": "image: x\nlayers:\n  app: {parent: base, dockerfile: app}\n  base: {dockerfile: base}\n",
			"base":        "FROM scratch\nCOPY base /\n", "app": "FROM base\n",
		}, "base/linux/amd64\napp/linux/amd64 <- base/linux/amd64 by base (leaf)\n"},
		{"stages, one with two parents", map[string]string{
			"strata.yaml": "image: x\ndockerfile: Dockerfile\nlayers: auto\n",
			"Dockerfile":  "FROM scratch AS deps\nCOPY a /\nFROM scratch AS build\nCOPY b /\nFROM build AS prod\nCOPY --from=deps /a /a\nFROM deps AS dev\nCOPY d /\n",
		}, "deps/linux/amd64\nbuild/linux/amd64\nprod/linux/amd64 <- build/linux/amd64 by build <- deps/linux/amd64 by deps (leaf)\n" +
			"dev/linux/amd64 <- deps/linux/amd64 by deps (leaf)\n"},
		{"each variant and platform on its own", map[string]string{
			"strata.yaml": "image: x\nplatforms: [linux/amd64, linux/arm64]\nvariants: {cpu: {}, cuda: {platforms: [linux/amd64]}}\n" +
				"layers:\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app}\n",
			"base": "FROM scratch\nCOPY base /\n", "app": "FROM base\n",
		}, "base/cpu/linux/amd64\nbase/cpu/linux/arm64\nbase/cuda/linux/amd64\n" +
			"app/cpu/linux/amd64 <- base/cpu/linux/amd64 by base (leaf)\napp/cpu/linux/arm64 <- base/cpu/linux/arm64 by base (leaf)\n" +
			"app/cuda/linux/amd64 <- base/cuda/linux/amd64 by base (leaf)\n"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g, err := load(t, tc.files)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, describe(g)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, u := range g.Units {
				for _, f := range u.Build.Froms {
					if f.Kind == dockerfile.KindFrom && len(u.Parents) > 0 && f.Context != "" && g.Parent(u, f) == nil {
						t.Errorf("%s: the unit behind %q was not found", u.ID, f.Name())
					}
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"a Dockerfile that ignores its parent", map[string]string{
			"strata.yaml": "image: x\nlayers:\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app}\n",
			"base":        "FROM scratch\nCOPY base /\n", "app": "FROM scratch\nCOPY app /\n",
		}, "app:1: layer \"app\" has the parent \"base\", but this Dockerfile does not start from it\n" +
			"  hint: start it with `ARG BASE_IMAGE` and `FROM ${BASE_IMAGE}`, or with `FROM base`"},
		{"a stage that is not there", map[string]string{
			"strata.yaml": "image: x\nlayers:\n  app: {dockerfile: app, target: prod}\n", "app": "FROM scratch AS dev\nCOPY app /\n",
		}, "prod"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g, err := load(t, tc.files)
			if err == nil {
				t.Fatalf("there is a graph:\n%s", describe(g))
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want %q in it", err, tc.want)
			}
		})
	}
}

// Stages of two Dockerfiles that hand each other over make a circle that the
// project's file alone does not show.
func TestCycleIsDrawn(t *testing.T) {
	b := &builder{units: map[string]*Unit{}}
	for id, parent := range map[string]string{"a": "b", "b": "c", "c": "a"} {
		b.units[id] = &Unit{ID: id, Parents: []Parent{{ID: parent}}}
	}
	b.order = []string{"a", "b", "c"}
	_, err := b.sorted()
	if err == nil || err.Error() != "units need each other: a -> b -> c -> a" {
		t.Errorf("got %v", err)
	}
}

func TestClosure(t *testing.T) {
	g, err := load(t, map[string]string{
		"strata.yaml": "image: x\nlayers:\n  base: {dockerfile: base}\n  ml: {parent: base, dockerfile: app}\n  app: {parent: ml, dockerfile: app}\n  other: {dockerfile: base}\n",
		"base":        "FROM scratch\nCOPY base /\n", "app": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		ask  []string
		want []string
	}{
		{nil, nil},
		{[]string{"app/linux/amd64"}, []string{"base/linux/amd64", "ml/linux/amd64", "app/linux/amd64"}},
		{[]string{"other/linux/amd64", "base/linux/amd64"}, []string{"base/linux/amd64", "other/linux/amd64"}},
		{[]string{"nothing"}, nil},
	} {
		var got []string
		for _, u := range g.Closure(tc.ask) {
			got = append(got, u.ID)
		}
		slices.Sort(got)
		slices.Sort(tc.want)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.ask, diff)
		}
	}
}

// What a parent leaves to its children by ONBUILD is an instruction of theirs.
func TestTriggersOfAParent(t *testing.T) {
	const two = "image: x\nlayers:\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app}\n"
	for _, app := range []string{"ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY a /\n", "FROM base\nCOPY a /\n"} {
		g, err := load(t, map[string]string{
			"strata.yaml": two, "app": app,
			"base": "FROM scratch AS below\nONBUILD COPY used-up /\nFROM below\nONBUILD COPY later /\nONBUILD RUN   make\n",
		})
		if err != nil {
			t.Fatal(err)
		}
		b := g.Unit("app/linux/amd64").Build
		var got []string
		for _, l := range b.Lines {
			got = append(got, l.Text)
		}
		if text := strings.Join(got, "|"); !strings.Contains(text, "|COPY later /|RUN make|COPY a /") || strings.Contains(text, "used-up") {
			t.Errorf("the lines are %q", got)
		}
		if b.Trunk.Empty || len(b.Inputs) != 2 {
			t.Errorf("the trunk is empty: %t; it takes %v", b.Trunk.Empty, b.Inputs)
		}
	}
}

// Two layers of one stage that differ are two images; what takes the stage has
// to say which one.
func TestAStageOfSeveralLayers(t *testing.T) {
	const dockerfile = "FROM debian AS deps\nARG MODE\nRUN install $MODE\nFROM debian AS prod\nCOPY --from=deps /x /x\n"
	project := func(second, more string) map[string]string {
		return map[string]string{"Dockerfile": dockerfile, "strata.yaml": "image: x\nlayers:\n" +
			"  deps: {stage: deps, dockerfile: Dockerfile, args: {MODE: a}}\n" +
			"  others: {stage: deps, dockerfile: Dockerfile, args: {MODE: " + second + "}}\n" +
			"  prod: {stage: prod, dockerfile: Dockerfile" + more + "}\n"}
	}
	_, err := load(t, project("b", ""))
	const want = `Dockerfile:5: prod/linux/amd64 takes the stage "deps", which several layers build differently: ` +
		`"deps" (strata.yaml:3:3), "others" (strata.yaml:4:3)`
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "contexts: {deps: layer:deps}") {
		t.Errorf("got %v, want %s", err, want)
	}
	for name, tt := range map[string]struct{ second, more, parent string }{
		"alike":  {"a", "", "deps"},
		"chosen": {"b", ", contexts: {deps: layer:others}", "others"},
	} {
		g, err := load(t, project(tt.second, tt.more))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if u := g.Unit("prod/linux/amd64"); len(u.Parents) != 1 || u.Parents[0].ID != tt.parent+"/linux/amd64" {
			t.Errorf("%s: it stands on %v", name, u.Parents)
		}
	}
}

// Each unit's Dockerfile is read for itself, so a long one that many share counts
// for each.
func TestTooManyInstructions(t *testing.T) {
	var b strings.Builder
	b.WriteString("image: a\nlayers:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "  l%d: {}\n", i)
	}
	text := "FROM scratch\n" + strings.Repeat("LABEL a=b\n", 500)
	p, err := spec.Load(".", "strata.yaml", spec.LoadOptions{FS: fstest.MapFS{"strata.yaml": {Data: []byte(b.String())}, "Dockerfile": {Data: []byte(text)}}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(p, map[string]*dockerfile.File{"Dockerfile": f}, Options{})
	if want := "the Dockerfiles of 500 units have 250500 instructions"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}
