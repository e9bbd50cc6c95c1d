package strata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/hostfile"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// trunk gives the image that a unit's tail goes on: the parent itself, the
// image under the trunk's key, or what an engine builds now. It is nil when the
// tail can't go on any of them and the engine has to build the whole. built says
// that it is the unit itself, published under the unit's own key.
func (r *runner) trunk(ctx context.Context, u *graph.Unit, step plan.Step, m *Made) (img *picture, built bool, err error) {
	t := u.Build.Trunk
	if step.Action == plan.Rebase {
		img, built, err = r.rebase(ctx, u, m)
		if img != nil || err != nil {
			return img, built, err
		}
		step.Action = plan.Build
	}
	switch {
	case step.Action == plan.Build && len(r.pass.Keys[u.ID].Trunk.Lines()) == 0 && !t.Empty:
		img, err = r.buildTrunk(ctx, u, m, r.pass.Keys[u.ID].Unit)
		return img, true, err
	case step.Action == plan.Build && !t.Empty:
		img, err = r.buildTrunk(ctx, u, m, r.pass.Keys[u.ID].Trunk)
		return img, false, err
	case !t.Empty:
		img, err = r.pass.known.picture(r.pass.answers.trunks[u.ID])
		return img, false, err
	}
	img, err = r.base(ctx, u, t.From)
	return img, false, r.pass.gonePin(u, err)
}

// base gives the image behind a From.
func (r *runner) base(ctx context.Context, u *graph.Unit, f dockerfile.From) (*picture, error) {
	if up := r.pass.Graph.Parent(u, f); up != nil {
		if img := r.image(up.ID); img != nil {
			return img, nil
		}
		return r.pass.hit(up.ID)
	}
	return r.pass.externalBase(ctx, u, f)
}

// buildTrunk lets the engine build a unit's trunk and publishes it under the
// recipe's key.
func (r *runner) buildTrunk(ctx context.Context, u *graph.Unit, m *Made, recipe key.Recipe) (*picture, error) {
	if img, err := r.builtMeanwhile(ctx, u, m, recipe); img != nil || err != nil {
		return img, err
	}
	return r.engineBuild(ctx, u, m, recipe, u.Build.Trunk.Source)
}

// builtMeanwhile gives the image that another run has published under a key
// since this one looked it up.
func (r *runner) builtMeanwhile(ctx context.Context, u *graph.Unit, m *Made, recipe key.Recipe) (*picture, error) {
	if r.pass.rebuild(u) {
		return nil, nil
	}
	a := r.lookup(ctx, u, r.pass.keyed(u, r.repo(u), recipe.ID()))
	if a.State == registry.Failed {
		return nil, fmt.Errorf("looking up %s: %w", u.ID, a.Err)
	}
	if hitDigest(a) == "" {
		return nil, nil
	}
	m.Action, m.Reason = plan.Reuse, "another run built it meanwhile"
	return r.pass.known.picture(a)
}

// buildWhole lets the engine build a unit, tail and all.
func (r *runner) buildWhole(ctx context.Context, u *graph.Unit, m *Made) (*picture, error) {
	return r.engineBuild(ctx, u, m, r.pass.Keys[u.ID].Unit, nil)
}

func (r *runner) engineBuild(ctx context.Context, u *graph.Unit, m *Made, recipe key.Recipe, source []byte) (*picture, error) {
	engine, err := r.openEngine(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the engine: %w", err)
	}
	job, err := r.job(u, source)
	if err != nil {
		return nil, err
	}
	sink := r.pass.Config.Sink
	if sink == nil {
		sink = event.Discard
	}
	var lists listings
	job.Local, job.List = true, lists.read
	if job.Times, err = r.times(ctx, u, recipe); err != nil {
		return nil, err
	}
	marks, blind := r.pass.marks(u, source != nil)
	job.Marks, job.NoCache = marks, job.NoCache || blind
	job.Files, job.Unchanged = r.pass.taken(u, source != nil)
	fresh := r.pass.freshSlot(u)
	job.NoCache = job.NoCache || fresh || r.pass.forced(u)
	res, err := engine.Build(ctx, job, sink)
	if err != nil {
		return nil, r.pass.gonePin(u, err)
	}
	if res.Release != nil {
		defer res.Release()
	}
	if fresh {
		r.pass.noteSlot(u)
	}
	defer r.pass.known.offer(res.Blob)()
	m.Steps = append(m.Steps, res.Steps...)
	built, err := readPicture(r.repo(u), res.Manifest, res.Body)
	if err != nil {
		return nil, err
	}
	if built.config, err = r.retimeBuilt(ctx, u, res.Config); err != nil {
		return nil, err
	}
	m.built = true
	if !res.Local {
		r.countPushed(ctx, u, built, m)
	}
	inv, trace, err := r.takeInventory(ctx, u, built, res, &lists)
	if err != nil {
		return nil, fmt.Errorf("listing the files of %s: %w", u.ID, err)
	}
	r.pass.known.keep(trace)
	whole := recipe.ID() == r.pass.Keys[u.ID].Unit.ID()
	if same := r.sameAsBefore(ctx, u, built, inv, res.Tables, recipe, whole); same != nil {
		m.Reason += "; it came out the same as before, so that stays"
		return same, r.adopt(ctx, u, same, recipe, whole)
	}
	// First writer wins: what another run has published meanwhile may have
	// children by now.
	if img, err := r.builtMeanwhile(ctx, u, m, recipe); img != nil || err != nil {
		return img, err
	}
	if res.Local {
		if err := r.pushLayers(ctx, u, built, res, m); err != nil {
			return nil, err
		}
	}
	return r.publish(ctx, u, m, publication{
		recipe: recipe, manifest: built.manifest, config: built.config, inventory: inv, trace: trace, tables: res.Tables, whole: whole,
	})
}

// adopt publishes an image that was there before under a new key.
func (r *runner) adopt(ctx context.Context, u *graph.Unit, img *picture, recipe key.Recipe, whole bool) error {
	tags, beside := []string{recipe.ID().Tag()}, []string{artifactTag(recipe.ID())}
	if whole {
		tags = append(tags, lastTag(u))
		if len(u.Parents) > 0 {
			id := r.contentID(u)
			tags, beside = append(tags, id.Tag()), append(beside, contentArtifactTag(id))
		}
	}
	// The image names its first key: what vouches for it under this one comes first.
	if err := r.keepAttachments(ctx, u, img, beside); err != nil {
		return err
	}
	return r.pointTo(ctx, u, img, tags...)
}

// keepAttachments writes the artifact that holds on to an image's recipe and
// inventory under the keys that it has now: the one under its first key may be
// pruned with that. It also says that the image is right there.
func (r *runner) keepAttachments(ctx context.Context, u *graph.Unit, img *picture, tags []string) error {
	var blobs []ocispec.Descriptor
	for _, mediaType := range slices.Sorted(maps.Keys(annotationFor)) {
		if d, ok := attachment(img.manifest.Annotations, annotationFor[mediaType]); ok {
			d.MediaType = mediaType
			blobs = append(blobs, d)
		}
	}
	c := r.pass.Config.Client
	if err := c.EnsureEmpty(ctx, r.repo(u)); err != nil {
		return fmt.Errorf("publishing %s: %w", u.ID, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, tag := range tags {
		g.Go(func() error {
			_, err := c.PutArtifact(ctx, r.repo(u).WithTag(tag), manifestOf(img.desc), unitArtifact, blobs, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("publishing %s: %w", u.ID, err)
	}
	return nil
}

// job is what the engine is asked to build; source nil means the Dockerfile as
// it is.
func (r *runner) job(u *graph.Unit, source []byte) (build.Job, error) {
	p := r.pass
	j := build.Job{
		Unit: u.ID, Dockerfile: source, Name: filepath.ToSlash(u.Dockerfile),
		Platform: u.Platform, Args: map[string]string{}, Contexts: map[string]string{}, Pins: map[string]digest.Digest{},
		Network: u.Network, NoCache: p.Config.NoCache,
		Compression: p.Config.Project.Compression, Repository: p.Config.engineName(r.repo(u)),
	}
	if seconds, ok := p.sourceDateEpoch(u); ok {
		j.SourceDateEpoch = &seconds
	}
	j.EngineEpoch = u.Build.Epoch.Source != ""
	var err error
	if j.CacheFrom, j.CacheTo, err = p.caches(u); err != nil {
		return j, err
	}
	if source == nil {
		j.Dockerfile, j.Target = p.sources[u.Dockerfile], u.Target
	}
	if err := p.hostFiles(u, &j); err != nil {
		return j, err
	}
	for name, value := range u.Args {
		j.Args[name] = value
	}
	for name, value := range u.Contexts {
		if !strings.Contains(value, ":") {
			dir, err := p.Config.Project.Access.Path(value)
			if err != nil {
				return j, fmt.Errorf("opening named context %q: %w", name, err)
			}
			j.Contexts[name] = dir
		} else if strings.HasPrefix(value, "docker-image://") {
			j.Contexts[name] = value
		}
	}
	for _, up := range u.Parents {
		img := r.image(up.ID)
		if img == nil {
			var err error
			if img, err = p.hit(up.ID); err != nil {
				return j, err
			}
		}
		name := p.Config.engineName(r.repo(p.Graph.Unit(up.ID)).WithDigest(img.desc.Digest))
		if up.Arg != "" {
			j.Args[up.Arg] = name
			if _, asked := j.Args[checkArg]; !asked {
				j.Args[checkArg] = "skip=InvalidDefaultArgInFrom" // the parent is always handed over
			}
		} else {
			j.Contexts[up.Context] = "docker-image://" + name
		}
	}
	for _, f := range p.froms(u) {
		if e, ok := externalOf(p.Graph, u, f); ok && f.Kind != "syntax" {
			x := p.externals[e]
			if f.Image == "" { // a named context, whose tag must not be read again
				j.Contexts[f.Context] = "docker-image://" + p.Config.engineName(x.source.WithDigest(x.index))
				continue
			}
			j.Pins[f.Image] = x.index
			if ref := x.source.WithDigest(x.index); x.source.Host == registry.EmbeddedHost && p.Config.engineName(ref) != ref.String() {
				// An engine elsewhere does not know the mirror on this machine.
				delete(j.Pins, f.Image)
				j.Contexts[dockerfile.ContextName(f.Image)] = "docker-image://" + p.Config.engineName(ref)
			}
		}
	}
	return j, nil
}

// freshSlot says whether an engine may not use its instruction cache for a unit,
// because a refresh slot began since the unit was last built: the slot is not
// part of any instruction, and a cached `apt-get upgrade` refreshes nothing. A
// build that failed midway begins anew: what it did not come to is still in the
// cache as the slot before has left it.
func (p *Pass) freshSlot(u *graph.Unit) bool {
	now := p.slots[u.ID].Name
	if now == "" || p.answers.last[u.ID].Recipe.Slot() == now {
		return false
	}
	if p.Config.Cache == "" {
		return true
	}
	done, err := os.ReadFile(p.slotFile(u))
	return err != nil || string(done) != now
}

// noteSlot remembers that an engine has built a unit without its cache in the
// unit's slot: what the cache has for it now is of this slot.
func (p *Pass) noteSlot(u *graph.Unit) {
	if p.Config.Cache != "" {
		_ = WriteFile(p.slotFile(u), []byte(p.slots[u.ID].Name)) // without it the next build begins anew, too
	}
}

func (p *Pass) slotFile(u *graph.Unit) string {
	name := sha256.Sum256([]byte(p.repos[u.ID].String() + " " + u.ID))
	return filepath.Join(p.Config.Cache, "slots", hex.EncodeToString(name[:8]))
}

// checkArg is the build argument that sets BuildKit's own checks.
const checkArg = "BUILDKIT_DOCKERFILE_CHECK"

// caches gives BuildKit's instruction cache of a unit, as the project asks for
// it. A registry cache without a name stands beside the unit's images.
func (p *Pass) caches(u *graph.Unit) (from, to []build.Cache, err error) {
	c := p.Config.Project.Cache
	if c.Type == "" || c.Type == "none" {
		return nil, nil, nil
	}
	read, write := maps.Clone(c.Attrs), maps.Clone(c.Attrs)
	if read == nil {
		read, write = map[string]string{}, map[string]string{}
	}
	for attr, value := range p.Config.CacheAttrs {
		if _, ok := c.Attrs[attr]; !ok {
			read[attr], write[attr] = value, value
		}
	}
	name := strings.TrimPrefix(lastTag(u), "strata-last-")
	switch c.Type {
	case "registry":
		if read["ref"] == "" {
			read["ref"] = p.Config.engineName(p.repos[u.ID].WithTag("strata-cache-" + name))
			write["ref"] = read["ref"]
		}
	case "local":
		folder, err := p.Config.Project.Access.ForWriting(c.Folder())
		if err != nil {
			return nil, nil, fmt.Errorf("opening the instruction cache: %w", err)
		}
		read, write = map[string]string{"src": filepath.Join(folder, name)}, map[string]string{"dest": filepath.Join(folder, name)}
	default:
		if read["scope"] == "" && c.Type == "gha" {
			read["scope"], write["scope"] = name, name
		}
	}
	if c.Mode != "" {
		write["mode"] = c.Mode
	}
	return []build.Cache{{Type: c.Type, Attrs: read}}, []build.Cache{{Type: c.Type, Attrs: write}}, nil
}

// hostFiles gives a job what the project names of this machine: its context, the
// Dockerfile's own ignore file, secrets and SSH agents.
func (p *Pass) hostFiles(u *graph.Unit, j *build.Job) error {
	access := p.Config.Project.Access
	var err error
	if j.ContextDir, err = access.Path(u.Context); err != nil {
		return fmt.Errorf("opening the build context: %w", err)
	}
	name := dockerfile.IgnoreFile(u.Dockerfile)
	switch j.Ignore, err = access.ReadFile(name, hostfile.MaxText); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading the ignore file: %w", named(name, err))
	case j.Ignore == nil:
		j.Ignore = []byte{} // an empty one is in force, too
	}
	for _, s := range u.Secrets {
		file := s.File
		if file != "" {
			if file, err = access.Path(file); err != nil {
				return fmt.Errorf("reading secret %q: %w", s.ID, err)
			}
		}
		j.Secrets = append(j.Secrets, build.Secret{ID: s.ID, Env: s.Env, File: file})
	}
	for _, agent := range u.SSH {
		id, _, _ := strings.Cut(agent, "=")
		var paths []string
		for _, path := range spec.SSHPaths(agent) {
			real, err := access.Path(path)
			if err != nil {
				return fmt.Errorf("forwarding the SSH agent %q: %w", id, err)
			}
			paths = append(paths, real)
		}
		if paths != nil {
			agent = id + "=" + strings.Join(paths, ",")
		}
		j.SSH = append(j.SSH, agent)
	}
	return nil
}

// takeInventory lists the files of what the engine has built: those of its
// base, whose list is known, and those of the layers on top, whose trace it gives
// as well.
func (r *runner) takeInventory(ctx context.Context, u *graph.Unit, built *picture, res build.Result, lists *listings) (*inventory.Inventory, *inventory.Trace, error) {
	var base *inventory.Inventory
	from := 0
	if img, err := r.base(ctx, u, u.Build.Trunk.From); err != nil {
		return nil, nil, err
	} else if img != nil && img.ref.Repo != "" && startsWith(built.manifest.Layers, img.manifest.Layers) {
		if base, err = r.pass.inventoryOf(ctx, u, img, true); err != nil {
			return nil, nil, err
		}
		from = len(img.manifest.Layers)
	}
	var layers []inventory.Layer
	says, err := built.diffIDs(ctx, r.pass.Config.Client)
	if err != nil {
		return nil, nil, err
	}
	for i, l := range built.manifest.Layers[from:] {
		layers = append(layers, inventory.Layer{Blob: l.Digest, MediaType: l.MediaType, DiffID: says[from+i], List: lists.of(l.Digest), Open: func() (io.ReadCloser, error) {
			if res.Blob != nil {
				if b, err := res.Blob(ctx, l); err == nil {
					return b, nil
				}
			}
			return r.pass.Config.Client.Blob(ctx, r.repo(u), l)
		}})
	}
	return inventory.FromLayersTraced(ctx, base, layers)
}

// startsWith says whether an image's layers begin with those of its base.
func startsWith(layers, base []ocispec.Descriptor) bool {
	if len(base) > len(layers) {
		return false
	}
	for i, l := range base {
		if layers[i].Digest != l.Digest {
			return false
		}
	}
	return true
}

// engineName is the name under which the engine reaches a repository.
func (c Config) engineName(ref registry.Ref) string {
	if c.EngineRef != nil {
		return c.EngineRef(ref)
	}
	return ref.String()
}
