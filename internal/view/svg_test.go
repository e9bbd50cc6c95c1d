package view

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// projectGraph is three layers in two variants and two platforms, with edges
// that skip a rank.
func projectGraph() ([]Node, [][2]string) {
	nodes := []Node{{ID: "debian", Label: "debian:bookworm-slim", Sub: "sha256:4f53cda18c2b", Class: "external"}}
	var edges [][2]string
	class := map[string]string{"base": "reuse", "ml": "build", "app": "append"}
	for _, u := range []string{"cpu/linux/amd64", "cpu/linux/arm64", "cuda/linux/amd64"} {
		prev := "debian"
		for _, layer := range []string{"base", "ml", "app"} {
			id := layer + "/" + u
			nodes = append(nodes, Node{ID: id, Sub: class[layer] + ": requirements/base-ml.txt changed", Class: class[layer]})
			edges = append(edges, [2]string{prev, id})
			prev = id
		}
		edges = append(edges, [2]string{"debian", "app/" + u}, [2]string{"base/" + u, "base/" + u}, [2]string{"gone", "app/" + u})
	}
	nodes = append(nodes, Node{ID: "docs", Sub: "alone & <odd>", Class: "?"})
	return nodes, edges
}

func TestGraphSVG(t *testing.T) {
	nodes, edges := projectGraph()
	got := GraphSVG(nodes, edges)
	golden(t, "graph.svg", string(got))
	wellFormed(t, got)
}

func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
}

// TestGraphLayout draws random graphs, cycles among them: boxes don't touch,
// stand within the drawing, and right of what they depend on.
func TestGraphLayout(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 7))
		var nodes []Node
		var edges [][2]string
		n := r.IntN(20)
		for i := range n {
			nodes = append(nodes, Node{ID: fmt.Sprint("n", i), Label: strings.Repeat("x", r.IntN(60)), Sub: strings.Repeat("日", r.IntN(9))})
			for range r.IntN(3) {
				edges = append(edges, [2]string{fmt.Sprint("n", r.IntN(n)), fmt.Sprint("n", i)})
			}
		}
		cyclic := seed%2 == 0
		if !cyclic {
			for i, e := range edges {
				var a, b int
				if _, err := fmt.Sscanf(e[0]+" "+e[1], "n%d n%d", &a, &b); err != nil {
					t.Fatal(err)
				}
				edges[i] = [2]string{fmt.Sprint("n", min(a, b)), fmt.Sprint("n", max(a, b))}
			}
		}
		wellFormed(t, GraphSVG(nodes, edges))
		l := newLayout(nodes, edges)
		l.rank()
		l.split()
		l.sort()
		l.place()
		checkLayout(t, seed, l)
	}
}

func checkLayout(t *testing.T, seed uint64, l *layout) {
	t.Helper()
	for _, e := range l.edges {
		if l.vertices[e[0]].rank >= l.vertices[e[1]].rank {
			t.Errorf("seed %d: edge %v goes from rank %d to %d", seed, e, l.vertices[e[0]].rank, l.vertices[e[1]].rank)
		}
	}
	for i, a := range l.vertices {
		if a.y-a.h/2 < margin-0.01 || a.x < margin || a.x+a.w > l.size[0]-margin+0.01 || a.y+a.h/2 > l.size[1]-margin+0.01 {
			t.Errorf("seed %d: vertex %d at %v is outside of %v", seed, i, a, l.size)
		}
		for j, b := range l.vertices[:i] {
			if a.rank == b.rank && max(a.y-b.y, b.y-a.y) < (a.h+b.h)/2 {
				t.Errorf("seed %d: vertices %d and %d overlap", seed, i, j)
			}
		}
	}
}
