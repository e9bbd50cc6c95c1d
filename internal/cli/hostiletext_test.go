//go:build linux

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// hostileName is a name that sets a terminal's title, clears it, reorders and hides
// what follows, ends the line, and is no UTF-8.
const hostileName = "x\x1b]0;owned\a\x1b[2J\x1b[31m\u202e\u2066\u200b\u061c\u009b31m\r\nfaked-line\xff\u2028y"

// hostileText is the same without what YAML and git do not take.
const hostileText = "x\x1b]0;owned\a\x1b[2J\x1b[31m\u202e\u2066\u200b\u061c\u009b31m\u2028y"

// secret is a URL with all kinds of credentials.
const secret = "https://user:s3cret@h.invalid/x?token=s3cret&v=1"

// hostileProject is a repository in which every text that somebody else can
// write is hostile.
func hostileProject(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "p")
	quoted, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"src/f": "1", "src/" + hostileName: "1", "extra": "1",
		"strata.yaml": `image: demo/app
version: 1.0.0
channels: [dev]
layers:
  base: {dockerfile: base.Dockerfile, labels: {"l` + string(quoted[1:]) + `: ` + string(quoted) + `}, refresh: week}
  app: {parent: base, args: {A: ` + string(quoted) + `, URL: "` + secret + `"}}
  net: {dockerfile: net.Dockerfile, test: ` + string(quoted) + `}
`,
		"base.Dockerfile": "FROM scratch\nCOPY src/ /src/\nLABEL a=\"" + hostileText + "\"\nENV E=\"" + hostileText + "\"\n",
		"Dockerfile":      "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG A\nARG URL\nLABEL a=$A u=$URL\nCOPY src/ extra /srv/\nCMD [\"" + hostileText + "\"]\n",
		"net.Dockerfile":  "FROM scratch\nADD " + secret + " /x\nADD https://ghp_s3cretADD@h.invalid/a/b.git#main /y\nRUN echo " + hostileText + " " + secret + "\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "b\u202er"}, {"config", "user.name", hostileText}, {"config", "user.email", "a@b.invalid"},
		{"remote", "add", "origin", "https://user:s3cret@h.invalid/x.git"},
		{"add", "-A"}, {"commit", "-qm", "subject " + hostileText}, {"tag", "-m", hostileText, "v1.0.0"},
	} {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	return dir
}

// hostileRuns are command lines; of every command that the program has there is
// at least one. %s stands for a folder of the test.
var hostileRuns = []string{
	"plan", "plan --json", "plan --format markdown", "plan --format github-matrix", "plan --format gitlab", "plan --format json-stages",
	"build base app --summary %s/summary.md", "build base app --progress json", "build net --engine tcp://user:s3cret@127.0.0.1:1",
	"change", "plan --summary %s/summary.md", "build base app --dry-run", "explain app", "explain base net --recipe", "explain base app --json",
	"why-not", "why-not --json", "config", "config --json", "tags", "tags --json",
	"graph", "graph --format dot", "graph --format svg", "inventory demo/app:base-latest", "inventory demo/app:base-latest --json", "build base app",
	"diff demo/app:base-1.0.0 demo/app:1.0.0", "diff demo/app:base-1.0.0 demo/app:1.0.0 --json", "history", "history --json", "history --registry",
	"doctor", "doctor --json", "registry ls -a", "registry ls --json", "registry rm demo/app:1.0.0", "registry import nowhere --as x", "registry serve --addr 127.0.0.1:0",
	"store", "store --json", "store reset", "store prune", "lock", "lock --check", "update", "update --json",
	"ci github --dry-run", "ci gitlab --dry-run", "ci make --dry-run", "ci --check",
	"simulate", "simulate --json", "simulate --html %s/s.html --svg %s/s.svg",
	"export dockerfile base --out %s/export", "export bake --out -", "export make --out -",
	"publish --local base app --dry-run", "publish --local base app --summary %s/summary.md", "promote latest dev", "promote latest dev --json", "rollback dev", "rollback",
	"prune", "prune --json", "prune -l", "watch --dry-run", "watch --once --json", "watch --once", "hotfix --dry-run", "hotfix --dry-run --json", "pull base",
	"rebase demo/app:latest --onto demo/app:base-latest --dry-run", "run base -- /x", "shell base", "init --print", "version", "help", "export", "registry",
	"__complete build ''",
}

// hostileWords are command lines of which one word is hostileName: #.
var hostileWords = []string{
	"#", "-f # plan", "-C # plan", "plan #", "plan --#", "plan --format #", "plan --time #", "explain #", "inventory #", "diff # #", "history #", "build --progress #",
	"build -o /nonexistent/#", "build --engine tcp://user:s3cret@# net", "build --tag-version # base app", "registry import # --as #", "registry rm #",
	"rebase # --onto #", "promote # #", "rollback #", "prune --layer #", "graph --format #", "ci github --branch #", "ci make --name #", "run # -- x", "why-not #",
	"export dockerfile # --out -", "simulate --time #=1s", "simulate --what-if #", "watch --once --policy #", "store prune --unused #", "completion #",
}

// TestNothingHostileIsShown drives every command of the program over such a
// project, in a log without colours and with them.
func TestNothingHostileIsShown(t *testing.T) {
	dir, out := hostileProject(t), t.TempDir()
	home := t.TempDir()
	env := map[string]string{
		"STRATA_HOME": home, "HOME": home, "PATH": os.Getenv("PATH"), "HTTPS_PROXY": "http://user:s3cret@127.0.0.1:1",
	}
	var environ []string
	for k, v := range env {
		environ = append(environ, k+"="+v)
	}
	seen := map[string]bool{}
	run := func(color string, args ...string) {
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, fmt.Errorf("the test waits no longer"))
		defer cancel()
		if slices.Contains(args, "serve") {
			ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
		}
		Run(ctx, Machine{
			Version: "v0-test", Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Dir: dir, Now: time.Now, Environ: environ,
			Getenv: func(name string) string { return env[name] },
		}, append([]string{"--color", color}, args...))
		for name, text := range map[string][]byte{"output": stdout.Bytes(), "errors": stderr.Bytes()} {
			if slices.Contains(args, "bake") { // a file, whose text is in it
				text = bytes.ReplaceAll(text, []byte(secret), nil)
			}
			if wrong := wrongIn(text, color == "always"); wrong != "" {
				t.Errorf("strata %q, %s: %s\n%q", args, name, wrong, text)
			}
		}
		if root := (&app{}).root(); len(args) > 0 {
			if c, _, err := root.Find(args); err == nil {
				seen[c.CommandPath()] = true
			}
		}
	}
	for _, color := range []string{"never", "always"} {
		for _, words := range hostileRuns {
			if words == "change" { // so that there is a difference to show
				for name, text := range map[string]string{"src/" + hostileName: "2 " + color, "src/n" + hostileName: color, "extra": color} {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				continue
			}
			run(color, strings.Fields(strings.ReplaceAll(words, "%s", out))...)
		}
		for _, words := range hostileWords {
			args := strings.Fields(words)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "#", hostileName+"https://user:s3cret@h.invalid/x")
			}
			run(color, args...)
		}
	}
	for _, c := range everyCommand((&app{}).root()) {
		if !seen[c] {
			t.Errorf("no run of %s is tried here", c)
		}
	}
	for _, name := range []string{"summary.md", "s.html", "s.svg"} {
		text, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Error(err)
		}
		if wrong := wrongIn(text, false); wrong != "" {
			t.Errorf("%s: %s\n%s", name, wrong, text)
		}
	}
	// What is kept is read by others, or uploaded.
	err := filepath.WalkDir(filepath.Join(home, "records"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if wrong := wrongIn(text, false); wrong != "" {
			t.Errorf("%s: %s\n%s", path, wrong, text)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// everyCommand gives the commands that do something.
func everyCommand(c *cobra.Command) []string {
	var out []string
	if c.Name() == "completion" { // scripts of cobra's
		return nil
	}
	if c.Runnable() && !c.Hidden && c.Parent() != nil && c.Name() != "help" {
		out = append(out, c.CommandPath())
	}
	for _, sub := range c.Commands() {
		out = append(out, everyCommand(sub)...)
	}
	return out
}

// wrongIn says what a text holds that must not be shown.
func wrongIn(text []byte, colors bool) string {
	if colors {
		for _, own := range []string{"0", "1", "2", "32", "33", "34", "35", "36", "31"} {
			text = bytes.ReplaceAll(text, []byte("\x1b["+own+"m"), nil)
		}
	}
	switch {
	case bytes.Contains(text, []byte("s3cret")):
		return "it has a password"
	case bytes.Contains(text, []byte("\nfaked-line")):
		return "it has a line of somebody else's"
	case !bytes.Equal(bytes.ToValidUTF8(text, nil), text):
		return "it is no UTF-8"
	}
	for _, r := range string(text) {
		if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Sprintf("it has %U", r)
		}
	}
	return ""
}
