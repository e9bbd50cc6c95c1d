package packages

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// TestCompareWithDpkg asks the real dpkg about the same versions.
func TestCompareWithDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Fatal("there is no dpkg on this machine to compare with: run it on Debian, as CI does")
	}
	versions := []string{
		"1", "1.0", "1.0-1", "1.0-0", "0:1.0", "1:0.1", "2:1~rc1-1", "1.0~rc1", "1.0~", "1.0~~", "1.0~~a", "1.0a", "1.0+b1", "1.0.1",
		"1.0-1+deb12u1", "1.0-1+deb12u10", "1.0-1+deb12u9", "1.0-1~bpo11+1", "1.0+dfsg-1", "1.0-1.1", "2.36-9+deb12u8", "2.36-9+deb12u13",
		"9.1-1", "10.1-1", "01.02", "1.2", "0", "0~", "1a", "1A", "1.a", "1.+", "1.-1", "20240203", "1.0-1ubuntu2", "1:1.0-1-2",
	}
	random := rand.New(rand.NewPCG(1, 2))
	const letters = "0123456789019~~+-.aAzZ"
	for range 60 {
		b := []byte{byte('0' + random.IntN(10))}
		for range random.IntN(7) {
			b = append(b, letters[random.IntN(len(letters))])
		}
		versions = append(versions, strings.TrimRight(string(b), "-")) // dpkg refuses an empty revision
	}
	// One process compares many: a shell asks for every pair.
	var script, want strings.Builder
	for i, a := range versions {
		for _, b := range []string{versions[(i*7+3)%len(versions)], versions[(i*5+1)%len(versions)], versions[(i+1)%len(versions)], a} {
			op := [3]string{"lt", "eq", "gt"}[Compare(Dpkg, a, b)+1]
			fmt.Fprintf(&script, "%s --compare-versions '%s' %s '%s' 2>/dev/null && echo ok || echo '%s is not %s %s'\n", dpkg, a, op, b, a, op, b)
			want.WriteString("ok\n")
		}
	}
	out, err := exec.Command("sh", "-c", script.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if string(out) != want.String() {
		for line := range strings.Lines(string(out)) {
			if line != "ok\n" {
				t.Error(strings.TrimSpace(line))
			}
		}
	}
}

// TestCompareDpkg has what deb-version(7) says, for machines without dpkg.
func TestCompareDpkg(t *testing.T) {
	checkOrder(t, Dpkg, [][]string{
		{"1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a", "1.0+b1", "1.0.1", "1.2", "1.10"},
		{"1.0-1~bpo11+1", "1.0-1", "1.0-1+deb12u9", "1.0-1+deb12u10", "1.0-1.1", "1.0-2"},
		{"9999:1", "10000:0"},
		{"5.0", "1:0.1", "2:0.1"},
	})
	for _, same := range [][2]string{{"1.0", "0:1.0"}, {"1.0", "1.0-0"}, {"1.02", "1.2"}, {"1.0-", "1.0"}} {
		if c := Compare(Dpkg, same[0], same[1]); c != 0 {
			t.Errorf("Compare(%q, %q) = %d, want 0", same[0], same[1], c)
		}
	}
}

// TestCompareApk has chains in which each version is newer than the one before.
// They follow apk-package(5) and were checked against what apk says.
func TestCompareApk(t *testing.T) {
	checkOrder(t, Apk, [][]string{
		{"1.0_alpha", "1.0_alpha2", "1.0_beta", "1.0_pre3", "1.0_rc1", "1.0", "1.0_cvs", "1.0_svn", "1.0_git20240101", "1.0_hg", "1.0_p1", "1.0_p10", "1.0a", "1.0b", "1.0.1"},
		{"1.2.3", "1.2.3-r0", "1.2.3-r1", "1.2.3-r10", "1.2.3_p1", "1.2.3a-r1", "1.2.3.1-r0", "1.2.4"},
		{"0.1.0_alpha_pre2", "0.1.0_alpha", "0.1.0_alpha2", "0.1.3_alpha"},
		{"1.3_pre1-r1", "1.3", "1.3.2"},
		{"1.3-r0", "1.3.1-r0"},
		{"1.02", "1.02.10-r1", "1.06-r1", "1.06-r2", "1.07.5", "1.12", "3.0"},
		{"1.0.0", "1.2", "006", "021109-r3", "20060512"}, // the first number is one, whatever it begins with
		{"2.2.10", "2.3.6", "5b-r9", "6b-r7"},
		{"1.36.1-r2", "1.36.1-r15", "1.37.0-r0"},
		{"1.0_git1~abc", "1.0_git1~abd", "1.0_git2~aaa"},
		{"2.1.9.200602141850", "2.1.10", "2.5.1-r8", "2.5.1a-r1"},
	})
	for _, same := range [][2]string{{"1.0", "1.0"}, {"01.0", "1.0"}, {"1.0-r01", "1.0-r1"}, {"3.4.6-r2", "3.4.6-r2"}} {
		if c := Compare(Apk, same[0], same[1]); c != 0 {
			t.Errorf("Compare(%q, %q) = %d, want 0", same[0], same[1], c)
		}
	}
}

func checkOrder(t *testing.T, kind Kind, chains [][]string) {
	t.Helper()
	for _, chain := range chains {
		for i, a := range chain {
			for j, b := range chain {
				want := 0
				switch {
				case i < j:
					want = -1
				case i > j:
					want = 1
				}
				if c := Compare(kind, a, b); sign(c) != want {
					t.Errorf("Compare(%s, %q, %q) = %d, want %d", kind, a, b, c, want)
				}
			}
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func FuzzCompare(f *testing.F) {
	f.Add("1.0-1", "1:1.0~rc1", "1.0+b")
	f.Add("1.0_alpha2-r3", "1.0a", "1.0~abc-r1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for _, kind := range []Kind{Dpkg, Apk} {
			ab, ba := sign(Compare(kind, a, b)), sign(Compare(kind, b, a))
			if ab != -ba {
				t.Errorf("%s: %q and %q: %d and %d", kind, a, b, ab, ba)
			}
			if Compare(kind, a, a) != 0 {
				t.Errorf("%s: %q is not itself", kind, a)
			}
			if kind == Dpkg && ab <= 0 && Compare(kind, b, c) <= 0 && Compare(kind, a, c) > 0 {
				t.Errorf("%s: %q <= %q <= %q, but not the ends", kind, a, b, c)
			}
		}
	})
}
