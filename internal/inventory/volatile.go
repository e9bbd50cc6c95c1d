package inventory

import (
	"fmt"
	"path"
	"strings"
)

// volatile lists what a build writes differently each time without meaning
// anything by it: logs, caches, files that hold a time. A pattern that ends in a
// slash means everything below; others are matched by [path.Match].
var volatile = []string{
	"tmp/",
	"run/",
	"root/.cache/",
	"root/.npm/",
	"var/log/", // apt, dpkg, alternatives: lines with times
	"var/tmp/",
	"var/cache/apt/",
	"var/cache/apk/",
	"var/cache/yum/",
	"var/cache/dnf/",
	"var/cache/ldconfig/aux-cache", // inode numbers and times
	"var/cache/debconf/*-old",
	"var/lib/apt/lists/", // the index of the day; what was installed is elsewhere
	"var/lib/dpkg/*-old",
	"var/lib/systemd/catalog/database",
	"var/lib/systemd/random-seed",
	"etc/.pwd.lock",
}

// Volatile says whether a path, relative to the root, is one whose content does
// not tell two images apart.
func Volatile(p string) bool {
	for _, v := range volatile {
		if strings.HasSuffix(v, "/") && strings.HasPrefix(p, v) {
			return true
		}
		if ok, _ := path.Match(v, p); ok {
			return true
		}
	}
	return false
}

// Alike says whether two images differ in volatile paths alone. Both must be
// full.
func Alike(a, b *Inventory) (bool, error) {
	diffs, err := Diff(a, b)
	if err != nil {
		return false, fmt.Errorf("telling images apart: %w", err)
	}
	for _, d := range diffs {
		if !Volatile(d.Path) {
			return false, nil
		}
	}
	return true, nil
}
