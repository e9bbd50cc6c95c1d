package buildkit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/wire"
)

// StepError is a step of a Dockerfile that failed: the root cause of a failed
// build, not what was cancelled because of it.
type StepError struct {
	Step     string   // "[2/4] RUN apt-get install ..."
	File     string   // the Dockerfile
	Line     int      // where the instruction begins; 0 when unknown
	ExitCode int      // of the command; 0 when none was run
	Output   []string // the last lines that the command wrote
	err      error
}

// Unwrap gives what BuildKit said.
func (e *StepError) Unwrap() error { return e.err }

// Error gives one line with the step, its place and its exit code, and the last
// output indented below it.
func (e *StepError) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	}
	fmt.Fprintf(&b, "running %q: ", e.Step)
	if e.ExitCode != 0 {
		fmt.Fprintf(&b, "exit code %d", e.ExitCode)
	} else {
		b.WriteString(rootCause(e.err))
	}
	for _, line := range e.Output {
		b.WriteString("\n  " + line)
	}
	return b.String()
}

// rootCause strips the layers that BuildKit's client and server put around an
// error.
func rootCause(err error) string {
	s := err.Error()
	for _, prefix := range []string{"failed to solve: ", "rpc error: code = Unknown desc = ", "failed to solve: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	return s
}

// explain turns err into one that a user can act on. err is not nil.
func explain(ctx context.Context, err error, j build.Job, p *progress) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	out := error(cause{err})
	var vertex *errdefs.VertexError
	digest := ""
	if errors.As(err, &vertex) {
		digest = vertex.GetDigest()
	}
	name, tail := p.failure(digest)
	line := lineOf(err)
	if name != "" || line > 0 {
		e := &StepError{Step: name, File: dockerfileName(j), Line: line, Output: tail, err: err}
		var exit *gatewayapi.ExitError
		if errors.As(err, &exit) {
			e.ExitCode = int(exit.ExitCode)
		}
		out = e
	}
	return withHint(out, j.Platform)
}

// cause is an error without the words that BuildKit's client puts before it.
type cause struct{ err error }

func (c cause) Error() string { return rootCause(c.err) }
func (c cause) Unwrap() error { return c.err }

// lineOf gives the line of the Dockerfile that err points to, or 0.
func lineOf(err error) int {
	for _, src := range errdefs.Sources(err) {
		if len(src.Ranges) > 0 && src.Ranges[0].Start != nil {
			return int(src.Ranges[0].Start.Line)
		}
	}
	return 0
}

// withHint adds advice for failures whose words don't say what to do.
func withHint(err error, platform string) error {
	text := err.Error()
	switch {
	case wire.IsSilence(text):
		return diag.Hint(err, "%s", wire.SilenceHint)
	case strings.Contains(text, "exec format error"):
		return diag.Hint(err, "%s", emulatorHint(platform))
	case strings.Contains(text, "401 Unauthorized"), strings.Contains(text, "403 Forbidden"),
		strings.Contains(text, "insufficient_scope"), strings.Contains(text, "no basic auth credentials"):
		return diag.Hint(err, "log in to the registry: docker login HOST")
	case strings.Contains(text, "unable to find user"):
		return diag.Hint(err, "name a user that the image's /etc/passwd has, or a number: --user 1000")
	case strings.Contains(text, "unable to find group"):
		return diag.Hint(err, "name a group that the image's /etc/group has, or a number: --user 1000:1000")
	case strings.Contains(text, "no space left on device"):
		return diag.Hint(err, "free disk space: strata store prune")
	}
	return err
}
