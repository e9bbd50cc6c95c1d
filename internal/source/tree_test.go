package source

import (
	stdcmp "cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

func open(t testing.TB, dir string, o Options) *Tree {
	t.Helper()
	tree, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func paths(t testing.TB, tree *Tree, s Selection) []string {
	t.Helper()
	entries, err := tree.Select(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Path)
	}
	return out
}

func TestIgnoreFileOfTheDockerfile(t *testing.T) {
	dir := write(t, "a.md", "b.txt", ".dockerignore\t*.md", "docker/app/Dockerfile", "docker/app/Dockerfile.dockerignore\t*.txt\ndocker",
		"empty.Dockerfile", "empty.Dockerfile.dockerignore\t\ufeff")
	tests := []struct {
		dockerfile, name string
		want             []string
	}{
		{"", ".dockerignore", []string{"a.md"}},
		{"Dockerfile", ".dockerignore", []string{"a.md"}},
		{"docker/app/Dockerfile", "docker/app/Dockerfile.dockerignore", []string{"b.txt", "docker/app/Dockerfile"}},
		{filepath.Join(dir, "docker/app/Dockerfile"), "docker/app/Dockerfile.dockerignore", []string{"b.txt", "docker/app/Dockerfile"}},
		{"empty.Dockerfile", "empty.Dockerfile.dockerignore", nil},
	}
	for _, tt := range tests {
		tree := open(t, dir, Options{Dockerfile: tt.dockerfile})
		if tree.IgnoreFile() != tt.name {
			t.Errorf("Dockerfile %q: ignore file %q, want %q", tt.dockerfile, tree.IgnoreFile(), tt.name)
		}
		var got []string
		for _, p := range []string{"a.md", "b.txt", "docker/app/Dockerfile"} {
			if _, ignored := tree.Ignored(p); ignored {
				got = append(got, p)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Dockerfile %q: ignored (-want +got):\n%s", tt.dockerfile, diff)
		}
	}
}

func TestIgnored(t *testing.T) {
	tree := open(t, write(t, ".dockerignore\tdocs\n!docs/keep\n**/*.pyc\nDockerfile\n.dockerignore"), Options{})
	tests := map[string]string{
		"docs": "docs", "docs/a/b": "docs", "docs/keep": "", "docs/keep/x": "", "src/a.pyc": "**/*.pyc", "/./src/../a.pyc": "**/*.pyc",
		"src": "", ".": "", "": "", "Dockerfile": "Dockerfile", ".dockerignore": ".dockerignore",
	}
	for p, want := range tests {
		if got, ignored := tree.Ignored(p); got != want || ignored != (want != "") {
			t.Errorf("Ignored(%q) = %q, %v, want %q", p, got, ignored, want)
		}
	}
}

func TestIgnoredLinkToIgnoreFile(t *testing.T) {
	tree := open(t, write(t, "rules/ignore\tx", ".dockerignore -> /rules/ignore"), Options{})
	if _, ignored := tree.Ignored("x"); !ignored {
		t.Error("a linked .dockerignore was not read")
	}
}

func TestBadIgnoreFile(t *testing.T) {
	_, err := Open(write(t, ".dockerignore\ta\n[\n!\n"), Options{})
	want := ".dockerignore:2: syntax error in pattern\n.dockerignore:3: illegal exclusion pattern: \"!\""
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing context: %v", err)
	}
}

func TestNoMatch(t *testing.T) {
	dir := write(t, "a.md", "docs/x/y", "b.txt", ".dockerignore\tdocs\n*.md\n",
		"dangling -> nowhere", "hidden -> docs/x", "loop -> loop", "out -> ../../usr/lib", "etc -> /etc")
	tree := open(t, dir, Options{})
	tests := []struct {
		sel  Selection
		want string
		hint string
	}{
		{Selection{Patterns: []string{"missing"}}, `"missing" is not in the build context`, ""},
		{Selection{Patterns: []string{"b.txt/x"}}, `"b.txt/x" is not in the build context`, ""},
		{Selection{Patterns: []string{"a.md"}}, `"a.md" is kept out of the build context by "*.md" in .dockerignore:2`,
			`add the line "!a.md" at the end of .dockerignore, or take the source out of the Dockerfile`},
		{Selection{Patterns: []string{"./docs/x/"}}, `"./docs/x/" is kept out of the build context by "docs" in .dockerignore:1`,
			`add the line "!docs/x" at the end of .dockerignore, or take the source out of the Dockerfile`},
		{Selection{Patterns: []string{"docs/none"}}, `"docs/none" is not in the build context`, ""},
		{Selection{Patterns: []string{"dangling"}}, `"dangling" leads through the link "dangling" to nothing in the build context`, ""},
		{Selection{Patterns: []string{"dang*"}}, `"dang*" (which matches "dangling") leads through the link "dangling" to nothing in the build context`, ""},
		{Selection{Patterns: []string{"hidden"}}, `"hidden" leads through the link "hidden" to what "docs" in .dockerignore:1 keeps out of the build context`,
			`add the line "!docs/x" at the end of .dockerignore, or take the source out of the Dockerfile`},
		{Selection{Patterns: []string{"out"}}, `"out" leads through the link "out" to nothing in the build context`, ""},
		{Selection{Patterns: []string{"etc/passwd"}}, `looking for "etc/passwd": more than 255 links, the last is "etc"`, ""},
		{Selection{Patterns: []string{"loop"}}, `looking for "loop": more than 255 links, the last is "loop"`, ""},
		{Selection{Patterns: []string{"b.txt/./x"}, Parents: true}, `"b.txt/./x" is not in the build context`, ""},
		{Selection{Patterns: []string{"."}, Parents: true}, `"." is not in the build context`, ""},
		{Selection{Patterns: []string{"a.md"}, Parents: true}, `"a.md" is kept out of the build context by "*.md" in .dockerignore:2`,
			`add the line "!a.md" at the end of .dockerignore, or take the source out of the Dockerfile`},
		{Selection{Patterns: []string{"b*"}, Bind: true}, `"b*" is not in the build context`, ""},
		{Selection{Patterns: []string{"x", "b.txt", "y"}}, "\"x\" is not in the build context\n\"y\" is not in the build context", ""},
		{Selection{Patterns: []string{"["}}, `reading pattern "[": syntax error in pattern`, ""},
		{Selection{Patterns: []string{"["}, Parents: true}, `reading pattern "[": syntax error in pattern`, ""},
		{Selection{Patterns: []string{"."}, Excludes: []string{"!"}}, `reading exclude patterns ["!"]: illegal exclusion pattern: "!"`, ""},
	}
	for _, tt := range tests {
		_, err := tree.Select(t.Context(), tt.sel)
		if err == nil || err.Error() != tt.want || diag.HintOf(err) != tt.hint {
			t.Errorf("%+v:\n got %v\nhint %s\nwant %s\nhint %s", tt.sel, err, diag.HintOf(err), tt.want, tt.hint)
		}
	}
	var e *NoMatchError
	_, err := tree.Select(t.Context(), Selection{Patterns: []string{"a.md"}})
	if !errors.As(err, &e) || e.Pattern != "a.md" || e.IgnoredBy != "*.md" || e.Pos.Line != 2 {
		t.Errorf("got %#v", e)
	}
}

func TestSelectFields(t *testing.T) {
	dir := write(t, "lib/a.txt", "0750 lib/sub/", "0640 lib/sub/b.txt", "lib/sub/c -> ../a.txt", "lib/z = lib/a.txt", "to -> lib/sub")
	tree := open(t, dir, Options{})
	got, err := tree.Select(t.Context(), Selection{Patterns: []string{"lib", "t*"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Kind == File {
			got[i].Digest = got[i].Digest[:13]
		}
	}
	want := []Entry{
		{Path: "lib", Kind: Dir, Mode: 0o755, Source: "lib", Match: "lib", MatchDir: true},
		{Path: "lib/a.txt", Mode: 0o644, Size: 9, Digest: "sha256:2df9df", Source: "lib", Match: "lib", Rel: "a.txt", MatchDir: true},
		{Path: "lib/sub", Kind: Dir, Mode: 0o750, Source: "lib", Match: "lib", Rel: "sub", MatchDir: true},
		{Path: "lib/sub/b.txt", Mode: 0o640, Size: 13, Digest: "sha256:a7e4f1", Source: "lib", Match: "lib", Rel: "sub/b.txt", MatchDir: true},
		{Path: "lib/sub/c", Kind: Symlink, Mode: 0o777, Link: "../a.txt", Source: "lib", Match: "lib", Rel: "sub/c", MatchDir: true},
		{Path: "lib/z", Mode: 0o644, Size: 9, Digest: "sha256:2df9df", HardlinkOf: "lib/a.txt", Source: "lib", Match: "lib", Rel: "z", MatchDir: true},
		{Path: "to", Real: "lib/sub", Kind: Dir, Mode: 0o755, Source: "t*", Match: "to", MatchDir: true, Index: 1},
		{Path: "to/b.txt", Real: "lib/sub/b.txt", Mode: 0o640, Size: 13, Digest: "sha256:a7e4f1", Source: "t*", Match: "to", Rel: "b.txt", MatchDir: true, Index: 1},
		{Path: "to/c", Real: "lib/sub/c", Kind: Symlink, Mode: 0o777, Link: "../a.txt", Source: "t*", Match: "to", Rel: "c", MatchDir: true, Index: 1},
	}
	for i := range want {
		if want[i].Digest != "" {
			want[i].Digest = got[i].Digest
		}
		fi, err := os.Lstat(filepath.Join(dir, stdcmp.Or(want[i].Real, want[i].Path)))
		if err != nil {
			t.Fatal(err)
		}
		want[i].Modified = fi.ModTime().UnixNano()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got[1].Digest != got[5].Digest || got[1].Digest == got[3].Digest {
		t.Errorf("digests: %s %s %s", got[1].Digest, got[3].Digest, got[5].Digest)
	}
}

// A time moves with the file on disk, whether or not its digest is remembered,
// and no digest of a tree moves with it.
func TestModified(t *testing.T) {
	dir := write(t, "a", "d/b", "l -> a")
	cache := aged(filepath.Join(t.TempDir(), "stat"))
	all := Selection{Patterns: []string{"."}}
	before, err := open(t, dir, Options{Cache: cache}).Select(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1_500_000_000, 123_456_789)
	for _, p := range []string{"a", "d", "d/b", "."} {
		if err := os.Chtimes(filepath.Join(dir, p), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // hashed, then remembered
		after, err := open(t, dir, Options{Cache: cache}).Select(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range after {
			if moved := e.Modified == when.UnixNano(); moved != (e.Path != "l") || e.Modified == 0 {
				t.Errorf("%s has the time %d", e.Path, e.Modified)
			}
			if e.Path == "a" && before[i].Modified == e.Modified {
				t.Error("the time has not moved")
			}
		}
		if TreeDigest(before) != TreeDigest(after) {
			t.Error("a time is part of the digest")
		}
	}
}

func TestBind(t *testing.T) {
	dir := write(t, "0700 src/", "src/a", "[x]/b", ".dockerignore\tsrc/z", "src/z", "to -> src")
	tree := open(t, dir, Options{})
	tests := map[string][]string{
		"":      {".", ".dockerignore", "[x]", "[x]/b", "src", "src/a", "to"},
		"[x]":   {"[x]", "[x]/b"},
		"src/a": {"src/a"},
		"/to/":  {"to", "to/a"},
	}
	for p, want := range tests {
		if diff := cmp.Diff(want, paths(t, tree, Selection{Patterns: []string{p}, Bind: true})); diff != "" {
			t.Errorf("bind %q (-want +got):\n%s", p, diff)
		}
	}
	entries, err := tree.Select(t.Context(), Selection{Patterns: []string{"to"}, Bind: true})
	if err != nil || entries[0].Mode != 0o700 {
		t.Errorf("a bind mount shows its folder's own mode: got %v, %v", entries, err)
	}
}

// TestWalksOnlyWhatIsNeeded has the kernel say whether a folder was opened.
func TestWalksOnlyWhatIsNeeded(t *testing.T) {
	dir := write(t, "requirements.txt", "src/a.py", "deep/down/x.txt", "trap/x/y", ".dockerignore\tignored\n!src/keep", "ignored/x")
	tree := open(t, dir, Options{})
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, p := range []string{"trap", "ignored"} {
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, p), unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
	}
	opened := func(s Selection) bool {
		paths(t, tree, s)
		n, err := unix.Read(fd, make([]byte, 4096))
		if err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
		return n > 0
	}
	if !opened(Selection{Patterns: []string{"trap"}}) {
		t.Fatal("the trap does not work")
	}
	for _, s := range []Selection{
		{Patterns: []string{"requirements.txt"}},
		{Patterns: []string{"src"}},
		{Patterns: []string{"src/*.py"}},
		{Patterns: []string{"s*/*.py"}},
		{Patterns: []string{"*.txt"}},
		{Patterns: []string{"src/**/*.py"}, Parents: true},
		{Patterns: []string{"deep/down/x.txt"}, Parents: true},
		{Patterns: []string{"."}, Excludes: []string{"trap"}},
	} {
		if opened(s) {
			t.Errorf("%+v listed a folder that it does not need", s)
		}
	}
}

func TestVanishedAndReplacedFiles(t *testing.T) {
	tests := []struct {
		name string
		then func(p string) error
		want string
	}{
		{"removed", os.Remove, "reading \"a\": it was removed while the build context was being read: "},
		{"a fifo now", func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o644)) }, `reading "a": it is no longer a regular file`},
		{"a link out of the root now", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }, `reading "a": openat a: path escapes from parent`},
	}
	for _, tt := range tests {
		dir := write(t, "a", "b")
		tree := open(t, dir, Options{})
		d, err := openDisk(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		w := newWalker(tree, d, Selection{})
		if err := w.take(t.Context(), "."); err != nil {
			t.Fatal(err)
		}
		if err := tt.then(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		if err := w.digest(t.Context(), d); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestOpenStaysInside(t *testing.T) {
	dir := write(t, "etc/passwd\tours", "abs -> /etc/passwd", "up -> ../../../../etc/passwd", "host -> /etc/hostname", "s ~", ".dockerignore\thidden", "hidden")
	tree := open(t, dir, Options{})
	for p, want := range map[string]string{"abs": "ours", "up": "ours", "etc/../../etc/passwd": "ours", "s": ""} {
		if got := contentOf(t, tree, p); got != want {
			t.Errorf("%s: read %q, want %q", p, got, want)
		}
	}
	for _, p := range []string{"host", "none", "hidden", "etc"} {
		if f, err := tree.Open(p); err == nil {
			f.Close()
			t.Errorf("%s was opened", p)
		}
	}
}

func TestCancelledSelect(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := open(t, write(t, "a"), Options{}).Select(ctx, Selection{Patterns: []string{"."}}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestUserAttributes(t *testing.T) {
	dir := write(t, "a", "d/b", "plain")
	for _, p := range []string{"a", "d"} {
		if err := syscall.Setxattr(filepath.Join(dir, p), "user.note", []byte("x\x00y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	cache := aged(filepath.Join(t.TempDir(), "stat"))
	for range 2 { // hashed, then from the cache
		got, err := open(t, dir, Options{Cache: cache}).Select(t.Context(), Selection{Patterns: []string{"."}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range got {
			if want := e.Path == "a" || e.Path == "d"; want != (e.Xattrs["user.note"] == "x\x00y") || !want && e.Xattrs != nil {
				t.Errorf("%s has %q", e.Path, e.Xattrs)
			}
		}
	}
}
