package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/packages"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// Update is what an external image becomes when its pin moves.
type Update struct {
	lock.Change
	Units     []string         `json:"units"` // that stand on it
	Platforms []PlatformUpdate `json:"platforms,omitempty"`
}

// PlatformUpdate is an [Update] on one platform. Times are when the images say
// that they were made, and zero where they don't.
type PlatformUpdate struct {
	Platform   string            `json:"platform"`
	Old        digest.Digest     `json:"old"`
	New        digest.Digest     `json:"new"`
	OldCreated time.Time         `json:"oldCreated,omitzero"`
	NewCreated time.Time         `json:"newCreated,omitzero"`
	Packages   []packages.Change `json:"packages"`
	Unknown    string            `json:"packagesUnknown,omitempty"` // why they can't be told
}

// Updates says what it means to move from one lock to another: for images that
// moved, what was installed and is now. Of each image no more is pulled than its
// package database takes, and nothing of one that was read before; without
// withPackages not even that. What can't be found out is told in its place.
func Updates(ctx context.Context, c Config, old, next *lock.File, withPackages bool) ([]Update, error) {
	c.Lock = next
	on, err := UnitsOn(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []Update
	for _, ch := range lock.Diff(old, next) {
		u := Update{Change: ch, Units: on[ch.Name]}
		if ch.Old != "" && ch.New != "" {
			u.Platforms = movedPlatforms(old, next, ch.Name)
		}
		out = append(out, u)
	}
	if !withPackages {
		return out, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range out {
		for j := range out[i].Platforms {
			g.Go(func() error { return c.compare(ctx, out[i].Name, &out[i].Platforms[j]) })
		}
	}
	return out, g.Wait()
}

func movedPlatforms(old, next *lock.File, name string) []PlatformUpdate {
	var out []PlatformUpdate
	platforms := map[string]bool{}
	for _, f := range []*lock.File{old, next} {
		for _, i := range f.Images {
			for p := range i.Platforms {
				platforms[p] = platforms[p] || i.Name == name
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(platforms)) {
		_, was, ok := old.Find(name, p)
		_, is, too := next.Find(name, p)
		if ok && too && was.Digest != is.Digest {
			out = append(out, PlatformUpdate{Platform: p, Old: was.Digest, New: is.Digest})
		}
	}
	return out
}

// compare finds out what has changed in an image on one platform. Only the end
// of the context is an error.
func (c Config) compare(ctx context.Context, name string, u *PlatformUpdate) error {
	ref, err := registry.ParseRef(name)
	if err != nil {
		return err
	}
	var before, after installed
	var wasErr, isErr error
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		u.OldCreated, before, wasErr = c.look(gctx, ref.WithDigest(u.Old))
		return nil
	})
	g.Go(func() error {
		u.NewCreated, after, isErr = c.look(gctx, ref.WithDigest(u.New))
		return nil
	})
	_ = g.Wait() // the errors are told with the platform
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case errors.Is(wasErr, registry.ErrNotFound):
		u.Unknown = "the old image is not in the registry any more"
	case wasErr != nil:
		u.Unknown = "the old image: " + wasErr.Error()
	case isErr != nil:
		u.Unknown = "the new image: " + isErr.Error()
	case before.unread != "" || after.unread != "":
		u.Unknown = before.unread
		if after.unread != "" {
			u.Unknown = after.unread
		}
	case before.db == nil && after.db == nil:
		u.Unknown = "the image has no package database"
	}
	if u.Packages = []packages.Change{}; u.Unknown == "" {
		u.Packages = append(u.Packages, packages.Diff(before.db, after.db)...)
	}
	return nil
}

// look gives when an image was made and what it has installed. One that its
// registry has no more may be known from what was built on it.
func (c Config) look(ctx context.Context, ref registry.Ref) (created time.Time, in installed, err error) {
	img, err := loadPicture(ctx, c.Client, ref)
	if errors.Is(err, registry.ErrNotFound) {
		if img := c.kept(ctx, ref); img != nil {
			in, err := readPackages(ctx, c, img)
			return time.Time{}, in, err
		}
	}
	if err != nil {
		return time.Time{}, in, err
	}
	var config struct {
		Created time.Time `json:"created"`
	}
	if json.Unmarshal(img.config, &config) == nil && config.Created.Unix() > 0 {
		created = config.Created
	}
	in, err = readPackages(ctx, c, img)
	return created, in, err
}

// kept looks for an image in the repositories of the project.
func (c Config) kept(ctx context.Context, ref registry.Ref) *picture {
	seen := map[registry.Ref]bool{}
	for _, u := range c.Project.Units() {
		for _, push := range []bool{false, true} {
			repo, err := repository(u.Image, push)
			if err != nil || seen[repo] {
				continue
			}
			seen[repo] = true
			if img := keptLayers(ctx, c.Client, repo, ref); img != nil {
				return img
			}
		}
	}
	return nil
}

// Rebuilds gives the steps that a lock makes necessary: those of units that
// stand on the images of the updates and that a build would not reuse.
func Rebuilds(ctx context.Context, c Config, next *lock.File, updates []Update) ([]plan.Step, error) {
	on := map[string]bool{}
	for _, u := range updates {
		for _, id := range u.Units {
			on[id] = on[id] || u.New != ""
		}
	}
	c.Lock = next
	p, err := Prepare(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("planning with the new pins: %w", err)
	}
	var out []plan.Step
	for _, s := range p.Plan.Steps {
		if on[s.Unit] && s.Action != plan.Reuse && s.Action != plan.Skip {
			out = append(out, s)
		}
	}
	return out, nil
}
