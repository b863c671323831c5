package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/node"
)

func recoverCommand() *cobra.Command {
	var o node.RecoverOptions
	var survivors []string
	var inspect, asJSON bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Make one survivor a new cluster, when most nodes are lost for good.",
		Long: "Make the data of one survivor a cluster of one node, when a majority of the nodes is lost for good: destroyed, not merely\n" +
			"down. What the lost nodes had confirmed and this one had not received yet IS LOST, and nothing tells how much that is.\n" +
			"While a majority can still be started, or its disks be put into other machines, do that instead.\n\n" +
			"It works on the data directory of a node that does not run, and changes nothing before every other member is accounted\n" +
			"for (--lost, --survivor) and the cluster's id confirmed. The new cluster has another id: nodes of the former one that\n" +
			"come back are refused. Recover ONE survivor only; all other nodes then join it with empty data directories.\n\n" +
			"When it was cut short, run it again with the same --confirm; until then the node does not start.",
		Example: "  # On each survivor, with its node stopped: what is there?\n" +
			"  warren recover --data-dir /var/lib/warren --inspect\n" +
			"  warren recover --data-dir /var/lib/warren --inspect --json > node3.json\n\n" +
			"  # Of three nodes, node2 and node3 are destroyed: what would be done, and the id to confirm.\n" +
			"  warren recover --data-dir /var/lib/warren --lost node2,node3\n" +
			"  warren recover --data-dir /var/lib/warren --lost node2,node3 --confirm 0b9c6f7e-…\n\n" +
			"  # Of five nodes, two survive: on the one with the newer data.\n" +
			"  warren recover --data-dir /var/lib/warren --lost node2,node4,node5 --survivor node3.json --confirm 0b9c6f7e-…",
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&o.Data.Dir, "data-dir", "./warren-data", "data directory of a node that does not run")
	f.BoolVar(&inspect, "inspect", false, "show what is there, and end")
	f.BoolVar(&asJSON, "json", false, "print JSON: with --inspect, a report for --survivor")
	f.StringSliceVar(&o.Lost, "lost", nil, "names of the nodes that are destroyed")
	f.StringSliceVar(&survivors, "survivor", nil, "files with reports of the other survivors (--inspect --json), which are stopped")
	f.StringVar(&o.Confirm, "confirm", "", "id of the cluster that ends")
	f.BoolVar(&o.AcceptOlder, "accept-older", false, "take this data though another survivor has newer")
	f.BoolVar(&o.AcceptLoss, "accept-loss", false, "take it though parts are missing or damaged: those begin anew, empty")
	f.BoolVar(&o.AcceptAnswers, "accept-answers", false, "take it though something answers where a lost node has listened")
	c.RunE = func(c *cobra.Command, _ []string) error {
		log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		o.Data.Logger, o.Version = log, version
		report, err := node.InspectData(o.Data.Dir, log)
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		if inspect && asJSON {
			return json.NewEncoder(out).Encode(report)
		}
		if !asJSON {
			if err := printReport(out, report); err != nil {
				return err
			}
		}
		if inspect {
			return nil
		}
		if o.Others, err = readReports(survivors); err != nil {
			return err
		}
		done, err := node.Recover(c.Context(), o)
		if err != nil {
			return fmt.Errorf("nothing was recovered: %w", err)
		}
		if asJSON {
			return json.NewEncoder(out).Encode(done)
		}
		return printRecovered(out, done)
	}
	return c
}

// readReports reads what --inspect --json has printed elsewhere.
func readReports(files []string) (list []*node.DataReport, err error) {
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		r := new(node.DataReport)
		if err := json.Unmarshal(data, r); err != nil {
			return nil, fmt.Errorf("%s is no report of warren recover --inspect --json: %w", name, err)
		}
		if r.ID == "" || len(r.Groups) == 0 {
			return nil, errors.New(name + " is no report of warren recover --inspect --json")
		}
		list = append(list, r)
	}
	return list, nil
}

func printReport(out io.Writer, r *node.DataReport) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "cluster\t%s\n", orDash(r.ClusterID))
	fmt.Fprintf(w, "node\t%s (%s)\n", orDash(r.Node), orDash(r.ID))
	able := "as it is, when a majority is there"
	if !r.Able {
		able = "NO: a part of its data directory is missing or damaged"
	}
	if r.Begun {
		able = "NO: a recovery was begun here and not completed"
	}
	fmt.Fprintf(w, "can start\t%s\n", able)
	var members []string
	for _, m := range r.Members {
		name := m.Name
		if !m.Votes {
			name += " (learns)"
		}
		members = append(members, name)
	}
	fmt.Fprintf(w, "members\t%s\n\n", orDash(strings.Join(members, ", ")))
	fmt.Fprintln(w, "GROUP\tTERM\tLAST ENTRY\tQUEUES\tMESSAGES\tREPLICAS\tNOTE")
	for _, g := range r.Groups {
		var notes []string
		switch {
		case g.Damage != "":
			notes = append(notes, "DAMAGED: "+g.Damage)
		case !g.Held:
			notes = append(notes, "NOT HERE")
		case !g.Votes:
			notes = append(notes, "does not vote: may be incomplete")
		}
		if g.Nameless > 0 {
			notes = append(notes, fmt.Sprintf("%d queues without a name", g.Nameless))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", g.Name, g.Term, g.Index, g.Queues, g.Messages, orDash(strings.Join(g.Members, " ")), strings.Join(notes, "; "))
	}
	fmt.Fprintln(w, "\nMessages that others had confirmed after these last entries are not here, and nothing tells how many there are.")
	return w.Flush()
}

func printRecovered(out io.Writer, done *node.Recovered) error {
	fmt.Fprintf(out, "\nCluster %s is recovered as %s, with node '%s' alone.\n", done.FormerID, done.ClusterID, done.Node)
	if len(done.Emptied) > 0 {
		fmt.Fprintf(out, "Shards that begin anew, empty: %s.\n", strings.Join(done.Emptied, ", "))
	}
	_, err := fmt.Fprintln(out, "Start it as before. Let all other nodes join it with --join and EMPTY data directories; look with warren status.")
	return err
}
