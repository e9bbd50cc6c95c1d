package strata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/source"
)

// GateError says that a unit's test did not pass. Its image stays under its key
// and no tag was moved.
type GateError struct {
	Unit   string
	Code   int
	Output string // the last lines
}

// Error names the unit, the exit code and what the test said last.
func (e *GateError) Error() string {
	s := fmt.Sprintf("testing %s: the test ended with exit code %d", e.Unit, e.Code)
	if e.Output != "" {
		s += "\n" + e.Output
	}
	return s
}

// gates runs the tests of the units in this run that have not passed before,
// and remembers those that pass.
func (r *runner) gates(ctx context.Context) error {
	var errs []error
	for _, u := range r.pass.Units {
		img := r.image(u.ID)
		if u.Test == nil || img == nil || r.pass.Config.NoTest {
			continue
		}
		by, err := r.testKey(ctx, u)
		if err != nil {
			return fmt.Errorf("reading the test of %s: %w", u.ID, err)
		}
		mark := r.repo(u).WithTag(gateTag(u, r.pass.Keys[u.ID].Unit.ID().Tag()+string(by)))
		a := r.pass.Config.Client.Direct().Lookup(ctx, mark)
		if a.State == registry.Failed && !errors.Is(a.Err, registry.ErrCorrupt) {
			return fmt.Errorf("looking up the test of %s: %w", u.ID, a.Err)
		}
		if a.State == registry.Hit && a.Desc.Digest == img.desc.Digest {
			continue
		}
		if err := r.gate(ctx, u, img); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if err := r.pointTo(ctx, u, img, mark.Tag); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// gateTag marks an image whose test has passed. It depends on the test, so that
// another test runs again.
func gateTag(u *graph.Unit, keys string) string {
	test, err := json.Marshal(u.Test)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	sum := sha256.Sum256(append(test, keys...))
	return "strata-t-" + hex.EncodeToString(sum[:])
}

// testKey names what a test by a stage is made from, which the unit's key does
// not know: the stage's instructions and the files that it takes. It is "" for a
// test by a command.
func (r *runner) testKey(ctx context.Context, u *graph.Unit) (key.ID, error) {
	if u.Test.Stage == "" {
		return "", nil
	}
	b, err := testBuild(u)
	if err != nil {
		return "", err
	}
	in := r.pass.inputs[u.ID]
	in.Build, in.Labels, in.Lines, in.Files = b, nil, nil, make([][]source.Entry, len(b.Inputs))
	for i, input := range b.Inputs {
		tree, err := r.pass.open(r.pass.contextOf(u, input.Context))
		if err != nil {
			return "", err
		}
		if in.Files[i], err = tree.Select(ctx, selection(input)); err != nil {
			return "", err
		}
	}
	return key.Compute(in).Unit.ID(), nil
}

// testBuild gives what a test by a stage is made from.
func testBuild(u *graph.Unit) (*dockerfile.Build, error) {
	o := u.Options
	o.Target, o.Contexts = u.Test.Stage, map[string]bool{}
	for name := range u.Options.Contexts { // the engine is given no others
		o.Contexts[name] = u.Contexts[name] != "" ||
			slices.ContainsFunc(u.Parents, func(p graph.Parent) bool { return p.Context == name })
	}
	return u.File.Analyze(o)
}

// froms gives every image that a unit is made from or tested with. A test that
// can't be read tells so when it is its turn.
func (p *Pass) froms(u *graph.Unit) []dockerfile.From {
	if u.Test == nil || u.Test.Stage == "" || p.Config.NoTest {
		return u.Build.Froms
	}
	b, err := testBuild(u)
	if err != nil {
		return u.Build.Froms
	}
	return slices.Concat(u.Build.Froms, b.Froms)
}

func (r *runner) gate(ctx context.Context, u *graph.Unit, img *picture) error {
	engine, err := r.openEngine(ctx)
	if err != nil {
		return fmt.Errorf("testing %s: opening the engine: %w", u.ID, err)
	}
	sink := r.pass.Config.Sink
	if sink == nil {
		sink = event.Discard
	}
	if u.Test.Stage != "" {
		j, err := r.job(u, nil)
		if err != nil {
			return err
		}
		j.Target, j.Repository = u.Test.Stage, ""
		// What it copies is in the instruction cache afterwards, for builds as well.
		if j.Times, err = r.times(ctx, u, r.pass.Keys[u.ID].Unit); err != nil {
			return err
		}
		if _, err := engine.Build(ctx, j, sink); err != nil {
			return fmt.Errorf("testing %s: %w", u.ID, err)
		}
		return nil
	}
	run, ok := engine.(build.Runner)
	if !ok {
		return fmt.Errorf("testing %s: this engine can't run commands", u.ID)
	}
	network := u.Test.Network
	if network == "default" {
		network = ""
	}
	r.pass.emit(event.Event{Type: event.Message, Unit: u.ID, Text: "testing " + u.ID + ": " + strings.Join(u.Test.Run, " ")})
	tables, err := r.tables(ctx, u)
	if err == nil {
		err = imageTables(ctx, r.pass.Config.Client, img, tables)
	}
	if err != nil {
		return fmt.Errorf("testing %s: %w", u.ID, err)
	}
	code, output, err := run.Run(ctx, build.RunJob{
		Unit: u.ID, Image: r.pass.Config.engineName(r.repo(u).WithDigest(img.desc.Digest)), Platform: u.Platform,
		Args: u.Test.Run, Network: network, Timeout: u.Test.Timeout, Tables: tables,
	}, sink)
	if err != nil {
		return fmt.Errorf("testing %s: %w", u.ID, err)
	}
	if code != 0 {
		return diag.Hint(&GateError{Unit: u.ID, Code: code, Output: lastLines(string(output), 20)},
			"no tag was moved; the image is there under its key: `strata shell %s` opens it, `strata run %s -- COMMAND` runs a command in it", u.ID, u.ID)
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
