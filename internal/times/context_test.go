package times

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func TestOldestIsIn1980EverywhereOnEarth(t *testing.T) {
	at := time.Unix(Oldest, 0)
	for _, offset := range []int{-12, 0, 14} {
		if y := at.In(time.FixedZone("", offset*3600)).Year(); y != 1980 {
			t.Errorf("at UTC%+d it is %d", offset, y)
		}
	}
}

func TestOf(t *testing.T) {
	const now = 2_000_000_000
	for _, c := range []struct {
		name string
		file ContextFile
		head int64
		want int64
	}{
		{"commit", ContextFile{Disk: 1_900_000_000e9, Commit: 1_500_000_000}, 1_600_000_000, 1_500_000_000 - lag},
		{"edited or untracked", ContextFile{Disk: 1_900_000_000_999_999_999}, 1_600_000_000, 1_600_000_000 - lag},
		{"commit of the future", ContextFile{Disk: 1e18, Commit: now + 1}, 0, now - lag},
		{"head of the future", ContextFile{}, now + 1, now - lag},
		{"commit too old", ContextFile{Disk: 1e18, Commit: 1}, 1_600_000_000, Oldest},
		{"commit before 1970", ContextFile{Disk: 1e18, Commit: -5}, 0, Oldest},
	} {
		if got := Of(c.file, c.head, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := Of(ContextFile{Commit: 5}, 6, 7); got != Oldest {
		t.Errorf("a clock that stands at 1970: %d", got)
	}
	one := Of(ContextFile{Path: "a", Disk: 1, Digest: digest.FromString("one")}, 0, now)
	again := Of(ContextFile{Path: "b", Disk: 2, Digest: digest.FromString("one")}, 0, now)
	two := Of(ContextFile{Path: "a", Disk: 1, Digest: digest.FromString("two")}, 0, now)
	if one != again || one == two || one <= Oldest || one > Oldest+contentSpan {
		t.Errorf("without a history: %d, %d of the same content, %d of another", one, again, two)
	}
}

func TestSinceIsLaterThanBefore(t *testing.T) {
	const before, now = 1_500_000_000, 2_000_000_000
	for _, c := range []struct{ of, disk, want int64 }{
		{before + 100, (before + 99) * 1e9, before + 100},
		{before, (before + 99) * 1e9, before + 99 - lag},
		{before - 5, (before - 9) * 1e9, before + 1},
		{Oldest, 0, before + 1},
		{Oldest + 77, (before + 1000) * 1e9, before + 1000 - lag},
		{Oldest + 77, (now + 50) * 1e9, now - lag},
	} {
		if got := Since(before, c.of, c.disk, now); got != c.want {
			t.Errorf("of %d, disk %d: %d, want %d", c.of, c.disk, got, c.want)
		}
	}
}

// context makes files that share milliseconds, published times, both or neither.
func context(rnd *rand.Rand, n int) ([]ContextFile, []int64) {
	files, published := make([]ContextFile, n), make([]int64, n)
	ticks, times := 1+rnd.IntN(n), 1+rnd.IntN(2*n)
	base := []int64{-1_000, 0, 999, 1_700_000_000_000, 4_102_444_799_995}[rnd.IntN(5)]
	for i := range files {
		files[i] = ContextFile{
			Path:   fmt.Sprintf("d/%d", i),
			Disk:   (base+int64(rnd.IntN(ticks)))*1e6 + rnd.Int64N(1e6),
			Digest: digest.FromString(fmt.Sprint(rnd.IntN(n))),
		}
		published[i] = Oldest + int64(rnd.IntN(times))
	}
	return files, published
}

func stamps(files []ContextFile, published []int64) []int64 {
	return Stamps(files, func(i int) int64 { return published[i] })
}

func TestStamps(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		files, published := context(rnd, 1+rnd.IntN(300))
		got := stamps(files, published)
		for i, s := range got {
			if floor(s, 1e6) != floor(files[i].Disk, 1e6) {
				t.Fatalf("seed %d: %d is given as %d", seed, files[i].Disk, s)
			}
			if s%1e9 == 0 {
				t.Fatalf("seed %d: %d is a whole second", seed, s)
			}
			for j, o := range got {
				sameTick := floor(files[i].Disk, 1e6) == floor(files[j].Disk, 1e6)
				switch {
				case published[i] != published[j] && s == o:
					t.Fatalf("seed %d: %d stands for %d and %d", seed, s, published[i], published[j])
				case published[i] == published[j] && sameTick && s != o:
					t.Fatalf("seed %d: one group has %d and %d", seed, s, o)
				case published[i] < published[j] && sameTick && s > o:
					t.Fatalf("seed %d: the older has the later stamp", seed)
				case files[i].Disk < files[j].Disk && !sameTick && s >= o:
					t.Fatalf("seed %d: the order on disk is lost", seed)
				}
			}
		}
		known := Know(got, func(i int) int64 { return published[i] })
		for i, s := range got {
			if known[s] != published[i] {
				t.Fatalf("seed %d: %d is known as %d, not as %d", seed, s, known[s], published[i])
			}
		}

		order := rnd.Perm(len(files))
		mixed, mixedPublished := make([]ContextFile, len(files)), make([]int64, len(files))
		for i, from := range order {
			mixed[i], mixedPublished[i] = files[from], published[from]
		}
		for i, s := range stamps(mixed, mixedPublished) {
			if s != got[order[i]] {
				t.Fatalf("seed %d: the order of the files shows", seed)
			}
		}
		twice := stamps(append(files, files...), append(published, published...))
		if !slices.Equal(twice[:len(files)], got) || !slices.Equal(twice[len(files):], got) {
			t.Fatalf("seed %d: it shows that files are named twice", seed)
		}
	}
}

func TestStampsOfOtherMillisecondsStay(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		files, published := context(rnd, 2+rnd.IntN(100))
		before := stamps(files, published)
		changed, times := slices.Clone(files), slices.Clone(published)
		tick := floor(files[0].Disk, 1e6)
		for i := range changed {
			if floor(changed[i].Disk, 1e6) == tick {
				changed[i].Digest, times[i] = digest.FromString("new"), Oldest+rnd.Int64N(50)
			}
		}
		for i, s := range stamps(changed, times) {
			if floor(files[i].Disk, 1e6) != tick && s != before[i] {
				t.Fatalf("seed %d: %s has a new stamp", seed, files[i].Path)
			}
		}
	}
}

// A content that changed under the same size and time on disk shows, and so does
// one that moved from file to file.
func TestStampsShowChangedContents(t *testing.T) {
	hidden := 0
	for i := range 1000 {
		a := []ContextFile{{Path: "a", Disk: 5e18, Digest: digest.FromString("1")}, {Path: "b", Disk: 5e18, Digest: digest.FromString(fmt.Sprint(i))}}
		b := slices.Clone(a)
		b[1].Digest = digest.FromString(fmt.Sprint("other", i))
		c := slices.Clone(a)
		c[0].Digest, c[1].Digest = a[1].Digest, a[0].Digest
		times := []int64{Oldest, Oldest}
		if stamps(a, times)[0] == stamps(b, times)[0] {
			hidden++
		}
		if i != 1 && stamps(a, times)[0] == stamps(c, times)[0] {
			hidden++
		}
	}
	if hidden > 2 { // one in 15,623 is expected to
		t.Errorf("%d of 2,000 changes are hidden", hidden)
	}
}

func TestStampsOfManyPublishedTimes(t *testing.T) {
	for _, n := range []int{64, 65, 1000, 333_333} {
		files := make([]ContextFile, n)
		for i := range files {
			files[i] = ContextFile{Path: fmt.Sprint(i), Disk: 1_700_000_000e9, Digest: "sha256:0"}
		}
		last := int64(1_700_000_000e9)
		for i, s := range Stamps(files, func(i int) int64 { return Oldest + int64(i) }) {
			if s <= last || s >= 1_700_000_000_001e6 {
				t.Fatalf("%d times: stamp %d is %d after %d", n, i, s, last)
			}
			last = s
		}
	}
}

func TestFolders(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		files := map[string]int64{}
		for range rnd.IntN(30) {
			p := path.Join(fmt.Sprint("d", rnd.IntN(3)), fmt.Sprint("d", rnd.IntN(3)), fmt.Sprint("d", rnd.IntN(3)))
			files[strings.Join(strings.Split(p, "/")[:1+rnd.IntN(3)], "/")+"/f"] = Oldest - 5 + rnd.Int64N(100)
		}
		dirs := []string{".", "d0", "d1", "d2", "d0/d0", "d1/d2", "d2/d2/d2", "empty", "d"}
		want := map[string]int64{}
		for _, d := range dirs {
			want[d] = Oldest
			for p, t := range files {
				if d == "." || strings.HasPrefix(p, d+"/") {
					want[d] = max(want[d], t)
				}
			}
		}
		if diff := cmp.Diff(want, Folders(files, dirs)); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

func BenchmarkStamps100000(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	files := make([]ContextFile, 100_000)
	for i := range files {
		files[i] = ContextFile{
			Path: fmt.Sprintf("some/folder/of/a/project/%d", i), Disk: 1_700_000_000e9 + rnd.Int64N(10e9),
			Digest: digest.FromString(fmt.Sprint(i)),
		}
	}
	for b.Loop() {
		Stamps(files, func(i int) int64 { return Oldest + int64(i%1000) })
	}
}
