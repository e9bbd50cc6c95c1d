package buildkit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// withoutStages takes the stages out of a Dockerfile that named contexts stand
// for, so that BuildKit sees the context's image as what it is: a base, whose
// blobs are not rewritten to SOURCE_DATE_EPOCH and so need not be pulled. (Of
// a stage that is merely overridden, BuildKit forgets where its blobs ended.)
//
// Stages keep their numbers and lines their places. A text that can't be parsed
// is given back as it is, for BuildKit to say why.
func withoutStages(text []byte, contexts map[string]string) []byte {
	if len(contexts) == 0 {
		return text
	}
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return text
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	stage, dropping := 0, false
	for _, node := range ast.AST.Children {
		if strings.EqualFold(node.Value, "from") {
			name := stageName(node)
			dropping = name != "" && contexts[name] != ""
			if dropping {
				blank(lines, node, fmt.Sprintf("FROM scratch AS strata-replaced-%d", stage))
			}
			stage++
		} else if dropping {
			blank(lines, node, "")
		}
	}
	return bytes.Join(lines, nil)
}

// blank replaces the lines of node by one line, and empty ones after it.
func blank(lines [][]byte, node *parser.Node, with string) {
	for n := node.StartLine; n <= node.EndLine && n <= len(lines); n++ {
		lines[n-1] = []byte(with + "\n")
		with = ""
	}
}

// stageName gives the name of the stage that a FROM begins, as BuildKit does:
// in lower case.
func stageName(node *parser.Node) string {
	ins, err := instructions.ParseInstruction(node)
	if err != nil {
		return ""
	}
	s, ok := ins.(*instructions.Stage)
	if !ok {
		return ""
	}
	return s.Name
}
