package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/node"
)

// Leave, remove, drain and rebalance are begun by one request, and go on whatever becomes of this command: it shows how far
// they are.

// watchPeriod is how often it looks.
const watchPeriod = 500 * time.Millisecond

func leaveCommand() *cobra.Command {
	return departing("leave NODE", "leave", "Let a node that runs leave the cluster for good.",
		"Let a node that runs leave the cluster for good: its replicas and leaderships go to others, one at a time; then its\n"+
			"clients are closed, and its process ends. It is refused when it would cost a healthy majority.",
		"  warren leave warren4\n\n"+
			"  # Of three nodes, though each shard should have three replicas.\n"+
			"  warren leave warren2 --few\n\n"+
			"  # While it is under way.\n"+
			"  warren leave warren2 --cancel")
}

func removeCommand() *cobra.Command {
	return departing("remove NODE", "remove", "Remove a node that is gone for good.",
		"Remove a node that has ended and will not come back: its replicas are made anew on others, one at a time. A new node that\n"+
			"starts under its name takes its place by itself. It is refused when it would cost a healthy majority.",
		"  warren remove warren4\n\n"+
			"  # Of three nodes, though each shard should have three replicas.\n"+
			"  warren remove warren3 --few")
}

func departing(use, what, short, long, example string) *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1)}
	a.register(c)
	few := c.Flags().Bool("few", false, "accept that fewer nodes stay than a shard should have replicas")
	off := c.Flags().Bool("cancel", false, "call it off")
	wait := c.Flags().Bool("wait", true, "wait until it is done")
	c.RunE = func(c *cobra.Command, args []string) error {
		query := ""
		if *few {
			query = "few"
		}
		if *off {
			if err := a.act(c.Context(), args[0], "stay", "", new(struct{})); err != nil {
				return err
			}
			return a.say(c.OutOrStdout(), map[string]any{"node": args[0], "leaving": false}, "node '%s' stays", args[0])
		}
		before, err := a.overview(c.Context())
		if err != nil {
			return err
		}
		m, err := memberOf(before, args[0])
		if err != nil {
			return err
		}
		id := m.ID // the name may be another's later
		if err := a.act(c.Context(), id, what, query, new(struct{})); err != nil {
			return err
		}
		if !*wait {
			return a.say(c.OutOrStdout(), map[string]any{"node": args[0], "leaving": true}, "node '%s' is to leave", args[0])
		}
		return a.watch(c.Context(), c.OutOrStdout(), func(o *node.Overview) (int, string) {
			for _, m := range o.Nodes {
				if m.ID == id {
					return m.Replicas + 1, fmt.Sprintf("node '%s' is to hold %d replicas still", m.Name, m.Replicas)
				}
			}
			return 0, fmt.Sprintf("node '%s' is no member any more", args[0])
		})
	}
	return c
}

// memberOf finds the member that is meant, as the server does: by its id, its name, of two that of the one that stays, or its number.
func memberOf(o *node.Overview, name string) (m node.Member, err error) {
	for _, by := range []func(node.Member) bool{
		func(m node.Member) bool { return m.ID == name },
		func(m node.Member) bool { return m.Name == name && !m.Leaving },
		func(m node.Member) bool { return m.Name == name },
		func(m node.Member) bool { return strconv.FormatUint(uint64(m.Number), 10) == name },
	} {
		if i := slices.IndexFunc(o.Nodes, by); i >= 0 {
			return o.Nodes[i], nil
		}
	}
	return m, fmt.Errorf("the cluster has no node '%s'", name)
}

func drainCommand() *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: "drain [NODE]", Short: "Move the leaderships away from a node, for its maintenance.", Args: cobra.MaximumNArgs(1),
		Long: "Move the leaderships away from a node (default: the one that is asked), so that nobody notices when it stops. It leads\n" +
			"nothing until it is called off with --off or the node has started again.",
		Example: "  warren drain warren2\n  warren drain warren2 --off"}
	a.register(c)
	off := c.Flags().Bool("off", false, "let it lead again")
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := a.overview(c.Context())
		if err != nil {
			return err
		}
		name := append(args, o.Node)[0]
		m, err := memberOf(o, name)
		if err != nil {
			return err
		}
		query := ""
		if *off {
			query = "off"
		}
		var answer struct{ Leads int }
		if err := a.act(c.Context(), m.ID, "drain", query, &answer); err != nil {
			return err
		}
		if *off {
			return a.say(c.OutOrStdout(), map[string]any{"node": name, "draining": false}, "node '%s' may lead again", name)
		}
		return a.watch(c.Context(), c.OutOrStdout(), func(o *node.Overview) (int, string) {
			leads := 0
			for _, g := range o.Groups {
				for _, r := range g.Replicas {
					if r.Role == "leader" && strings.HasPrefix(r.Seat, m.ID+".") {
						leads++
					}
				}
			}
			// A group whose leadership is just being handed over has no leader in the overview, and keeps its old one if that fails. The
			// node itself knows; when it cannot be asked any more, it stops, and the overview is all there is.
			if leads == 0 && a.act(c.Context(), m.ID, "drain", "", &answer) == nil {
				leads = answer.Leads
			}
			return leads, fmt.Sprintf("node '%s' leads %d groups", name, leads)
		})
	}
	return c
}

func rebalanceCommand() *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: "rebalance", Short: "Wait until replicas and leaders are spread evenly.", Args: cobra.NoArgs,
		Long: "Wait until replicas and leaders are spread evenly, and show how far it is. They go where they should be by themselves, one\n" +
			"at a time, while the nodes that it takes are well.",
		Example: "  warren rebalance"}
	a.register(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return a.watch(c.Context(), c.OutOrStdout(), func(o *node.Overview) (int, string) {
			return o.Moves + o.LeadersAway, fmt.Sprintf("%d moves, %d leaders elsewhere", o.Moves, o.LeadersAway)
		})
	}
	return c
}

// watch shows how much remains until nothing does: with a bar on a terminal, else with a line for each change.
func (a *admin) watch(ctx context.Context, out io.Writer, remaining func(*node.Overview) (n int, text string)) error {
	most, last, failed := 0, "", time.Time{}
	bar := isTerminal(out) && !a.asJSON
	for {
		o, err := a.overview(ctx)
		switch {
		case err == nil:
			failed = time.Time{}
		case failed.IsZero():
			failed = time.Now()
		}
		if err != nil && (ctx.Err() != nil || time.Since(failed) > adminTimeout) {
			return err
		}
		if err == nil {
			n, text := remaining(o)
			most = max(most, n)
			switch {
			case bar:
				fmt.Fprintf(out, "\r\x1b[K%s %s", drawBar(most-n, most), text)
			case text == last:
			case a.asJSON:
				if err := json.NewEncoder(out).Encode(map[string]any{"remaining": n, "text": text}); err != nil {
					return err
				}
			default:
				fmt.Fprintln(out, text)
			}
			last = text
			if n == 0 {
				if bar {
					fmt.Fprintln(out)
				}
				return nil
			}
		}
		select {
		case <-time.After(watchPeriod):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const barWidth = 30

func drawBar(done, all int) string {
	full := barWidth
	if all > 0 {
		full = done * barWidth / all
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", barWidth-full) + "]"
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
