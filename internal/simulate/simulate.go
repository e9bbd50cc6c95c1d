// Package simulate replays a project's git history: what each commit would have
// reused, appended and built, and what that would have cost beside other ways of
// building.
//
// It takes a history, what there is of records, and options, and gives a
// [Result]: a row a run, sums a layer, and the cost under four models, which
// [Models] states. Nothing is built, checked out or asked of a registry; the
// graph, the keys and the plan are those of a real pass ([strata.Replay]).
package simulate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/change"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/spec"
)

// Options say what is replayed. File and Platform must be set.
type Options struct {
	Dir      string // the project's folder, for names that are made from it
	File     string // the project's file, relative to its folder: "strata.yaml"
	Fallback []byte // its content for commits that have none; nil: those can't be planned
	Env      map[string]string
	Platform string // of the machine: "linux/amd64"

	Edit      Edit      // other contents of some files, in every commit; nil: none
	Estimates Estimates // what is known of times and sizes
	// Progress is told now and then how many of the commits are done; nil: nobody.
	Progress func(done, of int)
}

// Edit replaces files of the project in every commit of a replay.
type Edit interface {
	// Paths are the files that it may replace, from the project's folder.
	Paths() []string
	// File gives the new content in place of the old one; old is nil where the
	// commit does not have the file. It says no where the file stays as it is.
	File(path string, old []byte) ([]byte, bool)
}

// Step is what a run does with one unit.
type Step struct {
	Unit    string      `json:"unit"`
	Layer   string      `json:"layer"`
	Action  plan.Action `json:"action"`
	Reasons []string    `json:"reasons,omitempty"` // of what is not reused
}

// Row is one run: that of a commit, or a scheduled refresh between two.
type Row struct {
	Commit    string    `json:"commit"`
	Time      time.Time `json:"time"`
	Subject   string    `json:"subject,omitempty"`
	Scheduled bool      `json:"scheduled,omitempty"`
	Kind      string    `json:"kind,omitempty"` // see the Kind constants
	Steps     []Step    `json:"steps,omitempty"`
	Costs     Costs     `json:"costs,omitzero"`
	Error     string    `json:"error,omitempty"` // why the commit can't be planned
}

// The kinds of rows: why a run does what it does. The middle three are the
// classes of internal/change.
const (
	KindClean        = "clean build"
	KindNothing      = "no image input"
	KindEarlier      = "an earlier image again" // what it changes makes images that are there
	KindCode         = "code"
	KindDependencies = "dependencies"
	KindSystem       = "system"
	KindRefresh      = "scheduled refresh"
	KindFailed       = "can't be planned"
)

// Skip is a reason for which commits could not be planned.
type Skip struct {
	Reason  string   `json:"reason"`
	Commits []string `json:"commits"`
}

// Result is what a replay found.
type Result struct {
	Project  string      `json:"project"`
	Line     string      `json:"line,omitempty"` // branch, revision or range that was replayed
	First    time.Time   `json:"first"`
	Last     time.Time   `json:"last"`
	Commits  int         `json:"commits"`
	Runs     int         `json:"runs"` // commits that could be planned, and scheduled refreshes
	Rows     []Row       `json:"rows"`
	Skipped  []Skip      `json:"skipped,omitempty"`
	Layers   []LayerSum  `json:"layers"`
	Totals   Costs       `json:"totals"`
	Models   []Model     `json:"models"`
	Bases    []UnitBasis `json:"bases"` // what the figures of each unit rest on
	Notes    []string    `json:"notes,omitempty"`
	Unpinned []string    `json:"unpinned,omitempty"`

	last *strata.Sketch // of the newest commit that could be planned
	text []byte         // of the project's file there
}

// Days is how long the history is, at least one day.
func (r *Result) Days() float64 { return max(r.Last.Sub(r.First).Hours()/24, 1) }

// Planned says how many commits could be planned.
func (r *Result) Planned() int {
	n := 0
	for _, row := range r.Rows {
		if !row.Scheduled && row.Error == "" {
			n++
		}
	}
	return n
}

// Run replays a history.
func Run(ctx context.Context, h *githistory.History, o Options) (*Result, error) {
	s := &simulation{
		ctx: ctx, options: o, history: h, trees: newTrees(h.Prefix, o.Edit),
		replay: strata.NewReplay(o.Platform), prices: newPrices(o.Estimates), docker: newDocker(),
		result: &Result{Line: h.Line, Commits: len(h.Commits), First: h.Commits[0].Time, Last: h.Commits[len(h.Commits)-1].Time},
	}
	if err := s.firstLock(); err != nil {
		return nil, err
	}
	for i, c := range h.Commits {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if o.Progress != nil {
			o.Progress(i, len(h.Commits))
		}
		if err := s.commit(c); err != nil {
			return nil, err
		}
	}
	return s.finish()
}

// simulation is one replay on its way.
type simulation struct {
	ctx     context.Context
	options Options
	history *githistory.History
	trees   *trees
	replay  *strata.Replay
	prices  *prices
	docker  *docker
	result  *Result

	project  *spec.Project // of the last commit, and what it was read from
	text     []byte
	pins     *lock.File
	pinsText []byte
	sketch   *strata.Sketch
	now      time.Time
	ran      bool              // some run was made
	keys     map[string]key.ID // of the last run, by unit

	isVersioned bool // the project is

	borrowed  int // commits without a project file
	versioned int // commits whose version is part of keys
}

// firstLock reads the oldest lock of the history: what it pins is what images
// were before, as far as anyone can tell.
func (s *simulation) firstLock() error {
	for i, c := range s.history.Commits {
		if i > 0 && !touches(c, s.trees.path(lock.Name)) {
			continue
		}
		data, err := c.Tree.ReadFile(s.trees.path(lock.Name))
		if err != nil {
			continue
		}
		if f, err := lock.Parse(data); err == nil {
			s.replay.Else = f
			return nil
		}
	}
	return nil
}

func touches(c githistory.Commit, p string) bool {
	return slices.ContainsFunc(c.Changes, func(ch githistory.Change) bool { return ch.Path == p })
}

// commit makes the scheduled runs up to a commit, and then the commit's own. A
// commit that can't be planned is noted; any other error ends the replay.
func (s *simulation) commit(c githistory.Commit) error {
	if err := s.schedule(c.Time); err != nil {
		return err
	}
	changed, moved, err := s.trees.next(c)
	if err == nil {
		err = s.read(c, changed, moved)
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if err := s.history.Err(); err != nil {
		return err
	}
	row := Row{Commit: c.ID, Time: c.Time, Subject: c.Subject}
	if err != nil {
		row.Kind, row.Error = KindFailed, firstLine(err)
		s.result.Rows = append(s.result.Rows, row)
		return nil
	}
	s.now = c.Time
	return s.run(row, false)
}

// schedule makes the refreshes whose slots begin before a moment.
func (s *simulation) schedule(until time.Time) error {
	if s.sketch == nil || !s.ran {
		return nil
	}
	for {
		at := s.sketch.NextRefresh(s.now)
		if at.IsZero() || at.After(until) {
			return nil
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		s.now = at
		last := s.result.Rows[len(s.result.Rows)-1].Commit
		if err := s.run(Row{Commit: last, Time: at, Scheduled: true, Kind: KindRefresh}, true); err != nil {
			return err
		}
	}
}

func (s *simulation) run(row Row, refresh bool) error {
	p, err := s.replay.Run(s.sketch, s.now, refresh)
	if err != nil {
		return err
	}
	for _, step := range p.Plan.Steps {
		st := Step{Unit: step.Unit, Layer: step.Layer, Action: step.Action}
		if step.Action != plan.Reuse {
			st.Reasons = step.Reasons
		}
		row.Steps = append(row.Steps, st)
	}
	if row.Kind == "" {
		row.Kind = s.kind(p)
	}
	s.keys = stepKeys(p)
	row.Costs = s.price(p)
	s.ran = true
	s.result.Rows = append(s.result.Rows, row)
	s.result.last, s.result.text = s.sketch, s.text
	return nil
}

// kind says what class of change a commit's run is of.
func (s *simulation) kind(p *strata.Pass) string {
	if !s.ran {
		return KindClean
	}
	if p.Plan.Work() == 0 {
		if maps.Equal(s.keys, stepKeys(p)) {
			return KindNothing
		}
		return KindEarlier
	}
	places := change.Places(p.Graph)
	var facts []change.Fact
	for _, step := range p.Plan.Steps {
		if step.Action == plan.Reuse || step.Action == plan.Skip {
			continue
		}
		f := change.Fact{Unit: step.Unit, Place: places[step.Unit], Changes: step.Changes}
		if len(step.Changes) == 0 {
			f.Unknown = strings.Join(step.Reasons, "; ")
		}
		facts = append(facts, f)
	}
	switch change.Classify(facts).Class {
	case change.System:
		return KindSystem
	case change.Dependencies:
		return KindDependencies
	}
	return KindCode
}

func stepKeys(p *strata.Pass) map[string]key.ID {
	keys := map[string]key.ID{}
	for _, step := range p.Plan.Steps {
		keys[step.Unit] = step.Key
	}
	return keys
}

// read takes the project as a commit has it.
func (s *simulation) read(c githistory.Commit, changed []string, moved bool) error {
	before := s.sketch
	text, err := s.trees.ReadFile(s.options.File)
	if errors.Is(err, fs.ErrNotExist) && s.options.Fallback != nil {
		text, err = s.options.Fallback, nil
		s.borrowed++
	}
	if err != nil {
		return fmt.Errorf("reading %s: it is not there", s.options.File)
	}
	if s.project == nil || moved || string(text) != string(s.text) || s.touchesDockerfile(changed) {
		p, err := s.load(text)
		if err != nil {
			s.project = nil
			return err
		}
		s.project, s.text, s.isVersioned = p, text, versioned(p)
	}
	if err := s.readLock(); err != nil {
		return err
	}
	project := s.project
	if s.isVersioned {
		s.versioned++
		project = project.With(spec.Release{Version: c.ID[:12], Sha: c.ID[:12], Branch: s.history.Line})
	}
	sketch, err := s.replay.Read(s.ctx, project, s.pins, s.trees, before)
	if err != nil {
		return err
	}
	s.sketch = sketch
	return nil
}

func (s *simulation) load(text []byte) (*spec.Project, error) {
	return spec.Load(s.options.Dir, s.options.File, spec.LoadOptions{
		FS: s.trees.tree.FS(s.trees.prefix), Data: text, Env: s.options.Env,
	})
}

// touchesDockerfile says whether a commit may change what a project's file says
// without changing that file.
func (s *simulation) touchesDockerfile(changed []string) bool {
	files := map[string]bool{}
	for _, u := range s.project.Units() {
		files[s.trees.path(u.Dockerfile)] = true
	}
	return slices.ContainsFunc(changed, func(p string) bool { return files[p] })
}

// versioned says whether {version} is part of what the project builds, so that
// every commit changes it.
func versioned(p *spec.Project) bool {
	a, b := p.With(spec.Release{Version: "1", Sha: "1"}), p.With(spec.Release{Version: "2", Sha: "2"})
	return !slices.EqualFunc(a.Units(), b.Units(), func(x, y spec.Unit) bool {
		return maps.Equal(x.Args, y.Args) && maps.Equal(x.Labels, y.Labels) && maps.Equal(x.Contexts, y.Contexts)
	})
}

// readLock reads the commit's own lock, if it has one.
func (s *simulation) readLock() error {
	data, err := s.trees.ReadFile(lock.Name)
	if err != nil {
		s.pins, s.pinsText = nil, nil
		return nil
	}
	if s.pins != nil && string(data) == string(s.pinsText) {
		return nil
	}
	f, err := lock.Parse(data)
	if err != nil {
		return err
	}
	s.pins, s.pinsText = f, data
	return nil
}

// firstLine gives what is wrong in one line: of many mistakes the first, and how
// many more there are.
func firstLine(err error) string {
	var es *diag.Errors
	if errors.As(err, &es) && len(es.Findings) > 0 {
		f := es.Findings[0]
		f.Hint = ""
		text := f.String()
		if more := len(es.Findings) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
		return text
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// finish adds the sums and what there is to know about them.
func (s *simulation) finish() (*Result, error) {
	r := s.result
	if !s.ran && s.untracked() {
		return nil, diag.Hint(fmt.Errorf("the project is not tracked in the repository at %q", s.root()),
			"git add the project's folder there and commit it, or make it a repository of its own")
	}
	if !s.ran {
		reason := r.Rows[len(r.Rows)-1].Error
		return nil, diag.Hint(fmt.Errorf("none of %d commits can be planned; the newest: %s", r.Commits, reason),
			"strata plan must work on the newest commit; --what-if tries another project file on all of them")
	}
	r.Project = s.project0().Image
	r.Models, r.Unpinned = Models(), s.replay.Unpinned()
	r.sum(s.prices)
	r.skips()
	r.Notes = s.notes()
	return r, nil
}

// untracked says whether the project's folder is in none of the commits.
func (s *simulation) untracked() bool {
	return !slices.ContainsFunc(s.history.Commits, func(c githistory.Commit) bool {
		_, err := c.Tree.Dir(s.history.Prefix)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// root is the folder of the repository.
func (s *simulation) root() string {
	dir, err := filepath.Abs(s.options.Dir)
	if err != nil {
		return s.options.Dir
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return filepath.Clean(strings.TrimSuffix(dir, filepath.FromSlash(s.history.Prefix)))
}

func (s *simulation) project0() *spec.Project { return s.result.last.Graph().Project }

func (r *Result) skips() {
	at := map[string]int{}
	for _, row := range r.Rows {
		if row.Error == "" {
			continue
		}
		i, ok := at[row.Error]
		if !ok {
			i = len(r.Skipped)
			at[row.Error] = i
			r.Skipped = append(r.Skipped, Skip{Reason: row.Error})
		}
		r.Skipped[i].Commits = append(r.Skipped[i].Commits, row.Commit)
	}
}

// contentID names a list of texts.
func contentID(parts ...string) string {
	return digest.FromString(strings.Join(parts, "\x00")).Encoded()
}
