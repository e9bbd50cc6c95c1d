//go:build linux

package buildkit

import (
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/build"
)

// An engine is asked for a time where the user does, and RUNs see no more of it
// than the arguments that they are given.
func TestNoTimeIsAskedForUnasked(t *testing.T) {
	tests := map[string]struct {
		job  build.Job
		want string // of the exporters
	}{
		"nobody":            {build.Job{}, " "},
		"a user":            {build.Job{SourceDateEpoch: seconds(0)}, "0 true"},
		"a user, of a file": {build.Job{EngineEpoch: true}, " true"},
	}
	for name, tc := range tests {
		tc.job.Repository, tc.job.Export = "r", &build.Export{Type: "oci"}
		attrs, err := frontendAttrs(tc.job)
		if err != nil {
			t.Fatal(err)
		}
		for attr := range attrs {
			if strings.HasPrefix(attr, "build-arg:") {
				t.Errorf("%s: the frontend is given %s", name, attr)
			}
		}
		for _, e := range exports(tc.job, "") {
			if got := e.Attrs[sourceDateEpoch] + " " + e.Attrs[rewriteTimestamp]; got != tc.want {
				t.Errorf("%s: the exporter %s is given %q, want %q", name, e.Type, got, tc.want)
			}
		}
	}
}

// A default before the first FROM is the time of the image without being asked
// for by whoever builds.
func TestEpochOfTheDockerfile(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := job(t, "ARG SOURCE_DATE_EPOCH=1500000000\nFROM strata.internal/base\nARG SOURCE_DATE_EPOCH=7\nRUN echo $SOURCE_DATE_EPOCH > /seen\n", nil)
	j.SourceDateEpoch = nil
	r, _ := mustBuildLocal(t, e, j)
	if !strings.Contains(string(r.Config), `"created":"2017-07-14T02:40:00Z"`) {
		t.Errorf("config: %s", r.Config)
	}
	layer := manifest(t, r.Body).Layers
	text := strings.Join(headers(t, unpacked(t, readBlob(t, r, layer[len(layer)-1]))), "\n")
	if !strings.Contains(text, "2017-07-14 02:40:00") {
		t.Errorf("files:\n%s", text)
	}
}
