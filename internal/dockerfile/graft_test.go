package dockerfile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// FuzzGraft sees that what is grafted stands alone: between stages of another
// file every instruction is there and says the same, and none of them runs into
// the next one.
func FuzzGraft(f *testing.F) {
	for _, s := range append(slices.Clone(seeds), graftSeeds...) {
		f.Add([]byte(s))
	}
	f.Fuzz(grafts)
}

var graftSeeds = []string{
	"FROM a AS b\nRUN x\nFROM c\nCOPY --from=b x y\nRUN --mount=from=b,target=/x --mount=type=bind,target=/y z \\",
	"ARG A=1\nARG B=$A\nFROM a:$B\nARG A B=2 C\nONBUILD RUN $A\nRUN x \\\n# y\n",
	"FROM a\nRUN a \\\\",
	"FROM a\nRUN a \\\\\n\\\n\\",
	"FROM a\nRUN a \\ \n  # x\n \\ \n",
	"FROM a AS b\nFROM b AS c\nFROM c\nADD <<E /x\nE\nRUN a\\\n\n\n",
}

// TestGraftStandsAlone does the same for files made of the pieces in which
// Dockerfiles are tricky.
func TestGraftStandsAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	for range rounds {
		var b strings.Builder
		if r.IntN(4) == 0 {
			b.WriteString("# escape=`\n")
		}
		b.WriteString(pick([]string{"FROM a\n", "ARG Q=1\nFROM a AS b\nRUN x\nFROM b\n", "FROM a AS b\nRUN x\nFROM c\nCOPY --from=b x y\n"}))
		for range r.IntN(4) {
			b.WriteString(pick(keywords))
			for range r.IntN(7) {
				b.WriteString(pick(pieces))
			}
			if r.IntN(6) > 0 {
				b.WriteString("\n")
			}
		}
		grafts(t, []byte(b.String()))
	}
}

var renamedFlags = regexp.MustCompile(` ?--from=\S+|,?from=[^,\s]+,?| ?--network=\S+`)

// grafts is the property that FuzzGraft and TestGraftStandsAlone see to.
func grafts(t *testing.T, data []byte) {
	df, err := Parse("Dockerfile", data)
	if err != nil {
		return
	}
	build, err := df.Analyze(Options{})
	if err != nil {
		return
	}
	n, target := 0, ""
	g, err := df.Graft(Options{}, Graft{
		Stage:   func(string, bool) string { n++; target = fmt.Sprintf("stage%d", n); return target },
		Image:   func(From) string { return "image" },
		Folder:  func(string) string { return "" },
		Network: "none", Labels: map[string]string{"a b": "it's \"$1\""},
	})
	if err != nil {
		mustBeFindings(t, err)
		return
	}
	head := "FROM before AS before\nRUN before\n"
	if _, escape := df.Directives(); escape != "" {
		head = "# escape=" + escape + "\n" + head
	}
	text := head + string(g.Text) + "FROM " + target + " AS after\nCOPY --from=before /x /x\nRUN after\n"
	whole, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatalf("what was grafted can't be read: %v\n%q\n%q", err, text, data)
	}
	if triggered(build) { // the stage after it has these, too, and they may be wrong
		return
	}
	back, err := whole.Analyze(Options{})
	if err != nil {
		t.Fatalf("what was grafted means nothing: %v\n%q\n%q", err, text, data)
	}
	count := map[string]int{"RUN before": 1, "COPY /x /x": 1, "RUN after": 1}
	for _, l := range build.Lines {
		count[renamedFlags.ReplaceAllString(l.Text, "")]++
	}
	for _, l := range back.Lines {
		count[renamedFlags.ReplaceAllString(l.Text, "")]--
	}
	for _, line := range slices.Sorted(maps.Keys(count)) {
		word, _, _ := strings.Cut(line, " ")
		if word == "FROM" || word == "ARG" || word == "#" || strings.HasPrefix(line, "LABEL") && strings.Contains(line, "a b") {
			continue
		}
		if count[line] != 0 {
			t.Fatalf("the instruction %q is there %d times too few:\n%q\n%q", line, count[line], text, data)
		}
	}
}

// triggered says whether the target leaves triggers, which run in the stage
// after it.
func triggered(b *Build) bool {
	return slices.ContainsFunc(b.Lines, func(l Line) bool { return strings.HasPrefix(l.Text, "ONBUILD") })
}
