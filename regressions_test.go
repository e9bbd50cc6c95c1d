package strata

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/key"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// These are sixteen ways in which tools that reuse images by a key have built
// too little or too much, each held against real Dockerfiles. Where a public
// report tells of one, it is named.

// keys gives the key of every unit of the project as it is now.
func (w *workshop) keys(t *testing.T) map[string]key.ID {
	t.Helper()
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]key.ID{}
	for id, k := range p.Keys {
		out[id] = k.Unit.ID()
	}
	return out
}

const app = "app/linux/amd64"

// mustMove runs change and says when it left the key of app as it was.
func (w *workshop) mustMove(t *testing.T, what string, change func()) {
	t.Helper()
	before := w.keys(t)[app]
	change()
	if w.keys(t)[app] == before {
		t.Errorf("%s: the key stayed the same", what)
	}
}

// mustStay is the opposite.
func (w *workshop) mustStay(t *testing.T, what string, change func()) {
	t.Helper()
	before := w.keys(t)[app]
	change()
	if w.keys(t)[app] != before {
		t.Errorf("%s: the key changed", what)
	}
}

// edit writes a file each time it is called, with another text.
func (w *workshop) edit(t *testing.T, name string) func() {
	return func() { w.write(t, name, fmt.Sprintf("another text of %s\n", name)) }
}

// 1. Files that the Dockerfile copies were left out of the key, so that a change
// of code was published as the old image (dotnet/docker-tools#1270).
func TestRegressionCopiedFilesAreInTheKey(t *testing.T) {
	w := newWorkshop(t, `FROM PARENT AS tools
COPY tools/ /tools/
FROM PARENT
COPY src/main.py /src/
ADD --chown=1:1 added /
COPY [ "with space", "*.wild", "/w/" ]
RUN --mount=type=bind,source=bound,target=/b --mount=type=bind,source=dir,target=/d true
COPY --parents deep/*/file /p/
COPY --from=tools /tools /tools
`)
	names := []string{"tools/x", "src/main.py", "added", "with space", "a.wild", "bound", "dir/y", "deep/z/file"}
	for _, name := range names {
		w.write(t, name, "before\n")
	}
	for _, name := range names {
		w.mustMove(t, name, w.edit(t, name))
	}
	w.mustMove(t, "a file that a wildcard takes comes", w.edit(t, "b.wild"))
	w.mustMove(t, "a file in a folder comes", w.edit(t, "tools/new"))
	w.mustStay(t, "a file that nothing takes", w.edit(t, "src/lib.py"))
}

// 2. Only the base of the last stage was looked at; the one of a stage that the
// last one copies from moved unseen (dotnet/docker-tools#1455).
func TestRegressionBasesOfIntermediateStagesAreInTheKey(t *testing.T) {
	w := newWorkshop(t, `FROM HOST/one:1 AS one
FROM HOST/two:1 AS two
COPY --from=one /f /f
FROM PARENT
COPY --from=two /f /f
COPY --from=HOST/three:1 /f /g
RUN --mount=type=bind,from=HOST/four:1,target=/x true
`)
	data, err := os.ReadFile(filepath.Join(w.dir, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "Dockerfile", strings.ReplaceAll(string(data), "HOST", w.reg.Host))
	push := func(name, content string) {
		w.reg.PushImage(t, w.reg.Ref(name+":1"), registrytest.Image{Layers: []map[string]string{{"f": content}}})
	}
	names := []string{"one", "two", "three", "four"}
	for _, name := range names {
		push(name, "before")
	}
	for _, name := range names {
		w.mustMove(t, "the image "+name, func() { push(name, "after") })
	}
}

// 3. Build arguments and environment were left out (dotnet/docker-tools#1505;
// Skaffold's inputDigest).
func TestRegressionArgumentsAreInTheKey(t *testing.T) {
	dockerfile := func(global, local, env string) string {
		return "ARG G=" + global + "\nFROM PARENT\nARG G\nARG L=" + local + "\nARG UNUSED=1\nENV E=" + env + "\nRUN echo $G $L\n"
	}
	w := newWorkshop(t, dockerfile("1", "1", "1"))
	write := func(text string) func() {
		return func() { w.write(t, "Dockerfile", strings.ReplaceAll(text, "PARENT", w.reg.Host+"/parent:1")) }
	}
	w.mustMove(t, "the default of a global argument", write(dockerfile("2", "1", "1")))
	w.mustMove(t, "the default of an argument", write(dockerfile("2", "2", "1")))
	w.mustMove(t, "an environment variable", write(dockerfile("2", "2", "2")))
	yaml := func(args string) func() {
		return func() {
			w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    args: "+args+"\n")
		}
	}
	w.mustMove(t, "an argument's value", yaml("{G: given}"))
	w.mustStay(t, "an argument that nothing uses", yaml("{G: given, OTHER: x}"))
}

// chain makes a project of three layers in a row.
func chain(t *testing.T) *workshop {
	w := newWorkshop(t, "FROM PARENT\nCOPY base.txt /\n")
	w.write(t, "ml.Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY ml.txt /\n")
	w.write(t, "app.Dockerfile", "FROM ml\nCOPY app.txt /\n")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+`/app
platforms: [linux/amd64]
layers:
  base: {dockerfile: Dockerfile}
  ml: {parent: base, dockerfile: ml.Dockerfile}
  app: {parent: ml, dockerfile: app.Dockerfile}
`)
	for _, name := range []string{"base.txt", "ml.txt", "app.txt"} {
		w.write(t, name, "before\n")
	}
	return w
}

// 4. A parent was rebuilt and its child was reused (dotnet/docker-tools#1516 and
// #1525, dnephin/dobi#141, pantsbuild/pants#16479).
func TestRegressionAChangedParentReachesEveryChild(t *testing.T) {
	w := chain(t)
	w.build(t)
	w.mustMove(t, "a file of the parent's parent", w.edit(t, "base.txt"))
	p, res, _ := w.build(t)
	for _, s := range p.Plan.Steps {
		if s.Action == plan.Reuse {
			t.Errorf("%s was to be reused", s.Unit)
		}
	}
	img, err := loadPicture(t.Context(), w.reg.Client, res.Units[2].Ref)
	if err != nil {
		t.Fatal(err)
	}
	base, err := loadPicture(t.Context(), w.reg.Client, res.Units[0].Ref)
	if err != nil {
		t.Fatal(err)
	}
	if !startsWith(img.manifest.Layers, base.manifest.Layers) {
		t.Error("the app does not stand on the new base")
	}
}

// 5. A child was built while its parent was, from what the parent's tag still
// held (tilt-dev/tilt#6634). A child names its parent by key, and takes it by
// digest from the run that made it; no tag is read.
func TestRegressionAChildNeverTakesAParentByTag(t *testing.T) {
	w := chain(t)
	_, first, _ := w.build(t)
	w.edit(t, "base.txt")()
	_, second, _ := w.build(t)
	if first.Units[1].Ref == second.Units[1].Ref {
		t.Error("ml is the one from before")
	}
	img, err := loadPicture(t.Context(), w.reg.Client, second.Units[1].Ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.manifest.Annotations["org.opencontainers.image.base.digest"]; got != second.Units[0].Ref.Digest.String() {
		t.Errorf("ml says that it stands on %s, base is %s", got, second.Units[0].Ref.Digest)
	}
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"ml/linux/amd64", app} {
		up := p.Graph.Unit(id).Parents[0].ID
		want := "parent " + up + " " + string(p.Keys[up].Unit.ID())
		if !strings.Contains(string(p.Keys[id].Unit.Text()), want) {
			t.Errorf("the recipe of %s has no line %q", id, want)
		}
	}
}

// 6. Files outside of the folder that was hashed were shared by images and
// changed unseen (pytorch/pytorch#142218).
func TestRegressionSharedFilesOutsideOfTheDockerfilesFolder(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\n")
	w.write(t, "docker/app/Dockerfile", "FROM scratch\nCOPY common/setup.sh /\nCOPY --from=lib x /x\n")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+`/app
platforms: [linux/amd64]
layers:
  app:
    dockerfile: docker/app/Dockerfile
    contexts: {lib: shared/lib}
`)
	w.write(t, "common/setup.sh", "1\n")
	w.write(t, "shared/lib/x", "1\n")
	w.mustMove(t, "a shared file", w.edit(t, "common/setup.sh"))
	w.mustMove(t, "a file of a named context", w.edit(t, "shared/lib/x"))
}

// 7. Files counted by their base name, so that a move was not seen, and without
// their mode (Skaffold; werf/werf#7465).
func TestRegressionPathsAndModesAreInTheKey(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	path := func(name string) string { return filepath.Join(w.dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.mustMove(t, "a move into a folder", func() {
		must(os.Mkdir(path("src/sub"), 0o755))
		must(os.Rename(path("src/main.py"), path("src/sub/main.py")))
	})
	w.mustMove(t, "a mode", func() { must(os.Chmod(path("src/lib.py"), 0o755)) })
	w.mustMove(t, "a folder's mode", func() { must(os.Chmod(path("src/sub"), 0o700)) })
	w.mustMove(t, "a link in a file's place", func() {
		must(os.Rename(path("src/lib.py"), path("lib.py")))
		must(os.Symlink("../lib.py", path("src/lib.py")))
	})
	w.mustMove(t, "an empty folder", func() { must(os.Mkdir(path("src/empty"), 0o755)) })
	w.mustMove(t, "two files change places", func() {
		w.write(t, "src/a", "one\n")
		w.write(t, "src/b", "two\n")
		w.keys(t)
		w.write(t, "src/a", "two\n")
		w.write(t, "src/b", "one\n")
	})
}

// 8. A new version of the tool built otherwise under the old key (werf/werf#7827).
func TestRegressionTheRecipesVersionIsInTheKey(t *testing.T) {
	w := newWorkshop(t, "# syntax=docker/dockerfile:1.7\nFROM scratch\nCOPY src/ /src/\n")
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil {
		t.Fatal(err)
	}
	text := string(p.Keys[app].Unit.Text())
	if !strings.HasPrefix(text, key.Version+"\n") {
		t.Errorf("the recipe begins with %.40q", text)
	}
	if _, err := key.ParseRecipe([]byte(strings.Replace(text, key.Version, "strata recipe 0", 1))); err == nil {
		t.Error("a recipe of another version was read")
	}
	w.mustMove(t, "the frontend's version", func() {
		w.write(t, "Dockerfile", "# syntax=docker/dockerfile:1.8\nFROM scratch\nCOPY src/ /src/\n")
	})
	w.mustMove(t, "an option of Strata's own", func() {
		w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\ncompression: zstd\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	})
}

// 9. Something without an order, such as a map of secrets, was hashed in
// whatever order it came (okteto).
func TestRegressionNothingUnorderedIsInTheKey(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nARG A\nARG B\nARG C\nARG D\nENV X=$A$B$C$D\nCOPY src/ /\nCOPY --from=one x /\nCOPY --from=two x /\n")
	for _, dir := range []string{"one", "two"} {
		w.write(t, dir+"/x", "x\n")
	}
	yaml := func(order ...string) {
		var args, labels []string
		for _, name := range order {
			args = append(args, name+": v"+name)
			labels = append(labels, "label-"+name+": v"+name)
		}
		w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    contexts: {two: two, one: one}\n    args: {"+
			strings.Join(args, ", ")+"}\n    labels: {"+strings.Join(labels, ", ")+"}\n")
	}
	yaml("A", "B", "C", "D")
	seen := map[key.ID]bool{}
	for range 20 {
		yaml("D", "B", "A", "C")
		seen[w.keys(t)[app]] = true
		yaml("A", "B", "C", "D")
		seen[w.keys(t)[app]] = true
	}
	if len(seen) != 1 {
		t.Errorf("one project has the keys %v", slices.Collect(maps.Keys(seen)))
	}
}

// 10. The digest of a base's index was its key, so that an image was rebuilt when
// another platform or an attestation moved.
func TestRegressionOnlyThePlatformOfABaseCounts(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nCOPY src/ /src/\n")
	tarball := func(text string) *strings.Reader { return strings.NewReader(rootfs(t, text)) }
	imported := func(platform, text string) func() {
		return func() {
			ref := registry.Ref{Host: registry.EmbeddedHost, Repo: "multi", Tag: "1"}
			if _, err := w.reg.Embedded.ImportRootfs(t.Context(), ref, platform, tarball(text), registry.ImportConfig{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	imported("linux/amd64", "one")()
	w.write(t, "Dockerfile", "FROM "+w.reg.Host+"/multi:1\nCOPY src/ /src/\n")
	w.mustStay(t, "another platform comes", imported("linux/arm64", "one"))
	w.mustStay(t, "another platform moves", imported("linux/arm64", "two"))
	w.mustMove(t, "this platform moves", imported("linux/amd64", "two"))
}

// rootfs is a tar archive of one file.
func rootfs(t *testing.T, text string) string {
	plain, _ := registrytest.Layer(t, map[string]string{"etc/release": text})
	return string(plain)
}

// 11. Times were in the key, or times of folders in the image (Buildah's
// Created, apko).
func TestRegressionTimesAreNotInTheKey(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	w.mustStay(t, "the times of files and folders", func() {
		for _, name := range []string{"src", "src/main.py", "Dockerfile", "strata.yaml", "."} {
			if err := os.Chtimes(filepath.Join(w.dir, name), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	})
	before := w.keys(t)[app]
	c := w.config(t)
	c.Now = c.Now.AddDate(3, 0, 0)
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if p.Keys[app].Unit.ID() != before {
		t.Error("three years later the key is another")
	}
}

// 12. The value of a secret was hashed into a public key, where it can be
// guessed; only its name belongs there.
func TestRegressionNoValueOfASecretIsInTheKey(t *testing.T) {
	w := newWorkshop(t, "FROM PARENT\nRUN --mount=type=secret,id=token cat /run/secrets/token\n")
	w.write(t, "token", "first")
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    secrets: [{id: token, file: token}]\n")
	w.mustStay(t, "the value of a secret", w.edit(t, "token"))
	w.mustMove(t, "the name of a secret", func() {
		w.write(t, "Dockerfile", "FROM "+w.reg.Host+"/parent:1\nRUN --mount=type=secret,id=other cat /run/secrets/token\n")
	})
}

// 13. The last commit that touched a folder was the key, which a shallow clone
// does not know. The key comes from the files, with git or without it.
func TestRegressionTheKeyNeedsNoHistory(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	git := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", w.dir, "-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	w.mustStay(t, "a commit", func() { git("init", "-q"); git("add", "."); git("commit", "-qm", "first") })
	w.mustStay(t, "another commit", func() { git("commit", "-q", "--allow-empty", "-m", "second") })
	w.mustMove(t, "a change that is not committed", w.edit(t, "src/main.py"))
}

// 14. "It exists" was judged from what is on this machine, or before all
// platforms were done. The registry alone is asked, and the index comes last.
func TestRegressionTheIndexComesLast(t *testing.T) {
	var broken atomic.Bool
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	reg := registrytest.With(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if broken.Load() && r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/latest-arm64") {
				rw.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	w.reg = reg
	w.write(t, "strata.yaml", "image: "+reg.Host+"/app\nplatforms: [linux/amd64, linux/arm64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	run := func() error {
		p, err := Prepare(t.Context(), w.config(t))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Execute(t.Context())
		return err
	}
	broken.Store(true)
	if err := run(); err == nil {
		t.Fatal("the run passed")
	}
	if a := reg.Client.Lookup(t.Context(), reg.Ref("app:latest")); a.State != registry.Miss {
		t.Errorf("the index is there: %v", a.State)
	}
	broken.Store(false)
	if err := run(); err != nil {
		t.Fatal(err)
	}
	if a := reg.Client.Lookup(t.Context(), reg.Ref("app:latest")); a.State != registry.Hit || !registry.IsIndex(a.Desc.MediaType) {
		t.Errorf("the index is not there: %v", a.State)
	}
}

// 15. An error of a look-up was taken for "it is not there", and everything was
// built, or for "it is", and nothing was (dotnet/docker-tools#1964).
func TestRegressionAFailedLookUpIsNeitherHitNorMiss(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	for _, status := range []int{401, 403, 429, 500, 502} {
		w.reg = registrytest.With(t, registrytest.Options{Wrap: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Retry-After", "3600")
				rw.WriteHeader(status)
			})
		}})
		w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
		if _, err := Prepare(t.Context(), w.config(t)); err == nil {
			t.Errorf("with a registry that answers %d there is a plan", status)
		}
	}
	w.reg = registrytest.New(t)
	w.write(t, "strata.yaml", "image: "+w.reg.Host+"/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n")
	p, err := Prepare(t.Context(), w.config(t))
	if err != nil || p.Plan.Steps[0].Action != plan.Append {
		t.Errorf("with an empty registry: %v", err)
	}
}

// 16. A build that was skipped left "latest" where it was, on an older image.
func TestRegressionAHitIsTagged(t *testing.T) {
	w := newWorkshop(t, "FROM scratch\nCOPY src/ /src/\n")
	_, first, _ := w.build(t)
	w.edit(t, "src/main.py")()
	w.build(t)
	w.write(t, "src/main.py", "print(1)\n")
	p, _, log := w.build(t)
	if p.Plan.Work() != 0 {
		t.Fatalf("going back is %d steps of work", p.Plan.Work())
	}
	if got := w.reg.Client.Lookup(context.Background(), w.reg.Ref("app:latest")).Desc.Digest; got != first.Units[0].Ref.Digest {
		t.Errorf("latest is %s, want %s", got, first.Units[0].Ref.Digest)
	}
	for _, s := range log {
		if strings.Contains(s.what, "/blobs/uploads/") && s.bytes > 0 {
			t.Errorf("a blob was sent: %s", s.what)
		}
	}
}
