package times

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// Entry is one path of a layer as the engine has it: of the files that an
// instruction made or changed, and of the folders above them.
type Entry struct {
	Path     string // relative to the root, without a leading slash
	Kind     inventory.Kind
	Size     int64 // of files, in bytes
	Modified int64 // ns since 1970
}

// Layer is what the published times of a layer follow from.
type Layer struct {
	Entries []Entry
	// Context has the published time of every stamp under which a file of a
	// build context was given to the engine; see [Stamps].
	Context Known
	// Lower are the tables of the layers below, the lowest first, and Below is the
	// newest published time of all that is below; 0 when that is nothing.
	Lower []*Table
	Below int64
	// Made says whether a time, in ns, is that of something that the engine itself
	// has made, now or in an earlier build, and not one that a file brought along.
	Made func(ns int64) bool
	// Now is when the layer is published, in seconds.
	Now int64
	// Last is the full inventory of the unit's last image; nil without one.
	Last *inventory.Inventory
	// Digest gives the digest of the content of a file of this layer or below it.
	// It is asked only where there is one of the same size to compare it with.
	Digest func(path string) (digest.Digest, error)
	// Read gives the content of a small file of the layer, or of a layer below.
	Read func(path string) ([]byte, error)
	// Stat gives size and time of a file or folder in this layer or below it; links
	// are not followed.
	Stat func(path string) (size, ns int64, ok bool)
	// Follow gives the path that a path leads to, links followed. Nil leaves it.
	Follow func(path string) string
	// Latest is the user's SOURCE_DATE_EPOCH in seconds: what is newer takes it,
	// and so what the instruction made. Nil without one.
	Latest *int64
}

// class is where a time comes from.
type class byte

const (
	own      class = iota // from an archive or a package, or set by a program
	given                 // a file of the build context, or of a lower layer, or a copy that keeps its time
	lower                 // a file of a lower layer whose mode or owner was changed
	made                  // made by the instruction
	packaged              // made by the instruction, of a package whose archive had it
	compiled              // Python that was compiled when its package was installed: it goes with its source
)

// Dates are the published times of a layer.
type Dates struct {
	// Table has the paths whose time is not the engine's, and what has to be
	// written into files that record another file's time.
	Table *Table
	// Time is that of what the instruction made.
	Time int64

	at map[string]int64
}

// Of gives the published time of a path, in seconds. It is false for paths that
// the layer was not said to have.
func (d *Dates) Of(path string) (int64, bool) {
	t, ok := d.at[path]
	return t, ok
}

// Date decides the published times of a layer. The rule, and why nothing that
// compares times sees a difference, is in docs/architecture.md, "Time".
func (l Layer) Date() (*Dates, error) {
	w := &dating{Layer: l, index: make(map[string]int, len(l.Entries)), class: make([]class, len(l.Entries)), at: make([]int64, len(l.Entries))}
	for i, e := range l.Entries {
		w.index[e.Path] = i
	}
	w.below()
	w.classify()
	if err := w.unchanged(); err != nil {
		return nil, err
	}
	w.decide()
	return w.result(), nil
}

// dating is one layer at work.
type dating struct {
	Layer
	index   map[string]int // of entries, by path
	class   []class
	at      []int64
	paths   map[string]Dated // of lower layers, the topmost
	records map[string]Record
	// times is what lower layers and the context have, by the engine's time, and by
	// times as programs leave them that copy no more than microseconds (utimes) or
	// seconds (tar, cp of busybox).
	times map[int64][]Dated
	time  int64 // of what the instruction made
	// same says of a file whether the last image has it with the same content.
	same map[string]bool
}

// below gathers what is known of the times that the instruction found.
func (w *dating) below() {
	w.paths, w.records, w.times = map[string]Dated{}, map[string]Record{}, map[int64][]Dated{}
	add := func(d Dated) {
		w.times[d.Real] = append(w.times[d.Real], d)
		for _, grain := range []int64{1000, second} {
			if at := floor(d.Real, grain) * grain; at != d.Real {
				w.times[at] = append(w.times[at], d)
			}
		}
	}
	for _, t := range w.Lower {
		for _, d := range t.Paths {
			w.paths[d.Path] = d
			add(d)
		}
		for _, r := range t.Records {
			w.records[r.Path] = r
		}
	}
	for real, published := range w.Context {
		add(Dated{Real: real, Published: published})
	}
}

// found gives the published time for one that an entry has from something that
// the instruction found: of several, and of what else may have been made in the
// same tick of the clock, that with the same content; of those the oldest, since a
// copy that was made a moment later need not be of the same second next time.
func (w *dating) found(e Entry) (int64, bool) {
	newest, same := int64(0), int64(0)
	for _, d := range w.times[e.Modified] {
		newest = max(newest, d.Published)
		if (same == 0 || d.Published < same) && w.alike(e, d.Path) {
			same = d.Published
		}
	}
	if same == 0 && w.Made(e.Modified) {
		return 0, false
	}
	return cmp.Or(same, newest), newest > 0
}

// alike says whether an entry has the content of a file below it, or may be that
// file itself, which is not at its old place any more.
func (w *dating) alike(e Entry, p string) bool {
	if p == "" {
		return false
	}
	size, _, there := w.Stat(p)
	if !there {
		return true
	}
	if size != e.Size || e.Kind != inventory.File {
		return false
	}
	a, err := w.Digest(e.Path)
	if err != nil {
		return false
	}
	b, err := w.Digest(p)
	return err == nil && a == b
}

// classify says where the time of each entry comes from.
func (w *dating) classify() {
	isMade := make(map[string]bool, len(w.Entries))
	for _, e := range w.Entries {
		isMade[e.Path] = !w.known(e) && w.Made(e.Modified)
	}
	owned := owned(w.Entries, func(p string) bool { return isMade[p] }, w.Read)
	for i, e := range w.Entries {
		switch {
		case w.class[i] != own || !isMade[e.Path]:
		case owned(e.Path):
			w.class[i] = packaged
		default:
			w.class[i] = made
		}
	}
	for i, e := range w.Entries {
		if (w.class[i] == made || w.class[i] == packaged) && isCompiled(e.Path) && w.ofPackage(sourceOf(e.Path)) {
			w.class[i] = compiled
		}
	}
}

// known finds the time of what a context or a lower layer has brought.
func (w *dating) known(e Entry) bool {
	i := w.index[e.Path]
	if d, ok := w.paths[e.Path]; ok && d.Real == e.Modified {
		w.class[i], w.at[i] = lower, d.Published
		return true
	}
	t, ok := w.Context[e.Modified]
	if !ok {
		t, ok = w.found(e)
	}
	if ok {
		w.class[i], w.at[i] = given, t
	}
	return ok
}

// ofPackage says whether a file came out of a package or an archive, with a time
// of its own or an installer's.
func (w *dating) ofPackage(p string) bool {
	if i, ok := w.index[p]; ok {
		return w.class[i] == own || w.class[i] == packaged
	}
	if d, ok := w.paths[p]; ok {
		return d.Published == Oldest || d.Published == floor(d.Real, second)
	}
	_, ns, ok := w.Stat(p)
	return ok && !w.Made(ns)
}

// before gives what the last image has at a path, if it is of the same kind.
func (w *dating) before(e Entry) (inventory.Entry, bool) {
	if w.Last == nil {
		return inventory.Entry{}, false
	}
	b := w.Last.Lookup(e.Path)
	return b, b.Kind == e.Kind
}

// unchanged finds out which files the last image has with the same content.
// Those that are not dated by it are not looked at.
func (w *dating) unchanged() error {
	w.same = map[string]bool{}
	for i, e := range w.Entries {
		if w.class[i] == own || w.class[i] == lower || w.class[i] == compiled || e.Kind == inventory.Dir {
			continue
		}
		b, ok := w.before(e)
		if !ok || b.Size != e.Size {
			continue
		}
		if e.Kind == inventory.File {
			d, err := w.Digest(e.Path)
			if err != nil {
				return err
			}
			ok = d == b.Digest()
		}
		w.same[e.Path] = ok
	}
	return nil
}

// decide gives each entry its time. What comes from elsewhere is settled first,
// because what the instruction made may not be older.
func (w *dating) decide() {
	inside := int64(Oldest)
	for i, e := range w.Entries {
		switch w.class[i] {
		case own:
			w.at[i] = floor(e.Modified, second)
		case given:
			w.at[i] = w.since(e, w.at[i])
		case lower:
		default:
			continue
		}
		if w.counts(e, w.at[i]) {
			inside = max(inside, w.at[i])
		}
	}
	w.time = w.madeTime(inside)
	if w.Latest != nil {
		w.time = min(*w.Latest, w.Now)
	}
	for i, e := range w.Entries {
		switch {
		case w.class[i] == made, w.class[i] == packaged && w.Latest != nil:
			w.at[i] = w.time
		case w.class[i] == packaged:
			w.at[i] = w.packaged(e)
		}
	}
	for i, e := range w.Entries {
		if w.class[i] == compiled {
			w.at[i] = w.source(sourceOf(e.Path))
		}
	}
	if w.Latest != nil {
		for i := range w.at {
			w.at[i] = min(w.at[i], *w.Latest)
		}
	}
}

// counts says whether what an instruction makes must not be older than an entry.
// What lies in the future can't be waited for.
func (w *dating) counts(e Entry, t int64) bool {
	return e.Kind != inventory.Dir && t <= w.Now && inventory.Lasting(e.Path)
}

// since keeps the last image's time of a file that is the same there, and makes
// one whose content is another newer than there. Where a file takes the place of
// another one, it must not pass for that one.
func (w *dating) since(e Entry, t int64) int64 {
	if e.Kind == inventory.Dir {
		return t
	}
	b, ok := w.before(e)
	switch {
	case ok && w.same[e.Path]:
		return b.Time
	case ok:
		t = Since(b.Time, t, e.Modified, w.Now)
	case w.Last != nil: // it may have been there in an earlier image than the last
		t = Since(0, t, e.Modified, w.Now)
	}
	if d, ok := w.paths[e.Path]; ok && d.Published == t {
		t = Since(d.Published, t, e.Modified, w.Now)
	}
	return t
}

// madeTime gives the time of what the instruction made: no older than what came
// into the layer, and newer than what was below; the last image's where nothing
// of it has changed and that is so, else one that is newer than there.
func (w *dating) madeTime(inside int64) int64 {
	last, same := int64(0), true
	for i, e := range w.Entries {
		if w.class[i] != made || !inventory.Lasting(e.Path) {
			continue
		}
		b, ok := w.before(e)
		if ok && b.Time <= w.Now {
			last = max(last, b.Time)
		}
		same = same && ok && (e.Kind == inventory.Dir || w.same[e.Path])
	}
	least := inside
	if w.Below > 0 {
		least = max(inside, w.Below+1)
	}
	switch {
	case last < least:
		return least
	case same:
		return last
	}
	return last + 1
}

// packaged gives the time of a package's file, which is the same on every day
// and every base, as long as the file is.
func (w *dating) packaged(e Entry) int64 {
	t := int64(Oldest)
	b, ok := w.before(e)
	switch {
	case !ok || e.Kind == inventory.Dir || b.Time < Oldest:
	case w.same[e.Path]:
		t = b.Time
	default:
		t = max(w.time, b.Time+1)
	}
	// What replaces a file of an earlier installation must not pass for it.
	if d, ok := w.paths[e.Path]; ok && e.Kind != inventory.Dir && t <= d.Published {
		t = max(w.time, d.Published+1)
	}
	return t
}

// source gives the published time of a file in this layer or below it.
func (w *dating) source(path string) int64 {
	if i, ok := w.index[path]; ok {
		return w.at[i]
	}
	if d, ok := w.paths[path]; ok {
		return d.Published
	}
	_, ns, _ := w.Stat(path)
	return floor(ns, second)
}

func (w *dating) result() *Dates {
	d := &Dates{Time: w.time, Table: &Table{Newest: w.Below}, at: make(map[string]int64, len(w.at))}
	for i, e := range w.Entries {
		d.at[e.Path] = w.at[i]
		if w.counts(e, w.at[i]) {
			d.Table.Newest = max(d.Table.Newest, w.at[i])
		}
		if w.class[i] != own || w.at[i]*second != e.Modified {
			d.Table.Paths = append(d.Table.Paths, Dated{e.Path, e.Modified, w.at[i]})
		}
	}
	slices.SortFunc(d.Table.Paths, func(a, b Dated) int { return cmp.Compare(a.Path, b.Path) })
	for _, i := range slices.Sorted(maps.Values(w.index)) {
		if r, ok := w.record(w.Entries[i]); ok {
			d.Table.Records = append(d.Table.Records, r)
		}
	}
	slices.SortFunc(d.Table.Records, func(a, b Record) int { return cmp.Compare(a.Path, b.Path) })
	return d
}

// dir gives the folder of a path; "" is the root.
func dir(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
