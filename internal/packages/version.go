package packages

import (
	"cmp"
	"slices"
	"strings"
)

// Compare orders two versions as the package manager does: negative when a is
// the older one.
func Compare(kind Kind, a, b string) int {
	if kind == Apk {
		return compareApk(a, b)
	}
	return compareDpkg(a, b)
}

// compareDpkg follows deb-version(7): the epoch as a number, then the upstream
// version, then the revision.
func compareDpkg(a, b string) int {
	ae, au, ar := splitDpkg(a)
	be, bu, br := splitDpkg(b)
	return cmp.Or(compareNumbers(ae, be), compareDpkgPart(au, bu), compareDpkgPart(ar, br))
}

func splitDpkg(v string) (epoch, upstream, revision string) {
	v = strings.TrimSpace(v)
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// compareDpkgPart goes through both from the left: what is no digit by its
// order, then the number that follows, until one of them differs.
func compareDpkgPart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := cmp.Compare(orderDpkg(a), orderDpkg(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // equal and not both at an end: neither is
		}
		var m, n string
		m, a = digits(a)
		n, b = digits(b)
		if c := compareNumbers(m, n); c != 0 {
			return c
		}
	}
	return 0
}

// orderDpkg is the weight of a text's first character among what is no digit:
// a tilde before the end, the end before letters, letters before the rest.
func orderDpkg(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isLetter(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func digits(s string) (number, rest string) {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// compareNumbers compares numbers of any length; none is zero.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// The parts of an apk version in the order in which they may follow each other
// (apk-package(5): number{.number}...{letter}{_suffix{number}}...{~hash}{-r#}).
// Where two versions go on with different parts, the one whose part comes
// earlier in this list is the newer one, unless the other's is a suffix of a
// version to come.
const (
	partNumber = iota
	partLetter
	partSuffix
	partSuffixNumber
	partHash
	partRevision
	partEnd
	partInvalid
)

type apkPart struct {
	kind int
	text string
}

// apkSuffixes in their order; the first four come before the version
// without a suffix.
var apkSuffixes = []string{"alpha", "beta", "pre", "rc", "cvs", "svn", "git", "hg", "p"}

const apkPreReleases = 4

func (p apkPart) preRelease() bool {
	i := slices.Index(apkSuffixes, p.text)
	return p.kind == partSuffix && i >= 0 && i < apkPreReleases
}

// splitApk cuts a version into its parts; the last is its end, or what is no
// version any more.
func splitApk(v string) []apkPart {
	var parts []apkPart
	n, rest := digits(v)
	if n == "" {
		return []apkPart{{partInvalid, v}}
	}
	parts = append(parts, apkPart{partNumber, n})
	for rest != "" {
		var p apkPart
		last := parts[len(parts)-1].kind
		if p, rest = nextApk(rest, last); p.kind == partInvalid {
			return append(parts, p)
		}
		parts = append(parts, p)
	}
	return append(parts, apkPart{partEnd, ""})
}

// nextApk cuts the next part off what is left of a version, as far as it may
// follow the last one.
func nextApk(s string, last int) (apkPart, string) {
	invalid := apkPart{partInvalid, s}
	switch {
	case isDigit(s[0]) && last == partSuffix:
		n, rest := digits(s)
		return apkPart{partSuffixNumber, n}, rest
	case s[0] == '.' && last == partNumber:
		if n, rest := digits(s[1:]); n != "" {
			return apkPart{partNumber, n}, rest
		}
	case 'a' <= s[0] && s[0] <= 'z' && last == partNumber:
		return apkPart{partLetter, s[:1]}, s[1:]
	case s[0] == '_' && last <= partSuffixNumber:
		i := 1
		for i < len(s) && 'a' <= s[i] && s[i] <= 'z' {
			i++
		}
		if slices.Contains(apkSuffixes, s[1:i]) {
			return apkPart{partSuffix, s[1:i]}, s[i:]
		}
	case s[0] == '~' && last <= partSuffixNumber:
		hash := strings.TrimLeft(s[1:], "0123456789abcdef")
		if n := len(s) - len(hash); n > 1 {
			return apkPart{partHash, s[1:n]}, hash
		}
	case strings.HasPrefix(s, "-r") && last < partRevision:
		if n, rest := digits(s[2:]); n != "" {
			return apkPart{partRevision, n}, rest
		}
	}
	return invalid, ""
}

func compareApk(a, b string) int {
	as, bs := splitApk(a), splitApk(b)
	for i := range min(len(as), len(bs)) {
		p, q := as[i], bs[i]
		if p.kind != q.kind {
			switch {
			case p.preRelease():
				return -1
			case q.preRelease():
				return 1
			}
			return cmp.Compare(q.kind, p.kind)
		}
		if c := compareApkPart(i, p, q); c != 0 {
			return c
		}
	}
	return 0
}

func compareApkPart(at int, p, q apkPart) int {
	switch p.kind {
	case partNumber:
		// Behind the first point a number with a leading zero is a fraction.
		if at > 0 && (leadingZero(p.text) || leadingZero(q.text)) {
			return strings.Compare(p.text, q.text)
		}
		return compareNumbers(p.text, q.text)
	case partSuffixNumber, partRevision:
		return compareNumbers(p.text, q.text)
	case partSuffix:
		return cmp.Compare(slices.Index(apkSuffixes, p.text), slices.Index(apkSuffixes, q.text))
	}
	return strings.Compare(p.text, q.text)
}

func leadingZero(s string) bool { return len(s) > 0 && s[0] == '0' }

// hasApkPrefix says whether a version is another or a closer description of it:
// 1.2.3-r1 is a 1.2.
func hasApkPrefix(v, prefix string) bool {
	parts, want := splitApk(v), splitApk(prefix)
	want = want[:len(want)-1]
	if len(want) == 0 || len(parts) < len(want) {
		return false
	}
	for i, w := range want {
		if parts[i].kind != w.kind || compareApkPart(i, parts[i], w) != 0 {
			return false
		}
	}
	return true
}
