// Package config declares the settings of a node once: their names, defaults and meanings. Flags, WARREN_* variables and
// a YAML file are three ways to give the same setting; a flag beats a variable, a variable beats the file, the file beats
// the default. What the settings do is left to the packages that use them.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// Server is what `warren server` can be told.
type Server struct {
	Name      string
	DataDir   string
	Host      string
	Advertise string

	AMQPPort    int
	AMQPSPort   int
	HTTPPort    int
	GRPCPort    int
	ClusterPort int
	GossipPort  int

	Join     []string
	Expect   int
	Shards   int
	Replicas int
	// MaxClockSkew is how far the node's clock may differ from those of a majority before it is to lead nothing.
	MaxClockSkew time.Duration

	MemoryLimit    Memory
	DiskFreeLimit  Size
	MaxMessageSize Size
	// ConsumerTimeout is how long a delivery may stay unsettled; 0: without end.
	ConsumerTimeout time.Duration
	WALFileSize     Size
	CacheSize       Size

	DefaultUser         string
	DefaultPasswordFile string

	TLSCert        string
	TLSKey         string
	TLSCA          string
	ClusterTLSCert string
	ClusterTLSKey  string
	ClusterTLSCA   string
	GossipKeyFile  string
	TokenKeyFile   string
	Insecure       bool

	AMQPAnnounce string
	LogLevel     string
	Profiles     bool
	File         string

	flags *pflag.FlagSet // the settings and nothing else: the one schema of flags, variables and the file
}

// Register declares the settings as flags and returns the place where their values land.
func Register(flags *pflag.FlagSet) *Server {
	fs := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	fs.SortFlags = false // Print keeps the order below
	c := &Server{flags: fs, MemoryLimit: Memory{Percent: 40}, DiskFreeLimit: 1 << 30, MaxMessageSize: 16 << 20, WALFileSize: 256 << 20, CacheSize: 32 << 20}
	fs.StringVar(&c.Name, "name", "", "node name (default: the host's name)")
	fs.StringVar(&c.DataDir, "data-dir", "./warren-data", "directory of everything that must survive")
	fs.StringVar(&c.Host, "host", "127.0.0.1", "address all listeners bind to")
	fs.StringVar(&c.Advertise, "advertise", "", "address peers and clients are told (default: --host)")
	fs.IntVar(&c.AMQPPort, "amqp-port", 5672, "AMQP 0-9-1 in plain text; 0: none")
	fs.IntVar(&c.AMQPSPort, "amqps-port", 5671, "AMQP 0-9-1 over TLS, when --tls-cert is set; 0: none")
	fs.IntVar(&c.HTTPPort, "http-port", 15672, "health and metrics, over TLS when --tls-cert is set; 0: none")
	fs.IntVar(&c.GRPCPort, "grpc-port", 7672, "gRPC API for clients (proto/broker/v1)")
	fs.IntVar(&c.ClusterPort, "cluster-port", 7673, "traffic between nodes")
	fs.IntVar(&c.GossipPort, "gossip-port", 7946, "gossip between nodes, TCP and UDP")
	fs.StringSliceVar(&c.Join, "join", nil, "gossip addresses HOST:PORT,… of any members; names are resolved to all their addresses")
	fs.IntVar(&c.Expect, "expect", 0, "size of the cluster to bootstrap; nodes wait for one another")
	fs.IntVar(&c.Shards, "shards", 16, "Raft groups that share the queues; fixed when the cluster is created")
	fs.IntVar(&c.Replicas, "replicas", 3, "nodes that hold each shard; fixed when the cluster is created")
	fs.DurationVar(&c.MaxClockSkew, "max-clock-skew", 5*time.Second, "how far the clock may differ from those of most nodes before leaderships go to others")
	fs.Var(&c.MemoryLimit, "memory-limit", "memory above which publishers are blocked: 40% or a size such as 2GiB")
	fs.Var(&c.DiskFreeLimit, "disk-free-limit", "free disk space below which publishers are blocked, as they are while there is no room for the next log file")
	fs.DurationVar(&c.ConsumerTimeout, "consumer-timeout", 30*time.Minute, "how long a delivery may stay unsettled before its channel is closed; 0: without end")
	fs.Var(&c.MaxMessageSize, "max-message-size", "largest message accepted, up to 512MiB")
	fs.Var(&c.WALFileSize, "wal-file-size", "size of a write-ahead log file")
	fs.Var(&c.CacheSize, "cache-size", "memory for recent log entries and bodies read back")
	fs.StringVar(&c.DefaultUser, "default-user", "", "administrator to create at a start when there is no such user")
	fs.StringVar(&c.DefaultPasswordFile, "default-password-file", "", "file with the password of --default-user")
	fs.StringVar(&c.TLSCert, "tls-cert", "", "PEM file with the certificate (chain) shown to clients; read again when it changes")
	fs.StringVar(&c.TLSKey, "tls-key", "", "PEM file with the key of --tls-cert")
	fs.StringVar(&c.TLSCA, "tls-ca", "", "PEM file with the authorities of clients' certificates, by which they may log in (EXTERNAL)")
	fs.StringVar(&c.ClusterTLSCert, "cluster-tls-cert", "", "PEM file with the certificate shown to other nodes, with the DNS name warren-node")
	fs.StringVar(&c.ClusterTLSKey, "cluster-tls-key", "", "PEM file with the key of --cluster-tls-cert")
	fs.StringVar(&c.ClusterTLSCA, "cluster-tls-ca", "", "PEM file with the authorities of the nodes' certificates")
	fs.StringVar(&c.GossipKeyFile, "gossip-key-file", "", "file with keys for gossip, one a line in base64: the first encrypts, all decrypt")
	fs.StringVar(&c.TokenKeyFile, "token-key-file", "", "file with keys for bearer tokens, one a line in base64: all are accepted (warren token create signs with the first); default: no tokens")
	fs.BoolVar(&c.Insecure, "insecure", false, "plain text on other addresses than loopback is meant: do not warn")
	fs.StringVar(&c.AMQPAnnounce, "amqp-announce", "", "product/version told to AMQP clients that look for a name, for example RabbitMQ/4.2.0")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	fs.BoolVar(&c.Profiles, "profiles", false, "serve the Go runtime's profiles at /debug/pprof/ of the HTTP port")
	fs.StringVar(&c.File, fileSetting, "", "YAML file with any of these settings by their flag's name")
	flags.AddFlagSet(fs)
	return c
}

// Load fills in what was not given as a flag, from the environment (as os.Environ gives it) and the file, and checks the
// whole. The flags that Register declared have been parsed.
func (c *Server) Load(environ []string) error {
	given := map[string]bool{}
	c.flags.VisitAll(func(f *pflag.Flag) { given[f.Name] = f.Changed })
	if err := fromEnvironment(c.flags, given, environ); err != nil {
		return err
	}
	if c.File != "" {
		if err := fromFile(c.flags, given, c.File); err != nil {
			return err
		}
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--name is not set and the host has no name: %w", err)
		}
		c.Name = host
	}
	if c.Advertise == "" {
		c.Advertise = c.Host
	}
	return c.validate()
}

// fileSetting names the file, so that the file cannot have it.
const fileSetting = "config"

// Print writes the settings that are in force as YAML that --config takes, each with its meaning.
func (c *Server) Print(w io.Writer) error {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	var err error
	c.flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == fileSetting || err != nil {
			return
		}
		var value yaml.Node
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			err = value.Encode(v.GetSlice())
			value.Style = yaml.FlowStyle
		default:
			value = yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
			if v.Type() == "string" || v.Type() == "size|percent" {
				value.SetString(v.String())
			}
		}
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.Name, HeadComment: f.Usage}, &value)
	})
	if err != nil {
		return fmt.Errorf("print settings: %w", err)
	}
	out := yaml.NewEncoder(w)
	return errors.Join(out.Encode(doc), out.Close())
}

// envPrefix starts every variable that is a setting.
const envPrefix = "WARREN_"

// ClientVariables are the flags of client commands that variables with the server's prefix may set: WARREN_SERVER and so on.
// Where both are used, they are no settings of a server.
var ClientVariables = []string{"server", "amqp-server", "http-server", "vhost", "user", "password", "password-file", "token-file"}

// isClients tells whether a variable is for client commands, of those that speak HTTP as well.
func isClients(flag string) bool {
	return slices.Contains(ClientVariables, flag) || flag == "context" || strings.HasPrefix(flag, "admin-")
}

func fromEnvironment(fs *pflag.FlagSet, given map[string]bool, environ []string) error {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(name, envPrefix)
		if !ok {
			continue
		}
		setting := strings.ReplaceAll(strings.ToLower(rest), "_", "-")
		flag := fs.Lookup(setting)
		if flag == nil && isClients(setting) {
			continue
		}
		if flag == nil {
			return fmt.Errorf("%s: no such setting", name)
		}
		if given[flag.Name] {
			continue
		}
		if err := fs.Set(flag.Name, value); err != nil {
			return fmt.Errorf("%s=%s: %w", name, value, err)
		}
		given[flag.Name] = true
	}
	return nil
}

// maxFile bounds a configuration file; a real one has a few hundred bytes.
const maxFile = 1 << 20

func fromFile(fs *pflag.FlagSet, given map[string]bool, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("configuration %s: %d bytes, more than %d", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var values map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&values); err != nil && len(bytes.TrimSpace(data)) > 0 {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	for name, value := range values {
		flag := fs.Lookup(name)
		if flag == nil || name == fileSetting {
			return fmt.Errorf("configuration %s: no such setting: %s", path, name)
		}
		if given[name] {
			continue
		}
		if err := fs.Set(name, text(value)); err != nil {
			return fmt.Errorf("configuration %s: %s: %w", path, name, err)
		}
	}
	return nil
}

// text writes a YAML value as its flag would take it.
func text(value any) string {
	list, ok := value.([]any)
	if !ok {
		return fmt.Sprint(value)
	}
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ",")
}

func (c *Server) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for name, port := range map[string]int{"cluster-port": c.ClusterPort, "gossip-port": c.GossipPort} {
		check(port > 0 && port < 1<<16, "--%s %d: not a port", name, port)
	}
	for name, port := range map[string]int{"amqp-port": c.AMQPPort, "amqps-port": c.AMQPSPort, "http-port": c.HTTPPort, "grpc-port": c.GRPCPort} {
		check(port >= 0 && port < 1<<16, "--%s %d: not a port", name, port)
	}
	check(c.AMQPPort != 0 || c.TLSCert != "" && c.AMQPSPort != 0, "no port for AMQP: --amqp-port is 0 and there is none over TLS")
	check((c.TLSCert == "") == (c.TLSKey == ""), "--tls-cert and --tls-key go together")
	check(c.TLSCA == "" || c.TLSCert != "", "--tls-ca needs --tls-cert")
	check((c.ClusterTLSCert == "") == (c.ClusterTLSKey == "") && (c.ClusterTLSCert == "") == (c.ClusterTLSCA == ""),
		"--cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca go together")
	check((c.DefaultUser == "") == (c.DefaultPasswordFile == ""), "--default-user and --default-password-file go together")
	check(c.Shards >= 1 && c.Shards <= 1024, "--shards %d: between 1 and 1024", c.Shards)
	check(c.Replicas >= 1 && c.Replicas <= 7, "--replicas %d: between 1 and 7", c.Replicas)
	check(c.Expect >= 0 && c.Expect <= 100, "--expect %d: between 0 and 100", c.Expect)
	check(c.MaxClockSkew >= time.Second, "--max-clock-skew %s: at least 1s, since what is measured on a busy machine is not surer", c.MaxClockSkew)
	check(c.ConsumerTimeout >= 0, "--consumer-timeout %s: not below 0", c.ConsumerTimeout)
	check(c.MaxMessageSize >= 1 && c.MaxMessageSize <= 512<<20, "--max-message-size %s: between 1 and 512MiB", c.MaxMessageSize.String())
	check(c.WALFileSize >= 1<<20 && c.WALFileSize <= 4<<30, "--wal-file-size %s: between 1MiB and 4GiB", c.WALFileSize.String())
	check(c.CacheSize >= 1<<20, "--cache-size %s: at least 1MiB", c.CacheSize.String())
	check(len(c.Name) <= 128, "--name: at most 128 bytes")
	if _, err := c.Level(); err != nil {
		errs = append(errs, err)
	}
	for _, addr := range c.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("--join %s: %w", addr, err))
		}
	}
	if product, version, ok := strings.Cut(c.AMQPAnnounce, "/"); c.AMQPAnnounce != "" && (!ok || product == "" || version == "") {
		errs = append(errs, fmt.Errorf("--amqp-announce %s: PRODUCT/VERSION", c.AMQPAnnounce))
	}
	return errors.Join(errs...)
}

// Level is the log level asked for.
func (c *Server) Level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return 0, fmt.Errorf("--log-level %s: debug, info, warn or error", c.LogLevel)
	}
	return level, nil
}

// Exposed tells what is reachable from other machines in plain text, for a warning; nothing when --insecure says that it
// is meant.
func (c *Server) Exposed() []string {
	if c.Insecure || isLoopback(c.Host) {
		return nil
	}
	var list []string
	if c.AMQPPort != 0 {
		list = append(list, "AMQP")
	}
	if c.HTTPPort != 0 && c.TLSCert == "" {
		list = append(list, "HTTP")
	}
	if c.GRPCPort != 0 && c.TLSCert == "" {
		list = append(list, "gRPC")
	}
	if c.ClusterTLSCert == "" {
		list = append(list, "traffic between nodes")
	}
	if c.GossipKeyFile == "" {
		list = append(list, "gossip")
	}
	return list
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Address joins the host and a port.
func (c *Server) Address(port int) string { return net.JoinHostPort(c.Host, strconv.Itoa(port)) }

// LocalAddress is where a port is reached from this machine.
func (c *Server) LocalAddress(port int) string {
	host := c.Host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
