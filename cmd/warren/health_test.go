package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHealth asks a server that serves, one that does not, one over TLS and none.
func TestHealth(t *testing.T) {
	status := http.StatusOK
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("says " + r.URL.Path + "\n"))
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	ask := func(s *httptest.Server, args ...string) (string, error) {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "warren.yaml")
		if err := os.WriteFile(file, []byte("http-port: "+port+"\nhost: "+host+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := healthCommand()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceUsage = true
		c.SetArgs(append([]string{"--config", file}, args...))
		err = c.Execute()
		return strings.TrimSpace(out.String()), err
	}
	if got, err := ask(plain); err != nil || got != "says /health/ready" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ask(plain, "--live"); err != nil || got != "says /health/live" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ask(secure, "--tls-cert", "c", "--tls-key", "k"); err != nil || got != "says /health/ready" {
		t.Errorf("%q, %v", got, err)
	}
	status = http.StatusServiceUnavailable
	if got, err := ask(plain); err == nil || !strings.Contains(err.Error(), "not healthy: says /health/ready") {
		t.Errorf("%q, %v", got, err)
	}
	plain.Close()
	if got, err := ask(plain); err == nil {
		t.Errorf("nobody answers: %q", got)
	}
}
