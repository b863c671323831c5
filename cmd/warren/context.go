package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/config"
)

// A context is a saved way to reach a cluster: values for the flags of client commands. What a command is told by flags
// counts first, then WARREN_… variables, then the context that --context or WARREN_CONTEXT names or that is in use.

// contexts is the file of saved contexts.
type contexts struct {
	Current  string                       `json:"current"`
	Contexts map[string]map[string]string `json:"contexts"` // values by flag
}

// credentials are flags of which one level says all: a user given on the command line does not get a saved token.
var credentials = []string{"user", "password", "password-file", "token-file", "tls-cert", "tls-key"}

// savedFlags are those that a context may set. WARREN_… variables may set config.ClientVariables: not files of TLS, as a
// node's own settings have the same names.
var savedFlags = append([]string{"server", amqpServer, httpServer, "vhost", "tls", "tls-ca"}, credentials...)

// The saved flags that commands take their --server from which do not speak gRPC: those for operators, and bench.
const (
	httpServer = "http-server"
	amqpServer = "amqp-server"
)

// contextsFile is where contexts are saved.
func contextsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("saved contexts: %w", err)
	}
	return filepath.Join(dir, "warren", "contexts.json"), nil
}

// loadContexts reads the file; one that is not there has none.
func loadContexts() (*contexts, error) {
	c := &contexts{Contexts: map[string]map[string]string{}}
	file, err := contextsFile()
	if err != nil {
		return c, nil // nowhere to save: nothing saved
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("saved contexts: %w", err)
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("saved contexts in %s: %w", file, err)
	}
	return c, nil
}

// save writes the file anew; only its owner may read it, as it may hold passwords.
func (c *contexts) save() error {
	file, err := contextsFile()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), "contexts-") // with mode 0600
	if err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	_, err = temporary.Write(append(data, '\n'))
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save contexts: %w", err), os.Remove(temporary.Name()))
	}
	return nil
}

// contextFlag registers --context.
func contextFlag(f *pflag.FlagSet) {
	f.String("context", "", "saved context to use (see warren context); default: WARREN_CONTEXT, or the one in use")
}

// fillFlags gives flags that were not set the values of variables and of the context. server names the saved flag that
// --server is taken from.
func fillFlags(f *pflag.FlagSet, server string) error {
	saved, err := chosenContext(f)
	if err != nil {
		return err
	}
	fromEnvironment := map[string]string{}
	for _, name := range config.ClientVariables {
		if v, ok := os.LookupEnv(variable(name)); ok {
			fromEnvironment[name] = v
		}
	}
	saved = maps.Clone(saved)
	if server == httpServer { // whose TLS has variables of its own
		maps.DeleteFunc(saved, func(name, _ string) bool { return os.Getenv(variable("admin-"+name)) != "" })
	}
	for _, values := range []map[string]string{fromEnvironment, saved} {
		if err := renamed(f, values, server); err != nil {
			return err
		}
		if err := fillFrom(f, values); err != nil {
			return err
		}
	}
	return nil
}

// variable is the name of a flag's variable.
func variable(flag string) string {
	return "WARREN_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// renamed puts a value under the flag that a command has for it: its own --server, and --password where it has no
// --password-file.
func renamed(f *pflag.FlagSet, values map[string]string, server string) error {
	if server != "server" {
		delete(values, "server")
	}
	if v, ok := values[server]; ok {
		values["server"] = v
	}
	if file, ok := values["password-file"]; ok && f.Lookup("password-file") == nil {
		password, err := firstLine(file, "password", "")
		if err != nil {
			return err
		}
		values["password"] = password
	}
	return nil
}

func chosenContext(f *pflag.FlagSet) (map[string]string, error) {
	all, err := loadContexts()
	if err != nil {
		return nil, err
	}
	name := all.Current
	if v := os.Getenv("WARREN_CONTEXT"); v != "" {
		name = v
	}
	if flag := f.Lookup("context"); flag != nil && flag.Changed {
		name = flag.Value.String()
	}
	if name == "" {
		return nil, nil
	}
	saved, ok := all.Contexts[name]
	if !ok {
		return nil, fmt.Errorf("there is no context %q: warren context list shows those that are saved", name)
	}
	return saved, nil
}

// fillFrom sets the flags that were not set before.
func fillFrom(f *pflag.FlagSet, values map[string]string) error {
	set := func(name string) bool { flag := f.Lookup(name); return flag != nil && flag.Changed }
	known := slices.ContainsFunc(credentials, set)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if f.Lookup(name) == nil || set(name) && !slices.Contains(credentials, name) || known && slices.Contains(credentials, name) {
			continue
		}
		if err := f.Set(name, values[name]); err != nil {
			return fmt.Errorf("--%s by a variable or context: %w", name, err)
		}
	}
	return nil
}

func contextCommand() *cobra.Command {
	return group("context", "Save ways to reach clusters, and choose one.", contextAdd(), contextUse(), contextList(), contextRemove())
}

func contextAdd() *cobra.Command {
	var a access
	c := &cobra.Command{Use: "add NAME", Short: "Save a context, or replace it.", Args: cobra.ExactArgs(1),
		Long: "Save the flags given as a context. Client commands take from the context in use what they are not told by flags or by\n" +
			"the variables WARREN_SERVER, WARREN_AMQP_SERVER, WARREN_HTTP_SERVER, WARREN_USER, WARREN_PASSWORD, WARREN_PASSWORD_FILE,\n" +
			"WARREN_TOKEN_FILE and WARREN_VHOST. The first context is in use at once. The file is warren/contexts.json in\n" +
			"$XDG_CONFIG_HOME or ~/.config, for its owner alone.",
		Example: "  warren context add local --server 127.0.0.1:7672\n" +
			"  warren context add production --server 10.0.0.1:7672,10.0.0.2:7672 --http-server 10.0.0.1:15672 --user orders --password-file ~/.warren-password"}
	f := c.Flags()
	a.registerReach(f, defaultServer, grpcServers)
	f.String(httpServer, "", "HTTP port of any node, for status and the other commands of operators")
	f.String(amqpServer, "", "AMQP addresses HOST:PORT,… of the nodes, for bench")
	f.BoolVar(&a.json, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		all, err := loadContexts()
		if err != nil {
			return err
		}
		values := map[string]string{}
		f.Visit(func(flag *pflag.Flag) {
			if slices.Contains(savedFlags, flag.Name) {
				values[flag.Name] = strings.Trim(flag.Value.String(), "[]") // a list prints its brackets
			}
		})
		all.Contexts[args[0]] = values
		if all.Current == "" {
			all.Current = args[0]
		}
		if err := all.save(); err != nil {
			return err
		}
		return a.say(c.OutOrStdout(), map[string]any{"name": args[0], "current": all.Current == args[0]}, "context %s saved; in use: %s", args[0], all.Current)
	}
	return c
}

// changing makes a command that changes the context that it is named.
func changing(use, short, example, done string, change func(all *contexts, name string)) *cobra.Command {
	var a access
	c := &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: example}
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		all, err := loadContexts()
		if err != nil {
			return err
		}
		if _, ok := all.Contexts[args[0]]; !ok {
			return fmt.Errorf("there is no context %q", args[0])
		}
		change(all, args[0])
		if err := all.save(); err != nil {
			return err
		}
		return a.say(c.OutOrStdout(), map[string]any{"name": args[0], "current": all.Current == args[0]}, "context %s %s", args[0], done)
	}
	return c
}

func contextUse() *cobra.Command {
	return changing("use", "Choose the context that client commands use.", "  warren context use production", "is in use",
		func(all *contexts, name string) { all.Current = name })
}

func contextRemove() *cobra.Command {
	return changing("remove", "Remove a context.", "  warren context remove local", "removed", func(all *contexts, name string) {
		delete(all.Contexts, name)
		if all.Current == name {
			all.Current = ""
		}
	})
}

// contextRow is a context in JSON. Passwords are not shown.
type contextRow struct {
	Name    string            `json:"name"`
	Current bool              `json:"current"`
	Flags   map[string]string `json:"flags"`
}

func contextList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "List the contexts; * is in use.", Args: cobra.NoArgs, Example: "  warren context list"}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	c.RunE = func(c *cobra.Command, _ []string) error {
		all, err := loadContexts()
		if err != nil {
			return err
		}
		t := &table{access: &access{json: asJSON}, out: c.OutOrStdout(), rows: tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)}
		if !asJSON {
			fmt.Fprintln(t.rows, " \tNAME\tSERVER\tUSER\tVHOST") // an error shows in end
		}
		for _, name := range slices.Sorted(maps.Keys(all.Contexts)) {
			r := contextRow{name, name == all.Current, maps.Clone(all.Contexts[name])}
			if _, ok := r.Flags["password"]; ok {
				r.Flags["password"] = "***"
			}
			mark := " "
			if r.Current {
				mark = "*"
			}
			if err := t.row(r, mark, name, r.Flags["server"], r.Flags["user"], r.Flags["vhost"]); err != nil {
				return err
			}
		}
		return t.end()
	}
	return c
}
