// Package tlsfiles makes TLS configurations of certificates in files, and reads the files again when they change, so that
// certificates are renewed without a restart: connections that are open go on, new ones get what is new. It also makes
// certificates for development. What a certificate permits is left to others. Other files of secrets are followed in the same
// way (Follow).
package tlsfiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// Files name PEM files.
type Files struct {
	Cert, Key string // shown to the other side; Cert may have a chain
	CA        string // the authorities of the other side's certificates; empty: they are not looked at
}

// NodeName is the DNS name that a node's certificate for other nodes must have: addresses change, and a certificate that the
// same authority gave to somebody else must not make a node.
const NodeName = "warren-node"

// Source is the certificates in some files, as they are now. It is safe for use by many goroutines.
type Source struct {
	files Files
	log   *slog.Logger
	now   atomic.Pointer[material]
}

// material is what the files had when they were read. It does not change.
type material struct {
	sum  [sha256.Size]byte // of the files' bytes
	cert tls.Certificate
	pool *x509.CertPool // nil: no authorities
}

// Open reads the files.
func Open(f Files, log *slog.Logger) (*Source, error) {
	m, err := f.read()
	if err != nil {
		return nil, err
	}
	s := &Source{files: f, log: log}
	s.now.Store(m)
	return s, nil
}

// maxFile bounds a file, in bytes; a bundle of all public authorities has some 200 KB.
const maxFile = 4 << 20

func (f Files) read() (*material, error) {
	var content [3][]byte
	for i, path := range []string{f.Cert, f.Key, f.CA} {
		if path == "" {
			continue
		}
		data, err := readBounded(path)
		if err != nil {
			return nil, err
		}
		content[i] = data
	}
	m := &material{sum: sha256.Sum256(bytes.Join(content[:], []byte{0}))}
	var err error
	// Its errors do not show the key.
	if m.cert, err = tls.X509KeyPair(content[0], content[1]); err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	if f.CA != "" {
		m.pool = x509.NewCertPool()
		if !m.pool.AppendCertsFromPEM(content[2]) {
			return nil, fmt.Errorf("authorities %s: no certificate in it", f.CA)
		}
	}
	return m, nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return data, err
}

// readEvery is how often the files are read again. They are small, and comparing bytes is right however they were replaced:
// written over, renamed, or by a link to another folder, as Kubernetes does it.
const readEvery = time.Second

// Watch reads the files again and again until ctx ends. Files that cannot be used (half-written, a key that does not fit)
// are told once, and what was read before stays in use.
func (s *Source) Watch(ctx context.Context) {
	Follow(ctx, s.readAgain, func(err error) { s.log.Error("certificates cannot be read again; the old ones stay", "err", err) })
}

func (s *Source) readAgain() error {
	m, err := s.files.read()
	if err == nil && m.sum != s.now.Load().sum {
		s.now.Store(m)
		s.log.Info("certificates are renewed", "file", s.files.Cert, "serial", m.cert.Leaf.SerialNumber, "until", m.cert.Leaf.NotAfter)
	}
	return err
}

// Follow calls read once a second until ctx ends, to read again what may have changed. An error is told when it is another
// than the last time.
func Follow(ctx context.Context, read func() error, tell func(error)) {
	ticker := time.NewTicker(readEvery)
	defer ticker.Stop()
	complaint := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := read()
		switch {
		case err == nil:
			complaint = ""
		case err.Error() != complaint:
			complaint = err.Error()
			tell(err)
		}
	}
}

// base is what every configuration has. Sessions are not resumed: a ticket would outlive the authority that it rests on.
func (m *material) base(protocols []string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, Certificates: []tls.Certificate{m.cert}, NextProtos: protocols}
}

// Server is for listeners of clients. With authorities, a client may show a certificate, which must then be one of theirs.
// The protocols are those of ALPN.
func (s *Source) Server(protocols ...string) *tls.Config {
	return s.server(func(m *material) *tls.Config {
		c := m.base(protocols)
		if m.pool != nil {
			c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, m.pool
		}
		return c
	})
}

// NodeServer is for the listener of other nodes: only they get in.
func (s *Source) NodeServer() *tls.Config {
	return s.server(func(m *material) *tls.Config {
		c := m.base(nil)
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, m.pool
		c.VerifyConnection = isNode
		return c
	})
}

// server makes a configuration that is made anew for each connection.
func (s *Source) server(of func(*material) *tls.Config) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return of(s.now.Load()), nil }}
}

// isNode refuses who has a certificate of the authority and is no node.
func isNode(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	if err := c.PeerCertificates[0].VerifyHostname(NodeName); err != nil {
		return fmt.Errorf("not a node's certificate: %w", err)
	}
	return nil
}

// NodeClient is for one connection to another node: it shows that this is one, and wants the same.
func (s *Source) NodeClient() *tls.Config {
	m := s.now.Load()
	c := m.base(nil)
	c.RootCAs, c.ServerName = m.pool, NodeName
	return c
}
