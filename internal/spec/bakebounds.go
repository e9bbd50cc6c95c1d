package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/strata-build/strata/internal/diag"
)

// Bounds of a bake file, which is a program: it may call for more memory than a
// machine has in a line. HCL's parser and evaluation go as deep as an expression,
// and Go ends a program whose stack reaches 1 GB.
const (
	maxBakeDepth     = 200    // of brackets, templates and conditions in each other
	maxBakeOperators = 20_000 // of a whole file
	maxBakeTargets   = 2_000  // that a matrix makes, and blocks of a file
	maxBakeTime      = 10 * time.Second
)

// maxBakeMemory is in bytes, of evaluating a file; a test lowers it.
var maxBakeMemory uint64 = 512 << 20

// checkBakeShape reports a file that parser and evaluation would go too deep for.
func (l *loader) checkBakeShape(name string, data []byte) bool {
	if path.Ext(name) != ".json" {
		tokens, _ := hclsyntax.LexConfig(data, name, hcl.InitialPos)
		return l.checkTokens(name, tokens)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		var bad *json.SyntaxError // HCL's own parser says it better, if it comes that far
		if errors.As(err, &bad) && strings.Contains(err.Error(), "max depth") {
			l.list.Errorf(diag.Pos{File: name}, "", "reading bake file: it is nested too deep")
			return false
		}
		return jsonDepth(data) <= maxBakeDepth || l.tooDeep(diag.Pos{File: name})
	}
	return l.checkJSON(name, v, 0)
}

// jsonDepth gives how deep brackets stand in each other, whatever they belong to.
func jsonDepth(data []byte) int {
	depth, most := 0, 0
	for _, c := range data {
		switch c {
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth--
		}
	}
	return most
}

// checkJSON looks at values, and at texts, which are templates of HCL.
func (l *loader) checkJSON(name string, v any, depth int) bool {
	if depth > maxBakeDepth {
		return l.tooDeep(diag.Pos{File: name})
	}
	switch v := v.(type) {
	case string:
		tokens, _ := hclsyntax.LexTemplate([]byte(v), name, hcl.InitialPos)
		return l.checkTokens(name, tokens)
	case []any:
		for _, item := range v {
			if !l.checkJSON(name, item, depth+1) {
				return false
			}
		}
	case map[string]any:
		for key, item := range v {
			if !l.checkJSON(name, key, depth+1) || !l.checkJSON(name, item, depth+1) {
				return false
			}
		}
	}
	return true
}

// tooDeep reports it, and is false.
func (l *loader) tooDeep(pos diag.Pos) bool {
	l.list.Errorf(pos, "", "reading bake file: more than %d brackets, templates or conditions in each other", maxBakeDepth)
	return false
}

// checkBakeBlocks reports a file with too many blocks, which are compared with each
// other.
func (l *loader) checkBakeBlocks(name string, body hcl.Body) bool {
	var s hcl.BodySchema
	for _, kind := range []string{"target", "group", "variable", "function"} {
		s.Blocks = append(s.Blocks, hcl.BlockHeaderSchema{Type: kind, LabelNames: []string{"name"}})
	}
	content, _, _ := body.PartialContent(&s)
	if content != nil && len(content.Blocks) > maxBakeTargets {
		l.list.Errorf(diag.Pos{File: name}, "", "reading bake file: it has %d blocks, more than %d", len(content.Blocks), maxBakeTargets)
		return false
	}
	return true
}

func (l *loader) checkTokens(name string, tokens hclsyntax.Tokens) bool {
	depth, operators, unary, conditions := 0, 0, 0, 0
	var before hclsyntax.TokenType
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
			if t.Type == hclsyntax.TokenOBrack && (before == hclsyntax.TokenCBrack || before == hclsyntax.TokenCParen) {
				operators++ // an index of an index
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenNewline:
			conditions = 0
		case hclsyntax.TokenQuestion:
			conditions++
			operators++
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent, hclsyntax.TokenBang,
			hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan,
			hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			operators++
		}
		if t.Type == hclsyntax.TokenBang || t.Type == hclsyntax.TokenMinus {
			unary++
		} else {
			unary = 0
		}
		before = t.Type
		pos := diag.Pos{File: name, Line: t.Range.Start.Line, Col: t.Range.Start.Column}
		switch {
		case max(depth, unary, conditions) > maxBakeDepth:
			return l.tooDeep(pos)
		case operators > maxBakeOperators:
			l.list.Errorf(pos, "", "reading bake file: it has more than %d operators", maxBakeOperators)
			return false
		}
	}
	return true
}

// evaluated runs what evaluates a bake file, and gives up on it when it takes too
// much memory or time. What it has begun can't be stopped, then, and ends with
// the program.
func evaluated[T any](do func() T) (T, error) {
	return within(do, maxBakeMemory, maxBakeTime)
}

func within[T any](do func() T, memory uint64, limit time.Duration) (T, error) {
	done := make(chan T, 1)
	go func() { done <- do() }()
	before := heapBytes()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	late := time.NewTimer(limit)
	defer late.Stop()
	var none T
	for {
		select {
		case out := <-done:
			return out, nil
		case <-late.C:
			return none, fmt.Errorf("evaluating it takes longer than %s", limit)
		case <-look.C:
			if now := heapBytes(); now > before+memory {
				return none, fmt.Errorf("evaluating it takes more than %d MB of memory", memory>>20)
			}
		}
	}
}

// heapBytes gives the bytes of all objects, those among them that nothing needs any
// more.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
