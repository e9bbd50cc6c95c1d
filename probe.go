package strata

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// Annotations that Strata writes on manifests, beside the OCI ones. They let a
// reader find what belongs to an image without a further look-up.
const (
	annotationKey     = "build.strata.key"             // key of the unit's or trunk's recipe
	annotationUnit    = "build.strata.unit"            // "app/cpu/linux/amd64"
	annotationContent = "build.strata.content"         // content key of the unit's recipe, of a unit that has parents
	annotationTrunk   = "build.strata.trunk"           // digest of the image that the tail was put on
	annotationListed  = "build.strata.listed"          // inventory of the image that the tail was put on: trunkFacts
	annotationRecipe  = "build.strata.recipe"          // digest and size of the recipe, zstd
	annotationSmall   = "build.strata.inventory.small" // digest and size of the small inventory
	annotationFull    = "build.strata.inventory.full"  // digest and size of the full inventory
	annotationBases   = "build.strata.bases"           // external images that went in: a list of baseFacts
	annotationTrace   = "build.strata.trace"           // digest and size of the trace of the image's own layers
	annotationTimes   = "build.strata.times"           // of the artifact beside an image: its tables of times, base64
	// The inventory of the tail's blob alone, digest and size: what the next tail's
	// times follow from.
	annotationTailFiles = "build.strata.inventory.tail"
	annotationTail      = "build.strata.tail" // the tail's blob and what it was made from: tailFacts
	// Of an inventory of layers that others have made: what was made sure of when
	// they were read.
	annotationChecked = "build.strata.checked"
	annotationRun     = "build.strata.run"    // of a record's artifact: the id of the run
	annotationRecord  = "build.strata.record" // of a record's artifact: the record
)

// checkedDiffIDs says that the layers are what their image's config says.
const checkedDiffIDs = "diff_ids"

// answers are what the registry holds for the units.
type answers struct {
	hits   map[string]plan.Hit
	last   map[string]plan.Last
	units  map[string]registry.Answer
	trunks map[string]registry.Answer

	lastImages map[string]*picture  // newest image of each unit, whatever its key
	wrongLast  map[string]bool      // units under whose tag for it another image is
	trunksOf   map[string]*picture  // newest trunk of the units that may be rebased
	lastTrunks map[string]plan.Last // what is known of those
}

// lastTag is the tag that follows a unit's newest image, whatever its key.
func lastTag(u *graph.Unit) string {
	return "strata-last-" + strings.NewReplacer("/", ".", "_", "__").Replace(u.ID)
}

// askLast asks for the newest image of every unit, whatever its key.
func (p *Pass) askLast(ctx context.Context) error {
	p.answers = answers{
		hits: map[string]plan.Hit{}, last: map[string]plan.Last{}, lastImages: map[string]*picture{},
		units: map[string]registry.Answer{}, trunks: map[string]registry.Answer{},
		trunksOf: map[string]*picture{}, wrongLast: map[string]bool{}, lastTrunks: map[string]plan.Last{},
	}
	refs, by := make([]registry.Ref, len(p.Units)), make([]wanted, len(p.Units))
	for i, u := range p.Units {
		by[i] = p.newest(u)
		refs[i] = by[i].ref
	}
	found := p.Config.Client.Probe(ctx, refs)
	for _, a := range found {
		if a.State == registry.Failed && !errors.Is(a.Err, registry.ErrCorrupt) {
			return a.Err // it names the image
		}
	}
	found, err := p.admit(ctx, found, by)
	if err != nil {
		return err
	}
	for i, a := range found {
		if m := refusal(a); m != nil {
			p.Warnings = append(p.Warnings, m.finding())
			p.answers.wrongLast[p.Units[i].ID] = true
		}
		if hitDigest(a) == "" {
			continue
		}
		if img, err := parsePicture(a); err == nil {
			p.answers.lastImages[p.Units[i].ID] = img
		}
	}
	return nil
}

// hitDigest gives the digest of a hit, which was admitted: see [wanted].
func hitDigest(a registry.Answer) digest.Digest {
	if a.State != registry.Hit || registry.IsIndex(a.Desc.MediaType) {
		return ""
	}
	return a.Desc.Digest
}

// readLast fetches the recipes of the newest images of those units that will
// not be reused: they are what the reasons are told from.
func (p *Pass) readLast(ctx context.Context) error {
	want := map[string]*picture{}
	for id, img := range p.answers.lastImages {
		if p.answers.hits[id].Unit == "" {
			want[id] = img
		}
	}
	var mu sync.Mutex
	return each(ctx, want, 8, func(ctx context.Context, id string, img *picture) error {
		l := p.knownOf(ctx, p.repos[id], img)
		mu.Lock()
		defer mu.Unlock()
		p.answers.last[id] = l
		return ctx.Err()
	})
}

// knownOf gives what is known of an image that was made before. A recipe that is
// not the one of the image's key counts as none.
func (p *Pass) knownOf(ctx context.Context, repo registry.Ref, img *picture) plan.Last {
	l := plan.Last{Known: true, Key: key.ID(img.manifest.Annotations[annotationKey])}
	if r := p.readRecipe(ctx, repo, img.manifest.Annotations); !r.IsZero() && r.ID() == l.Key {
		l.Recipe = r
	}
	return l
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
