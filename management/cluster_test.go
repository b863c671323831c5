package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrenmq/warren/broker"
)

// fakeCluster notes what it is asked.
type fakeCluster struct {
	asked string
	err   error
}

func (f *fakeCluster) note(format string, args ...any) error {
	f.asked = fmt.Sprintf(format, args...)
	return f.err
}

func (f *fakeCluster) Overview() (any, error) { return map[string]int{"nodes": 3}, f.note("overview") }

func (f *fakeCluster) Leave(_ context.Context, node string, few bool) error {
	return f.note("leave %s %v", node, few)
}

func (f *fakeCluster) Remove(_ context.Context, node string, few bool) error {
	return f.note("remove %s %v", node, few)
}

func (f *fakeCluster) Stay(_ context.Context, node string) error { return f.note("stay %s", node) }

func (f *fakeCluster) Drain(_ context.Context, node string, off bool) (int, error) {
	return 4, f.note("drain %s %v", node, off)
}

func refusedBy(kind broker.Kind, text string) error { return &broker.Error{Kind: kind, Text: text} }

func TestCluster(t *testing.T) {
	cluster := &fakeCluster{}
	login := func(_ context.Context, user, password string, loopback bool) ([]string, error) {
		if password != "secret" || !loopback {
			return nil, refusedBy(broker.AccessRefused, "Login was refused")
		}
		return []string{user}, nil // users have their tag's name
	}
	s := New(Options{Ready: func() error { return nil }, Cluster: cluster, Login: login, Logger: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		method, path, user, password, from string
		err                                error
		status                             int
		asked, body                        string
	}{
		{"GET", "/api/warren/overview", "administrator", "secret", "127.0.0.1", nil, 200, "overview", `"nodes":3`},
		{"GET", "/api/warren/overview", "monitoring", "secret", "127.0.0.1", nil, 200, "overview", `"nodes":3`},
		{"GET", "/api/warren/overview", "", "", "127.0.0.1", nil, 401, "", "name a user"},
		{"GET", "/api/warren/overview", "administrator", "wrong", "127.0.0.1", nil, 401, "", "Login was refused"},
		{"GET", "/api/warren/overview", "administrator", "secret", "10.0.0.1", nil, 401, "", "Login was refused"},
		{"GET", "/api/warren/overview", "nobody", "secret", "127.0.0.1", nil, 403, "", "no administrator"},
		{"GET", "/api/warren/overview", "administrator", "secret", "127.0.0.1", refusedBy(broker.Unavailable, "starting"), 503, "overview", "starting"},
		{"POST", "/api/warren/nodes/n1/leave", "administrator", "secret", "127.0.0.1", nil, 200, "leave n1 false", "{}"},
		{"POST", "/api/warren/nodes/n1/leave", "monitoring", "secret", "127.0.0.1", nil, 403, "", "no administrator"},
		{"POST", "/api/warren/nodes/n1/leave?few", "administrator", "secret", "127.0.0.1", nil, 200, "leave n1 true", "{}"},
		{"POST", "/api/warren/nodes/n%2F1/remove", "administrator", "secret", "127.0.0.1", nil, 200, "remove n/1 false", "{}"},
		{"POST", "/api/warren/nodes/n1/remove", "administrator", "secret", "127.0.0.1", refusedBy(broker.PreconditionFailed, "it runs"), 409, "remove n1 false", "it runs"},
		{"POST", "/api/warren/nodes/n1/stay", "administrator", "secret", "127.0.0.1", refusedBy(broker.NotFound, "no node"), 404, "stay n1", "no node"},
		{"POST", "/api/warren/nodes/n1/drain?off", "administrator", "secret", "127.0.0.1", nil, 200, "drain n1 true", `"leads":4`},
		{"POST", "/api/warren/nodes/n1/drain", "administrator", "secret", "127.0.0.1", errors.New("a secret of the house"), 500, "drain n1 false", "internal error"},
		{"GET", "/api/warren/nodes/n1/leave", "administrator", "secret", "127.0.0.1", nil, 405, "", ""},
	} {
		cluster.asked, cluster.err = "", c.err
		r := httptest.NewRequest(c.method, c.path, nil)
		r.RemoteAddr = c.from + ":1234"
		if c.user != "" {
			r.SetBasicAuth(c.user, c.password)
		}
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		body := w.Body.String()
		if w.Code != c.status || cluster.asked != c.asked || !strings.Contains(body, c.body) {
			t.Errorf("%s %s by %s: %d %q, asked %q", c.method, c.path, c.user, w.Code, body, cluster.asked)
		}
		if strings.Contains(body, "house") {
			t.Errorf("%s %s tells what is internal: %s", c.method, c.path, body)
		}
		if w.Code != http.StatusMethodNotAllowed && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: no JSON: %s", c.method, c.path, body)
		}
	}
}
