package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/tlsfiles"
)

func tlsCommand() *cobra.Command {
	return group("tls", "Certificates.", tlsDevCommand())
}

func tlsDevCommand() *cobra.Command {
	var d tlsfiles.Development
	var days int
	var asJSON bool
	c := &cobra.Command{
		Use:   "dev DIR",
		Short: "Make an authority and certificates for development.",
		Long: "Make an authority, a certificate for nodes, one for a client and a key for gossip in a folder. Run again, it renews\n" +
			"the certificates and keeps the authority. The authority's key lies beside them: this is for development.",
		Example: "  warren tls dev certs --hosts warren1,10.0.0.1 --user orders",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if days < 1 || days > 3650 {
				return fmt.Errorf("--days %d: between 1 and 3650", days)
			}
			d.Valid = time.Duration(days) * 24 * time.Hour
			if err := tlsfiles.WriteDevelopment(args[0], d); err != nil {
				return fmt.Errorf("make certificates: %w", err)
			}
			path := func(name string) string { return filepath.Join(args[0], name) }
			flags := []string{"--tls-cert", path(tlsfiles.NodeCert), "--tls-key", path(tlsfiles.NodeKey), "--tls-ca", path(tlsfiles.CACert),
				"--cluster-tls-cert", path(tlsfiles.NodeCert), "--cluster-tls-key", path(tlsfiles.NodeKey), "--cluster-tls-ca", path(tlsfiles.CACert),
				"--gossip-key-file", path(tlsfiles.GossipKeys)}
			out := c.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]any{"dir": args[0], "flags": flags, "user": d.User})
			}
			fmt.Fprintf(out, "Certificates are in %s. A node takes them with\n", args[0])
			for i := 0; i < len(flags); i += 2 {
				fmt.Fprintf(out, "  %s %s\n", flags[i], flags[i+1])
			}
			_, err := fmt.Fprintf(out, "Clients trust %s; with %s they log in as %s (EXTERNAL).\n", path(tlsfiles.CACert), path(tlsfiles.ClientCert), d.User)
			return err
		},
	}
	c.Flags().StringSliceVar(&d.Hosts, "hosts", nil, "names and addresses of the nodes, beside localhost")
	c.Flags().StringVar(&d.User, "user", "guest", "user of the client's certificate")
	c.Flags().IntVar(&days, "days", 365, "how long the certificates are valid")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
