package simulate

import (
	"maps"
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
		{"strata", "Strata", "cold runners; the registry keeps everything. Reused: nothing moves. Appended: the files of the tail are pushed. Built: the parent is pulled, the unit's own part pushed. That a rebuilt parent may come out the same, so that what stands on it stays, is not counted."},
		{"rebuildEverything", "rebuild everything", "every unit is built on every run, external images are pulled, all own layers are pushed."},
		{"dockerWarm", "docker, one warm machine", "an instruction cache that loses nothing: an instruction runs when it, what it copies, or anything before it in its stage is new. What ran is pushed, nothing is pulled."},
		{"dockerCold", "docker, cold runners", "the same, the cache being in the registry (mode=max, and it loses nothing): a unit of which anything runs first pulls all that it stands on; one of which nothing runs pulls nothing."},
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
}

// price is what one unit costs. Weights are what the model gives the
// instructions; they share the unit's figures among them.
type price struct {
	UnitBasis
	modelSeconds float64
	modelBytes   int64
	below        int64 // compressed bytes of what it stands on
}

func newPrices(e Estimates) *prices {
	p := &prices{est: e, timer: record.NewEstimator(e.Records), sizes: map[string]int64{}, units: map[*graph.Unit]*price{}, bases: map[string]UnitBasis{}}
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
func (p *prices) of(g *graph.Graph, u *graph.Unit, files [][]source.Entry) *price {
	if got, ok := p.units[u]; ok {
		return got
	}
	if len(p.units) > 512 {
		clear(p.units) // of graphs that are gone
	}
	pr := &price{UnitBasis: UnitBasis{Unit: u.ID, Layer: u.Layer}}
	for _, l := range u.Build.Lines {
		if l.Stage >= 0 {
			s, b := weigh(l.Text, inputsOf(u, files, l.Stage, l.Line))
			pr.modelSeconds += s
			pr.modelBytes += b
		}
	}
	pr.below = baseBytes
	for i, up := range u.Parents {
		if i == 0 {
			pr.below = 0
		}
		above := p.bases[up.ID]
		if parent := p.units[g.Unit(up.ID)]; parent != nil {
			pr.below += parent.below + above.Bytes
		}
	}
	pr.time(p, u)
	pr.size(p, u)
	p.units[u], p.bases[u.ID] = pr, pr.UnitBasis
	return pr
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
		if len(u.Parents) == 0 {
			pr.below = 0 // its external image is in the size
		}
		return
	}
	pr.Bytes, pr.SizeBasis = pr.modelBytes, BasisModel
}

// part gives the share of a unit's figures that an instruction has.
func (pr *price) part(text string, inputs [][]source.Entry) (float64, int64) {
	s, b := weigh(text, inputs)
	if pr.modelSeconds > 0 {
		s *= pr.Seconds / pr.modelSeconds
	}
	if pr.modelBytes > 0 {
		b = int64(float64(b) * float64(pr.Bytes) / float64(pr.modelBytes))
	}
	return s, b
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
	c.Strata.Seconds, c.Warm.Seconds, c.Cold.Seconds = idleSeconds, warmSeconds, coldSeconds
	work := s.docker.run(p, s.sketch)
	for _, step := range p.Plan.Steps {
		u := p.Graph.Unit(step.Unit)
		files := s.sketch.Files(u.ID)
		pr := s.prices.of(p.Graph, u, files)
		c.Rebuild.Add(Cost{Seconds: pr.Seconds, Pushed: pr.Bytes, Pulled: pulledBase(u, pr), Built: 1})
		c.Strata.Add(s.step(step, u, pr, files))
		ran := Cost{}
		for _, v := range work.vertices[u.ID] {
			if v.hit {
				continue
			}
			seconds, bytes := pr.part(v.text, v.inputs)
			ran.Seconds, ran.Pushed, ran.Built = ran.Seconds+seconds, ran.Pushed+bytes, 1
		}
		c.Warm.Add(ran)
		if ran.Built > 0 {
			ran.Pulled = pr.below + max(0, pr.Bytes-ran.Pushed)
			if ran.Pushed >= pr.Bytes && len(u.Parents) > 0 && freshParent(p, u, work) {
				ran.Pulled = 0 // it was built on the same machine just before
			}
			ran.Seconds += float64(ran.Pulled) / pullRate
		}
		c.Cold.Add(ran)
	}
	return c
}

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
		if slices.ContainsFunc(work.vertices[up.ID], func(v vertex) bool { return !v.hit }) {
			return true
		}
	}
	return false
}

// step gives what Strata's step with a unit costs.
func (s *simulation) step(step plan.Step, u *graph.Unit, pr *price, files [][]source.Entry) Cost {
	switch step.Action {
	case plan.Reuse, plan.Skip:
		return Cost{}
	case plan.Build:
		c := Cost{Seconds: pr.Seconds, Pushed: pr.Bytes, Pulled: pr.below, Built: 1}
		if len(step.Needs) > 0 {
			c.Pulled = 0 // it was built on the same machine just before
		}
		if pr.TimeBasis != BasisRecords {
			c.Seconds += float64(c.Pulled) / pullRate
		}
		return c
	}
	var tail int64
	for i, in := range u.Build.Inputs {
		if in.Tail {
			tail += size(files[i])
		}
	}
	c := Cost{Seconds: appendSeconds + float64(tail)/packRate, Pushed: int64(float64(tail) * packRatio)}
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
