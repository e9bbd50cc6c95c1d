package dockerfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/strata-build/strata/internal/diag"
)

// FuzzAnalyze sees that no text makes the package panic, that every refusal is
// a list of findings, and that the normal form is stable: read again, it is
// written as itself and says the same.
func FuzzAnalyze(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(section(ar, "Dockerfile")))
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(stable)
}

// TestStable does the same for files made of the pieces in which Dockerfiles
// are tricky.
func TestStable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	for range rounds {
		var b strings.Builder
		if r.IntN(4) == 0 {
			b.WriteString("# escape=`\n")
		}
		b.WriteString("FROM a\n")
		for range r.IntN(4) {
			b.WriteString(pick(keywords))
			for range r.IntN(7) {
				b.WriteString(pick(pieces))
			}
			b.WriteString("\n")
		}
		stable(t, []byte(b.String()))
	}
}

const rounds = 4000

var keywords = []string{"RUN ", "run ", "COPY ", "ADD ", "ENV ", "LABEL ", "ARG ", "CMD ", "ENTRYPOINT ", "HEALTHCHECK ", "EXPOSE ",
	"VOLUME ", "USER ", "WORKDIR ", "SHELL ", "ONBUILD ", "ONBUILD COPY ", "ONBUILD RUN ", "STOPSIGNAL ", "MAINTAINER ", "FROM ", "HEALTHCHECK CMD "}

var pieces = []string{" ", "  ", "\t", "\v", "a", "b=c", "=", "\"", "'", "\\", "`", "\\\n", "`\n", " \\ \n", "\n", "#", "# x\n", "--", "--link ",
	"--chown=a\\ b ", "--exclude=\"x y\" ", "--exclude=é ", "--mount=type=cache,target=/x ", "[", "]", "[\"a\",\"b\"]", "[ \"a\" ,", "\"c\" ]", "<<E ", "<<-\"E\" ", "<<", "\nE\n",
	"\n\tE\n", "$a", "${b:-c}", "${b", "$(", ")", "\r\n", "\u00a0", "é", "CMD", " as x", "{", "}", "80/tcp", "~", ";", "&&"}

// stable is the property that FuzzAnalyze and TestStable see to.
func stable(t *testing.T, data []byte) {
	df, err := Parse("Dockerfile", data)
	if err != nil {
		mustBeFindings(t, err)
		return
	}
	normal := df.Normal()
	again, err := Parse("Dockerfile", normal)
	if err != nil {
		t.Fatalf("the normal form can't be read: %v\n%q\n%q", err, normal, data)
	}
	if got := again.Normal(); !bytes.Equal(got, normal) {
		t.Fatalf("the normal form is not stable:\n%q\n%q", normal, got)
	}
	one, err := df.Analyze(Options{})
	two, err2 := again.Analyze(Options{})
	if (err == nil) != (err2 == nil) {
		t.Fatalf("the file says %v, its normal form %v", err, err2)
	}
	if err != nil {
		mustBeFindings(t, err)
		return
	}
	if a, b := recipe(one), recipe(two); a != b {
		t.Fatalf("the normal form says something else:\n%s\n%s", a, b)
	}
	if src := one.Trunk.Source; src != nil {
		if _, err := Parse("Dockerfile", src); err != nil {
			t.Fatalf("the trunk can't be read: %v\n%q", err, src)
		}
	}
}

var seeds = []string{
	"FROM a\nCOPY \xff \x85 x\xffy\nEXPOSE \xff\nRUN \xff  x\nCOPY --chown=\xff --from=\xff a b",
	"from a\nrun [ \"x\",\t'y' ]\ncmd []\nshell [\"a\"]",
	"FROM a\nRUN echo \"a   b\"   'c   d' \\\n # x\n\n  e\\ f `x  y` \"$(a   b)\" ${x:-\"  \"}",
	"#escape=`\nFROM a\nRUN a `\n b\nCOPY --chown=\"a b\" x` y z\nENV A=\"x y\" B=c` d E=\\x",
	"FROM a\nCOPY -- --x y\nCOPY --exclude=\"a b\" --exclude='c\"d' x y\nLABEL a b c\nENV x  y   z ",
	"\xef\xbb\xbf# syntax=docker/dockerfile:1\r\nFROM a\r\nRUN <<E\r\n x\r\nE\r\nCOPY <<-'A' <<B /c\r\n\tq\r\n\tA\r\nB\r\n",
	"FROM a\nONBUILD RUN  a   b\nonbuild copy <<E /x\ny\nE\nONBUILD ONBUILD RUN x",
	"FROM a\nHEALTHCHECK none\nHEALTHCHECK --retries=3 cmd [\"a\"]\nHEALTHCHECK CMD a   b\nEXPOSE 80  22/udp\nVOLUME [\"/a\"] \nVOLUME /a  /b",
	"FROM a\nCOPY [\"a b\", \"c\"]\nMAINTAINER x  y\nSTOPSIGNAL 9\nUSER  a b\nARG A B=c D=\"e f\"",
}

func mustBeFindings(t *testing.T, err error) {
	t.Helper()
	var list *diag.Errors
	if !errors.As(err, &list) || len(list.Findings) == 0 {
		t.Fatalf("%T is no list of findings: %v", err, err)
	}
}

// recipe gives what must be the same for a file and its normal form: all but
// the lines' numbers.
func recipe(b *Build) string {
	c := *b
	c.Lines, c.FinalStage = nil, 0
	for _, l := range b.Lines {
		l.Line = 0
		c.Lines = append(c.Lines, l)
	}
	c.Froms, c.Inputs, c.Remotes, c.Needs, c.Unresolved, c.Trunk = nil, nil, nil, nil, nil, &Trunk{Lines: b.Trunk.Lines, Empty: b.Trunk.Empty}
	for _, f := range b.Froms {
		f.Line = 0
		c.Froms = append(c.Froms, f)
	}
	for _, i := range b.Inputs {
		i.Line = 0
		c.Inputs = append(c.Inputs, i)
	}
	for _, r := range b.Remotes {
		r.Line = 0
		c.Remotes = append(c.Remotes, r)
	}
	return text(&c)
}
