package times

import (
	"bytes"
	"encoding/csv"
	"path"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// An installer unpacks an archive and dates the files "now". They are made from
// nothing in the image, and so their time may be one that does not depend on
// the day or on what is below: then a package that did not change comes out byte
// for byte the same.

// owned says which of a layer's paths are of packages. Made says which the engine
// has dated.
func owned(entries []Entry, made func(path string) bool, read func(string) ([]byte, error)) func(path string) bool {
	roots, files := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		if e.Kind != inventory.File || !made(e.Path) {
			continue
		}
		switch name := path.Base(e.Path); {
		case name == "RECORD" && strings.HasSuffix(dir(e.Path), ".dist-info"):
			if data, err := read(e.Path); err == nil && !installedFromFolder(dir(e.Path), read) {
				listed(dir(dir(e.Path)), data, files)
			}
		case name == "package.json" && isNodeModule(dir(e.Path)):
			roots[dir(e.Path)] = true
		case strings.HasSuffix(name, ".gemspec") && path.Base(dir(e.Path)) == "specifications":
			roots[path.Join(dir(dir(e.Path)), "gems", strings.TrimSuffix(name, ".gemspec"))] = true
		}
	}
	return func(p string) bool {
		if files[p] || dir(p) == "var/lib/dpkg/info" || ofNpm(p) {
			return true
		}
		for at := p; at != ""; at = dir(at) {
			if roots[at] {
				return true
			}
		}
		return false
	}
}

// ofNpm says whether a path is npm's own among its packages: a folder of them, or
// the lockfile in it, which counts for npm as long as none of these is newer.
func ofNpm(p string) bool {
	name, in := path.Base(p), path.Base(dir(p)) == "node_modules"
	return name == "node_modules" || in && (name == ".package-lock.json" || strings.HasPrefix(name, "@"))
}

// isNodeModule says whether a folder is a package in node_modules: NAME, or
// @SCOPE/NAME.
func isNodeModule(p string) bool {
	up := dir(p)
	if strings.HasPrefix(path.Base(up), "@") {
		up = dir(up)
	}
	return path.Base(up) == "node_modules" && !strings.HasPrefix(path.Base(p), ".")
}

// installedFromFolder says whether a distribution was installed from a folder of
// sources (PEP 610): its files are made from those, and no archive had them.
func installedFromFolder(info string, read func(string) ([]byte, error)) bool {
	data, err := read(path.Join(info, "direct_url.json"))
	return err == nil && bytes.Contains(data, []byte(`"dir_info"`))
}

// listed adds the paths of a RECORD, which are relative to the folder that it
// installs into.
func listed(site string, record []byte, files map[string]bool) {
	r := csv.NewReader(bytes.NewReader(record))
	r.FieldsPerRecord, r.LazyQuotes, r.ReuseRecord = -1, true, true
	for {
		fields, err := r.Read()
		if err != nil {
			return
		}
		if p := path.Join("/", site, fields[0]); fields[0] != "" && !path.IsAbs(fields[0]) {
			files[p[1:]] = true
		}
	}
}
