package simulate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/source"
)

func blocksOf(t *testing.T, text string) []block {
	t.Helper()
	blocks, ok := split(text)
	if !ok {
		t.Fatalf("%q can't be taken apart", text)
	}
	if join(blocks) != text {
		t.Fatalf("taken apart and put together it is %q", join(blocks))
	}
	return blocks
}

func TestSplit(t *testing.T) {
	text := "# syntax=docker/dockerfile:1\nARG V=1\nFROM debian:$V AS a\n# Tools.\nRUN apt-get update && \\\n    # in between\n    apt-get install -y x\n\nfrom a\nCOPY a b /c/\n# the end\n"
	var got []string
	for _, b := range blocksOf(t, text) {
		got = append(got, strings.TrimSpace(strings.Join([]string{string(rune('0' + b.stage + 1)), b.word, b.args}, " ")))
	}
	want := []string{"0 ARG V=1", "1 FROM debian:$V AS a", "1 RUN apt-get update && apt-get install -y x", "2 FROM a", "2 COPY a b /c/", "2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"FROM a\nRUN <<EOF\nx\nEOF\n", "# escape=`\nFROM a\n", "FROM a\nRUN x \\\n"} {
		if _, ok := split(bad); ok {
			t.Errorf("%q was taken apart", bad)
		}
	}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		text string
		want work
	}{
		{"apt-get update && apt-get install -y python3", installs},
		{"--mount=type=cache,target=/root/.cache pip install -r x.txt", installs},
		{"python3 -m pip install torch", installs},
		{`["npm", "ci"]`, installs},
		{"set -e; if true; then apk add git; fi", installs},
		{"yarn", installs},
		{"npm run build", compiles},
		{"cd /src && CGO_ENABLED=0 go build ./...", compiles},
		{"make -j4 && npm ci", installs},
		{"/usr/bin/make", compiles},
		{"useradd app", other},
		{"echo 'apt-get install'", other},
		{"pip --version", other},
		{"if then", other}, // no shell at all
	}
	for _, tt := range tests {
		if got := classify(tt.text); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.text, got, tt.want)
		}
	}
}

// TestLater says what may change places, and what never does.
func TestLater(t *testing.T) {
	const from = "FROM debian\n"
	tests := []struct{ name, text, want string }{
		{"a package manager", "COPY src /app\nRUN apt-get install -y x\n", "RUN apt-get install -y x\nCOPY src /app\n"},
		{"several, with others between", "COPY src /app\nENV A=b\nRUN apk add x\nUSER root\nRUN useradd u\nCMD x\n", "ENV A=b\nRUN apk add x\nUSER root\nRUN useradd u\nCOPY src /app\nCMD x\n"},
		{"as far as it goes", "COPY src /app\nRUN apk add x\nRUN make\n", "RUN apk add x\nCOPY src /app\nRUN make\n"},
		{"by name", "COPY . .\nRUN pip install torch\n", "RUN pip install torch\nCOPY . .\n"},
		{"from a list", "COPY . .\nRUN pip install -r requirements.txt\n", ""},
		{"the project itself", "COPY . .\nRUN pip install .\n", ""},
		{"who knows", "COPY . .\nRUN ./setup\n", ""},
		{"a copied name", "COPY certs /certs\nRUN ln -s /certs/a /etc/a\n", ""},
		{"a copied name from elsewhere", "COPY conf/apt.conf /etc/apt/\nRUN apt-get install -o Dir::Etc=x/apt.conf y\n", ""},
		{"onto the same place", "COPY a /x\nCOPY b /x\nRUN apk add x\n", "COPY a /x\nRUN apk add x\nCOPY b /x\n"},
		{"a folder that counts", "COPY a x\nWORKDIR /w\nRUN apk add x\n", ""},
		{"another shell", "COPY a /x\nSHELL [\"/bin/bash\"]\nRUN apk add x\n", ""},
		{"of another stage", "COPY --from=b a /x\nRUN apk add x\n", ""},
		{"a variable", "COPY $A /x\nRUN apk add x\n", ""},
		{"a mount", "COPY a /x\nRUN --mount=type=bind,target=/y apk add x\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			blocks := blocksOf(t, from+tt.text)
			moves, got := laters(blocks), ""
			if len(moves) > 0 {
				out, ok := moves[0].apply(blocks)
				if !ok {
					t.Fatal("it can't be done where it was found")
				}
				got = strings.TrimPrefix(join(out), from)
				if _, ok := moves[0].apply(blocksOf(t, "FROM other\nRUN true\n")); ok {
					t.Error("it was done in a file that has nothing of it")
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestManifestsFirst(t *testing.T) {
	files := func(names ...string) func(int) []source.Entry {
		return func(int) []source.Entry {
			var out []source.Entry
			for _, n := range names {
				out = append(out, source.Entry{Path: n, Rel: n, Kind: source.File, MatchDir: true})
			}
			return out
		}
	}
	tests := []struct {
		name, text string
		files      []string
		want       string
	}{
		{"npm", "COPY . .\nRUN npm ci\nRUN npm run build\n", []string{"package.json", "package-lock.json", "src/a.ts", "web/package.json"},
			"COPY package.json package-lock.json ./\nRUN npm ci\nCOPY . .\nRUN npm run build\n"},
		{"a list in a folder", "COPY . /app/\nRUN pip install -r /app/requirements/app.txt\n", []string{"requirements/app.txt", "src/a.py"},
			"COPY requirements/app.txt /app/requirements/\nRUN pip install -r /app/requirements/app.txt\nCOPY . /app/\n"},
		{"nothing else is copied", "COPY . .\nRUN npm ci\n", []string{"package.json"}, ""},
		{"no list", "COPY . .\nRUN npm ci\n", []string{"src/a.ts"}, ""},
		{"more than installing", "COPY . .\nRUN npm ci && npm run build\n", []string{"package.json", "a.ts"}, ""},
		{"something before it", "COPY . .\nRUN ./prepare\nRUN npm ci\n", []string{"package.json", "a.ts"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			blocks := blocksOf(t, "FROM node\n"+tt.text)
			got := ""
			if found := manifestsFirst(blocks, files(tt.files...)); len(found) > 0 {
				out, ok := found[0].apply(blocks)
				if !ok {
					t.Fatal("it can't be done where it was found")
				}
				got = strings.TrimPrefix(join(out), "FROM node\n")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCut(t *testing.T) {
	blocks := blocksOf(t, "FROM a AS prepared\nRUN true\nFROM --platform=linux/amd64 b AS build\nARG V\nRUN apk add x\nCOPY . .\nRUN make\n")
	found := cuts(blocks)
	if len(found) != 1 {
		t.Fatalf("%d cuts", len(found))
	}
	out, ok := found[0].apply(blocks)
	want := "FROM a AS prepared\nRUN true\nFROM --platform=linux/amd64 b AS prepared2\nARG V\nRUN apk add x\n\nFROM prepared2 AS build\nARG V\nCOPY . .\nRUN make\n"
	if diff := cmp.Diff(want, join(out)); !ok || diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if found := cuts(blocksOf(t, "FROM a\nCOPY . .\nRUN make\n")); len(found) > 0 {
		t.Error("a cut with nothing dear above it")
	}
}

func TestDiffLines(t *testing.T) {
	got := diffLines("a\nb\nc\nd\ne\n", "a\nc\nb\nd\ne\n")
	if want := " a\n-b\n c\n+b\n d\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
