package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/client"
)

// group is a command with others below it, which it shows by itself. The library would do the same, and succeed, for one that is
// misspelt.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(commands...)
	return c
}

// queueRow is a queue in JSON.
type queueRow struct {
	Name       string         `json:"name"`
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Exclusive  bool           `json:"exclusive"`
	Arguments  map[string]any `json:"arguments,omitempty"`
	Shard      uint32         `json:"shard"`
	Ready      *uint64        `json:"ready"` // null: its leader did not answer in time, as the three below
	Bytes      *uint64        `json:"bytes"`
	Unsettled  *uint64        `json:"unsettled"`
	Consumers  *uint32        `json:"consumers"`
}

func queueCommand() *cobra.Command {
	return group("queue", "List, declare, delete, purge queues.", queueList(), queueDeclare(), queueDelete(), queuePurge())
}

func queueList() *cobra.Command {
	var a access
	c := &cobra.Command{Use: "list", Short: "List queues with what they hold.", Args: cobra.NoArgs, Example: "  warren queue list\n  warren queue list --json > queues.json"}
	a.register(c.Flags())
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, _ []string) error {
		t := a.table(out, "NAME", "READY", "UNSETTLED", "CONSUMERS", "BYTES", "FEATURES", "ARGUMENTS")
		for q, err := range c.Queues(ctx) {
			if err != nil {
				return err
			}
			r := queueRow{Name: q.Name, Durable: q.Durable, AutoDelete: q.AutoDelete, Exclusive: q.Exclusive, Arguments: inJSON(q.Arguments), Shard: q.Shard}
			cells := []any{q.Name, "?", "?", "?", "?"}
			if q.Counted {
				r.Ready, r.Unsettled, r.Bytes, r.Consumers = &q.Ready, &q.Unsettled, &q.Bytes, &q.Consumers
				cells = []any{q.Name, q.Ready, q.Unsettled, q.Consumers, q.Bytes}
			}
			cells = append(cells, features("durable", q.Durable, "auto-delete", q.AutoDelete, "exclusive", q.Exclusive), shortArguments(q.Arguments))
			if err := t.row(r, cells...); err != nil {
				return err
			}
		}
		return t.end()
	})
	return c
}

func queueDeclare() *cobra.Command {
	var a access
	var q client.Queue
	var arguments []string
	c := &cobra.Command{Use: "declare NAME", Short: "Make sure that a queue is there.", Args: cobra.ExactArgs(1),
		Example: "  warren queue declare orders\n  warren queue declare recent --argument x-max-length=1000 --argument x-overflow=drop-head"}
	a.register(c.Flags())
	c.Flags().BoolVar(&q.Durable, "durable", true, "survives a restart of the whole cluster")
	c.Flags().BoolVar(&q.AutoDelete, "auto-delete", false, "goes with its last consumer")
	c.Flags().StringArrayVar(&arguments, "argument", nil, "NAME=VALUE, repeatable; a value that is JSON counts as such")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) (err error) {
		q.Name = args[0]
		if q.Arguments, err = parseArguments(arguments); err != nil {
			return err
		}
		info, err := c.DeclareQueue(ctx, q)
		if err != nil {
			return err
		}
		return a.say(out, map[string]any{"name": info.Name, "messages": info.Messages, "consumers": info.Consumers},
			"queue %s: %d messages, %d consumers", info.Name, info.Messages, info.Consumers)
	})
	return c
}

func queueDelete() *cobra.Command {
	var a access
	var ifUnused, ifEmpty bool
	c := &cobra.Command{Use: "delete NAME", Short: "Delete a queue and its messages.", Args: cobra.ExactArgs(1), Example: "  warren queue delete orders --if-empty"}
	a.register(c.Flags())
	c.Flags().BoolVar(&ifUnused, "if-unused", false, "only if it has no consumers")
	c.Flags().BoolVar(&ifEmpty, "if-empty", false, "only if it has no ready messages")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
		var opts []client.DeleteOption
		if ifUnused {
			opts = append(opts, client.IfUnused)
		}
		if ifEmpty {
			opts = append(opts, client.IfEmpty)
		}
		n, err := c.DeleteQueue(ctx, args[0], opts...)
		if err != nil {
			return err
		}
		return a.say(out, map[string]any{"name": args[0], "messages": n}, "queue %s deleted with %d messages", args[0], n)
	})
	return c
}

func queuePurge() *cobra.Command {
	var a access
	c := &cobra.Command{Use: "purge NAME", Short: "Drop a queue's ready messages.", Args: cobra.ExactArgs(1), Example: "  warren queue purge orders"}
	a.register(c.Flags())
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
		n, err := c.PurgeQueue(ctx, args[0])
		if err != nil {
			return err
		}
		return a.say(out, map[string]any{"name": args[0], "messages": n}, "%d messages dropped", n)
	})
	return c
}

// exchangeRow is an exchange in JSON.
type exchangeRow struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Durable    bool           `json:"durable"`
	AutoDelete bool           `json:"auto_delete"`
	Internal   bool           `json:"internal"`
	Arguments  map[string]any `json:"arguments,omitempty"`
}

func exchangeCommand() *cobra.Command {
	return group("exchange", "List, declare, delete exchanges.", exchangeList(), exchangeDeclare(), exchangeDelete())
}

func exchangeList() *cobra.Command {
	var a access
	c := &cobra.Command{Use: "list", Short: "List exchanges.", Args: cobra.NoArgs, Example: "  warren exchange list"}
	a.register(c.Flags())
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, _ []string) error {
		t := a.table(out, "NAME", "TYPE", "FEATURES", "ARGUMENTS")
		for x, err := range c.Exchanges(ctx) {
			if err != nil {
				return err
			}
			if err := t.row(exchangeRow{x.Name, x.Type, x.Durable, x.AutoDelete, x.Internal, inJSON(x.Arguments)}, x.Name, x.Type,
				features("durable", x.Durable, "auto-delete", x.AutoDelete, "internal", x.Internal), shortArguments(x.Arguments)); err != nil {
				return err
			}
		}
		return t.end()
	})
	return c
}

func exchangeDeclare() *cobra.Command {
	var a access
	var x client.Exchange
	var arguments []string
	c := &cobra.Command{Use: "declare NAME", Short: "Make sure that an exchange is there.", Args: cobra.ExactArgs(1), Example: "  warren exchange declare logs --type topic"}
	a.register(c.Flags())
	c.Flags().StringVar(&x.Type, "type", "direct", "direct, fanout, topic or headers")
	c.Flags().BoolVar(&x.Durable, "durable", true, "survives a restart of the whole cluster")
	c.Flags().BoolVar(&x.AutoDelete, "auto-delete", false, "goes with its last binding")
	c.Flags().BoolVar(&x.Internal, "internal", false, "clients cannot publish to it")
	c.Flags().StringArrayVar(&arguments, "argument", nil, "NAME=VALUE, repeatable; a value that is JSON counts as such")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) (err error) {
		x.Name = args[0]
		if x.Arguments, err = parseArguments(arguments); err != nil {
			return err
		}
		if err := c.DeclareExchange(ctx, x); err != nil {
			return err
		}
		return a.say(out, map[string]any{"name": x.Name}, "exchange %s", x.Name)
	})
	return c
}

func exchangeDelete() *cobra.Command {
	var a access
	var ifUnused bool
	c := &cobra.Command{Use: "delete NAME", Short: "Delete an exchange and its bindings.", Args: cobra.ExactArgs(1), Example: "  warren exchange delete logs"}
	a.register(c.Flags())
	c.Flags().BoolVar(&ifUnused, "if-unused", false, "only if nothing is bound to it")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
		var opts []client.DeleteOption
		if ifUnused {
			opts = append(opts, client.IfUnused)
		}
		if err := c.DeleteExchange(ctx, args[0], opts...); err != nil {
			return err
		}
		return a.say(out, map[string]any{"name": args[0]}, "exchange %s deleted", args[0])
	})
	return c
}

// bindingRow is a binding in JSON.
type bindingRow struct {
	Source      string         `json:"source"`
	Destination string         `json:"destination"`
	Type        string         `json:"destination_type"`
	RoutingKey  string         `json:"routing_key"`
	Arguments   map[string]any `json:"arguments,omitempty"`
}

func bindingCommand() *cobra.Command {
	return group("binding", "List, declare, delete bindings.", bindingList(),
		bindingChange("declare", "Route an exchange's messages to a queue or exchange.", "bound", (*client.Client).Bind),
		bindingChange("delete", "Remove a binding.", "unbound", (*client.Client).Unbind))
}

func destinationType(toExchange bool) string {
	if toExchange {
		return "exchange"
	}
	return "queue"
}

func bindingList() *cobra.Command {
	var a access
	var source, destination string
	c := &cobra.Command{Use: "list", Short: "List bindings, but those that every queue has to the default exchange.", Args: cobra.NoArgs,
		Example: "  warren binding list --source logs"}
	a.register(c.Flags())
	c.Flags().StringVar(&source, "source", "", "only of this exchange")
	c.Flags().StringVar(&destination, "destination", "", "only to this queue or exchange")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, _ []string) error {
		t := a.table(out, "SOURCE", "DESTINATION", "TYPE", "ROUTING KEY", "ARGUMENTS")
		for b, err := range c.Bindings(ctx, source, destination) {
			if err != nil {
				return err
			}
			kind := destinationType(b.ToExchange)
			if err := t.row(bindingRow{b.Source, b.Destination, kind, b.RoutingKey, inJSON(b.Arguments)}, b.Source, b.Destination, kind, b.RoutingKey, shortArguments(b.Arguments)); err != nil {
				return err
			}
		}
		return t.end()
	})
	return c
}

func bindingChange(name, short, done string, change func(*client.Client, context.Context, client.Binding) error) *cobra.Command {
	var a access
	var b client.Binding
	var arguments []string
	c := &cobra.Command{Use: name + " EXCHANGE DESTINATION", Short: short, Args: cobra.ExactArgs(2), Example: "  warren binding " + name + " logs errors --key '*.error'"}
	a.register(c.Flags())
	c.Flags().StringVar(&b.RoutingKey, "key", "", "routing key or pattern")
	c.Flags().BoolVar(&b.ToExchange, "to-exchange", false, "the destination is an exchange")
	c.Flags().StringArrayVar(&arguments, "argument", nil, "NAME=VALUE, repeatable; a value that is JSON counts as such")
	c.RunE = a.run(func(ctx context.Context, c *client.Client, out io.Writer, args []string) (err error) {
		b.Source, b.Destination = args[0], args[1]
		if b.Arguments, err = parseArguments(arguments); err != nil {
			return err
		}
		if err := change(c, ctx, b); err != nil {
			return err
		}
		return a.say(out, bindingRow{b.Source, b.Destination, destinationType(b.ToExchange), b.RoutingKey, inJSON(b.Arguments)}, "%s %s %s", b.Source, done, b.Destination)
	})
	return c
}

// messageCommands are the commands that speak gRPC, and those that prepare for them.
func messageCommands() []*cobra.Command {
	return []*cobra.Command{publishCommand(), getCommand(), consumeCommand(), peekCommand(), queueCommand(), exchangeCommand(), bindingCommand(),
		contextCommand(), tokenCommand()}
}
