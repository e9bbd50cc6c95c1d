package strata

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/image"
)

// oldest is the time of an image of which nothing says a later one: zip and
// whatever else counts as DOS did can't hold anything before 1980 in any time
// zone.
var oldest = time.Date(1980, 2, 1, 0, 0, 0, 0, time.UTC)

// lastEpoch is the last second that a config, whose times have four digits for
// the year, can hold.
const lastEpoch = 253402300799

// sourceDateEpoch gives the SOURCE_DATE_EPOCH that a user has asked for: the
// build argument of the unit, else of the environment, else the default in its
// Dockerfile. There is none where nobody asks, and where only the engine can find
// out what is asked for.
func (p *Pass) sourceDateEpoch(u *graph.Unit) (int64, bool) {
	seconds, err := strconv.ParseInt(u.Build.Epoch.Value, 10, 64)
	return seconds, err == nil
}

// checkEpochs tells of every SOURCE_DATE_EPOCH that can't be meant.
func checkEpochs(g *graph.Graph) error {
	var problems diag.List
	told := map[string]bool{}
	for _, u := range g.Units {
		e := u.Build.Epoch
		seconds, err := strconv.ParseInt(e.Value, 10, 64)
		if e.Value == "" || e.None || e.Source != "" || err == nil && seconds >= 0 && seconds <= lastEpoch {
			continue
		}
		pos, from := u.Pos, "among the build arguments of "+u.ID
		switch {
		case u.Ambient:
			pos, from = diag.Pos{}, "in the environment"
		case e.Line > 0:
			pos, from = diag.Pos{File: u.Dockerfile, Line: e.Line}, "in the Dockerfile"
		}
		if told[pos.String()+from] {
			continue
		}
		told[pos.String()+from] = true
		problems.Errorf(pos, "write the seconds since 1970, as `git log -1 --format=%ct` gives them",
			"%s=%s %s is no time", dockerfile.EpochArg, strconv.Quote(e.Value), from)
	}
	return problems.Err()
}

// created is the time that a unit's config and history say: the user's
// SOURCE_DATE_EPOCH, else the newest of when the newest refresh slot among the
// unit and its parents began and when the image that it is put on was created.
// It follows from what goes in alone, so that every machine writes the same.
func (p *Pass) created(u *graph.Unit, below *picture) time.Time {
	if seconds, ok := p.sourceDateEpoch(u); ok {
		return time.Unix(seconds, 0).UTC()
	}
	t := oldest
	if s := p.newestSlot(u); s.After(t) {
		t = s
	}
	if below != nil {
		if c := createdAt(below.config); c.After(t) {
			t = c
		}
	}
	return t.UTC()
}

// newestSlot gives when the newest refresh slot among a unit and its parents
// began; the zero time without one.
func (p *Pass) newestSlot(u *graph.Unit) time.Time {
	t := p.slots[u.ID].Start
	for _, up := range u.Parents {
		if s := p.newestSlot(p.Graph.Unit(up.ID)); s.After(t) {
			t = s
		}
	}
	return t
}

// createdAt gives the time that a config says, in whole seconds; the zero time
// without one.
func createdAt(config []byte) time.Time {
	var c struct {
		Created *time.Time `json:"created"`
	}
	if json.Unmarshal(config, &c) != nil || c.Created == nil {
		return time.Time{}
	}
	return c.Created.UTC().Truncate(time.Second)
}

// retimeBuilt is retime for the config that an engine gave.
func (r *runner) retimeBuilt(ctx context.Context, u *graph.Unit, config []byte) ([]byte, error) {
	base, err := r.base(ctx, u, u.Build.Trunk.From)
	if err != nil {
		return nil, err
	}
	if base != nil && base.desc.Digest != "" {
		if err := base.loadConfig(ctx, r.pass.Config.Client); err != nil {
			return nil, err
		}
	}
	if u.Build.Epoch.Source != "" && engineSaid(config) {
		return r.pass.hideCredentials(config, base)
	}
	return r.pass.retime(u, config, base)
}

// retime sets the times in a unit's config, which may be those of a build on
// some day, to when the unit was created. The history of what it stands on stays.
func (p *Pass) retime(u *graph.Unit, config []byte, below *picture) ([]byte, error) {
	inherited, err := inheritedEntries(below)
	if err != nil {
		return nil, err
	}
	return image.Retime(config, inherited, p.created(u, below))
}

// hideCredentials leaves the times of a config alone.
func (p *Pass) hideCredentials(config []byte, below *picture) ([]byte, error) {
	inherited, err := inheritedEntries(below)
	if err != nil {
		return nil, err
	}
	return image.HideCredentials(config, inherited)
}

// inheritedEntries counts those of a history that are of what an image stands on.
func inheritedEntries(below *picture) (int, error) {
	if below == nil {
		return 0, nil
	}
	return image.Entries(below.config)
}

// engineSaid says whether an engine has found a SOURCE_DATE_EPOCH where a
// Dockerfile sent it to look: a clock's time has more than seconds.
func engineSaid(config []byte) bool {
	var c struct {
		Created json.RawMessage `json:"created"`
	}
	return json.Unmarshal(config, &c) == nil && len(c.Created) > 0 && !bytes.Contains(c.Created, []byte("."))
}
