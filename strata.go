// Package strata is the one pass that every command takes, read from top to
// bottom: read the project, order its units, gather what they are made from,
// compute their keys, ask the registry, decide, and, unless the caller only
// wanted to look, act.
//
// It takes everything it needs from outside in a [Config]: no environment,
// clock, terminal or working directory is read here. What happens on the way is
// told as events.
package strata

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/slot"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/spec"
)

// Config is what a pass works with. It is not changed.
type Config struct {
	Project  *spec.Project
	Client   *registry.Client
	Platform string // of this machine: "linux/amd64"
	Now      time.Time
	Sink     event.Sink
	Cache    string // folder for what can be made again; "" keeps nothing

	// SourceDateEpoch is what the environment of whoever runs this says; "" says
	// nothing.
	SourceDateEpoch string

	Files    Files      // where the project's folder is read from; nil: the disk
	Lock     *lock.File // pins of external images; nil: each is resolved now
	Push     bool       // look up and publish in the image's own registry, not the embedded one
	Units    []string   // patterns of the units that are asked for; none: all
	Rebuild  bool       // build the units that are asked for whatever the registry holds
	Verify   bool       // make sure that images which are reused are whole, not only those that something new stands on
	Refresh  bool       // count a slot that has turned at once, whatever `stale` says
	Version  Version
	Stat     *source.StatCache
	Estimate func(layer, variant, platform string, a plan.Action) *plan.Estimate
	// Emulated says whether an engine has to emulate the platform; an error
	// says that it can't.
	Emulated func(platform string) (bool, error)

	// Engine opens the engine; it is called once, and only when something has to
	// be built. Only the acting part of a pass uses what follows.
	Engine   func(context.Context) (build.Engine, error)
	Ahead    bool // fetch what acting will need while the plan is made
	Parallel int  // units at once; 0 means 2
	NoCache  bool // the engine ignores its own instruction cache
	Force    bool // protected tags may move
	NoTest   bool // tests of layers are not run before tags move
	NoTags   bool // the units are made and tested, and a later run moves the tags
	// Compare says whether the first commit is newer than the second (above 0),
	// older (below 0), or whether that can't be told from the history (0). Nil
	// means that it can't.
	Compare func(ctx context.Context, first, second string) (int, error)
	// Touched gives when files below a folder were changed last, in seconds, as its
	// history tells it; what it does not know is left out. Nil knows nothing.
	Touched func(ctx context.Context, dir string, paths []string) (map[string]int64, error)
	// Elsewhere says that an engine is not in this process: what Strata publishes
	// then has the times that its steps would compare.
	Elsewhere bool
	// Record gives the record of a run that has made every unit and is about to
	// move its tags; it is kept beside the images. Nil keeps none.
	Record func(Result) (id string, data []byte, err error)
	// EngineRef gives the name under which the engine reaches a repository; nil
	// means under its own.
	EngineRef func(registry.Ref) string
	// CacheAttrs adds to the attributes of BuildKit's instruction cache that the
	// project does not set, such as a token. They are given to the engine alone.
	CacheAttrs map[string]string
}

// Files is a project's folder that is not on disk: the tree of a commit. Paths
// are as the project's file writes them.
type Files interface {
	ReadFile(path string) ([]byte, error)
	// Select gives what a selection takes from the build context in dir, under
	// the ignore rules of a Dockerfile, where one is named.
	Select(ctx context.Context, dir, dockerfile string, s source.Selection) ([]source.Entry, error)
}

// Version is what the source code is called.
type Version struct {
	Name     string // "1.4.0", "v1.4.0-3-gabc1234": the {version} of tags
	Revision string // full commit
	Branch   string
	Time     time.Time // the commit's; zero without one
	Dirty    bool
	Source   string // URL of the repository, without credentials
	Unread   error  // why the commit of a repository that is there is not known; nil where there is none
}

// Pass is a project with everything that was found out about it, and the plan.
// It is immutable once [Prepare] has returned.
type Pass struct {
	Config   Config
	Graph    *graph.Graph
	Units    []*graph.Unit // asked for and what they stand on, parents first
	Wanted   []*graph.Unit
	Plan     plan.Plan
	Keys     map[string]key.Keys
	Warnings []diag.Finding

	asked     map[string]bool         // IDs of the units that were named
	repos     map[string]registry.Ref // where the results of each unit are kept
	externals externals
	sources   map[string][]byte    // Dockerfiles by path
	slots     map[string]slot.Slot // that the units are taken from
	due       map[string]string    // units of an earlier slot -> the slot that has begun
	inputs    map[string]key.Input
	contexts  contexts
	answers   answers
	damaged   map[string]damage // by unit
	known     *shared

	ahead     sync.WaitGroup // what is fetched ahead
	stopAhead []context.CancelFunc
}

// Prepare goes the whole way up to the plan. It writes nothing but the cache.
func Prepare(ctx context.Context, c Config) (*Pass, error) {
	p := &Pass{Config: c, known: newShared()}
	if err := p.readGraph(ctx); err != nil {
		return nil, err
	}
	p.fetchBases(ctx)
	if err := p.readContexts(ctx); err != nil {
		p.endAhead()
		return nil, err
	}
	p.warnOfRemotes()
	p.warnOfGit()
	p.warnOfPins()
	if err := p.probe(ctx); err != nil {
		p.endAhead()
		return nil, err
	}
	if err := p.decide(); err != nil {
		p.endAhead()
		return nil, err
	}
	return p, nil
}

// readGraph reads the Dockerfiles and the external images that they name, and
// orders the units.
func (p *Pass) readGraph(ctx context.Context) error {
	c := p.Config
	asked, err := c.Project.Select(c.Units...)
	if err != nil {
		return err
	}
	files, err := p.readDockerfiles()
	if err != nil {
		return err
	}
	if err := p.order(files, asked, nil); err != nil {
		return err
	}
	if err := p.nameRepositories(); err != nil {
		return err
	}
	if err := p.resolveExternals(ctx); err != nil {
		return err
	}
	// A base image's environment and ONBUILD triggers are part of what a
	// Dockerfile says: where there are any, it is read once more with them.
	if p.externals.matter() {
		if err := p.order(files, asked, p.externals.base(p.Graph)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pass) order(files map[string]*dockerfile.File, asked []spec.Unit, base graph.Base) error {
	g, err := graph.New(p.Config.Project, files, graph.Options{
		BuildPlatform: p.Config.Platform, Base: base, SourceDateEpoch: p.Config.SourceDateEpoch,
	})
	if err != nil {
		return err
	}
	if err := checkEpochs(g); err != nil {
		return err
	}
	p.Graph, p.Wanted = g, nil
	var ids []string
	p.asked = map[string]bool{}
	for _, u := range asked {
		ids = append(ids, u.ID())
		p.asked[u.ID()] = true
	}
	if p.Config.Rebuild {
		ids = g.On(ids)
	}
	for _, id := range ids {
		p.Wanted = append(p.Wanted, g.Unit(id))
	}
	p.Units = g.Closure(ids)
	return nil
}

// nameRepositories says where the results of each unit are kept.
func (p *Pass) nameRepositories() error {
	p.repos = map[string]registry.Ref{}
	for _, u := range p.Units {
		repo, err := repository(u.Image, p.Config.Push)
		if err != nil {
			return err
		}
		p.repos[u.ID] = repo
	}
	return nil
}

// decide makes the plan.
func (p *Pass) decide() error {
	c := p.Config
	in := plan.Input{
		Graph: p.Graph, Wanted: p.Wanted, Units: p.Units, Keys: p.Keys,
		Hits: p.wholeHits(), Broken: p.broken(), Last: p.answers.last, Trunks: p.answers.lastTrunks, Due: p.due, Estimate: c.Estimate,
		Rebuild: map[string]bool{}, Emulated: map[string]bool{}, Inexact: map[string]string{},
	}
	if c.Rebuild {
		for _, u := range p.Wanted {
			in.Rebuild[u.ID] = true
		}
	}
	for _, u := range p.Units {
		if c.Emulated == nil {
			break
		}
		if _, ok := in.Emulated[u.Platform]; ok {
			continue
		}
		emulated, err := c.Emulated(u.Platform)
		in.Emulated[u.Platform] = emulated || err != nil
	}
	p.Plan = plan.Make(in)
	for _, s := range p.Plan.Steps {
		if !s.Emulated {
			continue
		}
		if _, err := c.Emulated(s.Platform); err != nil {
			return fmt.Errorf("planning %s: %w", s.Unit, err)
		}
	}
	return nil
}

// repository says where the results of a run are kept: with push in the
// image's own registry, else in the embedded one. That is never among the mirrors,
// where a FROM of any project on this machine finds its bases.
func repository(image string, push bool) (registry.Ref, error) {
	name := image
	if !hasHost(image) {
		if push {
			return registry.Ref{}, diag.Hint(fmt.Errorf("the image %q names no registry", image),
				"write it with a host, for example image: ghcr.io/user/%s", image)
		}
		name = registry.EmbeddedHost + "/" + image
	}
	ref, err := registry.ParseRef(name)
	if err != nil {
		return ref, err
	}
	ref = ref.Repository()
	if !push {
		ref = ref.Local()
	}
	return ref, registry.CheckName(image, ref.Local())
}
