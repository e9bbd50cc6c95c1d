package dockerfile

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is what a golden file may set beside the Dockerfile.
type golden struct {
	Options
	Base        map[string]Config // by From.Name
	TrunkConfig *Config
	CopyFrom    []string // names in --from
}

func (g golden) options() Options {
	o := g.Options
	if g.Base != nil {
		o.Base = func(f From) (Config, bool) {
			c, ok := g.Base[f.Name()]
			return c, ok
		}
	}
	o.TrunkConfig = g.TrunkConfig
	if g.CopyFrom != nil {
		o.CopyFrom = func(c CopySource) bool {
			for _, name := range g.CopyFrom {
				if name == c.Name {
					return true
				}
			}
			return false
		}
	}
	return o
}

// TestGolden analyses every Dockerfile of testdata and compares all that is
// said about it, errors too.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(t, ar)
			want := section(ar, "want")
			if *update {
				writeWant(t, file, ar, got)
				return
			}
			if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func section(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func writeWant(t *testing.T, file string, ar *txtar.Archive, got string) {
	t.Helper()
	for i, f := range ar.Files {
		if f.Name == "want" {
			ar.Files = append(ar.Files[:i], ar.Files[i+1:]...)
			break
		}
	}
	ar.Files = append(ar.Files, txtar.File{Name: "want", Data: []byte(got)})
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

func describe(t *testing.T, ar *txtar.Archive) string {
	t.Helper()
	var g golden
	if o := section(ar, "options"); o != "" {
		dec := json.NewDecoder(strings.NewReader(o))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&g); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Parse("Dockerfile", []byte(section(ar, "Dockerfile")))
	if err != nil {
		return err.Error() + "\n"
	}
	b, err := f.Analyze(g.options())
	if err != nil {
		return err.Error() + "\n"
	}
	return text(b)
}

// text writes a build for golden files. "~" marks what belongs to the tail.
func text(b *Build) string {
	var w bytes.Buffer
	mark := func(tail bool) string {
		if tail {
			return "~"
		}
		return " "
	}
	for _, l := range b.Lines {
		fmt.Fprintf(&w, "line%s %d %d%s: %s\n", mark(l.Tail), l.Line, l.Stage, paren(l.StageName), l.Text)
	}
	for _, f := range b.Froms {
		fmt.Fprintf(&w, "from%s %d %d: %s image=%q context=%q platform=%s\n", mark(f.Tail), f.Line, f.Stage, f.Kind, f.Image, f.Context, f.Platform)
	}
	for _, i := range b.Inputs {
		fmt.Fprintf(&w, "input%s %d %d: %s context=%q %q exclude=%q parents=%t\n", mark(i.Tail), i.Line, i.Stage, i.Kind, i.Context, i.Patterns, i.Excludes, i.Parents)
	}
	for _, r := range b.Remotes {
		fmt.Fprintf(&w, "remote%s %d: %s checksum=%q keyed=%t\n", mark(r.Tail), r.Line, r.URL, r.Checksum, r.Keyed)
	}
	for _, a := range b.Args {
		fmt.Fprintf(&w, "arg%s %s=%q default=%t parent=%t\n", mark(a.Tail), a.Name, a.Value, a.Default, a.Parent)
	}
	if len(b.Secrets) > 0 {
		fmt.Fprintf(&w, "secrets %q\n", b.Secrets)
	}
	if len(b.SSH) > 0 {
		fmt.Fprintf(&w, "ssh %q\n", b.SSH)
	}
	if len(b.CacheMounts) > 0 {
		fmt.Fprintf(&w, "caches %q\n", b.CacheMounts)
	}
	for _, u := range b.Unresolved {
		fmt.Fprintf(&w, "unresolved %d %d: %s of %s input=%t\n", u.Line, u.Stage, u.Name, u.From.Name(), u.Input)
	}
	for _, n := range b.Needs {
		fmt.Fprintf(&w, "need %d rerun=%t: %s\n  why: %s\n  instead: %s\n", n.Line, n.Rerun, n.Instruction, n.Why, n.Instead)
	}
	trunkText(&w, b)
	return w.String()
}

func trunkText(w *bytes.Buffer, b *Build) {
	t := b.Trunk
	fmt.Fprintf(w, "stages %q final=%d\n", b.StageNames, b.FinalStage)
	fmt.Fprintf(w, "trunk lines=%d empty=%t from=%q source lines=%d dropOnBuild=%t\n",
		t.Lines, t.Empty, t.From.Name(), bytes.Count(t.Source, []byte("\n")), t.DropOnBuild)
	for _, c := range t.Tail {
		fmt.Fprintf(w, "tail %d %d: %s", c.Line, c.Stage, strings.TrimPrefix(reflect.TypeOf(c.Command).String(), "*instructions."))
		fmt.Fprintf(w, " history=%q layer=%t cmdSet=%t inputs=%d", c.History, c.Layer, c.CmdSet, len(c.Inputs))
		if c.Copy != nil {
			fmt.Fprintf(w, " copy=%+v", *c.Copy)
		}
		if c.Chmod != nil {
			fmt.Fprintf(w, " chmod=%+v", c.Chmod)
		}
		fmt.Fprintln(w)
	}
}

func paren(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}
