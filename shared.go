package strata

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// shared holds what was fetched in a pass, by digest, so that nothing is
// fetched twice, and what is fetched ahead is found by whoever needs it.
type shared struct {
	mu       sync.Mutex
	locks    map[string]*sync.Mutex
	pictures map[digest.Digest]*picture
	lists    map[string]*inventory.Inventory
	parts    map[digest.Digest][2]string // blobs of inventories: small and full, "DIGEST SIZE"
	files    map[[32]byte][]byte         // contents that were kept in traces
	beside   []registry.Ref              // repositories that keep inventories of other images
	tails    map[string]*tailTimes       // what the times of tails follow from, by unit
	offers   map[int]openBlob            // of engines that have just built
	offered  int
}

// openBlob opens a blob without asking a registry, where it can.
type openBlob = build.OpenBlob

func newShared() *shared {
	return &shared{
		locks: map[string]*sync.Mutex{}, pictures: map[digest.Digest]*picture{},
		lists: map[string]*inventory.Inventory{}, parts: map[digest.Digest][2]string{}, offers: map[int]openBlob{},
		files: map[[32]byte][]byte{}, tails: map[string]*tailTimes{},
	}
}

// lock makes one goroutine at a time do something with an image.
func (s *shared) lock(what string, d digest.Digest) (unlock func()) {
	s.mu.Lock()
	name := what + " " + d.String()
	l := s.locks[name]
	if l == nil {
		l = &sync.Mutex{}
		s.locks[name] = l
	}
	s.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// offer lets blobs be read from an engine until withdraw is called. There may be
// nothing to offer.
func (s *shared) offer(open openBlob) (withdraw func()) {
	if open == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offered++
	id := s.offered
	s.offers[id] = open
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.offers, id)
	}
}

// openBlob opens a layer of an image: from an engine that has it, else from its
// registry.
func (s *shared) openBlob(ctx context.Context, c *registry.Client, img *picture, l ocispec.Descriptor) (io.ReadCloser, error) {
	s.mu.Lock()
	offers := slices.Collect(maps.Values(s.offers))
	s.mu.Unlock()
	for _, open := range offers {
		if b, err := open(ctx, l); err == nil {
			return b, nil
		}
	}
	return c.Blob(ctx, img.ref, l)
}

// picture reads an answer, or gives the picture that was read from it before.
func (s *shared) picture(a registry.Answer) (*picture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img := s.pictures[a.Desc.Digest]; img != nil {
		return img, nil
	}
	img, err := parsePicture(a)
	if err == nil {
		s.pictures[a.Desc.Digest] = img
	}
	return img, err
}

// inventory gives the inventory of an image, which find finds the first time.
func (s *shared) inventory(d digest.Digest, full bool, find func() (*inventory.Inventory, error)) (*inventory.Inventory, error) {
	what := "small"
	if full {
		what = "full"
	}
	defer s.lock(what, d)()
	name := what + " " + d.String()
	s.mu.Lock()
	inv := s.lists[name]
	s.mu.Unlock()
	if inv != nil {
		return inv, nil
	}
	inv, err := find()
	if err == nil {
		s.mu.Lock()
		s.lists[name] = inv
		s.mu.Unlock()
	}
	return inv, err
}

// noteInventory remembers where the two parts of an inventory are kept.
func (s *shared) noteInventory(d digest.Digest, parts []ocispec.Descriptor) {
	if len(parts) != 2 {
		return
	}
	var texts [2]string
	for i, p := range parts {
		texts[i] = p.Digest.String() + " " + strconv.FormatInt(p.Size, 10)
	}
	s.noteParts(d, texts[0], texts[1])
}

// noteParts is noteInventory for parts that are written as "DIGEST SIZE".
func (s *shared) noteParts(d digest.Digest, small, full string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[d] = [2]string{small, full}
}

func (s *shared) inventoryBlobs(d digest.Digest) (small, full string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[d][0], s.parts[d][1]
}

// hit gives the image of a unit that the registry holds.
func (p *Pass) hit(unit string) (*picture, error) { return p.known.picture(p.answers.units[unit]) }

// externalBase gives the external image behind a From; nil when it is no image.
func (p *Pass) externalBase(ctx context.Context, u *graph.Unit, f dockerfile.From) (*picture, error) {
	if f.Image == dockerfile.Scratch {
		return &picture{config: []byte(`{}`)}, nil
	}
	e, ok := externalOf(p.Graph, u, f)
	if !ok {
		return nil, nil
	}
	x := p.externals[e]
	defer p.known.lock("picture", x.digest)()
	p.known.mu.Lock()
	img := p.known.pictures[x.digest]
	p.known.mu.Unlock()
	if img != nil {
		return img, nil
	}
	a := p.Config.Client.Lookup(ctx, x.ref.WithDigest(x.digest))
	if a.Err != nil {
		return nil, a.Err
	}
	return p.known.picture(a)
}

// fetchBases starts to fetch the manifests of the external images that appends
// may go on, so that they come while the build contexts are read and the
// registry is asked for the keys.
func (p *Pass) fetchBases(ctx context.Context) {
	if !p.Config.Ahead {
		return
	}
	ctx = p.untilEnd(ctx)
	for _, u := range p.Units {
		if u.Build.Trunk.Empty && p.Graph.Parent(u, u.Build.Trunk.From) == nil {
			p.ahead.Go(func() { _, _ = p.externalBase(ctx, u, u.Build.Trunk.From) })
		}
	}
}

// untilEnd gives a context that ends with [Pass.endAhead].
func (p *Pass) untilEnd(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	p.stopAhead = append(p.stopAhead, cancel)
	return ctx
}

// fetchAhead starts to fetch what the appends of the plan to come will need, so
// that it comes while the plan is made. An error shows when it is needed.
func (p *Pass) fetchAhead(ctx context.Context) {
	if !p.Config.Ahead {
		return
	}
	ctx = p.untilEnd(ctx)
	for _, u := range p.Units {
		if p.answers.hits[u.ID].Unit != "" || len(u.Build.Trunk.Tail) == 0 {
			continue
		}
		p.ahead.Go(func() {
			img, err := p.likelyTrunk(ctx, u)
			if err != nil || img == nil || img.desc.Digest == "" {
				return
			}
			p.ahead.Go(func() { _ = img.loadConfig(ctx, p.Config.Client) })
			p.ahead.Go(func() { _, _ = p.tailTimes(ctx, u) })
			_, _ = p.inventoryOf(ctx, u, img, false)
		})
		for _, t := range u.Build.Trunk.Tail {
			if t.Copy == nil {
				continue
			}
			p.ahead.Go(func() {
				if img, err := p.there(ctx, u, t.Copy.From); err == nil && img != nil {
					_, _ = p.inventoryOf(ctx, u, img, true)
				}
			})
		}
	}
}

// endAhead ends what is fetched ahead and not needed any more, so that nothing
// of it is under way when the registry is closed.
func (p *Pass) endAhead() {
	for _, stop := range p.stopAhead {
		stop()
	}
	p.ahead.Wait()
}

// likelyTrunk gives the image that a unit's tail will go on, if the registry
// has it now.
func (p *Pass) likelyTrunk(ctx context.Context, u *graph.Unit) (*picture, error) {
	t := u.Build.Trunk
	if !t.Empty {
		if p.answers.hits[u.ID].Trunk == "" {
			return nil, nil
		}
		return p.known.picture(p.answers.trunks[u.ID])
	}
	return p.there(ctx, u, t.From)
}

// there gives the image behind a From, if the registry has it now.
func (p *Pass) there(ctx context.Context, u *graph.Unit, f dockerfile.From) (*picture, error) {
	if up := p.Graph.Parent(u, f); up != nil {
		if p.answers.hits[up.ID].Unit == "" {
			return nil, nil
		}
		return p.hit(up.ID)
	}
	return p.externalBase(ctx, u, f)
}
