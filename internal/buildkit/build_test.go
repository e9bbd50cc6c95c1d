//go:build linux

package buildkit

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
)

func TestCacheMountSurvivesReopening(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	for i, want := range []string{"none", "kept"} {
		e := open(t, root, h)
		j := job(t, "FROM strata.internal/base\nARG N\nRUN --mount=type=cache,target=/cache if [[ -f /cache/x ]]; then cat /cache/x; else echo none; fi; echo kept > /cache/x\n", nil)
		j.Args = map[string]string{"N": want}
		_, rec := mustBuild(t, e, j)
		if !strings.Contains(rec.text(event.StepLog), "|"+want+"|") {
			t.Errorf("round %d:\n%s", i, rec.text(event.StepLog))
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecretsStayOutOfTheImageAndTheStore(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	root := t.TempDir()
	e := open(t, root, h)
	const secret = "hunter2-correct-horse"
	t.Setenv("STRATA_TEST_TOKEN", secret)
	j := job(t, "FROM strata.internal/base\nRUN --mount=type=secret,id=a cat /run/secrets/a > /dev/null\nRUN --mount=type=secret,id=b,env=B echo ${#B} > /length\n", nil)
	file := filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	j.Secrets = []build.Secret{{ID: "a", Env: "STRATA_TEST_TOKEN"}, {ID: "b", File: file}}
	r, rec := mustBuild(t, e, j)
	text := h.layerText(t, "out/app", r.Body)
	if !strings.Contains(text, "length 0\n21\n") {
		t.Errorf("the step did not read the secret:\n%s", text)
	}
	if strings.Contains(text, secret) || strings.Contains(string(r.Config), secret) || strings.Contains(rec.text(event.StepLog), secret) {
		t.Error("the secret is in the image or in an event")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) {
			t.Errorf("the secret is in %q", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMissingSecretIsSaidAtOnce(t *testing.T) {
	e := open(t, t.TempDir(), nil)
	j := job(t, "FROM scratch\n", nil)
	j.Secrets = []build.Secret{{ID: "npm", Env: "STRATA_TEST_UNSET"}}
	_, err := e.Build(t.Context(), j, event.Discard)
	want := `building "` + j.Unit + `": reading secret "npm": environment variable "STRATA_TEST_UNSET" is not set`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestNamedContextsAndPins(t *testing.T) {
	h := newHub(t)
	old := h.pushBase(t, "base", "latest", file{"which", 0o644, []byte("old")})
	h.pushBase(t, "base", "latest", file{"which", 0o644, []byte("new")})
	h.pushBase(t, MirrorFolder+"/docker.io/library/tool", "1", file{"which", 0o644, []byte("pinned")})
	pinned := digestOf(t, h, MirrorFolder+"/docker.io/library/tool", "1")
	h.pushBase(t, MirrorFolder+"/docker.io/library/tool", "1", file{"which", 0o644, []byte("moved")})
	e := open(t, t.TempDir(), h)

	j := job(t, "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS a\nFROM parent\n"+
		"COPY --from=a /which /from-arg\n"+
		"COPY --from=tool:1 /which /from-copy\n"+
		"RUN --mount=from=tool:1,target=/t cat /t/which > /from-mount\n"+
		"COPY --from=more x.txt /from-folder\n", nil)
	more := t.TempDir()
	if err := os.WriteFile(filepath.Join(more, "x.txt"), []byte("folder"), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := RegistryHost + "/base@" + old.String()
	j.Args = map[string]string{"BASE_IMAGE": ref}
	j.Contexts = map[string]string{"parent": "docker-image://" + ref, "more": more}
	j.Pins = map[string]digest.Digest{"tool:1": pinned}
	r, _ := mustBuild(t, e, j)
	text := h.layerText(t, "out/app", r.Body)
	for _, want := range []string{"which 0\nold", "from-arg 0\nold", "from-copy 0\npinned", "from-mount 0\npinned", "from-folder 0\nfolder"} {
		if !strings.Contains(text, want) {
			t.Errorf("image lacks %q:\n%s", want, text)
		}
	}
}

func digestOf(t *testing.T, h *hub, repo, tag string) digest.Digest {
	t.Helper()
	return digest.FromBytes(h.manifest(t, repo, tag))
}

func TestStageIsReplacedByAnImageOfItsName(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	text := "FROM strata.internal/base AS deps\nRUN echo deps > /deps\nFROM deps AS app\nCOPY a.txt /\n"
	first := job(t, text, nil)
	first.Target = "deps"
	deps, _ := mustBuild(t, e, first)

	j := job(t, text, map[string]string{"a.txt": "a"})
	j.Contexts = map[string]string{"deps": "docker-image://" + RegistryHost + "/out/app@" + deps.Manifest.Digest.String()}
	r, rec := mustBuild(t, e, j)
	if strings.Contains(rec.text(event.StepStarted), "RUN echo deps") {
		t.Error("the stage was built again")
	}
	below, above := manifest(t, deps.Body), manifest(t, r.Body)
	if n := len(below.Layers); len(above.Layers) != n+1 || digests(above)[n-1] != digests(below)[n-1] {
		t.Errorf("layers of the stage changed: %v, then %v", digests(below), digests(above))
	}
}

// An image in place of a stage is a base like any other: its blobs stay as they
// are and where they are, whoever made them.
func TestImageInPlaceOfAStageStaysLazy(t *testing.T) {
	h := newHub(t)
	d := h.pushBase(t, "deps", "1")
	e := open(t, t.TempDir(), h)
	text := "ARG V=1\nFROM strata.internal/none AS other\nRUN <<EOT\nFROM here\nEOT\n" +
		"FROM strata.internal/none:$V AS Deps\nARG V\nRUN echo never \\\n  > /x\nFROM deps\nCOPY --link a /\nCOPY --link --from=deps /etc/passwd /p\n"
	j := job(t, text, map[string]string{"a": "a"})
	j.Contexts = map[string]string{"deps": "docker-image://" + RegistryHost + "/deps@" + d.String()}
	h.forget()
	r, _ := mustBuild(t, e, j)
	below := manifest(t, h.manifest(t, "deps", d.String())).Layers[0].Digest
	if got := digests(manifest(t, r.Body))[0]; got != below {
		t.Errorf("the image's blob became %s, was %s", got, below)
	}

	j.Dockerfile = []byte(strings.Replace(text, "COPY --link --from=deps /etc/passwd /p\n", "", 1))
	e.Close()
	e = open(t, t.TempDir(), h)
	h.forget()
	mustBuild(t, e, j)
	if got := h.seen("GET", below.String()); len(got) != 0 {
		t.Errorf("the image's blob was pulled: %q", got)
	}

	j.Dockerfile = []byte(text + "FLY away\n")
	_, err := e.Build(t.Context(), j, event.Discard)
	if want := "docker/Dockerfile.app:13: "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func manifest(t *testing.T, body []byte) ocispec.Manifest {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func digests(m ocispec.Manifest) []digest.Digest {
	var out []digest.Digest
	for _, l := range m.Layers {
		out = append(out, l.Digest)
	}
	return out
}

// Two machines must make the same image of the same input.
func TestColdStoresGiveTheSameDigest(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	var got []digest.Digest
	for i := range 2 {
		e := open(t, t.TempDir(), h)
		j := job(t, "FROM strata.internal/base\nWORKDIR /app/sub\nCOPY . .\nENV A=b\n", map[string]string{"x/y.txt": "y", "z": "z"})
		j.SourceDateEpoch = seconds(1700000000)
		old := time.Unix(1600000000+int64(i)*1000, 0).Add(time.Since(time.Unix(1600000000, 0)))
		if err := os.Chtimes(filepath.Join(j.ContextDir, "z"), old, old); err != nil {
			t.Fatal(err)
		}
		r, _ := mustBuild(t, e, j)
		got = append(got, r.Manifest.Digest)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got[0] != got[1] {
		t.Errorf("digests differ: %v", got)
	}
}

// An edit that keeps size and time must reach the engine: the unit's key has
// changed, and the old image under the new key would be wrong.
func TestEditWithSameSizeAndTimeIsSeen(t *testing.T) {
	h := newHub(t)
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM scratch\nCOPY f /\n", map[string]string{"f": "one"})
	path := filepath.Join(j.ContextDir, "f")
	at := time.Unix(1700000000, 0)
	for _, text := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		r, _ := mustBuild(t, e, j)
		if got := h.layerText(t, "out/app", r.Body); !strings.Contains(got, "\n"+text+"\n") {
			t.Errorf("after writing %q the image holds:\n%s", text, got)
		}
		time.Sleep(10 * time.Millisecond) // the kernel's clock of inodes ticks slower
	}
}

func TestIgnoreFileOfTheDockerfile(t *testing.T) {
	h := newHub(t)
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM scratch\nCOPY . /\n", map[string]string{
		"keep": "k", "drop": "d", ".dockerignore": "keep\n", "docker/Dockerfile.app": "", "docker/Dockerfile.app.dockerignore": "keep\n",
	})
	j.Ignore = []byte("drop\ndocker\n.dockerignore\n")
	r, _ := mustBuild(t, e, j)
	if got := h.layerText(t, "out/app", r.Body); !strings.Contains(got, "keep 0") || strings.Contains(got, "drop") {
		t.Errorf("image:\n%s", got)
	}
}

// A directive for the built-in frontend must not need Docker Hub; the one after
// it still counts.
func TestSyntaxDirectiveNeedsNoDownload(t *testing.T) {
	h := newHub(t)
	e := open(t, t.TempDir(), h)
	j := job(t, "# syntax=docker/dockerfile:1\n# escape=`\nFROM scratch\nCOPY `\n  f /\n", map[string]string{"f": "x"})
	mustBuild(t, e, j)
	if got := h.seen("docker/dockerfile"); len(got) > 0 {
		t.Errorf("asked for the frontend: %q", got)
	}
}

func TestFailedStepSaysWhereAndWhy(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	_, err := e.Build(t.Context(), job(t, "FROM strata.internal/base\n\nRUN echo first; echo no such package; exit 42\n", nil), event.Discard)
	var step *StepError
	if !errors.As(err, &step) {
		t.Fatalf("got %v", err)
	}
	want := StepError{
		Step: "[2/2] RUN echo first; echo no such package; exit 42", File: "docker/Dockerfile.app", Line: 3,
		ExitCode: 42, Output: []string{"first", "no such package"},
	}
	if diff := cmp.Diff(want, *step, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "err" }, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text := `docker/Dockerfile.app:3: running "[2/2] RUN echo first; echo no such package; exit 42": exit code 42` + "\n  first\n  no such package"
	if !strings.HasSuffix(err.Error(), text) {
		t.Errorf("got %s\nwant %s", err, text)
	}
}

func TestErrorsOfOtherSteps(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	for _, tc := range []struct{ name, dockerfile, want string }{
		{"file", "FROM strata.internal/base\nCOPY absent /\n", `docker/Dockerfile.app:2: running "[2/2] COPY absent /": `},
		{"image", "FROM strata.internal/nowhere\n", `strata.internal/nowhere:latest: not found`},
		{"syntax", "FROM strata.internal/base\nFLY away\n", `docker/Dockerfile.app:2: `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := e.Build(t.Context(), job(t, tc.dockerfile, nil), event.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// The first image has the blobs; a second repository of the registry takes them
// over without an upload.
func TestPulledBlobsAreMountedNotUploaded(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, MirrorFolder+"/docker.io/library/big", "1")
	e := open(t, t.TempDir(), h)
	h.forget()
	j := job(t, "FROM big:1\nRUN echo made > /made\n", nil)
	r, _ := mustBuild(t, e, j)
	base := manifest(t, r.Body).Layers[0].Digest.String()
	if got := h.seen("POST /v2/out/app/blobs/uploads/?", "mount="+base, "from="+MirrorFolder+"/docker.io/library/big", "201"); len(got) != 1 {
		t.Errorf("the parent's blob was not mounted:\n%s", strings.Join(h.seen("/out/app/"), "\n"))
	}
}

// A child whose new blobs don't depend on the parent's files leaves them where
// they are.
func TestLinkedCopyPullsNothing(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	h.forget()
	r, _ := mustBuild(t, e, job(t, "FROM strata.internal/base\nCOPY --link a /app/\n", map[string]string{"a": "a"}))
	base := manifest(t, r.Body).Layers[0].Digest.String()
	if got := h.seen("GET", base); len(got) != 0 {
		t.Errorf("the parent's blob was pulled: %q", got)
	}
	if _, err := r.Blob(t.Context(), manifest(t, r.Body).Layers[0]); err == nil {
		t.Error("a blob that was never pulled can be opened")
	}
}

func TestHermeticNetwork(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	for _, network := range []string{"", "host", "none"} {
		j := job(t, "FROM strata.internal/base\nRUN cat /proc/net/route\n", nil)
		j.Network, j.NoCache = network, true
		_, rec := mustBuild(t, e, j)
		lines := strings.Count(rec.text(event.StepLog), "\n")
		if hermetic := lines <= 1; hermetic != (network == "none") {
			t.Errorf("network %q: %d routes", network, lines-1)
		}
	}
}

func TestJobsThatCantBeBuilt(t *testing.T) {
	e := open(t, t.TempDir(), nil)
	for _, tc := range []struct {
		edit func(*build.Job)
		want string
	}{
		{func(j *build.Job) { j.CacheTo = []build.Cache{{Type: "gha"}} }, `using cache type "gha": the embedded engine has only registry, local, inline`},
		{func(j *build.Job) { j.Network = "bridge" }, `using network "bridge": it is none of ["" "none" "host"]`},
		{func(j *build.Job) { j.Compression = "xz" }, `using compression "xz": it is none of ["" "gzip" "zstd"]`},
		{func(j *build.Job) { j.Export = &build.Export{Type: "zip"} }, `using export type "zip": it is none of ["oci" "docker" "tar"]`},
		{func(j *build.Job) { j.ContextDir = "" }, `the job has no build context`},
		{func(j *build.Job) { j.ContextDir = "/nowhere" }, `opening build context "/nowhere": lstat /nowhere: no such file or directory`},
		{func(j *build.Job) { j.Contexts = map[string]string{"x": "/nowhere"} }, `opening named context "x": lstat /nowhere: no such file or directory`},
		{func(j *build.Job) { j.Pins = map[string]digest.Digest{"A:1": "sha256:00"} }, `pinning image "A:1": invalid reference format: repository name (library/A) must be lowercase`},
		{func(j *build.Job) { j.Secrets = []build.Secret{{ID: "x"}} }, `reading secret "x": one of env and file must be set`},
	} {
		j := job(t, "FROM scratch\n", nil)
		tc.edit(&j)
		_, err := e.Build(t.Context(), j, event.Discard)
		if want := `building "` + j.Unit + `": ` + tc.want; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestRegistryCacheOnAColdStore(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	text := "FROM strata.internal/base\nRUN echo made > /made\n"
	cache := build.Cache{Type: "registry", Attrs: map[string]string{"ref": RegistryHost + "/cache:main", "mode": "max"}}
	e := open(t, t.TempDir(), h)
	j := job(t, text, nil)
	j.CacheTo = []build.Cache{cache}
	mustBuild(t, e, j)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, t.TempDir(), h)
	j = job(t, text, nil)
	j.CacheFrom = []build.Cache{cache}
	r, rec := mustBuild(t, e, j)
	if !strings.Contains(rec.text(event.StepFinished), "RUN echo made > /made||true|") {
		t.Errorf("RUN was not taken from the cache:\n%s", rec.text(event.StepFinished))
	}
	cached := false
	for _, s := range r.Steps {
		cached = cached || s.Cached && strings.Contains(s.Name, "RUN echo made")
	}
	if !cached {
		t.Errorf("steps: %+v", r.Steps)
	}
}

func TestExportAlone(t *testing.T) {
	e := open(t, t.TempDir(), nil)
	for _, typ := range []string{"oci", "docker", "tar"} {
		out := filepath.Join(t.TempDir(), "out")
		j := job(t, "FROM scratch\nCOPY f /\n", map[string]string{"f": "x"})
		j.Repository = ""
		j.Export = &build.Export{Type: typ, Name: "example.com/app:1", Open: createFile(out)}
		r, _ := mustBuild(t, e, j)
		data, err := os.ReadFile(out)
		if err != nil || len(data) == 0 {
			t.Errorf("%s: %d bytes, %v", typ, len(data), err)
		}
		if (len(r.Body) > 0) != (typ != "tar") {
			t.Errorf("%s: manifest %q", typ, r.Body)
		}
	}
}

func TestZstdIsForNewBlobsOnly(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM strata.internal/base\nCOPY f /\n", map[string]string{"f": "x"})
	j.Compression = "zstd"
	r, _ := mustBuild(t, e, j)
	var got []string
	for _, l := range manifest(t, r.Body).Layers {
		got = append(got, l.MediaType)
	}
	want := []string{ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A pin may name one platform, as the lock does.
func TestPinOfOnePlatform(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, MirrorFolder+"/docker.io/library/tool", "1", file{"which", 0o644, []byte("pinned")})
	pinned := digestOf(t, h, MirrorFolder+"/docker.io/library/tool", "1")
	h.pushBase(t, MirrorFolder+"/docker.io/library/tool", "1", file{"which", 0o644, []byte("moved")})
	e := open(t, t.TempDir(), h)
	for platform, want := range map[string]string{"linux/" + runtime.GOARCH: "pinned", "linux/" + foreign(): "moved"} {
		j := job(t, "FROM scratch\nCOPY --from=tool:1 /which /\n", nil)
		j.Pins = map[string]digest.Digest{"tool:1::" + platform: pinned}
		r, _ := mustBuild(t, e, j)
		if text := h.layerText(t, "out/app", r.Body); !strings.Contains(text, want) {
			t.Errorf("pin of %s: image lacks %q:\n%s", platform, want, text)
		}
	}
}
