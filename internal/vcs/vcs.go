// Package vcs says which commit a folder stands at: what versions, labels and
// records are made from; and when the files below it were last committed, which
// is the time that images give them. None of it ever enters a key.
//
// It takes a folder and asks the git command; nothing is written into the
// repository, the index included.
package vcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
)

// ErrNoGit says that there is nothing to describe: the folder is in no
// repository, the repository has no commit, or there is no git command.
var ErrNoGit = errors.New("no git commit to describe")

// Info is where a working tree stands.
type Info struct {
	Commit     string    // full hash
	Describe   string    // `git describe --tags --always`: "v1.2.0", "v1.2.0-3-gabcdef0" or "abcdef0"
	Dirty      bool      // tracked files differ from the commit; untracked ones don't count
	Branch     string    // "" when detached, as in most CI checkouts
	RemoteURL  string    // of origin, or of the only remote, without credentials; "" when there is none
	Shallow    bool      // older commits and tags may be missing, and so Describe may say less
	CommitTime time.Time // the committer's, in UTC
}

// Describe asks git about the working tree that holds dir. The error is
// [ErrNoGit] when there is nothing to ask about.
func Describe(ctx context.Context, dir string) (Info, error) {
	r := repo{dir: dir}
	info, err := r.describe(ctx)
	if err != nil {
		return Info{}, fmt.Errorf("describing git working tree %q: %w", dir, err)
	}
	return info, nil
}

// Order says how one commit of the repository that holds dir stands to another.
type Order int

// The orders. Commits that a shallow clone does not have are Unrelated.
const (
	Unrelated  Order = iota // neither stands on the other, as far as can be told
	Ancestor                // the first is part of the second's history, or is the second
	Descendant              // the second is part of the first's history
)

// Compare tells how commit a stands to commit b. A commit that is not there is no
// error: the answer is Unrelated.
func Compare(ctx context.Context, dir, a, b string) (Order, error) {
	if a == b {
		return Ancestor, nil
	}
	r := repo{dir: dir}
	for _, c := range []struct {
		first, second string
		order         Order
	}{{a, b, Ancestor}, {b, a, Descendant}} {
		_, err := r.git(ctx, "merge-base", "--is-ancestor", c.first, c.second)
		switch {
		case err == nil:
			return c.order, nil
		case exitCode(err) == 1 || exitCode(err) == 128 && !errors.Is(err, ErrNoGit): // 128: no such commit here
		default:
			return Unrelated, fmt.Errorf("comparing commits in %q: %w", dir, err)
		}
	}
	return Unrelated, nil
}

// repo is what git is asked about.
type repo struct {
	dir string
	// strict is for reading files: nothing that the user's settings, or those of
	// a repository that somebody else has made, say about it counts.
	strict bool
}

func (r repo) describe(ctx context.Context) (Info, error) {
	var info Info
	shallow, err := r.git(ctx, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return info, err
	}
	info.Shallow = shallow == "true"
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		out, err := r.git(ctx, "show", "-s", "--no-show-signature", "--format=%H %ct", "HEAD")
		if err != nil {
			return err
		}
		hash, seconds, _ := strings.Cut(out, " ")
		unix, err := strconv.ParseInt(seconds, 10, 64)
		info.Commit, info.CommitTime = hash, time.Unix(unix, 0).UTC()
		return err
	})
	g.Go(func() error {
		out, err := r.git(ctx, "describe", "--tags", "--always")
		info.Describe = out
		return err
	})
	g.Go(func() error {
		// Not `describe --dirty`: that one writes the index.
		out, err := r.git(ctx, "status", "--porcelain", "--untracked-files=no")
		info.Dirty = out != ""
		return err
	})
	g.Go(func() error {
		out, err := r.git(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
		if exitCode(err) == 1 {
			return nil // detached
		}
		info.Branch = out
		return err
	})
	g.Go(func() error {
		out, err := r.remote(ctx)
		info.RemoteURL = stripCredentials(out)
		return err
	})
	err = g.Wait() // before info is read
	return info, err
}

// remote gives the URL of origin or, where there is none, of the only remote.
func (r repo) remote(ctx context.Context) (string, error) {
	out, err := r.git(ctx, "remote")
	if err != nil || out == "" {
		return "", err
	}
	names := strings.Split(out, "\n")
	name := names[0]
	for _, n := range names {
		if n == "origin" {
			name = n
		}
	}
	if name != "origin" && len(names) > 1 {
		return "", nil
	}
	return r.git(ctx, "remote", "get-url", name)
}

// gitError is what git said when it failed.
type gitError struct {
	command string
	text    string
	err     error
}

func (e *gitError) Error() string {
	return fmt.Sprintf("running git %s: %s", e.command, e.text)
}

func (e *gitError) Unwrap() error { return e.err }

// git runs one command that only reads, and gives its output without the last
// line break.
func (r repo) git(ctx context.Context, args ...string) (string, error) {
	cmd := r.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", r.failure(ctx, args[0], stderr.String(), err)
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// command makes a command that only reads.
func (r repo) command(ctx context.Context, args ...string) *exec.Cmd {
	options := []string{"-C", r.dir}
	if r.strict {
		options = append(options, strictOptions...)
	}
	cmd := exec.CommandContext(ctx, "git", append(options, args...)...)
	env := cmd.Environ()
	if r.strict {
		env = append(slices.DeleteFunc(env, misleads), strictEnv...)
	}
	// Messages are compared, so they must not be translated; a lock on the
	// index that git could do without would write it.
	cmd.Env = append(env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0")
	return cmd
}

// failure makes an error of a command that did not come to its end.
func (r repo) failure(ctx context.Context, name, text string, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: the git command is not installed", ErrNoGit)
	}
	if text = strings.TrimSpace(text); text == "" {
		text = err.Error()
	}
	return explain(r.dir, &gitError{command: name, text: text, err: err})
}

// explain tells what has no answer from what went wrong.
func explain(dir string, e *gitError) error {
	switch {
	case strings.Contains(e.text, "not a git repository"):
		return fmt.Errorf("%w: not in a git repository", ErrNoGit)
	case strings.Contains(e.text, "unknown revision"), strings.Contains(e.text, "ambiguous argument 'HEAD'"),
		strings.Contains(e.text, "Not a valid object name HEAD"), strings.Contains(e.text, "bad revision 'HEAD'"):
		return fmt.Errorf("%w: the repository has no commit yet", ErrNoGit)
	case strings.Contains(e.text, "dubious ownership"):
		return diag.Hint(e, "git config --global --add safe.directory %s", dir)
	}
	return e
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}

// stripCredentials takes out of a remote's URL what could be a secret: the
// whole user part of http, the password of other schemes, query and fragment.
// A URL that can't be read is left out. What is no URL ("host:path", a folder)
// holds none.
func stripCredentials(remote string) string {
	if !strings.Contains(remote, "://") {
		return remote
	}
	u, err := url.Parse(remote)
	if err != nil {
		return ""
	}
	switch {
	case u.User == nil:
	case u.Scheme == "ssh" || u.Scheme == "git+ssh":
		u.User = url.User(u.User.Username())
	default:
		u.User = nil
	}
	u.RawQuery, u.Fragment, u.RawFragment, u.ForceQuery = "", "", "", false
	return u.String()
}
