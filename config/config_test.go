package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func load(t *testing.T, args, environ []string) (*Server, error) {
	t.Helper()
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	fs.Bool("other", false, "a flag of the command that is not a setting")
	c := Register(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return c, c.Load(environ)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "warren.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.AMQPPort != 5672 || c.Host != "127.0.0.1" || c.Advertise != "127.0.0.1" || c.Shards != 16 || c.MemoryLimit.Percent != 40 || c.DiskFreeLimit != 1<<30 || c.Name == "" {
		t.Fatalf("%+v", c)
	}
}

func TestFlagBeatsVariableBeatsFile(t *testing.T) {
	file := writeFile(t, "amqp-port: 1\nhttp-port: 2\ncluster-port: 3\njoin: [a:1, b:2]\nmemory-limit: 2GiB\n")
	c, err := load(t, []string{"--config", file, "--amqp-port", "11"}, []string{"WARREN_AMQP_PORT=12", "WARREN_HTTP_PORT=13", "HOME=/x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.AMQPPort != 11 || c.HTTPPort != 13 || c.ClusterPort != 3 {
		t.Fatalf("amqp %d http %d cluster %d", c.AMQPPort, c.HTTPPort, c.ClusterPort)
	}
	if strings.Join(c.Join, ",") != "a:1,b:2" || c.MemoryLimit.Of(1<<40) != 2<<30 {
		t.Fatalf("join %v memory %v", c.Join, c.MemoryLimit)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name      string
		args, env []string
		file      string
		want      string
	}{
		{name: "unknown variable", env: []string{"WARREN_NOPE=1"}, want: "WARREN_NOPE: no such setting"},
		{name: "bad variable", env: []string{"WARREN_SHARDS=x"}, want: "WARREN_SHARDS=x"},
		{name: "unknown key", file: "nope: 1\n", want: "no such setting: nope"},
		{name: "not yaml", file: "a: [", want: "configuration"},
		{name: "port", args: []string{"--amqp-port", "70000"}, want: "not a port"},
		{name: "shards", args: []string{"--shards", "0"}, want: "--shards 0"},
		{name: "message size", args: []string{"--max-message-size", "1GiB"}, want: "--max-message-size 1GiB"},
		{name: "join", args: []string{"--join", "host"}, want: "--join host"},
		{name: "level", args: []string{"--log-level", "loud"}, want: "--log-level loud"},
		{name: "no port", args: []string{"--amqp-port", "0"}, want: "no port for AMQP"},
		{name: "no key", args: []string{"--tls-cert", "c"}, want: "--tls-cert and --tls-key"},
		{name: "only an authority", args: []string{"--tls-ca", "c"}, want: "--tls-ca needs"},
		{name: "no cluster authority", args: []string{"--cluster-tls-cert", "c", "--cluster-tls-key", "k"}, want: "--cluster-tls-ca go together"},
		{name: "no password", args: []string{"--default-user", "u"}, want: "--default-password-file go together"},
		{name: "a flag of the command", env: []string{"WARREN_OTHER=true"}, want: "no such setting"},
		{name: "announce", args: []string{"--amqp-announce", "RabbitMQ"}, want: "PRODUCT/VERSION"},
	} {
		args := tc.args
		if tc.file != "" {
			args = append(args, "--config", writeFile(t, tc.file))
		}
		if _, err := load(t, args, tc.env); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "17": 17, "1KiB": 1024, "16 MiB": 16 << 20, "1GB": 1e9, "5B": 5} {
		var s Size
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1.5GiB", "9999999999TiB", "1PiB"} {
		var s Size
		if err := s.Set(text); err == nil {
			t.Errorf("%q was read as %d", text, s)
		}
	}
	var m Memory
	for _, text := range []string{"0%", "101%", "%", "0", "x"} {
		if err := m.Set(text); err == nil {
			t.Errorf("memory limit %q was read", text)
		}
	}
}

// TestPrint feeds what Print wrote back and gets the same again.
func TestPrint(t *testing.T) {
	show := func(c *Server) string {
		var out strings.Builder
		if err := c.Print(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for _, args := range [][]string{nil,
		{"--name", "007", "--join", "a:1,b:2", "--memory-limit", "3GiB", "--profiles", "--log-level", "debug", "--default-user", "true", "--default-password-file", "/p: #"},
		{"--name", "yes", "--amqp-port", "0", "--tls-cert", "c", "--tls-key", "k", "--amqp-announce", "RabbitMQ/4.2.0"}} {
		first, err := load(t, args, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := show(first)
		second, err := load(t, []string{"--config", writeFile(t, want)}, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, want)
		}
		if got := show(second); got != want {
			t.Errorf("%v: got\n%s\nwant\n%s", args, got, want)
		}
	}
}

func TestExposed(t *testing.T) {
	files := []string{"--tls-cert", "c", "--tls-key", "k", "--cluster-tls-cert", "c", "--cluster-tls-key", "k", "--cluster-tls-ca", "a", "--gossip-key-file", "g"}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"--host", "::1"}, ""},
		{[]string{"--host", "localhost"}, ""},
		{[]string{"--host", "0.0.0.0"}, "AMQP HTTP gRPC traffic between nodes gossip"},
		{[]string{"--host", "0.0.0.0", "--insecure"}, ""},
		{append([]string{"--host", "10.0.0.1"}, files...), "AMQP"},
		{append([]string{"--host", "10.0.0.1", "--amqp-port", "0"}, files...), ""},
	} {
		c, err := load(t, tc.args, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Exposed(), " "); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.args, got, tc.want)
		}
	}
}

func TestLocalAddress(t *testing.T) {
	for host, want := range map[string]string{"0.0.0.0": "127.0.0.1:1", "::": "[::1]:1", "10.0.0.1": "10.0.0.1:1", "127.0.0.1": "127.0.0.1:1"} {
		if got := (&Server{Host: host}).LocalAddress(1); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
