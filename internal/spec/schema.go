package spec

import (
	"bytes"
	"encoding/json"
	"strings"
)

//go:generate go test . -run TestDocsAreGenerated -update

// Schema gives the JSON schema (draft 2020-12) of strata.yaml, made from the
// shapes that the loader checks a file against. It says less than the loader,
// which also knows the project's names and files, and nothing that differs.
func Schema() []byte {
	root := append(pairs{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", "strata.yaml"},
		{"description", "A project of Strata: its images, layers, variants and platforms."},
	}, projectShape.schema()...)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		panic("internal error: writing schema: " + err.Error())
	}
	return out.Bytes()
}

// pairs is a JSON object that keeps the order of its members.
type pairs []pair

type pair struct {
	name  string
	value any
}

// MarshalJSON writes the members in order.
func (p pairs) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range p {
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		var value bytes.Buffer
		e := json.NewEncoder(&value)
		e.SetEscapeHTML(false)
		if err := e.Encode(m.value); err != nil {
			return nil, err
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(bytes.TrimSpace(value.Bytes()))
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// schema gives what s means in JSON schema.
func (s *shape) schema() pairs {
	switch s.kind {
	case object:
		return s.objectSchema()
	case mapping:
		out := pairs{{"type", "object"}}
		if s.key != nil {
			out = append(out, pair{"propertyNames", s.key.schema()})
		}
		if s.min > 0 {
			out = append(out, pair{"minProperties", s.min})
		}
		return append(out, pair{"additionalProperties", s.of.schema()})
	case list:
		out := pairs{{"type", "array"}, {"items", s.of.schema()}}
		if s.min > 0 {
			out = append(out, pair{"minItems", s.min})
		}
		if s.unique {
			out = append(out, pair{"uniqueItems", true})
		}
		return out
	case union:
		var any []pairs
		for _, a := range s.any {
			any = append(any, a.schema())
		}
		return pairs{{"anyOf", any}}
	case scalar:
		return pairs{{"type", []string{"string", "number", "boolean"}}}
	case integer:
		return pairs{{"type", "integer"}, {"minimum", 0}, {"maximum", 999999999}}
	case boolean:
		return pairs{{"type", "boolean"}}
	}
	return s.textSchema()
}

func (s *shape) textSchema() pairs {
	switch {
	case len(s.enum) > 0:
		return pairs{{"enum", s.enum}}
	case s.format != nil:
		return pairs{{"type", "string"}, {"pattern", s.format.re.String()}}
	}
	return pairs{{"type", "string"}}
}

func (s *shape) objectSchema() pairs {
	out := pairs{{"type", "object"}}
	if s.empty {
		out = pairs{{"type", []string{"object", "null"}}}
	}
	var properties pairs
	var required []string
	choices := map[string][]pairs{}
	var groups []string
	for _, f := range s.fields {
		properties = append(properties, pair{f.name, append(pairs{{"description", f.words()}}, f.shape.schema()...)})
		if f.required {
			required = append(required, f.name)
		}
		if f.oneOf != "" {
			if choices[f.oneOf] == nil {
				groups = append(groups, f.oneOf)
			}
			choices[f.oneOf] = append(choices[f.oneOf], pairs{{"required", []string{f.name}}})
		}
	}
	out = append(out, pair{"properties", properties}, pair{"additionalProperties", false})
	if required != nil {
		out = append(out, pair{"required", required})
	}
	for _, g := range groups {
		out = append(out, pair{"oneOf", choices[g]})
	}
	return out
}

// words is a field's description with its default, as plain text.
func (f field) words() string {
	out := f.doc
	if f.def != "" {
		out += " Default: " + f.def + "."
	}
	return strings.ReplaceAll(out, "`", "")
}
