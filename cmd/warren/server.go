package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/node"
)

func serverCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a broker node.",
		Long: "Run a broker node. Every flag can also be given as a WARREN_… variable (--amqp-port as WARREN_AMQP_PORT)\n" +
			"and in the YAML file named by --config.",
		Example: "  warren server\n" +
			"  warren server --host 10.0.0.1 --data-dir /var/lib/warren --join 10.0.0.1:7946,10.0.0.2:7946,10.0.0.3:7946 --expect 3\n" +
			"  warren server --print-config > warren.yaml",
		Args: cobra.NoArgs,
	}
	show := c.Flags().Bool("print-config", false, "print the settings that are in force as YAML for --config, and end")
	settings := config.Register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := settings.Load(os.Environ()); err != nil {
			return err
		}
		if *show {
			return settings.Print(c.OutOrStdout())
		}
		return serve(c.Context(), settings, c.OutOrStdout())
	}
	return c
}

// serve runs a node until a signal or a failure ends it.
func serve(ctx context.Context, settings *config.Server, out io.Writer) error {
	level, err := settings.Level()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", settings.Name)
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	n, err := node.Start(ctx, settings, version, log)
	if err != nil {
		return err
	}
	announce(out, settings)
	select {
	case err := <-n.Fatal():
		// No graceful end: a disk that failed must not be written to again.
		return fmt.Errorf("stopped: %w", err)
	case <-n.Left():
		log.Info("this node has left the cluster; its data is not needed any more", "data", settings.DataDir)
	case <-ctx.Done():
	}
	cancel() // a second signal ends the process at once
	log.Info("stopping")
	return n.Stop()
}

// announce prints how to reach the node.
func announce(out io.Writer, c *config.Server) {
	fmt.Fprintf(out, "Warren %s is ready.\n", version)
	if c.AMQPPort != 0 {
		fmt.Fprintf(out, "  AMQP     amqp://guest:guest@%s/   (guest from this machine only)\n", c.Address(c.AMQPPort))
	}
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
		if c.AMQPSPort != 0 {
			fmt.Fprintf(out, "  AMQPS    amqps://%s/\n", c.Address(c.AMQPSPort))
		}
	}
	if c.GRPCPort != 0 {
		fmt.Fprintf(out, "  gRPC     %s\n", c.Address(c.GRPCPort))
	}
	if c.HTTPPort != 0 {
		fmt.Fprintf(out, "  health   %s://%s/health/ready\n", scheme, c.Address(c.HTTPPort))
		fmt.Fprintf(out, "  metrics  %s://%s/metrics\n", scheme, c.Address(c.HTTPPort))
	}
	fmt.Fprintf(out, "  data     %s\n", c.DataDir)
}
