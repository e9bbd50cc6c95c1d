package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// selector picks units by variant and platform. Empty parts match everything.
type selector struct {
	variant, os, arch, revision string // revision: the "v7" of linux/arm/v7
}

// parseSelector reads "*", "cuda", "arm64", "linux/arm64", "cpu/arm64",
// "cpu/linux/arm/v7" or "*/arm64". The error carries a hint.
func parseSelector(text string, variants []string) (selector, error) {
	var s selector
	parts := strings.Split(text, "/")
	if slices.Contains(variants, parts[0]) {
		s.variant, parts = parts[0], parts[1:]
	} else if parts[0] == "*" {
		parts = parts[1:]
	}
	if len(parts) > 0 && isOS(parts[0]) {
		s.os, parts = parts[0], parts[1:]
	}
	if len(parts) > 0 && isArch(parts[0]) {
		s.arch, parts = parts[0], parts[1:]
		if len(parts) > 0 && slices.Contains(Platforms, "linux/"+s.arch+"/"+parts[0]) {
			s.revision, parts = parts[0], parts[1:]
		}
	}
	if len(parts) == 0 {
		return s, nil
	}
	known := append(slices.Clone(variants), `*`)
	if s.variant != "" || len(variants) == 0 {
		known = []string{"*"}
	}
	for _, p := range Platforms {
		known = append(known, strings.TrimPrefix(p, "linux/"))
	}
	return s, diag.Hint(fmt.Errorf("%q is neither a variant nor a platform", parts[0]), "%s", suggest(parts[0], known))
}

func isOS(word string) bool {
	return slices.ContainsFunc(Platforms, func(p string) bool { return osOf(p) == word })
}

func isArch(word string) bool {
	return slices.ContainsFunc(Platforms, func(p string) bool { return strings.Split(p, "/")[1] == word })
}

// matches reports whether s picks a unit of the variant and platform.
func (s selector) matches(variant, platform string) bool {
	parts := append(strings.Split(platform, "/"), "")
	is := func(want, have string) bool { return want == "" || want == have }
	return is(s.variant, variant) && is(s.os, parts[0]) && is(s.arch, parts[1]) && is(s.revision, parts[2])
}

// weight orders selectors: one that names a variant is more specific than any
// that does not. Two selectors of one weight that match the same unit are the
// same selector.
func (s selector) weight() int {
	w := 0
	for i, part := range []string{s.os, s.revision, s.arch, s.variant} {
		if part != "" {
			w += 1 << i
		}
	}
	return w
}

// Select gives the units that a user's words name, in the project's order:
// "app", "app/cpu", "app/arm64", "app/cpu/linux/amd64". No words mean all units.
func (p *Project) Select(words ...string) ([]Unit, error) {
	if len(words) == 0 {
		return p.Units(), nil
	}
	picked := map[string]bool{}
	for _, word := range words {
		if err := p.pick(word, picked); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(p.Units(), func(u Unit) bool { return !picked[u.ID()] }), nil
}

// pick marks the IDs of the units that word names.
func (p *Project) pick(word string, picked map[string]bool) error {
	name, rest, _ := strings.Cut(word, "/")
	var names []string
	for _, l := range p.Layers {
		names = append(names, l.Name)
	}
	if !slices.Contains(names, name) {
		return diag.Hint(fmt.Errorf("unit %q: no layer is named %q", word, name), "%s", suggest(name, names))
	}
	if rest == "" {
		rest = "*"
	}
	s, err := parseSelector(rest, p.variantNames())
	if err != nil {
		return fmt.Errorf("unit %q: %w", word, err)
	}
	found := false
	for _, u := range p.units {
		if u.Layer == name && s.matches(u.Variant, u.Platform) {
			picked[u.ID()], found = true, true
		}
	}
	if !found {
		return diag.Hint(fmt.Errorf("unit %q: the project has no such unit", word), "known: %s", strings.Join(p.ids(name), ", "))
	}
	return nil
}

func (p *Project) ids(layer string) []string {
	var out []string
	for _, u := range p.units {
		if u.Layer == layer {
			out = append(out, u.ID())
		}
	}
	return out
}

// checkSelector reports a selector that is wrong or matches no unit of the
// project.
func (r *resolver) checkSelector(pos diag.Pos, text string) bool {
	s, err := parseSelector(text, r.p.variantNames())
	if err != nil {
		r.list.Errorf(pos, diag.HintOf(err), "selector %q: %s", text, errText(err))
		return false
	}
	var built []string
	for _, v := range r.p.Variants {
		for _, platform := range v.Platforms {
			if s.matches(v.Name, platform) {
				return true
			}
			built = append(built, place(Unit{Variant: v.Name, Platform: platform}))
		}
	}
	r.list.Errorf(pos, "the project is built for "+strings.Join(built, ", "), "selector %q matches nothing", text)
	return false
}

// checkSame reports two selectors that mean the same.
func (r *resolver) checkSame(texts []string, at []diag.Pos) {
	seen := map[selector]string{}
	for i, text := range texts {
		s, err := parseSelector(text, r.p.variantNames())
		if err != nil {
			continue
		}
		if other, ok := seen[s]; ok {
			r.list.Errorf(at[i], "keep one of them", "selectors %q and %q mean the same", other, text)
		}
		seen[s] = text
	}
}

// errText gives the innermost message of a hinted error.
func errText(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		return inner.Error()
	}
	return err.Error()
}
