package key

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/source"
)

// recipeOf gives the recipes of a Dockerfile in which NAME stands for a password.
func recipeOf(t *testing.T, text, password string) Keys {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(strings.ReplaceAll(text, "PASSWORD", password)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Analyze(dockerfile.Options{Platform: "linux/amd64", BuildPlatform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return Compute(Input{
		Platform: "linux/amd64", Build: b, Files: make([][]source.Entry, len(b.Inputs)),
		Parent:   func(dockerfile.From) (Parent, bool) { return Parent{}, false },
		External: func(dockerfile.From) digest.Digest { return "" },
	})
}

// Recipes are published beside the images, and so hold no password. Where it only
// opens the way to what is fetched, another one is no change; where it may be
// written into the image, it is.
func TestCredentials(t *testing.T) {
	for text, same := range map[string]bool{
		"FROM scratch\nADD https://user:PASSWORD@h.invalid/x /x":                                 true,
		"FROM scratch\nADD https://PASSWORD@h.invalid/a/b.git#main /x":                           true,
		"FROM scratch\nADD https://h.invalid/x?v=1&token=PASSWORD /x":                            true,
		"FROM scratch\nADD https://h.invalid/x?X-Amz-Signature=PASSWORD /x":                      true,
		"FROM scratch\nADD [\"https://user:PASSWORD@h.invalid/x\", \"/a b\"]":                    true,
		"FROM scratch\nADD <<END /x\nhttps://user:PASSWORD@h.invalid/\nEND":                      false,
		"FROM scratch\nRUN pip config set index https://user:PASSWORD@h.invalid/":                false,
		"FROM scratch\nENV INDEX=https://user:PASSWORD@h.invalid/":                               false,
		"FROM scratch\nARG INDEX=https://user:PASSWORD@h.invalid/\nRUN x":                        false,
		"FROM scratch\nARG FROM=https://user:PASSWORD@h.invalid\nADD ${FROM}/x /x":               false, // it may be used elsewhere, too
		"FROM scratch\nADD https://user:PASSWORD@h.invalid/x /x\nRUN sed -i s/PASSWORD/x/ /file": false,
	} {
		one, two := recipeOf(t, text, "s3cretone"), recipeOf(t, text, "s3crettwo")
		if got := one.Unit.ID() == two.Unit.ID(); got != same {
			t.Errorf("another password is no change: %t, of\n%s\n%s", got, text, one.Unit.Text())
		}
		inURL := strings.Count(text, "PASSWORD") == 1 && !strings.Contains(text, "<<END")
		if held := strings.Contains(string(one.Unit.Text()), "s3cret"); held && inURL {
			t.Errorf("the recipe of\n%s\nis\n%s", text, one.Unit.Text())
		}
		back, err := ParseRecipe(one.Unit.Text())
		if err != nil || back.ID() != one.Unit.ID() {
			t.Errorf("read back: %v", err)
		}
		if !same && len(Diff(one.Unit, two.Unit)) == 0 {
			t.Errorf("nothing tells the change of\n%s", text)
		}
	}
}
