package watch

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func get(t *testing.T, s *Service, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRecorder()
	s.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
	return r
}

// Healthz is 200 while it starts and while looks succeed, and 503 when for three
// intervals none has.
func TestHealthz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.image("debian:12", "docker.io")
		s, err := Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		check := func(when, status string, code int) Health {
			t.Helper()
			r := get(t, s, "/healthz")
			var h Health
			if err := json.Unmarshal(r.Body.Bytes(), &h); err != nil {
				t.Fatal(err)
			}
			if h.Status != status || r.Code != code || r.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %s", when, r.Code, r.Body)
			}
			return h
		}
		check("before the first look", "starting", 200)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Hour)
		h := check("after an hour", "ok", 200)
		if h.Project != "ghcr.io/user/app" || h.AgeSeconds > 1000 || h.LastError != "" || len(h.Outdated) != 0 {
			t.Errorf("after an hour: %+v", h)
		}
		w.set(func() {
			w.at["debian:12"] = sum("2")
			w.answer = func(Image) (Answer, bool) { return Answer{Err: errors.New("connection refused")}, true }
		})
		time.Sleep(30 * time.Minute)
		if h := check("after two errors", "ok", 200); h.LastError != "connection refused" {
			t.Errorf("after two errors: %+v", h)
		}
		time.Sleep(30 * time.Minute)
		check("after an hour of errors", "stale", 503)
		w.set(func() { w.answer = nil })
		time.Sleep(8 * time.Hour)
		if h := check("when they are over", "ok", 200); cmp.Diff([]string{"debian:12"}, h.Outdated) != "" {
			t.Errorf("when they are over: %+v", h)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A project without pinned images has nothing to look at, and is healthy.
func TestHealthzWithoutImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers
		s, err := Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		time.Sleep(24 * time.Hour)
		if r := get(t, s, "/healthz"); r.Code != 200 {
			t.Errorf("%d %s", r.Code, r.Body)
		}
	})
}

// scrape reads /metrics with Prometheus's own parser: "name{labels}" -> value.
func scrape(t *testing.T, s *Service) map[string]float64 {
	t.Helper()
	r := get(t, s, "/metrics")
	if r.Code != 200 || !strings.HasPrefix(r.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %s", r.Code, r.Header())
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[strings.TrimPrefix(name, "strata_watch_")+"{"+strings.Join(labels, ",")+"}"] = value(f.GetType(), m)
		}
	}
	return out
}

func value(t dto.MetricType, m *dto.Metric) float64 {
	switch t {
	case dto.MetricType_COUNTER:
		return m.GetCounter().GetValue()
	case dto.MetricType_HISTOGRAM:
		return m.GetHistogram().GetSampleSum()
	}
	return m.GetGauge().GetValue()
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.project.Layers = layers[:1]
		w.image("debian:12", "docker.io")
		w.image("node:24", "docker.io")
		w.image("tool:1", "ghcr.io")
		w.at["debian:12"] = sum("2")
		w.answer = func(i Image) (Answer, bool) {
			return Answer{Err: errors.New("too many requests"), Limited: true, RetryAfter: 24 * time.Hour}, i.Host == "ghcr.io"
		}
		c := w.config()
		c.Policies = []Policy{w.policy("rebuild", func(_ context.Context, e Event, _ int) error {
			time.Sleep(2 * time.Minute)
			if e.Type == ImageMoved {
				return errors.New("it does not compile")
			}
			return nil
		})}
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(20 * time.Minute)
		got := scrape(t, s)
		monday := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
		for name, want := range map[string]float64{
			"polls_total{result=same}":                           2,
			"polls_total{result=moved}":                          2,
			"polls_total{result=limited}":                        1,
			"polls_total{result=error}":                          0,
			"outdated_images{}":                                  1,
			"image_outdated{image=debian:12}":                    1,
			"image_outdated{image=node:24}":                      0,
			"poll_failures{image=tool:1}":                        1,
			"slots_total{layer=base,policy=rebuild,result=done}": 1,
			"actions_total{policy=rebuild,result=ok}":            1,
			"actions_total{policy=rebuild,result=failed}":        2,
			"action_seconds{policy=rebuild}":                     360,
			"action_failures{policy=rebuild,subject=debian:12}":  2,
			"pending_actions{}":                                  1,
			"action_running{}":                                   0,
			"next_slot_timestamp_seconds{layer=base}":            float64(monday.Unix()),
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
			}
		}
		retry := got["retry_timestamp_seconds{policy=rebuild,subject=debian:12}"] - float64(sunday.Unix())
		if retry < 3600 || retry > 4200 {
			t.Errorf("it tries again after %v s", retry)
		}
		if ok := got["last_success_timestamp_seconds{}"] - float64(sunday.Unix()); ok < 800 || ok > 1200 {
			t.Errorf("the last success was after %v s", ok)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
