package generated

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStates(t *testing.T) {
	text := Mark("# syntax=docker/dockerfile:1\n"+Place+"FROM scratch\n", "export dockerfile")
	for _, tc := range []struct {
		name string
		data []byte
		want State
	}{
		{"as generated", text, Intact},
		{"with other ends of lines", bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), Intact},
		{"a line added", append(bytes.Clone(text), "USER 1\n"...), Edited},
		{"changed before the mark", bytes.Replace(text, []byte("file:1"), []byte("file:2"), 1), Edited},
		{"without the mark", []byte("FROM scratch\n"), Foreign},
		{"the mark in the midst of a line", []byte("x " + strings.Split(string(text), "\n")[1] + "\n"), Foreign},
		{"empty", nil, Foreign},
	} {
		if got := StateOf(tc.data); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "Makefile")
	one, two := Mark(Place+"a:\n", "export make"), Mark(Place+"b:\n", "export make")
	step := func(what string, data []byte, force, changed bool, wrong string) {
		t.Helper()
		got, err := Write(file, data, force)
		if got != changed || (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: changed %t, error %v", what, got, err)
		}
		if have, _ := os.ReadFile(file); wrong == "" && !bytes.Equal(have, data) {
			t.Errorf("%s: the file is %q", what, have)
		}
	}
	step("the first time", one, false, true, "")
	step("again", one, false, false, "")
	step("when something changed", two, false, true, "")
	if err := os.WriteFile(file, append(two, "mine:\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	step("over an edit", one, false, false, "edited")
	step("over an edit, forced", one, true, true, "")
	if err := os.WriteFile(file, []byte("mine:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	step("over another's file", one, false, false, "not from this command")
	step("over another's file, forced", one, true, true, "")
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".strata-*")); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}
