package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
)

// recordPrefix begins the tag of a run's record; its ID, which follows, sorts by
// time.
const recordPrefix = "strata-r-"

// Records gives the records of the newest runs that are kept beside the
// project's images, as they were written, the newest first: at most limit of
// them. Runners of a pipeline have none of their own.
func Records(ctx context.Context, c Config, limit int) ([][]byte, error) {
	repos := map[registry.Ref]bool{}
	for _, u := range c.Project.Units() {
		repo, err := repository(u.Image, c.Push)
		if err != nil {
			return nil, err
		}
		repos[repo] = true
	}
	var refs []registry.Ref
	for repo := range repos {
		tags, err := c.Client.Tags(ctx, repo)
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return nil, fmt.Errorf("listing the records of runs in %s: %w", repo.FamiliarString(), err)
		}
		for _, t := range tags {
			if strings.HasPrefix(t, recordPrefix) {
				refs = append(refs, repo.WithTag(t))
			}
		}
	}
	slices.SortFunc(refs, func(a, b registry.Ref) int { return strings.Compare(b.Tag, a.Tag) })
	refs = refs[:min(limit, len(refs))]
	var out [][]byte
	for _, a := range c.Client.Probe(ctx, refs) {
		var m ocispec.Manifest
		if a.State == registry.Failed {
			return out, a.Err
		}
		if a.State == registry.Hit && json.Unmarshal(a.Body, &m) == nil && m.Annotations[annotationRecord] != "" {
			out = append(out, []byte(m.Annotations[annotationRecord]))
		} // what was pruned meanwhile, or is not ours, is left out
	}
	return out, nil
}
