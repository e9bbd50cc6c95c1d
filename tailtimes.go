package strata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/times"
)

// The published times of a tail's files follow the rule of package times; there
// is no engine here whose times would have to be told apart.

// tailTimes is what the times of one tail follow from.
type tailTimes struct {
	last     *inventory.Inventory // of the last tail's files; nil without one
	contexts map[string]contextTimes
	made     int64 // of what the tail makes itself, at least
	// twice says that the tail copies a file once more that the trunk has copied, and
	// that its time is not known from the last tail: then base, the full inventory
	// of the trunk, tells it.
	twice  bool
	base   *inventory.Inventory
	now    int64            // when the run began
	latest *int64           // the user's SOURCE_DATE_EPOCH
	newest map[string]int64 // by folder: of what is in it
}

// on says on which image the tail is put: what it makes is newer than all of that.
func (t *tailTimes) on(inv *inventory.Inventory) {
	if below := inv.Newest(t.now); below > 0 {
		t.made = max(t.made, below+1)
	}
	if inv.Full() {
		t.base = inv
	}
}

// lastTail gives the files of a unit's last tail; nil when they are not known. It
// is fetched once in a pass. An image of which a blob is gone has had its times all
// the same.
func (p *Pass) lastTail(ctx context.Context, u *graph.Unit) (*inventory.Inventory, error) {
	last := p.answers.lastImages[u.ID]
	if last == nil {
		return nil, nil
	}
	d, ok := attachment(last.manifest.Annotations, annotationTailFiles)
	if !ok {
		d, ok = attachment(last.manifest.Annotations, annotationFull) // an engine has built the whole
	}
	if !ok {
		return nil, nil
	}
	inv, err := p.known.inventory(d.Digest, true, func() (*inventory.Inventory, error) {
		return pastInventory(ctx, p.Config.Client, last.ref, d)
	})
	return lastOrNone(u, inv, err)
}

// pastInventory reads the inventory of a last image, twice where it came broken, which
// may have been on the way.
func pastInventory(ctx context.Context, c *registry.Client, repo registry.Ref, d ocispec.Descriptor) (*inventory.Inventory, error) {
	inv, err := readInventoryBlob(ctx, c, repo, d)
	if errors.Is(err, registry.ErrCorrupt) {
		inv, err = readInventoryBlob(ctx, c, repo, d)
	}
	return inv, err
}

// lastOrNone takes a last image of which something is gone or broken for none. Any
// other failure is one: without the last image's times a file that changed could come
// out older than it was.
func lastOrNone[T any](u *graph.Unit, v *T, err error) (*T, error) {
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrCorrupt), errors.Is(err, inventory.ErrDamaged):
		return nil, nil
	}
	return nil, fmt.Errorf("reading the times of the last image of %s: %w", u.ID, err)
}

// tailTimes gathers what the times of a unit's tail follow from, once in a pass.
func (p *Pass) tailTimes(ctx context.Context, u *graph.Unit) (*tailTimes, error) {
	defer p.known.lock("tail times "+u.ID, "")()
	p.known.mu.Lock()
	gathered := p.known.tails[u.ID]
	p.known.mu.Unlock()
	if gathered == nil {
		var err error
		if gathered, err = p.gatherTailTimes(ctx, u); err != nil {
			return nil, err
		}
		p.known.mu.Lock()
		p.known.tails[u.ID] = gathered
		p.known.mu.Unlock()
	}
	t := *gathered
	t.newest = map[string]int64{}
	return &t, nil
}

func (p *Pass) gatherTailTimes(ctx context.Context, u *graph.Unit) (*tailTimes, error) {
	last, err := p.lastTail(ctx, u)
	if err != nil {
		return nil, err
	}
	t := &tailTimes{last: last, contexts: map[string]contextTimes{}, now: time.Now().Unix(), made: times.Oldest}
	if seconds, ok := p.sourceDateEpoch(u); ok {
		t.latest = &seconds
	}
	byContext := map[string][]source.Entry{}
	copied := map[[2]string]digest.Digest{} // by the trunk
	for i, in := range u.Build.Inputs {
		if in.Tail {
			byContext[in.Context] = append(byContext[in.Context], p.inputs[u.ID].Files[i]...)
			continue
		}
		for _, e := range p.inputs[u.ID].Files[i] {
			copied[[2]string{in.Context, realPath(e)}] = e.Digest
		}
	}
	known := digests(t.last)
	for name, entries := range byContext {
		for _, e := range entries {
			if d, ok := copied[[2]string{name, realPath(e)}]; ok && d != "" && d == e.Digest && !known[d] {
				t.twice = true
			}
		}
	}
	for name, entries := range byContext {
		// Where there was an image before, git is not asked, which takes as long as all
		// the rest: what is as it was keeps its time, and what is not was changed by
		// the commit at hand or one since.
		c, err := p.contextTimes(ctx, u, name, entries, p.answers.lastImages[u.ID] == nil)
		if err != nil {
			return nil, err
		}
		t.contexts[name] = c
	}
	if slices.ContainsFunc(u.Build.Trunk.Tail, dockerfile.TailCommand.HasText) {
		t.made, err = p.dockerfileTime(ctx, u)
	}
	return t, err
}

// digests are those of an inventory's files.
func digests(inv *inventory.Inventory) map[digest.Digest]bool {
	out := map[digest.Digest]bool{}
	if inv == nil {
		return out
	}
	for e := range inv.All() {
		if e.Kind == inventory.File {
			out[e.Digest()] = true
		}
	}
	return out
}

// dockerfileTime is the time of what a tail makes itself: that of the text which
// says so.
func (p *Pass) dockerfileTime(ctx context.Context, u *graph.Unit) (int64, error) {
	if u.Inline != nil || p.Config.Files != nil {
		return times.Oldest, nil
	}
	file := p.path(u.Dockerfile)
	info, err := os.Stat(file)
	if err != nil {
		return times.Oldest, nil // it has been read; whoever took it away changed no image
	}
	f := times.ContextFile{Path: filepath.Base(file), Disk: info.ModTime().UnixNano(), Digest: digest.FromBytes(p.sources[u.Dockerfile])}
	commits, err := p.touched(ctx, filepath.Dir(file), []string{f.Path})
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if err == nil {
		f.Commit = commitTime(commits, f.Path)
	}
	return p.publishedTime(f), nil
}

// date is the hook of an append.
func (t *tailTimes) date(d image.Dated) int64 {
	at := t.of(d)
	if d.Kind != inventory.Dir {
		for dir := path.Dir(d.Path); t.newest[dir] < at; dir = path.Dir(dir) {
			t.newest[dir] = at
			if dir == "." {
				break
			}
		}
	}
	return at
}

func (t *tailTimes) of(d image.Dated) int64 {
	its := d.Modified == 0 && !d.Made // of an archive, or of an image
	if d.Made && d.Kind != inventory.Dir {
		if all := t.newest["."]; all >= d.Time {
			d.Time = all + 1
		}
	}
	switch {
	case t.latest != nil && d.Made:
		return *t.latest
	case t.latest != nil:
		return min(d.Time, *t.latest)
	case its:
		return d.Time
	case d.Kind == inventory.Dir && t.newest[d.Path] > 0:
		return t.newest[d.Path]
	}
	if t.base != nil && d.Kind == inventory.File {
		if e := t.base.Lookup(d.Path); e.Kind == d.Kind && e.Digest() == d.Digest {
			return e.Time // the same file: what was compiled from it stays valid
		}
	}
	before := inventory.Entry{}
	if t.last != nil {
		before = t.last.Lookup(d.Path)
	}
	switch {
	case before.Kind != d.Kind && t.last != nil && d.Kind != inventory.Dir:
		// It may have been there in an earlier image than the last.
		return times.Since(0, d.Time, d.Modified, t.now)
	case before.Kind != d.Kind:
		return d.Time
	case d.Kind == inventory.Dir, d.Kind == inventory.File && before.Digest() == d.Digest,
		d.Kind == inventory.Symlink && before.Link == d.Link:
		if d.Made && d.Kind != inventory.Dir && before.Time < d.Time {
			return d.Time // what it stands on has become newer
		}
		return max(before.Time, times.Oldest)
	}
	return times.Since(before.Time, d.Time, d.Modified, t.now)
}

// table says which engine's times the published ones of a tail stand for: those
// on disk, and for what the tail has made itself, now.
func tailTable(done *image.Appended, now time.Time) *times.Table {
	t := &times.Table{}
	dates := done.Dates()
	var files []times.ContextFile
	var published []int64
	for _, d := range dates {
		if d.Kind != inventory.Dir {
			t.Newest = max(t.Newest, d.Time)
		}
		if d.Modified != 0 {
			files = append(files, times.ContextFile{Path: d.Path, Disk: d.Modified, Digest: d.Digest})
			published = append(published, d.Time)
		}
	}
	stamps := times.Stamps(files, func(i int) int64 { return published[i] })
	at := map[string]int64{}
	for i, f := range files {
		at[f.Path] = stamps[i]
	}
	for _, d := range dates { // sorted by path
		real, ok := at[d.Path]
		if d.Made {
			real, ok = now.UnixNano(), true
		}
		if ok {
			t.Paths = append(t.Paths, times.Dated{Path: d.Path, Real: real, Published: d.Time})
		}
	}
	return t
}
