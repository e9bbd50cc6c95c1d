package strata

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The time of an image is the user's SOURCE_DATE_EPOCH, wherever it is said, and
// otherwise follows from what the image is made of.
func TestCreated(t *testing.T) {
	const from, tail = "FROM PARENT\n", "COPY src/ /srv/\nUSER ragex\n"
	asked := func(s string) string { return strings.Replace(refreshedApp, "{}", s, 1) }
	tests := []struct {
		name, dockerfile, project, environment string
		want                                   string
	}{
		{"nobody asks", from + tail, asked(""), "", "1980-02-01T00:00:00Z"},
		{"for a RUN alone", from + "ARG SOURCE_DATE_EPOCH=9\n" + tail, asked(""), "", "1980-02-01T00:00:00Z"},
		{"slot", from + tail, asked(`refresh: {every: week, at: "Mon 06:00"}`), "", "2026-11-16T06:00:00Z"},
		{"argument", from + tail, asked(`args: {SOURCE_DATE_EPOCH: "1700000000"}`), "9", "2023-11-14T22:13:20Z"},
		{"argument and slot", from + tail, asked("refresh: week\n    args: {SOURCE_DATE_EPOCH: \"0\"}"), "", "1970-01-01T00:00:00Z"},
		{"environment", "ARG SOURCE_DATE_EPOCH=9\n" + from + tail, asked(""), "1700000000", "2023-11-14T22:13:20Z"},
		{"Dockerfile", "ARG SOURCE_DATE_EPOCH=1700000000\n" + from + tail, asked(""), "", "2023-11-14T22:13:20Z"},
		{"argument says none", "ARG SOURCE_DATE_EPOCH=1700000000\n" + from + tail, asked(`args: {SOURCE_DATE_EPOCH: ""}`), "5", "1980-02-01T00:00:00Z"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorkshop(t, tc.dockerfile)
			w.write(t, "strata.yaml", strings.ReplaceAll(tc.project, "HOST", w.reg.Host))
			c := w.config(t)
			c.SourceDateEpoch = tc.environment
			p, err := Prepare(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			res, err := p.Execute(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			img, err := loadPicture(t.Context(), c.Client, res.Units[0].Ref)
			if err != nil {
				t.Fatal(err)
			}
			var config ocispec.Image
			if err := json.Unmarshal(img.config, &config); err != nil {
				t.Fatal(err)
			}
			last := config.History[len(config.History)-1]
			got := []string{
				img.manifest.Annotations[ocispec.AnnotationCreated], config.Created.Format(time.RFC3339Nano), last.Created.Format(time.RFC3339Nano),
			}
			for _, s := range got {
				if s != tc.want {
					t.Fatalf("annotation, config and history say %q, want %s", got, tc.want)
				}
			}
			asks := strings.Contains(string(p.Keys["app/linux/amd64"].Unit.Text()), "\noption source-date-epoch ")
			if _, want := p.sourceDateEpoch(p.Units[0]); asks != want {
				t.Errorf("it is in the recipe: %v, want %v", asks, want)
			}
		})
	}
}

const refreshedApp = "image: HOST/app\nplatforms: [linux/amd64]\nlayers:\n  app:\n    dockerfile: Dockerfile\n    {}\n"

// What an image stands on may be newer than any slot.
func TestCreatedIsNotOlderThanTheBase(t *testing.T) {
	p, err := Prepare(t.Context(), newWorkshop(t, ordinary).config(t))
	if err != nil {
		t.Fatal(err)
	}
	u := p.Units[0]
	for config, want := range map[string]string{
		`{"created":"2026-11-20T10:11:12.5+01:00"}`: "2026-11-20T09:11:12Z",
		`{"created":"1970-01-01T00:00:00Z"}`:        "1980-02-01T00:00:00Z",
		`{}`:                                        "1980-02-01T00:00:00Z",
		`[`:                                         "1980-02-01T00:00:00Z",
	} {
		if got := p.created(u, &picture{config: []byte(config)}).Format(time.RFC3339Nano); got != want {
			t.Errorf("on %s: %s, want %s", config, got, want)
		}
	}
}

// Every SOURCE_DATE_EPOCH that is no time is told, with where it stands.
func TestBadEpochs(t *testing.T) {
	tests := []struct{ dockerfile, args, environment, want string }{
		{"FROM PARENT\n", "", "yesterday", `SOURCE_DATE_EPOCH="yesterday" in the environment is no time`},
		{"FROM PARENT\n", "", "-1", `SOURCE_DATE_EPOCH="-1" in the environment is no time`},
		{"FROM PARENT\n", "", "253402300800", `in the environment is no time`},
		{"FROM PARENT\n", `args: {SOURCE_DATE_EPOCH: "1.5"}`, "", `SOURCE_DATE_EPOCH="1.5" among the build arguments of app/linux/amd64 is no time`},
		{"ARG SOURCE_DATE_EPOCH=now\nFROM PARENT\n", "", "", `Dockerfile:1: SOURCE_DATE_EPOCH="now" in the Dockerfile is no time`},
	}
	for _, tc := range tests {
		w := newWorkshop(t, tc.dockerfile)
		w.write(t, "strata.yaml", strings.ReplaceAll(strings.Replace(refreshedApp, "{}", tc.args, 1), "HOST", w.reg.Host))
		c := w.config(t)
		c.SourceDateEpoch = tc.environment
		_, err := Prepare(t.Context(), c)
		if err == nil || !strings.Contains(fmt.Sprintf("%+v", err), tc.want) {
			t.Errorf("%v, want %s", err, tc.want)
		}
	}
}
