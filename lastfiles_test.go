package strata

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/registry"
)

// The times of a rebuilt image follow the last one's. A registry that fails to tell
// them is not the same as one that has none: a page that changed would come out older
// than it was.
func TestTimesOfALastImageThatCannotBeRead(t *testing.T) {
	for status, fails := range map[int]bool{http.StatusOK: false, http.StatusNotFound: false, http.StatusForbidden: true, http.StatusNotImplemented: true} {
		w := newWorkshop(t, ordinary)
		w.publishes(t, 1, nil)
		w.write(t, "src/main.py", "print(2)\n")
		c := w.at(t, 2)
		full := ""
		c.Client = w.reg.NewClient(registry.Options{Retries: -1, Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if status == http.StatusOK || full == "" || !strings.HasSuffix(r.URL.Path, full) {
				return http.DefaultTransport.RoundTrip(r)
			}
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
		})})
		p, err := Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		u := p.Units[len(p.Units)-1]
		last := p.lastImage(u)
		if last == nil {
			t.Fatal("there is no last image")
		}
		d, ok := attachment(last.manifest.Annotations, annotationTailFiles)
		if !ok {
			t.Fatal("the last image has no list of its tail's files")
		}
		last.manifest.Annotations[annotationFull] = last.manifest.Annotations[annotationTailFiles] // of an image that an engine has built
		full = "/blobs/" + d.Digest.String()
		_, err = (&runner{pass: p}).lastFiles(t.Context(), u, p.Keys[u.ID].Unit)
		if (err != nil) != fails {
			t.Errorf("%d: %v", status, err)
		}
		var known *registry.Error
		if fails && !errors.As(err, &known) {
			t.Errorf("%d: the registry is not named: %v", status, err)
		}
	}
}
