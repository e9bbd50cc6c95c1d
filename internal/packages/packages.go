// Package packages reads the databases in which a distribution's package
// manager notes what it has installed in an image: dpkg's and apk's.
//
// It takes and gives bytes and values. A database is a list of stanzas, one a
// package, of which it keeps the exact text; [Diff] says what changed between
// two of them, and [Merge] brings what an image installed on its old parent
// together with what a new parent holds, or says why that can't be done. An rpm
// database is recognised but not read. The package does no I/O.
package packages

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// Kind is a package manager's form of database.
type Kind string

// The kinds.
const (
	Dpkg Kind = "dpkg"
	Apk  Kind = "apk"
	Rpm  Kind = "rpm" // recognised only
)

// ErrRpm says that a database is there but of a form that is not read. What an
// image with one has installed is not known; it is never "nothing".
var ErrRpm = errors.New("not read: rpm database")

// DpkgParts is the folder in which images without a package manager note one
// package a file.
const DpkgParts = "var/lib/dpkg/status.d"

// files are the databases that are one file, relative to an image's root.
var files = map[string]Kind{
	"var/lib/dpkg/status":      Dpkg,
	"lib/apk/db/installed":     Apk,
	"usr/lib/apk/db/installed": Apk,
}

// rpmFolders hold rpm's databases, of whichever of its forms.
var rpmFolders = []string{"var/lib/rpm", "usr/lib/sysimage/rpm"}

var rpmFiles = []string{"Packages", "Packages.db", "rpmdb.sqlite"}

// Recognise says whether a path of an image, relative to its root, is a package
// database or, for dpkg, a part of one.
func Recognise(p string) (Kind, bool) {
	if k, ok := files[p]; ok {
		return k, true
	}
	dir, name := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	switch {
	case dir == DpkgParts && !strings.HasSuffix(name, ".md5sums"):
		return Dpkg, true
	case slices.Contains(rpmFolders, dir) && slices.Contains(rpmFiles, name):
		return Rpm, true
	}
	return "", false
}

// Package is one stanza of a database. It is immutable.
type Package struct {
	Name      string
	Arch      string // "amd64", "all", "x86_64"
	Version   string
	Source    string // the source package or origin; "" when it is the same
	Installed bool   // its files are there; dpkg also notes packages that only left their settings
	Text      string // the stanza as it stands, without the line break at its end

	fields map[string]string
}

// DB is a package database. It is immutable; nil is one without packages.
type DB struct {
	Kind     Kind
	Packages []Package // in the order of the file

	end string // what follows the last stanza
}

// Join gives one database of the packages of several, as those that are kept in
// many files, in the order given. Those that are nil are left out.
func Join(dbs ...*DB) *DB {
	var out *DB
	for _, db := range dbs {
		if db == nil {
			continue
		}
		if out == nil {
			out = &DB{Kind: db.Kind, end: "\n\n"}
		}
		out.Packages = append(out.Packages, db.Packages...)
	}
	return out
}

// Len gives the number of packages that are installed.
func (db *DB) Len() int {
	n := 0
	for _, p := range db.list() {
		if p.Installed {
			n++
		}
	}
	return n
}

func (db *DB) list() []Package {
	if db == nil {
		return nil
	}
	return db.Packages
}

// id is what identifies a package in a database: dpkg installs one name for
// several architectures; "all" counts as the machine's own, so that a package
// that becomes independent of it stays the same one.
type id struct{ name, arch string }

func (db *DB) ids(native string) map[id]*Package {
	out := map[id]*Package{}
	for i := range db.list() {
		p := &db.Packages[i]
		out[p.id(db.Kind, native)] = p
	}
	return out
}

func (p *Package) id(k Kind, native string) id {
	switch {
	case k == Apk:
		return id{p.Name, ""}
	case p.Arch == "all" || p.Arch == "":
		return id{p.Name, native}
	}
	return id{p.Name, p.Arch}
}

// native gives the architecture that most packages of some databases are for.
func native(dbs ...*DB) string {
	count := map[string]int{}
	for _, db := range dbs {
		for _, p := range db.list() {
			if p.Arch != "all" && p.Arch != "" {
				count[p.Arch]++
			}
		}
	}
	best := ""
	for arch, n := range count {
		if n > count[best] || n == count[best] && arch < best {
			best = arch
		}
	}
	return best
}

// same says whether two stanzas say the same, however they are written.
func (p *Package) same(q *Package) bool {
	if p == nil || q == nil {
		return p == q
	}
	if p.Text == q.Text {
		return true
	}
	return p.fields["Package"] != "" && mapsEqual(p.fields, q.fields)
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
