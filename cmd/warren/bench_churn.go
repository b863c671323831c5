package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/internal/bench"
)

func benchChurnCommand() *cobra.Command {
	var o bench.ChurnOptions
	var a aim
	var asJSON bool
	c := &cobra.Command{
		Use:     "churn",
		Short:   "Measure how fast connections or queues come and go.",
		Example: "  warren bench churn --kind connection --workers 4",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	a.registerAim(f, &o.Target)
	f.StringVar(&o.Kind, "kind", bench.ChurnExclusive, "connection: connect, open a channel, close; exclusive: declare an exclusive queue in between; queue: declare and delete a durable queue")
	f.IntVar(&o.Workers, "workers", 1, "how many at the same time")
	f.StringVar(&o.Queue, "queue", "warren-bench-churn", "prefix of the names of durable queues")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "time before the measurement")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "time of the measurement")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := a.take(); err != nil {
			return err
		}
		result, err := measured(c, func(ctx context.Context) (*bench.ChurnResult, error) { return bench.Churn(ctx, o) })
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(result)
		}
		return printChurn(c.OutOrStdout(), result)
	}
	return c
}

func printChurn(out io.Writer, r *bench.ChurnResult) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "cycles\t%.0f /s\t\n", r.Cycles)
	fmt.Fprintf(w, "p50, p99, max\t%v\t%v\t%v\t\n", r.CycleTime.P50, r.CycleTime.P99, r.CycleTime.Max)
	fmt.Fprintf(w, "brokers' CPU per cycle\t%.0f µs\t\n", r.CPUPerCycle)
	return w.Flush()
}
