package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The files that WriteDevelopment makes.
const (
	CACert     = "ca.crt"
	caKey      = "ca.key"
	NodeCert   = "node.crt"
	NodeKey    = "node.key"
	ClientCert = "client.crt"
	ClientKey  = "client.key"
	GossipKeys = "gossip.keys"
)

// Development says what certificates are made for.
type Development struct {
	Hosts []string // names and addresses of the nodes, beside this machine's own
	User  string   // of the client's certificate
	Valid time.Duration
}

// WriteDevelopment fills a folder with an authority, a certificate for nodes, one for a client, and a key for gossip. What
// is there of the authority and the key for gossip stays, so that a second call renews the certificates.
func WriteDevelopment(dir string, d Development) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := openCA(dir, d.Valid)
	if err != nil {
		return err
	}
	node := template(pkix.Name{CommonName: NodeName}, d.Valid)
	node.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	node.DNSNames, node.IPAddresses = []string{NodeName, "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, host := range d.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			node.IPAddresses = append(node.IPAddresses, ip)
		} else {
			node.DNSNames = append(node.DNSNames, host)
		}
	}
	client := template(pkix.Name{CommonName: d.User}, d.Valid)
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return errors.Join(
		issue(dir, NodeCert, NodeKey, node, ca),
		issue(dir, ClientCert, ClientKey, client, ca),
		writeGossipKey(filepath.Join(dir, GossipKeys)))
}

func template(name pkix.Name, valid time.Duration) *x509.Certificate {
	// Clocks of other machines may be behind.
	begin := time.Now().Add(-5 * time.Minute)
	return &x509.Certificate{Subject: name, NotBefore: begin, NotAfter: time.Now().Add(valid), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
}

// openCA reads the folder's authority, or makes one.
func openCA(dir string, valid time.Duration) (*tls.Certificate, error) {
	cert, key := filepath.Join(dir, CACert), filepath.Join(dir, caKey)
	if _, err := os.Stat(cert); errors.Is(err, fs.ErrNotExist) {
		t := template(pkix.Name{CommonName: "Warren development CA"}, valid)
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign
		if err := issue(dir, CACert, caKey, t, nil); err != nil {
			return nil, err
		}
	}
	ca, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return &ca, nil
}

// issue signs a certificate with a new key and writes both; without an authority it signs itself.
func issue(dir, certName, keyName string, t *x509.Certificate, ca *tls.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	parent, signer := t, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		replace(filepath.Join(dir, keyName), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600),
		replace(filepath.Join(dir, certName), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
}

func writeGossipKey(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 32) // AES-256
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return replace(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
}

// replace writes a file so that its name leads to the whole of it.
func replace(path string, data []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
