package watch

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the service's counters. What can be read off its status is taken
// from there when it is asked for.
type metrics struct {
	registry *prometheus.Registry
	polls    *prometheus.CounterVec
	slots    *prometheus.CounterVec
	actions  *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strata_watch_polls_total", Help: "Looks at external images, by result: same, moved, limited, error.",
		}, []string{"result"}),
		slots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strata_watch_slots_total", Help: "Refresh slots that turned, by layer and result: done by a policy, skipped because they passed unnoticed.",
		}, []string{"layer", "policy", "result"}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strata_watch_actions_total", Help: "Actions that ended, by policy and result: ok, failed, stopped. Builds are those of the policy rebuild.",
		}, []string{"policy", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strata_watch_action_seconds", Help: "How long actions took, by policy.",
			Buckets: []float64{0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 3 * 3600},
		}, []string{"policy"}),
	}
	m.registry.MustRegister(m.polls, m.slots, m.actions, m.seconds)
	for _, result := range []string{"same", "moved", "limited", "error"} {
		m.polls.WithLabelValues(result)
	}
	return m
}

func (m *metrics) poll(a Answer, i Image) {
	result := "moved"
	switch {
	case a.Limited:
		result = "limited"
	case a.Err != nil:
		result = "error"
	case a.Digest == i.Pinned || a.Same:
		result = "same"
	}
	m.polls.WithLabelValues(result).Inc()
}

func (m *metrics) skipped(n Note) {
	if n.Type == SlotsSkipped {
		m.slots.WithLabelValues(n.Layer, "", "skipped").Add(float64(len(n.Skipped)))
	}
}

func (m *metrics) action(o outcome) {
	result := "ok"
	switch {
	case o.stopped:
		result = "stopped"
	case o.err != nil:
		result = "failed"
	case o.job.Event.Type == SlotTurned:
		m.slots.WithLabelValues(o.job.Event.Layer, o.job.Policy, "done").Inc()
	}
	m.actions.WithLabelValues(o.job.Policy, result).Inc()
	m.seconds.WithLabelValues(o.job.Policy).Observe(o.took.Seconds())
}

// gauges reads the service's status at each scrape.
type gauges struct{ service *Service }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("strata_watch_"+name, help, labels, nil)
}

var (
	descOutdated = describe("outdated_images", "External images that have moved since they were pinned.")
	descImage    = describe("image_outdated", "1 for an external image that has moved since it was pinned, otherwise 0.", "image")
	descErrors   = describe("poll_failures", "Looks at the image that failed in a row.", "image")
	descLastPoll = describe("last_poll_timestamp_seconds", "When the last look at an image was; 0 before the first.")
	descLastOK   = describe("last_success_timestamp_seconds", "When the last look that succeeded was; 0 before the first.")
	descNext     = describe("next_slot_timestamp_seconds", "When the next refresh slot of the layer turns.", "layer")
	descJobs     = describe("pending_actions", "Actions that are under way or wait.")
	descFailures = describe("action_failures", "Failures in a row of an action that waits to be tried again.", "policy", "subject")
	descRetry    = describe("retry_timestamp_seconds", "When an action that failed is tried again.", "policy", "subject")
	descRunning  = describe("action_running", "1 while an action is under way, otherwise 0.")
)

// Describe leaves the descriptions out: which there are depends on the project.
func (g gauges) Describe(chan<- *prometheus.Desc) {}

// Collect gives the gauges.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st := g.service.Status()
	outdated := 0.0
	for _, i := range st.Images {
		outdated += number(i.Outdated)
		put(descImage, number(i.Outdated), i.Image)
		put(descErrors, float64(i.Errors), i.Image)
	}
	put(descOutdated, outdated)
	put(descLastPoll, seconds(st.health.lastPoll))
	put(descLastOK, seconds(st.health.lastOK))
	for _, l := range st.Layers {
		put(descNext, seconds(l.Next), l.Layer)
	}
	put(descJobs, float64(len(st.Actions)))
	running := false
	for _, j := range st.Actions {
		running = running || j.Running
		if j.Failures > 0 {
			put(descFailures, float64(j.Failures), j.Policy, j.Subject)
			put(descRetry, seconds(j.Next), j.Policy, j.Subject)
		}
	}
	put(descRunning, number(running))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Health is the answer of /healthz.
type Health struct {
	Status      string    `json:"status"` // "ok", "starting" or "stale"
	Project     string    `json:"project"`
	LastPoll    time.Time `json:"lastPoll,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	AgeSeconds  float64   `json:"ageSeconds"` // of the last success, or of the service
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	Problem     string    `json:"problem,omitempty"` // why the project can't be read
	Outdated    []string  `json:"outdated"`
	Pending     int       `json:"pending"` // actions that are under way or wait
}

// staleIntervals is after how many intervals without a look that succeeded the
// service counts as unhealthy.
const staleIntervals = 3

// Health says how the service is. It is stale when for three intervals no look
// has succeeded; a project without images to look at never is.
func (st Status) Health(now time.Time) Health {
	h := Health{
		Status: "ok", Project: st.Name, LastPoll: st.health.lastPoll.UTC(), LastSuccess: st.health.lastOK.UTC(),
		LastError: st.health.lastError, LastErrorAt: st.health.lastErrorAt.UTC(), Problem: st.Problem,
		Outdated: []string{}, Pending: len(st.Actions),
	}
	since := st.health.lastOK
	if since.IsZero() {
		since = st.health.started
	}
	age := now.Sub(since)
	h.AgeSeconds = age.Seconds()
	for _, i := range st.Images {
		if i.Outdated {
			h.Outdated = append(h.Outdated, i.Image)
		}
	}
	switch {
	case len(st.Images) == 0:
	case age > staleIntervals*st.Every:
		h.Status = "stale"
	case st.health.lastOK.IsZero():
		h.Status = "starting"
	}
	return h
}

// Handler serves /healthz and /metrics.
func (s *Service) Handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(gauges{s})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{s.metrics.registry, reg}, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := s.Status().Health(s.config.Now())
		w.Header().Set("Content-Type", "application/json")
		if h.Status == "stale" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // a client that went away
	})
	return mux
}
