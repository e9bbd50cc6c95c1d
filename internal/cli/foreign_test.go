//go:build linux

package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestPrinting holds the commands to view's functions for printing, which escape
// what others wrote: fmt's may only fill buffers.
func TestPrinting(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, _ := sel.X.(*ast.Ident)
			if pkg == nil || pkg.Name != "fmt" && pkg.Name != "view" || !strings.HasPrefix(sel.Sel.Name, "Fprint") && !strings.HasPrefix(sel.Sel.Name, "Print") {
				return true
			}
			calls++
			if _, buffer := call.Args[0].(*ast.UnaryExpr); pkg.Name == "fmt" && !buffer {
				t.Errorf("%s: fmt.%s: view.%s escapes what others wrote", set.Position(n.Pos()), sel.Sel.Name, sel.Sel.Name)
			}
			return true
		})
	}
	if calls < 100 {
		t.Errorf("only %d calls were found", calls)
	}
}
