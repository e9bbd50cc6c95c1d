package dockerfile

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func analyze(t *testing.T, text string, o Options) *Build {
	t.Helper()
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Analyze(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSameRecipe holds pairs of Dockerfiles that say the same.
func TestSameRecipe(t *testing.T) {
	tests := []struct{ name, a, b string }{
		{"comments", "FROM a\nRUN x && y\n", "# one\nFROM a\n# two\n\nRUN x \\\n# three\n && \\\n\n   y\n"},
		{"keyword case", "FROM a AS b\nRUN x\n", "from a as b\nrun x\n"},
		{"flag order", "FROM a\nCOPY --chown=1 --chmod=755 --link x y\n", "FROM a\nCOPY --link=true --chmod=755 --chown=1 x y\n"},
		{"flag that is off", "FROM a\nCOPY x y\n", "FROM a\nCOPY --link=false x y\n"},
		{"blanks in a list", "FROM a\nCOPY x y\nENV A=1 B=2\n", "FROM  a\nCOPY   x \ty \nENV  A=1\t B=2\n"},
		{"JSON", "FROM a\nCMD [\"x\",\"y\"]\n", "FROM a\nCMD [ \"x\" , \"\\u0079\" ]\n"},
		{"line ends", "FROM a\nRUN x\n", "FROM a\r\nRUN x\r\n"},
		{"byte order mark", "FROM a\n", "\xef\xbb\xbfFROM a\n"},
		{"order of ports", "FROM a\nEXPOSE 1 2\n", "FROM a\nEXPOSE 2 1\n"},
		{"stage that is not reached", "FROM a AS x\nFROM b\n", "FROM c AS x\nRUN y\nFROM b\n"},
		{"arg that is not used", "FROM a\nCOPY x y\n", "ARG P=1\nFROM a\nARG Q=2\nCOPY x y\n"},
		{"stage more that is not reached", "FROM a AS x\nFROM b\nRUN x\n", "FROM a AS x\nFROM x AS y\nCOPY p q\nFROM b\nRUN x\n"},
		{"number of a stage", "FROM a\nRUN x\nFROM b\nCOPY --from=0 f f\n", "FROM j\nFROM a\nRUN x\nFROM b\nCOPY --from=1 f f\n"},
		{"name of a stage", "FROM a AS s\nFROM b\nCOPY --from=0 f f\n", "FROM a AS s\nFROM b\nCOPY --from=s f f\n"},
		{"blanks between words of a command", "FROM a\nRUN x && y\n", "FROM a\nRUN  x   &&\ty\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := diffRecipe(analyze(t, tt.a, Options{}), analyze(t, tt.b, Options{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestProxies sees that the proxies of a machine never show, however they are
// declared, and that their defaults do.
func TestProxies(t *testing.T) {
	o := Options{Args: map[string]string{"HTTP_PROXY": "http://u:secret@machine", "no_proxy": "x", "ALL_PROXY": "y"}}
	for _, text := range []string{
		"FROM a\nRUN x\n",
		"FROM a\nARG HTTP_PROXY\nARG no_proxy=d\nRUN x\n",
		"ARG HTTP_PROXY\nARG no_proxy=d\nFROM a\nARG HTTP_PROXY\nARG no_proxy\nRUN x\n",
		"ARG HTTP_PROXY=$ALL_PROXY\nFROM a\nARG HTTP_PROXY\nRUN x\n",
	} {
		with := analyze(t, text, o)
		if diff := diffRecipe(analyze(t, text, Options{}), with); diff != "" {
			t.Errorf("%q: -without +with:\n%s", text, diff)
		}
		if strings.Contains(recipe(with), "secret") {
			t.Errorf("%q: the proxy stands in the recipe", text)
		}
	}
	if diffRecipe(analyze(t, "FROM a\nARG no_proxy=d\nRUN x\n", o), analyze(t, "FROM a\nARG no_proxy=e\nRUN x\n", o)) == "" {
		t.Error("the defaults of a proxy are taken for the same")
	}
}

func diffRecipe(a, b *Build) string { return cmp.Diff(recipe(a), recipe(b)) }

// TestOtherRecipe holds pairs that say something else, most of them confused by
// one builder or another.
func TestOtherRecipe(t *testing.T) {
	arg := func(k, v string) Options { return Options{Args: map[string]string{k: v}} }
	tests := []struct {
		name, a, b string
		oa, ob     Options
	}{
		{name: "files left out", a: "FROM a\nCOPY x y /d/\n", b: "FROM a\nCOPY x /d/\n"},
		{name: "base of a middle stage", a: "FROM a AS m\nFROM b\nCOPY --from=m x x\n", b: "FROM c AS m\nFROM b\nCOPY --from=m x x\n"},
		{name: "image of COPY --from", a: "FROM b\nCOPY --from=i:1 x x\n", b: "FROM b\nCOPY --from=i:2 x x\n"},
		{name: "image of a mount", a: "FROM b\nRUN --mount=from=i,target=/x y\n", b: "FROM b\nRUN --mount=from=j,target=/x y\n"},
		{name: "build arg", a: "FROM a\nARG V\nRUN x\n", b: "FROM a\nARG V\nRUN x\n", oa: arg("V", "1"), ob: arg("V", "2")},
		{name: "build arg given or not", a: "FROM a\nARG V\nRUN x\n", b: "FROM a\nARG V\nRUN x\n", oa: arg("V", "")},
		{name: "defaults changed places", a: "FROM a AS s\nARG V=1\nRUN x\nFROM s\nARG V=2\nRUN x\n", b: "FROM a AS s\nARG V=2\nRUN x\nFROM s\nARG V=1\nRUN x\n"},
		{name: "arg behind the RUN", a: "FROM a\nARG V=1\nRUN x\nRUN y\n", b: "FROM a\nRUN x\nARG V=1\nRUN y\n"},
		{name: "env", a: "FROM a\nENV A=1\n", b: "FROM a\nENV A=2\n"},
		{name: "folder outside of the first", a: "FROM a\nCOPY app /x\n", b: "FROM a\nCOPY app shared /x\n"},
		{name: "basename", a: "FROM a\nCOPY p/x /d/\n", b: "FROM a\nCOPY q/x /d/\n"},
		{name: "mode", a: "FROM a\nCOPY --chmod=755 x /d/\n", b: "FROM a\nCOPY x /d/\n"},
		{name: "target stage's platform", a: "FROM --platform=linux/arm64 a\n", b: "FROM a\n"},
		{name: "JSON or shell", a: "FROM a\nRUN [\"x\"]\n", b: "FROM a\nRUN x\n"},
		{name: "quoted blanks", a: "FROM a\nRUN echo \"a  b\"\n", b: "FROM a\nRUN echo \"a b\"\n"},
		{name: "blanks in quotes of an expansion", a: "FROM a\nRUN echo \"$(x \"a  b\")\"\n", b: "FROM a\nRUN echo \"$(x \"a b\")\"\n"},
		{name: "blanks behind an escape", a: "FROM a\nRUN echo a\\  b\n", b: "FROM a\nRUN echo a\\ b\n"},
		{name: "blanks for another shell", a: "FROM a\nSHELL [\"/py\",\"-c\"]\nRUN a  b\n", b: "FROM a\nSHELL [\"/py\",\"-c\"]\nRUN a b\n"},
		{name: "heredoc", a: "FROM a\nRUN <<E\n a\nE\n", b: "FROM a\nRUN <<E\n  a\nE\n"},
		{name: "order of excludes", a: "FROM a\nCOPY --exclude=x --exclude=!x . .\n", b: "FROM a\nCOPY --exclude=!x --exclude=x . .\n"},
		{name: "old form of ENV", a: "FROM a\nENV A b  c\n", b: "FROM a\nENV A b c\n"},
		{name: "escape", a: "FROM a\nCOPY x`y z\n", b: "# escape=`\nFROM a\nCOPY x`y z\n"},
		{name: "frontend", a: "FROM a\n", b: "# syntax=docker/dockerfile:1\nFROM a\n"},
		{name: "frontend by arg", a: "FROM a\n", b: "FROM a\n", ob: arg("BUILDKIT_SYNTAX", "docker/dockerfile:1")},
		{name: "order of instructions", a: "FROM a\nRUN x\nRUN y\n", b: "FROM a\nRUN y\nRUN x\n"},
		{name: "number of another stage", a: "FROM a AS b\nFROM c AS x\nFROM b AS prod\nCOPY --from=1 f f\nCOPY --from=x g g\n",
			b: "FROM j\nFROM a AS b\nFROM c AS x\nFROM b AS prod\nCOPY --from=1 f f\nCOPY --from=x g g\n"},
		{name: "stage of the same text", a: "FROM a AS s\nFROM a AS t\nRUN x\nFROM a\nCOPY --from=0 x x\nCOPY --from=1 x x\n",
			b: "FROM a AS s\nRUN x\nFROM a AS t\nFROM a\nCOPY --from=0 x x\nCOPY --from=1 x x\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diffRecipe(analyze(t, tt.a, tt.oa), analyze(t, tt.b, tt.ob)) == "" {
				t.Error("the two are taken for the same")
			}
		})
	}
}

// TestPlatformArgs sees that only a platform arg that is used splits recipes.
func TestPlatformArgs(t *testing.T) {
	names := func(text string, o Options) []string {
		var out []string
		for _, a := range analyze(t, text, o).Args {
			out = append(out, a.Name+"="+a.Value)
		}
		return out
	}
	o := Options{Platform: "linux/arm/v7", BuildPlatform: "linux/amd64", Target: "t"}
	all := "ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDOS BUILDARCH BUILDVARIANT TARGETSTAGE\n"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"none", "FROM a AS t\n" + all + "COPY x y\n", nil},
		{"undeclared", "FROM a AS t\nRUN echo $TARGETARCH\n", nil},
		{"one", "FROM a AS t\nARG TARGETARCH\nRUN x\n", []string{"TARGETARCH=arm"}},
		{"all", "FROM a AS t\n" + all + "RUN x\n", []string{"BUILDARCH=amd64", "BUILDOS=linux", "BUILDPLATFORM=linux/amd64", "BUILDVARIANT=",
			"TARGETARCH=arm", "TARGETOS=linux", "TARGETPLATFORM=linux/arm/v7", "TARGETSTAGE=t", "TARGETVARIANT=v7"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, names(tt.text, o)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestCutIsFixed sees that knowing the base's config does not move the cut: a
// trunk's key is made before the config is known.
func TestCutIsFixed(t *testing.T) {
	texts := []string{
		"FROM a\nRUN x\nCOPY f /app/f\nUSER $U\nRUN chmod +x /app/f\nCMD x\n",
		"FROM a\nWORKDIR $D\nCOPY f f\nRUN chmod +x f\n",
		"FROM a\nWORKDIR /d\nWORKDIR $D\nCOPY f f\nRUN chmod +x /d/f\n",
		"FROM a\nCOPY f $D/f\nRUN chmod +x /d/f\n",
		"FROM a\nWORKDIR rel\nCOPY f f\nRUN chmod +x f\n",
		"FROM a\nENV E=$D\nCOPY f $E/f\nRUN chmod +x /d/f\n",
		"FROM a\nCOPY f /f\nRUN chmod +x /f\nCMD $D\n",
	}
	c := Config{Env: []string{"U=root", "D=/d"}, WorkingDir: "/d", Shell: []string{"/bin/zsh", "-c"}}
	for _, text := range texts {
		plain := analyze(t, text, Options{})
		for name, o := range map[string]Options{
			"base":  {Base: func(From) (Config, bool) { return c, true }},
			"trunk": {TrunkConfig: &c},
		} {
			b := analyze(t, text, o)
			if diff := cmp.Diff(plain.Lines, b.Lines); diff != "" {
				t.Errorf("%q with %s: -without +with:\n%s", text, name, diff)
			}
			if name == "trunk" && slices.ContainsFunc(b.Unresolved, func(u Unresolved) bool { return tailLine(b, u.Line) }) {
				t.Errorf("%q: the tail is not resolved: %v", text, b.Unresolved)
			}
		}
	}
}

func tailLine(b *Build, line int) bool {
	return slices.ContainsFunc(b.Lines, func(l Line) bool { return l.Tail && l.Line == line })
}

// TestReaders sees to what a new project is guessed from.
func TestReaders(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("ARG BASE_IMAGE=debian:12\nARG TAG X=$TAG\nFROM ${BASE_IMAGE} AS one\nFROM one\nFROM scratch AS s\nFROM r/i:$TAG\nFROM $NONE\n"))
	if err != nil {
		t.Fatal(err)
	}
	args := []GlobalArg{{"BASE_IMAGE", "debian:12", true, 1}, {"TAG", "", false, 2}, {"X", "$TAG", true, 2}}
	if diff := cmp.Diff(args, f.GlobalArgs()); diff != "" {
		t.Errorf("args: -want +got:\n%s", diff)
	}
	bases := []StageBase{
		{Stage: 0, Name: "one", Text: "${BASE_IMAGE}", Image: "debian:12", Base: -1, Arg: "BASE_IMAGE", Line: 3},
		{Stage: 1, Text: "one", Base: 0, Line: 4},
		{Stage: 2, Name: "s", Text: "scratch", Image: "scratch", Base: -1, Line: 5},
		{Stage: 3, Text: "r/i:$TAG", Image: "r/i:9", Base: -1, Line: 6},
		{Stage: 4, Text: "$NONE", Base: -1, Arg: "NONE", Line: 7},
	}
	if diff := cmp.Diff(bases, f.Bases(map[string]string{"TAG": "9"})); diff != "" {
		t.Errorf("bases: -want +got:\n%s", diff)
	}
	if got := strings.Join(f.Stages(), ","); got != "one,,s,," {
		t.Errorf("stages: %s", got)
	}
	if got := IgnoreFile("docker/app/Dockerfile"); got != "docker/app/Dockerfile.dockerignore" {
		t.Errorf("ignore file: %s", got)
	}
}

// BenchmarkAnalyze measures a plan's share: one Dockerfile of 20 instructions.
func BenchmarkAnalyze(b *testing.B) {
	text := []byte("ARG BASE_IMAGE=x\nFROM ${BASE_IMAGE} AS a\n" + strings.Repeat("ARG V=1\nRUN apt-get update && apt-get install -y x\nCOPY --chown=a:b src /src\nENV A=$V\n", 5))
	for b.Loop() {
		f, err := Parse("Dockerfile", text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Analyze(Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
