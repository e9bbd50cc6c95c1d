//go:build linux

// Package times builds small projects with Strata and with plain BuildKit and
// compares times, relation by relation: who is newer than whom, what is newer
// than its source, what a recorded time says. What a project's RUNs have seen
// stands in its images, and must be the same; real programs (make, ninja,
// python, zip, nginx, rsync) are asked, too. Plain BuildKit is the embedded
// engine with BuildKit's own exporter and no SOURCE_DATE_EPOCH, in this process;
// Strata is the program. It takes the bases that scripts/bases.sh has made, and
// a Debian mirror once. It needs root.
package times

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/registry"
)

const platform = "linux/" + runtime.GOARCH

// world is what all tests share: the program, the machines that run it, the
// reference and the bases. It is made when a test first needs it and ended by
// TestMain.
type world struct {
	dir     string
	program string
	bases   *bases
	plain   *reference
	idle    chan *machine // machines that no project uses
	large   chan *machine // others, for projects on large bases: each needs them once
	turns   chan bool     // of tests that need none of these
	all     []*machine
}

var shared struct {
	once sync.Once
	w    *world
	err  error
}

// machineCount is how many STRATA_HOMEs the projects are spread over. A home's
// engine serves one process at a time, and most of a project's time is spent
// waiting for the clock.
const (
	machineCount = 4
	largeCount   = 2
	turnCount    = 3
)

func TestMain(m *testing.M) {
	if err := parallel(); err != nil {
		panic(err)
	}
	code := m.Run()
	tally.print()
	if w := shared.w; w != nil {
		w.close()
	}
	os.Exit(code)
}

// open gives the world.
func open(t *testing.T) *world {
	t.Helper()
	shared.once.Do(func() { shared.w, shared.err = newWorld(t) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	if shared.w == nil {
		t.Fatal("making the world failed before")
	}
	return shared.w
}

func newWorld(t *testing.T) (w *world, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("both engines need root")
	}
	dir, err := os.MkdirTemp("", "st-")
	if err != nil {
		return nil, err
	}
	w = &world{dir: dir, program: filepath.Join(dir, "strata"), idle: make(chan *machine, machineCount), large: make(chan *machine, largeCount), turns: make(chan bool, turnCount)}
	defer func() {
		if err != nil {
			w.close()
			w = nil
		}
	}()
	build := exec.Command("go", "build", "-trimpath", "-tags", "embedrunc", "-o", w.program, "./cmd/strata")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return w, fmt.Errorf("building strata (scripts/runc.sh comes first): %w\n%s", err, out)
	}
	if w.plain, err = newReference(t, dir); err != nil {
		return w, err
	}
	if w.bases, err = findBases(t, dir, w.plain); err != nil {
		return w, err
	}
	for i := range machineCount + largeCount {
		m, err := w.newMachine(fmt.Sprintf("m%d", i))
		if err != nil {
			return w, err
		}
		w.all = append(w.all, m)
		if i < machineCount {
			w.idle <- m
		} else {
			w.large <- m
		}
	}
	return w, nil
}

func (w *world) close() {
	for _, m := range w.all {
		m.store.Close()
	}
	if w.plain != nil {
		w.plain.close()
	}
	os.RemoveAll(w.dir)
}

// machine is one STRATA_HOME, and its registry as a reader sees it.
type machine struct {
	w      *world
	name   string
	home   string
	env    []string
	store  *registry.Embedded
	client *registry.Client

	mu  sync.Mutex
	has map[string]bool // bases that were imported
}

func (w *world) newMachine(name string) (*machine, error) {
	m := &machine{w: w, name: name, home: filepath.Join(w.dir, name), has: map[string]bool{}}
	m.env = append(cleanEnv(), "STRATA_HOME="+m.home, "DOCKER_CONFIG="+filepath.Join(w.dir, "docker"), "NO_COLOR=1")
	store, err := registry.OpenEmbedded(filepath.Join(m.home, "registry"))
	if err != nil {
		return nil, err
	}
	m.store, m.client = store, registry.New(registry.Options{Embedded: store})
	return m, nil
}

// extraMachine is a machine for one test.
func (w *world) extraMachine(t *testing.T, name string) *machine {
	t.Helper()
	m, err := w.newMachine(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.store.Close() })
	return m
}

// take gives a machine that nothing else uses until the test has ended.
func (w *world) take(t *testing.T) *machine {
	t.Helper()
	m := <-w.idle
	t.Cleanup(func() { w.idle <- m })
	return m
}

// takeLarge gives one that large bases are brought to.
func (w *world) takeLarge(t *testing.T) *machine {
	t.Helper()
	m := <-w.large
	t.Cleanup(func() { w.large <- m })
	return m
}

// turn waits until few other tests with machines of their own go on.
func (w *world) turn(t *testing.T) {
	t.Helper()
	w.turns <- true
	t.Cleanup(func() { <-w.turns })
}

// cleanEnv is an environment in which nothing tells programs what to do.
func cleanEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "NO_PROXY=127.0.0.1,localhost",
		"GIT_AUTHOR_NAME=Someone", "GIT_AUTHOR_EMAIL=someone@example.com",
		"GIT_COMMITTER_NAME=Someone", "GIT_COMMITTER_EMAIL=someone@example.com"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "STRATA_CI_MARK"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// need imports a base where it is missing, and checks that it is the one that
// the reference has.
func (m *machine) need(t *testing.T, names ...string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.has[name] {
			continue
		}
		b := m.w.bases.get(t, name)
		f, err := os.Open(b.tar)
		if err != nil {
			t.Fatal(err)
		}
		d, err := importBase(t, m.store, onMachine, b.name, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if d != b.digest {
			t.Fatalf("the base %s is %s on machine %s and %s in the reference", b.name, d, m.name, b.digest)
		}
		m.has[name] = true
	}
}

// run runs strata in a folder and gives its standard output.
func (m *machine) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.w.program, args...)
	cmd.Dir, cmd.Env = dir, m.env
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("strata %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (m *machine) must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := m.run(t.Context(), dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// step is what a build did with a unit.
type step struct {
	Unit   string `json:"unit"`
	Action string `json:"action"`
	Reason string `json:"reason"`
	Image  string `json:"image"`
}

// build builds a project, one unit after the other so that what they share is
// there in the same order each time, and gives what was done with each.
func (m *machine) build(t *testing.T, dir string, args ...string) map[string]step {
	t.Helper()
	out := m.must(t, dir, append([]string{"build", "--json", "--progress", "quiet", "--parallel", "1"}, args...)...)
	var run struct {
		Units []step `json:"units"`
	}
	if err := json.Unmarshal([]byte(out), &run); err != nil || len(run.Units) == 0 {
		t.Fatalf("reading what strata build --json said: %v\n%s", err, out)
	}
	steps := map[string]step{}
	for _, s := range run.Units {
		steps[s.Unit] = s
	}
	return steps
}

// image reads the image that a unit has after a build.
func (m *machine) image(t *testing.T, steps map[string]step, unit string) *picture {
	t.Helper()
	at := steps[unit+"/"+platform].Image
	if at == "" {
		t.Fatalf("the build did not name the image of %s: %+v", unit, steps)
	}
	if host, _, _ := strings.Cut(at, "/"); !strings.ContainsAny(host, ".:") {
		at = registry.EmbeddedHost + "/" + at
	}
	ref, err := registry.ParseRef(at)
	if err != nil {
		t.Fatal(err)
	}
	_, body, err := m.client.Platform(t.Context(), ref, platform)
	if err != nil {
		t.Fatal(err)
	}
	p, err := readPicture(t.Context(), m.client, ref, body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// command runs a command in a unit's image, in a fresh container. The status is
// the command's own.
func (m *machine) command(t *testing.T, dir, unit string, args ...string) (string, int) {
	t.Helper()
	out, err := m.run(t.Context(), dir, append([]string{"run", unit, "--"}, args...)...)
	return out, exitStatus(t, err)
}

func exitStatus(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !asExit(err, &exit) {
		t.Fatal(err)
	}
	t.Log(err)
	return exit.ExitCode()
}
