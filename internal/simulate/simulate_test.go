package simulate

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	strata "github.com/strata-build/strata"

	"github.com/strata-build/strata/internal/githistory"
	"github.com/strata-build/strata/internal/plan"
	"github.com/strata-build/strata/internal/record"
)

// replay runs a history of a repository.
func (r *repo) replay(o Options) *Result {
	r.t.Helper()
	o.Dir, o.Platform = r.dir, "linux/amd64"
	if o.File == "" {
		o.File = "strata.yaml"
	}
	got, err := Run(r.t.(*testing.T).Context(), r.read(githistory.Range{}), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// chain is base -> ml -> app on one platform.
var chainProject = map[string]string{
	"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nlayers:\n  base: {dockerfile: base.Dockerfile}\n" +
		"  ml: {parent: base, dockerfile: ml.Dockerfile, on-parent-change: rebase}\n  app: {parent: ml, dockerfile: app.Dockerfile}\n",
	"base.Dockerfile":      "FROM debian:bookworm-slim\nCOPY etc/ /etc/demo/\nRUN apt-get install -y python3\n",
	"ml.Dockerfile":        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY requirements.txt /tmp/\nRUN pip install -r /tmp/requirements.txt\nCOPY models/ /models/\n",
	"app.Dockerfile":       "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY src/ /srv/\nCMD [\"/srv/main\"]\n",
	"etc/conf":             "1\n",
	"requirements.txt":     "torch\n",
	"models/one":           "one\n",
	"src/main":             "main\n",
	"docs/index.md":        "docs\n",
	"sub/strata.yaml":      "image: other\nlayers:\n  one: {dockerfile: Dockerfile, context: ../src}\n",
	"sub/Dockerfile":       "FROM scratch\nCOPY main /\n",
	"src/.dockerignore":    "*.md\n",
	"single/Dockerfile":    "FROM scratch\nCOPY . /\n",
	"single/.dockerignore": "Dockerfile\n",
}

// TestSteps gives for each kind of commit what happens, why, and what docker
// would have worked on.
func TestSteps(t *testing.T) {
	r := newRepo(t)
	steps := []struct {
		files map[string]string
		want  string
	}{
		{chainProject, "clean build: build base, build ml, append app; docker base ml app"},
		{map[string]string{"docs/index.md": "new\n"}, "no image input: ; docker"},
		{map[string]string{"src/main": "2\n"}, "code: append app; docker app"},
		{map[string]string{"models/one": "2\n"}, "code: append ml, append app; docker ml app"},
		{map[string]string{"requirements.txt": "torch 2\n"}, "dependencies: build ml, append app; docker ml app"},
		{map[string]string{"etc/conf": "2\n"}, "system: build base, rebase ml, append app; docker base ml app"},
		{map[string]string{"src/main": "main\n"}, "code: append app; docker app"},
		{map[string]string{"etc/conf": "1\n", "requirements.txt": "torch\n", "models/one": "one\n"}, "an earlier image again: ; docker"}, // as at the start
		{map[string]string{"app.Dockerfile": "# A comment.\n" + chainProject["app.Dockerfile"]}, "no image input: ; docker"},
		{map[string]string{"app.Dockerfile": chainProject["app.Dockerfile"] + "LABEL a=b\n"}, "code: append app; docker"}, // metadata costs docker nothing
		{map[string]string{"strata.lock": ragex["strata.lock"]}, "no image input: ; docker"},                              // pins what it was
		{map[string]string{"strata.lock": strings.ReplaceAll(ragex["strata.lock"], strings.Repeat("2", 64), strings.Repeat("4", 64))},
			"system: build base, build ml, append app; docker base ml app"}, // the newest ml has other requirements
	}
	for i, s := range steps {
		r.commit(time.Hour, fmt.Sprint(i), s.files)
	}
	r.write()
	got := r.replay(Options{})
	if len(got.Rows) != len(steps) {
		t.Fatalf("%d rows, want %d", len(got.Rows), len(steps))
	}
	for i, row := range got.Rows {
		var made []string
		for _, s := range row.Steps {
			if s.Action != plan.Reuse {
				made = append(made, string(s.Action)+" "+s.Layer)
			}
		}
		text := fmt.Sprintf("%s: %s; docker %d", row.Kind, strings.Join(made, ", "), row.Costs.Warm.Built)
		before, docker, _ := strings.Cut(steps[i].want, "; docker")
		want := fmt.Sprintf("%s; docker %d", before, len(strings.Fields(docker)))
		if text != want {
			t.Errorf("commit %d:\n got %s\nwant %s", i, text, want)
		}
		if c := row.Costs; c.Rebuild.Built != 3 || c.Warm.Built != c.Cold.Built || c.Warm.Pulled != 0 || row.Kind == KindNothing && c.Strata.Moved() != 0 {
			t.Errorf("commit %d costs %+v", i, c)
		}
	}
	app := got.Layers[2]
	if app.Reused != 4 || app.Appended != 7 || app.Built != 0 || got.Layers[1].Rebased != 1 || got.Layers[0].Goal != goalRoot || got.Layers[1].Goal != goalMiddle || app.Goal != 0 {
		t.Errorf("the sums are %+v", got.Layers)
	}
}

// TestFolders replays projects that are not in the repository's root, and one
// that is a Dockerfile alone.
func TestFolders(t *testing.T) {
	r := newRepo(t)
	r.commit(0, "one", chainProject)
	r.commit(time.Hour, "above", map[string]string{"src/main": "2\n"})
	r.commit(time.Hour, "beside", map[string]string{"etc/conf": "2\n", "src/x.md": "ignored\n"})
	r.commit(time.Hour, "below", map[string]string{"single/a": "1\n"})
	root := r.write()
	r.git("checkout", "-q", "-f", "main")
	for _, tt := range []struct{ dir, file, want string }{
		{"sub", "strata.yaml", "clean build, code, no image input, no image input"},
		{"single", "Dockerfile", "clean build, no image input, no image input, code"},
	} {
		r.dir = root + "/" + tt.dir
		var kinds []string
		for _, row := range r.replay(Options{File: tt.file}).Rows {
			kinds = append(kinds, row.Kind)
		}
		if got := strings.Join(kinds, ", "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.dir, got, tt.want)
		}
	}
}

// TestBases holds that a figure says what it rests on, and never mixes silently.
func TestBases(t *testing.T) {
	r := newRepo(t)
	r.commit(0, "one", chainProject)
	r.commit(time.Hour, "two", map[string]string{"requirements.txt": "torch 2\n"})
	r.write()
	unit := func(layer, action string, seconds float64, size int64) record.Unit {
		return record.Unit{ID: layer + "/linux/amd64", Layer: layer, Platform: "linux/amd64", Action: action, Seconds: seconds, Size: size, Digest: "sha256:1"}
	}
	e := Estimates{
		Records: []record.Record{{Units: []record.Unit{unit("base", "build", 40, 50e6), unit("ml", "build", 300, 850e6)}}},
		Seconds: map[string]float64{"app": 7},
	}
	got := r.replay(Options{Estimates: e})
	var bases []string
	for _, b := range got.Bases {
		bases = append(bases, fmt.Sprintf("%s %.0f s %s, %.0f MB %s", b.Layer, b.Seconds, b.TimeBasis, float64(b.Bytes)/1e6, b.SizeBasis))
	}
	want := []string{"app 7 s given, 0 MB model", "base 40 s records, 50 MB records", "ml 300 s records, 800 MB records"}
	if diff := cmp.Diff(want, bases); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Basis() != "given+records" || got.SizeBasis() != "model+records" {
		t.Errorf("all rest on %s and %s", got.Basis(), got.SizeBasis())
	}
	// The second commit builds ml on the base, and appends the app.
	if c := got.Rows[1].Costs; c.Strata.Seconds < 300 || c.Strata.Seconds > 301 || c.Strata.Pulled != 50e6 || math.Abs(c.Rebuild.Seconds-347.045) > 1e-6 {
		t.Errorf("the second commit costs %+v", c)
	}
	// Docker runs ml's COPY and RUN again, and the app's COPY.
	if c := got.Rows[1].Costs; c.Warm.Seconds < 300 || c.Warm.Seconds > 308 || c.Cold.Pulled < 50e6 || c.Cold.Pulled > 51e6 || c.Cold.Seconds > c.Warm.Seconds+0.1 {
		t.Errorf("with docker, the second commit costs %+v", c)
	}
}

func TestMatrix(t *testing.T) {
	r := newRepo(t)
	r.history(ragex, 30, 120)
	r.write()
	rows := r.replay(Options{}).Matrix()
	seen := map[string]bool{}
	for _, m := range rows {
		seen[m.Change+": "+strings.Join(m.Layers, " + ")] = true
		if m.Runs == 0 || m.Frequency == "" || m.Basis == "" || m.Seconds > m.Rebuild+10 {
			t.Errorf("a row is %+v", m)
		}
	}
	for _, want := range []string{"no image input: ", "code: app", "dependencies: ml + app", "scheduled refresh: ml + app", "scheduled refresh: base + ml + app", "clean build: base + ml + app"} {
		if !seen[want] {
			t.Errorf("there is no row %q among %v", want, seen)
		}
	}
}

func TestFrequency(t *testing.T) {
	tests := []struct {
		n    int
		days float64
		want string
	}{
		{300, 90, "3 a day"}, {90, 90, "daily"}, {26, 90, "2 a week"}, {13, 90, "weekly"}, {6, 90, "2 a month"}, {3, 90, "monthly"}, {1, 90, "quarterly"}, {1, 365, "rare"},
	}
	for _, tt := range tests {
		if got := frequency(tt.n, tt.days); got != tt.want {
			t.Errorf("%d in %.0f days: %q, want %q", tt.n, tt.days, got, tt.want)
		}
	}
}

// TestPictures looks at what can be told of a picture without eyes: it is XML,
// the same result gives the same bytes, and every unit, colour and name is there.
func TestPictures(t *testing.T) {
	for _, commits := range []int{1, 25, 500} {
		r := newRepo(t)
		r.history(ragex, 20, commits)
		r.commit(time.Hour, "a <broken> & odd one", map[string]string{"docker/app/Dockerfile": "FORM x\n"})
		r.write()
		got := r.replay(Options{})
		svg := got.SVG()
		if !bytes.Equal(svg, got.SVG()) {
			t.Error("the same result gives other bytes")
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%d commits: %v", commits, err)
			}
		}
		for _, want := range []string{"base/cpu/linux/amd64", "app/cuda/linux/amd64", "reused", "built", "appended", "planned", "rebuild everything: ", "Strata: ", `class="failed"`} {
			if !bytes.Contains(svg, []byte(want)) {
				t.Errorf("%d commits: there is no %q in the picture", commits, want)
			}
		}
		if n := len(svg); n > 1<<20 {
			t.Errorf("%d commits make a picture of %d bytes", commits, n)
		}
		page := string(got.Page())
		if !strings.Contains(page, string(svg)) || !strings.Contains(page, "Which change rebuilds what") || strings.Contains(page, "<broken>") {
			t.Error("the page is not whole")
		}
		if data, err := json.Marshal(got); err != nil || !bytes.Contains(data, []byte(`"dockerWarm"`)) {
			t.Errorf("as JSON: %v", err)
		}
	}
}

// TestWhatIf holds that only the difference counts: the file's own history does
// not.
func TestWhatIf(t *testing.T) {
	r := newRepo(t)
	r.commit(0, "one", chainProject)
	for i := range 4 {
		r.commit(time.Hour, "the Dockerfile", map[string]string{"ml.Dockerfile": fmt.Sprintf("%sRUN echo %d\n", chainProject["ml.Dockerfile"], i)})
		r.commit(time.Hour, "models", map[string]string{"models/one": fmt.Sprint(i)})
	}
	r.write()
	o := Options{Dir: r.dir, File: "strata.yaml", Platform: "linux/amd64"}
	d, err := WhatIf(t.Context(), r.read(githistory.Range{}), o, Files{"ml.Dockerfile": []byte(chainProject["ml.Dockerfile"])})
	if err != nil {
		t.Fatal(err)
	}
	// With the last RUN every model builds the layer; without it, it is appended.
	if d.Base.Totals.Strata.Built != 2+4 || d.With.Totals.Strata.Built != 2 || d.Saves.Built != 4 {
		t.Errorf("built %d and %d", d.Base.Totals.Strata.Built, d.With.Totals.Strata.Built)
	}
}

// TestSuggest finds what a Dockerfile of a Node project does in the wrong order.
func TestSuggest(t *testing.T) {
	r := newRepo(t)
	project := map[string]string{
		"Dockerfile": "FROM node AS build\nWORKDIR /app\nCOPY . .\nRUN apk add git\nRUN npm ci\nRUN npm run build\n\n" +
			"FROM node\nCOPY src /srv/src\nRUN apk add --no-cache tini\nCOPY --from=build /app/dist /srv/dist\n",
		".dockerignore": ".git\n", "package.json": "{}", "package-lock.json": "{}", "src/main.ts": "1\n",
	}
	r.commit(0, "one", project)
	for i := range 8 {
		r.commit(time.Hour, "code", map[string]string{"src/main.ts": fmt.Sprint(i)})
	}
	older := maps.Clone(project)
	older["Dockerfile"] = "# An older one, which has not all of it.\n" + strings.Replace(project["Dockerfile"], "RUN apk add git\n", "", 1)
	r.commit(time.Hour, "older", older)
	r.commit(time.Hour, "newer", project)
	r.write()
	o := Options{Dir: r.dir, File: "Dockerfile", Platform: "linux/amd64"}
	h := r.read(githistory.Range{})
	base, err := Run(t.Context(), h, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Suggest(t.Context(), h, o, base)
	if err != nil {
		t.Fatal(err)
	}
	var titles []string
	saved := 0.0
	for _, s := range got {
		titles = append(titles, s.Title)
		saved += s.Saves.Strata.Seconds
		if s.Saves.Strata.Seconds < leastSaved && s.Saves.Warm.Seconds < leastSaved || s.Diff == "" || s.Text == "" {
			t.Errorf("a suggestion is %+v", s)
		}
	}
	all := strings.Join(titles, "\n")
	for _, want := range []string{"move `COPY . .` behind line 4", "copy what lists the dependencies, install, and only then `COPY . .`", "end the stage before `COPY . .`", "move `COPY src /srv/src` behind"} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody suggests %q among\n%s", want, all)
		}
	}
	if saved < 0.7*base.Totals.Strata.Seconds {
		t.Errorf("all together save %.0f s of %.0f", saved, base.Totals.Strata.Seconds)
	}
}

// TestSuggestLayers cuts a layer that strata.yaml names.
func TestSuggestLayers(t *testing.T) {
	r := newRepo(t)
	project := maps.Clone(chainProject)
	project["app.Dockerfile"] = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG TOOL=make\nRUN apt-get install -y ${TOOL}\nCOPY src/ /srv/\nRUN cd /srv && make\n"
	r.commit(0, "one", project)
	for i := range 6 {
		r.commit(time.Hour, "code", map[string]string{"src/main": fmt.Sprint(i)})
	}
	r.write()
	o := Options{Dir: r.dir, File: "strata.yaml", Platform: "linux/amd64"}
	h := r.read(githistory.Range{})
	base, err := Run(t.Context(), h, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Suggest(t.Context(), h, o, base)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Saves.Strata.Seconds < 6*90 {
		t.Fatalf("the suggestions are %+v", got)
	}
	want := "app.Dockerfile:5: end the stage before `COPY src/ /srv/`, and make what stands above the layer app-prepared"
	if got[0].Title != want {
		t.Errorf("it is %q", got[0].Title)
	}
	for _, line := range []string{"+  app-prepared:", "+    target: prepared", "+      prepared: layer:app-prepared", "+FROM ${BASE_IMAGE} AS prepared", "+FROM prepared"} {
		if !strings.Contains(got[0].Diff, line+"\n") {
			t.Errorf("there is no line %q in\n%s", line, got[0].Diff)
		}
	}
}

// TestDocker says which instructions the cache model runs again.
func TestDocker(t *testing.T) {
	const file = "ARG TAG=1\nFROM debian:$TAG AS base\nRUN apt-get install -y x\nFROM base AS build\nWORKDIR /w\nARG MODE=a\nCOPY src /w\nRUN make $MODE\n" +
		"FROM base\nENV A=b\nCOPY etc /etc/demo\nRUN chmod -R a+r /etc/demo\nCOPY --from=build /w/out /out\nLABEL v=1\nCMD [\"/out\"]\n"
	project := map[string]string{
		"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nlayers:\n  app: {dockerfile: Dockerfile}\n",
		"Dockerfile":  file, "src/a": "1\n", "etc/b": "1\n",
	}
	edit := func(old, new string) map[string]string {
		return map[string]string{"Dockerfile": strings.Replace(file, old, new, 1)}
	}
	steps := []struct {
		files map[string]string
		want  string
	}{
		{project, "RUN apt-get, WORKDIR, COPY src, RUN make, COPY etc, RUN chmod, COPY --from"},
		{map[string]string{"src/a": "2\n"}, "COPY src, RUN make, COPY --from"},
		{map[string]string{"etc/b": "2\n"}, "COPY etc, RUN chmod, COPY --from"},
		{edit("MODE=a", "MODE=c"), "COPY src, RUN make, COPY --from"}, // an ARG stands before what follows it
		{edit("v=1", "v=2"), ""},
		{edit("A=b", "A=c"), "COPY etc, RUN chmod, COPY --from"},
		{edit("x\n", "x # a comment of the shell\n"), "RUN apt-get, WORKDIR, COPY src, RUN make, COPY etc, RUN chmod, COPY --from"},
		{edit("", ""), ""}, // as before
		{edit("TAG=1", "TAG=2"), "RUN apt-get, WORKDIR, COPY src, RUN make, COPY etc, RUN chmod, COPY --from"},
		{edit("", "# A comment.\n"), ""},
	}
	r := newRepo(t)
	for i, s := range steps {
		r.commit(time.Hour, fmt.Sprint(i), s.files)
	}
	r.write()
	h := r.read(githistory.Range{})
	s := &simulation{
		ctx: t.Context(), options: Options{Dir: r.dir, File: "strata.yaml", Platform: "linux/amd64"}, history: h, trees: newTrees(".", nil),
		replay: strata.NewReplay("linux/amd64"), docker: newDocker(),
	}
	for i, c := range h.Commits {
		changed, moved, err := s.trees.next(c)
		if err == nil {
			err = s.read(c, changed, moved)
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.replay.Run(s.sketch, c.Time, false)
		if err != nil {
			t.Fatal(err)
		}
		var ran []string
		for _, v := range s.docker.run(p, s.sketch).vertices["app/linux/amd64"] {
			if words := strings.Fields(v.text); !v.hit && words[0] == "WORKDIR" {
				ran = append(ran, words[0])
			} else if !v.hit {
				second, _, _ := strings.Cut(words[1], "=")
				ran = append(ran, words[0]+" "+second)
			}
		}
		if got := strings.Join(ran, ", "); got != steps[i].want {
			t.Errorf("commit %d runs\n  %s\nwant\n  %s", i, got, steps[i].want)
		}
	}
}
