package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/config"
)

// healthTimeout bounds the question; the answer comes from memory.
const healthTimeout = 5 * time.Second

func healthCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the node on this machine whether it serves.",
		Long: "Ask the node on this machine whether it serves (/health/ready of its HTTP port). The node is found by the same\n" +
			"flags, WARREN_… variables and file that it was started with, so a container's health check needs no arguments.\n" +
			"The exit status is 0 when it serves.",
		Example: "  warren health\n  warren health --live --http-port 15672",
		Args:    cobra.NoArgs,
	}
	live := c.Flags().Bool("live", false, "ask only whether the process answers (/health/live)")
	asJSON := c.Flags().Bool("json", false, "print JSON")
	settings := config.Register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := settings.Load(os.Environ()); err != nil {
			return err
		}
		path := "/health/ready"
		if *live {
			path = "/health/live"
		}
		text, err := askHealth(c.Context(), settings, path)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{"says": text})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), text)
		return err
	}
	return c
}

// askHealth returns the page's text; any status but 200 is an error with the text.
func askHealth(ctx context.Context, settings *config.Server, path string) (string, error) {
	if settings.HTTPPort == 0 {
		return "", errors.New("the node has no HTTP port (--http-port 0)")
	}
	scheme := "http"
	if settings.TLSCert != "" {
		scheme = "https"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+settings.LocalAddress(settings.HTTPPort)+path, nil)
	if err != nil {
		return "", err
	}
	// The certificate names the address that clients use, not this one. Nothing secret is sent, and whoever could answer
	// instead of the node runs on its machine already: as with a kubelet's probes, encryption without a check will do.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return "", err
	}
	answer := strings.TrimSpace(string(text))
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not healthy: %s", answer)
	}
	return answer, nil
}
