package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/auth"
)

func tokenCommand() *cobra.Command {
	return group("token", "Make bearer tokens, and keys for them.", tokenCreate(), tokenKey())
}

// maxTokenTime bounds how long a token is good.
const maxTokenTime = 10 * 365 * 24 * time.Hour

func tokenCreate() *cobra.Command {
	var user, keyFile string
	var expires time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a bearer token for a user.",
		Long: "Make a bearer token: who shows it, over gRPC or HTTP, is the user, with his permissions, until it expires. It is signed with\n" +
			"the first key of the file that the nodes have as --token-key-file; no node is asked. A token is taken back with its key:\n" +
			"see warren token key.",
		Example: "  warren token key > token.keys\n  warren token create --user orders --expires 24h --key-file token.keys",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if user == "" || keyFile == "" {
				return errors.New("--user and --key-file are needed")
			}
			if expires <= 0 || expires > maxTokenTime {
				return fmt.Errorf("--expires %v: more than 0 and at most %v", expires, maxTokenTime)
			}
			data, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("keys of tokens: %w", err)
			}
			keys, err := auth.ParseTokenKeys(data)
			if err != nil {
				return fmt.Errorf("keys of tokens in %s: %w", keyFile, err)
			}
			now := time.Now()
			token, err := keys.Issue(user, now, now.Add(expires))
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(map[string]any{"token": token, "user": user, "expires": now.Add(expires).UTC().Format(time.RFC3339)})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), token)
			return err
		},
	}
	c.Flags().StringVar(&user, "user", "", "whom it stands for")
	c.Flags().StringVar(&keyFile, "key-file", "", "file with the keys, as the nodes' --token-key-file")
	c.Flags().DurationVar(&expires, "expires", 30*24*time.Hour, "how long it is good")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func tokenKey() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "key",
		Short: "Make a key for tokens: a line for --token-key-file.",
		Long: "Make a key for tokens: a line for the file that all nodes get as --token-key-file. They read it again within seconds of a\n" +
			"change. To replace a key, put the new one first, and drop the old one when its tokens have expired.\n\n" +
			"To drop a key is to take back all tokens that it has signed: they are refused, and what was begun with them over gRPC\n" +
			"ends. So give each program whose tokens may have to be taken back alone a key of its own: sign with a file that has\n" +
			"this key alone, and give the nodes one with the keys of all.",
		Example: "  warren token key > token.keys\n\n" +
			"  # A key for one program, whose tokens can be taken back alone.\n" +
			"  warren token key > reports.key\n" +
			"  cat reports.key >> token.keys\n" +
			"  warren token create --user reports --expires 24h --key-file reports.key",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			key := make([]byte, 32)
			rand.Read(key) // does not fail
			text := base64.StdEncoding.EncodeToString(key)
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(map[string]string{"key": text})
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
