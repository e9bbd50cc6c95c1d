// Package times says under which time a file stands in an image.
//
// There are two times of every file: the one that the engine sees, which is the
// real one, and the one that is published, which two machines agree on. It takes
// what is known of the files of a build context and gives both, so that the
// published time can be told from the engine's. It is pure.
package times

import (
	"cmp"
	"hash/fnv"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Oldest is the oldest time that anything is given, 1980-02-01T00:00:00Z in
// seconds since 1970: zip knows nothing before 1980 and counts in local time,
// and no time zone may make it 1979.
const Oldest = 318211200

// ContextFile is a file or link of a build context.
type ContextFile struct {
	Path   string
	Disk   int64         // its time on disk, in ns since 1970
	Commit int64         // of the last commit that touched it, in seconds since 1970; 0: there is none
	Digest digest.Digest // of the content; of a link, of its target
}

// Of gives the time in seconds under which a file is published that no earlier
// image has: its commit's; of one that no commit has as it is (untracked, edited)
// that of the commit at hand, 0 where there is none; else one in the 1980s that
// follows from the content. Two machines then say the same, whenever the files
// came to their disks, and without a history another content still has another
// time. Nothing is before [Oldest], and all is [lag] before now at least, the clock
// in seconds.
func Of(f ContextFile, head, now int64) int64 {
	t := cmp.Or(f.Commit, head) - lag
	if f.Commit == 0 && head == 0 {
		h := fnv.New64a()
		h.Write([]byte(f.Digest))
		t = Oldest + 1 + int64(h.Sum64()%contentSpan)
	}
	return max(Oldest, min(t, now-lag))
}

const (
	// contentSpan is how many seconds times that follow from a content share: ten
	// years. Two contents fall together once in 300 million times.
	contentSpan = 10 * 365 * 24 * 60 * 60
	// lag is by how much a file of a context is published as older than it is, in
	// seconds. What instructions make of it is published a second later a layer,
	// and may not be in the future where commit and build follow at once: ninja
	// compares with the time at which it began.
	lag = 60
)

// Since gives the time in seconds under which a file is published whose content
// has changed since something was made or published, the newest of which is dated
// before: at least a second later, so that nobody takes it for older, or for what
// was at its place. Of is what [Of] gave; the time on disk, in ns, tells this change
// from others that were there in between.
func Since(before, of, disk, now int64) int64 {
	return max(before+1, of, min(floor(disk, second), now)-lag)
}

const (
	second      = int64(1e9) // ns
	millisecond = int64(1e6)
	// usualSlots is how many published times share a millisecond before their
	// slots get narrower. A slot of 15,625 ns shows a changed content by another
	// time in 15,622 of 15,623 cases.
	usualSlots = 64
	// narrowest holds one time between begin and end.
	narrowest = 3
)

// Stamps gives the time in ns under which each file is handed to the engine, in
// the order of files: the one on disk but for what is below a millisecond, which
// is less than a tick of the kernel's clock. Published gives the time in seconds
// of the file at an index.
//
// What is below tells which published time it stands for, and so it can be told
// wherever the time was copied to ([Known]): a millisecond of the disk is cut into
// one slot for each published time in it, the older first. Within its slot the
// place comes from all that has this millisecond and this published time, so that
// a content that was changed with size and time restored has a new time for the
// engine's transfer, which compares these alone. No stamp is a whole second.
//
// Stamps depend on what the files are, not on their order, and those of one
// millisecond on no file of another.
func Stamps(files []ContextFile, published func(i int) int64) []int64 {
	list := make([]stamped, len(files))
	for i := range files {
		list[i] = stamped{tick: floor(files[i].Disk, millisecond), published: published(i), file: i}
	}
	slices.SortFunc(list, func(a, b stamped) int {
		if c := cmp.Or(cmp.Compare(a.tick, b.tick), cmp.Compare(a.published, b.published)); c != 0 {
			return c
		}
		f, g := &files[a.file], &files[b.file]
		return cmp.Or(strings.Compare(f.Path, g.Path), strings.Compare(string(f.Digest), string(g.Digest)))
	})
	stamps := make([]int64, len(files))
	var groups [][]stamped
	for tick := range chunks(list, func(a, b stamped) bool { return a.tick == b.tick }) {
		groups = groups[:0]
		for g := range chunks(tick, func(a, b stamped) bool { return a.published == b.published }) {
			groups = append(groups, g)
		}
		width := millisecond / int64(max(usualSlots, len(groups)))
		if width < narrowest {
			panic("internal error: more than 333,333 published times in one millisecond of a build context")
		}
		for i, g := range groups {
			inside := int64(sum(files, g) % uint64(width-2))
			for _, s := range g {
				stamps[s.file] = s.tick*millisecond + int64(i)*width + 1 + inside
			}
		}
	}
	return stamps
}

// stamped is one file on its way.
type stamped struct {
	tick      int64 // ms since 1970 on disk
	published int64
	file      int
}

// sum hashes what the files of a group are, each once: FNV-1a, which is quick and
// spreads well enough over a slot.
func sum(files []ContextFile, group []stamped) uint64 {
	h := uint64(14695981039346656037)
	add := func(text string) {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 1099511628211
		}
		h *= 1099511628211 // as for a NUL, which is in no path and in no digest
	}
	for i, s := range group {
		f := &files[s.file]
		if i > 0 {
			if last := &files[group[i-1].file]; last.Path == f.Path && last.Digest == f.Digest {
				continue
			}
		}
		add(f.Path)
		add(string(f.Digest))
	}
	return h
}

// chunks gives the longest stretches of a list in which neighbours are alike.
func chunks[T any](list []T, alike func(a, b T) bool) func(yield func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(list) > 0 {
			n := 1
			for n < len(list) && alike(list[n-1], list[n]) {
				n++
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}

// floor divides and rounds down, before 1970 too.
func floor(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// Known tells the published time, in seconds, from a stamp, in ns: of the
// context's files, and of whatever has taken over their times since (cp -p, mv,
// COPY --from).
type Known map[int64]int64

// Know puts together what [Stamps] gave and what it was given.
func Know(stamps []int64, published func(i int) int64) Known {
	k := make(Known, len(stamps))
	for i, s := range stamps {
		k[s] = published(i)
	}
	return k
}

// Folders gives the published times of folders of a context: the newest of what
// is in them at any depth, [Oldest] if that is nothing. Files has published times
// by path. Paths have slashes; "." is the whole.
func Folders(files map[string]int64, dirs []string) map[string]int64 {
	newest := map[string]int64{}
	for p, t := range files {
		// What a folder holds, those above it hold: they need not be asked twice.
		for up := path.Dir(p); newest[up] < t; up = path.Dir(up) {
			newest[up] = t
			if up == "." || up == "/" {
				break
			}
		}
	}
	out := make(map[string]int64, len(dirs))
	for _, d := range dirs {
		out[d] = max(Oldest, newest[path.Clean(d)])
	}
	return out
}
