package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func d(name string) digest.Digest {
	if name == "" {
		return ""
	}
	return digest.FromString(name)
}

func id(n int) string { return fmt.Sprintf("20261122T0600%02d.000Z-0000000%d", n, n) }

// rec writes "tag:previous>digest" moves.
func rec(n int, k Kind, undoes []int, moves ...string) Record {
	r := Record{Version: Version, ID: id(n), Kind: k, State: Done, Project: "reg.test/app", Started: time.Unix(int64(n), 0).UTC(), Command: "strata"}
	if k != Run {
		r.Channel = "stable"
	}
	for _, u := range undoes {
		r.Undoes = append(r.Undoes, id(u))
	}
	for _, m := range moves {
		tag, rest, _ := strings.Cut(m, ":")
		from, to, _ := strings.Cut(rest, ">")
		r.Moves = append(r.Moves, Move{Image: "reg.test/app", Tag: tag, Digest: d(to), Previous: d(from)})
	}
	return r
}

func TestEncodeDecode(t *testing.T) {
	r := rec(1, Promote, nil, "stable:>a", "stable-cpu:a>b")
	r.From, r.Revision = "1.4.0", "abc"
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	ended := got.End(Done, time.Unix(9, 0).UTC())
	if ended.State != Done || ended.Finished.IsZero() || !got.Finished.IsZero() {
		t.Errorf("End changed the record it was called on, or not the new one: %v", ended)
	}
	if s, ok := ID(Tag(r.ID)); !ok || s != r.ID {
		t.Errorf("the id of the tag is %q", s)
	}
	if at, err := Time(r.ID); err != nil || !at.Equal(time.Date(2026, 11, 22, 6, 0, 1, 0, time.UTC)) {
		t.Errorf("its time is %v, %v", at, err)
	}
	if _, err := Time("latest"); err == nil {
		t.Error("a word has a time")
	}
	for _, tag := range []string{"strata-r-" + id(1), "strata-j-x", "latest"} {
		if _, ok := ID(tag); ok {
			t.Errorf("%s is taken for a record's tag", tag)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := rec(1, Promote, nil, "stable:>a").Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"version":1`, `"version":0`, "no version"},
		{`"version":1`, `"version":2`, "newer"},
		{`"kind":"promote"`, `"kind":"run"`, `"run" is no kind`},
		{`"state":"done"`, `"state":"maybe"`, `"maybe" is no state`},
		{`"tag":"stable"`, `"tag":""`, "a name is missing"},
		{d("a").String(), "sha256:short", "is no digest"},
		{`"id":"2026`, `"id":"../../`, "is no id"},
		{`{`, `[`, "reading the journal"},
	} {
		_, err := Decode([]byte(strings.Replace(string(good), c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %s in place of %s: %v, want %q", c.new, c.old, err, c.want)
		}
		if c.want == "newer" && !errors.Is(err, ErrNewer) {
			t.Error("a newer version is not ErrNewer")
		}
	}
	if _, err := (Record{ID: id(1), Kind: Promote, State: Done}).Encode(); err == nil {
		t.Error("a record without moves was written")
	}
}

func TestUnfinished(t *testing.T) {
	a, b, c := rec(3, Promote, nil, "x:>a"), rec(1, Promote, nil, "x:>a"), rec(2, Promote, nil, "x:>a")
	a.State, b.State = Started, Started
	got := Unfinished([]Record{a, b, c})
	if diff := cmp.Diff([]Record{b, a}, got); diff != "" {
		t.Error(diff)
	}
}

// tell writes a step as "tag:now>then ...; stays ...; undoes ...".
func tell(s Step, err error) string {
	var nothing *NothingError
	if errors.As(err, &nothing) {
		return "nothing"
	} else if err != nil {
		return err.Error()
	}
	name := map[digest.Digest]string{}
	for _, n := range []string{"a", "b", "c", "d"} {
		name[d(n)] = n
	}
	out := "from " + strings.TrimPrefix(s.From, "20261122T0600")
	for _, m := range s.Moves {
		out += fmt.Sprintf(" %s:%s>%s", m.Tag, name[m.Previous], name[m.Digest])
	}
	for _, m := range s.Stays {
		out += " " + m.Tag + " stays"
	}
	for _, u := range s.Undoes {
		out += " -" + u[len(u)-1:]
	}
	return out
}

func TestHistory(t *testing.T) {
	three := []Record{
		rec(1, Promote, nil, "s:>a"), rec(2, Promote, nil, "s:a>b"), rec(3, Promote, nil, "s:b>c"),
	}
	with := func(rs ...Record) []Record { return append(append([]Record{}, three...), rs...) }
	back := func(h History) (Step, error) { return h.Back() }
	to := func(n int) func(History) (Step, error) { return func(h History) (Step, error) { return h.To(id(n)) } }
	from := func(n int) string { return fmt.Sprintf("from %02d.000Z-0000000%d", n, n) }
	cases := []struct {
		name    string
		channel string
		records []Record
		ask     func(History) (Step, error)
		want    string
	}{
		{"nothing yet", "stable", nil, back, "nothing"},
		{"one back", "stable", three, back, from(2) + " s:c>b -3"},
		{"twice back is one further", "stable", with(rec(4, Rollback, []int{3}, "s:c>b")), back, from(1) + " s:b>a -2"},
		{"before the first there was nothing", "stable", with(rec(4, Rollback, []int{3}, "s:c>b"), rec(5, Rollback, []int{2}, "s:b>a")), back, "nothing"},
		{"a promotion after going back", "stable", with(rec(4, Rollback, []int{3}, "s:c>b"), rec(5, Promote, nil, "s:b>d")), back, from(2) + " s:d>b -5"},
		{"to an older one", "stable", three, to(1), from(1) + " s:c>a -2 -3"},
		{"to what stands", "stable", three, to(3), from(3) + " s:c>c"},
		{"forward again", "stable", with(rec(4, Rollback, []int{3}, "s:c>b")), to(3), from(3) + " s:b>c"},
		{"back after forward", "stable", with(rec(4, Rollback, []int{3}, "s:c>b"), rec(5, Rollback, nil, "s:b>c")), back, from(2) + " s:c>b -5"},
		{"to a rollback is to what it went back to", "stable", with(func() Record {
			r := rec(4, Rollback, []int{2, 3}, "s:c>a")
			r.From = id(1)
			return r
		}(), rec(5, Promote, nil, "s:a>d")), to(4), from(1) + " s:d>a -5"},
		{"a member that is new stays", "stable", []Record{rec(1, Promote, nil, "s:>a"), rec(2, Promote, nil, "s:a>b", "n:>b")}, back, from(1) + " s:b>a n stays -2"},
		{"another channel", "dev", three, back, "nothing"},
		{"unfinished does not count", "stable", with(func() Record {
			r := rec(4, Promote, nil, "s:c>d")
			r.State = Started
			return r
		}()), back, from(2) + " s:c>b -3"},
		{"runs", "", []Record{rec(1, Run, nil, "l:>a", "v1:>a"), rec(2, Run, nil, "l:a>b", "v2:>b")}, back, from(1) + " l:b>a v2 stays -2"},
		{"a killed run and the one that finished it", "", []Record{
			rec(1, Run, nil, "l:>a", "m:>a"), rec(2, Run, nil, "l:a>b", "m:a>b"), rec(3, Run, nil, "l:b>b", "m:a>b"),
		}, back, from(1) + " l:b>a m:b>a -2 -3"},
		{"a killed run without a record", "", []Record{rec(1, Run, nil, "l:>a", "m:>a"), rec(2, Run, nil, "l:b>b", "m:a>b")}, back, from(1) + " l:b>a m:b>a -2"},
		{"a run over part of the project", "", []Record{
			rec(1, Run, nil, "l:>a", "m:>a"), rec(2, Run, nil, "l:a>b"), rec(3, Run, nil, "l:b>b", "m:a>b"),
		}, back, from(2) + " l:b>b m:b>a -3"},
		{"unknown", "stable", three, to(9), `finding record "` + id(9) + `": there is none that has moved these tags`},
		{"ambiguous", "stable", three, func(h History) (Step, error) { return h.To("2026") }, `finding record "2026": it means 3 records, ` + id(1) + " and " + id(2) + " among them"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := tell(c.ask(HistoryOf(c.records, c.channel))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestStood(t *testing.T) {
	h := HistoryOf([]Record{rec(1, Promote, nil, "s:>a", "t:>a"), rec(2, Promote, nil, "s:a>b", "t:a>b")}, "stable")
	for _, c := range []struct {
		set  Record
		want bool
	}{
		{rec(0, Promote, nil, "s:>a", "t:>a"), true},
		{rec(0, Promote, nil, "t:>b"), true},
		{rec(0, Promote, nil, "s:>a", "t:>b"), false},
		{rec(0, Promote, nil, "s:>b", "u:>b"), false},
	} {
		if got := h.Stood(c.set.Moves); got != c.want {
			t.Errorf("%v: %v", c.set.Moves, got)
		}
	}
}
