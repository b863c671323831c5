package main

import (
	"io"
	"net/http"
	"regexp"
	"testing"
)

// TestMetrics: a node that serves tells what it is to be watched by.
func TestMetrics(t *testing.T) {
	n := launch(t)
	n.awaitHealth(t, 1)
	response, err := http.Get("http://" + n.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", response.Status, err)
	}
	for _, line := range []string{`warren_log_sync_seconds_count [1-9]`, `warren_log_sync_seconds_bucket{le="0\.0001"} `, `warren_shard_leader{shard="0"} 1`,
		`warren_catalog_leader 1`, `warren_clock_off 0`, `warren_grpc_streams 0`, `go_goroutines [1-9]`, `process_open_fds [1-9]`} {
		if !regexp.MustCompile(`(?m)^` + line).Match(text) {
			t.Errorf("there is no line like %q", line)
		}
	}
}
