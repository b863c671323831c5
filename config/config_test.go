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
	c := Register(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return c, c.Load(fs, environ)
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
