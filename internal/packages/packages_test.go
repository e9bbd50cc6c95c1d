package packages

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func stanza(lines ...string) string { return strings.Join(lines, "\n") }

// pkg is a stanza of dpkg's: "name version" and further fields.
func pkg(name, version string, fields ...string) string {
	arch := "amd64"
	fields = slices.DeleteFunc(slices.Clone(fields), func(f string) bool {
		v, ok := strings.CutPrefix(f, "Architecture: ")
		if ok {
			arch = v
		}
		return ok
	})
	return stanza(append([]string{"Package: " + name, "Status: install ok installed", "Architecture: " + arch, "Version: " + version}, fields...)...)
}

func parse(t *testing.T, kind Kind, stanzas ...string) *DB {
	t.Helper()
	db, err := Parse(kind, []byte(strings.Join(stanzas, "\n\n")+"\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func names(db *DB) []string {
	var out []string
	for _, p := range db.list() {
		out = append(out, p.Name+" "+p.Version)
	}
	return out
}

func TestRecognise(t *testing.T) {
	for path, want := range map[string]Kind{
		"var/lib/dpkg/status":                   Dpkg,
		"var/lib/dpkg/status.d/base-files":      Dpkg,
		"var/lib/dpkg/status.d/base.md5sums":    "",
		"var/lib/dpkg/status.d":                 "",
		"var/lib/dpkg/status.d/x/y":             "",
		"var/lib/dpkg/status-old":               "",
		"lib/apk/db/installed":                  Apk,
		"usr/lib/apk/db/installed":              Apk,
		"var/lib/rpm/Packages":                  Rpm,
		"var/lib/rpm/rpmdb.sqlite":              Rpm,
		"usr/lib/sysimage/rpm/Packages.db":      Rpm,
		"usr/lib/sysimage/rpm/rpmdb.sqlite-wal": "",
	} {
		got, ok := Recognise(path)
		if got != want || ok != (want != "") {
			t.Errorf("Recognise(%q) = %q, %v", path, got, ok)
		}
	}
}

func TestParse(t *testing.T) {
	db := parse(t, Dpkg,
		stanza("package: libc6", "Status: install ok installed", "Architecture: amd64", "Multi-Arch: same", "Source: glibc (2.36-9)", "Version: 2.36-9+deb12u8", "Description: C", " a long", " .", " text", "X-Unknown: kept"),
		stanza("Package: gone", "Status: deinstall ok config-files", "Version: 1", "Architecture: all", "Conffiles:", " /etc/gone 0123"),
		stanza("Package: distroless", "Version: 2", "Architecture: all"),
	)
	type row struct {
		Name, Arch, Version, Source string
		Installed                   bool
	}
	var got []row
	for _, p := range db.Packages {
		got = append(got, row{p.Name, p.Arch, p.Version, p.Source, p.Installed})
	}
	want := []row{
		{"libc6", "amd64", "2.36-9+deb12u8", "glibc", true},
		{"gone", "all", "1", "", false},
		{"distroless", "all", "2", "", true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if db.Len() != 2 {
		t.Errorf("Len() = %d, want 2", db.Len())
	}
	apk := parse(t, Apk, stanza("C:Q1abc=", "P:musl", "V:1.2.4-r2", "A:x86_64", "o:musl", "p:so:libc.musl-x86_64.so.1=1", "F:lib", "R:ld-musl-x86_64.so.1", "a:0:0:755", "Z:Q1x=", "F:usr"))
	if p := apk.Packages[0]; p.Name != "musl" || p.Version != "1.2.4-r2" || p.Arch != "x86_64" || !p.Installed {
		t.Errorf("%+v", p)
	}
	if _, err := Parse(Rpm, []byte("anything")); !errors.Is(err, ErrRpm) {
		t.Errorf("rpm: %v", err)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct {
		kind Kind
		text string
		want string
	}{
		{Dpkg, pkg("a", "1") + "\n\n\nVersion: 2\n", "reading the dpkg database: the package in line 7: it has no name"},
		{Dpkg, "Package: a\nnothing here\n", `the package in line 1: the line "nothing here" is no field`},
		{Dpkg, " more\n", "it begins in the middle of a field"},
		{Apk, "P:a\nV:1\n\nV:2\n", "the package in line 4: it has no name"},
		{Apk, "\x00\x01", "is no field"},
		{"deb", "", `its form "deb" is not known`},
	} {
		_, err := Parse(tt.kind, []byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%s, %q): %v, want %q", tt.kind, tt.text, err, tt.want)
		}
	}
}

// TestEncode: what was read comes out byte for byte.
func TestEncode(t *testing.T) {
	for _, text := range []string{
		"", pkg("a", "1") + "\n\n" + pkg("b", "2") + "\n\n", pkg("a", "1") + "\n", pkg("a", "1"), pkg("a", "1") + "\n\n\n",
	} {
		db, err := Parse(Dpkg, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(db.Encode()); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	// The machine's own, where there is one.
	for path, kind := range files {
		data, err := os.ReadFile("/" + path)
		if err != nil {
			continue
		}
		db, err := Parse(kind, data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(data), string(db.Encode())); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		out, err := exec.Command("dpkg-query", "-f", "${db:Status-Abbrev}${binary:Package} ${Version}\n", "-W").Output()
		if err != nil || kind != Dpkg {
			continue
		}
		if want := strings.Count("\n"+string(out), "\nii"); db.Len() != want {
			t.Errorf("%d packages are installed, dpkg-query says %d", db.Len(), want)
		}
	}
}

func TestDiff(t *testing.T) {
	old := parse(t, Dpkg, pkg("same", "1"), pkg("up", "1.0-1"), pkg("down", "2"), pkg("off", "1"), pkg("note", "1"), pkg("arch", "1"),
		pkg("left", "1"), pkg("two", "1"), pkg("two", "1", "Architecture: i386"))
	new := parse(t, Dpkg, pkg("same", "1"), pkg("up", "1.0-1+deb12u1"), pkg("down", "1"), pkg("note", "1", "Depends: x"), pkg("on", "3"),
		pkg("arch", "2", "Architecture: all"), stanza("Package: left", "Status: deinstall ok config-files", "Version: 1", "Architecture: amd64"),
		pkg("two", "1"), pkg("two", "2", "Architecture: i386"))
	want := []Change{
		{Upgraded, "arch", "all", "1", "2"},
		{Downgraded, "down", "amd64", "2", "1"},
		{Removed, "left", "amd64", "1", ""},
		{Changed, "note", "amd64", "1", "1"},
		{Removed, "off", "amd64", "1", ""},
		{Added, "on", "amd64", "", "3"},
		{Upgraded, "two", "i386", "1", "2"},
		{Upgraded, "up", "amd64", "1.0-1", "1.0-1+deb12u1"},
	}
	if diff := cmp.Diff(want, Diff(old, new)); diff != "" {
		t.Error(diff)
	}
	if got := Diff(nil, old); len(got) != old.Len() {
		t.Errorf("from nothing: %d changes", len(got))
	}
	if got := Diff(old, nil); len(got) != old.Len() || got[0].Kind != Removed {
		t.Errorf("to nothing: %d changes", len(got))
	}
	if got := Diff(nil, nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(pkg("a", "1") + "\n\n" + pkg("b", "2", "Depends: a (>= 1) | c:any", "Provides: d (= 2)") + "\n\n"))
	f.Add([]byte("P:a\nV:1\nD:so:x !y z>=1\np:cmd:a=1\nF:bin\nR:a\n\n"))
	f.Add([]byte("\n\r\n \nPackage: x\n\t\nFoo:\n bar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range []Kind{Dpkg, Apk} {
			db, err := Parse(kind, data)
			if err != nil {
				continue
			}
			text := db.Encode()
			again, err := Parse(kind, text)
			if err != nil {
				t.Fatalf("%q became %q: %v", data, text, err)
			}
			if len(again.Packages) != len(db.Packages) || string(again.Encode()) != string(text) {
				t.Fatalf("%q became %q and then %q", data, text, again.Encode())
			}
			if d := Diff(db, again); len(d) != 0 && len(db.ids("")) == len(db.Packages) {
				t.Fatalf("%q differs from itself: %v", data, d)
			}
			if len(db.ids(native(db))) == len(db.Packages) {
				if m, c := Merge(db, db, db); len(c) != 0 || len(m.Packages) != len(db.Packages) {
					t.Fatalf("%q merged with itself: %v, %d packages", data, c, len(m.Packages))
				}
			}
		}
	})
}
