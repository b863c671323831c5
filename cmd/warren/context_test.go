package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/internal/bench"
)

// command runs a command line without a node.
func command(words ...string) (string, error) {
	root := &cobra.Command{Use: "warren", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(messageCommands()...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(words)
	err := root.Execute()
	return out.String(), err
}

func TestContexts(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	for _, name := range config.ClientVariables {
		t.Setenv(variable(name), "") // so that it is restored
		os.Unsetenv(variable(name))
	}
	t.Setenv("WARREN_CONTEXT", "")
	run := func(words ...string) string {
		t.Helper()
		out, err := command(words...)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		return out
	}
	run("context", "add", "a", "--server", "h1:1,h2:2", "--http-server", "h1:3", "--user", "u", "--password", "secret", "--tls")
	run("context", "add", "b", "--token-file", "t", "--vhost", "v")
	if info, err := os.Stat(filepath.Join(dir, "warren", "contexts.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if out := run("context", "list"); strings.Contains(out, "secret") || !strings.Contains(out, "*  a     h1:1,h2:2  u") {
		t.Errorf("list:\n%s", out)
	}
	// filled returns what a command would use, as server user password token vhost.
	filled := func(server string, words ...string) string {
		t.Helper()
		f := pflag.NewFlagSet("c", pflag.ContinueOnError)
		var a access
		a.register(f)
		if err := f.Parse(words); err != nil {
			t.Fatal(err)
		}
		if err := fillFlags(f, server); err != nil {
			return err.Error()
		}
		return strings.Join([]string{strings.Join(a.servers, "+"), a.user, a.password, a.tokenFile, a.vhost}, " ")
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("context", "add", "c", "--server", "h1:1", "--http-server", "h3:3", "--user", "u", "--password-file", file, "--tls-ca", "ca")
	operator := func() string {
		t.Helper()
		a, c := &admin{}, &cobra.Command{}
		a.register(c)
		if err := errors.Join(c.Flags().Parse([]string{"--context", "c"}), c.PreRunE(c, nil)); err != nil {
			return err.Error()
		}
		return strings.Join([]string{a.server, a.user, a.password, a.tls.ca}, " ")
	}
	expect(operator(), "h3:3 u from a file ca")
	measuring := func(protocol string, words ...string) string {
		t.Helper()
		f := pflag.NewFlagSet("bench", pflag.ContinueOnError)
		var a aim
		target := &bench.Target{Protocol: protocol}
		a.registerAim(f, target)
		if err := errors.Join(f.Parse(words), a.take()); err != nil {
			return err.Error()
		}
		return fmt.Sprint(strings.Join(target.Servers, "+"), " ", target.User, " ", target.Password, " ", target.Token, " ", target.VHost, " ", target.TLS != nil)
	}
	run("context", "add", "d", "--server", "h1:1", "--amqp-server", "h4:4,h5:5", "--user", "u", "--password-file", file, "--vhost", "v", "--tls")
	run("context", "add", "e", "--server", "h1:1", "--token-file", file)
	expect(measuring(bench.AMQP, "--context", "d"), "h4:4+h5:5 u from a file  v true")
	expect(measuring(bench.GRPC, "--context", "d"), "h1:1 u from a file  v true")
	expect(measuring(bench.GRPC, "--context", "d", "--server", "x:1", "--user", "me"), "x:1 me guest  v true")
	expect(measuring(bench.GRPC, "--context", "e"), "h1:1 guest guest from a file / false")
	expect(measuring(bench.AMQP, "--context", "e"), defaultAMQP+" guest guest from a file / false")
	if _, err := execute(t, "bench", "--context", "e"); err == nil || !strings.Contains(err.Error(), "AMQP takes no bearer token") {
		t.Errorf("AMQP with a token: %v", err)
	}
	run("context", "remove", "d")
	run("context", "remove", "e")
	t.Setenv("WARREN_ADMIN_TLS_CA", "own")
	expect(operator(), "h3:3 u from a file own")
	run("context", "remove", "c")
	expect(filled("server"), "h1:1+h2:2 u secret  /")
	expect(filled(httpServer), "h1:3 u secret  /")
	expect(filled("server", "--server", "x:1"), "x:1 u secret  /")
	expect(filled("server", "--user", "guest"), "h1:1+h2:2 guest guest  /")
	expect(filled("server", "--context", "b"), defaultServer+" guest guest t v")
	expect(filled("server", "--context", "none"), `there is no context "none": warren context list shows those that are saved`)
	t.Setenv("WARREN_SERVER", "e:1")
	t.Setenv("WARREN_USER", "eve")
	t.Setenv("WARREN_PASSWORD", "p")
	expect(filled("server"), "e:1 eve p  /")
	expect(filled(httpServer), "h1:3 eve p  /")
	expect(filled("server", "--server", "x:1", "--token-file", "f"), "x:1 guest guest f /")
	t.Setenv("WARREN_CONTEXT", "b")
	expect(filled("server"), "e:1 eve p  v")
	t.Setenv("WARREN_CONTEXT", "")
	run("context", "use", "b")
	expect(filled("server"), "e:1 eve p  v")
	run("context", "remove", "b")
	if out := run("context", "list", "--json"); out != `{"name":"a","current":false,"flags":{"http-server":"h1:3","password":"***","server":"h1:1,h2:2","tls":"true","user":"u"}}`+"\n" {
		t.Errorf("list: %s", out)
	}
	if _, err := command("context", "use", "b"); err == nil {
		t.Error("a context that was removed is used")
	}
}

// TestTokens makes a key and tokens as an operator does, and uses one.
func TestTokens(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	run := func(words ...string) string {
		t.Helper()
		out, err := command(words...)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		return out
	}
	keys := write("keys", run("token", "key"))
	token := write("token", run("token", "create", "--user", "guest", "--expires", "1h", "--key-file", keys))
	other := write("other", run("token", "create", "--user", "guest", "--key-file", write("keys2", run("token", "key"))))
	address := startNode(t, "--token-key-file", keys)
	run("queue", "declare", "q", "--server", address, "--token-file", token, "--timeout", "1m")
	run("context", "add", "here", "--server", address, "--token-file", token)
	if out := run("queue", "list", "--json", "--timeout", "1m"); !strings.Contains(out, `"name":"q"`) {
		t.Errorf("list: %s", out)
	}
	if _, err := command("queue", "list", "--token-file", other); err == nil || !strings.Contains(err.Error(), "login was refused") {
		t.Errorf("a token of other keys: %v", err)
	}
	// The key is replaced while the node runs; what goes on with a token of the old one ends.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	held, err := firstLine(token, "token", "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New([]string{address}, client.WithToken(held))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k, err := c.Consume(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	write("keys", "half a ke") // it is told, and changes nothing
	if err := os.Rename(filepath.Join(dir, "keys2"), keys); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Next(ctx); !errors.Is(err, &client.Error{Reason: client.LoginRefused}) {
		t.Errorf("a consumer whose token's key is gone: %v", err)
	}
	run("queue", "list", "--server", address, "--token-file", other, "--timeout", "1m")
	if _, err := command("queue", "list", "--token-file", token); err == nil || !strings.Contains(err.Error(), "login was refused") {
		t.Errorf("a token of the key that is gone: %v", err)
	}
	for _, wrong := range [][]string{{}, {"--user", "u"}, {"--user", "u", "--key-file", token}, {"--user", "u", "--key-file", keys, "--expires", "-1h"}} {
		if _, err := command(append([]string{"token", "create"}, wrong...)...); err == nil {
			t.Errorf("token create %q was taken", wrong)
		}
	}
}
