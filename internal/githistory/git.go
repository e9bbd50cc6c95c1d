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
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// ErrNoGit says that there is no history to read: the folder is in no
// repository, the repository has no commit, or there is no git command.
var ErrNoGit = errors.New("there is no git history")

// command makes a git command that only reads. A partial clone does not fetch.
func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir, "-c", "core.quotePath=false"}, args...)...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_NO_LAZY_FETCH=1")
	return cmd
}

// output runs one command and gives its output without the last line break.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := command(ctx, dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", explain(ctx, dir, args[0], stderr.String(), err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// stream runs one command and gives its output to read as it comes.
func stream(ctx context.Context, dir string, read func(*bufio.Reader) error, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := command(ctx, dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("running git %s: %w", args[0], err)
	}
	if err := cmd.Start(); err != nil {
		return explain(ctx, dir, args[0], "", err)
	}
	readErr := read(bufio.NewReaderSize(out, 256<<10))
	if readErr != nil {
		cancel() // git may still be writing
		_, _ = io.Copy(io.Discard, out)
	}
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return readErr
	case err != nil:
		return explain(ctx, dir, args[0], stderr.String(), err)
	}
	return nil
}

// explain tells what has no answer from what went wrong.
func explain(ctx context.Context, dir, name, text string, err error) error {
	text = strings.TrimSpace(text)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return diag.Hint(fmt.Errorf("%w: the git command is not installed", ErrNoGit), "install git")
	case strings.Contains(text, "not a git repository"):
		return diag.Hint(fmt.Errorf("%w: %q is not in a git repository", ErrNoGit, dir), "run it in a clone of the project's repository")
	case strings.Contains(text, "ambiguous argument 'HEAD'"), strings.Contains(text, "Not a valid object name HEAD"),
		strings.Contains(text, "bad revision 'HEAD'"):
		return diag.Hint(fmt.Errorf("%w: the repository has no commit yet", ErrNoGit), "commit something first")
	case strings.Contains(text, "dubious ownership"):
		return diag.Hint(fmt.Errorf("running git %s: %s", name, text), "git config --global --add safe.directory %s", dir)
	}
	if text == "" {
		text = err.Error()
	}
	return fmt.Errorf("running git %s: %s", name, text)
}
