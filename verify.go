package strata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// A hit is a manifest under a key. Before something is built on it or appended
// to it, its config and layers are asked for, too, by one HEAD request each and
// all at once: an image of which one is missing or has another size is as good as
// none, and is made again in the same run. Where nothing changed, nothing is
// asked for; Config.Verify does.

// damage says what is wrong with what the registry holds of a unit; "" is
// nothing.
type damage struct {
	unit  string // with the image under its key
	trunk string // with the image under its trunk's key
	last  string // with its newest image, of which parts may be used again
}

// blobIn is one blob in one repository.
type blobIn struct {
	repo registry.Ref
	d    digest.Digest
}

// suspect is an image of which all blobs have to be there.
type suspect struct {
	unit string
	put  func(*damage, string) // notes what is wrong
	repo registry.Ref
	what []ocispec.Descriptor // config and layers
	seen string
}

// verifier is one [Pass.verify] at work.
type verifier struct {
	pass  *Pass
	found map[string]damage
	asked map[string]bool   // suspects
	blobs map[blobIn]string // what is wrong with a blob; "" is nothing
}

// verify finds what is broken among the images that something new will stand
// on, and among those that these stand on if they have to be made again.
func (p *Pass) verify(ctx context.Context) (map[string]damage, error) {
	v := &verifier{pass: p, found: map[string]damage{}, asked: map[string]bool{}, blobs: map[blobIn]string{}}
	for _, u := range p.Units {
		d := damage{unit: corruptManifest(p.answers.units[u.ID]), trunk: corruptManifest(p.answers.trunks[u.ID])}
		if d != (damage{}) {
			v.found[u.ID] = d
		}
	}
	for {
		suspects, err := v.suspects()
		if err != nil || len(suspects) == 0 {
			return v.found, err
		}
		if err := v.ask(ctx, suspects); err != nil {
			return v.found, err
		}
	}
}

func corruptManifest(a registry.Answer) string {
	var e *registry.Error
	if a.State == registry.Failed && errors.As(a.Err, &e) {
		return "its manifest: " + e.Message
	}
	return ""
}

// suspects gives the images that have to be whole and were not asked for yet.
func (v *verifier) suspects() ([]suspect, error) {
	p := v.pass
	needed := map[string]bool{}
	for _, u := range p.Wanted {
		needed[u.ID] = true
	}
	var out []suspect
	var failed error
	add := func(u *graph.Unit, what string, a registry.Answer, put func(*damage, string)) {
		if v.asked[what+u.ID] {
			return
		}
		v.asked[what+u.ID] = true
		img, err := p.known.picture(a)
		if err != nil {
			failed = err
			return
		}
		out = append(out, suspect{unit: u.ID, put: put, repo: img.ref, what: img.blobs(), seen: what})
	}
	for _, u := range slices.Backward(p.Units) {
		switch {
		case !needed[u.ID]:
		case v.hit(u):
			if p.Config.Verify {
				add(u, "image ", p.answers.units[u.ID], func(d *damage, why string) { d.unit = why })
			}
		default:
			for _, up := range u.Parents {
				needed[up.ID] = true
				if parent := p.Graph.Unit(up.ID); v.hit(parent) {
					add(parent, "image ", p.answers.units[up.ID], func(d *damage, why string) { d.unit = why })
				}
			}
			if p.answers.hits[u.ID].Trunk != "" && v.found[u.ID].trunk == "" && !p.fresh(u) {
				add(u, "trunk ", p.answers.trunks[u.ID], func(d *damage, why string) { d.trunk = why })
			}
			if s, ok := v.lastTail(u); ok {
				out = append(out, s)
			}
		}
	}
	return out, failed
}

// fresh says whether the user wants a unit built whatever the registry holds:
// the unit, or one that it stands on.
func (p *Pass) fresh(u *graph.Unit) bool {
	return p.Config.Rebuild && slices.ContainsFunc(p.Wanted, func(w *graph.Unit) bool { return w.ID == u.ID })
}

// hit says whether the plan will reuse a unit's image, as far as is known.
func (v *verifier) hit(u *graph.Unit) bool {
	return v.pass.answers.hits[u.ID].Unit != "" && v.found[u.ID].unit == "" && !v.pass.fresh(u)
}

// lastTail gives the blob of a unit's newest tail, which a tail with the same
// files takes over unread.
func (v *verifier) lastTail(u *graph.Unit) (suspect, bool) {
	last := v.pass.answers.lastImages[u.ID]
	if last == nil || len(u.Build.Trunk.Tail) == 0 || len(last.manifest.Layers) == 0 || v.asked["last "+u.ID] {
		return suspect{}, false
	}
	v.asked["last "+u.ID] = true
	top := last.manifest.Layers[len(last.manifest.Layers)-1:]
	return suspect{unit: u.ID, put: func(d *damage, why string) { d.last = why }, repo: last.ref, what: top}, true
}

// blobs gives the config and the layers that the registry has to hold.
func (p *picture) blobs() []ocispec.Descriptor {
	out := []ocispec.Descriptor{p.manifest.Config}
	for _, l := range p.manifest.Layers {
		if len(l.URLs) == 0 { // the others are elsewhere
			out = append(out, l)
		}
	}
	return out
}

// ask asks for the blobs of suspects and notes what is wrong.
func (v *verifier) ask(ctx context.Context, suspects []suspect) error {
	want := map[blobIn]ocispec.Descriptor{}
	for _, s := range suspects {
		for _, d := range s.what {
			b := blobIn{s.repo, d.Digest}
			if _, known := v.blobs[b]; !known && d.Data == nil {
				want[b] = d
			}
		}
	}
	var mu sync.Mutex
	err := each(ctx, want, 32, func(ctx context.Context, b blobIn, d ocispec.Descriptor) error {
		there, err := v.pass.Config.Client.Direct().HasBlob(ctx, b.repo, d)
		why := ""
		switch {
		case errors.Is(err, registry.ErrCorrupt):
			why = "has another size"
		case err != nil:
			return err
		case !there:
			why = "is gone"
		}
		mu.Lock()
		defer mu.Unlock()
		v.blobs[b] = why
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range suspects {
		for i, d := range s.what {
			why := v.blobs[blobIn{s.repo, d.Digest}]
			if why == "" {
				continue
			}
			kind := "layer"
			if i == 0 && s.seen != "" {
				kind = "config"
			}
			noted := v.found[s.unit]
			s.put(&noted, fmt.Sprintf("its %s %.12s %s", kind, d.Digest.Encoded(), why))
			v.found[s.unit] = noted
			break
		}
	}
	return nil
}

// verifyTrunks makes sure that the trunks that may be rebased are whole; one that
// is not is built.
func (p *Pass) verifyTrunks(ctx context.Context) error {
	v := &verifier{pass: p, found: map[string]damage{}, blobs: map[blobIn]string{}}
	var suspects []suspect
	for _, id := range slices.Sorted(maps.Keys(p.answers.trunksOf)) {
		img := p.answers.trunksOf[id]
		suspects = append(suspects, suspect{
			unit: id, put: func(d *damage, why string) { d.last = why }, repo: img.ref, what: img.blobs(), seen: "trunk ",
		})
	}
	if len(suspects) == 0 {
		return nil
	}
	if err := v.ask(ctx, suspects); err != nil {
		return err
	}
	for id, d := range v.found {
		delete(p.answers.trunksOf, id)
		delete(p.answers.lastTrunks, id)
		noted := p.damaged[id]
		noted.last = d.last
		p.damaged[id] = noted
	}
	return nil
}

// wholeHits are the hits that can be used.
func (p *Pass) wholeHits() map[string]plan.Hit {
	out := maps.Clone(p.answers.hits)
	for id, d := range p.damaged {
		h := out[id]
		if d.unit != "" {
			h.Unit = ""
		}
		if d.trunk != "" {
			h.Trunk = ""
		}
		out[id] = h
	}
	return out
}

// broken says which units are made again because of what is broken or another
// image, and why.
func (p *Pass) broken() map[string]string {
	out := map[string]string{}
	for _, u := range p.Units {
		switch {
		case refusal(p.answers.units[u.ID]) != nil:
			out[u.ID] = "what the registry has under its key is another image"
		case refusal(p.answers.trunks[u.ID]) != nil:
			out[u.ID] = "what the registry has under the key of what it stands on is another image"
		}
	}
	for id, d := range p.damaged {
		if why := cmp.Or(d.unit, d.trunk); why != "" {
			out[id] = "its image in the registry is broken: " + why
			if d.unit == "" {
				out[id] = "what it stands on in the registry is broken: " + why
			}
		}
	}
	return out
}

// lastImage gives a unit's newest image, if parts of it may be used again.
func (p *Pass) lastImage(u *graph.Unit) *picture {
	if p.damaged[u.ID] != (damage{}) {
		return nil
	}
	return p.answers.lastImages[u.ID]
}
