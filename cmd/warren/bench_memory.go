package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/internal/bench"
)

func benchMemoryCommand() *cobra.Command {
	var o bench.MemoryOptions
	var a aim
	var asJSON bool
	c := &cobra.Command{
		Use:   "memory",
		Short: "Measure the memory that idle connections, empty queues or a backlog cost a broker on this machine.",
		Example: "  warren bench memory --connections 1000\n" +
			"  warren bench memory --queues 10000\n" +
			"  warren bench memory --messages 1000000 --size 1024",
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	a.registerAim(f, &o.Target)
	f.IntVar(&o.Connections, "connections", 0, "idle connections, each with a channel")
	f.IntVar(&o.Queues, "queues", 0, "empty durable queues")
	f.IntVar(&o.Messages, "messages", 0, "persistent messages in one queue")
	f.IntVar(&o.Size, "size", 1024, "bytes of a message")
	f.StringVar(&o.Queue, "queue", "warren-bench-memory", "name of the queue, or prefix of the names")
	f.DurationVar(&o.Settle, "settle", 15*time.Second, "time that the broker has to collect its garbage")
	f.BoolVar(&o.Keep, "keep", false, "leave queues and messages")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := a.take(); err != nil {
			return err
		}
		result, err := measured(c, func(ctx context.Context) (*bench.MemoryResult, error) { return bench.Memory(ctx, o) })
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(result)
		}
		return printMemory(c.OutOrStdout(), result)
	}
	return c
}

func printMemory(out io.Writer, r *bench.MemoryResult) error {
	const mebi = 1 << 20
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "process\tbefore\tafter\t\n")
	for _, name := range slices.Sorted(maps.Keys(r.Before)) {
		fmt.Fprintf(w, "%s\t%.1f MiB\t%.1f MiB\t\n", name, float64(r.Before[name])/mebi, float64(r.After[name])/mebi)
	}
	fmt.Fprintf(w, "each costs\t%.0f B\t(%.0f B on each node)\t\n", r.PerUnit, r.PerNode)
	fmt.Fprintf(w, "made in\t%.1f s\t(%.1f µs CPU of all brokers each)\t\n", r.Seconds, r.CPUPerUnit)
	return w.Flush()
}
