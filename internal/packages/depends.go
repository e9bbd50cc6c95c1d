package packages

import (
	"slices"
	"strings"
)

// relation is one package that another asks for or can't stand.
type relation struct {
	name    string
	arch    string // dpkg's qualifier: "", "any", "native" or an architecture
	op      string // "" for any version
	version string
}

// String writes the relation as the package manager does.
func (r relation) text(k Kind) string {
	s := r.name
	switch {
	case k == Apk:
		return s + r.op + r.version
	case r.arch != "":
		s += ":" + r.arch
	}
	if r.op != "" {
		s += " (" + r.op + " " + r.version + ")"
	}
	return s
}

// rule is a demand of a package on the others.
type rule struct {
	field string     // "Depends"
	any   []relation // one of them must be there
	none  bool       // or none may be there
}

func (r rule) text(k Kind) string {
	var alternatives []string
	for _, x := range r.any {
		alternatives = append(alternatives, x.text(k))
	}
	return strings.Join(alternatives, " | ")
}

// rules gives what a package demands of those that it is installed with.
func (p *Package) rules(k Kind) []rule {
	var out []rule
	if k == Apk {
		for _, word := range strings.Fields(p.fields["D"]) {
			name, none := strings.CutPrefix(word, "!")
			if r, ok := apkRelation(name); ok {
				out = append(out, rule{field: "depends", any: []relation{r}, none: none})
			}
		}
		return out
	}
	for _, field := range []string{"Pre-Depends", "Depends"} {
		for clause := range strings.SplitSeq(p.fields[field], ",") {
			if any := dpkgRelations(clause, "|"); len(any) > 0 {
				out = append(out, rule{field: field, any: any})
			}
		}
	}
	for _, field := range []string{"Conflicts", "Breaks"} {
		for _, r := range dpkgRelations(p.fields[field], ",") {
			out = append(out, rule{field: field, any: []relation{r}, none: true})
		}
	}
	return out
}

func dpkgRelations(list, separator string) []relation {
	var out []relation
	for part := range strings.SplitSeq(list, separator) {
		name, version, _ := strings.Cut(part, "(")
		var r relation
		r.name, r.arch, _ = strings.Cut(strings.TrimSpace(name), ":")
		if r.name == "" {
			continue
		}
		version, _, _ = strings.Cut(version, ")")
		version = strings.TrimSpace(version)
		i := 0
		for i < len(version) && strings.IndexByte("<>=", version[i]) >= 0 {
			i++
		}
		r.op, r.version = version[:i], strings.TrimSpace(version[i:])
		out = append(out, r)
	}
	return out
}

func apkRelation(word string) (relation, bool) {
	if i := strings.IndexByte(word, '@'); i > 0 { // the name of a repository
		word = word[:i]
	}
	i := strings.IndexAny(word, "<>=~")
	if i < 0 {
		return relation{name: word}, word != ""
	}
	r := relation{name: word[:i]}
	rest := word[i:]
	r.version = strings.TrimLeft(rest, "<>=~")
	r.op = rest[:len(rest)-len(r.version)]
	return r, r.name != ""
}

// holds says whether a version is what a relation asks for.
func (r relation) holds(k Kind, version string) bool {
	c := Compare(k, version, r.version)
	if k == Apk {
		switch {
		case r.op == "><": // a checksum, which only apk can compare
			return true
		case strings.Contains(r.op, "~") && hasApkPrefix(version, r.version):
			return true
		}
		return strings.Contains(r.op, "<") && c < 0 || strings.Contains(r.op, ">") && c > 0 ||
			strings.Contains(r.op, "=") && c == 0
	}
	switch r.op {
	case "<<":
		return c < 0
	case "<=", "<": // "<" is an old way to write "<="
		return c <= 0
	case "=":
		return c == 0
	case ">=", ">":
		return c >= 0
	case ">>":
		return c > 0
	}
	return r.op == ""
}

// offer is a name under which a package can be asked for.
type offer struct {
	by      *Package
	version string // "" when it is offered without one
	virtual bool
}

// world is a set of packages that are installed together.
type world struct {
	kind   Kind
	native string
	offers map[string][]offer
}

func newWorld(db *DB, native string) *world {
	w := &world{native: native, offers: map[string][]offer{}}
	if db != nil {
		w.kind = db.Kind
	}
	for i := range db.list() {
		p := &db.Packages[i]
		if !p.Installed {
			continue
		}
		w.offers[p.Name] = append(w.offers[p.Name], offer{by: p, version: p.Version})
		for _, r := range p.provides(db.Kind) {
			w.offers[r.name] = append(w.offers[r.name], offer{by: p, version: r.version, virtual: true})
		}
	}
	return w
}

func (p *Package) provides(k Kind) []relation {
	if k != Apk {
		return dpkgRelations(p.fields["Provides"], ",")
	}
	var out []relation
	for _, word := range strings.Fields(p.fields["p"]) {
		if r, ok := apkRelation(word); ok {
			out = append(out, r)
		}
	}
	return out
}

// holds says whether a package's demand is met.
func (w *world) holds(p *Package, r rule) bool {
	met := slices.ContainsFunc(r.any, func(x relation) bool {
		return slices.ContainsFunc(w.offers[x.name], func(o offer) bool { return w.fits(p, x, o, r.none) })
	})
	return met != r.none
}

// fits says whether an offer is what a relation of p names. A package does not
// conflict with itself or with what it provides.
func (w *world) fits(p *Package, x relation, o offer, none bool) bool {
	if none && o.by.Name == p.Name {
		return false
	}
	if x.op != "" && (o.version == "" || !x.holds(w.kind, o.version)) {
		return false
	}
	return w.kind == Apk || w.rightArch(p, x, o, none)
}

// rightArch follows dpkg's rules for several architectures in one system.
func (w *world) rightArch(p *Package, x relation, o offer, none bool) bool {
	of := func(a string) string {
		if a == "all" || a == "" {
			return w.native
		}
		return a
	}
	multi := o.by.fields["Multi-Arch"]
	switch x.arch {
	case "any":
		return none || multi == "allowed" || multi == "foreign" || of(o.by.Arch) == of(p.Arch)
	case "":
		return none || multi == "foreign" || of(o.by.Arch) == of(p.Arch)
	case "native":
		return of(o.by.Arch) == w.native
	}
	return of(o.by.Arch) == x.arch
}
