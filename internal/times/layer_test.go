package times

import (
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

const (
	built = int64(1_800_000_000) // when the engine works, in seconds
	deb   = int64(1_700_000_000) // of a file out of a package
)

// layers is a made-up image, built one layer at a time.
type layers struct {
	t        *testing.T
	entries  []Entry
	contents map[string]string
	lower    []*Table
	below    int64
	context  Known
	last     *inventory.Inventory
	latest   *int64
	clock    int64
	all      map[string]Entry // of every layer so far
	hashed   []string
}

func newLayers(t *testing.T) *layers {
	return &layers{t: t, contents: map[string]string{}, context: Known{}, clock: built*second + 7, all: map[string]Entry{}}
}

// make adds a file that the instruction has made now; dir a folder.
func (l *layers) make(p, content string) {
	l.clock += 3_000_017
	l.add(Entry{Path: p, Kind: inventory.File, Size: int64(len(content)), Modified: l.clock}, content)
}

func (l *layers) dir(p string) {
	l.clock += 3_000_017
	l.add(Entry{Path: p, Kind: inventory.Dir, Modified: l.clock}, "")
}

// bring adds a file with a time of its own, in ns.
func (l *layers) bring(p, content string, ns int64) {
	l.add(Entry{Path: p, Kind: inventory.File, Size: int64(len(content)), Modified: ns}, content)
}

func (l *layers) add(e Entry, content string) {
	l.entries = append(l.entries, e)
	l.contents[e.Path] = content
	l.all[e.Path] = e
}

// next publishes the layer and begins another one on top.
func (l *layers) next() *Dates {
	l.t.Helper()
	d, err := Layer{
		Entries: l.entries, Context: l.context, Lower: l.lower, Below: l.below, Now: built + 3600, Last: l.last, Latest: l.latest,
		Made: func(ns int64) bool { return ns >= built*second && ns <= l.clock },
		Digest: func(p string) (digest.Digest, error) {
			l.hashed = append(l.hashed, p)
			return digest.FromString(l.contents[p]), nil
		},
		Read: func(p string) ([]byte, error) {
			if c, ok := l.contents[p]; ok {
				return []byte(c), nil
			}
			return nil, fs.ErrNotExist
		},
		Stat: func(p string) (int64, int64, bool) { e, ok := l.all[p]; return e.Size, e.Modified, ok },
	}.Date()
	if err != nil {
		l.t.Fatal(err)
	}
	l.lower, l.below, l.entries = append(l.lower, d.Table), d.Table.Newest, nil
	l.clock += second
	return d
}

// again begins a build of the same image on another day, after an image with
// these times.
func (l *layers) again(last *inventory.Inventory) *layers {
	n := newLayers(l.t)
	n.clock, n.last = l.clock+86400*second, last
	return n
}

// published makes the inventory of an image of these files.
func published(t *testing.T, at map[string]int64, contents map[string]string) *inventory.Inventory {
	t.Helper()
	changes := map[string]inventory.Entry{}
	for p, when := range at {
		c, isFile := contents[p]
		e := inventory.Entry{Path: p, Kind: inventory.Dir, Mode: 0o755, Time: when}
		if isFile {
			d := digest.FromString(c)
			e = inventory.Entry{Path: p, Kind: inventory.File, Mode: 0o644, Size: int64(len(c)), Time: when}
			copy(e.Content[:], mustHex(t, d.Encoded()))
		}
		changes[p] = e
		for q := dir(p); q != ""; q = dir(q) {
			if _, ok := at[q]; !ok {
				changes[q] = inventory.Entry{Path: q, Kind: inventory.Dir, Mode: 0o755}
			}
		}
	}
	var list []inventory.Change
	for _, e := range changes {
		list = append(list, inventory.Change{Entry: e})
	}
	inv, err := inventory.Empty().With(digest.FromString("layer"), list, inventory.Account{}, inventory.Account{})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	out := make([]byte, len(s)/2)
	for i := range out {
		var b byte
		for _, c := range s[2*i : 2*i+2] {
			b = b<<4 | byte(strings.IndexRune("0123456789abcdef", c))
		}
		out[i] = b
	}
	return out
}

func (l *layers) want(d *Dates, want map[string]int64) {
	l.t.Helper()
	for p, w := range want {
		if got, ok := d.Of(p); !ok || got != w {
			l.t.Errorf("%s is of %d, want %d", p, got, w)
		}
	}
}

func TestWhatAnInstructionMakesIsNewerThanAllBelowAndInIt(t *testing.T) {
	l := newLayers(t)
	l.below = deb - 50
	l.bring("usr/lib/a", "a", deb*second)
	l.bring("var/lib/apt/lists/index", "of the day", (built-100)*second) // volatile
	l.bring("usr/lib/future", "f", (built+999_999)*second)
	l.make("etc/made", "x")
	one := l.next()
	l.want(one, map[string]int64{"usr/lib/a": deb, "etc/made": deb, "usr/lib/future": built + 999_999, "var/lib/apt/lists/index": built - 100})
	l.make("etc/later", "y")
	l.dir("etc")
	two := l.next()
	l.want(two, map[string]int64{"etc/later": deb + 1, "etc": deb + 1})
	if one.Time >= two.Time || two.Table.Newest != deb+1 {
		t.Errorf("layers are of %d and %d, the newest is %d", one.Time, two.Time, two.Table.Newest)
	}
	empty := newLayers(t)
	empty.make("first", "on nothing")
	empty.want(empty.next(), map[string]int64{"first": Oldest})
}

func TestFilesOfTheContextAreFoundAgainWhateverMovesThem(t *testing.T) {
	l := newLayers(t)
	stamp := (built-500)*second + 123_456_789
	l.context[stamp] = deb + 1000
	l.bring("src/main.c", "v1", stamp)
	l.next()
	l.bring("src/main.c", "v1", stamp) // chown
	l.bring("copy/main.c", "v1", stamp)
	l.make("main.o", "obj")
	l.want(l.next(), map[string]int64{"src/main.c": deb + 1000, "copy/main.c": deb + 1000, "main.o": deb + 1001})
	l.context = Known{} // a child on this image knows nothing of its context
	l.bring("moved/main.c", "v1", stamp)
	l.want(l.next(), map[string]int64{"moved/main.c": deb + 1000})
}

func TestWhatALowerLayerHasMadeKeepsItsTime(t *testing.T) {
	l := newLayers(t)
	l.make("a.c", "source")
	l.make("a.o", "object")
	first := l.next()
	a := l.all["a.c"].Modified
	l.bring("a.c", "source", a) // chmod
	l.bring("b.c", "source", a) // cp -p
	l.make("c", "new")
	second := l.next()
	l.want(second, map[string]int64{"a.c": first.Time, "b.c": first.Time, "c": first.Time + 1})
}

func TestPackagesAreTheSameOnEveryDayAndBase(t *testing.T) {
	site := "usr/lib/python3/dist-packages/"
	install := func(l *layers, below int64) *Dates {
		l.below = below
		l.make(site+"demo/__init__.py", "x = 1")
		l.make(site+"demo-1.dist-info/RECORD", "demo/__init__.py,sha256=x,5\n../../../bin/demo,,3\n")
		l.make("usr/bin/demo", "bin")
		l.make("usr/bin/other", "not of the package")
		l.make(site+"local/__init__.py", "y")
		l.make(site+"local-1.dist-info/RECORD", "local/__init__.py,,\n")
		l.make(site+"local-1.dist-info/direct_url.json", `{"dir_info": {}, "url": "file:///src"}`)
		l.make("app/node_modules/@a/b/package.json", "{}")
		l.make("app/node_modules/@a/b/lib/x.js", "x")
		l.make("app/node_modules/.cache/x", "cache")
		l.make("gems/specifications/g-1.gemspec", "spec")
		l.make("gems/gems/g-1/lib/g.rb", "g")
		l.make("var/lib/dpkg/info/tool.list", "/.")
		return l.next()
	}
	for _, below := range []int64{0, deb, deb + 77} {
		l := newLayers(t)
		d := install(l, below)
		rest := max(below+1, Oldest)
		l.want(d, map[string]int64{
			site + "demo/__init__.py": Oldest, site + "demo-1.dist-info/RECORD": rest, "usr/bin/demo": Oldest, "usr/bin/other": rest,
			site + "local/__init__.py": rest, "app/node_modules/@a/b/lib/x.js": Oldest, "app/node_modules/.cache/x": rest,
			"gems/gems/g-1/lib/g.rb": Oldest, "var/lib/dpkg/info/tool.list": Oldest,
		})
	}
}

func TestARebuildKeepsWhatIsTheSameAndMovesWhatIsNot(t *testing.T) {
	stamp := (built-500)*second + 1
	run := func(l *layers, page, readme, pkg string) (*Dates, map[string]int64) {
		l.below = deb
		l.context[stamp] = deb - 10
		l.bring("srv/readme", readme, stamp)
		l.next()
		l.make("srv/index.html", page)
		l.make("a/node_modules/p/package.json", "{}")
		l.make("a/node_modules/p/x.js", pkg)
		d := l.next()
		at := map[string]int64{"srv/readme": l.lower[0].Paths[0].Published}
		for _, p := range []string{"srv/index.html", "a/node_modules/p/package.json", "a/node_modules/p/x.js"} {
			at[p], _ = d.Of(p)
		}
		return d, at
	}
	l := newLayers(t)
	one, at := run(l, "<a href=1>", "first", "one")
	last := published(t, at, l.contents)

	same := l.again(last)
	d, at2 := run(same, "<a href=1>", "first", "one")
	if d.Time != one.Time || at2["srv/readme"] != at["srv/readme"] {
		t.Errorf("the same is of %d, and was of %d", d.Time, one.Time)
	}
	other := l.again(last)
	d, at2 = run(other, "<a href=2>", "secnd", "two") // of the same sizes
	if d.Time <= one.Time || at2["srv/readme"] <= at["srv/readme"] || at2["a/node_modules/p/x.js"] <= at["a/node_modules/p/x.js"] {
		t.Errorf("what has changed did not move: %v, before %v", at2, at)
	}
	if at2["a/node_modules/p/package.json"] != Oldest {
		t.Error("a file of a package that has not changed moved")
	}
	if len(newLayers(t).hashed) > 0 || len(l.hashed) > 0 {
		t.Error("contents were read though there was nothing to compare with")
	}
}

func TestAnUnchangedFileIsNotOlderThanItsChangedSource(t *testing.T) {
	stamp, changed := (built-500)*second+1, (built-400)*second+1
	l := newLayers(t)
	l.context[stamp], l.context[changed] = deb, deb+5000
	l.bring("main.c", "v1", stamp)
	l.next()
	l.make("main.o", "object")
	one := l.next()
	last := published(t, map[string]int64{"main.c": deb, "main.o": one.Time}, l.contents)
	n := l.again(last)
	n.context = l.context
	n.bring("main.c", "v1 // and a comment", changed)
	n.next()
	n.make("main.o", "object")
	n.want(n.next(), map[string]int64{"main.o": floor(changed, second) - lag + 1})
}

// Files of one tick of the clock have one time; only a copy has the content, too.
func TestATimeAloneIsNoCopy(t *testing.T) {
	l := newLayers(t)
	l.make("etc/passwd", "someone")
	l.next()
	tick := l.all["etc/passwd"].Modified
	l.make("a", "something below")
	second := l.next()
	l.bring("o/made", "in the same tick", tick)
	l.bring("o/copy", "someone", tick)
	d := l.next()
	l.want(d, map[string]int64{"o/made": second.Time + 1, "o/copy": Oldest})
}

func TestAPackageOverAnEarlierOneDoesNotPassForIt(t *testing.T) {
	site := "usr/lib/python3/dist-packages/"
	l := newLayers(t)
	for _, content := range []string{"x = 1", "x = 2"} {
		l.make(site+"p/__init__.py", content)
		l.make(site+"p-1.dist-info/RECORD", "p/__init__.py,,\n")
		l.next()
	}
	if one, two := l.lower[0].Paths[1].Published, l.lower[1].Paths[1].Published; one != Oldest || two <= one {
		t.Errorf("of %d, then of %d", one, two)
	}
}

// A copy that keeps its time is one of the context's files, and moves with its
// content from release to release.
func TestACopyOfAnotherFileIsNewerThanTheOneBefore(t *testing.T) {
	stamp := (built-500)*second + 1
	l := newLayers(t)
	l.context[stamp] = deb
	l.bring("src/a.html", "<a>", stamp)
	l.bring("src/b.html", "<b>", stamp)
	l.next()
	l.bring("srv/page.html", "<a>", stamp)
	first := l.next()
	at, _ := first.Of("srv/page.html")
	n := l.again(published(t, map[string]int64{"srv/page.html": at}, l.contents))
	n.context = l.context
	n.bring("src/a.html", "<a>", stamp)
	n.bring("src/b.html", "<b>", stamp)
	n.next()
	n.bring("srv/page.html", "<b>", stamp)
	if now, _ := n.next().Of("srv/page.html"); now <= at {
		t.Errorf("of %d, then of %d", at, now)
	}
}

func TestTheUsersEpochIsTheLatest(t *testing.T) {
	l := newLayers(t)
	epoch := deb - 1000
	l.latest = &epoch
	l.bring("old", "o", (epoch-5)*second)
	l.bring("new", "n", deb*second)
	l.make("made", "m")
	l.want(l.next(), map[string]int64{"old": epoch - 5, "new": epoch, "made": epoch})
}

// pyc makes compiled Python of 3.11 with a time and size of its source.
func pyc(when, size int64) string {
	b := []byte{0xa7, 0x0d, '\r', '\n', 0, 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, uint32(when))
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	return string(b) + "code"
}

func TestCompiledPythonFollowsItsSource(t *testing.T) {
	l := newLayers(t)
	l.make("opt/demo.py", "x = 1")
	src := l.all["opt/demo.py"]
	l.make("opt/__pycache__/demo.cpython-311.pyc", pyc(floor(src.Modified, second), 5))
	l.make("opt/__pycache__/stale.cpython-311.pyc", pyc(floor(src.Modified, second), 5)) // no source
	l.bring("opt/deb.py", "y", deb*second)
	l.make("opt/__pycache__/deb.cpython-311.pyc", pyc(deb, 1))
	l.make("opt/demo.opt-1.pyc", "short")
	l.make("opt/__pycache__/demo.cpython-311.opt-1.pyc", pyc(floor(src.Modified, second), 6)) // of another source
	d := l.next()
	if len(d.Table.Records) != 1 {
		t.Fatalf("records: %+v", d.Table.Records)
	}
	r := d.Table.Records[0]
	if r.Path != "opt/__pycache__/demo.cpython-311.pyc" || r.Real != floor(src.Modified, second)*second || r.Published != deb {
		t.Errorf("record: %+v", r)
	}
	data := []byte(l.contents[r.Path])
	if !r.Rewrite(data, true) || string(data) != pyc(deb, 5) {
		t.Errorf("published: %q", data)
	}
	if !r.Rewrite(data, false) || string(data) != l.contents[r.Path] {
		t.Errorf("and back: %q", data)
	}
	// Its own time, too, is that of its source.
	l.want(d, map[string]int64{"opt/demo.py": deb, "opt/__pycache__/demo.cpython-311.pyc": deb, "opt/__pycache__/deb.cpython-311.pyc": deb})

	// A later layer that only changes its mode holds the engine's time again.
	p := l.all["opt/__pycache__/demo.cpython-311.pyc"]
	l.bring(p.Path, l.contents[p.Path], p.Modified)
	d = l.next()
	if len(d.Table.Records) != 1 || d.Table.Records[0].Published != deb {
		t.Errorf("records: %+v", d.Table.Records)
	}
}

func TestNamesOfCompiledPython(t *testing.T) {
	for name, want := range map[string][]string{
		"a/__pycache__/m.cpython-311.pyc":             {"a/m.py"},
		"a/__pycache__/m.cpython-311.opt-2.pyc":       {"a/m.py"},
		"a/__pycache__/gunicorn.conf.cpython-311.pyc": {"a/gunicorn.conf.py"},
		"a/m.pyc":                         {"a/m.py"},
		"pyc/opt/app/m.cpython-311.pyc":   {"pyc/opt/app/m.cpython-311.py", "opt/app/m.py", "app/m.py", "m.py"},
		"__pycache__/top.cpython-311.pyc": {"top.py"},
	} {
		if got := sources(name, sourceOf(name)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestOldFormsOfCompiledPython(t *testing.T) {
	head := func(version uint16, rest ...uint32) []byte {
		b := binary.LittleEndian.AppendUint16(nil, version)
		b = append(b, '\r', '\n')
		for _, n := range rest {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		return append(b, "some code"...)
	}
	for name, tt := range map[string]struct {
		data []byte
		want field
		ok   bool
	}{
		"2.7":       {head(62211, 77), field{at: 4, size: 4, recorded: 77 * second, of: "a.py", length: -1}, true},
		"3.5":       {head(3351, 77, 9), field{at: 4, size: 4, recorded: 77 * second, of: "a.py", length: 9}, true},
		"3.12":      {head(3531, 0, 77, 9), field{at: 8, size: 4, recorded: 77 * second, of: "a.py", length: 9}, true},
		"3.12 hash": {head(3531, 3, 77, 9), field{}, false},
		"text":      {[]byte("#!/usr/bin/python3 and more"), field{}, false},
		"short":     {[]byte("\xa7\x0d\r\n"), field{}, false},
	} {
		got, ok := held("a.pyc", tt.data)
		if ok != tt.ok || got != tt.want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

// fontCache makes the head of a fontconfig cache of a folder.
func fontCache(folder string, sec uint32, nsec uint64) string {
	b := make([]byte, 64)
	le := binary.LittleEndian
	le.PutUint32(b, 0xFC02FC04)
	le.PutUint32(b[4:], 8)
	le.PutUint64(b[8:], uint64(64+len(folder)+1))
	le.PutUint64(b[16:], 64)
	le.PutUint32(b[48:], sec)
	le.PutUint64(b[56:], nsec)
	return string(b) + folder + "\x00"
}

func TestFontconfigsCacheFollowsItsFolder(t *testing.T) {
	l := newLayers(t)
	l.below = deb
	l.dir("usr/share/fonts")
	at := l.all["usr/share/fonts"].Modified
	name := "var/cache/fontconfig/3830d5c3ddfd5cd38a049b759396e72e-le64.cache-8"
	l.make(name, fontCache("/usr/share/fonts", uint32(floor(at, second)), uint64(at%second)))
	d := l.next()
	if len(d.Table.Records) != 1 {
		t.Fatalf("records: %+v", d.Table.Records)
	}
	data := []byte(l.contents[name])
	if !d.Table.Records[0].Rewrite(data, true) || string(data) != fontCache("/usr/share/fonts", uint32(deb+1), 0) {
		t.Errorf("published: %q", data)
	}
	if !d.Table.Records[0].Rewrite(data, false) || string(data) != l.contents[name] {
		t.Errorf("and back: %q", data)
	}
}
