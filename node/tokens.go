package node

import (
	"context"
	"fmt"
	"os"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/tlsfiles"
)

// openTokens reads the keys of bearer tokens; no file: no tokens.
func (n *Node) openTokens() (*auth.Tokens, error) {
	if n.config.TokenKeyFile == "" {
		return nil, nil
	}
	tokens := new(auth.Tokens)
	_, err := readTokenKeys(tokens, n.config.TokenKeyFile)
	return tokens, err
}

// watchTokens reads the keys again and again. Keys that cannot be used are told, and those that were read before stay.
func (n *Node) watchTokens(tokens *auth.Tokens) {
	if tokens == nil {
		return
	}
	if info, err := os.Stat(n.config.TokenKeyFile); err == nil && !info.Mode().IsRegular() {
		return // a pipe, which gives its keys once
	}
	n.untilQuit(func(ctx context.Context) {
		tlsfiles.Follow(ctx, func() error { return n.renewTokenKeys(tokens) }, func(err error) {
			n.log.Error("keys of tokens cannot be read again; the old ones stay", "err", err)
		})
	})
}

func (n *Node) renewTokenKeys(tokens *auth.Tokens) error {
	changed, err := readTokenKeys(tokens, n.config.TokenKeyFile)
	if changed {
		n.log.Info("keys of tokens are replaced", "file", n.config.TokenKeyFile)
		n.broker.TokenKeysChanged()
	}
	return err
}

func readTokenKeys(t *auth.Tokens, file string) (changed bool, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("keys of tokens: %w", err)
	}
	if changed, err = t.Replace(data); err != nil {
		return false, fmt.Errorf("keys of tokens in %s: %w", file, err)
	}
	return changed, nil
}
