package strata

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/registry"
)

// Pruned is what was deleted.
type Pruned struct {
	Tags      int   `json:"tags"`
	Manifests int   `json:"manifests"`
	Freed     int64 `json:"freed"`            // bytes; of another registry's only what the plan reckons with
	Spared    int   `json:"spared,omitempty"` // manifests that have come into use since the plan was made
	// Left are the user's tags that stay because the registry deletes no tags
	// and what they point to stays.
	Left []string `json:"left,omitempty"`
}

// Execute deletes what the plan says, unless it has come into use since: the tags
// are read once more before tags go, again before manifests do, and every few
// seconds from then on. Each deletion is told to done, with how many there are in
// all. Broken off at any point, it can be begun anew: see [prune.Plan.Steps].
func (x *Pruning) Execute(ctx context.Context, done func(n, total int)) (Pruned, error) {
	if x.Plan.Empty() {
		return Pruned{}, nil
	}
	client := x.pass.Config.Client
	for _, repo := range x.repos {
		if repo.Host == registry.EmbeddedHost {
			continue
		}
		if err := client.CanDelete(ctx, repo); err != nil {
			return Pruned{}, err
		}
	}
	d := &deleting{x: x, client: client, told: done, spared: map[prune.ID]bool{}}
	err := d.run(ctx)
	d.out.Spared = len(d.spared)
	slices.Sort(d.out.Left)
	return d.out, err
}

// Deletions are carried out so many at a time, and when the tags were last read
// longer ago than this they are read again before the next ones.
const (
	chunkSize  = 64
	checkAgain = 2 * time.Second
)

// deleting is one execution.
type deleting struct {
	x      *Pruning
	client *registry.Client
	told   func(n, total int)

	mu     sync.Mutex
	out    Pruned
	done   int
	total  int
	spared map[prune.ID]bool
}

func (d *deleting) run(ctx context.Context) error {
	steps := d.x.Plan.Steps()
	for _, s := range steps {
		for _, one := range s {
			if !d.byCollecting(one) {
				d.total++
			}
		}
	}
	phase, checked := "", time.Time{}
	for _, step := range steps {
		step = slices.DeleteFunc(step, d.byCollecting)
		for chunk := range slices.Chunk(step, chunkSize) {
			now := "tags"
			if chunk[0].Tag == "" {
				now = "manifests"
			}
			if now != phase && phase != "manifests" || time.Since(checked) > checkAgain {
				if err := d.check(ctx); err != nil {
					return err
				}
				checked = time.Now()
			}
			phase = now
			all := map[prune.Deletion]bool{}
			for _, one := range chunk {
				all[one] = true
			}
			err := each(ctx, all, atOnce/2, func(ctx context.Context, one prune.Deletion, _ bool) error { return d.one(ctx, one) })
			if err != nil {
				return err
			}
		}
	}
	for _, i := range d.x.Plan.Items {
		if i.Goes && !d.spared[i.ID] && d.x.found.refs[i.Repo].Host != registry.EmbeddedHost {
			d.out.Freed += i.Frees
		}
	}
	return nil
}

// byCollecting says whether something goes when garbage is collected, because no
// tag leads to it any more.
func (d *deleting) byCollecting(one prune.Deletion) bool {
	return one.Tag == "" && d.x.found.refs[one.Repo].Host == registry.EmbeddedHost
}

// check reads the tags once more and decides again: what has come into use since
// is spared. Tags that are gone meanwhile still count, for what they pointed to
// is what is being deleted.
func (d *deleting) check(ctx context.Context) error {
	x := d.x
	for _, repo := range x.repos {
		tags, err := d.client.ListTags(ctx, repo)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		tags = slices.DeleteFunc(tags, func(t registry.TagInfo) bool {
			old, known := x.found.tags[t.Ref]
			return known && (t.Digest != "" && t.Digest == old.Digest || t.Digest == "" && !prune.Moving(t.Ref.Tag))
		})
		if err := x.found.readTags(ctx, repo, tags); err != nil {
			return err
		}
		want := map[prune.ID]bool{}
		for _, t := range tags {
			if now, ok := x.found.tags[t.Ref]; ok {
				want[prune.ID{Repo: now.Repo, Digest: now.Digest}] = true
			}
		}
		if err := x.found.read(ctx, want); err != nil {
			return err
		}
	}
	now := prune.Decide(x.input())
	d.mu.Lock()
	defer d.mu.Unlock()
	goes := map[prune.ID]bool{}
	for _, i := range now.Items {
		goes[i.ID] = i.Goes
	}
	for _, i := range x.Plan.Items {
		if i.Goes && !goes[i.ID] {
			d.spared[i.ID] = true
		}
	}
	return nil
}

// one deletes a tag or a manifest that is not spared.
func (d *deleting) one(ctx context.Context, one prune.Deletion) error {
	repo := d.x.found.refs[one.Repo]
	d.mu.Lock()
	spared := d.spared[one.ID]
	d.mu.Unlock()
	expired := one.Tag != "" && prune.User(one.Tag)
	if spared && !expired {
		return d.tell(0, 0)
	}
	if one.Tag == "" {
		err := d.client.Delete(ctx, repo.WithDigest(one.Digest))
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return err
		}
		return d.tell(0, 1)
	}
	ref := repo.WithTag(one.Tag)
	at, err := d.client.Direct().Resolve(ctx, ref)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return d.tell(0, 0)
	case err != nil:
		return err
	case at.Digest != one.Digest: // somebody has set it since
		return d.tell(0, 0)
	}
	err = d.client.Delete(ctx, ref)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return d.tell(0, 0)
	case err != nil && registry.CannotDelete(err):
		// It goes with its manifest, if that goes.
		if expired && !d.goes(one.ID) {
			d.mu.Lock()
			d.out.Left = append(d.out.Left, one.Tag)
			d.mu.Unlock()
		}
		return d.tell(0, 0)
	case err != nil:
		return err
	}
	return d.tell(1, 0)
}

func (d *deleting) goes(id prune.ID) bool {
	return slices.ContainsFunc(d.x.Plan.Items, func(i prune.Item) bool { return i.ID == id && i.Goes }) && !d.spared[id]
}

func (d *deleting) tell(tags, manifests int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out.Tags += tags
	d.out.Manifests += manifests
	d.done++
	if d.told != nil {
		d.told(d.done, d.total)
	}
	return nil
}

// Collect frees what the embedded registry holds and no tag leads to any more. It
// needs the registry for itself; while another process has it open, the garbage
// waits.
func (x *Pruning) Collect(ctx context.Context, e *registry.Embedded, wait, minAge time.Duration) (registry.GCResult, error) {
	held, err := KeptByHistory(ctx, x.pass.Config.Client, e, x.pass.Config.Now)
	if err != nil {
		return registry.GCResult{}, err
	}
	for _, i := range x.Plan.Items {
		if !i.Goes {
			held[i.Digest] = true
		}
	}
	return e.GC(ctx, registry.GCOptions{Wait: wait, Hold: held, MinAge: minAge})
}
