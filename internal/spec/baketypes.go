package spec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/strata-build/strata/internal/diag"
)

// bakeConfig is a docker-bake file as buildx's parser decodes it. Its field
// names follow the file format; the parser asks for exported fields.
type bakeConfig struct {
	Groups  []*bakeGroup  `hcl:"group,block" cty:"group"`
	Targets []*bakeTarget `hcl:"target,block" cty:"target"`
}

type bakeGroup struct {
	Name        string   `hcl:"name,label" cty:"name"`
	Description string   `hcl:"description,optional" cty:"description"`
	Targets     []string `hcl:"targets" cty:"targets"`
}

type bakeTarget struct {
	Name        string             `hcl:"name,label" cty:"name"`
	Description string             `hcl:"description,optional" cty:"description"`
	Inherits    []string           `hcl:"inherits,optional" cty:"inherits"`
	Context     *string            `hcl:"context,optional" cty:"context"`
	Contexts    map[string]string  `hcl:"contexts,optional" cty:"contexts"`
	Dockerfile  *string            `hcl:"dockerfile,optional" cty:"dockerfile"`
	Inline      *string            `hcl:"dockerfile-inline,optional" cty:"dockerfile-inline"`
	Args        map[string]*string `hcl:"args,optional" cty:"args"`
	Labels      map[string]*string `hcl:"labels,optional" cty:"labels"`
	Tags        []string           `hcl:"tags,optional" cty:"tags"`
	Target      *string            `hcl:"target,optional" cty:"target"`
	Secrets     bakeEntries        `hcl:"secret,optional" cty:"secret"`
	SSH         bakeEntries        `hcl:"ssh,optional" cty:"ssh"`
	Platforms   []string           `hcl:"platforms,optional" cty:"platforms"`
	Network     *string            `hcl:"network,optional" cty:"network"`
	Rest        hcl.Body           `hcl:",remain"`

	pos  diag.Pos
	more []string // names of attributes in Rest, of inherited targets too
}

// SetBlockSource notes where the target stands; the parser calls it.
func (t *bakeTarget) SetBlockSource(block *hcl.Block) {
	r := block.DefRange
	t.pos = diag.Pos{File: r.Filename, Line: r.Start.Line, Col: r.Start.Column}
}

// others gives the attributes that no layer has a place for.
func (t *bakeTarget) others() []string {
	names := t.more
	if t.Rest != nil {
		attrs, _ := t.Rest.JustAttributes()
		names = append(names, slices.Collect(maps.Keys(attrs))...)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "matrix" || n == "name" })
	slices.Sort(names)
	return slices.Compact(names)
}

// Merge puts o's values over t's, as bake does for targets that are inherited
// or given twice: maps and secrets add up, lists are replaced. The parser calls
// it.
func (t *bakeTarget) Merge(o *bakeTarget) {
	set := func(dst **string, v *string) {
		if v != nil {
			*dst = v
		}
	}
	set(&t.Context, o.Context)
	set(&t.Dockerfile, o.Dockerfile)
	set(&t.Inline, o.Inline)
	set(&t.Target, o.Target)
	set(&t.Network, o.Network)
	t.Args, t.Labels, t.Contexts = mergeGiven(t.Args, o.Args), mergeGiven(t.Labels, o.Labels), overlay(t.Contexts, o.Contexts)
	if o.Tags != nil {
		t.Tags = o.Tags
	}
	if o.Platforms != nil {
		t.Platforms = o.Platforms
	}
	t.Secrets, t.SSH = t.Secrets.with(o.Secrets), t.SSH.with(o.SSH)
	t.Inherits = append(slices.Clone(t.Inherits), o.Inherits...)
	t.more = append(slices.Clone(t.more), o.others()...)
}

// mergeGiven merges maps; a null does not replace a value.
func mergeGiven(a, b map[string]*string) map[string]*string {
	out := maps.Clone(a)
	for k, v := range b {
		if v == nil {
			continue
		}
		if out == nil {
			out = map[string]*string{}
		}
		out[k] = v
	}
	return out
}

// GetEvalContexts gives a scope for each combination of a matrix, in the order
// of its names and values; the parser calls it.
func (t *bakeTarget) GetEvalContexts(scope *hcl.EvalContext, block *hcl.Block, loadDeps func(hcl.Expression) hcl.Diagnostics) ([]*hcl.EvalContext, error) {
	attr, err := attribute(block, "matrix")
	if err != nil || attr == nil {
		return []*hcl.EvalContext{scope}, err
	}
	if diags := loadDeps(attr.Expr); diags.HasErrors() {
		return nil, diags
	}
	value, diags := attr.Expr.Value(scope)
	if diags.HasErrors() {
		return nil, diags
	}
	if !value.Type().IsMapType() && !value.Type().IsObjectType() {
		return nil, errors.New("matrix must be a map")
	}
	axes := value.AsValueMap()
	out := []*hcl.EvalContext{scope}
	for _, name := range slices.Sorted(maps.Keys(axes)) {
		if !axes[name].CanIterateElements() {
			return nil, errors.New("the values of a matrix must be lists")
		}
		var next []*hcl.EvalContext
		for _, before := range out {
			for _, v := range axes[name].AsValueSlice() {
				child := scope.NewChild()
				child.Variables = map[string]cty.Value{}
				if before != scope {
					maps.Copy(child.Variables, before.Variables)
				}
				child.Variables[name] = v
				if next = append(next, child); len(next) > maxBakeTargets {
					return nil, fmt.Errorf("the matrix makes more than %d targets", maxBakeTargets)
				}
			}
		}
		out = next
	}
	return out, nil
}

// GetName gives a target's name: the attribute "name" of a matrix, otherwise
// the block's label; the parser calls it.
func (t *bakeTarget) GetName(scope *hcl.EvalContext, block *hcl.Block, loadDeps func(hcl.Expression) hcl.Diagnostics) (string, error) {
	attr, err := attribute(block, "name")
	if err != nil || attr == nil {
		return block.Labels[0], err
	}
	if matrix, err := attribute(block, "matrix"); err != nil || matrix == nil {
		return "", errors.Join(err, errors.New("name needs a matrix"))
	}
	if diags := loadDeps(attr.Expr); diags.HasErrors() {
		return "", diags
	}
	value, diags := attr.Expr.Value(scope)
	if diags.HasErrors() {
		return "", diags
	}
	value, err = convert.Convert(value, cty.String)
	if err != nil {
		return "", err
	}
	return value.AsString(), nil
}

// attribute gives one attribute of a block, or nil.
func attribute(block *hcl.Block, name string) (*hcl.Attribute, error) {
	content, _, diags := block.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: name}}})
	if diags.HasErrors() {
		return nil, diags
	}
	return content.Attributes[name], nil
}

// bakeEntries are secrets or SSH agents, given as "id=x,env=Y" or as objects.
type bakeEntries []map[string]string

// with adds entries that are not there yet: one that is inherited twice is one.
func (e bakeEntries) with(more bakeEntries) bakeEntries {
	out := slices.Clone(e)
	seen := map[string]bool{}
	for _, one := range e {
		seen[fmt.Sprint(one)] = true
	}
	for _, one := range more {
		if text := fmt.Sprint(one); !seen[text] { // maps are printed in the order of their keys
			seen[text] = true
			out = append(out, one)
		}
	}
	return out
}

// FromCtyValue reads a list of either form; the parser calls it.
func (e *bakeEntries) FromCtyValue(in cty.Value, p cty.Path) error {
	*e = nil
	if in.IsNull() || !in.CanIterateElements() {
		return p.NewErrorf("must be a list")
	}
	for _, v := range in.AsValueSlice() {
		one := map[string]string{}
		switch {
		case v.IsNull():
			continue
		case v.Type() == cty.String:
			for _, part := range strings.Split(v.AsString(), ",") {
				key, value, _ := strings.Cut(part, "=")
				one[strings.TrimSpace(key)] = value
			}
		case v.Type().IsObjectType() || v.Type().IsMapType():
			for key, value := range v.AsValueMap() {
				one[key] = scalarOf(value)
			}
		default:
			return p.NewErrorf("must be a text or an object")
		}
		*e = append(*e, one)
	}
	return nil
}

// scalarOf gives a value as text, the first one of a list.
func scalarOf(v cty.Value) string {
	if v.IsNull() {
		return ""
	}
	if v.CanIterateElements() {
		for _, item := range v.AsValueSlice() {
			return scalarOf(item)
		}
		return ""
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil || s.IsNull() {
		return ""
	}
	return s.AsString()
}

// ToCtyValue writes the entries as texts; the parser calls it.
func (e bakeEntries) ToCtyValue() cty.Value {
	if len(e) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	var out []cty.Value
	for _, one := range e {
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(one)) {
			parts = append(parts, strings.TrimSuffix(key+"="+one[key], "="))
		}
		out = append(out, cty.StringVal(strings.Join(parts, ",")))
	}
	return cty.ListVal(out)
}

// compact leaves out what is there already: targets may inherit one another in
// many ways.
func (e bakeEntries) compact() bakeEntries {
	var out bakeEntries
	for _, one := range e {
		if !slices.ContainsFunc(out, func(o map[string]string) bool { return maps.Equal(o, one) }) {
			out = append(out, one)
		}
	}
	return out
}
