package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// A bake file is a program. None of these may take the machine's memory, or end the
// process; the error comes from a bound.
func TestBakeFilesAreBounded(t *testing.T) {
	const target = "target \"default\" {}\n"
	nested := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	value := func(v string) string { return "variable \"a\" {\n default = " + v + "\n}\n" + target }
	chain := func(format string, n int) string {
		var b strings.Builder
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, format, i, i-1)
		}
		return b.String()
	}
	const deep, operators = "more than 200 brackets, templates or conditions in each other", "more than 20000 operators"
	for name, c := range map[string]struct{ file, text, want string }{
		"brackets":    {"hcl", value(nested("[", "", "]", 500_000)), deep},
		"parentheses": {"hcl", value(nested("(", "1", ")", 500_000)), deep},
		"templates":   {"hcl", value(nested(`"${`, "1", `}"`, 500_000)), deep},
		"not":         {"hcl", value(nested("!", "true", "", 500_000)), deep},
		"conditions":  {"hcl", value(nested("true?", "1", ":1", 300_000)), deep},
		"blocks":      {"hcl", nested("a {\n", "", "}\n", 200_000) + target, deep},
		"sum":         {"hcl", value("1" + strings.Repeat("+1", 500_000)), operators},
		"indexes":     {"hcl", value("[0]" + strings.Repeat("[0]", 500_000)), operators},
		"JSON":        {"json", `{"a":` + nested("[", "", "]", 500_000) + "}", "nested too deep"},
		"JSON, 5000":  {"json", `{"a":` + nested("[", "", "]", 5000) + "}", deep},
		"bad JSON":    {"json", strings.Repeat(`{"a":[`, 3000), deep},
		"in JSON":     {"json", `{"target": {"default": {"args": {"a": "${` + nested("(", "1", ")", 500_000) + `}"}}}}`, deep},
		"in a name":   {"json", `{"target": {"default": {"args": {"${` + nested("(", "1", ")", 500_000) + `}": "a"}}}}`, deep},
		"targets":     {"hcl", chain("target \"t%d\" { inherits = [\"t%d\"] }\n", 5000), "it has 5000 blocks, more than 2000"},
		"matrix":      {"hcl", "target \"default\" {\n matrix = {a = range(1000), b = range(1000), c = range(1000)}\n name = \"t${a}-${b}-${c}\"\n}\n", "the matrix makes more than 2000 targets"},
		"inherited twice": {"hcl", "target \"t0\" {\n secret = [\"id=a,env=B\"]\n}\n" + chain("target \"t%d\" {\n inherits = [\"t%d\", \"t%[2]d\"]\n}\n", 60) +
			"target \"default\" {\n inherits = [\"t60\"]\n}\n", ""},
		"groups twice": {"hcl", "target \"t\" {}\ngroup \"g0\" {\n targets = [\"t\"]\n}\n" + chain("group \"g%d\" {\n targets = [\"g%d\", \"g%[2]d\"]\n}\n", 60) +
			"group \"default\" {\n targets = [\"g60\"]\n}\n", ""},
		"what is usual": {"hcl", "variable \"V\" {\n default = [1, 2]\n}\ntarget \"default\" {\n args = {a = join(\",\", [for v in V: v > 1 ? \"${v}\" : upper(\"x\")])}\n}\n", ""},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"docker-bake." + c.file: c.text, "Dockerfile": "FROM scratch\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		p, err := Load(dir, "", LoadOptions{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %.300v", name, err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		if name == "inherited twice" && err == nil && len(p.Units()[0].Secrets) != 1 {
			t.Errorf("%s: %v", name, p.Units()[0].Secrets)
		}
	}
}

// Variables that double with each line. What was begun can't be stopped, so it
// has an end of its own here.
func TestBakeMemory(t *testing.T) {
	defer func(before uint64) { maxBakeMemory = before }(maxBakeMemory)
	maxBakeMemory = 32 << 20
	text := "variable \"v0\" {\n default = \"xxxxxxxxxx\"\n}\n"
	for i := range 24 {
		text += fmt.Sprintf("variable \"v%d\" {\n default = \"${v%d}${v%d}\"\n}\n", i+1, i, i)
	}
	text += "target \"default\" {\n args = {a = v24}\n}\n"
	files := fstest.MapFS{"docker-bake.hcl": {Data: []byte(text)}, "Dockerfile": {Data: []byte("FROM scratch\n")}}
	const want = "evaluating it takes more than 32 MB of memory"
	if _, err := Load(".", "", LoadOptions{FS: files}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%.300v", err)
	}
}

func TestEvaluationHasAnEnd(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	if _, err := within(func() int { <-stop; return 1 }, 1<<40, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "longer than 50ms") {
		t.Error(err)
	}
	if got, err := within(func() int { return 1 }, 1<<40, time.Minute); got != 1 || err != nil {
		t.Error(got, err)
	}
}

// YAML's bombs: aliases of aliases, circles, and depth.
func TestProjectFilesDoNotExplode(t *testing.T) {
	var lists, maps strings.Builder
	lists.WriteString("x0: &x0 [x, x, x, x, x, x, x, x, x, x]\n")
	maps.WriteString("x0: &x0 {a: b}\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&lists, "x%d: &x%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i-1), 10), ", "))
		fmt.Fprintf(&maps, "x%d: &x%d {a: *x%d, b: *x%d}\n", i, i, i-1, i-1)
	}
	for name, text := range map[string]string{
		"lists": lists.String() + "image: x\nplatforms: *x29\nlayers: {a: {only: *x29, tags: *x29, secrets: *x29}}\n",
		"maps":  maps.String() + "image: x\nargs: *x29\nlayers: *x29\nvariants: *x29\ncache: *x29\n",
		"for":   "image: x\nlayers: {a: {for: &f {\"*\": *f}}}\n",
		"layer": "image: x\nlayers: &l {a: {contexts: *l, for: *l, args: *l}}\n",
		"merge": "x: &x {<<: *x}\nimage: x\nlayers: {a: {}}\n",
		"deep":  "image: " + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + "\n",
		"block": strings.Repeat(" ", 1) + strings.Repeat("- ", 1_000_000) + "\n",
		"keys":  "image: x\nlayers: {a: {}}\n" + strings.Repeat("a: 1\n", 300_000),
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"strata.yaml": text, "Dockerfile": "FROM scratch\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if _, err := Load(dir, "", LoadOptions{}); err == nil {
			t.Errorf("%s: it is taken", name)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}
