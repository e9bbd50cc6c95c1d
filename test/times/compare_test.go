//go:build linux

package times

import (
	"archive/tar"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-build/strata/internal/inventory"
)

// The kinds of differences between an image of Strata's and the reference's.
const (
	paths    = "paths"     // a path is in one of them only, or is another kind of file
	outcome  = "outcome"   // a RUN has seen something else: a file called seen...
	content  = "content"   // another file's content differs
	reversed = "reversed"  // the reference says that a is newer than b, Strata that b is newer than a
	notNewer = "not newer" // a was made by a later instruction than b, and is not newer
	within   = "within"    // reversed between files of one instruction
	ownTime  = "own time"  // a time that a file brought along, or was given, is another
	stale    = "stale"     // a .pyc that says what its source is does not say so any more
	old      = "old"       // older than 1980-02-01
	future   = "future"    // newer than now by more than a second a layer, and in the reference not
	release  = "release"   // a file that changed from one release to the next is not newer
)

// Kinds that are told and don't fail, with the reason.
var told = map[string]string{
	// A RUN before a COPY makes files that are newer than the copied ones, or
	// older where it came from BuildKit's cache and a file was edited later:
	// BuildKit itself says both, for one project.
	free: "which of them is newer depends on what BuildKit had in its cache",
	// Layers are a second apart, and an engine may make several in one.
	ahead: "a second a layer is added to the time of a source that was saved just now",
	// Site-packages have a constant time in Strata: see docs/architecture.md.
	constant: "files of packages that an installer dated now have one time for ever",
	// A rebase keeps the child's layers: they were made before what is new below.
	rebased: "a rebased layer was made on the old parent, and is as old as it is",
	// Text that a RUN made of a time is not known to be one.
	recorded: "a text that holds a file's time holds the engine's, not the published one",
}

const (
	ahead    = "ahead"
	free     = "free"
	constant = "constant"
	rebased  = "rebased"
	recorded = "recorded"
)

// oldest is the oldest time that Strata may give to a file by itself.
var oldest = time.Date(1980, 2, 1, 0, 0, 0, 0, time.UTC).Unix()

// difference is one finding.
type difference struct{ kind, path, text string }

// facts are what the comparison knows of a project besides its images.
type facts struct {
	started int64           // no file of the project that a build made is older
	context map[string]bool // "SUM SEC" of every file that was in the context
	holds   []string        // paths and folders whose content holds a time of day
	rebased bool            // Strata has put the image on another parent, and BuildKit made it anew
}

func contextKey(sum string, sec int64) string { return fmt.Sprintf("%s %d", sum, sec) }

// class says where a file's time comes from.
type class int

const (
	ofBase    class = iota // the image that the project starts from
	ofContext              // the build context
	ofItself               // an archive, a package, touch -d
	made                   // a RUN; folders of a COPY
	carried                // another stage's RUN, a heredoc: made at any time before the COPY
	installed              // an installer, into a folder of packages
)

// origin is a file's class, and the instruction that gave it its time: a later
// chmod, chown, mv or cp -p leaves the time.
type origin struct {
	class       class
	instruction int
}

var packageFolder = regexp.MustCompile(`(^|/)(site-packages|dist-packages|node_modules|gems)/|^var/lib/dpkg/info/`)

// compare compares got, Strata's image, with want, plain BuildKit's.
func compare(want, got *picture, f facts) []difference {
	c := &comparison{want: want, got: got, facts: f, now: time.Now().Unix()}
	c.contents()
	c.origins()
	c.relations()
	c.times()
	c.records()
	return c.found
}

type comparison struct {
	want, got *picture
	facts
	now    int64
	origin map[string]origin
	found  []difference
}

func (c *comparison) add(kind, file, format string, args ...any) {
	c.found = append(c.found, difference{kind, file, fmt.Sprintf(format, args...)})
}

// contents compares which paths there are and what they hold.
func (c *comparison) contents() {
	for _, p := range slices.Sorted(maps.Keys(c.want.files)) {
		w, g := c.want.files[p], c.got.files[p]
		switch {
		case g == nil:
			c.add(paths, p, "only BuildKit has it")
		case w.kind != g.kind || w.mode&0o7777 != g.mode&0o7777:
			c.add(paths, p, "BuildKit: %c %o, Strata: %c %o", w.kind, w.mode&0o7777, g.kind, g.mode&0o7777)
		case w.sum != g.sum && strings.HasPrefix(path.Base(p), "seen"):
			c.add(outcome, p, "BuildKit:\n%sStrata:\n%s", w.text, g.text)
		case w.sum != g.sum && strings.HasPrefix(p, "recorded"): // compared by records
		case w.sum != g.sum && c.holdsTime(p):
		case w.sum != g.sum && w.pyc == nil && !inventory.Volatile(p):
			c.add(content, p, "BuildKit: %s\nStrata: %s", short(w), short(g))
		case w.sum != g.sum && w.pyc != nil:
			c.add(content, p, "compiled code differs")
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.got.files)) {
		if c.want.files[p] == nil {
			c.add(paths, p, "only Strata has it")
		}
	}
}

func (c *comparison) holdsTime(p string) bool {
	return slices.ContainsFunc(c.holds, func(h string) bool { return p == h || strings.HasPrefix(p, h+"/") })
}

func short(e *entry) string {
	if e.kind == tar.TypeReg && len(e.text) > 0 && len(e.text) < 200 {
		return strings.TrimSpace(e.text)
	}
	return fmt.Sprintf("%d bytes, %.12s", e.size, e.sum)
}

// origins finds where each file of the reference has its time from.
func (c *comparison) origins() {
	c.origin = map[string]origin{}
	// Where a path, and a content with a time, were seen first, from below.
	type known struct {
		entry  *entry
		origin origin
	}
	byPath, byContent := map[string]known{}, map[string]origin{}
	for n, l := range c.want.layers {
		for _, e := range l.entries {
			o := c.classify(n, e)
			run := strings.HasPrefix(c.want.commands[n], "RUN ")
			if k, ok := byPath[e.path]; ok && run && k.entry.sec == e.sec && k.entry.sum == e.sum && k.entry.kind == e.kind {
				o = k.origin
			} else if from, ok := byContent[contextKey(e.sum, e.sec)]; ok && run && e.kind == tar.TypeReg && e.size > 0 {
				o = from
			}
			byPath[e.path] = known{e, o}
			if _, ok := byContent[contextKey(e.sum, e.sec)]; !ok {
				byContent[contextKey(e.sum, e.sec)] = o
			}
			c.origin[e.path] = o
		}
	}
}

// classify gives the origin of a file that no earlier layer has.
func (c *comparison) classify(n int, e *entry) origin {
	command := c.want.commands[n]
	switch {
	case !instructions.MatchString(command):
		return origin{ofBase, n}
	case c.context[contextKey(e.sum, e.sec)]:
		return origin{ofContext, n}
	case e.sec < c.started:
		return origin{ofItself, n}
	case (packageFolder.MatchString(e.path) || c.compiledPackage(e)) && strings.HasPrefix(command, "RUN "):
		return origin{installed, n}
	case strings.HasPrefix(command, "RUN ") || e.kind == tar.TypeDir:
		return origin{made, n}
	}
	return origin{carried, n}
}

// compiledPackage says whether a file is Python that was compiled when the package
// of its source was installed: it goes with that.
func (c *comparison) compiledPackage(e *entry) bool {
	if e.pyc == nil {
		return false
	}
	src := c.want.files[source(e.path)]
	return src != nil && (src.sec < c.started && !c.context[contextKey(src.sum, src.sec)] || packageFolder.MatchString(src.path))
}

// instructions is how BuildKit's history begins for a layer of a project; that
// of an imported base does not.
var instructions = regexp.MustCompile(`^(RUN|COPY|ADD|WORKDIR) `)

// timed is a file with its time on both sides.
type timed struct {
	path          string
	plain, strata int64
	origin
}

// compared gives the files and links whose times can be compared.
func (c *comparison) compared() []timed {
	var out []timed
	for p, w := range c.want.files {
		g := c.got.files[p]
		if g == nil || g.kind != w.kind || w.kind != tar.TypeReg && w.kind != tar.TypeSymlink || inventory.Volatile(p) && w.pyc == nil {
			continue
		}
		out = append(out, timed{p, w.sec, g.sec, c.origin[p]})
	}
	slices.SortFunc(out, func(a, b timed) int {
		if a.plain != b.plain {
			return int(a.plain - b.plain)
		}
		return strings.Compare(a.path, b.path)
	})
	return out
}

// relations goes through the files from the oldest to the newest, as the
// reference has them. Of those that are older it needs to know, for each
// origin, only the one that Strata says is the newest.
func (c *comparison) relations() {
	files := c.compared()
	newest := map[origin]timed{}
	for i := 0; i < len(files); {
		next := i
		for next < len(files) && files[next].plain == files[i].plain {
			next++
		}
		for _, a := range files[i:next] {
			c.relation(a, newest)
		}
		for _, a := range files[i:next] {
			if b, ok := newest[a.origin]; !ok || a.strata > b.strata {
				newest[a.origin] = a
			}
		}
		i = next
	}
}

// relation compares a with those that are older in the reference, and tells the
// worst that it finds of each kind.
func (c *comparison) relation(a timed, older map[origin]timed) {
	worst := map[string]timed{}
	for _, b := range older {
		kind := judge(a, b)
		if c.rebased && (kind == reversed || kind == notNewer) {
			kind = rebased
		}
		if w, ok := worst[kind]; kind != "" && (!ok || b.strata > w.strata) {
			worst[kind] = b
		}
	}
	for kind, b := range worst {
		c.add(kind, a.path, "newer than %s in BuildKit (%s, %s), in Strata it has %s, and that %s",
			b.path, clock(a.plain), clock(b.plain), clock(a.strata), clock(b.strata))
	}
}

// judge says what is wrong with a and b, of which a is newer in the reference.
func judge(a, b timed) string {
	if a.class != made && a.class != carried && a.class != installed && b.class != made && b.class != carried && b.class != installed {
		return "" // nothing was made: disk order, commit order and archives are compared one by one
	}
	switch {
	case a.strata > b.strata:
		return ""
	case a.class == installed || b.class == installed:
		if a.strata < b.strata {
			return constant
		}
		return ""
	case b.instruction > a.instruction && (b.class == ofContext || b.class == carried):
		if a.strata < b.strata {
			return free
		}
		return ""
	case a.class == made && a.instruction > b.instruction:
		if a.strata == b.strata {
			return notNewer
		}
		return reversed
	case a.strata == b.strata:
		return ""
	case a.origin == b.origin:
		return within
	}
	return reversed
}

// times looks at each file's own time.
func (c *comparison) times() {
	for _, f := range c.compared() {
		switch {
		case f.class == ofItself && f.plain != f.strata:
			c.add(ownTime, f.path, "BuildKit: %s, Strata: %s", clock(f.plain), clock(f.strata))
		case f.strata < oldest && (f.plain != f.strata || f.class != ofBase && f.class != ofItself && f.class != ofContext):
			c.add(old, f.path, "BuildKit: %s, Strata: %s", clock(f.plain), clock(f.strata))
		case f.strata > c.now && f.plain <= c.now:
			kind := future
			if f.strata-c.now <= int64(len(c.want.layers)) {
				kind = ahead
			}
			c.add(kind, f.path, "%d s, BuildKit: %s, Strata: %s", f.strata-c.now, clock(f.plain), clock(f.strata))
		}
	}
}

// records compares what files say of the times of others: compiled Python, and
// files called recorded..., with lines "PATH SECONDS".
func (c *comparison) records() {
	for p, w := range c.want.files {
		g := c.got.files[p]
		if g == nil {
			continue
		}
		if w.pyc != nil && g.pyc != nil && fresh(c.want, p) && !fresh(c.got, p) {
			c.add(stale, p, "it says %s, %s has %s", clock(int64(g.pyc.sec)), source(p), clock(c.got.files[source(p)].sec))
		}
		if !strings.HasPrefix(p, "recorded") {
			continue
		}
		for line := range strings.Lines(g.text) {
			var of string
			var sec int64
			if _, err := fmt.Sscan(line, &of, &sec); err != nil {
				c.add(content, p, "not a record: %q", line)
			} else if f := c.got.files[strings.TrimPrefix(of, "/")]; f == nil || f.sec != sec {
				c.add(recorded, p, "it says that %s is of %s", of, clock(sec))
			}
		}
	}
}

// fresh says whether Python would take a .pyc.
func fresh(p *picture, file string) bool {
	e, src := p.files[file], p.files[source(file)]
	return e.pyc.flags == 0 && src != nil && int64(e.pyc.sec) == src.sec && int64(e.pyc.size) == src.size
}

// compareReleases compares two releases of a project: what Strata says of the
// files that have changed, where BuildKit says that they are newer.
func compareReleases(wantBefore, want, gotBefore, got *picture) (found []difference) {
	for _, p := range slices.Sorted(maps.Keys(got.files)) {
		g, before := got.files[p], gotBefore.files[p]
		w, wBefore := want.files[p], wantBefore.files[p]
		if before == nil || w == nil || wBefore == nil || g.kind != tar.TypeReg || before.kind != tar.TypeReg || inventory.Volatile(p) {
			continue
		}
		if g.sum == before.sum || w.sec <= wBefore.sec || packageFolder.MatchString(p) {
			continue
		}
		if g.sec <= before.sec {
			found = append(found, difference{release, p, fmt.Sprintf("it changed (%d bytes, then %d), and has %s, then %s; in BuildKit %s, then %s",
				before.size, g.size, clock(before.sec), clock(g.sec), clock(wBefore.sec), clock(w.sec))})
		}
	}
	return found
}

func clock(sec int64) string { return time.Unix(sec, 0).UTC().Format("2006-01-02T15:04:05") }

// report tells differences: at most a few of each kind.
func report(t *testing.T, found []difference) {
	t.Helper()
	byKind := map[string][]difference{}
	for _, d := range found {
		byKind[d.kind] = append(byKind[d.kind], d)
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		list := byKind[kind]
		tally.add(kind, t.Name(), len(list))
		var text strings.Builder
		for i, d := range list {
			if i == 3 {
				fmt.Fprintf(&text, "\n  and %d more", len(list)-i)
				break
			}
			fmt.Fprintf(&text, "\n  /%s: %s", d.path, strings.ReplaceAll(strings.TrimSpace(d.text), "\n", "\n    "))
		}
		if why, ok := told[kind]; ok {
			t.Logf("%s, %d (%s):%s", kind, len(list), why, text.String())
		} else {
			t.Errorf("%s, %d:%s", kind, len(list), text.String())
		}
	}
}
