package strata

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
)

// Made is what came of one unit.
type Made struct {
	Unit     string
	Action   plan.Action // what was done; the plan's, unless the registry had it meanwhile
	Reason   string
	Ref      registry.Ref // by digest; zero when it was not made
	Size     int64        // compressed bytes of all blobs
	Blobs    int
	NewBlobs int   // that the registry did not have
	Pushed   int64 // bytes of those
	Seconds  float64
	Steps    []build.Step
	Err      error

	built   bool // an engine has built part of it
	rebased bool // its trunk was put on another parent
}

// Result is what a run did.
type Result struct {
	Units []Made // in the plan's order
	Tags  []Moved
	Held  []Held // tags that stay where a newer commit has set them
}

// Moved is a user-facing tag that was set.
type Moved struct {
	Ref      registry.Ref // with Tag and Digest
	Previous string       // digest before, "" when the tag is new or it is not known
}

// Failure gives the error of a unit that could not be made, with the unit's name
// in it once.
func (m Made) Failure() error {
	prefix := fmt.Sprintf("building %q: ", m.Unit)
	if m.Err == nil || strings.HasPrefix(m.Err.Error(), prefix) {
		return m.Err
	}
	return fmt.Errorf("%s%w", prefix, m.Err)
}

// UnitsError says that units could not be made. No user-facing tag was moved.
type UnitsError struct {
	Failed  []Made // with their own error
	Skipped int    // units that were not started because of them
}

// Error names every unit that failed with its error.
func (e *UnitsError) Error() string {
	s := ""
	for i, m := range e.Failed {
		if i > 0 {
			s += "\n"
		}
		s += m.Failure().Error()
	}
	return s
}

// Unwrap gives the failures.
func (e *UnitsError) Unwrap() []error {
	out := make([]error, len(e.Failed))
	for i, m := range e.Failed {
		out[i] = m.Err
	}
	return out
}

// Execute does what the plan says: every unit after its parents, then the
// user-facing tags, then the indexes. When any unit fails, what does not depend
// on it is still finished, but no tag is moved.
func (p *Pass) Execute(ctx context.Context) (Result, error) {
	c := p.Config
	if c.Push && c.Version.Unread != nil && !c.NoTags && !c.Force {
		return Result{}, diag.Hint(fmt.Errorf("which tags a newer commit has set can't be told: %w", c.Version.Unread),
			"%s; --force moves the tags all the same, --no-tags moves none", cmp.Or(diag.HintOf(c.Version.Unread), "make the repository readable"))
	}
	r := p.newRunner()
	defer p.endAhead()
	defer r.inBackground.Wait()
	start := time.Now()
	p.emit(event.Event{Type: event.RunStarted, Total: int64(len(p.Plan.Steps))})
	r.lookAtTags(ctx)
	var nodes []build.Node
	for _, s := range p.Plan.Steps {
		if s.Action != plan.Skip {
			nodes = append(nodes, build.Node{ID: s.Unit, Needs: parentIDs(p.Graph.Unit(s.Unit))})
		}
	}
	outcomes := build.Schedule(ctx, nodes, cmp.Or(p.Config.Parallel, 2), r.unit)
	res, err := r.collect(outcomes)
	if err == nil {
		err = r.gates(ctx)
	}
	if err == nil {
		res, err = r.release(ctx, res)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	e := event.Event{Type: event.RunFinished, Seconds: time.Since(start).Seconds()}
	if err != nil {
		e.Error = err.Error()
	}
	p.emit(e)
	return res, err
}

func (p *Pass) newRunner() *runner {
	return &runner{
		pass: p, made: map[string]*Made{}, images: map[string]*picture{}, byKey: map[registry.Ref]*picture{},
		before: map[registry.Ref]string{}, unknown: map[registry.Ref]error{},
	}
}

func parentIDs(u *graph.Unit) []string {
	var ids []string
	for _, up := range u.Parents {
		ids = append(ids, up.ID)
	}
	return ids
}

func (p *Pass) emit(e event.Event) {
	e.Time = time.Now()
	if p.Config.Sink != nil {
		p.Config.Sink.Emit(e)
	}
}

// runner holds the state of one run.
type runner struct {
	pass *Pass

	engineOnce sync.Once
	engine     build.Engine
	engineErr  error

	mu     sync.Mutex
	made   map[string]*Made
	images map[string]*picture // by unit; final images
	byKey  map[registry.Ref]*picture

	inBackground sync.WaitGroup          // look-ups beside the run
	before       map[registry.Ref]string // where tags pointed when the run began
	unknown      map[registry.Ref]error  // tags of which that could not be found out
	orders       orders                  // which commits have set the moving tags
	ordersErr    error
}

// openEngine opens the engine when it is first needed.
func (r *runner) openEngine(ctx context.Context) (build.Engine, error) {
	r.engineOnce.Do(func() {
		if r.pass.Config.Engine == nil {
			r.engineErr = errors.New("there is no engine")
			return
		}
		r.engine, r.engineErr = r.pass.Config.Engine(ctx)
	})
	return r.engine, r.engineErr
}

// unit makes one unit and tells about it.
func (r *runner) unit(ctx context.Context, id string) error {
	step, _ := r.pass.Plan.Step(id)
	u := r.pass.Graph.Unit(id)
	m := &Made{Unit: id, Action: step.Action, Reason: step.Reasons[0]}
	start := time.Now()
	r.pass.emit(event.Event{Type: event.UnitStarted, Unit: id, Action: string(step.Action), Text: step.Reasons[0]})
	img, err := r.make(ctx, u, step, m)
	m.Seconds, m.Err = time.Since(start).Seconds(), err
	done := event.Event{Type: event.UnitFinished, Unit: id, Action: string(m.Action), Text: m.Reason, Seconds: m.Seconds}
	if err == nil {
		m.Ref = r.repo(u).WithDigest(img.desc.Digest)
		m.Size, m.Blobs = img.size()
		done.Digest, done.Size = img.desc.Digest.String(), m.Size
	} else {
		done.Error = err.Error()
	}
	r.mu.Lock()
	r.made[id], r.images[id] = m, img
	r.mu.Unlock()
	r.pass.emit(done)
	return err
}

func (r *runner) repo(u *graph.Unit) registry.Ref { return r.pass.repos[u.ID] }

// image gives the final image of a unit that was made in this run.
func (r *runner) image(id string) *picture {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images[id]
}

// collect puts the outcomes in the plan's order.
func (r *runner) collect(outcomes []build.Outcome) (Result, error) {
	var res Result
	failed := &UnitsError{}
	for _, o := range outcomes {
		m := r.made[o.ID]
		if m == nil { // never started
			m = &Made{Unit: o.ID, Err: o.Err}
			m.Action = plan.Skip
			if o.Err != nil {
				m.Reason = o.Err.Error()
			}
		}
		res.Units = append(res.Units, *m)
		var skip *build.SkippedError
		switch {
		case errors.As(o.Err, &skip):
			failed.Skipped++
		case o.Err != nil:
			failed.Failed = append(failed.Failed, *m)
		}
	}
	if len(failed.Failed) > 0 {
		return res, failed
	}
	return res, nil
}

// make brings one unit about in the cheapest way that the plan found, or in a
// cheaper one if that has become possible since.
func (r *runner) make(ctx context.Context, u *graph.Unit, step plan.Step, m *Made) (*picture, error) {
	if step.Action == plan.Reuse {
		img, err := r.pass.hit(u.ID)
		if err == nil && r.pass.answers.wrongLast[u.ID] {
			err = r.pointTo(ctx, u, img, lastTag(u))
		}
		return img, err
	}
	// Variants that share a Dockerfile may share a key: what is one image is made
	// once, so that nobody's tags move when the other one comes last.
	name := r.repo(u).WithTag(r.pass.Keys[u.ID].Unit.ID().Tag())
	defer r.pass.known.lock(name.String(), "")()
	if twin := r.twin(name); twin != nil {
		m.Action, m.Reason = plan.Reuse, "it is the same as "+twin.manifest.Annotations[annotationUnit]
		return twin, r.pointTo(ctx, u, twin, lastTag(u))
	}
	img, err := r.makeNew(ctx, u, step, m)
	if err == nil {
		r.mu.Lock()
		r.byKey[name] = img
		r.mu.Unlock()
	}
	return img, err
}

// twin gives the image that this run has made under a key.
func (r *runner) twin(name registry.Ref) *picture {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byKey[name]
}

func (r *runner) makeNew(ctx context.Context, u *graph.Unit, step plan.Step, m *Made) (*picture, error) {
	if img, err := r.cutoff(ctx, u, step, m); img != nil || err != nil {
		return img, err
	}
	trunk, built, err := r.trunk(ctx, u, step, m)
	if err != nil {
		return nil, err
	}
	if trunk != nil {
		if built { // labels and all
			return trunk, nil
		}
		img, err := r.appendTail(ctx, u, trunk, m)
		var inexact *image.NotExact
		if !errors.As(err, &inexact) {
			return img, err
		}
		m.Action, m.Reason = plan.Build, "the engine makes its last files: "+inexact.Error()
		r.pass.emit(event.Event{Type: event.Message, Unit: u.ID, Text: m.Reason})
	}
	return r.buildWhole(ctx, u, m)
}

// cutoff looks a unit up again whose parents were made in this run, or of which
// nothing but the parents changed: under its content key, which names the parents by digest, it may be there although
// their keys are new.
func (r *runner) cutoff(ctx context.Context, u *graph.Unit, step plan.Step, m *Made) (*picture, error) {
	// An earlier run may have made the parents, as in a pipeline of several jobs.
	if len(step.Needs) == 0 && !step.Unless || r.pass.forced(u) || r.pass.damaged[u.ID].unit != "" {
		return nil, nil
	}
	c := r.contentID(u)
	a := r.lookup(ctx, u, r.pass.contentKeyed(u, c))
	if a.State == registry.Failed && !errors.Is(a.Err, registry.ErrCorrupt) {
		return nil, fmt.Errorf("looking up %s: %w", u.ID, a.Err)
	}
	if hitDigest(a) == "" {
		return nil, nil
	}
	img, err := parsePicture(a)
	if err != nil {
		return nil, err
	}
	m.Action, m.Reason = plan.Reuse, "its parents came out the same"
	return img, r.adopt(ctx, u, img, r.pass.Keys[u.ID].Unit, true)
}

// pointTo sets tags in a unit's repository to an image that is there already.
func (r *runner) pointTo(ctx context.Context, u *graph.Unit, img *picture, tags ...string) error {
	want := map[string]bool{}
	for _, t := range tags {
		want[t] = true
	}
	return each(ctx, want, 8, func(ctx context.Context, tag string, _ bool) error {
		_, err := r.pass.Config.Client.PutManifest(ctx, r.repo(u).WithTag(tag), img.desc.MediaType, img.body)
		if err != nil {
			return fmt.Errorf("setting the tag %s: %w", tag, err)
		}
		return nil
	})
}

// rebuild says whether the registry's image of a unit does not count: the unit
// is forced, or stands on one that is, or what the registry has is broken.
func (p *Pass) rebuild(u *graph.Unit) bool {
	d := p.damaged[u.ID]
	return d.unit != "" || d.trunk != "" || p.fresh(u)
}

// forced says whether the user named the unit to be built again.
func (p *Pass) forced(u *graph.Unit) bool { return p.Config.Rebuild && p.asked[u.ID] }

func manifestOf(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}
