package key

import (
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/source"
)

var update = flag.Bool("update", false, "write the golden files")

// everything is an input with something of every kind.
func everything(t testing.TB) Input {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(`# syntax=docker/dockerfile:1.7
ARG VERSION=12
ARG BASE_IMAGE
FROM debian:${VERSION} AS tools
ADD https://example.com/tool.tar.gz /tool.tar.gz
FROM ${BASE_IMAGE}
ARG GREETING=hello
RUN --mount=type=secret,id=token --mount=type=ssh --mount=type=cache,target=/c echo $GREETING
COPY --from=tools /tool.tar.gz /opt/
COPY ["src/", "odd name", "/srv/"]
`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Analyze(dockerfile.Options{
		Platform: "linux/amd64", BuildPlatform: "linux/amd64", Args: map[string]string{"GREETING": "hi there"},
		ParentArgs: map[string]bool{"BASE_IMAGE": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := Input{
		Platform: "linux/amd64", Slot: "2026-W47", Options: map[string]string{"compression": "gzip", "b": "", "a": "x y"},
		Labels: map[string]string{"team": "search"}, Build: b, Files: make([][]source.Entry, len(b.Inputs)),
		Parent: func(f dockerfile.From) (Parent, bool) {
			return Parent{Unit: "base/linux/amd64", Key: "0123", Digest: digest.FromString("base")}, f.Context == "arg:BASE_IMAGE"
		},
		External: func(f dockerfile.From) digest.Digest { return digest.FromString(f.Image) },
	}
	in.Files[len(b.Inputs)-1] = []source.Entry{
		{Path: "odd name", Kind: source.File, Mode: 0o644, Size: 1, Digest: digest.FromString("1")},
		{Path: "src", Kind: source.Dir, Mode: 0o755},
		{Path: "src/link", Kind: source.Symlink, Mode: 0o777, Link: "../odd name"},
		{Path: "src/null", Kind: source.CharDevice, Mode: 0o666, Major: 1, Minor: 3},
		{Path: "src/run", Kind: source.File, Mode: 0o4755, Size: 3, Digest: digest.FromString("run"), Xattrs: map[string]string{"user.a": "1"}},
		{Path: "src/run2", Kind: source.File, Mode: 0o4755, Size: 3, Digest: digest.FromString("run"), HardlinkOf: "src/run"},
	}
	return in
}

// The recipe's text is a format: what an image was built from is read from it
// for as long as the image stands. A change here asks for another Version.
func TestGoldenRecipe(t *testing.T) {
	k := Compute(everything(t))
	got := string(k.Unit.Text()) + "\n" + string(k.Trunk.Text()) + "\nunit " + string(k.Unit.ID()) + "\ntrunk " +
		string(k.Trunk.ID()) + "\ncontent " + string(Content(everything(t))) + "\n"
	const file = "testdata/recipe.golden"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every single thing that goes into a unit moves its key, and Diff names it.
func TestEveryInputMovesTheKey(t *testing.T) {
	last := func(in Input) []source.Entry { return in.Files[len(in.Files)-1] }
	tests := []struct {
		name, want string // what Diff says
		trunk      bool   // the trunk's key moves as well
		change     func(*Input)
	}{
		{"platform", "platform linux/arm64 changed", true, func(in *Input) { in.Platform = "linux/arm64" }},
		{"slot", "refresh: slot 2026-W48 began", true, func(in *Input) { in.Slot = "2026-W48" }},
		{"option", "option compression changed", true, func(in *Input) { in.Options["compression"] = "zstd" }},
		{"option added", "option c added", true, func(in *Input) { in.Options["c"] = "" }},
		{"label", "label team changed", false, func(in *Input) { in.Labels["team"] = "other" }},
		{"label removed", "label team removed", false, func(in *Input) { in.Labels = nil }},
		{"parent", "parent base/linux/amd64 is rebuilt", true, func(in *Input) {
			in.Parent = func(f dockerfile.From) (Parent, bool) {
				return Parent{Unit: "base/linux/amd64", Key: "4567"}, f.Context == "arg:BASE_IMAGE"
			}
		}},
		{"base image", "base image debian:12 moved", true, func(in *Input) {
			in.External = func(dockerfile.From) digest.Digest { return digest.FromString("moved") }
		}},
		{"content", "odd name changed", false, func(in *Input) { last(*in)[0].Digest = digest.FromString("2") }},
		{"mode", "odd name changed", false, func(in *Input) { last(*in)[0].Mode = 0o600 }},
		{"kind", "src changed", false, func(in *Input) { last(*in)[1].Kind = source.Symlink }},
		{"link", "src/link changed", false, func(in *Input) { last(*in)[2].Link = "elsewhere" }},
		{"device", "src/null changed", false, func(in *Input) { last(*in)[3].Minor = 4 }},
		{"xattr", "src/run changed", false, func(in *Input) { last(*in)[4].Xattrs = map[string]string{"user.a": "2"} }},
		{"hard link", "src/run2 changed", false, func(in *Input) { last(*in)[5].HardlinkOf = "" }},
		{"file removed", "src/run2 removed", false, func(in *Input) { in.Files[len(in.Files)-1] = last(*in)[:5] }},
		{"file added", "src/new added", false, func(in *Input) {
			in.Files[len(in.Files)-1] = append(last(*in), source.Entry{Path: "src/new", Kind: source.File, Mode: 0o644, Digest: digest.FromString("")})
		}},
		{"name", "src/runs added", false, func(in *Input) { last(*in)[5].Path = "src/runs" }},
		{"argument", "arg GREETING changed", true, func(in *Input) {
			for i, a := range in.Build.Args {
				if a.Name == "GREETING" {
					in.Build.Args[i].Value = "other"
				}
			}
		}},
		{"secret", "secret other added", true, func(in *Input) { in.Build.Secrets = append(in.Build.Secrets, "other") }},
		{"ssh", "ssh other added", true, func(in *Input) { in.Build.SSH = append(in.Build.SSH, "other") }},
		{"remote", "remote https://example.com/tool.tar.gz changed", true, func(in *Input) { in.Build.Remotes[0].Checksum = "sha256:00" }},
		{"frontend", "syntax docker/dockerfile:1.8 changed", true, func(in *Input) { in.Build.Syntax = "docker/dockerfile:1.8" }},
		{"instruction", "instruction changed: RUN other", true, func(in *Input) {
			for i, l := range in.Build.Lines {
				if strings.HasPrefix(l.Text, "RUN") {
					in.Build.Lines[i].Text = "RUN other"
				}
			}
		}},
	}
	before := Compute(everything(t))
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := everything(t)
			tc.change(&in)
			after := Compute(in)
			if after.Unit.ID() == before.Unit.ID() {
				t.Error("the key stayed")
			}
			if moved := after.Trunk.ID() != before.Trunk.ID(); moved != tc.trunk {
				t.Errorf("the trunk's key moved: %v, want %v", moved, tc.trunk)
			}
			var words []string
			for _, c := range Diff(before.Unit, after.Unit) {
				words = append(words, c.String())
			}
			if !slices.Contains(words, tc.want) {
				t.Errorf("Diff says %q, want %q among it", words, tc.want)
			}
		})
	}
}

// A checkout sets the times of all files to when it was made.
func TestTimesMoveNoKey(t *testing.T) {
	in := everything(t)
	for _, files := range in.Files {
		for i := range files {
			files[i].Modified, files[i].Real = 1_700_000_000e9, "elsewhere"
		}
	}
	got, want := Compute(in), Compute(everything(t))
	if got.Unit.ID() != want.Unit.ID() || got.Trunk.ID() != want.Trunk.ID() || Content(in) != Content(everything(t)) {
		t.Error("a file's time is part of a key")
	}
}

func TestContentKeyNamesParentsByDigest(t *testing.T) {
	in := everything(t)
	before := Content(in)
	parent := func(p Parent) func(dockerfile.From) (Parent, bool) {
		return func(f dockerfile.From) (Parent, bool) { return p, f.Context == "arg:BASE_IMAGE" }
	}
	in.Parent = parent(Parent{Unit: "base/linux/amd64", Key: "another", Digest: digest.FromString("base")})
	if Content(in) != before {
		t.Error("the parent's key moved the content key")
	}
	in.Parent = parent(Parent{Unit: "base/linux/amd64", Key: "0123", Digest: digest.FromString("other")})
	if Content(in) == before {
		t.Error("the parent's digest did not move the content key")
	}
	if string(before) == string(Compute(everything(t)).Unit.ID()) {
		t.Error("content key and key are the same")
	}
}

// strings that are hard to tell apart when they are joined carelessly.
var awkward = []string{"", " ", "a", "b", "a b", `"`, `"a"`, `\`, "\\n", "\n", "a\nfile x", "ä", "\xff", "\x00", "=", "label", "\u2028", "`"}

func randomRecipe(r *rand.Rand) Recipe {
	var out Recipe
	for range r.IntN(4) {
		var fields []string
		for range r.IntN(4) {
			fields = append(fields, awkward[r.IntN(len(awkward))])
		}
		out.add([]string{labelDo, labelFile, labelArg}[r.IntN(3)], fields...)
	}
	return out.sealed()
}

// Two unlike recipes never have the same text, and Diff is empty for like ones
// alone.
func TestUnlikeRecipesHaveUnlikeTexts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]Recipe{}
	for range 20_000 {
		a := randomRecipe(r)
		text := string(a.Text())
		if b, ok := seen[text]; ok && !equal(a, b) {
			t.Fatalf("%q and %q have the same text", a.Lines(), b.Lines())
		}
		seen[text] = a
		back, err := ParseRecipe([]byte(text))
		if err != nil || !equal(back, a) || back.ID() != a.ID() {
			t.Fatalf("%q was read back as %q: %v", a.Lines(), back.Lines(), err)
		}
		b := randomRecipe(r)
		if same := a.ID() == b.ID(); same != (len(Diff(a, b)) == 0) || same != equal(a, b) {
			t.Fatalf("%q and %q: same key %v, difference %v", a.Lines(), b.Lines(), same, Diff(a, b))
		}
	}
}

func equal(a, b Recipe) bool {
	return slices.EqualFunc(a.Lines(), b.Lines(), func(x, y Line) bool {
		return x.Label == y.Label && slices.Equal(x.Fields, y.Fields)
	})
}

func TestParseRecipeRefuses(t *testing.T) {
	for _, text := range []string{
		"", "strata recipe 2", "strata recipe 1\n", Version + "\nfile a", Version + "\n\n", Version + "\nfile  a\n",
		Version + "\nfile \"a\"\n", Version + "\nfile \"a\n", Version + "\nfile a \n", Version + "\n\"file\" a\n",
		Version + "\nfile ä\n", Version + "\nfile `a b`\n", Version + "\nfile \"a b\"c\n", Version + "\r\nfile a\n",
	} {
		if r, err := ParseRecipe([]byte(text)); err == nil {
			t.Errorf("%q was read as %q", text, r.Lines())
		}
	}
}

func FuzzParseRecipe(f *testing.F) {
	f.Add(Compute(everything(f)).Unit.Text())
	f.Add([]byte(Version + "\nfile \"a b\" \\\n"))
	f.Add([]byte(Version + "\nfile \"\\xff\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecipe(text)
		if err != nil {
			return
		}
		if got := string(r.Text()); got != string(text) {
			t.Errorf("%q was read, and written as %q", text, got)
		}
	})
}

func FuzzQuote(f *testing.F) {
	for _, a := range awkward {
		f.Add(a, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if (quote(a)+" "+quote(b) == quote(b)+" "+quote(a)) != (a == b) {
			t.Errorf("%q and %q can't be told apart", a, b)
		}
		l, err := parseLine("file " + quote(a) + " " + quote(b))
		if err != nil || !slices.Equal(l.Fields, []string{a, b}) {
			t.Errorf("%q and %q were read back as %q: %v", a, b, l.Fields, err)
		}
	})
}
