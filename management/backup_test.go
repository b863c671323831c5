package management

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warrenmq/warren/broker"
)

func (f *fakeCluster) BackupCatalog(_ context.Context, w io.Writer) error {
	if err := f.note("backup catalog"); err != nil {
		return err
	}
	_, err := w.Write(bytes.Repeat([]byte("catalog"), 100_000))
	return err
}

// BackupShard breaks off when it is to fail.
func (f *fakeCluster) BackupShard(_ context.Context, shard uint16, w io.Writer) error {
	if _, err := w.Write(bytes.Repeat([]byte{7}, 1<<20)); err != nil {
		return err
	}
	return f.note("backup shard %d", shard)
}

func (f *fakeCluster) Restore(_ context.Context, r io.Reader) (any, error) {
	if f.err != nil {
		return nil, f.note("restore")
	}
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		return nil, err
	}
	return map[string]int64{"octets": n}, f.note("restore")
}

func TestBackups(t *testing.T) {
	cluster := &fakeCluster{}
	login := func(_ context.Context, user, password string, _ bool) ([]string, error) { return []string{user}, nil }
	s := New(Options{Ready: func() error { return nil }, Cluster: cluster, Login: login, Logger: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		if err := errors.Join(s.Shutdown(t.Context()), <-served); err != nil {
			t.Error(err)
		}
	}()
	ask := func(method, path, user string, body io.Reader) (status int, answer []byte, err error) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, "secret")
		r.Header.Set("Expect", "100-continue")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err = io.ReadAll(response.Body)
		return response.StatusCode, answer, err
	}
	if status, answer, err := ask("GET", "/api/warren/backup/catalog", "administrator", nil); status != 200 || len(answer) != 700_000 || err != nil {
		t.Errorf("catalog: %d, %d octets, %v", status, len(answer), err)
	}
	if status, answer, err := ask("GET", "/api/warren/backup/shards/7", "administrator", nil); status != 200 || len(answer) != 1<<20 || err != nil || cluster.asked != "backup shard 7" {
		t.Errorf("shard: %d, %d octets, %v, asked %q", status, len(answer), err, cluster.asked)
	}
	for _, path := range []string{"/api/warren/backup/catalog", "/api/warren/backup/shards/0"} {
		if status, _, _ := ask("GET", path, "monitoring", nil); status != 403 {
			t.Errorf("%s by who may only look: %d", path, status)
		}
	}
	if status, answer, _ := ask("POST", "/api/warren/restore", "monitoring", strings.NewReader("x")); status != 403 {
		t.Errorf("restore by who may only look: %d %s", status, answer)
	}
	if status, answer, _ := ask("GET", "/api/warren/backup/shards/many", "administrator", nil); status != 404 || !strings.Contains(string(answer), "'many' is no shard") {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer, err := ask("POST", "/api/warren/restore", "administrator", io.LimitReader(endless{}, 3<<20)); status != 200 || string(answer) != "{\"octets\":3145728}\n" || err != nil {
		t.Errorf("restore: %d %s %v", status, answer, err)
	}
	cluster.err = refusedBy(broker.PreconditionFailed, "it holds queue 'q'")
	if status, answer, err := ask("POST", "/api/warren/restore", "administrator", io.LimitReader(endless{}, 1<<30)); status != 409 || !strings.Contains(string(answer), "it holds queue 'q'") || err != nil {
		t.Errorf("restore that is refused: %d %s %v", status, answer, err)
	}
	if status, answer, err := ask("GET", "/api/warren/backup/catalog", "administrator", nil); status != 409 || !strings.Contains(string(answer), "holds") || err != nil {
		t.Errorf("catalog that is refused: %d %s %v", status, answer, err)
	}
	// A part that fails in the middle breaks off: nobody takes it for whole.
	if status, answer, err := ask("GET", "/api/warren/backup/shards/7", "administrator", nil); status != 200 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a part that breaks off: %d, %d octets, %v", status, len(answer), err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// TestBackupsAtOnce: no more than there is room for, and no two restores.
func TestBackupsAtOnce(t *testing.T) {
	room := make(chan struct{}, 1)
	login := func(context.Context, string, string, bool) ([]string, error) { return []string{"administrator"}, nil }
	entered, leave := make(chan struct{}), make(chan struct{})
	h := streaming(login, room, func(http.ResponseWriter, *http.Request) { close(entered); <-leave })
	first := make(chan int)
	go func() { first <- serveOnce(h) }()
	<-entered
	if status := serveOnce(h); status != http.StatusServiceUnavailable {
		t.Errorf("a second one: %d", status)
	}
	close(leave)
	if status := <-first; status != http.StatusOK || len(room) != 0 {
		t.Errorf("the first one: %d, %d under way", status, len(room))
	}
}

func serveOnce(h http.Handler) (status int) {
	r := httptest.NewRequest("POST", "/", nil)
	r.SetBasicAuth("administrator", "secret")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}
