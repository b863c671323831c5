package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/backup"
	"github.com/warrenmq/warren/tlsfiles"
)

// parts serves a cluster of two shards; each shard's first answer breaks off in the middle.
type parts struct {
	t       *testing.T
	asked   map[string]int
	refusal string
	took    []byte // what was restored
}

func (p *parts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked[r.URL.Path]++
	if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
		p.t.Errorf("by %s", user)
	}
	if p.refusal != "" {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, `{"reason":%q}`, p.refusal)
		return
	}
	if r.URL.Path == "/api/warren/restore" {
		p.took, _ = io.ReadAll(r.Body)
		fmt.Fprint(w, `{"queues":2,"messages":40,"expired":0,"out":3,"deleted":0,"later":1}`)
		return
	}
	var b bytes.Buffer
	out := backup.NewWriter(&b)
	_ = out.Begin(&backup.Begin{TakenAtMillis: 1_700_000_000_000, Shards: 2, ClusterID: "c-1", Version: "v1"})
	if id, ok := strings.CutPrefix(r.URL.Path, "/api/warren/backup/shards/"); ok {
		_ = out.Shard(&backup.Shard{ID: uint32(id[0] - '0')})
		_ = out.Queue(&backup.Queue{ID: 7})
		for range 20 {
			_ = out.Message(&backup.Message{Size: 50_000, Places: []backup.Place{{Queue: 7}}})
			_ = out.Piece(bytes.Repeat([]byte(id), 50_000))
		}
		_ = out.ShardEnd()
	} else {
		_ = out.Catalog([]byte("a thing"))
	}
	_, _ = out.Close()
	if b.Len() > 1<<19 && p.asked[r.URL.Path] == 1 {
		_, _ = w.Write(b.Bytes()[:b.Len()/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(b.Bytes())
}

func TestBackupAndRestore(t *testing.T) {
	p := &parts{t: t, asked: map[string]int{}}
	server := httptest.NewServer(p)
	defer server.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	out, err := runAdmin(t, backupCommand(), server, file)
	if err != nil || !strings.Contains(out, "40 messages in 2 queues of 2 shards") {
		t.Fatalf("%v\n%s", err, out)
	}
	if p.asked["/api/warren/backup/catalog"] != 1 || p.asked["/api/warren/backup/shards/0"] != 2 || p.asked["/api/warren/backup/shards/1"] != 2 {
		t.Errorf("asked %v", p.asked)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left over: %v", list)
	}
	if _, err := runAdmin(t, backupCommand(), server, file); err == nil || !strings.Contains(err.Error(), "--overwrite") {
		t.Errorf("over a file that is there: %v", err)
	}
	out, err = runAdmin(t, backupCommand(), server, file, "--overwrite", "--json")
	var s summary
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || s.Messages != 40 || s.ClusterID != "c-1" || s.Bytes != info.Size() {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = runAdmin(t, restoreCommand(), server, file)
	data, _ := os.ReadFile(file)
	if err != nil || !strings.Contains(out, "Restored: 40 messages in 2 queues.\n3 of the messages were out") || !bytes.Equal(p.took, data) {
		t.Errorf("%v\n%s", err, out)
	}
	server.Close() // what follows asks nobody
	if out, err = runAdmin(t, backupCommand(), server, "--verify", file); err != nil || !strings.Contains(out, "undamaged") {
		t.Errorf("%v\n%s", err, out)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []func() (string, error){
		func() (string, error) { return runAdmin(t, backupCommand(), server, "--verify", file) },
		func() (string, error) { return runAdmin(t, restoreCommand(), server, file) },
	} {
		if out, err := c(); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// TestBackupIsRefused: a refusal is told, not tried again, and leaves nothing.
func TestBackupIsRefused(t *testing.T) {
	p := &parts{t: t, asked: map[string]int{}, refusal: "it holds queue 'q'"}
	server := httptest.NewServer(p)
	defer server.Close()
	dir := t.TempDir()
	if _, err := runAdmin(t, backupCommand(), server, filepath.Join(dir, "b")); err == nil || err.Error() != "back up: it holds queue 'q'" {
		t.Errorf("%v", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 || p.asked["/api/warren/backup/catalog"] != 1 {
		t.Errorf("left over: %v; asked %v", list, p.asked)
	}
	var b bytes.Buffer
	w := backup.NewWriter(&b)
	_ = w.Begin(&backup.Begin{})
	_, _ = w.Close()
	file := filepath.Join(dir, "empty")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runAdmin(t, restoreCommand(), server, file); err == nil || err.Error() != "restore: it holds queue 'q'" {
		t.Errorf("%v", err)
	}
}

// TestBackupOnAFullDisk: the other side is not asked again for what cannot be written.
func TestBackupOnAFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	p := &parts{t: t, asked: map[string]int{}}
	server := httptest.NewServer(p)
	defer server.Close()
	a := &admin{server: server.URL, user: "u", password: "p"}
	if _, err := fetchParts(t.Context(), a, backup.NewWriter(full), full, newMeter(io.Discard, true)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if len(p.asked) > 1 {
		t.Errorf("asked %v", p.asked)
	}
}

func TestMeter(t *testing.T) {
	var out bytes.Buffer
	m := &meter{out: &out, bar: true}
	m.show(1, 2, "half")
	m.show(1, 2, "so soon after, it is left out")
	m.last = time.Time{}
	m.show(2, 2, "whole")
	m.end()
	m.end()
	half := "[" + strings.Repeat("=", barWidth/2) + strings.Repeat(" ", barWidth/2) + "]"
	if want := "\r\x1b[K" + half + " half\r\x1b[K" + drawBar(1, 1) + " whole\n"; out.String() != want {
		t.Errorf("%q, wanted %q", out.String(), want)
	}
	out.Reset()
	m = &meter{out: &out}
	m.show(1, 2, "half")
	m.show(2, 2, "whole")
	m.end()
	if out.String() != "half\nwhole\n" {
		t.Errorf("%q", out.String())
	}
	(&meter{out: &out, off: true}).show(1, 1, "no")
	if out.Len() != len("half\nwhole\n") {
		t.Errorf("%q", out.String())
	}
}

// TestAdminTLS asks a node with a certificate of an authority of its own, that wants to see one, too.
func TestAdminTLS(t *testing.T) {
	dir := t.TempDir()
	if err := tlsfiles.WriteDevelopment(dir, tlsfiles.Development{User: "anna", Valid: time.Hour}); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(path(tlsfiles.NodeCert), path(tlsfiles.NodeKey))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(path(tlsfiles.CACert))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(ca)
	var shown string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = ""
		if len(r.TLS.PeerCertificates) > 0 {
			shown = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		v := view()
		v.Problems = nil
		_ = json.NewEncoder(w).Encode(v)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: trusted, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that trust nobody
	server.StartTLS()
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "https://")
	ask := func(args ...string) error {
		c := statusCommand()
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetOut(io.Discard)
		c.SetArgs(args)
		return c.ExecuteContext(t.Context())
	}
	if err := ask("--server", address, "--tls-ca", path(tlsfiles.CACert)); err != nil || shown != "" {
		t.Errorf("with the authority: %v, shown %q", err, shown)
	}
	if err := ask("--server", server.URL, "--tls-ca", path(tlsfiles.CACert), "--tls-cert", path(tlsfiles.ClientCert), "--tls-key", path(tlsfiles.ClientKey)); err != nil || shown != "anna" {
		t.Errorf("with a certificate: %v, shown %q", err, shown)
	}
	for _, args := range [][]string{{"--server", server.URL}, {"--server", address, "--tls"}} {
		if err := ask(args...); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%v, an authority that nobody trusts: %v", args, err)
		}
	}
	if err := ask("--server", address, "--tls-skip-verify"); err != nil {
		t.Errorf("without a check: %v", err)
	}
	if err := ask("--server", address, "--tls-ca", path("nothing.pem")); err == nil || !strings.Contains(err.Error(), "authorities") {
		t.Errorf("an authority that is not there: %v", err)
	}
	t.Setenv("WARREN_ADMIN_TLS_CA", path(tlsfiles.CACert))
	if err := ask("--server", address); err != nil {
		t.Errorf("with the authority in a variable: %v", err)
	}
}
