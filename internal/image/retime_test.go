package image

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRetime(t *testing.T) {
	when := time.Date(2026, 11, 23, 6, 0, 0, 0, time.FixedZone("", 3600))
	const told = `{"architecture":"amd64","config":{"Env":["A=b"],"Later":{"x":1e400}},"created":"2026-11-23T05:00:00Z",` +
		`"history":[{"created":"2020-01-01T00:00:00.5Z","created_by":"base"},` +
		`{"comment":"c","created":"2026-11-23T05:00:00Z","created_by":"RUN a","new":[1]},` +
		`{"created":"2026-11-23T05:00:00Z","empty_layer":true}],"os":"linux","unknown":{"b":1,"a":2}}`
	built := func(day string) string {
		s := strings.ReplaceAll(told, "2026-11-23T05:00:00Z", day)
		return strings.Replace(s, `{"created":"`+day+`","empty_layer"`, `{"empty_layer"`, 1) // one entry has no time
	}
	for _, day := range []string{"2026-11-27T10:11:12.123456789Z", "2026-11-28T01:02:03Z"} {
		got, err := Retime([]byte(built(day)), 1, when)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(told, string(got)); diff != "" {
			t.Errorf("built at %s (-want +got):\n%s", day, diff)
		}
		if again, err := Retime(got, 1, when); err != nil || string(again) != told {
			t.Errorf("once more: %v\n%s", err, again)
		}
	}
	if n, err := Entries([]byte(told)); n != 3 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	for raw, want := range map[string]string{
		`{}`:               `{"created":"2026-11-23T05:00:00Z"}`,
		`{"history":null}`: `{"created":"2026-11-23T05:00:00Z","history":null}`,
		`{"history":[{}]}`: `{"created":"2026-11-23T05:00:00Z","history":[{}]}`, // inherited more than there is
	} {
		if got, err := Retime([]byte(raw), 2, when); err != nil || string(got) != want {
			t.Errorf("%s became %s, want %s (%v)", raw, got, want, err)
		}
	}
	for _, raw := range []string{`null`, `[]`, `{"history":{}}`, ``} {
		if _, err := Retime([]byte(raw), 0, when); err == nil {
			t.Errorf("%q was taken", raw)
		}
	}
}

func TestNoCredentialsInHistory(t *testing.T) {
	const was = `{"created":"2026-11-23T05:00:00Z","history":[{"created_by":"ADD https://base:s3cret@h/x /x"},` +
		`{"created_by":"ADD https://user:s3cret@h/x?token=s3cret /x # buildkit"},{"created_by":"RUN curl https://user:own@h/"},{"created_by":7}]}`
	const want = `{"created":"2026-11-23T05:00:00Z","history":[{"created_by":"ADD https://base:s3cret@h/x /x"},` +
		`{"created_by":"ADD https://***@h/x?token=*** /x # buildkit"},{"created_by":"RUN curl https://user:own@h/"},{"created_by":7}]}`
	got, err := HideCredentials([]byte(was), 1)
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if again, err := HideCredentials(got, 1); err != nil || string(again) != want {
		t.Errorf("once more: %s, %v", again, err)
	}
	retimed, err := Retime([]byte(was), 1, time.Unix(0, 0))
	if err != nil || strings.Contains(strings.Replace(string(retimed), "base:s3cret", "", 1), "s3cret") {
		t.Errorf("%s, %v", retimed, err)
	}
}
