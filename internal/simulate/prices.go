package simulate

import (
	"maps"
	"math"
	"slices"
	"strings"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/source"
)

// Cost is what something takes: the time of all units together, as runners are
// paid for, and what goes to and comes from registries, compressed.
type Cost struct {
	Seconds float64 `json:"seconds"`
	Pushed  int64   `json:"pushedBytes"`
	Pulled  int64   `json:"pulledBytes"`
	Built   int     `json:"built"` // units that an engine works on
}

// Add adds another cost.
func (c *Cost) Add(o Cost) {
	c.Seconds += o.Seconds
	c.Pushed += o.Pushed
	c.Pulled += o.Pulled
	c.Built += o.Built
}

// Moved is what goes over the network.
func (c Cost) Moved() int64 { return c.Pushed + c.Pulled }

// Costs is the same run under each model.
type Costs struct {
	Strata  Cost `json:"strata"`
	Rebuild Cost `json:"rebuildEverything"`
	Warm    Cost `json:"dockerWarm"`
	Cold    Cost `json:"dockerCold"`
}

// Add adds the costs of another run.
func (c *Costs) Add(o Costs) {
	c.Strata.Add(o.Strata)
	c.Rebuild.Add(o.Rebuild)
	c.Warm.Add(o.Warm)
	c.Cold.Add(o.Cold)
}

// Model is one way of building, and what is assumed of it.
type Model struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	About string `json:"about"`
}

// Models states the ways of building that a run is priced under.
func Models() []Model {
	return []Model{
		{"strata", "Strata", "cold runners; the registry keeps everything. Reused: nothing moves. Appended: the files of the tail are pushed, or what a size that is given has for them; a time that is given is that of a build. Built: the parent is pulled, the unit's own part pushed. That a rebuilt parent may come out the same, so that what stands on it stays, is not counted."},
		{"rebuildEverything", "rebuild everything", "every unit is built on every run, external images are pulled, all own layers are pushed; a run costs beside that what one of Strata does."},
		{"dockerWarm", "docker, one warm machine", "an instruction cache that loses nothing: an instruction runs when it, what it copies, or anything before it in its stage is new. What ran is pushed, nothing is pulled."},
		{"dockerCold", "docker, cold runners", "the same, the cache being in the registry (mode=max, and it loses nothing): a unit of which anything runs first pulls all that it stands on, and what of its own does not run; one of which all runs pulls no parent that was built in the same run; one of which nothing runs pulls nothing."},
	}
}

// What the model assumes where nothing is known of a project. Where it says
// measured, docs/benchmarks.md or docs/simulate.md has the measurement.
const (
	// Three layers with two RUNs that install packages (Debian's torch and
	// scikit-learn) took 208.6 s and came to 1.1 GB, measured on 2 processors.
	installSeconds, installBytes = 100, 500_000_000
	// A compiler's run: assumed, not measured.
	compileSeconds, compileBytes = 30, 10_000_000
	// What a RUN costs at least, measured.
	runSeconds = 0.16
	// Files are packed at 145 MB a second (200 MB in 1.38 s), and to about a
	// quarter (200 MB of sources became 46 MB), measured.
	packRate, packRatio = 145e6, 0.23
	// An image is pulled and unpacked at 59 MB a second (1.13 GB in 19.2 s),
	// measured over loopback; networks are slower.
	pullRate = 59e6
	// A Debian image that a Dockerfile starts from, measured.
	baseBytes = 45_000_000
	// A whole run that finds nothing to do, and one that appends to one unit,
	// with nothing on the machine, measured.
	idleSeconds, appendSeconds = 0.045, 0.14
	// A run of docker that finds everything in its cache, warm and cold, measured.
	warmSeconds, coldSeconds = 0.24, 0.31
)

// Estimates is what is known of a project's times and sizes. The zero value
// knows nothing, and the model stands in.
type Estimates struct {
	Records []record.Record    // the newest first
	Seconds map[string]float64 // of building a unit of a layer, as the user gives it
	Bytes   map[string]int64   // of what a layer adds to an image, compressed
}

// The bases of a figure.
const (
	BasisGiven   = "given"
	BasisRecords = "records"
	BasisModel   = "model"
)

// UnitBasis says what the figures of a unit rest on.
type UnitBasis struct {
	Unit       string  `json:"unit"`
	Layer      string  `json:"layer"`
	Seconds    float64 `json:"seconds"` // of building it
	TimeBasis  string  `json:"timeBasis"`
	TimeDetail string  `json:"timeDetail,omitempty"` // "5 records", "same layer, other platform"
	Bytes      int64   `json:"bytes"`                // that it adds to what it stands on
	SizeBasis  string  `json:"sizeBasis"`
}

// prices knows what each unit costs.
type prices struct {
	est   Estimates
	timer *record.Estimator
	sizes map[string]int64 // whole images by unit, from records
	units map[*graph.Unit]*price
	bases map[string]UnitBasis // by unit, the newest
	below map[string]int64     // compressed bytes of what a unit stands on, the same way
}

// price is what one unit costs, its instructions taking some files.
type price struct {
	UnitBasis
	files        [][]source.Entry
	modelSeconds float64
	modelBytes   int64
	below        int64 // compressed bytes of what it stands on
}

func newPrices(e Estimates) *prices {
	p := &prices{est: e, timer: record.NewEstimator(e.Records), sizes: map[string]int64{}, units: map[*graph.Unit]*price{}, bases: map[string]UnitBasis{}, below: map[string]int64{}}
	for _, r := range e.Records {
		for _, u := range r.Units {
			if u.Size > 0 && u.Error == "" && p.sizes[u.ID] == 0 {
				p.sizes[u.ID] = u.Size
			}
		}
	}
	return p
}

// of gives the price of a unit; files are what its instructions take now.
func (p *prices) of(u *graph.Unit, files [][]source.Entry) *price {
	if got, ok := p.units[u]; ok && slices.EqualFunc(got.files, files, sameList) {
		got.below = p.standsOn(u, got)
		p.bases[u.ID], p.below[u.ID] = got.UnitBasis, got.below
		return got
	}
	if len(p.units) > 512 {
		clear(p.units) // of graphs that are gone
	}
	pr := &price{UnitBasis: UnitBasis{Unit: u.ID, Layer: u.Layer}, files: files}
	for _, l := range u.Build.Lines {
		if l.Stage >= 0 {
			s, b := weigh(l.Text, inputsOf(u, files, l.Stage, l.Line))
			pr.modelSeconds += s
			pr.modelBytes += b
		}
	}
	pr.time(p, u)
	pr.size(p, u)
	pr.below = p.standsOn(u, pr)
	p.units[u], p.bases[u.ID], p.below[u.ID] = pr, pr.UnitBasis, pr.below
	return pr
}

// sameList says whether two lists are one and the same, not only alike.
func sameList(a, b []source.Entry) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// standsOn gives the bytes of what a unit stands on; its parents have prices.
func (p *prices) standsOn(u *graph.Unit, pr *price) int64 {
	if len(u.Parents) == 0 {
		if pr.SizeBasis == BasisRecords {
			return 0 // its external image is in the size
		}
		return baseBytes
	}
	n := int64(0)
	for _, up := range u.Parents {
		n += p.below[up.ID] + p.bases[up.ID].Bytes
	}
	return n
}

func (pr *price) time(p *prices, u *graph.Unit) {
	if s, ok := p.est.Seconds[u.Layer]; ok {
		pr.Seconds, pr.TimeBasis = s, BasisGiven
		return
	}
	if e := p.timer.Estimate(u.Layer, u.Variant, u.Platform, string(plan.Build)); e.Basis != "" {
		pr.Seconds, pr.TimeBasis, pr.TimeDetail = e.Seconds, BasisRecords, e.Basis
		return
	}
	pr.Seconds, pr.TimeBasis = pr.modelSeconds, BasisModel
}

func (pr *price) size(p *prices, u *graph.Unit) {
	if b, ok := p.est.Bytes[u.Layer]; ok {
		pr.Bytes, pr.SizeBasis = b, BasisGiven
		return
	}
	whole, below, known := p.sizes[u.ID], int64(0), true
	for _, up := range u.Parents {
		known = known && p.sizes[up.ID] > 0
		below += p.sizes[up.ID]
	}
	if whole > 0 && known && whole > below {
		pr.Bytes, pr.SizeBasis = whole-below, BasisRecords
		return
	}
	pr.Bytes, pr.SizeBasis = pr.modelBytes, BasisModel
}

// shares gives each instruction's part of a unit's figures, in the proportions of
// the model; the parts add up to the whole. A RUN of which the model knows no size
// has what a size that is known leaves beside the files that are copied, if no
// other RUN has one.
func (pr *price) shares(vs []vertex) []Cost {
	seconds, bytes := make([]float64, len(vs)), make([]float64, len(vs))
	runs, known, all := 0, false, 0.0
	for i, v := range vs {
		s, b := weigh(v.text, v.inputs)
		seconds[i], bytes[i] = s, float64(b)
		all += bytes[i]
		if v.word() == "RUN" {
			runs++
			known = known || b > 0
		}
	}
	if more := float64(pr.Bytes) - all; runs > 0 && !known && more > 0 {
		for i, v := range vs {
			if v.word() == "RUN" {
				bytes[i] = more / float64(runs)
			}
		}
	}
	out := make([]Cost, len(vs))
	for i, s := range divide(pr.Seconds, weights(seconds, vs)) {
		out[i].Seconds = s
	}
	before, sum := int64(0), 0.0
	for i, b := range divide(float64(pr.Bytes), weights(bytes, vs)) {
		sum += b
		out[i].Pushed = int64(math.Round(sum)) - before
		before += out[i].Pushed
	}
	return out
}

// weights gives what something is shared by: where the model has nothing for any
// instruction, evenly the RUNs, else what copies, else all.
func weights(model []float64, vs []vertex) []float64 {
	for _, words := range [][]string{nil, {"RUN"}, {"COPY", "ADD"}, {"WORKDIR"}} {
		if slices.ContainsFunc(model, func(w float64) bool { return w > 0 }) {
			break
		}
		for i, v := range vs {
			if slices.Contains(words, v.word()) {
				model[i] = 1
			}
		}
	}
	return model
}

// divide shares a whole by weights.
func divide(whole float64, weights []float64) []float64 {
	all := 0.0
	for _, w := range weights {
		all += w
	}
	out := make([]float64, len(weights))
	for i, w := range weights {
		if w > 0 {
			out[i] = whole * (w / all)
		}
	}
	return out
}

// pulling is what pulling takes beside a unit's own time. That of a record has it
// in it.
func (pr *price) pulling(bytes int64) float64 {
	if pr.TimeBasis == BasisRecords {
		return 0
	}
	return float64(bytes) / pullRate
}

func inputsOf(u *graph.Unit, files [][]source.Entry, stage, line int) [][]source.Entry {
	var out [][]source.Entry
	for i, in := range u.Build.Inputs {
		if in.Stage == stage && in.Line == line {
			out = append(out, files[i])
		}
	}
	return out
}

// weigh gives what the model says of one instruction.
func weigh(text string, inputs [][]source.Entry) (float64, int64) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "RUN":
		switch classify(rest) {
		case installs:
			return installSeconds, installBytes
		case compiles:
			return compileSeconds, compileBytes
		}
		return runSeconds, 0
	case "COPY", "ADD":
		n := size(inputs...)
		return float64(n) / packRate, int64(float64(n) * packRatio)
	}
	return 0, 0
}

func size(lists ...[]source.Entry) int64 {
	var n int64
	for _, entries := range lists {
		for i := range entries {
			if entries[i].Kind == source.File {
				n += entries[i].Size
			}
		}
	}
	return n
}

// price gives the costs of a run under every model.
func (s *simulation) price(p *strata.Pass) Costs {
	var c Costs
	c.Strata.Seconds, c.Rebuild.Seconds, c.Warm.Seconds, c.Cold.Seconds = idleSeconds, idleSeconds, warmSeconds, coldSeconds
	work := s.docker.run(p, s.sketch)
	for _, step := range p.Plan.Steps {
		u := p.Graph.Unit(step.Unit)
		pr := s.prices.of(u, s.sketch.Files(u.ID))
		base := pulledBase(u, pr)
		c.Rebuild.Add(Cost{Seconds: pr.Seconds + pr.pulling(base), Pushed: pr.Bytes, Pulled: base, Built: 1})
		c.Strata.Add(s.step(step, u, pr, work.vertices[u.ID]))
		warm, cold := pr.docker(work.vertices[u.ID], freshParent(p, u, work))
		c.Warm.Add(warm)
		c.Cold.Add(cold)
	}
	return c
}

// docker gives what a unit costs under both models of docker; fresh says that
// what it stands on was worked on in the same run.
func (pr *price) docker(vs []vertex, fresh bool) (warm, cold Cost) {
	if !slices.ContainsFunc(vs, ran) {
		return Cost{}, Cost{}
	}
	warm.Built, cold.Built = 1, 1
	all := true
	for i, share := range pr.shares(vs) {
		if vs[i].hit {
			all = false
			cold.Pulled += share.Pushed
			continue
		}
		warm.Seconds, warm.Pushed = warm.Seconds+share.Seconds, warm.Pushed+share.Pushed
	}
	if !all || !fresh {
		cold.Pulled += pr.below // else it was built on the same machine just before
	}
	cold.Pushed, cold.Seconds = warm.Pushed, warm.Seconds+pr.pulling(cold.Pulled)
	return warm, cold
}

func ran(v vertex) bool { return !v.hit }

// pulledBase is what building a unit from nothing pulls: the external images of
// what stands on no other unit.
func pulledBase(u *graph.Unit, pr *price) int64 {
	if len(u.Parents) > 0 {
		return 0
	}
	return pr.below
}

// freshParent says whether something of a unit's parents ran in the same run.
func freshParent(p *strata.Pass, u *graph.Unit, work chains) bool {
	for _, up := range u.Parents {
		if slices.ContainsFunc(work.vertices[up.ID], ran) {
			return true
		}
	}
	return false
}

// step gives what Strata's step with a unit costs.
func (s *simulation) step(step plan.Step, u *graph.Unit, pr *price, vs []vertex) Cost {
	switch step.Action {
	case plan.Reuse, plan.Skip:
		return Cost{}
	case plan.Build:
		c := Cost{Seconds: pr.Seconds, Pushed: pr.Bytes, Pulled: pr.below, Built: 1}
		if len(step.Needs) > 0 {
			c.Pulled = 0 // it was built on the same machine just before
		}
		c.Seconds += pr.pulling(c.Pulled)
		return c
	}
	var tail int64
	for i, in := range u.Build.Inputs {
		if in.Tail {
			tail += size(pr.files[i])
		}
	}
	c := Cost{Seconds: appendSeconds + float64(tail)/packRate, Pushed: int64(float64(tail) * packRatio)}
	if pr.SizeBasis == BasisGiven {
		c.Pushed = 0
		for i, share := range pr.shares(vs) {
			if vs[i].tail {
				c.Pushed += share.Pushed
			}
		}
	}
	if e := s.prices.timer.Estimate(u.Layer, u.Variant, u.Platform, string(step.Action)); e.Basis != "" {
		c.Seconds = e.Seconds
	}
	return c
}

// listBases gives what the figures rest on, by unit.
func (p *prices) listBases() []UnitBasis {
	var out []UnitBasis
	for _, id := range slices.Sorted(maps.Keys(p.bases)) {
		out = append(out, p.bases[id])
	}
	return out
}
