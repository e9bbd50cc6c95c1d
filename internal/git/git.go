// Package git runs the git command: nothing else in Strata does. A checkout is
// read that somebody else has made, often as root, so nothing in it may start a
// program: not its config, attributes, hooks or submodules, and not a folder that
// merely looks like a repository.
//
// It takes a folder and gives the repository that the folder lies in
// ([Machine.Open]), which is asked by [Repo.Output], [Repo.Stream] and
// [Repo.Start]. Nothing is written into the repository.
//
// # What git sees
//
// The work tree is found here and handed to git, so that git looks for none. A
// repository is where .git is; a bare one is never taken.
//
// Git reads no config of the repository, the user or the machine. It reads one
// that is made for this run, of the settings in [allowed]: how files compare with
// commits, and the remotes' URLs. No setting that names a program is among them,
// and one that a later git invents is not either. So filters, text conversions,
// monitors, hooks, signature programs, pagers, credential helpers and transports
// are not switched off one by one; there are none. That takes the large file
// storage's filter too, which package vcs makes up for.
//
// Variables that begin with GIT_ don't reach git, but for those that say where the
// user's settings are and how far to look for a repository (see [userSettings]):
// those that hooks set lead to another repository than the folder's. So GIT_DIR is
// no way to name a repository; a bare one below its files can be linked to by a
// file .git, "gitdir: PATH".
//
// # Whose repository it is
//
// Git refuses the repository of another user, since it would run what stands
// there. That is no concern here, but what a history says decides over tags. See
// [Machine.Open].
package git

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/strata-build/strata/internal/diag"
)

// ErrNone says that a folder is in no repository.
var ErrNone = errors.New("not in a git repository")

// ErrNoCommit says that nothing was committed yet.
var ErrNoCommit = errors.New("the repository has no commit yet")

// ErrMissing says that there is a repository and no git to read it.
var ErrMissing = errors.New("the git command is not installed")

// Error is what git said when it failed.
type Error struct {
	Command string // "log"
	Text    string
	err     error
}

func (e *Error) Error() string { return fmt.Sprintf("running git %s: %s", e.Command, e.Text) }

func (e *Error) Unwrap() error { return e.err }

// ExitCode gives the status that git ended with, 0 where it has not ended so.
func ExitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}

// Machine is where git runs. The zero value is this process's.
type Machine struct {
	Environ []string // "NAME=value"; nil is the process's own
	Owners  []int    // users whose repositories are read, beside those that Open names
}

func (m Machine) environ() []string {
	if m.Environ == nil {
		return os.Environ()
	}
	return m.Environ
}

func (m Machine) getenv(name string) string {
	value := ""
	for _, kv := range m.environ() {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v // as in the shell, the last counts
		}
	}
	return value
}

// Version gives what git says of itself: "git version 2.39.5".
func (m Machine) Version(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "--version")
	cmd.Env, cmd.Dir, cmd.WaitDelay = m.base(), "/", waitDelay
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", ErrMissing
	}
	return strings.TrimSpace(string(out)), err
}

// maxMemory bounds what git takes for itself, in bytes; the files of a repository
// that it maps don't count. A tree of a few kilobytes may have the same folder in
// itself many times over, and more paths than any machine holds.
const maxMemory = 1 << 30

// exhausted says whether a process was ended by a signal of its own making, as it
// is where memory gives out.
func exhausted(err error) bool {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return false
	}
	s, ok := e.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && (s.Signal() == syscall.SIGSEGV || s.Signal() == syscall.SIGABRT || s.Signal() == syscall.SIGBUS)
}

// waitDelay is how long output is waited for once git has ended or was told to.
// Where git is a script around the program, ending the script leaves that one at
// work, with the pipe in its hands.
const waitDelay = 5 * time.Second

// Output runs one command in the folder and gives its output without the last
// line break.
func (r *Repo) Output(ctx context.Context, args ...string) (string, error) {
	cmd := r.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Start()
	if err == nil {
		bound(cmd.Process.Pid)
		err = cmd.Wait()
	}
	if err != nil {
		return "", r.failure(ctx, args[0], stderr.String(), err)
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// Process is a git command at work.
type Process struct {
	In  io.WriteCloser
	Out *bufio.Reader

	ctx    context.Context // of its start: a failure after its end is no failure of git
	repo   *Repo
	name   string
	cmd    *exec.Cmd
	pipe   io.Closer
	leave  func() bool // ends the watch over ctx
	stderr bytes.Buffer
}

// Start runs one command in the folder. It must be waited for.
func (r *Repo) Start(ctx context.Context, args ...string) (*Process, error) {
	p := &Process{ctx: ctx, repo: r, name: args[0], cmd: r.command(ctx, args...)}
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("running git %s: %w", p.name, err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("running git %s: %w", p.name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, r.failure(ctx, p.name, "", err)
	}
	bound(p.cmd.Process.Pid)
	p.In, p.pipe, p.Out = in, out, bufio.NewReaderSize(out, 256<<10)
	p.leave = context.AfterFunc(ctx, p.Kill)
	return p, nil
}

// Kill ends the process; it must be waited for all the same. Whoever reads or
// writes is let go, even if another holds the other ends of the pipes.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	p.In.Close()
	p.pipe.Close()
}

// Wait waits for the end. What was not read by then is lost, and what git still
// writes fails.
func (p *Process) Wait() error {
	p.leave()
	in := p.In.Close()
	p.pipe.Close()
	if err := p.cmd.Wait(); err != nil {
		return p.repo.failure(p.ctx, p.name, p.stderr.String(), err)
	}
	if errors.Is(in, os.ErrClosed) {
		return nil
	}
	return in
}

// Stream runs one command in the folder and gives its output to read as it comes.
// It is ended where read gives up or has enough: what git says of that is no
// error.
func (r *Repo) Stream(ctx context.Context, read func(*bufio.Reader) (enough bool, err error), args ...string) error {
	p, err := r.Start(ctx, args...)
	if err != nil {
		return err
	}
	p.In.Close()
	enough, readErr := read(p.Out)
	if enough || readErr != nil {
		p.Kill()
	}
	err = p.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case readErr != nil:
		return readErr
	case enough:
		return nil
	}
	return err
}

// command makes a command that only reads.
func (r *Repo) command(ctx context.Context, args ...string) *exec.Cmd {
	options := []string{"--no-pager", "-c", "safe.bareRepository=explicit"}
	if r.literal {
		options = append(options, "--no-replace-objects", "--literal-pathspecs")
	}
	cmd := exec.CommandContext(ctx, "git", append(options, args...)...)
	cmd.Dir, cmd.WaitDelay = r.dir, waitDelay
	none := os.DevNull
	cmd.Env = append(r.machine.base(),
		"GIT_DIR="+r.gitDir, "GIT_WORK_TREE="+r.root, "GIT_OBJECT_DIRECTORY="+r.objects(), "GIT_COMMON_DIR="+r.config,
		// Versions before 2.32 know of no other file than those in the user's folders.
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM="+none, "GIT_CONFIG_GLOBAL="+none, "HOME="+r.config, "XDG_CONFIG_HOME="+r.config)
	return cmd
}

// base is the environment that all commands share.
func (m Machine) base() []string {
	var env []string
	for _, kv := range m.environ() {
		if !strings.HasPrefix(kv, "GIT_") {
			env = append(env, kv)
		}
	}
	// Messages are compared, so they must not be translated; a lock on the index
	// that git could do without would write it. A partial clone names its remote in
	// the config that git does not see, so it fetches nothing; the rest says so to
	// whatever finds another way.
	return append(env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=")
}

// failure makes an error of a command that did not come to its end.
func (r *Repo) failure(ctx context.Context, name, text string, err error) error {
	text = strings.TrimSpace(text)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return diag.Hint(fmt.Errorf("reading the git repository at %q: %w", r.root, ErrMissing), "install git")
	case strings.Contains(text, "ut of memory"), strings.Contains(text, "cannot create thread"), exhausted(err):
		return diag.Hint(&Error{Command: name, Text: fmt.Sprintf("it needs more than %d MB of memory", maxMemory>>20), err: err},
			"the history at %q holds a tree that is far larger than it looks", r.root)
	case r.unborn(text):
		return diag.Hint(ErrNoCommit, "commit something first")
	}
	if text == "" {
		text = err.Error()
	}
	return &Error{Command: name, Text: text, err: err}
}

// unborn says whether git failed because the branch that is checked out has no
// commit, which is not the same as one that can't be read.
func (r *Repo) unborn(text string) bool {
	for _, s := range []string{"unknown revision", "ambiguous argument 'HEAD'", "Not a valid object name HEAD", "bad revision 'HEAD'", "Needed a single revision"} {
		if strings.Contains(text, s) {
			return !r.hasHead()
		}
	}
	return false
}
