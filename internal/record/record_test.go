package record

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-build/strata/internal/event"
)

var update = flag.Bool("update", false, "write the golden files anew")

var begin = time.Date(2026, 11, 26, 6, 0, 0, 250_000_000, time.UTC)

func newID(t *testing.T, at time.Time, seed byte) string {
	t.Helper()
	id, err := NewID(at, bytes.NewReader([]byte{0xa1, 0xb2, 0xc3, seed}))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// recorded gives the record of a run with a reused unit, a failed build and an
// append, made by a recorder.
func recorded(t *testing.T) Record {
	t.Helper()
	r := NewRecorder(Record{
		ID: newID(t, begin, 4), Command: CommandLine([]string{"build", "--push", "--build-arg", "TOKEN=hunter2"}),
		Project: "ghcr.io/user/app", Revision: "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d", Dirty: true,
		Machine: Machine{OS: "linux", Arch: "amd64", CPUs: 2}, Engine: "tcp://me:hunter2@builder:1234",
	})
	at := func(sec float64) time.Time { return begin.Add(time.Duration(sec * float64(time.Second))) }
	const digest = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
	for _, e := range []event.Event{
		{Type: event.RunStarted, Time: at(0)},
		{Type: event.UnitStarted, Time: at(0.2), Unit: "ml/cpu/linux/arm/v7", Action: "build", Text: "requirements/base-ml.txt changed"},
		{Type: event.UnitStarted, Time: at(0.1), Unit: "base/linux/amd64", Action: "reuse", Text: "nothing changed"},
		{Type: event.UnitFinished, Time: at(0.15), Unit: "base/linux/amd64", Digest: digest, Size: 48_300_000},
		{Type: event.StepStarted, Time: at(0.3), Unit: "ml/cpu/linux/arm/v7", StepID: "1", Step: "[1/2] FROM base"},
		{Type: event.StepFinished, Time: at(0.3), Unit: "ml/cpu/linux/arm/v7", StepID: "1", Cached: true},
		{Type: event.StepStarted, Time: at(0.3), Unit: "ml/cpu/linux/arm/v7", StepID: "2", Step: "[2/2] RUN pip install"},
		{Type: event.StepLog, Time: at(0.4), Unit: "ml/cpu/linux/arm/v7", StepID: "2", Text: "the password is hunter2"},
		{Type: event.StepFinished, Time: at(9), Unit: "ml/cpu/linux/arm/v7", StepID: "2", Step: "[2/2] RUN pip install https://u:hunter2@pypi.example/x", Seconds: 8.7, Error: "exit code 1"},
		{Type: event.UnitFinished, Time: at(9), Unit: "ml/cpu/linux/arm/v7", Error: "pulling https://u:hunt@er2@h: no <route>", Seconds: 8.8},
		{Type: event.Warning, Time: at(9), Text: "hunter2"},
		{Type: event.StepFinished, Time: at(9), StepID: "9"},
	} {
		r.Emit(e)
	}
	r.Unit("base/linux/amd64", func(u *Unit) { u.Key, u.ContentKey, u.Blobs = "k1:aa", "c1:bb", 3 })
	r.Unit("app/cpu/linux/amd64", func(u *Unit) {
		u.Action, u.Started, u.NewBlobs, u.BytesPushed, u.BytesPulled = "append", at(1), 1, 654_000, 2_300
	})
	r.Tag(Tag{Tag: "ghcr.io/user/app:latest-cpu", Digest: digest, Previous: "sha256:00"})
	return r.Finish(at(9.5), Failed, Traffic{Requests: 12, BytesPushed: 654_000, BytesPulled: 2_300})
}

func TestGolden(t *testing.T) {
	r := recorded(t)
	got, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "record.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("record.json differs (-want +got; a change of the format needs a version or an optional member):\n%s", diff)
	}
	back, err := Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Errorf("decoding gives something else:\n%s", diff)
	}
}

func TestNoSecretsGetIn(t *testing.T) {
	r := NewRecorder(Record{ID: newID(t, begin, 1), Command: "build https://u:hunter2@h/x", Error: "a://b:hunter2@c"})
	r.Emit(event.Event{Type: event.StepLog, Unit: "a/linux/amd64", Text: "hunter2"})
	r.Emit(event.Event{Type: event.UnitStarted, Unit: "a/linux/amd64", Text: "git+ssh://x:hun@hunter2@h changed"})
	rec := r.Finish(begin, OK, Traffic{})
	data, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("hunter2")) {
		t.Errorf("the secret stands in\n%s", data)
	}
	for _, c := range [][2]string{
		{"build --build-arg TOKEN=hunter2 cpu/arm64", "build --build-arg TOKEN=*** cpu/arm64"},
		{"build --build-arg=TOKEN=hunter2 --progress=plain", "build --build-arg=TOKEN=*** --progress=plain"},
		{"build --secret id=npm,env=X --push", "build --secret id=*** --push"},
		{"build --engine tcp://u:hunter2@h:1", "build --engine tcp://***@h:1"},
	} {
		if got := CommandLine(strings.Fields(c[0])); got != c[1] {
			t.Errorf("CommandLine(%s) = %s, want %s", c[0], got, c[1])
		}
	}
}

func TestLongTextsAreBounded(t *testing.T) {
	r := Record{ID: newID(t, begin, 1), Units: []Unit{{ID: "a/linux/amd64", Error: strings.Repeat("é", 1e6)}}}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 2*maxText {
		t.Errorf("the record has %d bytes", len(data))
	}
	if len(r.Units[0].Error) != 2e6 {
		t.Error("encoding has changed the record")
	}
}

func TestDecodeRefuses(t *testing.T) {
	id := newID(t, begin, 1)
	for _, c := range []struct{ name, data, want string }{
		{"nothing", "", "unexpected end of JSON"},
		{"half", `{"version":1,"id":"` + id + `","units":[{"id"`, "unexpected end of JSON"},
		{"two", `{"version":1,"id":"` + id + `"}{}`, "after top-level value"},
		{"no version", `{"id":"` + id + `"}`, "it has no version"},
		{"newer", `{"version":2,"id":7}`, "version 2: the record is of a newer format"},
		{"id", `{"version":1,"id":"../../etc/passwd"}`, "is no id of a run"},
		{"month 13", `{"version":1,"id":"20261326T060000.250Z-a1b2c301"}`, "month out of range"},
		{"type", `{"version":1,"id":"` + id + `","units":{}}`, "cannot unmarshal object"},
	} {
		if _, err := Decode([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := Decode([]byte(`{"version":3}`)); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
	if _, err := Decode([]byte(`{"version":1,"id":"` + id + `","later":[1],"units":[{"new":{}}]}`)); err != nil {
		t.Errorf("a member that is not known: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("testdata", "record.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"id":"20261126T060000.250Z-a1b2c301","started":"9999-12-31T23:59:59-23:00","units":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		once, err := r.Encode()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("written twice, it differs (%v):\n%s\n%s", err, once, twice)
		}
	})
}

func TestSplitID(t *testing.T) {
	for id, want := range map[string][3]string{
		"app/cpu/linux/amd64":  {"app", "cpu", "linux/amd64"},
		"app/linux/amd64":      {"app", "", "linux/amd64"},
		"app/linux/arm/v7":     {"app", "", "linux/arm/v7"},
		"app/cpu/linux/arm/v7": {"app", "cpu", "linux/arm/v7"},
		"app/v2/linux/arm64":   {"app", "v2", "linux/arm64"},
		"odd":                  {"odd", "", ""},
		"":                     {"", "", ""},
	} {
		l, v, p := SplitID(id)
		if diff := cmp.Diff(want, [3]string{l, v, p}); diff != "" {
			t.Errorf("SplitID(%q): %s", id, diff)
		}
	}
}

func TestRecorderIsSafe(t *testing.T) {
	r := NewRecorder(Record{ID: newID(t, begin, 1)})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			id := fmt.Sprintf("l%d/linux/amd64", g)
			for i := range 100 {
				r.Emit(event.Event{Type: event.StepFinished, Unit: id, StepID: fmt.Sprint(i), Step: "s"})
			}
			r.Unit(id, func(u *Unit) { u.Blobs = g })
		})
	}
	wg.Wait()
	rec := r.Finish(begin, OK, Traffic{})
	if len(rec.Units) != 8 {
		t.Fatalf("%d units", len(rec.Units))
	}
	for i, u := range rec.Units {
		if u.Blobs != i || len(u.EngineSteps) != 100 {
			t.Errorf("unit %s has %d blobs, %d steps", u.ID, u.Blobs, len(u.EngineSteps))
		}
	}
}

func TestEstimate(t *testing.T) {
	build := func(layer, variant, platform string, seconds float64) Unit {
		return Unit{Layer: layer, Variant: variant, Platform: platform, Action: "build", Digest: "sha256:1", Seconds: seconds}
	}
	failed, cancelled := build("ml", "cpu", "linux/amd64", 9999), build("ml", "cpu", "linux/amd64", 9999)
	failed.Error, cancelled.Digest = "exit code 1", ""
	var records []Record // the newest first
	for _, s := range []float64{10, 500, 12, 11, 13, 9000, 9000} {
		records = append(records, Record{Units: []Unit{failed, build("ml", "cpu", "linux/amd64", s), cancelled}})
	}
	records = append(records, Record{Units: []Unit{build("base", "", "linux/amd64", 3), build("base", "", "linux/arm64", 21), build("base", "", "linux/arm64", 23)}})
	e := NewEstimator(records)
	for _, c := range []struct {
		layer, variant, platform, action string
		want                             Estimate
	}{
		{"ml", "cpu", "linux/amd64", "build", Estimate{12, "5 records"}},
		{"base", "", "linux/amd64", "build", Estimate{3, "1 record"}},
		{"base", "", "linux/arm64", "build", Estimate{22, "2 records"}},
		{"base", "cuda", "linux/arm64", "build", Estimate{22, "same layer, other variant"}},
		{"ml", "cuda", "linux/arm64", "build", Estimate{12, "same layer, other platform"}},
		{"ml", "cpu", "linux/amd64", "append", Estimate{}},
		{"app", "cpu", "linux/amd64", "build", Estimate{}},
	} {
		if got := e.Estimate(c.layer, c.variant, c.platform, c.action); got != c.want {
			t.Errorf("%s/%s/%s %s: got %v, want %v", c.layer, c.variant, c.platform, c.action, got, c.want)
		}
	}
}
