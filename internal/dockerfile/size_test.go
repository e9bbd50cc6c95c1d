package dockerfile

import (
	"fmt"
	"strings"
	"testing"
)

// Variables that name one another double with each line; what they come to has a
// bound.
func TestExpandsTooMuch(t *testing.T) {
	double := func(instruction string) string {
		text := instruction + " A0=xxxxxxxxxx\n"
		for i := range 40 {
			text += fmt.Sprintf("%s A%d=$A%d${A%d}\n", instruction, i+1, i, i)
		}
		return text
	}
	long := "ENV A=" + strings.Repeat("x", 60_000) + "\n"
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"env":            {"FROM scratch\n" + double("ENV"), false},
		"arg":            {double("ARG") + "FROM scratch\n", false},
		"arg in stage":   {"FROM scratch\n" + double("ARG") + "LABEL a=$A40\n", false},
		"default":        {"FROM scratch\n" + long + "LABEL a=" + strings.Repeat("${B:-$A}", 1000) + "\n", false},
		"replaced":       {"FROM scratch\n" + long + "ENV C=${A//x/$A}\n", false},
		"replaced twice": {"FROM scratch\nENV A=" + strings.Repeat("x", 1000) + "\nENV C=${A//x/${A//x/$A}}\n", false},
		"heredoc":        {"FROM scratch\n" + long + "COPY <<EOF /f\n" + strings.Repeat("$A\n", 1000) + "EOF\n", false},
		"once":           {"FROM scratch\n" + long + "ENV B=$A$A C=${A//x/y}\n", true},
		"path":           {"FROM scratch\nENV A=/usr/bin\n" + strings.Repeat("ENV A=$A:/opt/x/bin\n", 100) + "ENV V=v1.2.3\nLABEL v=${V/v/}-${V//./-}-${V#v}\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse("Dockerfile", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Analyze(Options{})
			if tooMuch := err != nil && strings.Contains(err.Error(), errTooMuch.Error()); tooMuch == c.ok || c.ok && err != nil {
				t.Errorf("got %.200v", err)
			}
		})
	}
}

// What is counted before a word is expanded is never less than what it expands to.
func TestExpandedIsEnough(t *testing.T) {
	room := 1 << 40
	s := newScope(From{}, &room)
	s.known = true
	s.vars["A"], s.vars["BC"], s.vars["E"] = binding{value: "aXaXa"}, binding{value: "0123456789"}, binding{}
	f, err := Parse("Dockerfile", []byte("FROM scratch\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := f.newAnalysis(Options{})
	for _, word := range []string{
		"$A", "${A}x$A", "${A:-$BC}", "${E:-$BC$BC}", "${A:+$BC}", "${A//a/$BC}", "${A/a/$BC}", "${A//a/${BC//0/$A}}tail$BC", `\$A"$BC"'$BC'`,
		"${BC#0}", "${A##*X}", "${A//X}", "$A$BC${E}", "${U:-x}", "${A//a/}}}$BC",
	} {
		n := s.expanded(word)
		var x expansion
		got, err := x.word(a.lex, s, word)
		if err == nil && len(got) > n {
			t.Errorf("%s: %q has %d bytes, counted were %d", word, got, len(got), n)
		}
	}
}
