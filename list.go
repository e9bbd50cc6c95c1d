package strata

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// Listed is one user-facing tag.
type Listed struct {
	Ref       registry.Ref
	Digest    digest.Digest
	Platforms string // "linux/amd64, linux/arm64"
	Size      int64  // compressed bytes of the layers of all platforms
}

// Tags lists the tags of the project's images that are the user's, by name.
func Tags(ctx context.Context, c Config) ([]Listed, error) {
	repos := map[registry.Ref]bool{}
	for _, u := range c.Project.Units() {
		repo, err := repository(u.Image, c.Push)
		if err != nil {
			return nil, err
		}
		repos[repo] = true
	}
	refs := map[registry.Ref]bool{}
	for repo := range repos {
		tags, err := c.Client.Tags(ctx, repo)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, t := range tags {
			if !strings.HasPrefix(t, "strata-") && !strings.HasPrefix(t, "sha256-") {
				refs[repo.WithTag(t)] = true
			}
		}
	}
	var mu sync.Mutex
	var out []Listed
	err := each(ctx, refs, 8, func(ctx context.Context, ref registry.Ref, _ bool) error {
		l, err := listOne(ctx, c.Client, ref)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		out = append(out, l)
		return nil
	})
	slices.SortFunc(out, func(a, b Listed) int { return strings.Compare(a.Ref.String(), b.Ref.String()) })
	return out, err
}

// listOne lists an image, or those of an index; what an index holds is not looked
// into where it is an index itself.
func listOne(ctx context.Context, c *registry.Client, ref registry.Ref) (Listed, error) {
	a := c.Lookup(ctx, ref)
	if a.Err != nil {
		return Listed{}, a.Err
	}
	l := Listed{Ref: ref, Digest: a.Desc.Digest}
	if !registry.IsIndex(a.Desc.MediaType) {
		img, err := parsePicture(a)
		if err != nil {
			return l, err
		}
		l.Size, _ = img.size()
		_, l.Platforms, _ = strings.Cut(img.manifest.Annotations[annotationUnit], "/")
		if i := strings.Index(l.Platforms, "linux/"); i >= 0 {
			l.Platforms = l.Platforms[i:]
		}
		return l, nil
	}
	var idx ocispec.Index
	if err := json.Unmarshal(a.Body, &idx); err != nil {
		return l, err
	}
	var names []string
	for _, m := range idx.Manifests {
		if m.Platform == nil || registry.IsIndex(m.MediaType) {
			continue
		}
		names = append(names, m.Platform.OS+"/"+m.Platform.Architecture)
		a := c.Lookup(ctx, ref.WithDigest(m.Digest))
		if a.Err != nil {
			return l, a.Err
		}
		img, err := parsePicture(a)
		if err != nil {
			return l, err
		}
		size, _ := img.size()
		l.Size += size
	}
	l.Platforms = strings.Join(names, ", ")
	return l, nil
}

// Inventory gives the full file list of an image for one platform: the one that
// is kept with it, or one that is made now and not kept.
func Inventory(ctx context.Context, c *registry.Client, ref registry.Ref, platform string) (*inventory.Inventory, error) {
	d, body, err := c.Platform(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	a := c.Lookup(ctx, ref.WithDigest(d.Digest))
	if a.Err != nil {
		return nil, a.Err
	}
	img, err := readPicture(a.Source, d, body)
	if err != nil {
		return nil, err
	}
	return readInventory(ctx, c, img)
}
