package source

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// write makes a context from lines: "path" for a file, "path/" for a folder,
// "path\tcontent" for one that does not hold its own name, "path -> target" for a link, "path = other" for a hard link, "path | " for a
// FIFO, "path ~" for a socket. A mode may stand before: "0755 path content".
func write(t testing.TB, lines ...string) string {
	t.Helper()
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	dir := t.TempDir()
	for _, l := range lines {
		bits, rest, ok := strings.Cut(l, " ")
		mode, err := strconv.ParseUint(bits, 8, 32)
		if ok = ok && err == nil && bits[0] == '0'; ok {
			l = rest
		}
		p := writeOne(t, dir, l)
		if !ok {
			continue
		}
		if err := syscall.Chmod(p, uint32(mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeOne(t testing.TB, dir, l string) string {
	t.Helper()
	for _, sep := range []string{" -> ", " = ", " |", " ~"} {
		name, arg, ok := strings.Cut(l, sep)
		if !ok {
			continue
		}
		p := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case sep == " -> ":
			err = os.Symlink(arg, p)
		case sep == " = ":
			err = os.Link(filepath.Join(dir, arg), p)
		case sep == " |":
			err = syscall.Mkfifo(p, 0o644)
		case sep == " ~":
			err = syscall.Mknod(p, syscall.S_IFSOCK|0o644, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	name, content, _ := strings.Cut(l, "\t")
	if content == "" {
		content = name
	}
	p := filepath.Join(dir, name)
	if strings.HasSuffix(name, "/") {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// tree is a context with about everything in it.
var contextLines = []string{
	"Dockerfile", "README.md", "main.go", "go.mod", "0755 run.sh",
	"src/a.go", "src/a_test.go", "src/deep/b.go", "src/deep/er/c.go", "src/deep/er/c.txt", "src-old/a.go",
	"02775 src/empty/", "docs/a.md", "docs/b.txt", "docs/img/x.png", "docs/img/y.jpeg",
	"with space/a b.txt", "ünï/ço.de", "new\nline/x\ny", "-dash", "!bang", "#hash", "star*/x[1].txt", "back\\slash",
	"link.go -> main.go", "dirlink -> src", "deeplink -> dirlink/deep", "abs -> /docs", "up -> ../../docs/b.txt",
	"dangling -> nowhere", "docs/up -> ../main.go", "docs/out -> /etc/passwd", "loop -> loop2", "loop2 -> loop",
	"src/self -> .", "hard/one", "hard/two = hard/one", "hard/sub/three = hard/one", "hardout = hard/one",
	"pipe/fifo |", "pipe/sock ~", "04755 modes/setuid", "01777 modes/sticky/", "0600 modes/secret", "0000 modes/none",
}

func TestSelectAsBuildKit(t *testing.T) {
	ignores := [][]string{
		nil,
		{"docs", "*.md"},
		{"*", "!src", "!*.go"},
		{"**", "!**/*.go", "!src/deep"},
		{"src/deep", "!src/deep/er/c.txt", "main.go"},
		{"**/*.go", "!src/a.go", "hard/one", "Dockerfile", ".dockerignore"},
		{"dirlink", "/docs/", "src/../src/empty", "star\\*"},
		{"d*", "!docs/img/**", "**/x.png", "ünï"},
	}
	selections := []Selection{
		{Patterns: []string{"."}},
		{Patterns: []string{"/"}},
		{Patterns: []string{"src"}},
		{Patterns: []string{"./src/"}},
		{Patterns: []string{"/src/."}},
		{Patterns: []string{"../../src"}},
		{Patterns: []string{"src/deep/../a.go"}},
		{Patterns: []string{"src*"}},
		{Patterns: []string{"*.go"}},
		{Patterns: []string{"*.nothing"}},
		{Patterns: []string{"nodir/*.nothing"}},
		{Patterns: []string{"main.go/*"}},
		{Patterns: []string{"missing"}},
		{Patterns: []string{"main.go", "run.sh", "docs"}},
		{Patterns: []string{"src/a.go", "src-old/a.go"}},
		{Patterns: []string{"src-old/a.go", "src/a.go"}},
		{Patterns: []string{"*/a.go"}},
		{Patterns: []string{"*/*/*"}},
		{Patterns: []string{"src/*"}},
		{Patterns: []string{"d*"}},
		{Patterns: []string{"link.go"}},
		{Patterns: []string{"dirlink"}},
		{Patterns: []string{"dirlink/deep/b.go"}},
		{Patterns: []string{"dirlink/*.go"}},
		{Patterns: []string{"deeplink"}},
		{Patterns: []string{"deeplink/er"}},
		{Patterns: []string{"abs"}},
		{Patterns: []string{"abs/img/*.png"}},
		{Patterns: []string{"up"}},
		{Patterns: []string{"dangling"}},
		{Patterns: []string{"dang*"}},
		{Patterns: []string{"loop"}},
		{Patterns: []string{"docs"}},
		{Patterns: []string{"docs/out"}},
		{Patterns: []string{"hard"}},
		{Patterns: []string{"hard/one", "hard/two"}},
		{Patterns: []string{"hard", "hardout"}},
		{Patterns: []string{"hard*"}},
		{Patterns: []string{"pipe"}},
		{Patterns: []string{"modes"}},
		{Patterns: []string{"with space"}},
		{Patterns: []string{"with space/a b.txt"}},
		{Patterns: []string{"ünï"}},
		{Patterns: []string{"?nï/*"}},
		{Patterns: []string{"new\nline"}},
		{Patterns: []string{"-dash"}},
		{Patterns: []string{"!bang"}},
		{Patterns: []string{"#hash"}},
		{Patterns: []string{`star\*/x\[1\].txt`}},
		{Patterns: []string{"[m-r]*"}},
		{Patterns: []string{"src[^x]a.go"}},
		{Patterns: []string{"docs"}, Excludes: []string{"*.md"}},
		{Patterns: []string{"docs/a.md", "docs/b.txt"}, Excludes: []string{"*.md"}},
		{Patterns: []string{"docs/*"}, Excludes: []string{"*.png"}},
		{Patterns: []string{"."}, Excludes: []string{"*", "!src/deep"}},
		{Patterns: []string{"."}, Excludes: []string{"**/*.go", "!src/a.go", "dang*"}},
		{Patterns: []string{"src", "docs"}, Excludes: []string{"deep", "img"}},
		{Patterns: []string{"src", "docs"}, Excludes: []string{"**", "!**/c.txt"}},
		{Patterns: []string{"missing"}, Excludes: []string{"x"}},
		{Patterns: []string{"src/a.go"}, Parents: true},
		{Patterns: []string{"src/deep"}, Parents: true},
		{Patterns: []string{"./src/deep/"}, Parents: true},
		{Patterns: []string{"src/missing"}, Parents: true},
		{Patterns: []string{"src/m*"}, Parents: true},
		{Patterns: []string{"**/*.go"}, Parents: true},
		{Patterns: []string{"**/c.txt", "docs/*/x.png"}, Parents: true},
		{Patterns: []string{"src/./deep/b.go"}, Parents: true},
		{Patterns: []string{"./src/./deep/**"}, Parents: true},
		{Patterns: []string{"dirlink/a.go"}, Parents: true},
		{Patterns: []string{"dirlink/./deep/*"}, Parents: true},
		{Patterns: []string{"dirlink"}, Parents: true},
		{Patterns: []string{"s*/./a.go"}, Parents: true},
		{Patterns: []string{"missing/./*"}, Parents: true},
		{Patterns: []string{"src/a.go", "src/deep"}, Parents: true, Excludes: []string{"**/er"}},
		{Patterns: []string{"main.go"}, Parents: true, Excludes: []string{"*.go"}},
		{Patterns: []string{"hard/one", "hard/sub"}, Parents: true},
		{Patterns: []string{"hard/*"}, Parents: true},
		{Patterns: []string{"src/*"}, Parents: true, Excludes: []string{"src/**", "!**/b.go"}},
	}
	for _, ignore := range ignores {
		dir := write(t, append(contextLines, ".dockerignore\t#\n"+strings.Join(ignore, "\n"))...)
		received := transfer(t, dir, ignore)
		for _, s := range selections {
			same(t, dir, received, ignore, s)
		}
	}
}
