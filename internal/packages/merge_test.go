package packages

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMerge(t *testing.T) {
	for _, tt := range []struct {
		name            string
		kind            Kind
		old, new, child []string
		want            []string
		conflicts       []string
	}{
		{
			name: "an upgrade below, an addition above",
			old:  []string{pkg("base", "1"), pkg("libssl3", "3.0.1")},
			new:  []string{pkg("base", "1"), pkg("libssl3", "3.0.2")}, child: []string{pkg("base", "1"), pkg("curl", "8", "Depends: libssl3 (>= 3.0.0)"), pkg("libssl3", "3.0.1")},
			want: []string{"base 1", "curl 8", "libssl3 3.0.2"},
		},
		{
			name: "added and removed on each side",
			old:  []string{pkg("a", "1"), pkg("b", "1"), pkg("c", "1")},
			new:  []string{pkg("b", "1"), pkg("c", "1"), pkg("n", "1")}, child: []string{pkg("a", "1"), pkg("b", "1"), pkg("m", "1")},
			want: []string{"b 1", "m 1", "n 1"},
		},
		{
			name: "the same change on both sides",
			old:  []string{pkg("a", "1")}, new: []string{pkg("a", "2"), pkg("b", "1")}, child: []string{pkg("a", "2"), pkg("b", "1")},
			want: []string{"a 2", "b 1"},
		},
		{
			name: "a stanza that is only written in another way",
			old:  []string{pkg("a", "1", "Depends: b", "Section: x")}, new: []string{pkg("a", "2")}, child: []string{pkg("a", "1", "section:   x", "Depends: b")},
			want:      []string{"a 2"},
			conflicts: nil,
		},
		{
			name: "both changed",
			old:  []string{pkg("a", "1")}, new: []string{pkg("a", "2")}, child: []string{pkg("a", "3")},
			want:      []string{"a 3"},
			conflicts: []string{"a:amd64: it was 1, the new parent has 2, and the image 3"},
		},
		{
			name: "added by both",
			new:  []string{pkg("a", "2")}, child: []string{pkg("a", "3")},
			want:      []string{"a 3"},
			conflicts: []string{"a:amd64: the new parent added 2, and the image 3"},
		},
		{
			name: "removed and changed",
			old:  []string{pkg("a", "1"), pkg("b", "1")}, new: []string{pkg("a", "2")}, child: []string{pkg("b", "2")},
			want: []string{"a 2", "b 2"},
			conflicts: []string{
				"a:amd64: the image removed 1, and the new parent has 2",
				"b:amd64: the new parent does without 1, and the image has 2",
			},
		},
		{
			name: "a downgrade below",
			old:  []string{pkg("a", "2")}, new: []string{pkg("a", "1")}, child: []string{pkg("a", "2"), pkg("b", "1")},
			want:      []string{"a 1", "b 1"},
			conflicts: []string{"a:amd64: the new parent goes back from 2 to 1"},
		},
		{
			name: "what the image stands on is gone",
			old:  []string{pkg("lib", "1")}, new: []string{pkg("lib2", "1")}, child: []string{pkg("app", "1", "Depends: lib (>= 1)"), pkg("lib", "1")},
			want:      []string{"app 1", "lib2 1"},
			conflicts: []string{"app:amd64: 1 depends: lib (>= 1), which is not there"},
		},
		{
			name: "and something else provides it",
			old:  []string{pkg("lib", "1")}, new: []string{pkg("lib2", "1", "Provides: lib (= 1.5), other")}, child: []string{pkg("app", "1", "Depends: nothing | lib (>= 1)"), pkg("lib", "1")},
			want: []string{"app 1", "lib2 1"},
		},
		{
			name: "a name without a version is no version",
			old:  []string{pkg("lib", "1")}, new: []string{pkg("lib2", "1", "Provides: lib")}, child: []string{pkg("app", "1", "Pre-Depends: lib (>= 1)"), pkg("lib", "1")},
			want:      []string{"app 1", "lib2 1"},
			conflicts: []string{"app:amd64: 1 pre-depends: lib (>= 1), which is not there"},
		},
		{
			name: "an exact version moves away",
			old:  []string{pkg("libc6", "1")}, new: []string{pkg("libc6", "2")}, child: []string{pkg("libc-dev", "1", "Depends: libc6 (= 1)"), pkg("libc6", "1")},
			want:      []string{"libc-dev 1", "libc6 2"},
			conflicts: []string{"libc-dev:amd64: 1 depends: libc6 (= 1), which is not there"},
		},
		{
			name: "the new parent breaks what the image has",
			old:  []string{pkg("libc6", "1")}, new: []string{pkg("libc6", "2", "Breaks: old-tool (<< 5), libc6 (<< 2)")}, child: []string{pkg("libc6", "1"), pkg("old-tool", "4")},
			want:      []string{"libc6 2", "old-tool 4"},
			conflicts: []string{"libc6:amd64: 2 breaks: old-tool (<< 5), which is there"},
		},
		{
			name: "two that provide the same and can't stand another one",
			new:  []string{pkg("exim", "1", "Provides: mta", "Conflicts: mta")}, child: []string{pkg("postfix", "1", "Provides: mta", "Conflicts: mta")},
			want: []string{"exim 1", "postfix 1"},
			conflicts: []string{
				"exim:amd64: 1 conflicts: mta, which is there",
				"postfix:amd64: 1 conflicts: mta, which is there",
			},
		},
		{
			name: "what was broken in the image stays so",
			old:  []string{pkg("a", "1")}, new: []string{pkg("a", "2")}, child: []string{pkg("a", "1"), pkg("forced", "1", "Depends: never (>> 1)")},
			want: []string{"a 2", "forced 1"},
		},
		{
			name: "another architecture is another package",
			old:  []string{pkg("lib", "1", "Multi-Arch: same")}, new: []string{pkg("lib", "2", "Multi-Arch: same")},
			child:     []string{pkg("app", "1", "Depends: lib:i386, tool:any", "Architecture: amd64"), pkg("lib", "1", "Multi-Arch: same"), pkg("lib", "1", "Multi-Arch: same", "Architecture: i386"), pkg("tool", "1", "Architecture: i386", "Multi-Arch: allowed")},
			want:      []string{"app 1", "lib 2", "lib 1", "tool 1"},
			conflicts: nil,
		},
		{
			name: "a file that is not sorted keeps its order",
			old:  []string{pkg("z", "1"), pkg("b", "1"), pkg("a", "1")}, new: []string{pkg("first", "1"), pkg("z", "1"), pkg("b", "2"), pkg("then", "1"), pkg("a", "1")},
			child: []string{pkg("z", "1"), pkg("b", "1"), pkg("a", "1"), pkg("c", "1")},
			want:  []string{"first 1", "z 1", "b 2", "then 1", "a 1", "c 1"},
		},
		{
			name: "apk", kind: Apk,
			old: []string{"P:musl\nV:1.2.4-r0\np:so:libc.so=1", "P:zlib\nV:1.3-r0\np:so:libz.so.1=1.3"}, new: []string{"P:musl\nV:1.2.5-r0\np:so:libc.so=1", "P:zlib\nV:1.3.1-r0\np:so:libz.so.1=1.3.1"},
			child: []string{"P:musl\nV:1.2.4-r0\np:so:libc.so=1", "P:zlib\nV:1.3-r0\np:so:libz.so.1=1.3", "P:curl\nV:8.1-r0\nD:so:libc.so so:libz.so.1 zlib~1.3 !wget"},
			want:  []string{"musl 1.2.5-r0", "zlib 1.3.1-r0", "curl 8.1-r0"},
		},
		{
			name: "apk: what was asked for is gone", kind: Apk,
			old: []string{"P:zlib\nV:1.3-r0\np:so:libz.so.1=1.3"}, new: []string{"P:zlib\nV:2.0-r0\np:so:libz.so.2=2.0", "P:wget\nV:1-r0"},
			child: []string{"P:zlib\nV:1.3-r0\np:so:libz.so.1=1.3", "P:curl\nV:8.1-r0\nD:so:libz.so.1 zlib~1.3 zlib<2 zlib@edge !wget"},
			want:  []string{"zlib 2.0-r0", "wget 1-r0", "curl 8.1-r0"},
			conflicts: []string{
				"curl: 8.1-r0 depends: so:libz.so.1, which is not there",
				"curl: 8.1-r0 depends: zlib~1.3, which is not there",
				"curl: 8.1-r0 depends: zlib<2, which is not there",
				"curl: 8.1-r0 depends: wget, which is there",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind := tt.kind
			if kind == "" {
				kind = Dpkg
			}
			merged, conflicts := Merge(parse(t, kind, tt.old...), parse(t, kind, tt.new...), parse(t, kind, tt.child...))
			if diff := cmp.Diff(tt.want, names(merged)); diff != "" {
				t.Errorf("merged: %s", diff)
			}
			var got []string
			for _, c := range conflicts {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.conflicts, got); diff != "" {
				t.Errorf("conflicts: %s", diff)
			}
			if again, _ := Parse(kind, merged.Encode()); again == nil || strings.Join(names(again), "\n") != strings.Join(names(merged), "\n") {
				t.Errorf("it does not read back: %q", merged.Encode())
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	deb, apk := parse(t, Dpkg, pkg("a", "1")), parse(t, Apk, "P:a\nV:1")
	if _, c := Merge(deb, apk, deb); len(c) != 1 || c[0].Kind != Unreadable {
		t.Errorf("two forms: %v", c)
	}
	twice := parse(t, Dpkg, pkg("a", "1"), pkg("a", "2"))
	if _, c := Merge(deb, deb, twice); len(c) == 0 || c[0].Kind != Unreadable {
		t.Errorf("one package twice: %v", c)
	}
}

// FuzzMerge: whatever three databases hold, the result has every package that
// one side added and the other left alone, and is the same each time.
func FuzzMerge(f *testing.F) {
	f.Add("a=1 b=1 c=2", "a=2 b=1", "a=1 b=1 c=2 d=1")
	f.Add("", "x=1", "y=2 x=1")
	f.Fuzz(func(t *testing.T, old, new, child string) {
		dbs := [3]*DB{}
		for i, text := range []string{old, new, child} {
			var stanzas []string
			seen := map[string]bool{}
			for word := range strings.FieldsSeq(text) {
				name, version, _ := strings.Cut(word, "=")
				if name == "" || seen[name] || strings.ContainsAny(word, ":\x00") {
					continue
				}
				seen[name] = true
				stanzas = append(stanzas, "P:"+name+"\nV:"+version)
			}
			db, err := Parse(Apk, []byte(strings.Join(stanzas, "\n\n")))
			if err != nil {
				return
			}
			dbs[i] = db
		}
		m, conflicts := Merge(dbs[0], dbs[1], dbs[2])
		again, _ := Merge(dbs[0], dbs[1], dbs[2])
		if string(m.Encode()) != string(again.Encode()) {
			t.Fatal("it comes out differently")
		}
		if len(conflicts) > 0 {
			return
		}
		o, n, c, got := dbs[0].ids(""), dbs[1].ids(""), dbs[2].ids(""), m.ids("")
		for k := range n {
			if o[k] == nil && got[k] == nil {
				t.Errorf("%s, which the new parent added, is missing", k.name)
			}
		}
		for k := range c {
			if o[k] == nil && got[k] == nil {
				t.Errorf("%s, which the image added, is missing", k.name)
			}
		}
		for k := range got {
			if n[k] == nil && c[k] == nil {
				t.Errorf("%s comes from nowhere", k.name)
			}
		}
	})
}
