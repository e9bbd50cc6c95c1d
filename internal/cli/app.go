package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/buildkit"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/serve"
	"github.com/strata-build/strata/internal/source"
	"github.com/strata-build/strata/internal/spec"
	"github.com/strata-build/strata/internal/vcs"
	"github.com/strata-build/strata/internal/view"
	"github.com/strata-build/strata/internal/wire"
)

// app is one invocation: its flags, and what it has opened so far.
type app struct {
	machine Machine
	raw     Machine  // the same with outputs that escape nothing, for what is no text of the program
	args    []string // as typed, without the program's name
	flags   struct {
		dir, file, color, tag string
		allow                 []string
		offline               bool
		engine                string
		tlsCA, tlsCert        string
		tlsKey, tlsName       string
		steps                 int
	}
	limits   wire.Limits // of registries' silence
	embedded *registry.Embedded
	listener *serve.Server
	stat     *source.StatCache
	closers  []func() error

	listening sync.Mutex // units that are built at once ask for the listener,
	closing   sync.Mutex // and open engines

	reading sync.Mutex
	read    readProject
}

// readProject is the project as it was read, and where.
type readProject struct {
	dir, file string
	project   *spec.Project
	err       error
}

// close ends what was opened, the last first.
func (a *app) close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// onClose notes what close has to do.
func (a *app) onClose(do func() error) {
	a.closing.Lock()
	defer a.closing.Unlock()
	a.closers = append(a.closers, do)
}

// dir is the folder that the command works in.
func (a *app) dir() string {
	if filepath.IsAbs(a.flags.dir) {
		return a.flags.dir
	}
	return filepath.Join(a.machine.Dir, a.flags.dir)
}

// readLimits reads how long a registry may keep a command waiting.
func (a *app) readLimits() error {
	text := a.machine.Getenv("STRATA_REGISTRY_TIMEOUT")
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return diag.Hint(fmt.Errorf("reading STRATA_REGISTRY_TIMEOUT: %q is not a time", text), "a number and a unit: STRATA_REGISTRY_TIMEOUT=2m")
	case d < time.Second || d > time.Hour:
		return diag.Hint(fmt.Errorf("reading STRATA_REGISTRY_TIMEOUT: %s is not between 1s and 1h", text), "without it, it is 30s")
	}
	a.limits = wire.Patience(d)
	return nil
}

// home is where everything lies that Strata keeps on this machine. Root does not
// use the home of somebody else.
func (a *app) home() string {
	env := a.machine.Getenv
	if h := env("STRATA_HOME"); h != "" {
		if !filepath.IsAbs(h) { // runc and mounts need it whole
			h = filepath.Join(a.machine.Dir, h)
		}
		return h
	}
	if d := env("XDG_DATA_HOME"); d != "" && !another(d) {
		return filepath.Join(d, "strata")
	}
	if h := env("HOME"); h != "" && !another(h) {
		return filepath.Join(h, ".local", "share", "strata")
	}
	return "/var/lib/strata" // a service without a home, or sudo -E
}

func (a *app) palette(w io.Writer) view.Palette {
	env := a.machine.Getenv
	return view.Palette{Color: view.ColorWanted(view.ColorOptions{
		Flag: a.flags.color, Terminal: view.IsTerminal(w), NoColor: env("NO_COLOR"),
		Force: env("CLICOLOR_FORCE"), CLIColor: env("CLICOLOR"), Term: env("TERM"),
	})}
}

// guard puts the last check before both outputs, and gives what ends it.
func (a *app) guard() (flush func()) {
	a.raw = a.machine
	wrap := func(w io.Writer) *view.Guard {
		terminal := view.IsTerminal(w)
		return &view.Guard{Out: w, Control: func() bool { return terminal || a.palette(w).Color }}
	}
	out, err := wrap(a.raw.Stdout), wrap(a.raw.Stderr)
	a.machine.Stdout, a.machine.Stderr = out, err
	return func() {
		_, _ = out.Flush(), err.Flush() // what is left of a character
	}
}

// filesOut is where a file goes that is written to standard output: as it is
// into another file or a pipe, fit to be read on a terminal.
func (a *app) filesOut() io.Writer {
	if view.IsTerminal(a.raw.Stdout) {
		return a.machine.Stdout
	}
	return a.raw.Stdout
}

// registry opens the embedded registry, once.
func (a *app) openRegistry() (*registry.Embedded, error) {
	if a.embedded != nil {
		return a.embedded, nil
	}
	if err := a.secureHome(); err != nil {
		return nil, err
	}
	e, err := registry.OpenEmbedded(filepath.Join(a.home(), "registry"))
	if err != nil && diag.HintOf(err) == "" {
		err = diag.Hint(err, "Strata keeps everything below %s; $STRATA_HOME names another folder", a.home())
	}
	if err != nil {
		return nil, err
	}
	a.embedded = e
	a.onClose(e.Close)
	return e, nil
}

// client gives a client that reaches the embedded registry and every other.
func (a *app) client() (*registry.Client, error) {
	e, err := a.openRegistry()
	if err != nil {
		return nil, err
	}
	return registry.New(registry.Options{
		Embedded: e, MirrorReads: true, Offline: a.flags.offline, UserAgent: "strata/" + a.machine.Version, Limits: a.limits,
	}), nil
}

// listen gives the address at which engines elsewhere on this machine reach the
// embedded registry.
func (a *app) listen() (string, error) {
	a.listening.Lock()
	defer a.listening.Unlock()
	if a.listener != nil {
		return a.listener.Host(), nil
	}
	e, err := a.openRegistry()
	if err != nil {
		return "", err
	}
	l, err := e.Listen("127.0.0.1:0")
	if err != nil {
		return "", err
	}
	a.listener = l
	a.onClose(l.Close)
	return l.Host(), nil
}

// project gives the project of the folder. It is read once, when first asked for:
// reading and checking a large one takes a while, and all that one invocation
// does goes by the same text. It must not be changed.
func (a *app) project() (*spec.Project, error) {
	a.reading.Lock()
	defer a.reading.Unlock()
	if r := &a.read; r.dir != a.dir() || r.file != a.flags.file || r.project == nil && r.err == nil {
		*r = readProject{dir: a.dir(), file: a.flags.file}
		r.project, r.err = a.loadProject()
	}
	return a.read.project, a.read.err
}

func (a *app) loadProject() (*spec.Project, error) {
	if info, err := os.Stat(a.dir()); err != nil {
		return nil, fmt.Errorf("opening the folder %q: %w", a.dir(), pathCause(err))
	} else if !info.IsDir() {
		return nil, diag.Hint(fmt.Errorf("opening the folder %q: it is a file", a.dir()), "name a project file with -f")
	}
	env := map[string]string{}
	for _, kv := range a.machine.Environ {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	file := a.flags.file
	if filepath.IsAbs(file) {
		access, err := a.access()
		if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(access.Dir(), file)
		if err != nil {
			return nil, fmt.Errorf("finding the project file %q: %w", file, err)
		}
		file = rel
	}
	return spec.Load(a.dir(), file, spec.LoadOptions{Env: env, Allow: a.allow(), Ceilings: a.ceilings()})
}

// git is git on this machine. Root reads what belongs to the one who has called
// sudo, as git does.
func (a *app) git() git.Machine {
	m := git.Machine{Environ: a.machine.Environ}
	if uid, err := strconv.Atoi(a.machine.Getenv("SUDO_UID")); err == nil && os.Geteuid() == 0 {
		m.Owners = append(m.Owners, uid)
	}
	return m
}

// version says what the source code is called. A repository that is there and
// can't be read is an error, as which tags may move depends on it; where only
// git is missing, that is for those who would move them.
func (a *app) version(ctx context.Context) (strata.Version, error) {
	v := strata.Version{Name: a.flags.tag}
	info, err := vcs.Describe(ctx, a.git(), a.dir())
	switch {
	case errors.Is(err, vcs.ErrNoGit):
	case errors.Is(err, git.ErrMissing):
		v.Unread = err
	case err != nil:
		return v, err
	default:
		v.Revision, v.Branch, v.Dirty, v.Source = info.Commit, info.Branch, info.Dirty, info.RemoteURL
		v.Time = info.CommitTime
		branch, tag := a.ciRef(info.Commit)
		v.Branch = cmp.Or(v.Branch, branch)
		described := tagSafe(cmp.Or(tag, info.Describe))
		if info.Dirty {
			described += "-dirty"
		}
		v.Name = cmp.Or(v.Name, described)
	}
	return v, nil // without a name where nothing tells one: tags that have {version} are left out
}

// warnOfVersion says that a version is not known though it could be.
func (a *app) warnOfVersion(v strata.Version) {
	if v.Unread != nil {
		a.warn(diag.Finding{Text: fmt.Sprintf("version and commit are not known: %v", v.Unread), Hint: diag.HintOf(v.Unread)})
	}
}

// ciRef gives the branch or tag that a CI job runs for: its checkout stands at a
// commit without a branch, and may lack the tags. What the job says of another
// commit than the checkout's does not count.
func (a *app) ciRef(commit string) (branch, tag string) {
	env := a.machine.Getenv
	switch {
	case env("GITHUB_ACTIONS") == "true" && env("GITHUB_SHA") == commit:
		if env("GITHUB_REF_TYPE") == "tag" {
			return "", env("GITHUB_REF_NAME")
		}
		return cmp.Or(env("GITHUB_HEAD_REF"), env("GITHUB_REF_NAME")), ""
	case env("GITLAB_CI") == "true" && env("CI_COMMIT_SHA") == commit:
		return cmp.Or(env("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"), env("CI_COMMIT_BRANCH")), env("CI_COMMIT_TAG")
	}
	return "", ""
}

// tagSafe makes a version fit into a tag (OCI distribution specification:
// [a-zA-Z0-9_][a-zA-Z0-9._-]*).
func tagSafe(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, s)
	return strings.TrimLeft(s, ".-")
}

// config is the facade's configuration for a command that plans.
func (a *app) config(ctx context.Context) (strata.Config, error) {
	var v strata.Version
	var unread error
	asking, stop := context.WithCancel(ctx)
	var git sync.WaitGroup
	git.Go(func() { v, unread = a.version(asking) }) // git takes as long as all the rest
	defer func() {
		stop()
		git.Wait() // no process of git is left when something else is wrong
	}()
	p, err := a.project()
	if err != nil {
		return strata.Config{}, err
	}
	client, err := a.client()
	if err != nil {
		return strata.Config{}, err
	}
	pins, err := a.lockFile()
	if err != nil {
		return strata.Config{}, err
	}
	git.Wait()
	if unread != nil {
		return strata.Config{}, unread
	}
	a.warnOfVersion(v)
	p = p.With(v.Release())
	a.stat = source.OpenStatCache(filepath.Join(a.home(), "cache", "files"))
	a.closers = append(a.closers, a.stat.Save)
	return strata.Config{
		Project: p, Client: client, Platform: "linux/" + runtime.GOARCH, Now: a.machine.Now(),
		Cache: filepath.Join(a.home(), "cache"), Version: v, Lock: pins, Stat: a.stat,
		Estimate: a.estimator(p.Image), Emulated: a.emulated, Compare: a.compareCommits, Touched: a.touched, Elsewhere: a.remote(),
		CacheAttrs:      cacheAttrs(p.Cache.Type, a.machine.Getenv),
		SourceDateEpoch: a.machine.Getenv("SOURCE_DATE_EPOCH"),
	}, nil
}

// compareCommits says which of two commits is the newer one by the history at
// hand: 0 where it does not tell, as in the shallow clones of CI.
func (a *app) compareCommits(ctx context.Context, first, second string) (int, error) {
	order, err := vcs.Compare(ctx, a.git(), a.dir(), first, second)
	switch {
	case errors.Is(err, vcs.ErrNoGit), errors.Is(err, git.ErrMissing):
		return 0, nil
	case order == vcs.Descendant:
		return 1, nil
	case order == vcs.Ancestor:
		return -1, nil
	}
	return 0, err
}

// touched says when files were last committed.
func (a *app) touched(ctx context.Context, dir string, paths []string) (map[string]int64, error) {
	return vcs.LastTouched(ctx, a.git(), dir, paths)
}

// emulated says whether the engine has to emulate a platform. What another
// machine's engine can do is left to it.
func (a *app) emulated(platform string) (bool, error) {
	if a.remote() {
		return false, nil
	}
	_, emulated, err := buildkit.Emulation(platform)
	return emulated, err
}

// estimator answers from the records of this machine, read when first asked.
func (a *app) estimator(project string) func(layer, variant, platform string, act plan.Action) *plan.Estimate {
	var e *record.Estimator
	return func(layer, variant, platform string, act plan.Action) *plan.Estimate {
		if e == nil {
			var rs []record.Record
			if s, err := a.records(); err == nil {
				rs, _, _ = s.Records(record.Filter{Limit: 50, Project: project})
			}
			e = record.NewEstimator(rs)
		}
		got := e.Estimate(layer, variant, platform, string(act))
		if got.Basis == "" {
			return nil
		}
		return &plan.Estimate{Seconds: got.Seconds, Basis: got.Basis}
	}
}

func (a *app) records() (*record.Store, error) {
	if err := a.secureHome(); err != nil {
		return nil, err
	}
	return record.Open(filepath.Join(a.home(), "records"))
}

func (a *app) engineFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.flags.engine, "engine", "", "BuildKit to use: embedded, or an `address` unix://, tcp://, docker-container://, kube-pod:// (default: $STRATA_ENGINE, $BUILDKIT_HOST, embedded)")
	f.IntVar(&a.flags.steps, "max-steps", 0, "RUN steps that the embedded engine runs at once (default: no limit)")
	f.StringVar(&a.flags.tlsCA, "tls-ca", "", "`file` with the authority's certificate, for tcp://")
	f.StringVar(&a.flags.tlsCert, "tls-cert", "", "`file` with the client's certificate, for tcp://")
	f.StringVar(&a.flags.tlsKey, "tls-key", "", "`file` with the client's key, for tcp://")
	f.StringVar(&a.flags.tlsName, "tls-server-name", "", "`name` in the server's certificate, for tcp://")
}

// argDir lets a command take the build context's folder as docker build does:
// `strata build -f Dockerfile .`
func (a *app) argDir(args []string) []string {
	var units []string
	for _, arg := range args {
		dir := a.fromDir(arg)
		info, err := os.Stat(dir)
		if (arg == "." || strings.HasPrefix(arg, "./") || strings.HasPrefix(arg, "../") || filepath.IsAbs(arg)) && err == nil && info.IsDir() {
			a.flags.dir = dir
			continue
		}
		units = append(units, arg)
	}
	return units
}

// pathCause gives an error about a file without the file's name.
func pathCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func usage(format string, args ...any) error {
	return diag.Hint(fmt.Errorf(format, args...), "see --help")
}
