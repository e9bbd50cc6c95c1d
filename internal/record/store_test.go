package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func openStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "a", "records"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write writes a record that started so many hours after begin.
func write(t *testing.T, s *Store, hours int, project string, o Outcome) Record {
	t.Helper()
	at := begin.Add(time.Duration(hours) * time.Hour)
	r := Record{Version: Version, ID: newID(t, at, byte(hours)), Started: at, Project: project, Outcome: o, Units: []Unit{}}
	if err := s.Write(r); err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(infos []Info) []string {
	var out []string
	for _, i := range infos {
		out = append(out, i.ID)
	}
	return out
}

func TestListFilters(t *testing.T) {
	s := openStore(t)
	a := write(t, s, 0, "ghcr.io/user/app", OK)
	b := write(t, s, 1, "ghcr.io/user-app", Failed)
	c := write(t, s, 2, "ghcr.io/user/app", Failed)
	d := write(t, s, 3, "localhost:5000/"+strings.Repeat("long/", 60)+"x", Cancelled)
	e := write(t, s, 4, "localhost:5000/"+strings.Repeat("long/", 60)+"y", OK)
	for _, tc := range []struct {
		name string
		f    Filter
		want []string
	}{
		{"all, the newest first", Filter{}, []string{e.ID, d.ID, c.ID, b.ID, a.ID}},
		{"project", Filter{Project: a.Project}, []string{c.ID, a.ID}},
		{"a project with a like name", Filter{Project: b.Project}, []string{b.ID}},
		{"a long name", Filter{Project: d.Project}, []string{d.ID}},
		{"outcome", Filter{Outcome: Failed}, []string{c.ID, b.ID}},
		{"project and outcome", Filter{Project: a.Project, Outcome: OK}, []string{a.ID}},
		{"since", Filter{Since: c.Started}, []string{e.ID, d.ID, c.ID}},
		{"until", Filter{Until: c.Started}, []string{b.ID, a.ID}},
		{"limit", Filter{Limit: 2}, []string{e.ID, d.ID}},
		{"none", Filter{Project: "other"}, nil},
	} {
		infos, warnings, err := s.List(tc.f)
		if err != nil || warnings != nil {
			t.Fatalf("%s: %v, %v", tc.name, warnings, err)
		}
		if diff := cmp.Diff(tc.want, ids(infos)); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
		records, _, err := s.Records(tc.f)
		if err != nil || len(records) != len(infos) {
			t.Errorf("%s: %d records, %v", tc.name, len(records), err)
		}
	}
	got, _, err := s.Records(Filter{Project: a.Project, Limit: 1})
	if diff := cmp.Diff([]Record{c}, got); err != nil || diff != "" {
		t.Errorf("the newest: %v\n%s", err, diff)
	}
}

func TestGet(t *testing.T) {
	s := openStore(t)
	a, b := write(t, s, 0, "app", OK), write(t, s, 1, "app", OK)
	for _, id := range []string{a.ID, "20261126T0600", "a1b2c300"} {
		if got, err := s.Get(id); err != nil || got.ID != a.ID {
			t.Errorf("Get(%q) = %q, %v", id, got.ID, err)
		}
	}
	for _, id := range []string{"", "nothing"} {
		if _, err := s.Get(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get(%q): %v", id, err)
		}
	}
	want := &AmbiguousError{Part: "2026", IDs: []string{b.ID, a.ID}}
	_, err := s.Get("2026")
	if diff := cmp.Diff(error(want), err); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, _, err := openStore(t).Records(Filter{}); err != nil || len(got) != 0 {
		t.Errorf("records of none: %v, %v", got, err)
	}
}

func TestWriteReplaces(t *testing.T) {
	s := openStore(t)
	r := write(t, s, 0, "app", Running)
	r.Outcome = OK
	for range 2 {
		if err := s.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	infos, _, err := s.List(Filter{})
	if err != nil || len(infos) != 1 || infos[0].Outcome != OK {
		t.Errorf("got %v, %v", infos, err)
	}
	if err := s.Write(Record{ID: "../x"}); err == nil {
		t.Error("an id that is none was written")
	}
}

func TestCorruptFilesArePassedOver(t *testing.T) {
	s := openStore(t)
	good := write(t, s, 0, "app", OK)
	spoil := func(hours int, data string) {
		r := write(t, s, hours, "app", OK)
		if err := os.WriteFile(filepath.Join(s.dir, fileName(r)), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spoil(1, "")
	spoil(2, `{"version":1,"id"`)
	spoil(3, `{"version":9}`)
	other, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	spoil(4, string(other)) // another run's record under this name
	for _, name := range []string{"notes.txt", "a~b~c.json", tempPrefix + "123"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	records, warnings, err := s.Records(Filter{})
	if err != nil || len(records) != 1 || records[0].ID != good.ID {
		t.Errorf("got %d records, %v", len(records), err)
	}
	var texts []string
	for _, w := range warnings {
		texts = append(texts, strings.ReplaceAll(w.Error(), s.dir, "DIR"))
	}
	want := []string{
		`passing over record "DIR/a~b~c.json": "a" is no id of a run`,
		`passing over record "DIR/notes.txt": it is not named as a record`,
		`passing over record "DIR/20261126T100000.250Z-a1b2c304~ok~app.json": it holds run "20261126T060000.250Z-a1b2c300"`,
		`passing over record "DIR/20261126T090000.250Z-a1b2c303~ok~app.json": reading a record of version 9: the record is of a newer format`,
		`passing over record "DIR/20261126T080000.250Z-a1b2c302~ok~app.json": reading a record: unexpected end of JSON input`,
		`passing over record "DIR/20261126T070000.250Z-a1b2c301~ok~app.json": reading a record: unexpected end of JSON input`,
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Error(diff)
	}
	if got, _, err := s.Records(Filter{Limit: 1}); err != nil || len(got) != 1 || got[0].ID != good.ID {
		t.Errorf("a limit counts what can't be read: %d, %v", len(got), err)
	}
}

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name string
		k    Keep
		want int // records left of 10, one an hour, the newest an hour old
	}{
		{"no bound", Keep{}, 10}, {"count", Keep{Count: 3}, 3}, {"age", Keep{Age: 150 * time.Minute}, 2},
		{"both", Keep{Count: 8, Age: 5 * time.Hour}, 5}, {"more than there are", Keep{Count: 99}, 10},
	} {
		s := openStore(t)
		for h := range 10 {
			write(t, s, h, "app", OK)
		}
		n, err := s.Prune(c.k, begin.Add(10*time.Hour))
		infos, _, lerr := s.List(Filter{})
		if err != nil || lerr != nil || n != 10-c.want || len(infos) != c.want {
			t.Errorf("%s: %d removed, %d left, %v %v", c.name, n, len(infos), err, lerr)
		}
	}
}

func TestPruneTakesWhatCrashesLeft(t *testing.T) {
	s := openStore(t)
	temp := filepath.Join(s.dir, tempPrefix+"1")
	if err := os.WriteFile(temp, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		now  time.Time
		gone bool
	}{{time.Now(), false}, {time.Now().Add(2 * time.Hour), true}} {
		if _, err := s.Prune(Keep{}, c.now); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(temp); errors.Is(err, fs.ErrNotExist) != c.gone {
			t.Errorf("at %v: %v", c.now, err)
		}
	}
}

func TestConcurrentWriters(t *testing.T) {
	s := openStore(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 10 {
				at := begin.Add(time.Duration(g*10+i) * time.Second)
				if err := s.Write(Record{ID: at.Format(idTime) + fmt.Sprintf("-%08x", g), Outcome: OK, Project: "app"}); err != nil {
					t.Error(err)
				}
				if _, err := s.Prune(Keep{Count: 40}, time.Now()); err != nil {
					t.Error(err)
				}
				if _, w, err := s.Records(Filter{}); err != nil || w != nil {
					t.Error(w, err)
				}
			}
		})
	}
	wg.Wait()
	if infos, _, err := s.List(Filter{}); err != nil || len(infos) == 0 || len(infos) > 47 {
		t.Errorf("%d records left, %v", len(infos), err)
	}
}

// TestListIsFast holds the bound of 100 ms for a list of 1,000 records, with
// a factor of five for slow machines.
func TestListIsFast(t *testing.T) {
	s := openStore(t)
	for i := range 1000 {
		r := Record{ID: begin.Add(time.Duration(i)*time.Minute).Format(idTime) + fmt.Sprintf("-%08x", i), Project: "ghcr.io/user/app", Outcome: OK}
		if err := os.WriteFile(filepath.Join(s.dir, fileName(r)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	infos, _, err := s.List(Filter{Project: "ghcr.io/user/app"})
	took := time.Since(start)
	if err != nil || len(infos) != 1000 {
		t.Fatalf("%d records, %v", len(infos), err)
	}
	t.Logf("1,000 records listed in %v", took)
	if took > 500*time.Millisecond {
		t.Errorf("1,000 records took %v", took)
	}
}
