//go:build linux

package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The command reference is what the commands say.
func TestReference(t *testing.T) {
	const dir = "../../docs/cli"
	pages := Reference()
	for name, want := range pages {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("reading the reference: %v; write it with: make docs", err)
			continue
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("docs/cli/%s is not what the command says (-command +page); write it with: make docs\n%s", name, diff)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := pages[filepath.Base(f)]; !ok {
			t.Errorf("docs/cli/%s is of no command; write the reference with: make docs", filepath.Base(f))
		}
	}
}

// Every command says what it does, shows how it is used, and fits a terminal.
func TestHelp(t *testing.T) {
	root := (&app{machine: Machine{Getenv: func(string) string { return "" }}}).root()
	commands := append(documented(root), root)
	if len(commands) < 20 {
		t.Fatalf("found only %d commands", len(commands))
	}
	for _, c := range commands {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[:1] != strings.ToUpper(c.Short[:1]) {
			t.Errorf("%s: the short text %q is no line of a list", c.CommandPath(), c.Short)
		}
		if c.Long == "" && c.Name() != "version" {
			t.Errorf("%s has no long text", c.CommandPath())
		}
		examples := strings.Split(c.Example, "\n")
		if !slices.ContainsFunc(examples, func(l string) bool { return strings.Contains(l, c.CommandPath()) }) {
			t.Errorf("%s has no example of itself: %q", c.CommandPath(), c.Example)
		}
		for _, l := range append(examples, strings.Split(c.Long, "\n")...) {
			if len(l) > 88 && c.Parent() != nil && c.Parent().Name() != "completion" {
				t.Errorf("%s: a line of help is %d wide: %q", c.CommandPath(), len(l), l)
			}
		}
		for _, l := range strings.Split(ownFlags(c).FlagUsagesWrapped(helpWidth), "\n") {
			if len(l) > helpWidth {
				t.Errorf("%s: a line about a flag is %d wide: %q", c.CommandPath(), len(l), l)
			}
		}
	}
}
