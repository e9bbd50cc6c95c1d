// Package crash kills the program at random points of what it does to a registry
// (promote, rollback, publish, prune), with an engine, and to this machine's own
// store (import, pull, build, lock, update, store prune), runs it again, and looks
// whether any tag points to something incomplete, whether anything live is gone, and
// whether the work that was begun has been finished. The registry is a real one,
// behind loopback; the program is a process of its own, ended by SIGKILL mostly, else
// by SIGTERM or SIGINT. [TestMain] prints what was there each time.
package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/cli"
	"github.com/strata-build/strata/internal/registry"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "strata" { // the program under test
		os.Exit(cli.Main("v0-crash"))
	}
	code := m.Run()
	outcomes.print(os.Stdout)
	os.Exit(code)
}

// front stands before the registry, counts requests, and can end the program at
// one of them.
type front struct {
	registry http.Handler

	mu   sync.Mutex
	seen int
	at   *point // nil: the program is left alone
	open int    // connections
}

// point is where a program is killed: at the nth request that counts, before the
// registry has got it or after it has answered.
type point struct {
	n      int
	writes bool // only requests that change something count
	after  bool
	kill   func()
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	p := f.at
	counts := p == nil || !p.writes || r.Method != http.MethodGet && r.Method != http.MethodHead
	if counts {
		f.seen++
	}
	hit := p != nil && counts && f.seen == p.n
	f.mu.Unlock()
	if hit && !p.after {
		p.kill()
		panic(http.ErrAbortHandler)
	}
	f.registry.ServeHTTP(w, r)
	if hit {
		p.kill()
		panic(http.ErrAbortHandler)
	}
}

// watch counts from here on, and kills at p.
func (f *front) watch(p *point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.at = 0, p
}

func (f *front) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// connection counts connections.
func (f *front) connection(_ net.Conn, s http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch s {
	case http.StateNew:
		f.open++
	case http.StateClosed, http.StateHijacked:
		f.open--
	}
}

// rest waits until the registry, which is not killed, has ended what it was asked
// for.
func (f *front) rest(t *testing.T) {
	t.Helper()
	for range 2000 {
		f.mu.Lock()
		open := f.open
		f.mu.Unlock()
		if open == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the registry is still busy ten seconds after the program was killed")
}

// world is a registry, a project that publishes to it, and the program.
type world struct {
	t       *testing.T
	random  *rand.Rand
	store   *registry.Embedded
	client  *registry.Client
	front   *front
	host    string // of the registry
	dir     string // that holds all of it
	project string
	repos   []string
	env     []string
	exe     string
	kills   int
	edits   int
	yaml    string // of the project

	before, after map[string]digest.Digest // tags around the last kill
	signal        syscall.Signal           // of the last kill

	sound map[string]digest.Digest // tags that were looked at
	read  map[digest.Digest]bool   // blobs whose content was
}

func newWorld(t *testing.T, random *rand.Rand) *world {
	t.Helper()
	dir := t.TempDir()
	store, err := registry.OpenEmbedded(filepath.Join(dir, "registry"))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{registry: store}
	server := httptest.NewUnstartedServer(f)
	server.Config.ConnState = f.connection
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the registry's own words about requests that end early
	server.Start()
	t.Cleanup(func() {
		server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{
		dir: dir, repos: []string{"team/demo", "team/tool"},
		t: t, random: random, read: map[digest.Digest]bool{}, store: store, client: registry.New(registry.Options{Embedded: store}), front: f,
		project: filepath.Join(dir, "p"), exe: filepath.Join(dir, "strata"),
		env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "STRATA_HOME=" + filepath.Join(dir, "home"), "GIT_CEILING_DIRECTORIES=" + dir, "TMPDIR=" + dir},
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, w.exe)
	}
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	w.host = host
	w.yaml = "image: " + host + "/team/demo\nplatforms: [linux/amd64, linux/arm64]\nchannels: [dev, stable]\nlayers:\n" +
		"  base: {dockerfile: base.Dockerfile}\n  app: {parent: base, dockerfile: app.Dockerfile}\n" +
		"  tool: {parent: base, dockerfile: tool.Dockerfile, image: " + host + "/team/tool, only: linux/amd64}\n"
	for name, text := range map[string]string{
		"strata.yaml":     w.yaml,
		"base.Dockerfile": "FROM scratch\nCOPY base.txt /\n",
		"app.Dockerfile":  "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY app.txt /\n",
		"tool.Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY tool.txt /\n",
	} {
		w.write(name, text)
	}
	w.edit("0")
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.project, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// edit changes every file of the project, at a time that is the same in every
// world.
func (w *world) edit(text string) {
	w.t.Helper()
	w.edits++
	at := time.Unix(1_790_000_000+int64(w.edits), 0)
	for _, name := range []string{"base.txt", "app.txt", "tool.txt"} {
		w.write(name, name+" "+text+"\n")
		if err := os.Chtimes(filepath.Join(w.project, name), at, at); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(w.exe, args...)
	cmd.Dir, cmd.Env = w.project, w.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// run runs the program to its end, which must be a good one.
func (w *world) run(args ...string) string {
	w.t.Helper()
	cmd, out := w.command(args...)
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("strata %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out.String()
}

// cost says what a command needs when nobody ends it.
type cost struct {
	requests, writes int
	took             time.Duration
}

// measure runs a command and says what it needed.
func (w *world) measure(args ...string) cost {
	w.t.Helper()
	var c cost
	counting := &front{registry: w.front.registry}
	counting.at = &point{n: -1, writes: true}
	whole := w.front.registry
	w.front.registry = counting
	w.front.watch(nil)
	start := time.Now()
	w.run(args...)
	c.took, c.requests, c.writes = time.Since(start), w.front.requests(), counting.requests()
	w.front.registry = whole
	return c
}

// kill runs a command and ends it at a random point. It reports false when the
// command was quicker; it must have come to a good end then.
func (w *world) kill(c cost, args ...string) bool {
	w.t.Helper()
	cmd, out := w.command(args...)
	var once sync.Once
	w.signal = syscall.SIGKILL
	end := func() { once.Do(func() { _ = cmd.Process.Signal(w.signal) }) }
	p := &point{n: -1, kill: end, after: w.random.IntN(2) == 0}
	var after time.Duration
	switch w.random.IntN(6) {
	case 0: // what a terminal or a service manager sends is not the registry's end as well
		w.signal = [...]syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGINT}[w.random.IntN(3)]
		after = time.Duration(w.random.Int64N(int64(c.took)))
	case 1:
		after = time.Duration(w.random.Int64N(int64(c.took)))
	case 2:
		p.n = 1 + w.random.IntN(max(c.requests, 1))
	default:
		if c.writes == 0 { // it works on this machine alone
			after = time.Duration(w.random.Int64N(int64(c.took)))
			break
		}
		p.n, p.writes = 1+w.random.IntN(c.writes), true
	}
	w.before = w.tags()
	w.front.watch(p)
	defer w.front.watch(nil)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, end)
		defer timer.Stop()
	}
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !limit.Stop() {
		w.t.Fatalf("strata %s was still there a minute after it began, and had been sent %v\n%s", strings.Join(args, " "), w.signal, out)
	}
	w.front.rest(w.t)
	w.after = w.tags()
	if err == nil {
		return false
	}
	want := map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGTERM: 143, syscall.SIGINT: 130}[w.signal]
	// Before it is told what to do about one, a signal ends a program as ever.
	if code := cmd.ProcessState.ExitCode(); code != want && code != -1 {
		w.t.Fatalf("strata %s, sent %v: exit code %d: %v\n%s", strings.Join(args, " "), w.signal, code, err, out)
	}
	w.kills++
	return true
}

func (w *world) ref(repo string) registry.Ref {
	return registry.Ref{Host: registry.EmbeddedHost, Repo: repo}
}

// tags gives what the tags of the repositories point to, by "REPO:TAG".
func (w *world) tags() map[string]digest.Digest {
	w.t.Helper()
	out := map[string]digest.Digest{}
	for _, repo := range w.repos {
		tags, err := w.store.Tags(repo)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, tag := range tags {
			out[repo+":"+tag.Ref.Tag] = tag.Digest
		}
	}
	return out
}

// whole looks at every tag that has moved since it was last called, those that
// Strata keeps for itself included: its manifest, config and blobs, and the
// children of indexes, must be there with the content that their digests say.
func (w *world) whole() map[string]digest.Digest {
	w.t.Helper()
	tags := w.tags()
	seen := map[string]bool{}
	for name, d := range tags {
		if w.sound[name] != d {
			repo, _, _ := strings.Cut(name, ":")
			w.wholeManifest(name, repo, d, seen)
		}
	}
	w.sound = tags
	return tags
}

// allWhole looks at every tag, moved or not.
func (w *world) allWhole() map[string]digest.Digest {
	w.t.Helper()
	w.sound = nil
	return w.whole()
}

func (w *world) wholeManifest(name, repo string, d digest.Digest, seen map[string]bool) {
	w.t.Helper()
	if seen[repo+d.String()] {
		return
	}
	seen[repo+d.String()] = true
	desc, body, err := w.client.Manifest(context.Background(), w.ref(repo).WithDigest(d))
	if err != nil {
		w.t.Errorf("%s points to %s: %v", name, d, err)
		return
	}
	if registry.IsIndex(desc.MediaType) {
		var idx ocispec.Index
		if err := json.Unmarshal(body, &idx); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
		for _, m := range idx.Manifests {
			w.wholeManifest(name, repo, m.Digest, seen)
		}
		return
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if seen[repo+b.Digest.String()] {
			continue
		}
		seen[repo+b.Digest.String()] = true
		if err := w.wholeBlob(repo, b); err != nil {
			w.t.Errorf("%s needs the blob %s: %v", name, b.Digest, err)
		}
	}
}

func (w *world) wholeBlob(repo string, d ocispec.Descriptor) error {
	there, err := w.client.HasBlob(context.Background(), w.ref(repo), d)
	if err != nil || !there {
		return fmt.Errorf("there: %v, %w", there, err)
	}
	if w.read[d.Digest] { // what is there under a digest never changes
		return nil
	}
	w.read[d.Digest] = true
	r, err := w.client.Blob(context.Background(), w.ref(repo), d)
	if err != nil {
		return err
	}
	defer r.Close()
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(verifier, r); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("its content has another digest")
	}
	return nil
}

// userTags leaves out the tags that Strata keeps for itself.
func userTags(tags map[string]digest.Digest) map[string]digest.Digest {
	out := map[string]digest.Digest{}
	for name, d := range tags {
		if _, tag, _ := strings.Cut(name, ":"); !strings.HasPrefix(tag, "strata-") && !strings.HasPrefix(tag, "sha256-") {
			out[name] = d
		}
	}
	return out
}

// stillThere says that every tag that was there is there and, unless it may move,
// points to the same.
func (w *world) stillThere(before, now map[string]digest.Digest, moves func(tag string) bool) {
	w.t.Helper()
	for name, d := range before {
		_, tag, _ := strings.Cut(name, ":")
		switch got, ok := now[name]; {
		case !ok:
			w.t.Errorf("the tag %s is gone", name)
		case got != d && !moves(tag):
			w.t.Errorf("the tag %s has moved from %s to %s", name, d, got)
		}
	}
}

// seed gives the random points of a test; $CRASH_SEED repeats a run.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("CRASH_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CRASH_SEED=%d", n)
	return rand.New(rand.NewPCG(n, n))
}
