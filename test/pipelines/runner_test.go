//go:build linux

package pipelines

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// The programs that run workflows and lint them, at fixed versions, outside of
// this module: each has dependencies that don't go with its own.
const (
	actModule        = "github.com/nektos/act@v0.2.89"
	actionlintModule = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
)

// tool gives a program, compiled once and kept in Strata's cache folder.
func tool(t *testing.T, module string) string {
	t.Helper()
	cache := os.Getenv("STRATA_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "strata")
	}
	path, version, _ := strings.Cut(module, "@")
	bin := filepath.Join(cache, "tools", filepath.Base(path)+"-"+version)
	file := filepath.Join(bin, filepath.Base(path))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	cmd := exec.Command("go", "install", module)
	cmd.Dir = t.TempDir() // not this module
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compiling %s: %v\n%s", module, err, out)
	}
	return file
}

// host stands for GitHub: a project, a registry that asks for a login before it
// takes anything, and a place where runners live.
type host struct {
	*project
	t        *testing.T
	registry *registrytest.Registry
	act      string
	strata   string // the program itself
	dir      string // of what runs leave
	runs     int
	changed  []string // by the first commit
}

// The login that the registry takes for writing; the secrets hold it.
const user, password = "someone", "secret-of-the-registry"

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the engine needs root")
	}
	h := &host{t: t, act: tool(t, actModule), dir: t.TempDir()}
	h.registry = registrytest.With(t, registrytest.Options{Wrap: login})
	pushBases(t, h.registry.Embedded)
	h.strata = filepath.Join(h.dir, "bin", "strata.program")
	cmd := exec.Command("go", "build", "-tags", "embedrunc", "-ldflags=-s -w", "-o", h.strata, "../../cmd/strata")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building strata: %v\n%s", err, out)
	}
	h.write("bin/strata", wrapper, 0o755)
	h.write("login/action.yml", loginAction, 0o644)
	h.write("other/action.yml", otherAction, 0o644)
	h.project = newProject(t, h.registry.Host)
	return h
}

// login refuses writes without the password, as registries do for public images.
func login(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if (u != user || p != password) && r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// wrapper is the strata that runners find on PATH. Each job is a machine of its
// own, with a home that is empty at first; the test may set the time that a
// pipeline begins at, and may let a machine die in mid-build.
const wrapper = `#!/bin/bash
set -e
program=$(dirname "$0")/strata.program
export STRATA_HOME=$RUNNER_TEMP/strata-home
if [ "$1" = plan ] && [ -n "$TEST_TIME" ]; then
	shift
	set -- plan --time "$TEST_TIME" "$@"
fi
if [ "$1" = build ] && [ -n "$TEST_DIES" ] && [[ "$*" == *"$TEST_DIES"* ]]; then
	export STRATA_HOME=$TEST_DEAD
	"$program" "$@" &
	for _ in $(seq 600); do
		if grep -aqs 'made-m[l]; sleep' /proc/[0-9]*/cmdline; then break; fi
		sleep 0.05
	done
	kill -9 $!
	exit 137
fi
exec "$program" "$@"
`

// loginAction stands for docker/login-action: it does to Docker's configuration
// what that one does.
const loginAction = `name: login
description: stands for docker/login-action
inputs:
  registry: {description: host}
  username: {description: user}
  password: {description: password}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        REGISTRY: ${{ inputs.registry }}
        USERNAME: ${{ inputs.username }}
        PASSWORD: ${{ inputs.password }}
      run: |
        mkdir -p "$HOME/.docker"
        auth=$(printf '%s:%s' "$USERNAME" "$PASSWORD" | base64 -w0)
        printf '{"auths":{"%s":{"auth":"%s"}}}' "$REGISTRY" "$auth" > "$HOME/.docker/config.$$"
        mv "$HOME/.docker/config.$$" "$HOME/.docker/config.json"
`

// otherAction stands for actions that no runner of these tests needs, since strata
// is on its PATH.
const otherAction = `name: other
description: must not run
runs:
  using: composite
  steps:
    - {shell: bash, run: exit 1}
`

func (h *host) write(name, text string, mode os.FileMode) {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

// strataIn runs the program in the repository, on the developer's machine.
func (h *host) strataIn(home string, args ...string) (string, error) {
	cmd := exec.Command(h.strata, args...)
	cmd.Dir = h.project.dir
	cmd.Env = append(os.Environ(), "STRATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// event is what starts a workflow.
type event struct {
	name    string
	payload map[string]any
	env     map[string]string
	fork    bool // without secrets
}

func push(ref string) event {
	return event{name: "push", payload: map[string]any{"ref": ref}}
}

// outcome is what came of one workflow's run.
type outcome struct {
	jobs     map[string]string // name -> success or failure; jobs that were skipped are not there
	requests []string
	log      string
	ok       bool
}

// names gives the jobs that ran, sorted, without what act adds to tell them apart.
func (o outcome) names() []string { return slices.Sorted(maps.Keys(o.jobs)) }

// run runs one workflow of the repository for an event.
func (h *host) run(workflow string, e event) outcome {
	h.t.Helper()
	h.registry.TakeLog()
	o := h.start(workflow, e)()
	o.requests = h.registry.TakeLog()
	return o
}

// start begins a run; what it gives waits for the end.
func (h *host) start(workflow string, e event) (wait func() outcome) {
	h.t.Helper()
	h.runs++
	dir := filepath.Join(h.dir, fmt.Sprintf("run%d", h.runs))
	payload, err := json.Marshal(e.payload)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(fmt.Sprintf("run%d/event.json", h.runs), string(payload), 0o644)
	args := []string{
		e.name, "-W", filepath.Join(".github/workflows", workflow), "-e", filepath.Join(dir, "event.json"), "--json",
		"--insecure-secrets", // act would hide what strata must not show
		"-P", "ubuntu-24.04=-self-hosted", "-P", "ubuntu-24.04-arm=-self-hosted",
		"--env", "HOME=" + filepath.Join(dir, "home"), "-s", "GITHUB_TOKEN=token-of-the-job",
	}
	for _, ref := range h.pinned() {
		args = append(args, "--local-repository", ref+"="+filepath.Join(h.dir, standIn(ref)))
	}
	if !e.fork {
		args = append(args, "-s", "REGISTRY_USERNAME="+user, "-s", "REGISTRY_PASSWORD="+password)
	}
	for _, name := range slices.Sorted(maps.Keys(e.env)) {
		args = append(args, "--env", name+"="+e.env[name])
	}
	cmd := exec.Command(h.act, args...)
	cmd.Dir = h.project.dir
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "HOME="+filepath.Join(dir, "home"),
		"PATH="+filepath.Join(h.dir, "bin")+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return func() outcome {
		err := cmd.Wait()
		o := read(out.Bytes())
		o.ok = err == nil
		checkNoSecret(h.t, workflow, o.log)
		return o
	}
}

var pin = regexp.MustCompile(`uses: ([a-z-]+/[a-z-]+@[0-9a-f]{40}) # v`)

// pinned gives the actions of others that the project's files use. act has its
// own way of checking out.
func (h *host) pinned() []string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.project.dir, ".github/actions/strata/action.yml"))
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, m := range pin.FindAllStringSubmatch(string(text), -1) {
		out = append(out, m[1])
	}
	return out
}

// standIn names the folder of the action that stands for another one.
func standIn(ref string) string {
	if strings.HasPrefix(ref, "docker/login-action@") {
		return "login"
	}
	return "other"
}

// starts says which workflows a push of changed files starts.
func (h *host) starts(what string, changed []string, want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.project.started(changed), cmpopts.EquateEmpty()); diff != "" {
		h.t.Fatalf("%s starts other workflows (-want +got):\n%s", what, diff)
	}
}

// image is where the project's images are, as the registry itself names it.
const image = "user/mcp-ragex"

// tag gives the digest that a tag of the project points to, "" for none.
func (h *host) tag(name string) string {
	h.t.Helper()
	d, err := h.registry.Client.Resolve(context.Background(), h.registry.Inside(image+":"+name))
	if errors.Is(err, registry.ErrNotFound) {
		return ""
	} else if err != nil {
		h.t.Fatal(err)
	}
	return d.Digest.String()
}

// layers gives the digests of the layers of all images in the registry.
func (h *host) layers() map[string]bool {
	h.t.Helper()
	ctx, c, out := context.Background(), h.registry.Client, map[string]bool{}
	tags, err := c.Tags(ctx, h.registry.Inside(image))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, tag := range tags {
		_, body, err := c.Manifest(ctx, h.registry.Inside(image+":"+tag))
		if err != nil {
			h.t.Fatal(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(body, &m); err != nil {
			h.t.Fatal(err)
		}
		for _, l := range m.Layers {
			if m.ArtifactType == "" {
				out[l.Digest.String()] = true
			}
		}
	}
	if len(out) == 0 {
		h.t.Fatal("the registry has no image")
	}
	return out
}

var matrixNumber = regexp.MustCompile(`-[0-9]+$`)

// read reads act's log: a JSON object a line.
func read(out []byte) outcome {
	o := outcome{jobs: map[string]string{}}
	var text strings.Builder
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var l struct {
			Job, JobResult, Msg string
		}
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			fmt.Fprintln(&text, lines.Text())
			continue
		}
		fmt.Fprintf(&text, "[%s] %s\n", l.Job, strings.TrimRight(l.Msg, "\n"))
		if l.JobResult != "" {
			parts := strings.Split(l.Job, "/")
			name := l.Job
			if i := strings.Index(l.Job, "Strata/"); i >= 0 {
				name = l.Job[i+len("Strata/"):]
			} else if len(parts) > 1 {
				name = strings.Join(parts[1:], "/")
			}
			o.jobs[matrixNumber.ReplaceAllString(strings.TrimSpace(name), "")] = l.JobResult
		}
	}
	o.log = text.String()
	return o
}

// checkNoSecret says that no credential is in what anybody can read.
func checkNoSecret(t *testing.T, workflow, log string) {
	t.Helper()
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for _, secret := range []string{password, encoded, "token-of-the-job"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log of %s shows the secret %q", workflow, secret)
		}
	}
}

// workflow is what the tests look at in a file.
type workflow struct {
	On struct {
		Push struct {
			Branches, Tags, Paths []string
		}
		Schedule []struct{ Cron string }
	}
	Permissions map[string]string
	Jobs        map[string]struct {
		Uses        string
		Permissions map[string]string
		Timeout     int `yaml:"timeout-minutes"`
		Steps       []struct{ Run, Uses string }
	}
}

// workflows reads those of the repository, by file name.
func (p *project) workflows() map[string]workflow {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, ".github/workflows/*.yml"))
	if err != nil || len(files) == 0 {
		p.t.Fatalf("no workflows: %v", err)
	}
	out := map[string]workflow{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			p.t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(text, &w); err != nil {
			p.t.Fatalf("reading %s: %v", file, err)
		}
		out[filepath.Base(file)] = w
	}
	return out
}
