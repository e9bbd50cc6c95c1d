package strata

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/times"
)

// times gathers what the published times of a unit's layers follow from, before
// an engine builds it.
func (r *runner) times(ctx context.Context, u *graph.Unit, recipe key.Recipe) (build.Times, error) {
	stamps, err := r.pass.stamps(ctx, u)
	if err != nil {
		return build.Times{}, err
	}
	tables, err := r.tables(ctx, u)
	if err != nil {
		return build.Times{}, err
	}
	return build.Times{
		Stamps: stamps, Tables: tables,
		Below: func(ctx context.Context, open build.OpenBlob) (int64, error) { return r.newestBelow(ctx, u, open) },
		Last:  func(ctx context.Context) (*inventory.Inventory, error) { return r.lastFiles(ctx, u, recipe) },
	}, nil
}

// newestBelow gives the newest time of a file in the image that a unit's
// Dockerfile starts from, in seconds; 0 for none.
func (r *runner) newestBelow(ctx context.Context, u *graph.Unit, open build.OpenBlob) (int64, error) {
	img, err := r.base(ctx, u, u.Build.Trunk.From)
	if err != nil || img == nil || img.desc.Digest == "" {
		return 0, err
	}
	defer r.pass.known.offer(open)()
	inv, err := r.pass.inventoryOf(ctx, u, img, true)
	if err != nil {
		return 0, fmt.Errorf("listing the files of the image that %s starts from: %w", u.ID, err)
	}
	return inv.Newest(time.Now().Unix()), nil
}

// lastFiles gives the full inventory of what an engine built last for a unit:
// the image, or the trunk of it; nil when it isn't known.
func (r *runner) lastFiles(ctx context.Context, u *graph.Unit, recipe key.Recipe) (*inventory.Inventory, error) {
	last := r.pass.lastImage(u)
	if last == nil {
		return nil, nil
	}
	c := r.pass.Config.Client
	whole := recipe.ID() == r.pass.Keys[u.ID].Unit.ID()
	if t := digest.Digest(last.manifest.Annotations[annotationTrunk]); t != "" && !whole {
		img, err := loadPicture(ctx, c, last.ref.WithDigest(t))
		if last, err = lastOrNone(u, img, err); last == nil {
			return nil, err
		}
	}
	d, ok := attachment(last.manifest.Annotations, annotationFull)
	if !ok {
		return nil, nil
	}
	inv, err := pastInventory(ctx, c, last.ref, d)
	if inv, err = lastOrNone(u, inv, err); inv == nil || !inv.Describes(last.layerDigests()) {
		return nil, err
	}
	return inv, nil
}

// tables gives the times that the layers of a unit's images had where they were
// made: of its parents, of what these stand on, and of external images that
// Strata has made. What is not known is left out; such layers show their
// published times.
func (r *runner) tables(ctx context.Context, u *graph.Unit) (times.Tables, error) {
	out := times.Tables{}
	seen := map[digest.Digest]bool{}
	var add func(u *graph.Unit) error
	add = func(u *graph.Unit) error {
		for _, f := range u.Build.Froms {
			img, err := r.base(ctx, u, f)
			if err != nil {
				return err
			}
			if img == nil || img.desc.Digest == "" || seen[img.desc.Digest] {
				continue
			}
			seen[img.desc.Digest] = true
			if err := imageTables(ctx, r.pass.Config.Client, img, out); err != nil {
				return err
			}
			if up := r.pass.Graph.Parent(u, f); up != nil {
				if err := add(up); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, add(u)
}

// Tables gives the times that the layers of a unit's image had where they were
// made, as far as they are known, for an engine that is about to unpack it.
func (p *Pass) Tables(ctx context.Context, u *graph.Unit) times.Tables {
	r := p.newRunner()
	out, err := r.tables(ctx, u)
	if err != nil {
		out = times.Tables{} // its parents are not there as they are now
	}
	if img, err := p.hit(u.ID); err == nil {
		_ = imageTables(ctx, p.Config.Client, img, out) // without them it shows the published times
	}
	return out
}

// imageTables adds the tables that are kept with an image, and with the image
// that its tail was put on.
func imageTables(ctx context.Context, c *registry.Client, img *picture, out times.Tables) error {
	if err := ownTables(ctx, c, img, out); err != nil {
		return err
	}
	trunk := digest.Digest(img.manifest.Annotations[annotationTrunk])
	if trunk.Validate() != nil {
		return nil
	}
	a := c.Lookup(ctx, img.ref.WithDigest(trunk))
	if a.State == registry.Miss {
		return nil
	}
	if a.Err != nil {
		return a.Err
	}
	below, err := parsePicture(a)
	if err != nil {
		return nil // whatever it is, it has no tables
	}
	return ownTables(ctx, c, below, out)
}

// ownTables adds the tables that are kept with an image, in the artifact under
// its key. One that is gone, or broken, counts as none.
func ownTables(ctx context.Context, c *registry.Client, img *picture, out times.Tables) error {
	id := key.ID(img.manifest.Annotations[annotationKey])
	if id == "" {
		return nil
	}
	a := c.Lookup(ctx, img.ref.WithTag(artifactTag(id)))
	if a.State == registry.Failed && !errors.Is(a.Err, registry.ErrCorrupt) {
		return a.Err
	}
	if a.State != registry.Hit {
		return nil
	}
	held, err := parsePicture(a)
	if err != nil {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(held.manifest.Annotations[annotationTimes])
	if n := slices.IndexFunc(held.manifest.Layers, func(d ocispec.Descriptor) bool { return d.MediaType == times.MediaType }); n >= 0 {
		data, err = c.ReadBlob(ctx, held.ref, held.manifest.Layers[n])
	}
	if err != nil || len(data) == 0 {
		return nil
	}
	found, err := times.Decode(data)
	if err == nil {
		maps.Copy(out, found)
	}
	return nil
}

// stamps gives the files that an engine takes from a unit's build contexts the
// times under which they are handed over, and what is published for each.
func (p *Pass) stamps(ctx context.Context, u *graph.Unit) (times.Stamped, error) {
	out := times.Stamped{At: map[string]map[string]int64{}, Known: times.Known{}}
	byContext := map[string][]source.Entry{}
	for i, in := range u.Build.Inputs { // the tail's, too: an engine may have to make it
		byContext[in.Context] = append(byContext[in.Context], p.inputs[u.ID].Files[i]...)
	}
	for name, entries := range byContext {
		c, err := p.contextTimes(ctx, u, name, entries, p.answers.lastImages[u.ID] == nil)
		if err != nil {
			return out, err
		}
		stamps := times.Stamps(c.files, func(i int) int64 { return c.published[c.files[i].Path] })
		out.At[name] = map[string]int64{}
		for i, f := range c.files {
			out.At[name][f.Path] = stamps[i]
		}
		maps.Copy(out.Known, times.Know(stamps, func(i int) int64 { return c.published[c.files[i].Path] }))
	}
	return out, nil
}

// contextTimes are the files of one build context with their published times, by
// path in the context, links resolved.
type contextTimes struct {
	files     []times.ContextFile
	published map[string]int64
}

// contextTimes gives the files of a build context with the times that they have
// when no earlier image has them, and asks the history when they were changed
// last, if that is wanted.
func (p *Pass) contextTimes(ctx context.Context, u *graph.Unit, name string, entries []source.Entry, history bool) (contextTimes, error) {
	out := contextTimes{published: map[string]int64{}}
	kinds := map[string]source.Kind{}
	for _, e := range entries {
		at := realPath(e)
		if _, ok := kinds[at]; ok {
			continue
		}
		kinds[at] = e.Kind
		d := e.Digest
		if e.Kind == source.Symlink {
			d = digest.FromString(e.Link)
		}
		out.files = append(out.files, times.ContextFile{Path: at, Disk: e.Modified, Digest: d})
	}
	var asked, folders []string
	for _, f := range out.files {
		switch kind := kinds[f.Path]; {
		case kind == source.Dir:
			folders = append(folders, f.Path)
		case history && (kind == source.File || kind == source.Symlink):
			asked = append(asked, f.Path)
		}
	}
	commits, err := p.touched(ctx, p.contextOf(u, name).dir, asked)
	if cause := context.Cause(ctx); cause != nil {
		return out, cause
	}
	if err != nil {
		commits = nil // a history that can't be read is none
	}
	for i, f := range out.files {
		if kinds[f.Path] == source.Dir {
			continue
		}
		out.files[i].Commit = commitTime(commits, f.Path)
		out.published[f.Path] = p.publishedTime(out.files[i])
	}
	maps.Copy(out.published, times.Folders(out.published, folders))
	return out, nil
}

// publishedTime gives the time of a file that no earlier image has. For an engine
// elsewhere, which can't be given back what it would see on this machine, that
// is the one on disk, as in BuildKit: its steps compare it with what earlier
// ones have made.
func (p *Pass) publishedTime(f times.ContextFile) int64 {
	now := time.Now().Unix() // and not the time that slots are told by, which may be another
	if p.Config.Elsewhere {
		return max(times.Oldest, min(f.Disk/1e9, now))
	}
	head := int64(0)
	if v := p.Config.Version.Time; !v.IsZero() {
		head = v.Unix()
	}
	return times.Of(f, head, now)
}

func (p *Pass) touched(ctx context.Context, dir string, paths []string) (map[string]int64, error) {
	if p.Config.Touched == nil || len(paths) == 0 {
		return nil, nil
	}
	return p.Config.Touched(ctx, dir, paths)
}

// commitTime gives when a path was changed last, 0 where no history says so. A
// commit may say that it was made in 1970.
func commitTime(commits map[string]int64, at string) int64 {
	t, ok := commits[at]
	if !ok {
		return 0
	}
	return max(1, t)
}
