package management

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestHealth(t *testing.T) {
	var notReady error = errors.New("the catalog is not current")
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_test_total", Help: "x"})
	registry.MustRegister(counter)
	counter.Inc()
	s := New(Options{Ready: func() error { return notReady }, Metrics: registry, Logger: slog.New(slog.DiscardHandler)})
	if code, text := get(t, s, "/health/live"); code != http.StatusOK || text != "live" {
		t.Fatal(code, text)
	}
	if code, text := get(t, s, "/health/ready"); code != http.StatusServiceUnavailable || text != "the catalog is not current" {
		t.Fatal(code, text)
	}
	notReady = nil
	if code, _ := get(t, s, "/health/ready"); code != http.StatusOK {
		t.Fatal(code)
	}
	if code, text := get(t, s, "/metrics"); code != http.StatusOK || !strings.Contains(text, "warren_test_total 1") {
		t.Fatal(code, text)
	}
	if code, _ := get(t, s, "/nothing"); code != http.StatusNotFound {
		t.Fatal(code)
	}
}

// TestDigests: they cost much, so they are there with the profiles only.
func TestDigests(t *testing.T) {
	failure := errors.New("starting")
	write := func(w io.Writer) error {
		if failure == nil {
			_, err := io.WriteString(w, "shard-1 7 00ff\n")
			return err
		}
		return failure
	}
	o := Options{Ready: func() error { return nil }, Digests: write, Logger: slog.New(slog.DiscardHandler)}
	if code, _ := get(t, New(o), "/debug/digests"); code != http.StatusNotFound {
		t.Fatal(code)
	}
	o.Profiles = true
	s := New(o)
	if code, text := get(t, s, "/debug/digests"); code != http.StatusServiceUnavailable || text != "starting" {
		t.Fatal(code, text)
	}
	failure = nil
	if code, text := get(t, s, "/debug/digests"); code != http.StatusOK || text != "shard-1 7 00ff" {
		t.Fatal(code, text)
	}
}
