package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/view"
	"github.com/strata-build/strata/internal/watch"
)

// watchPolicies gives what acts, in the order of the names.
func (a *app) watchPolicies(s *watch.Service, f watchFlags) []watch.Policy {
	var out []watch.Policy
	for _, name := range f.policies {
		switch name {
		case watch.ReportPolicy:
			out = append(out, s.Report())
		case watch.CommandPolicy:
			// The secret of the webhooks is not the command's business.
			env := slices.DeleteFunc(slices.Clone(a.machine.Environ), func(kv string) bool {
				return f.secretEnv != "" && strings.HasPrefix(kv, f.secretEnv+"=")
			})
			out = append(out, s.Command(watch.Command{
				Line: f.command, Dir: a.dir(), Env: env, Output: a.raw.Stderr, Timeout: time.Duration(f.timeout),
			}))
		case watch.WebhookPolicy:
			out = append(out, watch.Webhook{
				URL: f.webhook, Secret: []byte(a.machine.Getenv(f.secretEnv)), UserAgent: "strata/" + a.machine.Version, Now: a.machine.Now,
			})
		case rebuildPolicy:
			out = append(out, watch.Func(rebuildPolicy, func(ctx context.Context, e watch.Event) (string, error) {
				b := a.fresh()
				said, err := b.rebuildFor(ctx, f, e)
				return said, oneLine(errors.Join(err, b.close()))
			}))
		}
	}
	return out
}

// rebuildFor is the policy rebuild.
func (a *app) rebuildFor(ctx context.Context, f watchFlags, e watch.Event) (string, error) {
	if e.Type == watch.SlotTurned {
		return a.rebuild(ctx, f, e.Units, nil)
	}
	if !f.update {
		return "strata.lock pins what it was: strata update " + e.Image, nil
	}
	c, err := a.config(ctx)
	if err != nil {
		return "", err
	}
	move := func(name string) bool { return name == e.Image }
	fresh, err := strata.Pins(ctx, c, move)
	if err != nil {
		return "", err
	}
	said, err := a.rebuild(ctx, f, e.Units, func(c *strata.Config) { c.Lock = c.Lock.Keep(fresh, move) })
	if err != nil {
		return "", err
	}
	// A build that fails leaves the lock as it was; one that took long may find
	// it edited.
	now, err := a.lockFile()
	if err != nil {
		return "", err
	}
	data, err := now.Keep(fresh, move).Encode()
	if err != nil {
		return "", err
	}
	if err := strata.WriteFile(filepath.Join(a.dir(), lock.Name), data); err != nil {
		return "", fmt.Errorf("writing %s: %w", lock.Name, err)
	}
	return said + "; " + lock.Name + " pins it", nil
}

// rebuild does what build --refresh does, and says what that was.
func (a *app) rebuild(ctx context.Context, f watchFlags, units []string, change func(*strata.Config)) (string, error) {
	started := a.machine.Now()
	v := a.view(view.Quiet)
	defer v.Close()
	rec := record.NewRecorder(a.newRecord(started))
	var p *strata.Pass
	p, err := a.prepare(ctx, passFlags{push: f.push, refresh: true}, units, func(c *strata.Config) {
		if change != nil {
			change(c)
		}
		c.Record = func(res strata.Result) (string, []byte, error) {
			r := a.finishRecord(p, rec, res, record.OK)
			data, err := r.Encode()
			return r.ID, data, err
		}
		c.Sink = event.Tee(v, rec)
		c.EngineRef = a.engineRef
		c.Engine = func(ctx context.Context) (build.Engine, error) { return a.openEngine(ctx, v.Printf) }
	})
	if err != nil {
		return "", err
	}
	if err := a.checkVersion(p.Config); err != nil {
		return "", err
	}
	if err := a.checkRemote(f.push); err != nil && p.Plan.Work() > 0 {
		return "", err
	}
	res, err := p.Execute(ctx)
	closeErr := v.Close()
	a.keepRecord(ctx, p, rec, res, err)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d built, %s%d appended, %d reused in %s", count(res, plan.Build), ifAny(count(res, plan.Rebase), "rebased"), count(res, plan.Append),
		count(res, plan.Reuse), where(p)), closeErr
}

// oneLine makes an error fit into a log: its lines become one, and the hint
// follows.
func oneLine(err error) error {
	if err == nil {
		return nil
	}
	text := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
	if hint := diag.HintOf(err); hint != "" {
		text += " (" + strings.ReplaceAll(hint, "\n", "; ") + ")"
	}
	return errors.New(text)
}

// noteWriter writes the service's log, a line a note.
func (a *app) noteWriter(asJSON bool) func(watch.Note) {
	if asJSON {
		return func(n watch.Note) { _ = view.WriteJSON(a.machine.Stdout, n, "") } // an error: who reads it went away
	}
	pal := a.palette(a.machine.Stdout)
	return func(n watch.Note) {
		style := view.Normal
		switch n.Type {
		case watch.PollFailed, watch.ProjectFailed, watch.ActionFailed, watch.ActionWaiting:
			style = view.Red
		case watch.ImageMoved, watch.SlotTurned:
			style = view.Yellow
		case watch.ActionDone:
			style = view.Green
		}
		view.Fprintf(a.machine.Stdout, "%s %s\n", pal.Paint(view.Dim, n.Time.UTC().Format(time.RFC3339)), pal.Paint(style, noteText(n)))
	}
}

// noteText says a note in words.
func noteText(n watch.Note) string {
	again := ""
	if !n.Retry.IsZero() {
		again = "; again at " + n.Retry.UTC().Format(time.RFC3339)
	}
	text := ""
	switch n.Type {
	case watch.Started:
		return "watching " + n.Text
	case watch.Ended:
		return "ended"
	case watch.SlotsSkipped:
		return fmt.Sprintf("%s: %s passed unnoticed: %s", n.Layer, slots(len(n.Skipped)), strings.Join(n.Skipped, ", "))
	case watch.PollFailed:
		if strings.Contains(n.Error, n.Image) { // it says what was looked at
			return n.Error + again
		}
		return fmt.Sprintf("looking at %s: %s%s", n.Image, n.Error, again)
	case watch.Looked:
		return n.Text
	case watch.Idle:
		return nothingToWatch(n.Text)
	case watch.ProjectFailed:
		return "reading the project: " + n.Error
	case watch.ImageMoved, watch.SlotTurned:
		return eventText(*n.Event)
	case watch.ActionStarted:
		text = eventText(*n.Event)
		if n.Attempt > 1 {
			text += fmt.Sprintf(" (attempt %d)", n.Attempt)
		}
	case watch.ActionDone:
		text = fmt.Sprintf("%s: done in %s", eventName(*n.Event), view.Duration(time.Duration(n.Seconds*float64(time.Second))))
		if n.Text != "" {
			text += ": " + n.Text
		}
	case watch.ActionFailed:
		text = fmt.Sprintf("%s: %s%s", eventName(*n.Event), n.Error, again)
	case watch.ActionStopped:
		text = eventName(*n.Event) + ": ended in the midst of it; it goes on at the next start"
	case watch.ActionWaiting:
		text = fmt.Sprintf("%s: it failed (attempt %d): %s%s", eventName(*n.Event), n.Attempt, n.Error, again)
	case watch.ActionDropped:
		text = fmt.Sprintf("%s: dropped: %s", eventName(*n.Event), n.Text)
	}
	return n.Policy + ": " + text
}

func nothingToWatch(name string) string {
	return name + " has no pinned images and no layer with a refresh: there is nothing to watch"
}

func eventName(e watch.Event) string {
	if e.Type == watch.SlotTurned {
		return "slot " + e.Slot + " of " + e.Layer
	}
	return e.Image
}

func eventText(e watch.Event) string {
	what := e.Image + " moved: " + watch.ShortDigest(e.Old) + " -> " + watch.ShortDigest(e.New)
	if e.Type == watch.SlotTurned {
		what = eventName(e) + " has begun"
	}
	return what + "; units: " + strings.Join(e.Units, ", ")
}

func slots(n int) string {
	if n == 1 {
		return "1 slot"
	}
	return fmt.Sprintf("%d slots", n)
}

// showWatch writes what a service would do, the next first.
func (a *app) showWatch(st watch.Status, f watchFlags) error {
	if f.json {
		return writeJSON(a.machine.Stdout, st)
	}
	type row struct {
		at                time.Time
		what, does, units string
	}
	var rows []row
	policies := strings.Join(f.policies, ", ")
	for _, j := range st.Actions {
		what := j.Subject + " moved"
		if j.Slot != "" {
			what = "slot " + j.Slot + " of " + j.Subject
		}
		if j.Failures > 0 {
			what += fmt.Sprintf(", failed %d times", j.Failures)
		}
		rows = append(rows, row{j.Next, what, j.Policy, ""})
	}
	for _, l := range st.Layers {
		rows = append(rows, row{l.Next, fmt.Sprintf("slot of %s (every %s)", l.Layer, l.Refresh), policies, strings.Join(l.Units, ", ")})
	}
	for _, i := range st.Images {
		what := "look at " + i.Image
		switch {
		case i.Errors > 0:
			what += fmt.Sprintf(" (%d errors)", i.Errors)
		case i.Outdated:
			what += " (outdated)"
		}
		rows = append(rows, row{i.Next, what, "look", strings.Join(i.Units, ", ")})
	}
	slices.SortStableFunc(rows, func(a, b row) int { return a.at.Compare(b.at) })
	t := view.Table{Columns: []view.Column{{Title: "WHEN"}, {Title: "WHAT"}, {Title: "DOES"}, {Title: "UNITS", Shrink: true}}}
	now := a.machine.Now()
	for _, r := range rows {
		when := "at once"
		if r.at.After(now) {
			when = r.at.UTC().Format(time.RFC3339)
		}
		t.Row(when, r.what, r.does, r.units)
	}
	if len(rows) == 0 {
		view.Fprintln(a.machine.Stdout, nothingToWatch(st.Name))
		return nil
	}
	return t.Write(a.machine.Stdout, a.palette(a.machine.Stdout), a.width(a.machine.Stdout))
}
