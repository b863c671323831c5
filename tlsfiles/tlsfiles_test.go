package tlsfiles

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

func development(t *testing.T, user string) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteDevelopment(dir, Development{User: user, Valid: day, Hosts: []string{"broker.example", "10.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func nodeFiles(dir string) Files {
	return Files{Cert: filepath.Join(dir, NodeCert), Key: filepath.Join(dir, NodeKey), CA: filepath.Join(dir, CACert)}
}

func clientFiles(dir string) Files {
	return Files{Cert: filepath.Join(dir, ClientCert), Key: filepath.Join(dir, ClientKey), CA: filepath.Join(dir, CACert)}
}

func open(t *testing.T, f Files) *Source {
	t.Helper()
	s, err := Open(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// meet lets two configurations shake hands and send a byte each way; it returns the server's and the client's errors.
func meet(server, client *tls.Config) (fromServer, fromClient error) {
	a, b := net.Pipe()
	deadline := time.Now().Add(time.Minute)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	exchange := func(c *tls.Conn) error {
		defer c.Close()
		if err := c.Handshake(); err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { _, err := c.Write([]byte{1}); done <- err }()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
		return <-done
	}
	result := make(chan error, 1)
	go func() { result <- exchange(tls.Server(a, server)) }()
	fromClient = exchange(tls.Client(b, client))
	return <-result, fromClient
}

// TestNodesAloneMeet lets two nodes meet, and refuses a client of the same authority, a stranger and one without a certificate.
func TestNodesAloneMeet(t *testing.T) {
	ours, others := development(t, "guest"), development(t, "guest")
	server := open(t, nodeFiles(ours)).NodeServer()
	if a, b := meet(server, open(t, nodeFiles(ours)).NodeClient()); a != nil || b != nil {
		t.Errorf("two nodes: %v, %v", a, b)
	}
	if a, _ := meet(server, open(t, clientFiles(ours)).NodeClient()); a == nil || !strings.Contains(a.Error(), "not a node's certificate") {
		t.Errorf("a client of the authority: %v", a)
	}
	stranger := open(t, nodeFiles(others)).NodeClient()
	stranger.RootCAs = open(t, nodeFiles(ours)).NodeClient().RootCAs // it trusts us
	if a, _ := meet(server, stranger); a == nil {
		t.Error("a stranger got in")
	}
	nobody := open(t, nodeFiles(ours)).NodeClient()
	nobody.Certificates = nil
	if a, _ := meet(server, nobody); a == nil {
		t.Error("one without a certificate got in")
	}
	if _, b := meet(open(t, nodeFiles(others)).NodeServer(), open(t, nodeFiles(ours)).NodeClient()); b == nil {
		t.Error("a node went to a stranger")
	}
	// A client's certificate does not make a server either.
	impostor := open(t, clientFiles(ours)).Server()
	if _, b := meet(impostor, open(t, nodeFiles(ours)).NodeClient()); b == nil {
		t.Error("a node went to a client of the authority")
	}
}

// TestClients come with a certificate or without; one that is not of the authority is refused.
func TestClients(t *testing.T) {
	ours, others := development(t, "guest"), development(t, "guest")
	server := open(t, nodeFiles(ours)).Server()
	for name, tc := range map[string]struct {
		dir  string
		host string
		want bool
	}{"none": {"", "localhost", true}, "ours": {ours, "broker.example", true}, "by address": {"", "10.0.0.1", true}, "another's": {others, "localhost", false}, "another host": {"", "elsewhere", false}} {
		c := &tls.Config{RootCAs: open(t, nodeFiles(ours)).NodeClient().RootCAs, ServerName: tc.host}
		if tc.dir != "" {
			c.Certificates = open(t, clientFiles(tc.dir)).NodeClient().Certificates
		}
		if a, b := meet(server, c); (a == nil && b == nil) != tc.want {
			t.Errorf("%s: %v, %v", name, a, b)
		}
	}
}

// TestRenewal replaces the files while they are watched: what is half-written changes nothing, what is whole is shown to the
// next.
func TestRenewal(t *testing.T) {
	dir := development(t, "guest")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nodeFiles(dir))
		ctx, end := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { s.Watch(ctx); close(done) }()
		defer func() { end(); <-done }()
		server := s.Server()
		serial := func() string {
			c, err := server.GetConfigForClient(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Certificates[0].Leaf.SerialNumber.String()
		}
		pass := func() { time.Sleep(2 * readEvery); synctest.Wait() }
		first := serial()
		key, err := os.ReadFile(filepath.Join(dir, NodeKey))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, NodeKey), key[:len(key)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if pass(); serial() != first {
			t.Error("half a key was taken")
		}
		if err := WriteDevelopment(dir, Development{User: "guest", Valid: day}); err != nil {
			t.Fatal(err)
		}
		if pass(); serial() == first {
			t.Error("the renewed certificate is not shown")
		}
	})
}

// TestFollowTellsErrorsOnce lets reading fail, in one way and in another, and succeed in between.
func TestFollowTellsErrorsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		results := []string{"a", "a", "", "a", "b", "b"}
		var told []string
		Follow(ctx, func() error {
			if len(results) == 0 {
				end()
				return nil
			}
			text := results[0]
			results = results[1:]
			if text == "" {
				return nil
			}
			return errors.New(text)
		}, func(err error) { told = append(told, err.Error()) })
		if strings.Join(told, "") != "aab" {
			t.Errorf("told %q", told)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	dir, other := development(t, "guest"), development(t, "guest")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := nodeFiles(dir)
	for name, f := range map[string]Files{
		"no file":       {Cert: good.Cert + "x", Key: good.Key},
		"another's key": {Cert: good.Cert, Key: filepath.Join(other, NodeKey)},
		"no authority":  {Cert: good.Cert, Key: good.Key, CA: empty},
	} {
		if _, err := Open(f, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}
