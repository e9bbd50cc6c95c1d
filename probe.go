package strata

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// Annotations that Strata writes on manifests, beside the OCI ones. They let a
// reader find what belongs to an image without a further look-up.
const (
	annotationKey    = "build.strata.key"              // key of the unit's or trunk's recipe
	annotationUnit   = "build.strata.unit"             // "app/cpu/linux/amd64"
	annotationTrunk  = "build.strata.trunk"            // digest of the image that the tail was put on
	annotationRecipe = "build.strata.recipe"           // digest of the recipe, zstd
	annotationSmall  = "build.strata.inventory.small"  // digest of the small inventory
	annotationFull   = "build.strata.inventory.full"   // digest of the full inventory
	annotationSizes  = "build.strata.attachment.sizes" // "recipe small full" in bytes
)

// answers are what the registry holds for the units.
type answers struct {
	hits   map[string]plan.Hit
	last   map[string]plan.Last
	units  map[string]registry.Answer
	trunks map[string]registry.Answer

	lastImages map[string]*picture // newest image of each unit, whatever its key
}

// lastTag is the tag that follows a unit's newest image, whatever its key.
func lastTag(u *graph.Unit) string {
	return "strata-last-" + strings.NewReplacer("/", ".", "_", "__").Replace(u.ID)
}

// probe asks for everything in one round of parallel look-ups. An answer that
// is neither hit nor miss ends the pass.
func (p *Pass) probe(ctx context.Context) error {
	p.answers = answers{
		hits: map[string]plan.Hit{}, last: map[string]plan.Last{},
		units: map[string]registry.Answer{}, trunks: map[string]registry.Answer{},
		lastImages: map[string]*picture{},
	}
	var refs []registry.Ref
	var put []func(registry.Answer)
	ask := func(u *graph.Unit, tag string, f func(registry.Answer)) {
		refs, put = append(refs, p.repos[u.ID].WithTag(tag)), append(put, f)
	}
	lasts := map[string]registry.Answer{}
	for _, u := range p.Units {
		k := p.Keys[u.ID]
		ask(u, k.Unit.ID().Tag(), func(a registry.Answer) { p.answers.units[u.ID] = a })
		if !k.Trunk.IsZero() {
			ask(u, k.Trunk.ID().Tag(), func(a registry.Answer) { p.answers.trunks[u.ID] = a })
		}
		ask(u, lastTag(u), func(a registry.Answer) { lasts[u.ID] = a })
	}
	for i, a := range p.Config.Client.Probe(ctx, refs) {
		if a.State == registry.Failed {
			return fmt.Errorf("looking up %s: %w", refs[i].Repository().FamiliarString(), a.Err)
		}
		put[i](a)
	}
	for _, u := range p.Units {
		p.answers.hits[u.ID] = plan.Hit{
			Unit: hitDigest(p.answers.units[u.ID]), Trunk: hitDigest(p.answers.trunks[u.ID]),
		}
	}
	return p.readLast(ctx, lasts)
}

// hitDigest gives the digest of a hit. A tag that holds anything but an image
// of ours is no hit: the unit is made anew and the tag put right.
func hitDigest(a registry.Answer) digest.Digest {
	if a.State != registry.Hit || registry.IsIndex(a.Desc.MediaType) {
		return ""
	}
	return a.Desc.Digest
}

// readLast fetches the recipes of the newest images of those units that will
// not be reused: they are what the reasons are told from.
func (p *Pass) readLast(ctx context.Context, lasts map[string]registry.Answer) error {
	found := make(chan func(), len(p.Units))
	want := map[string]registry.Answer{}
	for _, u := range p.Units {
		if a := lasts[u.ID]; hitDigest(a) != "" {
			if img, err := parsePicture(a); err == nil {
				p.answers.lastImages[u.ID] = img
			}
		}
		if a := lasts[u.ID]; a.State == registry.Hit && p.answers.hits[u.ID].Unit == "" {
			want[u.ID] = a
		}
	}
	err := each(ctx, want, 8, func(ctx context.Context, id string, a registry.Answer) error {
		l := plan.Last{Known: true}
		var m ocispec.Manifest
		if err := json.Unmarshal(a.Body, &m); err == nil {
			l.Key = key.ID(m.Annotations[annotationKey])
			l.Recipe = p.readRecipe(ctx, p.repos[id], m.Annotations)
		}
		found <- func() { p.answers.last[id] = l }
		return ctx.Err()
	})
	close(found)
	for set := range found {
		set()
	}
	return err
}

// maxRecipe bounds a recipe's text: 100,000 files are about 15 MB.
const maxRecipe = 256 << 20

// readRecipe fetches a recipe. One that is gone or broken costs only the
// reasons, never the plan, so it is zero then.
func (p *Pass) readRecipe(ctx context.Context, repo registry.Ref, annotations map[string]string) key.Recipe {
	desc, ok := attachment(annotations, annotationRecipe)
	if !ok {
		return key.Recipe{}
	}
	r, err := p.Config.Client.Blob(ctx, repo, desc)
	if err != nil {
		return key.Recipe{}
	}
	defer r.Close()
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxRecipe), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return key.Recipe{}
	}
	defer z.Close()
	text, err := io.ReadAll(io.LimitReader(z, maxRecipe))
	if err != nil {
		return key.Recipe{}
	}
	recipe, err := key.ParseRecipe(text)
	if err != nil {
		return key.Recipe{}
	}
	return recipe
}
