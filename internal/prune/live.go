package prune

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// node is a manifest while it is decided upon.
type node struct {
	Manifest
	tags    []Tag
	kind    Kind
	layer   string
	used    time.Time
	isTrunk bool // another image of its unit was made from it
	isPart  bool // of an index

	live           bool
	reason, detail string
}

// decision is the work on one input.
type decision struct {
	in       Input
	nodes    map[ID]*node
	order    []*node // as they came, each once
	byDigest map[digest.Digest][]*node
	attached map[ID][]*node            // by what they are attached to
	lists    map[digest.Digest][]*node // inventories by the image that they are of
	logs     map[ID]Log
	setAt    map[[2]string]time.Time // by tag and digest: when a record says that it was set
	expired  []Tag
	queue    []*node
}

// Decide says what goes.
func Decide(in Input) Plan {
	d := &decision{
		in: in, nodes: map[ID]*node{}, byDigest: map[digest.Digest][]*node{}, attached: map[ID][]*node{},
		lists: map[digest.Digest][]*node{}, logs: map[ID]Log{}, setAt: map[[2]string]time.Time{},
	}
	d.link()
	d.date()
	d.roots()
	d.walk()
	return d.plan()
}

// link makes the graph.
func (d *decision) link() {
	for _, m := range d.in.Manifests {
		if d.nodes[m.ID] != nil {
			continue
		}
		n := &node{Manifest: m, kind: Other, layer: layerOf(m.Unit)}
		switch {
		case m.Subject != "":
			n.kind = Attachment
		case m.Index:
			n.kind = Index
		case m.Unit != "":
			n.kind = Image
		}
		d.nodes[m.ID] = n
		d.order = append(d.order, n)
		d.byDigest[m.Digest] = append(d.byDigest[m.Digest], n)
	}
	for _, l := range d.in.Logs {
		d.logs[l.ID] = l
	}
	for _, t := range d.in.Tags {
		n := d.nodes[ID{t.Repo, t.Digest}]
		if n == nil {
			continue // gone meanwhile, or broken before
		}
		n.tags = append(n.tags, t)
		if k := kindOfTag(t.Name); k != Other {
			n.kind = k
		}
		if hex, ok := strings.CutPrefix(t.Name, inventoryOf); ok {
			of := digest.NewDigestFromEncoded(digest.SHA256, hex)
			d.lists[of] = append(d.lists[of], n)
		}
		if subject, ok := Subject(t.Name); ok {
			d.attach(ID{t.Repo, subject}, n)
		}
	}
	for _, n := range d.order {
		if n.Subject != "" && n.kind != Record && n.kind != Promotion {
			d.attach(ID{n.Repo, n.Subject}, n)
		}
		for _, trunk := range d.byDigest[n.Trunk] {
			trunk.isTrunk = trunk.isTrunk || trunk.Unit == n.Unit && trunk != n
		}
		for _, child := range n.Children {
			if c := d.nodes[ID{n.Repo, child}]; c != nil {
				c.isPart = true
				n.layer = cmp.Or(n.layer, c.layer)
			}
		}
	}
}

func (d *decision) attach(to ID, n *node) { d.attached[to] = append(d.attached[to], n) }

// date finds out when each manifest was last made or used. A record tells of
// what a run has made, reused and tagged, and of what its tags pointed to until
// then.
func (d *decision) date() {
	for _, n := range d.order {
		n.seen(n.Made)
		for _, t := range n.tags {
			n.seen(t.Set)
		}
	}
	for _, n := range d.order { // to attach something is to use what it is attached to
		if s := d.nodes[ID{n.Repo, n.Subject}]; s != nil && n.kind == Attachment {
			s.seen(n.used)
		}
	}
	seen := func(of digest.Digest, at time.Time) {
		for _, n := range d.byDigest[of] {
			n.seen(at)
		}
	}
	for _, l := range d.in.Logs {
		for _, u := range l.Units {
			seen(u, l.At)
		}
		for _, m := range l.Moves {
			seen(m.Digest, l.At)
			seen(m.Previous, l.At)
			if k := [2]string{m.Tag, m.Digest.String()}; l.At.After(d.setAt[k]) {
				d.setAt[k] = l.At
			}
		}
	}
	for _, n := range d.order { // an index that is used is a use of its images
		for _, child := range n.Children {
			if c := d.nodes[ID{n.Repo, child}]; c != nil {
				c.seen(n.used)
			}
		}
	}
}

func (n *node) seen(at time.Time) {
	if at.After(n.used) {
		n.used = at
	}
}

// root marks a manifest as live by itself.
func (d *decision) root(n *node, reason, detail string) {
	if n == nil || n.live {
		return
	}
	n.live, n.reason, n.detail = true, reason, detail
	d.queue = append(d.queue, n)
}

// StayHistory is the reason of what stays only because promotions lead to it.
const StayHistory = stayHistory

// The reasons for which something stays.
const (
	stayTag     = "has a tag"
	stayLast    = "newest of its unit"
	stayKey     = "what a build takes now"
	stayHistory = "a promotion or a way back names it"
	stayAge     = "younger than its layer keeps"
	stayCount   = "among the newest of its unit"
	stayGrace   = "used just now"
	stayUndated = "its age is not known"
	stayLayer   = "not of the layers asked for"
	stayUnknown = "not Strata's, or of another version"
	stayRecent  = "within the history"
	stayTells   = "says when a tag was set"
	stayChild   = "part of an index that stays"
	stayNeeded  = "what stays was made from it"
	stayAttach  = "attached to what stays"
	stayCache   = "the cache of a unit"
	stayOrder   = "says which commit has set the moving tags"
	stayOrphan  = "attached to what is not here"
)

// roots marks what is live by itself.
func (d *decision) roots() {
	for _, n := range d.order {
		for _, t := range n.tags {
			d.rootTag(n, t)
		}
	}
	for _, l := range d.in.Logs {
		recent := d.in.Now.Sub(l.At) < d.in.Policy.History
		if l.Hold || recent {
			d.root(d.nodes[l.ID], stayRecent, "")
		}
		if !l.Hold && (!l.Promotion || !recent) {
			continue
		}
		for _, m := range l.Moves {
			for _, of := range []digest.Digest{m.Digest, m.Previous} {
				for _, n := range d.byDigest[of] {
					d.root(n, stayHistory, m.Tag)
				}
			}
		}
	}
	d.tellers()
	for _, n := range d.order {
		d.rootAge(n)
	}
	d.rootCount()
}

func (d *decision) rootTag(n *node, t Tag) {
	name := t.Name
	subject, attached := Subject(name)
	switch {
	case attached:
		if d.nodes[ID{t.Repo, subject}] == nil {
			d.root(n, stayOrphan, name)
		}
	case User(name):
		if d.expires(n, t) {
			d.expired = append(d.expired, t)
			return
		}
		d.root(n, stayTag, name)
	case strings.HasPrefix(name, lastOf):
		if d.in.Units[strings.TrimPrefix(name, lastOf)] {
			d.root(n, stayLast, name)
		}
	case strings.HasPrefix(name, cacheOf):
		if d.in.Units[strings.TrimPrefix(name, cacheOf)] {
			d.root(n, stayCache, name)
		}
	case keyForm.MatchString(name), pointerForm.MatchString(name):
		switch {
		case d.in.Keys[name]:
			d.root(n, stayKey, "")
		case n.Unit == "":
			d.root(n, stayUnknown, name)
		}
	case n.kind == Record || n.kind == Promotion:
		if _, known := d.logs[n.ID]; !known {
			d.root(n, stayUnknown, name)
		}
	case strings.HasPrefix(name, artifactOf), strings.HasPrefix(name, inventoryOf):
	case name == order:
		d.root(n, stayOrder, "")
	default:
		d.root(n, stayUnknown, name)
	}
}

// expires says whether a user's tag goes: the user has said so for tags of its
// form, and it is known to have stood for that long.
func (d *decision) expires(n *node, t Tag) bool {
	p := d.in.Policy
	if !matches(p.Expire, t.Name) || matches(p.Protect, t.Name) || !d.asked(n) {
		return false
	}
	at := t.Set
	if told := d.setAt[[2]string{t.Name, t.Digest.String()}]; told.After(at) {
		at = told
	}
	if at.IsZero() {
		at = n.used
	}
	return !at.IsZero() && d.in.Now.Sub(at) >= max(p.After, p.Grace)
}

// asked says whether a manifest is of a layer that may be pruned.
func (d *decision) asked(n *node) bool {
	layers := d.in.Policy.Layers
	return len(layers) == 0 || slices.Contains(layers, n.layer)
}

// tellers keeps, for every user's tag, the newest record that says when it was
// set: without it the tag's age would be forgotten before the tag is.
func (d *decision) tellers() {
	newest := map[[2]string]Log{}
	for _, l := range d.in.Logs {
		for _, m := range l.Moves {
			k := [2]string{m.Tag, m.Digest.String()}
			if old, ok := newest[k]; !ok || l.At.After(old.At) {
				newest[k] = l
			}
		}
	}
	for _, n := range d.order {
		for _, t := range n.tags {
			if l, ok := newest[[2]string{t.Name, t.Digest.String()}]; ok && User(t.Name) && !slices.Contains(d.expired, t) {
				d.root(d.nodes[l.ID], stayTells, t.Name)
			}
		}
	}
}

// rootAge applies what hangs on a manifest's own age. What is not ours is left
// alone, unless it is part of something that the user lets go.
func (d *decision) rootAge(n *node) {
	age := d.in.Now.Sub(n.used)
	ours := n.layer != "" || n.kind == Cache
	switch {
	case !n.used.IsZero() && age < d.in.Policy.Grace:
		d.root(n, stayGrace, "")
	case n.kind == Attachment:
	case len(d.in.Policy.Layers) > 0 && !d.asked(n):
		d.root(n, stayLayer, n.layer)
	case n.kind == Record || n.kind == Promotion || n.kind == Inventory:
	case ours && n.used.IsZero():
		d.root(n, stayUndated, "")
	case ours && age < d.keep(n).Age:
		d.root(n, stayAge, "")
	case !ours && len(n.tags) == 0 && !n.isPart:
		d.root(n, stayUnknown, "")
	}
}

// keep gives the policy for a manifest; an index is kept as long as any of its
// images, since it says when they were used.
func (d *decision) keep(n *node) Keep {
	if n.Index {
		var out Keep
		for _, child := range n.Children {
			if c := d.nodes[ID{n.Repo, child}]; c != nil && c.layer != "" && c != n {
				out.Age = max(out.Age, d.keepOf(c.layer).Age)
			}
		}
		return out
	}
	return d.keepOf(n.layer)
}

func (d *decision) keepOf(layer string) Keep {
	if k, ok := d.in.Policy.Keep[layer]; ok {
		return k
	}
	return d.in.Policy.Other
}

// rootCount keeps the newest images of each unit, as many as its layer says.
// What only others were made from does not count.
func (d *decision) rootCount() {
	units := map[[2]string][]*node{}
	for _, n := range d.order {
		if n.Unit != "" && !n.isTrunk {
			k := [2]string{n.Repo, n.Unit}
			units[k] = append(units[k], n)
		}
	}
	for _, images := range units {
		slices.SortStableFunc(images, func(a, b *node) int {
			return cmp.Or(b.used.Compare(a.used), cmp.Compare(a.Digest, b.Digest))
		})
		for _, n := range images[:min(len(images), d.keep(images[0]).Count)] {
			d.root(n, stayCount, "")
		}
	}
}

// walk marks everything that what is live leads to.
func (d *decision) walk() {
	for len(d.queue) > 0 {
		n := d.queue[len(d.queue)-1]
		d.queue = d.queue[:len(d.queue)-1]
		for _, child := range n.Children {
			d.root(d.nodes[ID{n.Repo, child}], stayChild, n.name())
		}
		for _, need := range n.Needs {
			for _, m := range d.byDigest[need] {
				d.root(m, stayNeeded, n.name())
			}
		}
		for _, a := range d.attached[n.ID] {
			d.root(a, stayAttach, n.name())
		}
		for _, of := range slices.Concat([]digest.Digest{n.Digest}, n.Needs, n.Bases) {
			for _, inv := range d.lists[of] {
				d.root(inv, stayNeeded, n.name())
			}
		}
	}
}

// name says what a manifest is called: a user's tag, its unit, its digest.
func (n *node) name() string {
	for _, t := range n.tags {
		if User(t.Name) {
			return t.Name
		}
	}
	return cmp.Or(n.Unit, n.Digest.String())
}

// goes says why a manifest goes.
func (d *decision) goes(n *node) string {
	switch n.kind {
	case Record, Promotion:
		return "older than the history of " + days(d.in.Policy.History)
	case Attachment:
		return "attached to what goes"
	case Inventory:
		return "of an image that nothing stands on any more"
	case Image, Index, Cache:
		if n.layer == "" && n.kind == Index {
			return "its tags have expired"
		}
		k := d.keep(n)
		if k.Age == 0 {
			return fmt.Sprintf("not among the %d newest of its unit", k.Count)
		}
		return "not used for " + days(k.Age)
	}
	return "nothing leads to it"
}

// days writes a length of time in the largest unit that has no remainder.
func days(t time.Duration) string {
	switch day := 24 * time.Hour; {
	case t >= day && t%day == 0:
		return fmt.Sprintf("%dd", t/day)
	case t >= time.Hour && t%time.Hour == 0:
		return fmt.Sprintf("%dh", t/time.Hour)
	}
	return t.String()
}
