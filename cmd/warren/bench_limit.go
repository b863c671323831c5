package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/internal/bench"
)

// limitFollower is the hidden command of the limit's two other processes.
const limitFollower = "limit-follower"

func benchLimitCommand() *cobra.Command {
	var o bench.LimitOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "limit",
		Short: "Measure what no broker with three copies can beat on this machine.",
		Long: "Measure what no broker with three copies can beat on this machine: this process sends the bytes of messages to two others\n" +
			"over loopback, and each of the three appends them to a file of its own and fsyncs it. A batch is committed when a majority\n" +
			"has it on disk. Nothing else is done with the messages.",
		Example: "  warren bench limit\n  warren bench limit --size 1024 --window 1",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", ".", "folder on the disk to be measured")
	f.IntSliceVar(&o.Sizes, "size", []int{16, 1 << 10, 16 << 10, 1 << 20}, "bytes of a message, measured one after another")
	f.IntVar(&o.Window, "window", 2000, "messages that may be uncommitted; 0: no limit but that of the entries")
	f.IntVar(&o.EntryBytes, "entry-bytes", 256<<10, "most bytes that are sent and appended together")
	f.IntVar(&o.InFlight, "in-flight", 4, "entries that may be uncommitted")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "time before the measurement of each size")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "time of the measurement of each size")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Follower = []string{self, "bench", limitFollower}
		results, err := measured(c, func(ctx context.Context) ([]bench.LimitResult, error) { return bench.Limit(ctx, o) })
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(results)
		}
		return printLimit(c.OutOrStdout(), results)
	}
	return c
}

func benchLimitFollowerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    limitFollower + " DIR",
		Short:  "One of the two other processes of `warren bench limit`.",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return bench.ServeLimit(args[0], c.InOrStdin(), c.OutOrStdout())
		},
	}
}

func printLimit(out io.Writer, results []bench.LimitResult) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "bytes\tmessages/s\tMB/s\tfsync/s leader\tfollower\tcommit p50\tp99\tmax\tCPU per message\t\n")
	for _, r := range results {
		fmt.Fprintf(w, "%d\t%.0f\t%.1f\t%.0f\t%.0f\t%v\t%v\t%v\t%.2f µs\t\n", r.Size, r.Messages, r.Bytes/1e6, r.LeaderSyncs, r.FollowerSyncs,
			r.CommitTime.P50, r.CommitTime.P99, r.CommitTime.Max, r.CPUPerMessage)
	}
	return w.Flush()
}
