package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// release names the tags that a release has, by the version or channel in them.
func release(version string) []string {
	return []string{
		"team/demo:base-amd64-" + version, "team/demo:base-arm64-" + version,
		"team/demo:" + version + "-amd64", "team/demo:" + version + "-arm64", "team/demo:" + version,
		"team/tool:" + version,
	}
}

// stands says whether the tags of a release all point to where those of another
// do.
func stands(tags map[string]digest.Digest, release, other []string) error {
	for i, name := range release {
		if tags[name] == "" || tags[name] != tags[other[i]] {
			return fmt.Errorf("%s points to %q, %s to %q", name, tags[name], other[i], tags[other[i]])
		}
	}
	return nil
}

// journal gives the states of the records in the journal, and counts those that
// are done.
func (w *world) journal(tags map[string]digest.Digest) (states map[string]string, done int) {
	w.t.Helper()
	states = map[string]string{}
	for name, d := range tags {
		repo, tag, _ := strings.Cut(name, ":")
		if !strings.HasPrefix(tag, "strata-j-") {
			continue
		}
		_, body, err := w.client.Manifest(context.Background(), w.ref(repo).WithDigest(d))
		if err != nil {
			w.t.Fatal(err)
		}
		var m ocispec.Manifest
		var r struct {
			State string `json:"state"`
		}
		if err := json.Unmarshal(body, &m); err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(m.Annotations["build.strata.journal"]), &r); err != nil {
			w.t.Fatal(err)
		}
		states[tag] = r.State
		if r.State == "done" {
			done++
		}
	}
	return states, done
}

// finished says that everything in the journal has been finished.
func (w *world) finished(tags map[string]digest.Digest) {
	w.t.Helper()
	states, _ := w.journal(tags)
	for tag, state := range states {
		if state != "done" {
			w.t.Errorf("%s is %s", tag, state)
		}
	}
}

func TestKilledPromotionsAndRollbacks(t *testing.T) {
	t.Parallel()
	random := seed(t)
	total, points := 0, share(100)
	for total < points && !t.Failed() {
		w := newWorld(t, random)
		w.promotions(min(25, points-total))
		total += w.kills
	}
	t.Logf("%d kills", total)
}

// promotions kills promotions and rollbacks of one channel. What the channel has
// to hold is followed by hand: a promotion adds a version, a rollback takes the
// last one away.
func (w *world) promotions(kills int) {
	versions := []string{"v0", "v1", "v2"}
	for _, v := range versions {
		w.edit(v)
		w.run("build", "--push", "--tag-version", v)
	}
	promote := w.measure("promote", "v0", "dev", "--push")
	w.run("promote", "v1", "dev", "--push")
	back := w.measure("rollback", "dev", "--push")
	held := []string{"v0"}
	live := userTags(w.whole())
	for w.kills < kills && !w.t.Failed() {
		top := held[len(held)-1]
		args, use := []string{"rollback", "dev", "--push"}, back
		next := held[:len(held)-1]
		if len(held) < 2 || w.random.IntN(5) < 3 {
			v := versions[w.random.IntN(len(versions))]
			for v == top {
				v = versions[w.random.IntN(len(versions))]
			}
			args, use, next = []string{"promote", v, "dev", "--push"}, promote, append(held[:len(held):len(held)], v)
		}
		_, before := w.journal(w.tags())
		killed := w.kill(use, args...)
		tags := w.whole()
		w.stillThere(live, userTags(tags), func(tag string) bool { return strings.Contains(tag, "dev") })
		between(w, tags, top, next[len(next)-1])
		_, after := w.journal(tags)
		if killed && (args[0] == "promote" || after == before) {
			w.run(args...)
		}
		held = next
		tags = w.whole()
		w.stillThere(live, userTags(tags), func(tag string) bool { return strings.Contains(tag, "dev") })
		w.finished(tags)
		if killed {
			w.note(args[0] + " --push")
		}
		if err := stands(tags, release("dev"), release(held[len(held)-1])); err != nil {
			w.t.Errorf("after strata %s: %v", strings.Join(args, " "), err)
		}
	}
	w.allWhole()
}

// between says that every tag of the channel points to one of two releases, and
// the index to one whose images are tagged.
func between(w *world, tags map[string]digest.Digest, was, is string) {
	w.t.Helper()
	old, new := release(was), release(is)
	for i, name := range release("dev") {
		if tags[name] != tags[old[i]] && tags[name] != tags[new[i]] {
			w.t.Errorf("%s points to %s, which is neither of %s nor of %s", name, tags[name], was, is)
		}
	}
	if tags["team/demo:dev"] == tags["team/demo:"+is] && tags["team/demo:dev"] != tags["team/demo:"+was] {
		if err := stands(tags, release("dev")[2:4], new[2:4]); err != nil {
			w.t.Errorf("the index was moved before its images: %v", err)
		}
	}
}

func TestKilledPublishing(t *testing.T) {
	t.Parallel()
	random := seed(t)
	total, points := 0, share(50)
	for total < points && !t.Failed() {
		w := newWorld(t, random)
		w.publications(min(25, points-total))
		total += w.kills
	}
	t.Logf("%d kills", total)
}

// publications kills builds, each of new content under a new version.
func (w *world) publications(kills int) {
	calm := newWorld(w.t, w.random) // where nobody is killed
	calm.run("build", "--push", "--tag-version", "r0")
	use := w.measure("build", "--push", "--tag-version", "r0")
	live := userTags(w.whole())
	for i := 1; w.kills < kills && !w.t.Failed(); i++ {
		version := fmt.Sprint("r", i)
		w.edit(version)
		args := []string{"build", "--push", "--tag-version", version}
		killed := w.kill(use, args...)
		tags := w.whole()
		w.stillThere(live, userTags(tags), func(tag string) bool { return strings.Contains(tag, "latest") })
		if tags["team/demo:"+version] != "" {
			for _, name := range release(version)[2:4] {
				if tags[name] == "" {
					w.t.Errorf("the index %s is there, and %s is not", version, name)
				}
			}
		}
		if killed {
			w.run(args...)
		}
		tags = w.whole()
		w.stillThere(live, userTags(tags), func(tag string) bool { return strings.Contains(tag, "latest") })
		live = userTags(tags)
		if err := stands(tags, release("latest"), release(version)); err != nil {
			w.t.Errorf("after publishing %s: %v", version, err)
		}
		if killed {
			w.note("build --push")
		}
		calm.edit(version)
		calm.run(args...)
		w.sameAs(calm, release(version))
	}
	w.allWhole()
}

func TestKilledPruning(t *testing.T) {
	t.Parallel()
	random := seed(t)
	total, points := 0, share(30)
	for total < points && !t.Failed() {
		w := newWorld(t, random)
		w.prunings(min(15, points-total))
		total += w.kills
	}
	t.Logf("%d kills", total)
}

// prunings kills the removal of old versions. What is live is what builds move,
// what the channel holds and can go back to, and versions that were not named.
func (w *world) prunings(kills int) {
	prune := []string{"prune", "--push", "--apply", "--older", "0s", "--grace", "0s", "--tags", "r*", "--tags", "*-r*"}
	publish := func(version string) {
		w.edit(version)
		w.run("build", "--push", "--tag-version", version)
	}
	publish("keep1")
	publish("keep2")
	w.run("promote", "keep1", "dev", "--push")
	w.run("promote", "keep2", "dev", "--push")
	publish("r0")
	live := userTags(w.tags())
	for name := range live {
		if strings.Contains(name, "r0") {
			delete(live, name)
		}
	}
	use := w.measure(prune...)
	moves := func(tag string) bool { return strings.Contains(tag, "latest") }
	for i := 1; w.kills < kills && !w.t.Failed(); i++ {
		publish(fmt.Sprint("r", i))
		killed := w.kill(use, prune...)
		w.stillThere(live, userTags(w.allWhole()), moves)
		if killed {
			w.run(prune...)
		}
		tags := w.allWhole()
		w.stillThere(live, userTags(tags), moves)
		if killed {
			w.note("prune --apply")
		}
		if len(userTags(tags)) != len(live) {
			w.t.Errorf("there are %d tags, want the %d live ones: %v", len(userTags(tags)), len(live), userTags(tags))
		}
	}
	w.run("rollback", "dev", "--push")
	if err := stands(w.allWhole(), release("dev"), release("keep1")); err != nil {
		w.t.Errorf("going back after all this: %v", err)
	}
}
