package process

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/tlsfiles"
)

const certificateLife = 24 * time.Hour

func newCertificates(t *testing.T, user string) string {
	t.Helper()
	dir := t.TempDir()
	renew(t, dir, user)
	return dir
}

func renew(t *testing.T, dir, user string) {
	t.Helper()
	if err := tlsfiles.WriteDevelopment(dir, tlsfiles.Development{User: user, Valid: certificateLife}); err != nil {
		t.Fatal(err)
	}
}

func tlsFlags(dir string) []string {
	path := func(name string) string { return filepath.Join(dir, name) }
	return []string{"--tls-cert", path(tlsfiles.NodeCert), "--tls-key", path(tlsfiles.NodeKey), "--tls-ca", path(tlsfiles.CACert),
		"--cluster-tls-cert", path(tlsfiles.NodeCert), "--cluster-tls-key", path(tlsfiles.NodeKey), "--cluster-tls-ca", path(tlsfiles.CACert),
		"--gossip-key-file", path(tlsfiles.GossipKeys)}
}

// clientTLS is a client's configuration: it trusts the authority and, with a certificate, shows it.
func clientTLS(t *testing.T, dir string, cert, key string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, tlsfiles.CACert))
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AppendCertsFromPEM(pem)
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, cert), filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// serial is the number of the certificate that a port shows.
func serial(t *testing.T, address string, c *tls.Config) string {
	t.Helper()
	socket, err := tls.Dial("tcp", address, c)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	return socket.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestTLSEverywhere runs three nodes with TLS on every port, clients that log in by certificate and by password, and renews
// certificates and gossip keys under load: no connection is lost, no message either.
func TestTLSEverywhere(t *testing.T) {
	dir := newCertificates(t, "guest")
	c := Start(t, 3, tlsFlags(dir)...)
	shown := clientTLS(t, dir, tlsfiles.ClientCert, tlsfiles.ClientKey)
	plain := clientTLS(t, dir, "", "")

	url := func(n *Node) string { return "amqps://guest:guest@" + n.AMQPAddress() + "/" }
	dial := func(n *Node, sasl []amqp.Authentication, c *tls.Config) (*amqp.Connection, error) {
		return amqp.DialConfig(url(n), amqp.Config{SASL: sasl, TLSClientConfig: c.Clone()})
	}
	external := []amqp.Authentication{&amqp.ExternalAuth{}}
	if conn, err := dial(c.Nodes[0], external, plain); err == nil {
		_ = conn.Close()
		t.Error("EXTERNAL without a certificate")
	}
	stranger := clientTLS(t, newCertificates(t, "guest"), tlsfiles.ClientCert, tlsfiles.ClientKey)
	stranger.RootCAs = plain.RootCAs
	if conn, err := dial(c.Nodes[0], external, stranger); err == nil {
		_ = conn.Close()
		t.Error("EXTERNAL with a certificate of another authority")
	}
	nobody := newCertificates(t, "nobody")
	for _, name := range []string{tlsfiles.CACert, "ca.key"} { // of the cluster's authority, for a user that is not there
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(nobody, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renew(t, nobody, "nobody")
	if conn, err := dial(c.Nodes[0], external, clientTLS(t, nobody, tlsfiles.ClientCert, tlsfiles.ClientKey)); !errors.Is(err, amqp.ErrCredentials) && !isRefusal(err) {
		t.Errorf("EXTERNAL for a user that is not there: %v, %v", conn, err)
	}

	type load struct {
		conn      *amqp.Connection
		closed    chan *amqp.Error
		confirmed atomic.Int64
		received  atomic.Int64
	}
	var loads []*load
	stop := make(chan struct{})
	finished := make(chan error, len(c.Nodes))
	for i, n := range c.Nodes {
		sasl, config := external, shown
		if i == 1 {
			sasl, config = nil, plain // by password
		}
		conn, err := dial(n, sasl, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		l := &load{conn: conn, closed: conn.NotifyClose(make(chan *amqp.Error, 1))}
		loads = append(loads, l)
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		queue := "q" + strconv.Itoa(i)
		if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range deliveries {
				l.received.Add(1)
			}
		}()
		go func() {
			for {
				select {
				case <-stop:
					finished <- nil
					return
				default:
				}
				confirm, err := ch.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: []byte("x")})
				if err != nil {
					finished <- err
					return
				}
				if !confirm.Wait() {
					finished <- errors.New("not confirmed")
					return
				}
				l.confirmed.Add(1)
			}
		}()
	}
	// flows waits until each load has gone on since.
	flows := func(what string) {
		t.Helper()
		for i, l := range loads {
			start := l.confirmed.Load()
			Await(t, what, func() bool {
				select {
				case err := <-l.closed:
					t.Fatalf("%s: connection %d was lost: %v", what, i, err)
				case err := <-finished:
					t.Fatalf("%s: %v", what, err)
				default:
				}
				return l.confirmed.Load() >= start+20
			})
		}
	}
	flows("before")
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	first, err := os.ReadFile(filepath.Join(dir, tlsfiles.GossipKeys))
	if err != nil {
		t.Fatal(err)
	}
	second := base64.StdEncoding.EncodeToString(key) + "\n"
	for i, keys := range []string{string(first) + second, second + string(first), second} {
		before := serial(t, c.Nodes[0].AMQPAddress(), plain)
		renew(t, dir, "guest")
		if err := os.WriteFile(filepath.Join(dir, tlsfiles.GossipKeys), []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.Nodes {
			Await(t, "the renewed certificate", func() bool { return serial(t, n.AMQPAddress(), plain) != before })
			Await(t, "the changed keys", func() bool { return strings.Count(n.Log(), "gossip keys are changed") == i+1 })
			Await(t, "the renewed certificate between nodes", func() bool { return strings.Count(n.Log(), "certificates are renewed") == 2*(i+1) })
		}
		flows("renewed")
	}
	close(stop)
	for range loads {
		if err := <-finished; err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range loads {
		Await(t, "the last deliveries", func() bool { return l.received.Load() >= l.confirmed.Load() })
		if got, want := l.received.Load(), l.confirmed.Load(); got != want || l.conn.IsClosed() {
			t.Errorf("connection %d: %d confirmed, %d received, closed %v", i, want, got, l.conn.IsClosed())
		}
	}
	// A node that starts with nothing but what is new finds the others.
	c.Nodes[2].Stop()
	c.Nodes[2].Restart()
	for _, n := range c.Nodes {
		if strings.Contains(n.Log(), "PLAIN TEXT") {
			t.Errorf("%s warns of plain text", n.Name)
		}
	}
	refuseStrangers(t, c.Nodes[0], dir)
	otherClients(t, c.Nodes[0], dir)
}

// otherClients lets pika log in by certificate, and the command line by gRPC.
func otherClients(t *testing.T, n *Node, dir string) {
	t.Helper()
	path := func(name string) string { return filepath.Join(dir, name) }
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	grpc := "127.0.0.1:" + n.Flags[slices.Index(n.Flags, "--grpc-port")+1]
	list := func(args ...string) ([]byte, error) {
		c := exec.Command(binary, append([]string{"queue", "list", "--timeout", "20s", "--server", grpc}, args...)...)
		c.Env = CleanEnvironment()
		return c.CombinedOutput()
	}
	certificate := []string{"--tls-ca", path(tlsfiles.CACert), "--tls-cert", path(tlsfiles.ClientCert), "--tls-key", path(tlsfiles.ClientKey)}
	for _, args := range [][]string{certificate, certificate[:2]} {
		if out, err := list(args...); err != nil || !strings.Contains(string(out), "q0") {
			t.Errorf("gRPC with %v: %v\n%s", args, err, out)
		}
	}
	if out, err := list("--timeout", "2s"); err == nil {
		t.Errorf("gRPC answers in plain text: %s", out)
	}

	const python = "/usr/bin/python3" // Debian's, the one that sees Debian's pika
	if exec.Command(python, "-c", "import pika").Run() != nil {
		t.Log("without pika: python3-pika is missing")
		return
	}
	const program = `
import ssl, sys, pika
port, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
connection = pika.BlockingConnection(pika.ConnectionParameters("localhost", int(port),
    ssl_options=pika.SSLOptions(context, "localhost"), credentials=pika.credentials.ExternalCredentials()))
channel = connection.channel()
channel.confirm_delivery()
queue = channel.queue_declare("", exclusive=True).method.queue
channel.basic_publish("", queue, b"secret", mandatory=True)
print(channel.basic_get(queue, auto_ack=True)[2].decode())
connection.close()
`
	out, err := exec.Command(python, "-c", program, strconv.Itoa(n.AMQPPort), path(tlsfiles.CACert), path(tlsfiles.ClientCert), path(tlsfiles.ClientKey)).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "secret" {
		t.Errorf("pika: %v\n%s", err, out)
	}
}

func isRefusal(err error) bool {
	var refusal *amqp.Error
	return errors.As(err, &refusal) && refusal.Code == amqp.AccessRefused
}

// refuseStrangers tries the port between nodes without a certificate, with a client's, and with another authority's.
func refuseStrangers(t *testing.T, n *Node, dir string) {
	t.Helper()
	port := n.Flags[slices.Index(n.Flags, "--cluster-port")+1]
	others := newCertificates(t, "guest")
	tries := map[string]*tls.Config{
		"nobody":             clientTLS(t, dir, "", ""),
		"a client":           clientTLS(t, dir, tlsfiles.ClientCert, tlsfiles.ClientKey),
		"another's node":     clientTLS(t, others, tlsfiles.NodeCert, tlsfiles.NodeKey),
		"a node, to compare": clientTLS(t, dir, tlsfiles.NodeCert, tlsfiles.NodeKey),
	}
	for name, config := range tries {
		config.RootCAs, config.ServerName = tries["nobody"].RootCAs, tlsfiles.NodeName
		got := talks(config, net.JoinHostPort("127.0.0.1", port))
		if want := name == "a node, to compare"; got != want {
			t.Errorf("%s gets in: %v", name, got)
		}
	}
	if talks(nil, net.JoinHostPort("127.0.0.1", port)) {
		t.Error("plain text gets in")
	}
}

// talks tells whether the server answers HTTP/2's preface with its own settings.
func talks(config *tls.Config, address string) bool {
	socket, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer socket.Close()
	_ = socket.SetDeadline(time.Now().Add(30 * time.Second))
	if config != nil {
		socket = tls.Client(socket, config)
	}
	const preface, emptySettings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(socket, preface+emptySettings); err != nil {
		return false
	}
	header := make([]byte, 9)
	_, err = io.ReadFull(socket, header)
	return err == nil && header[3] == 4
}
