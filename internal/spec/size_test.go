package spec

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// repeat joins what f gives for 0 to n-1.
func repeat(n int, f string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, f, i)
	}
	return b.String()
}

// What a stranger's few lines can ask for has a bound, and the error names it.
func TestTooLarge(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"layers":   {"strata.yaml", "image: a\nlayers:\n" + repeat(maxUnits+1, "  l%d: {}\n"), "the project has 10001 layers; at most 10000 can be planned"},
		"variants": {"strata.yaml", "image: a\nvariants:\n" + repeat(maxVariants+1, "  v%d: {}\n") + "layers: {app: {}}\n", "the project has 1001 variants"},
		"units":    {"strata.yaml", "image: a\nvariants:\n" + repeat(101, "  v%d: {}\n") + "layers:\n" + repeat(100, "  l%d: {}\n"), "the project has 10100 units"},
		"places":   {"strata.yaml", "image: a\nvariants:\n" + repeat(999, "  v%d: {}\n") + "layers:\n" + repeat(999, "  l%d: {only: [v1]}\n"), "999 layers for 999 variants and platforms"},
		"aliases": {"strata.yaml", "image: a\nlayers:\n  l: &l {for: {" + repeat(2000, "s%d: {args: {a: b}}, ") + "}}\n" + repeat(2000, "  l%d: *l\n"),
			"with its aliases the file has more than 1000000 values"},
		"args": {"strata.yaml", "image: a\nargs:\n" + repeat(5000, "  k%d: v\n") + "layers:\n" + repeat(2000, "  l%d: {}\n"),
			"arguments, labels and contexts of all units come to more than 256 MB"},
		"stages": {"strata.yaml", "image: a\nlayers: auto\ndockerfile: Stages\n", "1001 stages; at most 1000 can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := fstest.MapFS{
				c.file: {Data: []byte(c.text)}, "Dockerfile": {Data: []byte("FROM scratch\n")}, "Stages": {Data: []byte(repeat(1001, "FROM scratch AS s%d\n"))},
			}
			_, err := Load(".", c.file, LoadOptions{FS: fsys})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
		})
	}
}

// Targets that inherit one another twice have 2^40 ways to the first.
func TestBakeInheritsInManyWays(t *testing.T) {
	text := "target \"t0\" {\n  args = { a = \"b\" }\n  secret = [\"id=x\"]\n}\n"
	for i := range 40 {
		text += fmt.Sprintf("target \"t%d\" { inherits = [\"t%d\", \"t%d\"] }\n", i+1, i, i)
	}
	text += "group \"default\" { targets = [\"t40\"] }\n"
	p, err := Load(".", "docker-bake.hcl", LoadOptions{FS: fstest.MapFS{"docker-bake.hcl": {Data: []byte(text)}, "Dockerfile": {Data: []byte("FROM scratch\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	if u := p.Units()[0]; u.Args["a"] != "b" || len(u.Secrets) != 1 {
		t.Errorf("got args %v and secrets %v", u.Args, u.Secrets)
	}
}

// A chain of as many layers as there may be is read in a few seconds: nothing
// looks at all layers for each of them.
func TestManyLayers(t *testing.T) {
	text := "image: a\nlayers:\n  l0: {}\n"
	for i := 1; i < maxUnits; i++ {
		text += fmt.Sprintf("  l%d: {parent: l%d}\n", i, i-1)
	}
	start := time.Now()
	p, err := Load(".", "strata.yaml", LoadOptions{FS: fstest.MapFS{"strata.yaml": {Data: []byte(text)}, "Dockerfile": {Data: []byte("FROM scratch\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range p.Units() {
		p.TagsFor(u, Release{Version: "1"})
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestOrder compares the order of layers with the plain way to find it.
func TestOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var layers []Layer
		n := 1 + rng.IntN(8)
		for i := range n {
			l := Layer{Name: fmt.Sprint("l", i)}
			if rng.IntN(3) > 0 {
				l.Parent = fmt.Sprint("l", rng.IntN(n+1))
			}
			if rng.IntN(3) == 0 {
				l.Contexts = map[string]string{"c": fmt.Sprint("layer:l", rng.IntN(n))}
			}
			layers = append(layers, l)
		}
		to, placed := edges(layers), map[string]bool{}
		exists := func(name string) bool {
			return slices.ContainsFunc(layers, func(l Layer) bool { return l.Name == name })
		}
		var want []string
		for {
			at := slices.IndexFunc(layers, func(l Layer) bool {
				return !placed[l.Name] && !slices.ContainsFunc(to[l.Name], func(p string) bool { return exists(p) && !placed[p] })
			})
			if at < 0 {
				break
			}
			placed[layers[at].Name] = true
			want = append(want, layers[at].Name)
		}
		for _, l := range layers {
			if !placed[l.Name] {
				want = append(want, l.Name)
			}
		}
		var got []string
		for _, l := range order(layers) {
			got = append(got, l.Name)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v: got %v, want %v", to, got, want)
		}
	}
}
