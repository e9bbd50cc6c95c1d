package spec

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
)

func TestDocsAreGenerated(t *testing.T) {
	for path, got := range map[string][]byte{
		"../../docs/strata.schema.json": Schema(),
		"../../docs/config.md":          Reference(),
	} {
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is out of date, run: go test ./internal/spec -update\n(-file +generated):\n%s", path, diff)
		}
	}
}

// compileSchema gives the generated schema, ready to validate.
func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("strata.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("strata.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// value gives what an editor hands to a schema: plain values, timestamps as
// text. It reports false for what JSON can't hold.
func value(n *yaml.Node) (any, bool) {
	n = deref(n)
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, ok := value(n.Content[i+1])
			if _, twice := out[n.Content[i].Value]; twice || !ok {
				return nil, false
			}
			out[n.Content[i].Value] = v
		}
		return out, true
	case yaml.SequenceNode:
		out := []any{}
		for _, item := range n.Content {
			v, ok := value(item)
			if !ok {
				return nil, false
			}
			out = append(out, v)
		}
		return out, true
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, true
	case "!!bool":
		return n.Value == "true", true
	case "!!int", "!!float":
		return json.Number(strings.TrimPrefix(n.Value, "+")), true
	}
	return n.Value, true
}

// TestSchemaAgreesWithLoader validates every project of testdata by the schema
// and by the shapes alone; both must take or refuse it.
func TestSchemaAgreesWithLoader(t *testing.T) {
	schema := compileSchema(t)
	taken, refused := 0, 0
	for name, a := range projects(t) {
		data, ok := folder(a)["strata.yaml"]
		if !ok {
			continue
		}
		l := &loader{}
		root := l.parse("strata.yaml", data.Data)
		if root == nil {
			continue
		}
		v, ok := value(root)
		if !ok {
			continue
		}
		var list diag.List
		(&checker{file: "strata.yaml", list: &list}).check(root, projectShape, top)
		bySchema, byLoader := schema.Validate(v), list.Err()
		if (bySchema == nil) != (byLoader == nil) {
			t.Errorf("%s: the schema says %v, the loader %v", name, bySchema, byLoader)
		}
		if strings.HasPrefix(name, "good-") && bySchema != nil {
			t.Errorf("%s: %v", name, bySchema)
		}
		if byLoader == nil {
			taken++
		} else {
			refused++
		}
	}
	if taken < 15 || refused < 10 {
		t.Errorf("%d taken and %d refused: too few to compare", taken, refused)
	}
}

// FuzzLoad looks for a file that makes the loader panic, or a project that
// cannot be shown.
func FuzzLoad(f *testing.F) {
	entries, err := os.ReadDir("testdata/projects")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile("testdata/projects/" + e.Name())
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := strings.Cut(string(data), "-- strata.yaml --\n")
		body, _, _ = strings.Cut(body, "-- ")
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, data string) {
		p, err := Load(".", "strata.yaml", LoadOptions{FS: files("strata.yaml", data, "Dockerfile", plainFrom), Platform: "linux/amd64"})
		if err == nil {
			if again := Render(p); len(again) == 0 {
				t.Error("rendered to nothing")
			}
		}
	})
}

// FuzzBake looks for a docker-bake file that makes the loader panic.
func FuzzBake(f *testing.F) {
	for _, seed := range []string{
		`target "default" { matrix = { a = ["x"] }` + "\n" + `name = "t-${a}" }`, `group "default" { targets = ["a"] }`,
		"target {}", `target "a" "b" {}`, `variable "X" { default = 1 }`, `target "a" { secret = [null, {id="x"}] }`,
		"target \"a\" {\n  inherits = [\"a\"]\n  contexts = {a = \"target:a\"}\n}", `target "a" { ssh = "x" }`, `target "a" { args = {A = null, B = 5} }`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		p, err := Load(".", "docker-bake.hcl", LoadOptions{FS: files("docker-bake.hcl", data, "Dockerfile", plainFrom), Platform: "linux/amd64"})
		if err == nil && len(Render(p)) == 0 {
			t.Error("rendered to nothing")
		}
	})
}
