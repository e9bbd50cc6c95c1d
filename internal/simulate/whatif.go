package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/strata-build/strata/internal/githistory"
)

// Files is an [Edit] that gives files one content in every commit.
type Files map[string][]byte

// Paths are the files' names, sorted.
func (f Files) Paths() []string { return slices.Sorted(maps.Keys(f)) }

// File gives a file's content.
func (f Files) File(path string, _ []byte) ([]byte, bool) {
	data, ok := f[path]
	return data, ok
}

// strataFile is the project's file that wins over every other.
const strataFile = "strata.yaml"

// Difference is what other files would have changed.
type Difference struct {
	Files []string `json:"files"`
	Base  *Result  `json:"-"`    // with these files held as the newest commit has them
	With  *Result  `json:"with"` // with the others
	Saves Cost     `json:"saves"`
}

// WhatIf replays the history twice: with the files of an edit held as the newest
// commit has them, and as the edit has them, so that nothing but the difference
// of the two counts.
func WhatIf(ctx context.Context, h *githistory.History, o Options, edit Edit) (*Difference, error) {
	newest := newTrees(h.Prefix, nil)
	newest.tree = h.Commits[len(h.Commits)-1].Tree
	held := Files{}
	d := &Difference{Files: edit.Paths()}
	for _, name := range edit.Paths() {
		switch data, err := newest.ReadFile(name); {
		case err == nil:
			held[name] = data
		case name == o.File && o.Fallback != nil:
			held[name] = o.Fallback
		}
	}
	var err error
	o.Edit = held
	if d.Base, err = Run(ctx, h, o); err != nil {
		return nil, err
	}
	o.Edit = edit
	if _, is := edit.File(strataFile, nil); is {
		o.File, o.Fallback = strataFile, nil // it may take the place of another kind of project file
	}
	if d.With, err = Run(ctx, h, o); err != nil {
		return nil, fmt.Errorf("replaying with %v: %w", edit.Paths(), err)
	}
	d.Saves = minus(d.Base.Totals.Strata, d.With.Totals.Strata)
	return d, nil
}

func minus(a, b Cost) Cost {
	return Cost{Seconds: a.Seconds - b.Seconds, Pushed: a.Pushed - b.Pushed, Pulled: a.Pulled - b.Pulled, Built: a.Built - b.Built}
}

// Cost gives what all runs cost under the model of a name.
func (r *Result) Cost(model string) Cost {
	switch model {
	case "strata":
		return r.Totals.Strata
	case "rebuildEverything":
		return r.Totals.Rebuild
	case "dockerWarm":
		return r.Totals.Warm
	}
	return r.Totals.Cold
}

// Headline says in one line what was replayed.
func (r *Result) Headline() string {
	scheduled := 0
	for _, row := range r.Rows {
		if row.Scheduled {
			scheduled++
		}
	}
	text := r.Project
	if r.Line != "" {
		text += ", " + r.Line
	}
	text += fmt.Sprintf(": %s in %s", plural(r.Commits, "commit"), plural(int(r.Days()+0.5), "day"))
	if n := r.Commits - r.Planned(); n > 0 {
		text += fmt.Sprintf(", of which %d can't be planned", n)
	}
	switch scheduled {
	case 0:
		return text
	case 1:
		return text + ", 1 scheduled refresh"
	}
	return text + fmt.Sprintf(", %d scheduled refreshes", scheduled)
}
