package export

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files")

// load reads a project from a file system.
func load(t *testing.T, fsys fs.FS, r spec.Release) Input {
	t.Helper()
	p, err := spec.Load("project", "", spec.LoadOptions{FS: fsys, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	p = p.With(r)
	in := Input{Folder: "plain", Ignore: map[string][]byte{}}
	files := map[string]*dockerfile.File{}
	for _, u := range p.Units() {
		data := u.Inline
		if data == nil {
			if data, err = fs.ReadFile(fsys, u.Dockerfile); err != nil {
				t.Fatal(err)
			}
		}
		if files[u.Dockerfile], err = dockerfile.Parse(u.Dockerfile, data); err != nil {
			t.Fatal(err)
		}
		if data, err := fs.ReadFile(fsys, dockerfile.IgnoreFile(u.Dockerfile)); err == nil {
			in.Ignore[u.Dockerfile] = data
		}
	}
	if in.Graph, err = graph.New(p, files, graph.Options{BuildPlatform: "linux/amd64"}); err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(fsys, lock.Name); err == nil {
		if in.Lock, err = lock.Parse(data); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", name, d)
	}
}

// The files of both examples, whole.
func TestExamples(t *testing.T) {
	for _, name := range []string{"ragex", "graphrag"} {
		dir := os.DirFS(filepath.Join("..", "..", "examples", name))
		in := load(t, dir, Release)
		golden(t, name+"/docker-bake.hcl", in.Bake(in.Graph.Units).Data)
		f, err := in.Make(in.Graph.Units)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+"/Makefile", f.Data)
		in = load(t, dir, spec.Release{Version: "1.4.0"})
		for _, u := range in.Graph.Units {
			if !in.Graph.Leaf(u) {
				continue
			}
			files, err := in.Dockerfile(u)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+"/"+files[0].Name, files[0].Data)
		}
	}
}

// project makes a file system of a txtar-like text: "-- name --" begins a file.
func project(text string) fstest.MapFS {
	fsys := fstest.MapFS{}
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSuffix(line, " --\n"), "-- "); ok && strings.HasSuffix(line, " --\n") {
			name = n
			fsys[name] = &fstest.MapFile{}
			continue
		}
		fsys[name].Data = append(fsys[name].Data, line...)
	}
	return fsys
}

const two = "-- strata.yaml --\nimage: x\nlayers:\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app}\n"

const pinned = `-- strata.lock --
{"version":1,"images":[{"image":"debian:12","from":"docker.io/library/debian","resolved":"2026-11-22T06:00:00Z",
"digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111","platforms":{"linux/amd64":
{"digest":"sha256:2222222222222222222222222222222222222222222222222222222222222222"}}}]}
`

const pin = "debian:12@sha256:1111111111111111111111111111111111111111111111111111111111111111"

func TestDockerfile(t *testing.T) {
	for _, tc := range []struct {
		name, files string
		want        []string // in this order
		not         string
	}{
		{"images are pinned as the lock has them", two + "-- base --\nFROM debian:12\nCOPY --from=debian:12 /a /b\nRUN --mount=from=debian:12,target=/d true\n-- app --\nARG BASE_IMAGE\nFROM $BASE_IMAGE\nCOPY --from=other:1 /c /d\n" + pinned,
			[]string{"FROM " + pin + " AS base\n", "COPY --from=" + pin + " /a /b\n", "RUN --mount=from=" + pin + ",target=/d true\n", "FROM base AS app\n", "COPY --from=other:1 /c /d\n"}, "ARG BASE_IMAGE"},
		{"stages of two files with one name",
			two + "-- base --\nFROM debian AS build\nRUN make\nFROM debian\nCOPY --from=build /a /\nCOPY --from=0 /b /\n-- app --\nARG BASE_IMAGE\nFROM golang AS Build\nRUN go build\nFROM ${BASE_IMAGE} AS base\nCOPY --link --from=build \\\n  # a comment\n  /app /app\nRUN --mount=type=bind,from=build,target=/b,ro true\n",
			[]string{"FROM debian AS base-build\n", "FROM debian AS base\n", "COPY --from=base-build /a /\n", "COPY --from=base-build /b /\n", "FROM golang AS app-build\n", "FROM base AS app\nCOPY --link --from=app-build \\\n  # a comment\n  /app /app\n", "RUN --mount=type=bind,from=app-build,target=/b,ro true\n"}, ""},
		{"a stage does not take the name of an image", "-- strata.yaml --\nimage: x\nlayers:\n  debian: {dockerfile: base}\n  app: {parent: debian, dockerfile: app}\n-- base --\nFROM debian:latest\nRUN a\n-- app --\nARG BASE_IMAGE\nFROM $BASE_IMAGE\nCOPY --from=debian /a /b\n",
			[]string{"FROM debian:latest AS debian-2\n", "FROM debian-2 AS app\n"}, ""},
		{"stages that are not reached stay out", two + "-- base --\nFROM debian\nRUN a\n-- app --\nARG BASE_IMAGE\n# for the linter\nFROM debian AS lint\nRUN lint\n\n# the app\nFROM $BASE_IMAGE\nCOPY a /\n",
			[]string{"# the app\nFROM base AS app\n"}, "lint"},
		{"arguments before FROM are each file's own",
			two + "-- base --\nARG TAG=12\nARG OTHER=$TAG-slim\nFROM debian:$OTHER\nARG TAG\nRUN echo $TAG\nARG TARGETARCH\nARG PLAIN\n-- app --\nARG BASE_IMAGE\nARG TAG=\"two words\"\nFROM $BASE_IMAGE\nENV TAG=1 TARGETARCH=2 PLAIN=\nARG TAG\n",
			[]string{"FROM debian:12-slim AS base\nARG TAG=12\nRUN echo $TAG\nARG TARGETARCH\nARG PLAIN\n", "ARG TAG='two words'\n"}, ""},
		{"arguments of the project stand where they are declared",
			"-- strata.yaml --\nimage: x\nargs: {A: one, B: \"it's $5\", C: 'a\"b'}\nlayers:\n  base: {dockerfile: base, args: {A: zero}}\n  app: {parent: base, dockerfile: app}\n-- base --\nFROM debian\nARG A\n-- app --\nFROM base\nARG A=x D=y B C\n",
			[]string{"FROM debian AS base\nARG A=zero\n", "ARG A=one D=y B=\"it's \\$5\" C='a\"b'\n"}, ""},
		{"what a build is given beside its Dockerfile",
			"-- strata.yaml --\nimage: x\nlabels: {org.example: \"a b\"}\nlayers:\n  base: {dockerfile: base, network: none, secrets: [{id: key, env: KEY}], ssh: [default]}\n  app: {parent: base, dockerfile: app, args: {BUILDKIT_CONTEXT_KEEP_GIT_DIR: \"1\"}, network: host}\n-- base --\nFROM debian\nRUN --mount=type=secret,id=key --mount=type=ssh --mount=type=cache,target=/c make\nRUN --network=default x\n-- app --\nFROM base\nrun make \\\n  app\n",
			[]string{"#     --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 --secret id=key,env=KEY --ssh default \\\n#     --allow network.host -t x:latest .\n",
				"RUN --network=none --mount=type=secret,id=key --mount=type=ssh --mount=type=cache,target=/c make\nRUN --network=default x\nLABEL org.example='a b'\n", "run --network=host make \\\n  app\nLABEL"}, ""},
		{"heredocs, comments and the end of a file",
			two + "-- base --\n# syntax=docker/dockerfile:1\n# what it is\nFROM debian\nRUN <<EOF\n# FROM x\necho \"$A\" \\\nEOF\nCOPY <<-'A' <<B /etc/\n\tA B\n\tFROM base\nA\nB\nRUN true \\\n  # the end\n-- app --\nFROM base\nRUN a \\\n\n  && b \\",
			[]string{"# syntax=docker/dockerfile:1\n# @mark\n", "# what it is\nFROM debian AS base\nRUN <<EOF\n# FROM x\necho \"$A\" \\\nEOF\nCOPY <<-'A' <<B /etc/\n\tA B\n\tFROM base\nA\nB\nRUN true", "FROM base AS app\nRUN a \\\n\n  && b"}, ""},
		{"one escape character for all", two + "-- base --\n# escape=`\nFROM debian\nRUN a `\n  b\n-- app --\n#escape=`\nFROM base\nCOPY a `\n  /b\n",
			[]string{"# escape=`\n# @mark\n", "RUN a `\n  b\n", "COPY a `\n  /b\n"}, ""},
		{"another build context", "-- strata.yaml --\nimage: x\nlayers:\n  base: {dockerfile: os/base, context: os}\n  app: {parent: base, dockerfile: app}\n-- os/base --\nFROM debian\nCOPY --chown=1 a b /\nRUN --mount=target=/s,source=. make\nADD https://example.com/x /x\n-- os/a --\n-- os/b --\n-- app --\nFROM base\nCOPY a /\n-- a --\n",
			[]string{"--build-context files=os", "COPY --from=files --chown=1 a b /\nRUN --mount=target=/s,source=.,from=files make\nADD https://example.com/x /x\n", "COPY a /\n"}, ""},
		{"an ignore file of a parent's own makes its context the main one", two + "-- base --\nFROM debian\nCOPY a /\n-- base.dockerignore --\nsecret\n-- app --\nFROM base\nCOPY . /\n",
			[]string{"--build-context files=.", "COPY a /\n", "COPY --from=files . /\n"}, ""},
		{"named contexts", "-- strata.yaml --\nimage: x\nlayers:\n  tools: {dockerfile: base}\n  base: {dockerfile: base}\n  app: {parent: base, dockerfile: app, contexts: {kit: \"layer:tools\", conf: etc, deb: \"docker-image://debian:12\"}}\n-- base --\nFROM debian\nRUN a\n-- etc/x --\n-- app --\nFROM deb AS one\nCOPY --from=conf x /\nFROM base\nCOPY --from=kit /a /\nCOPY --from=one /x /\n" + pinned,
			[]string{"--build-context conf=etc", "AS tools\n", "FROM debian AS base\n", "FROM " + pin + " AS app-one\nCOPY --from=conf x /\n", "FROM base AS app\nCOPY --from=tools /a /\nCOPY --from=app-one /x /\n"}, ""},
		{"platforms in FROM", two + "-- base --\nARG P=linux/arm64\nFROM --platform=$BUILDPLATFORM golang AS a\nRUN a\nFROM --platform=$P debian AS b\nRUN b\nFROM debian\nCOPY --from=a /x /\nCOPY --from=b /x /\n-- app --\nARG BASE_IMAGE\nFROM --platform=$TARGETPLATFORM $BASE_IMAGE\nCOPY a /\n",
			[]string{"FROM --platform=$BUILDPLATFORM golang AS base-a\n", "FROM --platform=linux/arm64 debian AS base-b\n", "FROM base AS app\n"}, ""},
		{"an argument of a layer below that no command names", two + "-- base --\nFROM debian\nARG WITH=x\nRUN $WITH\n-- app --\nFROM base\nCOPY a /\nRUN make WITHOUT\n",
			[]string{"# Note: commands of app find in their environment what is an ARG of a layer below: WITH.\n"}, ""},
		{"an argument of a layer below that is declared anew", two + "-- base --\nFROM debian\nARG V=1\nARG W=2\nRUN $V\n-- app --\nFROM base\nARG V=2\nENV W=3\nRUN echo $V $W\n",
			[]string{"ARG V=2\nENV W=3\nRUN echo $V $W\n"}, "Note"},
		{"the parent's name as a value", two + "-- base --\nFROM debian\nRUN a\n-- app --\nARG BASE_IMAGE\nFROM $BASE_IMAGE\nARG BASE_IMAGE\nLABEL base=$BASE_IMAGE\n",
			[]string{"# Note: app line 3: BASE_IMAGE is the name of a stage here, not of an image.\n", "ARG BASE_IMAGE=base\n"}, ""},
		{"triggers of a parent", two + "-- base --\nFROM debian\nONBUILD COPY a /\n-- app --\nFROM base\nRUN b\n",
			[]string{"ONBUILD COPY a /\n", "FROM base AS app\nRUN b\n"}, ""},
		{"the name of the target as a value", two + "-- base --\nFROM debian\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE\n-- app --\nFROM base\nCOPY a /\n",
			[]string{"ARG TARGETSTAGE=default\n"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := load(t, project(tc.files), spec.Release{Version: "1"})
			files, err := in.Dockerfile(in.Graph.Unit("app/linux/amd64"))
			if err != nil {
				t.Fatal(err)
			}
			rest := string(files[0].Data)
			for _, want := range tc.want {
				var ok bool
				if _, rest, ok = strings.Cut(rest, want); !ok {
					t.Fatalf("%q is not there, or not in order:\n%s", want, files[0].Data)
				}
			}
			if tc.not != "" && strings.Contains(string(files[0].Data), tc.not) {
				t.Errorf("%q is there:\n%s", tc.not, files[0].Data)
			}
		})
	}
}

func TestIgnoreFileGoesAlong(t *testing.T) {
	in := load(t, project(two+"-- base --\nFROM debian\n-- app --\nFROM base\nCOPY . /\n-- app.dockerignore --\n*.log\n"), spec.Release{})
	files, err := in.Dockerfile(in.Graph.Unit("app/linux/amd64"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if f := files[1]; f.Name != "Dockerfile.app-amd64.dockerignore" || string(f.Data) != "# @mark\n*.log\n" {
		t.Errorf("%s: %q", f.Name, f.Data)
	}
}

func TestNotInOneDockerfile(t *testing.T) {
	for _, tc := range []struct{ name, files, want string }{
		{"escape characters", two + "-- base --\n# escape=`\nFROM debian\n-- app --\nFROM base\n", "another escape character"},
		{"frontends", two + "-- base --\n# syntax=docker/dockerfile:1.4\nFROM debian\n-- app --\n# syntax=docker/dockerfile:1\nFROM base\n", "`# syntax=` would have to be both"},
		{"a frontend of another kind", two + "-- base --\nFROM debian\n-- app --\n# syntax=example.com/mine\nFROM base\n", "only some of its Dockerfiles are read by the frontend example.com/mine"},
		{"two ignore files", two + "-- base --\nFROM debian\nCOPY a /\n-- base.dockerignore --\na\n-- app --\nFROM base\nCOPY . /\n-- app.dockerignore --\nb\n", "each have an ignore file of their own"},
		{"ADD from another context", "-- strata.yaml --\nimage: x\nlayers:\n  base: {dockerfile: os/base, context: os}\n  app: {parent: base, dockerfile: app}\n-- os/base --\nFROM debian\nADD a.tar /\n-- app --\nFROM base\nCOPY a /\n",
			"os/base:2: ADD takes files from another build context"},
		{"an argument that is another's", two + "-- base --\nFROM debian\nARG VERSION=1\nRUN a\n-- app --\nFROM base\nRUN echo $VERSION\n", "app:2: app names VERSION, an ARG of a layer below"},
		{"an argument without a value", two + "-- base --\nFROM debian\nARG VERSION=1\n-- app --\nFROM base\nARG VERSION\nLABEL v=1\n", "app:2: app names VERSION"},
		{"a flag over two lines", two + "-- base --\nFROM debian AS b\nRUN a\nFROM debian\nCOPY --fr\\\nom=b /a /\n-- app --\nFROM base\n", "base:4: the flag --from=b"},
		{"two values for one secret", "-- strata.yaml --\nimage: x\nlayers:\n  base: {dockerfile: base, secrets: [{id: k, env: A}]}\n  app: {parent: base, dockerfile: app, secrets: [{id: k, env: B}]}\n-- base --\nFROM debian\nRUN --mount=type=secret,id=k a\n-- app --\nFROM base\nRUN --mount=type=secret,id=k a\n",
			"the secret k would have to be both"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := load(t, project(tc.files), spec.Release{})
			files, err := in.Dockerfile(in.Graph.Unit("app/linux/amd64"))
			if err == nil {
				t.Fatalf("it was written:\n%s", files[0].Data)
			}
			if !strings.Contains(err.Error(), tc.want) || diag.HintOf(err) == "" && !strings.Contains(err.Error(), "hint:") {
				t.Errorf("got %q (hint %q), want %q in it", err, diag.HintOf(err), tc.want)
			}
		})
	}
}

// A bake file is read by the reader of Strata's own projects, which gives the
// same units.
func TestBakeIsReadBack(t *testing.T) {
	files := project("-- strata.yaml --\nimage: ghcr.io/user/x\nplatforms: [linux/amd64, linux/arm64]\nvariants: {cpu: {}, gpu: {platforms: [linux/amd64]}}\n" +
		"args: {A: 'a \"b\" ${c} %{D}', V: \"{version}\"}\nlabels: {org.example: \"{variant}\"}\ncache: registry\n" +
		"layers:\n  base.os: {dockerfile: base, secrets: [{id: key, file: key.txt}], network: none}\n  app: {parent: base.os, dockerfile: app, contexts: {conf: etc}, tags: {image: [\"{version}-{variant}-{arch}\", \"{branch}-{variant}-{arch}\", \"{sha}-{variant}-{arch}\"]}}\n" +
		"-- key.txt --\n-- etc/x --\n-- base --\nFROM debian:12\nRUN --mount=type=secret,id=key a\n-- app --\nARG BASE_IMAGE\nFROM $BASE_IMAGE\nARG A V\nCOPY --from=conf x /\n" + pinned)
	in := load(t, files, Release)
	bake := in.Bake(in.Graph.Units).Data
	golden(t, "edges/docker-bake.hcl", bake)
	makefile, err := in.Make(in.Graph.Units)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "edges/Makefile", makefile.Data)
	delete(files, "strata.yaml")
	files["docker-bake.hcl"] = &fstest.MapFile{Data: bake}
	back := load(t, files, spec.Release{})
	if got, want := len(back.Graph.Units), len(in.Graph.Units); got != want {
		t.Fatalf("%d units, want %d", got, want)
	}
	for _, u := range in.Graph.Units {
		name := strings.ReplaceAll(short(u), ".", "-")
		b := back.Graph.Unit(name + "/" + u.Platform)
		if b == nil {
			t.Errorf("%s: there is no target %s", u.ID, name)
			continue
		}
		want := map[string]string{"A": u.Args["A"], "V": "dev"}
		if len(u.Parents) > 0 {
			want["BASE_IMAGE"] = "base.os"
		}
		if d := cmp.Diff(want, b.Args); d != "" {
			t.Errorf("%s: args (-want +got):\n%s", u.ID, d)
		}
		if d := cmp.Diff(u.Labels, b.Labels); d != "" {
			t.Errorf("%s: labels (-want +got):\n%s", u.ID, d)
		}
		if len(b.Parents) != len(u.Parents) {
			t.Errorf("%s: %d parents, want %d", u.ID, len(b.Parents), len(u.Parents))
		}
	}
}

func TestNotInAMakefile(t *testing.T) {
	for _, files := range []string{
		"-- strata.yaml --\nimage: x\nargs: {A: \"one\\ntwo\"}\nlayers: {app: {dockerfile: app}}\n-- app --\nFROM debian\nARG A\nRUN echo $A\n",
		"-- docker-bake.hcl --\ntarget \"default\" {\n  dockerfile-inline = \"FROM debian\\nRUN a\"\n  tags = [\"x:1\"]\n}\n",
	} {
		in := load(t, project(files), Release)
		if _, err := in.Make(in.Graph.Units); err == nil || !strings.Contains(diag.HintOf(err), "strata export bake") {
			t.Errorf("%q: got %v, hint %q", files, err, diag.HintOf(err))
		}
		if f := in.Bake(in.Graph.Units); !strings.Contains(string(f.Data), `\n`) {
			t.Errorf("the bake file has lost a line break:\n%s", f.Data)
		}
	}
}

func TestMakeTargetsOfSeveralLeaves(t *testing.T) {
	in := load(t, project("-- strata.yaml --\nimage: x\nvariants: {cpu: {}, gpu: {}}\nlayers:\n  base: {dockerfile: d}\n  web: {parent: base, dockerfile: c}\n  job: {parent: base, dockerfile: c, only: [cpu]}\n-- d --\nFROM debian\n-- c --\nFROM base\n"), Release)
	var got []string
	for _, mt := range MakeTargets(in.Graph.Units) {
		got = append(got, mt.Name)
	}
	want := []string{"cpu-base-layered", "gpu-base-layered", "cpu-web-layered", "gpu-layered", "cpu-job-layered"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
