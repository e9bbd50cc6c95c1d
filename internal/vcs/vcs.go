// Package vcs says which commit a folder stands at: what versions, labels and
// records are made from; and when the files below it were last committed, which
// is the time that images give them. None of it ever enters a key.
//
// It takes a machine and a folder, and asks git through package git; nothing is
// written into the repository, the index included.
package vcs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/git"
)

// ErrNoGit says that there is nothing to describe: the folder is in no
// repository, or the repository has no commit. A repository that is there and
// can't be read is another error.
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
func Describe(ctx context.Context, m git.Machine, dir string) (Info, error) {
	r, err := m.Open(ctx, dir)
	if err != nil {
		return Info{}, fmt.Errorf("describing git working tree %q: %w", dir, none(err))
	}
	defer r.Close()
	info, err := examine(ctx, m, r)
	if err != nil {
		return Info{}, fmt.Errorf("describing git working tree %q: %w", dir, none(err))
	}
	return info, nil
}

// none tells what has no answer from what went wrong.
func none(err error) error {
	if errors.Is(err, git.ErrNone) || errors.Is(err, git.ErrNoCommit) {
		return fmt.Errorf("%w: %w", ErrNoGit, err)
	}
	return err
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
func Compare(ctx context.Context, m git.Machine, dir, a, b string) (Order, error) {
	if a == b {
		return Ancestor, nil
	}
	r, err := m.Open(ctx, dir)
	if err != nil {
		return Unrelated, fmt.Errorf("comparing commits in %q: %w", dir, none(err))
	}
	defer r.Close()
	for _, c := range []struct {
		first, second string
		order         Order
	}{{a, b, Ancestor}, {b, a, Descendant}} {
		_, err := r.Output(ctx, "merge-base", "--is-ancestor", "--end-of-options", c.first, c.second)
		switch {
		case err == nil:
			return c.order, nil
		case git.ExitCode(err) == 1 || git.ExitCode(err) == 128: // 128: no such commit here
		default:
			return Unrelated, fmt.Errorf("comparing commits in %q: %w", dir, none(err))
		}
	}
	return Unrelated, nil
}

func examine(ctx context.Context, m git.Machine, r *git.Repo) (Info, error) {
	var info Info
	shallow, err := r.Output(ctx, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return info, err
	}
	info.Shallow = shallow == "true"
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		out, err := r.Output(ctx, "log", "-1", "--no-show-signature", "--format=%H %ct", "HEAD", "--") // which may be a file, too
		if err != nil {
			return err
		}
		hash, seconds, _ := strings.Cut(out, " ")
		unix, err := strconv.ParseInt(seconds, 10, 64)
		info.Commit, info.CommitTime = hash, time.Unix(unix, 0).UTC()
		return err
	})
	g.Go(func() error {
		out, err := r.Output(ctx, "describe", "--tags", "--always")
		info.Describe = out
		return err
	})
	g.Go(func() error {
		dirty, err := isDirty(ctx, m, r)
		info.Dirty = dirty
		return err
	})
	g.Go(func() error {
		out, err := r.Output(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
		if git.ExitCode(err) == 1 {
			return nil // detached
		}
		info.Branch = out
		return err
	})
	g.Go(func() error {
		out, err := remoteURL(ctx, r)
		info.RemoteURL = stripCredentials(out)
		return err
	})
	err = g.Wait() // before info is read
	return info, err
}

// remote gives the URL of origin or, where there is none, of the only remote.
func remoteURL(ctx context.Context, r *git.Repo) (string, error) {
	out, err := r.Output(ctx, "remote")
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
	return r.Output(ctx, "remote", "get-url", name)
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
