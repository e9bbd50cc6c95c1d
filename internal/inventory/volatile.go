package inventory

import (
	"fmt"
	"path"
	"strings"
)

// volatile lists what a build writes differently each time without meaning
// anything by it: logs, indexes of the day, files that hold a time. Folders that
// a program may keep its data in, such as /tmp and /root/.cache, are not here. A
// pattern that ends in a slash means everything below; others are matched by
// [path.Match].
var volatile = []string{
	"root/.npm/_logs/",
	"var/log/", // apt, dpkg, alternatives: lines with times
	"var/cache/apt/",
	"var/cache/debconf/*-old",
	"var/cache/ldconfig/aux-cache", // inode numbers and times
	"var/lib/apt/lists/",           // the index of the day; what was installed is elsewhere
	"var/lib/dpkg/*-old",
	"etc/.pwd.lock",
}

// Volatile says whether a path, relative to the root, is one whose content does
// not tell two images apart.
func Volatile(p string) bool {
	// Compiled Python holds the time of its source, which is compared itself.
	if strings.HasSuffix(p, ".pyc") && path.Base(path.Dir(p)) == "__pycache__" {
		return true
	}
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

// Lasting says whether other files may be made from what stands at a path, so that
// they must not be dated before it. Logs and package indexes are of the day, and
// nothing is made from them; compiled Python is volatile, and read.
func Lasting(p string) bool { return strings.HasSuffix(p, ".pyc") || !Volatile(p) }

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
