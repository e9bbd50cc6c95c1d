// Package githistory reads a repository's first-parent history through git's
// object store: the commits, and the tree of each, without a checkout.
//
// It takes a folder and a range, and gives a list of [Commit]s, the oldest
// first, each with its [Tree]. One `git log --raw -z` gives what every commit
// changed, one `git ls-tree` the tree of the first, and one `git cat-file
// --batch` the contents that are asked for; never a command a commit. Trees are
// immutable and share what they have in common. Nothing is written.
package githistory

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// ErrNoGit says that there is no history to read: the folder is in no
// repository, or the repository has no commit. One that is there and can't be
// read is another error.
var ErrNoGit = errors.New("there is no git history")

// stream runs one command and gives its output to read as it comes.
func stream(ctx context.Context, r *git.Repo, read func(*bufio.Reader) error, args ...string) error {
	return r.Stream(ctx, func(out *bufio.Reader) (bool, error) { return false, read(out) }, args...)
}

// explain tells what has no answer from what went wrong.
func explain(dir string, err error) error {
	switch {
	case errors.Is(err, git.ErrNone):
		return diag.Hint(fmt.Errorf("%w: %q is not in a git repository", ErrNoGit, dir), "run it in a clone of the project's repository")
	case errors.Is(err, git.ErrNoCommit):
		return diag.Hint(fmt.Errorf("%w: %w", ErrNoGit, err), "commit something first")
	}
	return err
}
