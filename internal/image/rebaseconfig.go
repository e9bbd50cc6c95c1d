package image

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// engineFields are what Docker's old builder noted of the container that it
// built in. BuildKit does not carry them over, and they say nothing of the image.
var engineFields = []string{
	"Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "Image",
	"MacAddress", "NetworkDisabled", "PublishService",
}

// mergedApart are the fields of a config that are merged in a way of their own,
// or come from the new parent.
var mergedApart = []string{
	"architecture", "os", "variant", "os.version", "os.features", "rootfs", "history", "created", "config",
	"container", "container_config", "docker_version", "id", "parent", "moby.buildkit.buildinfo.v1", "moby.buildkit.cache.v0",
}

// rebaseConfig merges what the child's config adds to the old parent's into the
// new parent's. What does not fit together at all is a [*NotExact].
func rebaseConfig(child, old, new *Image) (*config, []Conflict, error) {
	var cs [3]*config
	for i, img := range []*Image{child, old, new} {
		c, err := parseConfig(img.Config)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range engineFields {
			delete(c.run, k)
		}
		cs[i] = c
	}
	c, o, out := cs[0], cs[1], cs[2].clone()
	if err := samePlatform(child, old, new); err != nil {
		return nil, nil, err
	}
	if !c.isLinux() {
		return nil, nil, inexact("the image is not for Linux")
	}
	n := len(o.rootFS.DiffIDs)
	if len(c.rootFS.DiffIDs) < n || !slices.Equal(c.rootFS.DiffIDs[:n], o.rootFS.DiffIDs) {
		return nil, nil, inexact("the image's layers are not those of its old parent and more")
	}
	own, ok := ownHistory(c.history, o.history)
	if !ok {
		return nil, nil, inexact("the image's history is not that of its old parent and more")
	}
	conflicts := mergeFields(c.run, o.run, out.run)
	top := func(x *config) map[string]json.RawMessage {
		m := maps.Clone(x.top)
		for _, k := range mergedApart {
			delete(m, k)
		}
		return m
	}
	rest := top(out)
	conflicts = append(conflicts, mergeFields(top(c), top(o), rest)...)
	for k := range top(out) {
		delete(out.top, k)
	}
	maps.Copy(out.top, rest)
	out.balance(epochTime(0)) // the new parent's own, before more is added
	out.rootFS.DiffIDs = append(out.rootFS.DiffIDs, c.rootFS.DiffIDs[n:]...)
	out.history = append(out.history, own...)
	out.rootFS.Type = "layers"
	return out, conflicts, nil
}

// samePlatform checks that the three images are for one platform.
func samePlatform(child, old, new *Image) error {
	want, err := child.Platform()
	if err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		img  *Image
	}{{"old", old}, {"new", new}} {
		got, err := p.img.Platform()
		if err != nil {
			return err
		}
		if got.OS != want.OS || got.Architecture != want.Architecture || got.Variant != want.Variant || got.OSVersion != want.OSVersion {
			return inexact("the %s parent is for another platform", p.name)
		}
	}
	return nil
}

// ownHistory gives what the child's history has beyond the old parent's.
func ownHistory(child, old []ocispec.History) ([]ocispec.History, bool) {
	if len(child) < len(old) {
		return nil, false
	}
	for i, h := range old {
		if child[i].CreatedBy != h.CreatedBy {
			return nil, false
		}
	}
	return slices.Clone(child[len(old):]), true
}

// mergeFields merges the fields of an object into new's, and gives what is in
// conflict.
func mergeFields(child, old, new map[string]json.RawMessage) []Conflict {
	var out []Conflict
	for _, k := range slices.Sorted(maps.Keys(merged(child, old))) {
		value, bad := mergeField(k, child[k], old[k], new[k])
		for _, f := range bad {
			out = append(out, Conflict{Kind: ConfigChanged, Text: f})
		}
		if value == nil {
			delete(new, k)
		} else {
			new[k] = value
		}
	}
	return out
}

// plainField gives a field in one form, whoever wrote it; nil for what says
// nothing: null, "", false, an empty list or object.
func plainField(raw json.RawMessage) json.RawMessage {
	var v any
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		return raw
	}
	switch x := v.(type) {
	case nil:
		return nil
	case string:
		if x == "" {
			return nil
		}
	case bool:
		if !x {
			return nil
		}
	case []any:
		if len(x) == 0 {
			return nil
		}
	case map[string]any:
		if len(x) == 0 {
			return nil
		}
	}
	return marshal(v)
}

// mergeField merges one field: Env by variable, maps by key, the rest as a
// whole. It gives the names of what both sides changed differently.
func mergeField(key string, child, old, new json.RawMessage) (json.RawMessage, []string) {
	a, b, d := plainField(child), plainField(old), plainField(new)
	if bytes.Equal(a, b) {
		return new, nil
	}
	if bytes.Equal(d, b) || bytes.Equal(d, a) {
		return child, nil
	}
	var c, o, n map[string]json.RawMessage
	var order []string
	if key == "Env" {
		order, c, o, n = envOrder(new, child), envMap(child), envMap(old), envMap(new)
	} else if !object(a, &c) || !object(b, &o) || !object(d, &n) {
		return new, []string{key}
	}
	out := map[string]json.RawMessage{}
	var bad []string
	for k := range merged(c, o, n) {
		v, conflict := mergeValue(c[k], o[k], n[k])
		if conflict {
			bad = append(bad, key+" "+k)
		}
		if v != nil {
			out[k] = v
		}
	}
	slices.Sort(bad)
	if key != "Env" {
		return marshal(out), bad
	}
	var env []string
	for _, k := range order {
		var v string
		if out[k] != nil {
			unmarshal(out[k], &v)
			env = append(env, k+"="+v)
		}
	}
	return marshal(env), bad
}

// object reads a field that is an object, or is not there.
func object(raw json.RawMessage, into *map[string]json.RawMessage) bool {
	return raw == nil || json.Unmarshal(raw, into) == nil
}

// mergeValue merges one variable or one member of a map; nil is none.
func mergeValue(c, o, n json.RawMessage) (json.RawMessage, bool) {
	same := func(a, b json.RawMessage) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
	switch {
	case same(c, o):
		return n, false
	case same(n, o), same(n, c):
		return c, false
	}
	return n, true
}

func merged(ms ...map[string]json.RawMessage) map[string]bool {
	out := map[string]bool{}
	for _, m := range ms {
		for k := range m {
			out[k] = true
		}
	}
	return out
}

// envMap gives an Env field as a map of JSON strings.
func envMap(raw json.RawMessage) map[string]json.RawMessage {
	var env []string
	unmarshal(raw, &env)
	out := map[string]json.RawMessage{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = marshal(v)
	}
	return out
}

// envOrder gives the names of variables in the order of the first list, then of
// the second.
func envOrder(lists ...json.RawMessage) []string {
	var out []string
	for _, raw := range lists {
		var env []string
		unmarshal(raw, &env)
		for _, kv := range env {
			if k, _, _ := strings.Cut(kv, "="); !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}
