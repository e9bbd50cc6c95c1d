package prune

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func ago(days float64) time.Time { return now.Add(-time.Duration(days * float64(day))) }

// world is a repository in words: manifests have names, and digests of these.
type world struct {
	in    Input
	names map[digest.Digest]string
}

func newWorld() *world {
	return &world{names: map[digest.Digest]string{}, in: Input{
		Now: now, Keys: map[string]bool{}, Units: map[string]bool{"app.linux.amd64": true, "ml.linux.amd64": true},
		Policy: Policy{
			Keep:  map[string]Keep{"base": {Age: 7 * day}, "ml": {Age: 2 * day}, "app": {Age: 30 * day}},
			Other: Default, History: DefaultHistory, Grace: DefaultGrace,
		},
	}}
}

func (w *world) d(name string) digest.Digest {
	if name == "" {
		return ""
	}
	d := digest.FromString(name)
	w.names[d] = name
	return d
}

func (w *world) add(name string, m Manifest, tags ...string) {
	m.ID = ID{"r", w.d(name)}
	m.Size = 1000
	w.in.Manifests = append(w.in.Manifests, m)
	for _, t := range tags {
		w.in.Tags = append(w.in.Tags, Tag{Repo: "r", Name: t, Digest: m.Digest})
	}
}

// image adds an image of a unit under a key of its own, made so many days ago,
// with the artifact that says so.
func (w *world) image(name, unit string, made float64, tags ...string) {
	w.add(name, Manifest{Unit: unit, Blobs: []Blob{{w.d("blob " + name), 100}}}, append(tags, key(name))...)
	w.add("about "+name, Manifest{Subject: w.d(name), Ours: true, Made: ago(made)}, "strata-a-"+strings.TrimPrefix(key(name), "strata-"))
}

func key(name string) string { return "strata-" + digest.FromString("key "+name).Encoded() }

func (w *world) edit(name string, change func(*Manifest)) {
	for i := range w.in.Manifests {
		if w.in.Manifests[i].Digest == w.d(name) {
			change(&w.in.Manifests[i])
		}
	}
}

// told gives "name: goes, reason" of every manifest but the artifacts of images.
func (w *world) told() map[string]string {
	out := map[string]string{}
	for _, i := range Decide(w.in).Items {
		fate := "stays, "
		if i.Goes {
			fate = "goes, "
		}
		if name := w.names[i.Digest]; !strings.HasPrefix(name, "about ") {
			out[name] = fate + i.Reason
		}
	}
	return out
}

const (
	app = "app/linux/amd64"
	ml  = "ml/linux/amd64"
)

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(w *world)
		want map[string]string
	}{
		{"age by layer", func(w *world) {
			w.image("a29", app, 29)
			w.image("a31", app, 31)
			w.image("m1", ml, 1)
			w.image("m3", ml, 3)
			w.image("other31", "gone/linux/amd64", 31)
		}, map[string]string{
			"a29": "stays, " + stayAge, "a31": "goes, not used for 30d", "m1": "stays, " + stayAge, "m3": "goes, not used for 2d",
			"other31": "goes, not used for 30d",
		}},
		{"tags, keys and the newest", func(w *world) {
			w.image("tagged", app, 99, "1.0")
			w.image("newest", app, 99, "strata-last-app.linux.amd64")
			w.image("of no unit now", app, 99, "strata-last-app.linux.s390x")
			w.image("current", app, 99)
			w.in.Keys[key("current")] = true
			w.image("tested", app, 99, "strata-t-"+strings.Repeat("a", 64), "strata-c-"+strings.Repeat("b", 64))
		}, map[string]string{
			"tagged": "stays, " + stayTag, "newest": "stays, " + stayLast, "of no unit now": "goes, not used for 30d",
			"current": "stays, " + stayKey, "tested": "goes, not used for 30d",
		}},
		{"count", func(w *world) {
			w.in.Policy.Keep["app"] = Keep{Count: 2}
			for i, name := range []string{"one", "two", "three"} {
				w.image(name, app, float64(i+1))
			}
			w.image("trunk of one", app, 0.5)
			w.edit("one", func(m *Manifest) { m.Trunk = w.d("trunk of one"); m.Needs = []digest.Digest{m.Trunk} })
		}, map[string]string{
			"one": "stays, " + stayCount, "two": "stays, " + stayCount, "three": "goes, not among the 2 newest of its unit",
			"trunk of one": "stays, " + stayNeeded,
		}},
		{"what an image was made from, and the lists of its bases", func(w *world) {
			w.image("child", app, 99, "1.0")
			w.image("parent", ml, 99)
			w.edit("child", func(m *Manifest) { m.Needs = []digest.Digest{w.d("parent")}; m.Bases = []digest.Digest{w.d("debian")} })
			w.add("files of debian", Manifest{Ours: true, Made: ago(99)}, "strata-i-"+w.d("debian").Encoded())
			w.add("files of alpine", Manifest{Ours: true, Made: ago(99)}, "strata-i-"+w.d("alpine").Encoded())
			w.add("files of busybox", Manifest{Ours: true, Made: ago(0.01)}, "strata-i-"+w.d("busybox").Encoded())
		}, map[string]string{
			"child": "stays, " + stayTag, "parent": "stays, " + stayNeeded, "files of debian": "stays, " + stayNeeded,
			"files of alpine": "goes, of an image that nothing stands on any more", "files of busybox": "stays, " + stayGrace,
		}},
		{"an index holds its images", func(w *world) {
			w.image("amd64", app, 99)
			w.image("arm64", "app/linux/arm64", 99)
			w.image("left", app, 99)
			w.add("index", Manifest{Index: true, Children: []digest.Digest{w.d("amd64"), w.d("arm64"), w.d("attestation")}}, "1.0")
			w.add("attestation", Manifest{})
			w.add("old index", Manifest{Index: true, Children: []digest.Digest{w.d("left"), w.d("old attestation"), w.d("arm64")}})
			w.add("old attestation", Manifest{})
			w.in.Logs = append(w.in.Logs, Log{ID: ID{"r", w.d("a run")}, At: ago(40), Moves: []Move{{"latest", w.d("index"), w.d("old index")}}})
		}, map[string]string{
			"amd64": "stays, " + stayChild, "arm64": "stays, " + stayChild, "index": "stays, " + stayTag, "attestation": "stays, " + stayChild,
			"left": "goes, not used for 30d", "old index": "goes, not used for 30d", "old attestation": "goes, nothing leads to it",
		}},
		{"attachments go with their image", func(w *world) {
			w.image("live", app, 99, "1.0")
			w.image("dead", app, 99)
			for _, of := range []string{"live", "dead"} {
				list := strings.Replace(w.d(of).String(), ":", "-", 1)
				w.add("sbom of "+of, Manifest{Subject: w.d(of)})
				w.add("signature of the sbom of "+of, Manifest{Subject: w.d("sbom of " + of)})
				w.add("list of "+of, Manifest{Index: true, Children: []digest.Digest{w.d("sbom of " + of)}}, list)
				w.add("cosign of "+of, Manifest{}, list+".sig")
			}
			w.add("cosign of what is not here", Manifest{}, "sha256-"+strings.Repeat("1", 64)+".sig")
		}, map[string]string{
			"live": "stays, " + stayTag, "sbom of live": "stays, " + stayAttach, "signature of the sbom of live": "stays, " + stayAttach,
			"list of live": "stays, " + stayAttach, "cosign of live": "stays, " + stayAttach,
			"dead": "goes, not used for 30d", "sbom of dead": "goes, attached to what goes", "list of dead": "goes, attached to what goes",
			"signature of the sbom of dead": "goes, attached to what goes", "cosign of dead": "goes, attached to what goes",
			"cosign of what is not here": "stays, " + stayOrphan,
		}},
		{"runs and promotions", func(w *world) {
			for _, name := range []string{"used", "promoted", "before", "long ago", "held", "tagged"} {
				w.image(name, app, 99)
			}
			w.in.Tags = append(w.in.Tags, Tag{Repo: "r", Name: "2.0", Digest: w.d("tagged")})
			log := func(name, tag string, l Log) {
				w.add(name, Manifest{}, tag)
				l.ID = ID{"r", w.d(name)}
				w.in.Logs = append(w.in.Logs, l)
			}
			log("run", "strata-r-1", Log{At: ago(3), Units: []digest.Digest{w.d("used")}})
			log("old run", "strata-r-0", Log{At: ago(100)})
			log("run that tagged", "strata-r-2", Log{At: ago(100), Moves: []Move{{Tag: "2.0", Digest: w.d("tagged")}}})
			log("promotion", "strata-j-2", Log{At: ago(60), Promotion: true, Moves: []Move{{"stable", w.d("promoted"), w.d("before")}}})
			log("old promotion", "strata-j-1", Log{At: ago(91), Promotion: true, Moves: []Move{{"stable", w.d("long ago"), ""}}})
			log("unfinished", "strata-j-0", Log{At: ago(91), Promotion: true, Hold: true, Moves: []Move{{"stable", w.d("held"), ""}}})
			w.add("unreadable", Manifest{}, "strata-j-x")
		}, map[string]string{
			"used": "stays, " + stayAge, "promoted": "stays, " + stayHistory, "before": "stays, " + stayHistory, "long ago": "goes, not used for 30d",
			"held": "stays, " + stayHistory, "tagged": "stays, " + stayTag,
			"run": "stays, " + stayRecent, "old run": "goes, older than the history of 90d", "run that tagged": "stays, " + stayTells,
			"promotion": "stays, " + stayRecent, "old promotion": "goes, older than the history of 90d", "unfinished": "stays, " + stayRecent,
			"unreadable": "stays, " + stayUnknown,
		}},
		{"what is not known stays", func(w *world) {
			w.add("somebody's", Manifest{}, "whatever")
			w.add("order", Manifest{}, "strata-order")
			w.add("of a newer version", Manifest{}, "strata-disorder")
			w.add("not an image of ours", Manifest{}, key("x"))
			w.add("without a date", Manifest{Unit: app}, key("y"))
			w.add("cache", Manifest{}, "strata-cache-app.linux.amd64")
			w.add("cache of another unit", Manifest{}, "strata-cache-z.linux.amd64")
		}, map[string]string{
			"somebody's": "stays, " + stayTag, "order": "stays, " + stayOrder, "of a newer version": "stays, " + stayUnknown, "not an image of ours": "stays, " + stayUnknown,
			"without a date": "stays, " + stayUndated, "cache": "stays, " + stayCache, "cache of another unit": "stays, " + stayUndated,
		}},
		{"tags that the user lets go", func(w *world) {
			w.in.Policy.Expire, w.in.Policy.After, w.in.Policy.Protect = []string{"v*"}, 90*day, []string{"v1"}
			w.image("protected", app, 100, "v1")
			w.image("old", app, 100, "v2")
			w.image("young", app, 80, "v3")
			w.image("tagged again", app, 100, "v4")
			w.in.Logs = append(w.in.Logs, Log{ID: ID{"r", w.d("a run")}, At: ago(50), Moves: []Move{{Tag: "v4", Digest: w.d("tagged again")}}})
			w.image("twice", app, 100, "v5", "kept")
			w.add("another's index", Manifest{Index: true, Children: []digest.Digest{w.d("another's image")}}, "v6")
			w.add("another's image", Manifest{})
			w.add("dated index", Manifest{Index: true, Children: []digest.Digest{w.d("image of the dated")}, Made: ago(95)}, "v7")
			w.add("image of the dated", Manifest{})
		}, map[string]string{
			"protected": "stays, " + stayTag, "old": "goes, not used for 30d", "young": "stays, " + stayTag, "tagged again": "stays, " + stayTag,
			"twice": "stays, " + stayTag, "another's index": "stays, " + stayTag, "another's image": "stays, " + stayChild,
			"dated index": "goes, its tags have expired", "image of the dated": "goes, nothing leads to it",
		}},
		{"one layer alone", func(w *world) {
			w.in.Policy.Layers = []string{"ml"}
			w.image("a", app, 99)
			w.image("m", ml, 99)
			w.add("files of alpine", Manifest{Ours: true, Made: ago(99)}, "strata-i-"+w.d("alpine").Encoded())
		}, map[string]string{
			"a": "stays, " + stayLayer, "m": "goes, not used for 2d", "files of alpine": "stays, " + stayLayer,
		}},
		{"just now", func(w *world) {
			w.in.Policy.Keep["app"] = Keep{Count: 1}
			w.image("now", app, 0.01)
			w.image("now too", app, 0.02)
			w.image("no more", app, 0.05)
		}, map[string]string{"now": "stays, " + stayGrace, "now too": "stays, " + stayGrace, "no more": "goes, not among the 1 newest of its unit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.make(w)
			if diff := cmp.Diff(c.want, w.told()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Bytes are counted once, and only where nothing that stays needs them.
func TestFreed(t *testing.T) {
	w := newWorld()
	shared, dead := Blob{w.d("shared"), 7}, Blob{w.d("dead"), 50}
	w.add("live", Manifest{Unit: app, Blobs: []Blob{shared}}, "1.0")
	for _, name := range []string{"one", "two"} {
		w.add(name, Manifest{Unit: app, Made: ago(99), Blobs: []Blob{shared, dead, {w.d(name + "'s"), 300}}}, key(name))
	}
	p := Decide(w.in)
	if p.Freed != 2*1000+50+2*300 || p.Stays != 1007 {
		t.Errorf("%d are freed, %d stay", p.Freed, p.Stays)
	}
	sum := int64(0)
	for _, i := range p.Items {
		sum += i.Frees
	}
	if sum != p.Freed {
		t.Errorf("the items free %d", sum)
	}
}

// store is a registry in memory: what is deleted is gone, a manifest with its
// tags.
type store struct {
	manifests map[ID]Manifest
	tags      map[string]Tag
}

func (s *store) apply(d Deletion) {
	if d.Tag != "" {
		if s.tags[d.Tag].Digest == d.Digest {
			delete(s.tags, d.Tag)
		}
		return
	}
	delete(s.manifests, d.ID)
	maps.DeleteFunc(s.tags, func(_ string, t Tag) bool { return t.Digest == d.Digest })
}

func (s *store) input(in Input) Input {
	in.Manifests, in.Tags = nil, nil
	for _, id := range slices.SortedFunc(maps.Keys(s.manifests), func(a, b ID) int { return strings.Compare(a.Digest.String(), b.Digest.String()) }) {
		in.Manifests = append(in.Manifests, s.manifests[id])
	}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		in.Tags = append(in.Tags, s.tags[name])
	}
	in.Logs = slices.DeleteFunc(slices.Clone(in.Logs), func(l Log) bool { return s.manifests[l.ID].Digest == "" })
	return in
}

// whole says what a tag leads to that is not there.
func (s *store) whole(orphans map[digest.Digest]bool) (broken []string) {
	for name, t := range s.tags {
		var walk func(d digest.Digest)
		walk = func(d digest.Digest) {
			m, ok := s.manifests[ID{"r", d}]
			if !ok && !orphans[d] {
				broken = append(broken, name)
			}
			for _, c := range m.Children {
				walk(c)
			}
		}
		walk(t.Digest)
	}
	return broken
}

// random makes a repository in which anything may lead to anything.
func random(r *rand.Rand) Input {
	w := newWorld()
	w.in.Policy.Expire, w.in.Policy.After = []string{"v*"}, 20*day
	var names []string
	pick := func() digest.Digest {
		if len(names) == 0 || r.IntN(8) == 0 {
			return w.d(fmt.Sprint("elsewhere ", r.IntN(3)))
		}
		return w.d(names[r.IntN(len(names))])
	}
	some := func(n int) (out []digest.Digest) {
		for range r.IntN(n) {
			out = append(out, pick())
		}
		return out
	}
	for i := range 5 + r.IntN(60) {
		name := fmt.Sprint("m", i)
		var m Manifest
		var tags []string
		switch r.IntN(8) {
		case 0, 1, 2:
			m.Unit = []string{app, ml, "base/linux/amd64", "gone/linux/arm64"}[r.IntN(4)]
			m.Needs, m.Bases = some(3), some(2)
			if len(m.Needs) > 0 {
				m.Trunk = m.Needs[0]
			}
			tags = append(tags, key(name))
			w.in.Keys[key(name)] = r.IntN(10) == 0
		case 3:
			m.Index, m.Children = true, some(4)
			if r.IntN(3) == 0 {
				tags = append(tags, strings.Replace(pick().String(), ":", "-", 1))
			}
		case 4:
			m.Subject, m.Ours, m.Made = pick(), true, ago(r.Float64()*60)
			tags = append(tags, "strata-a-"+strings.TrimPrefix(key(name), "strata-"))
		case 5:
			m.Subject = pick()
		case 6:
			m.Ours, m.Made = true, ago(r.Float64()*60)
			tags = append(tags, "strata-i-"+pick().Encoded())
		case 7:
			l := Log{ID: ID{"r", w.d(name)}, At: ago(r.Float64() * 120), Promotion: r.IntN(2) == 0, Hold: r.IntN(10) == 0, Units: some(4)}
			for range r.IntN(3) {
				l.Moves = append(l.Moves, Move{fmt.Sprint("v", r.IntN(9)), pick(), pick()})
			}
			w.in.Logs = append(w.in.Logs, l)
			tags = append(tags, map[bool]string{true: "strata-j-", false: "strata-r-"}[l.Promotion]+name)
		}
		if r.IntN(4) == 0 {
			tags = append(tags, fmt.Sprint([]string{"v", "release-", "strata-last-app.linux.amd64", "strata-x-"}[r.IntN(4)], i))
		}
		if r.IntN(5) == 0 {
			m.Made = ago(r.Float64() * 60)
		}
		w.add(name, m, tags...)
		names = append(names, name)
	}
	return w.in
}

// Whatever a repository holds: after a plan has been carried out, wherever it was
// broken off, everything that stays is whole, nothing that it keeps is gone, and
// carrying the rest out comes to an end.
func TestNothingLiveIsBroken(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := random(r)
		s := &store{manifests: map[ID]Manifest{}, tags: map[string]Tag{}}
		for _, m := range in.Manifests {
			s.manifests[m.ID] = m
		}
		for _, tag := range in.Tags {
			s.tags[tag.Name] = tag
		}
		missing := map[digest.Digest]bool{} // that never were there
		for _, m := range in.Manifests {
			for _, c := range m.Children {
				if _, ok := s.manifests[ID{"r", c}]; !ok {
					missing[c] = true
				}
			}
		}
		first := Decide(s.input(in))
		checkClosed(t, seed, first, in)
		for round := 0; ; round++ {
			p := Decide(s.input(in))
			if p.Empty() {
				break
			}
			if round > 10 {
				t.Fatalf("seed %d: after %d rounds there is still something to do: %+v", seed, round, p.Items[0])
			}
			var all []Deletion
			for _, step := range p.Steps() {
				r.Shuffle(len(step), func(i, j int) { step[i], step[j] = step[j], step[i] })
				all = append(all, step...)
			}
			stop := len(all)
			if round < 3 {
				stop = r.IntN(len(all) + 1)
			}
			for _, d := range all[:stop] {
				s.apply(d)
				if broken := s.whole(missing); len(broken) > 0 {
					t.Fatalf("seed %d: after deleting %+v, %s are not whole", seed, d, broken)
				}
			}
			s.checkKept(t, seed, p, func(Item) bool { return true })
		}
		// What stays by its age alone may go by a later plan, when what told its age
		// is gone; everything else is kept by every plan.
		s.checkKept(t, seed, first, func(i Item) bool {
			return i.Reason == stayTag && strings.HasPrefix(i.Detail, "release-") || slices.Contains([]string{stayLast, stayKey, stayHistory, stayUnknown}, i.Reason)
		})
	}
}

func (s *store) checkKept(t *testing.T, seed uint64, p Plan, of func(Item) bool) {
	t.Helper()
	for _, i := range p.Items {
		if _, there := s.manifests[i.ID]; !i.Goes && !there && of(i) {
			t.Fatalf("seed %d: %s was to stay (%s) and is gone", seed, i.Digest, i.Reason)
		}
	}
}

// checkClosed looks at a plan from outside: what stays leads to nothing that
// goes.
func checkClosed(t *testing.T, seed uint64, p Plan, in Input) {
	t.Helper()
	goes := map[digest.Digest]bool{}
	for _, i := range p.Items {
		goes[i.Digest] = i.Goes
	}
	for _, m := range in.Manifests {
		if goes[m.Digest] {
			continue
		}
		for _, d := range slices.Concat(m.Children, m.Needs) {
			if goes[d] {
				t.Fatalf("seed %d: %s stays and leads to %s, which goes", seed, m.Digest, d)
			}
		}
	}
	expired := map[string]bool{}
	for _, e := range p.Expired {
		expired[e.Name] = true
	}
	for _, tag := range in.Tags {
		if goes[tag.Digest] && User(tag.Name) && !expired[tag.Name] {
			t.Fatalf("seed %d: the user's tag %s leads to what goes", seed, tag.Name)
		}
	}
	for _, m := range in.Manifests {
		if m.Subject != "" && goes[m.Digest] && !goes[m.Subject] && slices.ContainsFunc(in.Manifests, func(o Manifest) bool { return o.Digest == m.Subject }) {
			isLog := slices.ContainsFunc(in.Logs, func(l Log) bool { return l.Digest == m.Digest })
			if !isLog {
				t.Fatalf("seed %d: %s goes, and its image stays", seed, m.Digest)
			}
		}
	}
}
