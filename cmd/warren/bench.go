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
	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/internal/bench"
)

func benchCommand() *cobra.Command {
	var o bench.Options
	var a aim
	var asJSON bool
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure a broker: throughput, latency, CPU per message.",
		Example: "  warren bench --publishers 1 --consumers 1 --confirm 2000 --prefetch 256 --ack-every 64\n" +
			"  warren bench --consumers 0 --size 16 --duration 30s --json\n" +
			"  warren bench --consumers 0 --confirm 1\n" +
			"  warren bench --queues 10 --consumers 10 --fanout\n" +
			"  warren bench --protocol grpc\n" +
			"  warren bench --context production --rate 1000\n" +
			"  warren bench --backlog 500000",
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	a.registerAim(f, &o.Target)
	f.StringVar(&o.Protocol, "protocol", bench.AMQP, "amqp or grpc (--server is "+defaultServer+" then)")
	f.StringSliceVar(&o.ConsumerServers, "consumer-server", nil, "brokers of the consumers (default: --server)")
	f.IntVar(&o.Publishers, "publishers", 1, "publishers, each with a connection of its own")
	f.IntVar(&o.Consumers, "consumers", 1, "consumers, each with a connection of its own")
	f.IntVar(&o.Queues, "queues", 1, "queues; publishers and consumers are dealt out over them")
	f.StringVar(&o.Queue, "queue", "warren-bench", "name of the queue, or prefix of the names")
	f.IntVar(&o.Size, "size", 1024, "bytes of a message")
	f.IntVar(&o.Confirm, "confirm", 2000, "publishes that may be unconfirmed; 0: no confirms")
	f.IntVar(&o.Prefetch, "prefetch", 256, "deliveries that may be unacknowledged; 0: no limit")
	f.IntVar(&o.AckEvery, "ack-every", 64, "deliveries for each ack; 0: consumers without acks")
	f.Float64Var(&o.Rate, "rate", 0, "messages per second for each publisher; 0: as many as it can")
	f.BoolVar(&o.Persistent, "persistent", true, "publish persistent messages")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "time before the measurement")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "time of the measurement")
	f.BoolVar(&o.Keep, "keep", false, "leave the queues and what is in them")
	f.BoolVar(&o.Fanout, "fanout", false, "publish to an exchange that all queues are bound to")
	f.IntVar(&o.Backlog, "backlog", 0, "messages to be published first and then consumed, instead of both for the duration")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := a.take(); err != nil {
			return err
		}
		result, err := measured(c, func(ctx context.Context) (*bench.Result, error) { return bench.Run(ctx, o) })
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(result)
		}
		return printBench(c.OutOrStdout(), result)
	}
	c.AddCommand(benchChurnCommand(), benchMemoryCommand(), benchLimitCommand(), benchLimitFollowerCommand())
	return c
}

// measured makes a measurement. SIGINT and SIGTERM end it; it takes away what it has made then, too.
func measured[R any](c *cobra.Command, measure func(ctx context.Context) (R, error)) (R, error) {
	ctx, stop := interruptible(c.Context())
	defer stop()
	result, err := measure(ctx)
	if err != nil && ctx.Err() != nil {
		err = errInterrupted
	}
	return result, err
}

// defaultAMQP is where a node on this machine takes AMQP.
const defaultAMQP = "127.0.0.1:5672"

// aim is the flags of all commands that measure a broker, whose target it fills.
type aim struct {
	access
	target *bench.Target
}

func (a *aim) registerAim(f *pflag.FlagSet, t *bench.Target) {
	a.flags, a.target = f, t
	a.registerReach(f, defaultAMQP, "brokers HOST:PORT,…; connections are dealt out over them")
	contextFlag(f)
	f.StringVar(&t.QueueType, "queue-type", "", "x-queue-type of the queues, such as quorum (default: the broker's choice)")
	f.IntSliceVar(&t.PIDs, "pids", nil, "broker processes that count (default: those of this machine that listen at the servers)")
}

// take fills the target from flags, variables and the context.
func (a *aim) take() error {
	server, otherwise := amqpServer, defaultAMQP
	if a.target.Protocol == bench.GRPC {
		server, otherwise = "server", defaultServer
	}
	l, err := a.login(server)
	if err != nil {
		return err
	}
	if !a.flags.Changed("server") {
		a.servers = []string{otherwise}
	}
	t := a.target
	t.Servers, t.User, t.Password, t.Token, t.VHost, t.TLS = a.servers, l.user, l.password, l.token, a.vhost, l.tls
	return nil
}

func printBench(out io.Writer, r *bench.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "published\t%.0f /s\t\n", r.Published)
	fmt.Fprintf(w, "confirmed\t%.0f /s\t\n", r.Confirmed)
	fmt.Fprintf(w, "consumed\t%.0f /s\t\n", r.Consumed)
	if r.Refused > 0 {
		fmt.Fprintf(w, "refused\t%d\t\n", r.Refused)
	}
	fmt.Fprintf(w, "\n\tp50\tp90\tp99\tp99.9\tmax\t\n")
	for _, l := range []struct {
		name string
		bench.Latency
	}{{"confirm", r.ConfirmTime}, {"end to end", r.EndToEnd}} {
		if l.Count > 0 {
			fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\t%v\t\n", l.name, l.P50, l.P90, l.P99, l.P999, l.Max)
		}
	}
	if len(r.CPUPerMessage) > 0 {
		fmt.Fprintf(w, "\nCPU per message\t\t\n")
		for _, name := range slices.Sorted(maps.Keys(r.CPUPerMessage)) {
			fmt.Fprintf(w, "%s\t%.1f µs\t\n", name, r.CPUPerMessage[name])
		}
		if r.FillCPU > 0 {
			fmt.Fprintf(w, "brokers, filling\t%.1f µs\t\n", r.FillCPU)
		}
		fmt.Fprintf(w, "brokers\t%.1f µs\t\n", r.CPUTotal)
		fmt.Fprintf(w, "client\t%.1f µs\t\n", r.ClientCPU)
	}
	return w.Flush()
}
