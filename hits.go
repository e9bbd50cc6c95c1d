package strata

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/registry"
)

// A tag is a claim that anybody who may push can make. What is found under one
// is used only if it says itself that it is what the tag is for.

// wanted is what an image has to be that is found under one of Strata's tags.
type wanted struct {
	ref      registry.Ref // the tag
	platform string
	key      key.ID               // of its recipe; "" is any
	content  key.ContentID        // its content key; "" where it is not found by that
	unit     func(id string) bool // whether the image may name this one
	voucher  string               // tag of the artifact that may vouch for the image; "" is none
}

// mismatch says why an image that was found is not used.
type mismatch struct {
	ref             registry.Ref
	expected, found string
	vouched         bool // an artifact beside the image can still say that it is right
}

// Error names the tag.
func (m *mismatch) Error() string {
	return fmt.Sprintf("%s is another image than its tag is for: expected %s, found %s", m.ref, m.expected, m.found)
}

func (m *mismatch) finding() diag.Finding {
	return diag.Finding{
		Severity: diag.Warning, Text: m.Error(),
		Hint: "it is not used, and `strata build` puts the tag right; whoever may push to the repository can have set it",
	}
}

// check decides whether a found image may be used. Every look-up whose answer
// would be built on, tagged or compared with comes here, so signatures belong here
// too. A nil answer allows it.
func (w wanted) check(a registry.Answer) *mismatch {
	wrong := func(expected, found string) *mismatch {
		return &mismatch{ref: w.ref, expected: expected, found: found}
	}
	if registry.IsIndex(a.Desc.MediaType) {
		return wrong("an image", "an index")
	}
	img, err := parsePicture(a)
	if err != nil {
		return wrong("an image", "a manifest that can't be read")
	}
	says := img.manifest.Annotations
	unit := says[annotationUnit]
	if t := img.manifest.ArtifactType; t != "" {
		return wrong("an image", "an artifact of the type "+t)
	}
	if digest.NewDigestFromEncoded(digest.SHA256, says[annotationKey]).Validate() != nil {
		return wrong("an image that names its key", "one without a key, which Strata has not made")
	}
	if unit != "" && !strings.HasSuffix(unit, "/"+w.platform) {
		return wrong("the platform "+w.platform, "the unit "+unit)
	}
	if p := img.manifest.Config.Platform; p != nil && !samePlatform(*p, w.platform) {
		return wrong("the platform "+w.platform, p.OS+"/"+p.Architecture)
	}
	// An image that came out the same as before stays under its first key, and gets
	// the new one as a further tag; of a layer that has another name now the first
	// name stays. The artifact beside the tag vouches for these.
	var m *mismatch
	content := key.ContentID(says[annotationContent])
	switch {
	case w.key != "" && says[annotationKey] != string(w.key):
		m = wrong("the key "+string(w.key), "the key "+says[annotationKey])
	case w.content != "" && content != "" && content != w.content:
		m = wrong("the content key "+string(w.content), "the content key "+string(content))
	case unit != "" && !w.unit(unit):
		m = wrong("one of this project's units", "the unit "+unit)
	}
	if m != nil {
		m.vouched = w.voucher != ""
	}
	return m
}

func samePlatform(p ocispec.Platform, platform string) bool {
	want := platformOf(platform)
	return p.OS == want.OS && p.Architecture == want.Architecture
}

// vouches says whether an artifact is the one that was put beside a tag for the
// image that was found there.
func vouches(artifact, image registry.Answer) bool {
	if artifact.State != registry.Hit {
		return false
	}
	held, err := parsePicture(artifact)
	return err == nil && held.manifest.ArtifactType == unitArtifact &&
		held.manifest.Subject != nil && held.manifest.Subject.Digest == image.Desc.Digest
}

// admit gives the answers with those made a miss that may not be used, each with
// its [mismatch] for the error. It asks for what may vouch for some of them, all
// at once.
func (p *Pass) admit(ctx context.Context, found []registry.Answer, by []wanted) ([]registry.Answer, error) {
	var asked []int
	var vouchers []registry.Ref
	refused := make([]*mismatch, len(found))
	for i, a := range found {
		if a.State != registry.Hit {
			continue
		}
		if refused[i] = by[i].check(a); refused[i] != nil && refused[i].vouched {
			asked = append(asked, i)
			vouchers = append(vouchers, by[i].ref.WithTag(by[i].voucher))
		}
	}
	for j, v := range p.Config.Client.Probe(ctx, vouchers) {
		if v.State == registry.Failed && !errors.Is(v.Err, registry.ErrCorrupt) {
			return nil, v.Err
		}
		if i := asked[j]; vouches(v, found[i]) {
			refused[i] = nil
		}
	}
	out := make([]registry.Answer, len(found))
	for i, a := range found {
		out[i] = a
		if refused[i] != nil {
			out[i] = registry.Answer{State: registry.Miss, Source: a.Source, Err: refused[i]}
		}
	}
	return out, nil
}

// refusal gives the mismatch that made an answer a miss; nil where it was none.
func refusal(a registry.Answer) *mismatch {
	var m *mismatch
	if a.State == registry.Miss && errors.As(a.Err, &m) {
		return m
	}
	return nil
}

// lookup looks an image up while the run goes on. What may not be used is told,
// and a miss.
func (r *runner) lookup(ctx context.Context, u *graph.Unit, w wanted) registry.Answer {
	a := r.pass.Config.Client.Direct().Lookup(ctx, w.ref)
	admitted, err := r.pass.admit(ctx, []registry.Answer{a}, []wanted{w})
	if err != nil {
		return registry.Answer{State: registry.Failed, Source: a.Source, Err: err}
	}
	if m := refusal(admitted[0]); m != nil {
		r.pass.emit(event.Event{Type: event.Warning, Unit: u.ID, Text: m.Error()})
	}
	return admitted[0]
}

// keyed is what has to be found under a recipe's key in a repository.
func (p *Pass) keyed(u *graph.Unit, repo registry.Ref, id key.ID) wanted {
	return wanted{ref: repo.WithTag(id.Tag()), platform: u.Platform, key: id, unit: p.twin(u), voucher: artifactTag(id)}
}

// contentKeyed is what has to be found under a content key.
func (p *Pass) contentKeyed(u *graph.Unit, id key.ContentID) wanted {
	return wanted{ref: p.repos[u.ID].WithTag(id.Tag()), platform: u.Platform, content: id, unit: p.twin(u), voucher: contentArtifactTag(id)}
}

// newest is what has to be found under the tag of a unit's newest image.
func (p *Pass) newest(u *graph.Unit) wanted {
	return wanted{ref: p.repos[u.ID].WithTag(lastTag(u)), platform: u.Platform, unit: p.sibling(u, func(string) bool { return true })}
}

// twin tells the units whose image a unit may share: those of its Dockerfile.
func (p *Pass) twin(u *graph.Unit) func(id string) bool {
	return p.sibling(u, func(dockerfile string) bool { return dockerfile == u.Dockerfile })
}

// sibling tells the project's units for the same platform whose Dockerfile will do.
func (p *Pass) sibling(u *graph.Unit, will func(dockerfile string) bool) func(id string) bool {
	return func(id string) bool {
		if id == u.ID {
			return true
		}
		o, ok := p.Config.Project.Unit(id)
		return ok && o.Platform == u.Platform && will(o.Dockerfile)
	}
}
