package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/node"
)

// admin asks a node's HTTP port about the cluster. Any node answers for all.
type admin struct {
	server, user, password string
	tokenFile              string
	asJSON                 bool
	tls                    adminTLS
	http                   *http.Client // nil: not made yet
}

// adminTimeout bounds one request; what takes longer is begun by one and looked at with others.
const adminTimeout = 15 * time.Second

func (a *admin) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.server, "server", "127.0.0.1:15672", "HTTP port of any node, HOST:PORT or URL")
	f.StringVar(&a.user, "user", "guest", "user")
	f.StringVar(&a.password, "password", "guest", "password")
	f.StringVar(&a.tokenFile, "token-file", "", "file with a bearer token in its first line, instead of user and password")
	f.BoolVar(&a.asJSON, "json", false, "print JSON")
	a.tls.register(f)
	contextFlag(f)
	c.PreRunE = func(*cobra.Command, []string) error { return fillFlags(f, httpServer) }
}

// send sends a request; change (if not nil) is called with it before.
func (a *admin) send(ctx context.Context, method, path string, body io.Reader, change func(*http.Request)) (*http.Response, error) {
	if a.http == nil {
		client, err := a.tls.client()
		if err != nil {
			return nil, err
		}
		a.http = client
	}
	request, err := http.NewRequestWithContext(ctx, method, a.tls.url(a.server)+path, body)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(a.user, a.password)
	if a.tokenFile != "" {
		token, err := firstLine(a.tokenFile, "token", "")
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if change != nil {
		change(request)
	}
	response, err := a.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", a.server, err)
	}
	return response, nil
}

// refusal is what an answer other than 200 says.
func (a *admin) refusal(response *http.Response, data []byte) error {
	var refusal struct{ Reason string }
	if json.Unmarshal(data, &refusal) == nil && refusal.Reason != "" {
		return errors.New(refusal.Reason)
	}
	return fmt.Errorf("%s answers %s", a.server, response.Status)
}

// do sends a request and decodes the answer into value.
func (a *admin) do(ctx context.Context, method, path string, value any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	response, err := a.send(ctx, method, path, nil, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("ask %s: %w", a.server, err)
	}
	if response.StatusCode != http.StatusOK {
		return a.refusal(response, data)
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("the answer of %s makes no sense: %w", a.server, err)
	}
	return nil
}

func (a *admin) overview(ctx context.Context) (*node.Overview, error) {
	o := new(node.Overview)
	return o, a.do(ctx, http.MethodGet, "/api/warren/overview", o)
}

func (a *admin) act(ctx context.Context, name, what, query string, value any) error {
	path := "/api/warren/nodes/" + url.PathEscape(name) + "/" + what
	if query != "" {
		path += "?" + query
	}
	return a.do(ctx, http.MethodPost, path, value)
}

// say prints what was done: as a sentence, or as an object.
func (a *admin) say(out io.Writer, object any, format string, args ...any) error {
	return (&access{json: a.asJSON}).say(out, object, format, args...)
}

// errUnhealthy ends a command that has shown what is wrong.
var errUnhealthy = errors.New("the cluster is not healthy")

// showing makes a command that shows a part of the overview.
func showing(use, short, long, example string, table func(io.Writer, *node.Overview), part func(*node.Overview) any) *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: cobra.NoArgs}
	a.register(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		o, err := a.overview(c.Context())
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		if a.asJSON {
			if err := json.NewEncoder(out).Encode(part(o)); err != nil {
				return err
			}
		} else {
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			table(w, o)
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if use == "status" && len(o.Problems) > 0 {
			return errUnhealthy
		}
		return nil
	}
	return c
}

func statusCommand() *cobra.Command {
	return showing("status", "Show how the cluster is, and what somebody should look at.",
		"Show how the cluster is, as one node sees it. The exit status is 0 when nothing is wrong.",
		"  warren status\n  warren status --server warren1:15672 --tls-ca ca.pem --user admin --password secret\n  warren status --json > status.json",
		printStatus, func(o *node.Overview) any { return o })
}

func membersCommand() *cobra.Command {
	return showing("members", "Show the nodes of the cluster.", "Show the nodes of the cluster.", "  warren members\n  warren members --json", printMembers,
		func(o *node.Overview) any { return o.Nodes })
}

func shardsCommand() *cobra.Command {
	return showing("shards", "Show the shards, and the catalog: who leads, who lags, who is away.",
		"Show the shards, and the catalog, with their replicas: * leads, + votes, - learns, ? is to begin, x is to go.\n"+
			"Behind a node is how many entries it lags.",
		"  warren shards\n  warren shards --json",
		printShards, func(o *node.Overview) any { return o.Groups })
}

func printStatus(w io.Writer, o *node.Overview) {
	running, led, settled := 0, 0, 0
	for _, m := range o.Nodes {
		if m.State == "running" {
			running++
		}
	}
	for _, g := range o.Groups[min(1, len(o.Groups)):] {
		if g.Healthy {
			led++
		}
		if g.Settled {
			settled++
		}
	}
	health := "healthy"
	if len(o.Problems) > 0 {
		health = "NOT HEALTHY"
	}
	fmt.Fprintf(w, "cluster\t%s\n", o.ClusterID)
	fmt.Fprintf(w, "health\t%s\n", health)
	fmt.Fprintf(w, "seen by\t%s at %s\n", o.Node, o.Time.Format(time.RFC3339))
	fmt.Fprintf(w, "nodes\t%d, %d running\n", len(o.Nodes), running)
	fmt.Fprintf(w, "shards\t%d, %d healthy, %d settled\n", max(0, len(o.Groups)-1), led, settled)
	inForce := fmt.Sprint(o.MachineVersion)
	if o.HeldBack != "" {
		inForce += "; " + o.HeldBack
	}
	fmt.Fprintf(w, "machine version\t%s\n", inForce)
	fmt.Fprintf(w, "to be done\t%d moves, %d leaders elsewhere\n\n", o.Moves, o.LeadersAway)
	printMembers(w, o)
	if len(o.Problems) > 0 {
		fmt.Fprintln(w)
	}
	for _, p := range o.Problems {
		fmt.Fprintf(w, "! %s\n", p)
	}
}

func printMembers(w io.Writer, o *node.Overview) {
	fmt.Fprintln(w, "NODE\tSTATE\tSINCE\tADDRESS\tREPLICAS\tLEADS\tCATALOG\tMEMORY\tDISK FREE\tVERSION\tNOTE")
	for _, m := range o.Nodes {
		var notes []string
		if m.Leaving {
			notes = append(notes, "leaving")
		}
		if m.Draining {
			notes = append(notes, "draining")
		}
		if m.ClockOff {
			notes = append(notes, "clock off")
		}
		if m.DiskSlow {
			notes = append(notes, "disk slow")
		}
		if m.Alarm != "" {
			notes = append(notes, m.Alarm)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, m.Since, m.Address, m.Replicas, m.Leads,
			orDash(m.Catalog), inBytes(m.MemoryBytes), inBytes(m.DiskFreeBytes), orDash(m.Version), strings.Join(notes, ", "))
	}
}

// marks show a replica's role in one character.
var marks = map[string]string{"leader": "*", "voter": "+", "learner": "-", "starting": "?", "former": "x"}

func printShards(w io.Writer, o *node.Overview) {
	fmt.Fprintln(w, "SHARD\tLEADER\tPREFERRED\tTERM\tCOMMITTED\tQUEUES\tHEALTH\tREPLICAS")
	for _, g := range o.Groups {
		health := "healthy"
		switch {
		case !g.Healthy:
			health = "NOT HEALTHY"
		case !g.Settled:
			health = "changing"
		}
		var replicas []string
		for _, r := range g.Replicas {
			text := marks[r.Role] + r.Node
			switch {
			case r.State != "running":
				text += "(" + r.State + ")"
			case r.Lag > 0:
				text += fmt.Sprintf("(%d)", r.Lag)
			}
			replicas = append(replicas, text)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", g.Name, orDash(g.Leader), orDash(g.Preferred), g.Term, g.Committed, g.Queues,
			health, strings.Join(replicas, " "))
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// inBytes shows a size as people read it.
func inBytes(n uint64) string {
	switch {
	case n == 0:
		return "-"
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}
