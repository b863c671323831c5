package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/client"
)

// defaultServer is where a node on this machine takes gRPC.
const defaultServer = "127.0.0.1:7672"

// access is how the commands that speak gRPC reach a cluster, and how they print.
type access struct {
	servers      []string
	user         string
	password     string
	passwordFile string
	tokenFile    string
	vhost        string
	tls          bool
	ca           string
	cert, key    string
	timeout      time.Duration
	json         bool
	flags        *pflag.FlagSet
}

func (a *access) register(f *pflag.FlagSet) {
	a.flags = f
	a.registerReach(f, defaultServer, grpcServers)
	contextFlag(f)
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to try")
	f.BoolVar(&a.json, "json", false, "print JSON, one object a line")
}

// grpcServers describes --server.
const grpcServers = "gRPC addresses HOST:PORT,… of any nodes; when one fails, the next is used"

// registerReach registers what a context can save.
func (a *access) registerReach(f *pflag.FlagSet, server, usage string) {
	f.StringSliceVar(&a.servers, "server", []string{server}, usage)
	f.StringVar(&a.user, "user", "guest", "user")
	f.StringVar(&a.password, "password", "guest", "password; others on this machine can see it: --password-file does not show it")
	f.StringVar(&a.passwordFile, "password-file", "", "file with the password in its first line")
	f.StringVar(&a.tokenFile, "token-file", "", "file with a bearer token in its first line, instead of user and password")
	f.StringVar(&a.vhost, "vhost", "/", "virtual host")
	f.BoolVar(&a.tls, "tls", false, "use TLS, and trust this machine's authorities")
	f.StringVar(&a.ca, "tls-ca", "", "use TLS, and trust the authorities in this PEM file")
	f.StringVar(&a.cert, "tls-cert", "", "use TLS, and show the certificate in this PEM file; its common name is the user, instead of --user")
	f.StringVar(&a.key, "tls-key", "", "PEM file with the key of --tls-cert")
}

// firstLine reads the first line of a file; no file: otherwise.
func firstLine(file, what, otherwise string) (string, error) {
	if file == "" {
		return otherwise, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// secure makes the configuration of TLS; nil: plain text.
func (a *access) secure() (*tls.Config, error) {
	if !a.tls && a.ca == "" && a.cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.ca != "" {
		data, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("authorities: no certificate in %s", a.ca)
		}
	}
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// login is what the flags say of who logs in, and how.
type login struct {
	user, password string // no user: the certificate says who it is
	token          string // instead of both; empty: there is none
	tls            *tls.Config
}

// login fills the flags from variables and the context, and reads the files that they name. server is the saved flag that
// --server is taken from.
func (a *access) login(server string) (l login, err error) {
	if err := fillFlags(a.flags, server); err != nil {
		return l, err
	}
	if a.cert == "" {
		l.user = a.user
	}
	if l.password, err = firstLine(a.passwordFile, "password", a.password); err != nil {
		return l, err
	}
	if l.token, err = firstLine(a.tokenFile, "token", ""); err != nil {
		return l, err
	}
	l.tls, err = a.secure()
	return l, err
}

// interruptible returns a context that ends with SIGINT or SIGTERM. A second one ends the process.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// connect returns a client, and a context that ends with SIGINT, SIGTERM, or in time.
func (a *access) connect(ctx context.Context, limited bool) (context.Context, *client.Client, func(), error) {
	l, err := a.login("server")
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := client.New(a.servers, client.WithCredentials(l.user, l.password), client.WithToken(l.token), client.WithVHost(a.vhost), client.WithTLS(l.tls))
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, stop := interruptible(ctx)
	cancel := context.CancelFunc(func() {})
	if limited {
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
	}
	return ctx, c, func() {
		cancel()
		stop()
		_ = c.Close() // nothing is under way any more
	}, nil
}

// run makes the RunE of a command that does one thing.
func (a *access) run(f func(ctx context.Context, c *client.Client, out io.Writer, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, c, end, err := a.connect(cmd.Context(), true)
		if err != nil {
			return err
		}
		defer end()
		return f(ctx, c, cmd.OutOrStdout(), args)
	}
}

// say prints what was done: as a sentence, or as an object.
func (a *access) say(out io.Writer, object any, format string, args ...any) error {
	if a.json {
		return json.NewEncoder(out).Encode(object)
	}
	_, err := fmt.Fprintf(out, format+"\n", args...)
	return err
}

// table prints rows, each an object when JSON is asked for.
type table struct {
	access *access
	out    io.Writer
	rows   *tabwriter.Writer
}

func (a *access) table(out io.Writer, columns ...string) *table {
	t := &table{access: a, out: out, rows: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	if !a.json {
		fmt.Fprintln(t.rows, strings.Join(columns, "\t")) // an error shows in Flush
	}
	return t
}

func (t *table) row(object any, cells ...any) error {
	if t.access.json {
		return json.NewEncoder(t.out).Encode(object)
	}
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = fmt.Sprint(c)
	}
	_, err := fmt.Fprintln(t.rows, strings.Join(texts, "\t"))
	return err
}

func (t *table) end() error {
	if t.access.json {
		return nil
	}
	return t.rows.Flush()
}

// lastTime is the last that JSON can say. Clients that count milliseconds where AMQP counts seconds are beyond it.
var lastTime = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)

// inYears is a time, or the last that JSON can say. AMQP's times begin in 1970: what time.Time takes for older than the year 0
// is beyond as well.
func inYears(t time.Time) time.Time {
	if year := t.Year(); year < 0 || year > lastTime.Year() {
		return lastTime
	}
	return t
}

// inJSON is a table of which all values can be said in JSON: no time after lastTime, and texts for numbers that are none and for
// octets.
func inJSON(m map[string]any) map[string]any {
	if m == nil {
		return nil
	}
	out := make(map[string]any, len(m))
	for name, v := range m {
		out[name] = valueInJSON(v)
	}
	return out
}

func valueInJSON(v any) any {
	switch v := v.(type) {
	case time.Time:
		return inYears(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	case float32:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Sprint(v)
		}
	case client.Octets:
		return string(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = valueInJSON(v[i])
		}
		return out
	case map[string]any:
		return inJSON(v)
	}
	return v
}

// shortArguments prints arguments in one cell.
func shortArguments(m map[string]any) string {
	if len(m) == 0 {
		return ""
	}
	data, err := json.Marshal(inJSON(m))
	if err != nil {
		return fmt.Sprint(m)
	}
	return string(data)
}

// features lists what is set, in one cell.
func features(list ...any) string {
	var set []string
	for i := 0; i+1 < len(list); i += 2 {
		if list[i+1].(bool) {
			set = append(set, list[i].(string))
		}
	}
	return strings.Join(set, ",")
}

// parseArguments reads NAME=VALUE, where a VALUE that is JSON counts as what it is and any other as text.
func parseArguments(list []string) (client.Table, error) {
	t := client.Table{}
	for _, entry := range list {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q: not NAME=VALUE", entry)
		}
		t[name] = value
		if v, err := decodeJSON([]byte(value)); err == nil {
			t[name] = v
		}
	}
	return t, nil
}

// decodeJSON reads a value; integers stay integers.
func decodeJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one value in %q", data)
	}
	return withNumbers(v), nil
}

func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // what is out of range becomes infinite
		return f
	case []any:
		for i := range v {
			v[i] = withNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withNumbers(v[key])
		}
	}
	return v
}
