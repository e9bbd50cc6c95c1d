package strata

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/source"
)

// taken gives what an engine needs to see that the files it is handed for a
// unit, or only for its trunk, are those of which the unit's key was made; minutes
// may lie between.
func (p *Pass) taken(u *graph.Unit, trunk bool) (files map[string]map[string]digest.Digest, unchanged func(context.Context, string) error) {
	files = map[string]map[string]digest.Digest{}
	for i, in := range u.Build.Inputs {
		for _, e := range p.inputs[u.ID].Files[i] {
			if e.Kind != source.File {
				continue
			}
			if files[in.Context] == nil {
				files[in.Context] = map[string]digest.Digest{}
			}
			files[in.Context][realPath(e)] = e.Digest
		}
	}
	return files, func(ctx context.Context, name string) error { return p.unchanged(ctx, u, trunk, name) }
}

// unchanged looks once more at what a unit's instructions take from one of its
// contexts: which paths there are, and what they are. Of the contents it reads
// only those that seem to be others.
func (p *Pass) unchanged(ctx context.Context, u *graph.Unit, trunk bool, name string) error {
	var now *source.Tree
	for i, in := range u.Build.Inputs {
		if in.Context != name || trunk && in.Tail {
			continue
		}
		if now == nil {
			tree, err := p.open(p.contextOf(u, name))
			if err == nil {
				now, err = tree.Again()
			}
			if err != nil {
				return err
			}
		}
		then := p.inputs[u.ID].Files[i]
		entries, err := now.Select(ctx, selection(in))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && source.TreeDigest(entries) == source.TreeDigest(then) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("sending the build context: %q changed after the key was made", firstChange(then, entries))
		}
		return diag.Hint(fmt.Errorf("%s:%d: %w", u.Dockerfile, in.Line, err),
			"run it again when nothing writes there any more; what is not needed keep out with .dockerignore")
	}
	return nil
}

// firstChange gives the first path that two selections do not have alike.
func firstChange(then, now []source.Entry) string {
	of := func(entries []source.Entry) map[string]digest.Digest {
		out := map[string]digest.Digest{}
		for _, e := range entries {
			out[realPath(e)] = source.TreeDigest([]source.Entry{e})
		}
		return out
	}
	was, is := of(then), of(now)
	all := maps.Clone(was)
	maps.Copy(all, is)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		if was[p] != is[p] {
			return p
		}
	}
	return "."
}
