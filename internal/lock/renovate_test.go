package lock

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// renovate reads the configuration that docs/lock.md shows. Renovate's regular
// expressions are RE2's, as Go's are.
func renovate(t *testing.T) (file, match *regexp.Regexp) {
	t.Helper()
	page, err := os.ReadFile("../../docs/lock.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "## Renovate")
	_, rest, _ = strings.Cut(rest, "```json\n")
	text, _, ok := strings.Cut(rest, "```")
	var c struct {
		CustomManagers []struct{ ManagerFilePatterns, MatchStrings []string }
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil || !ok || len(c.CustomManagers) != 1 {
		t.Fatalf("docs/lock.md has no configuration of Renovate: %v", err)
	}
	m := c.CustomManagers[0]
	return regexp.MustCompile(strings.Trim(m.ManagerFilePatterns[0], "/")), regexp.MustCompile(m.MatchStrings[0])
}

func TestRenovateFindsAndMovesPins(t *testing.T) {
	file, match := renovate(t)
	if !file.MatchString(Name) || !file.MatchString("services/web/"+Name) || file.MatchString("astrata.lock") {
		t.Errorf("%v finds other files than strata.lock", file)
	}
	locked := &File{Version: Version, Images: []Image{
		image("debian:bookworm-slim", "1", monday, "linux/amd64", "linux/arm64"),
		image("registry.example:5000/team/base:1.2", "1", monday, "linux/amd64"),
		image("untagged", "1", monday, "linux/amd64"),
		image("debian:trixie@sha256:"+strings.Repeat("a", 64), "1", monday, "linux/amd64"), // its Dockerfile pins it
	}}
	for i := range locked.Images {
		locked.Images[i].From = "docker.io/library/debian"
	}
	data, err := locked.Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	found := [][2]string{}
	for _, m := range match.FindAllStringSubmatch(text, -1) {
		group := func(name string) string { return m[match.SubexpIndex(name)] }
		found = append(found, [2]string{group("depName"), group("currentValue")})
		if group("packageName") != "docker.io/library/debian" {
			t.Errorf("it would look for %q", group("packageName"))
		}
		// Renovate replaces the digest inside of what it has matched.
		moved := strings.Replace(m[0], group("currentDigest"), digest.FromString("new"+m[0]).String(), 1)
		text = strings.Replace(text, m[0], moved, 1)
	}
	if diff := cmp.Diff([][2]string{{"debian", "bookworm-slim"}, {"registry.example:5000/team/base", "1.2"}}, found); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	after, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range after.Images {
		bot := i.Name == "debian:bookworm-slim" || strings.HasPrefix(i.Name, "registry.")
		if i.Stale() != bot {
			t.Errorf("%s: its platforms are to be looked up: %v", i.Name, i.Stale())
		}
	}
}
