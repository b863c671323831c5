package test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

const root = "../.."

func newReader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }

// binary builds the product once.
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("WARREN_BIN"); path != "" {
		return path, nil
	}
	dir, err := filepath.Abs(filepath.Join(root, "bin", "test"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "warren-deploy")
	build := exec.Command("go", "build", "-o", path, "./cmd/warren")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build warren: %w\n%s", err, out)
	}
	return path, nil
})

// warren runs a command of the binary with nothing but these variables.
func warren(t *testing.T, environment []string, args ...string) (string, error) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Env = append([]string{"PATH=/nowhere"}, environment...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("warren %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

// settings are what a node started like that would run with, as the binary itself says.
type settings struct {
	Name                string   `json:"name"`
	Host                string   `json:"host"`
	Advertise           string   `json:"advertise"`
	DataDir             string   `json:"data-dir"`
	AMQPPort            int32    `json:"amqp-port"`
	AMQPSPort           int32    `json:"amqps-port"`
	HTTPPort            int32    `json:"http-port"`
	GRPCPort            int32    `json:"grpc-port"`
	ClusterPort         int32    `json:"cluster-port"`
	GossipPort          int32    `json:"gossip-port"`
	Join                []string `json:"join"`
	Expect              int      `json:"expect"`
	DefaultPasswordFile string   `json:"default-password-file"`
	TLSCert             string   `json:"tls-cert"`
	TLSKey              string   `json:"tls-key"`
	TLSCA               string   `json:"tls-ca"`
	ClusterTLSCert      string   `json:"cluster-tls-cert"`
	ClusterTLSKey       string   `json:"cluster-tls-key"`
	ClusterTLSCA        string   `json:"cluster-tls-ca"`
	GossipKeyFile       string   `json:"gossip-key-file"`
}

// effective asks the binary. A variable that is no setting is an error.
func effective(t *testing.T, environment []string, args ...string) *settings {
	t.Helper()
	text, err := warren(t, environment, append(args, "--print-config")...)
	if err != nil {
		t.Fatal(err)
	}
	s := new(settings)
	if err := yaml.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// ports are those that the node opens, by the names that manifests give them; "/udp" marks UDP.
func (s *settings) ports() map[string]int32 {
	ports := map[string]int32{"http": s.HTTPPort, "grpc": s.GRPCPort, "cluster": s.ClusterPort, "gossip": s.GossipPort, "gossip-udp/udp": s.GossipPort}
	if s.AMQPPort != 0 {
		ports["amqp"] = s.AMQPPort
	}
	if s.TLSCert != "" {
		ports["amqps"] = s.AMQPSPort
	}
	return ports
}

// files are those that the node reads because of its settings.
func (s *settings) files() []string {
	var list []string
	for _, f := range []string{s.DefaultPasswordFile, s.TLSCert, s.TLSKey, s.TLSCA, s.ClusterTLSCert, s.ClusterTLSKey, s.ClusterTLSCA, s.GossipKeyFile} {
		if f != "" {
			list = append(list, f)
		}
	}
	return list
}
