package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// share gives how many of the points of a test are tried. $CRASH_KILLS is the
// number for all tests together, of which n are this one's where there are all.
func share(n int) int {
	const all = 240
	s := os.Getenv("CRASH_KILLS")
	if s == "" {
		return n
	}
	total, err := strconv.Atoi(s)
	if err != nil || total <= 0 {
		panic("CRASH_KILLS=" + s + " is no number of kills")
	}
	return (n*total + all - 1) / all
}

// table counts what was there after a kill.
type table struct {
	mu   sync.Mutex
	rows map[[2]string]*row // by what was ended and what was there
}

type row struct{ kills, terms int }

var outcomes = table{rows: map[[2]string]*row{}}

func (o *table) add(ended, found string, signal syscall.Signal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.rows[[2]string{ended, found}]
	if r == nil {
		r = &row{}
		o.rows[[2]string{ended, found}] = r
	}
	if signal == syscall.SIGKILL {
		r.kills++
	} else {
		r.terms++
	}
}

func (o *table) print(to io.Writer) {
	if len(o.rows) == 0 {
		return
	}
	all := row{}
	fmt.Fprintf(to, "| ended | what was there | SIGKILL | SIGTERM, SIGINT |\n|---|---|---|---|\n")
	for _, k := range slices.SortedFunc(maps.Keys(o.rows), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		r := o.rows[k]
		fmt.Fprintf(to, "| `%s` | %s | %d | %d |\n", k[0], k[1], r.kills, r.terms)
		all.kills += r.kills
		all.terms += r.terms
	}
	fmt.Fprintf(to, "| all %d | | %d | %d |\n", all.kills+all.terms, all.kills, all.terms)
}

// note says what the last kill has left in the registry. It is called when the
// command was run again, and so its tags are what it was to do.
func (w *world) note(ended string) {
	w.t.Helper()
	now := w.tags()
	todo, done, own := 0, 0, 0
	for name := range union(w.before, now) {
		if _, user := userTags(map[string]digest.Digest{name: ""})[name]; !user {
			if w.before[name] != w.after[name] {
				own++
			}
			continue
		}
		if w.before[name] == now[name] {
			continue
		}
		todo++
		if w.after[name] == now[name] {
			done++
		}
	}
	found := "nothing"
	switch {
	case todo > 0 && done == todo:
		found = "all of it"
	case done > 0:
		found = "some of the user's tags moved or gone"
	case own > 0:
		found = "tags that Strata keeps, none of the user's"
	}
	outcomes.add(ended, found, w.signal)
}

func union(a, b map[string]digest.Digest) map[string]digest.Digest {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// sameAs says that images have the same config and layers in another world.
func (w *world) sameAs(other *world, names []string) {
	w.t.Helper()
	for _, name := range names {
		if diff := cmp.Diff(other.content(name), w.content(name)); diff != "" {
			w.t.Errorf("%s is another image than where nobody was killed (-):\n%s", name, diff)
		}
	}
}

// content gives the configs and layers of an image or of all in an index.
func (w *world) content(name string) []string {
	w.t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	var out []string
	var look func(d digest.Digest)
	look = func(d digest.Digest) {
		_, body, err := w.client.Manifest(context.Background(), w.ref(repo).WithDigest(d))
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		var m struct {
			ocispec.Manifest
			Manifests []ocispec.Descriptor
		}
		if err := json.Unmarshal(body, &m); err != nil {
			w.t.Fatal(err)
		}
		for _, c := range m.Manifests {
			look(c.Digest)
		}
		for _, l := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if l.Digest != "" { // an index has none of its own
				out = append(out, l.Digest.String())
			}
		}
	}
	look(w.tags()[repo+":"+tag])
	return out
}

// The parts of the tests come to the whole.
func TestShares(t *testing.T) {
	t.Setenv("CRASH_KILLS", "500")
	if n := share(100) + share(50) + share(30) + share(20) + share(40); n < 500 {
		t.Errorf("500 kills come to %d", n)
	}
}
