package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
)

// shape says what a value of strata.yaml may look like. The one tree of shapes
// in keys.go is what the loader checks a file against and what the JSON schema
// and the reference are generated from, so that these three can't disagree.
type shape struct {
	kind   kind
	noun   string   // what the value is: "platform", "duration"
	fields []field  // of an object, in the order of the reference
	key    *shape   // of a mapping: a text shape for its keys
	of     *shape   // of a mapping's values, a list's items
	any    []*shape // of a union: at most one for each kind of YAML node
	enum   []string // of a text
	format *format  // of a text
	min    int      // of a list or mapping: least number of entries
	unique bool     // of a list of texts: none stands in it twice
	empty  bool     // of an object: nothing at all (null) is the empty object
}

type kind int

const (
	object  kind = iota // fixed keys
	mapping             // free keys
	list
	text    // a string
	scalar  // a string, number or boolean, taken as it is written
	integer // a whole number, 0 or more
	boolean
	union
)

// field is one key of an object.
type field struct {
	name     string
	shape    *shape
	doc      string // a sentence or more, with full stops
	def      string // the default in words or as YAML; "" when there is none
	required bool
	oneOf    string // of the fields of an object that share this, exactly one is given
}

// format is a pattern with its meaning.
type format struct {
	re    *regexp.Regexp
	words string // "a number with s, m, h, d or w, such as 36h"
}

// deref follows aliases to the node that they stand for.
func deref(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// maxNodes bounds the values of a file, each as often as aliases name it.
const maxNodes = 1_000_000

// aliases counts values; what an alias names is counted once.
type aliases map[*yaml.Node]int

func (a aliases) size(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if known, ok := a[n]; ok {
		return known
	}
	a[n] = 1 // one that names itself
	size := 1
	for _, c := range n.Content {
		size = min(size+a.size(c), maxNodes+1)
	}
	a[n] = size
	return size
}

// kindOf names what a node is, for messages.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return fmt.Sprintf("the boolean %s", n.Value)
	case "!!int", "!!float":
		return fmt.Sprintf("the number %s", n.Value)
	case "!!str":
		return fmt.Sprintf("the text %q", n.Value)
	}
	return fmt.Sprintf("%q", n.Value)
}

// checker compares nodes with shapes and collects what does not fit.
type checker struct {
	file string
	list *diag.List
}

func (c *checker) pos(n *yaml.Node) diag.Pos {
	return diag.Pos{File: c.file, Line: n.Line, Col: n.Column}
}

// check reports everything in n that does not fit s, at being the path of the
// value in words: "layers.base.refresh".
func (c *checker) check(n *yaml.Node, s *shape, at string) {
	use, n := n, deref(n)
	switch s.kind {
	case object:
		if s.empty && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
			return
		}
		c.checkObject(n, s, at)
	case mapping:
		c.checkMapping(n, s, at)
	case list:
		c.checkList(n, s, at)
	case union:
		c.checkUnion(use, s, at)
	default:
		c.checkScalar(n, s, at)
	}
}

// wrong reports that n is not what s asks for.
func (c *checker) wrong(n *yaml.Node, s *shape, at string) {
	hint := ""
	isText := s.kind == text || s.kind == union && slices.ContainsFunc(s.any, func(a *shape) bool { return a.kind == text })
	if isText && n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!int" || n.ShortTag() == "!!float") {
		hint = fmt.Sprintf("put it in quotes: %q", n.Value)
	}
	c.list.Errorf(c.pos(n), hint, "%s must be %s, not %s", at, s.words(), kindOf(n))
}

// words says in a few words what fits s.
func (s *shape) words() string {
	switch s.kind {
	case object:
		if len(s.fields) > 6 {
			return "a mapping"
		}
		return "a mapping with " + joinOr(s.names(), "and")
	case mapping:
		return "a mapping of " + s.noun
	case list:
		return "a list of " + s.noun
	case integer:
		return "a whole number from 0 to 999999999"
	case boolean:
		return "true or false"
	case union:
		var out []string
		for _, a := range s.any {
			out = append(out, a.words())
		}
		return joinOr(out, "or")
	}
	if len(s.enum) > 0 && len(s.enum) <= 4 {
		return joinOr(s.enum, "or")
	}
	return article(s.noun)
}

// article puts "a" or "an" before a noun.
func article(noun string) string {
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an " + noun
	}
	return "a " + noun
}

func (s *shape) names() []string {
	var out []string
	for _, f := range s.fields {
		out = append(out, f.name)
	}
	return out
}

// entries gives the pairs of a mapping node, reporting duplicate keys and keys
// that are no plain text.
func (c *checker) entries(n *yaml.Node, at string) [][2]*yaml.Node {
	seen := map[string]*yaml.Node{}
	var out [][2]*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			c.list.Errorf(c.pos(k), "", "a key of %s must be a text, not %s", at, kindOf(deref(k)))
			continue
		case k.ShortTag() == "!!merge":
			c.list.Errorf(c.pos(k), "repeat the values, or set them once for all layers at the top level",
				"merge keys (<<) are not read in %s", at)
			continue
		}
		if first, ok := seen[k.Value]; ok {
			c.list.Errorf(c.pos(k), fmt.Sprintf("the first one is in line %d; keep one of them", first.Line),
				"key %q is given twice in %s", k.Value, at)
			continue
		}
		seen[k.Value] = k
		out = append(out, [2]*yaml.Node{k, v})
	}
	return out
}

func (c *checker) checkObject(n *yaml.Node, s *shape, at string) {
	if n.Kind != yaml.MappingNode {
		c.wrong(n, s, at)
		return
	}
	given := map[string]*yaml.Node{}
	for _, e := range c.entries(n, at) {
		k, v := e[0], e[1]
		given[k.Value] = k
		i := slices.IndexFunc(s.fields, func(f field) bool { return f.name == k.Value })
		if i < 0 {
			c.list.Errorf(c.pos(k), suggest(k.Value, s.names()), "unknown key %q in %s", k.Value, at)
			continue
		}
		c.check(v, s.fields[i].shape, join(at, k.Value))
	}
	c.checkPresence(n, s, given, at)
}

// checkPresence reports missing keys, and keys that exclude each other.
func (c *checker) checkPresence(n *yaml.Node, s *shape, given map[string]*yaml.Node, at string) {
	groups := map[string][]string{}
	for _, f := range s.fields {
		if f.required && given[f.name] == nil {
			c.list.Errorf(c.pos(n), fmt.Sprintf("add %q: %s", f.name, firstSentence(f.doc)), "%s has no %q", at, f.name)
		}
		if f.oneOf != "" {
			groups[f.oneOf] = append(groups[f.oneOf], f.name)
		}
	}
	for _, names := range groups {
		var have []string
		for _, name := range names {
			if given[name] != nil {
				have = append(have, name)
			}
		}
		switch len(have) {
		case 0:
			c.list.Errorf(c.pos(n), "", "%s needs one of %s", at, joinOr(quoted(names), "or"))
		case 1:
		default:
			c.list.Errorf(c.pos(given[have[1]]), "keep one of them", "%s has both %s", at, joinOr(quoted(have), "and"))
		}
	}
}

func (c *checker) checkMapping(n *yaml.Node, s *shape, at string) {
	if n.Kind != yaml.MappingNode {
		c.wrong(n, s, at)
		return
	}
	entries := c.entries(n, at)
	if len(entries) < s.min {
		c.list.Errorf(c.pos(n), "", "%s is empty: it must be %s", at, s.words())
	}
	for _, e := range entries {
		if s.key != nil {
			c.checkText(e[0], s.key, "a key of "+at)
		}
		c.check(e[1], s.of, join(at, e[0].Value))
	}
}

func (c *checker) checkList(n *yaml.Node, s *shape, at string) {
	if n.Kind != yaml.SequenceNode {
		c.wrong(n, s, at)
		return
	}
	if len(n.Content) < s.min {
		c.list.Errorf(c.pos(n), "", "%s is empty: it must be %s", at, s.words())
	}
	seen := map[string]bool{}
	for i, item := range n.Content {
		c.check(item, s.of, fmt.Sprintf("%s[%d]", at, i))
		if value := deref(item).Value; s.unique && deref(item).Kind == yaml.ScalarNode {
			if seen[value] {
				c.list.Errorf(c.pos(item), "keep one of them", "%s has %q twice", at, value)
			}
			seen[value] = true
		}
	}
}

// checkUnion takes the alternative that has the node's kind.
func (c *checker) checkUnion(use *yaml.Node, s *shape, at string) {
	n := deref(use)
	for _, a := range s.any {
		if a.takes(n) {
			c.check(use, a, at)
			return
		}
	}
	c.wrong(n, s, at)
}

// integerRE are the whole numbers that a setting may have.
var integerRE = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})$`)

// takes reports whether n has the kind of node that s describes.
func (s *shape) takes(n *yaml.Node) bool {
	switch s.kind {
	case object, mapping:
		return n.Kind == yaml.MappingNode
	case list:
		return n.Kind == yaml.SequenceNode
	}
	if n.Kind != yaml.ScalarNode {
		return false
	}
	tag := n.ShortTag()
	switch s.kind {
	case text:
		return tag == "!!str" || tag == "!!timestamp"
	case scalar:
		return slices.Contains([]string{"!!str", "!!timestamp", "!!int", "!!float", "!!bool"}, tag)
	case integer:
		return tag == "!!int" && integerRE.MatchString(n.Value)
	}
	return tag == "!!bool"
}

func (c *checker) checkScalar(n *yaml.Node, s *shape, at string) {
	if !s.takes(n) {
		c.wrong(n, s, at)
		return
	}
	if s.kind == text {
		c.checkText(n, s, at)
	}
}

// checkText compares a text with the enumeration and pattern of s.
func (c *checker) checkText(n *yaml.Node, s *shape, at string) {
	switch {
	case len(s.enum) > 0 && !slices.Contains(s.enum, n.Value):
		c.list.Errorf(c.pos(n), suggest(n.Value, s.enum), "unknown %s %q in %s", s.noun, n.Value, at)
	case s.format != nil && !s.format.re.MatchString(n.Value):
		c.list.Errorf(c.pos(n), "write "+s.format.words, "%s is no valid %s: %q", at, s.noun, n.Value)
	}
}

// join adds a key to a path in words; "strata.yaml" itself is left out.
func join(at, key string) string {
	if at == top {
		return key
	}
	return at + "." + key
}

// top is the path of the whole file.
const top = "the project"

func quoted(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = fmt.Sprintf("%q", s)
	}
	return out
}

// joinOr gives "a, b or c".
func joinOr(in []string, word string) string {
	switch len(in) {
	case 0:
		return ""
	case 1:
		return in[0]
	}
	return strings.Join(in[:len(in)-1], ", ") + " " + word + " " + in[len(in)-1]
}

// firstSentence gives the beginning of a doc, fit to stand in a sentence.
func firstSentence(doc string) string {
	doc = strings.ToLower(doc[:1]) + doc[1:]
	if i := strings.Index(doc, ". "); i >= 0 {
		return doc[:i]
	}
	return strings.TrimSuffix(doc, ".")
}
